//! etcd's side: the bare election. Its leading member is killed while a client puts every 10 ms.

use super::Entry;
use super::probe::{Asked, Probe, Since};
use crate::etcd::{Etcd, put_once};
use ::tests::wait::{self, SOON};
use anyhow::Result;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_millis(10);
/// As in `holdfast drill`... but a request that waits inside etcd for its election is given the time to be answered.
const DEADLINE: Duration = Duration::from_secs(5);
/// Patience with one member.
const ATTEMPT: Duration = Duration::from_millis(250);
const SETTLED: Duration = Duration::from_secs(3);

/// Kills the leader again and again.
///
/// # Errors
/// If there is no etcd, or it does not recover.
pub fn run(runs: usize, deadline: Duration, scratch: &Path) -> Result<Entry> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut etcd = Etcd::start(scratch)?;
    let (_, version) = runtime.block_on(etcd.leader())?;
    let since = Since::begin();
    let probe = Probe::start(since, EVERY, DEADLINE, puts(etcd.clients().to_vec()));
    let mut entry = Entry {
        system: "etcd".into(),
        case: "leader".into(),
        what: format!("etcd {version}, kill -9 of the leading member, its default timing (100 ms, 1 s)"),
        ..Entry::default()
    };
    for run in 0..runs {
        if started.elapsed() > deadline {
            entry.trouble = Some(format!("ended after {} s", deadline.as_secs()));
            break;
        }
        // A phase that has nothing to do with heartbeats.
        std::thread::sleep(SETTLED + Duration::from_millis((run as u64 * 37) % 101));
        let leader = runtime.block_on(etcd.leader())?.0;
        let at = since.now();
        etcd.kill(&leader)?;
        wait::until_true("a put after the leader's death", SOON, || {
            Ok(probe.served_since(at))
        })?;
        etcd.revive(&leader)?;
        std::thread::sleep(Duration::from_secs(1));
        let gap = probe.gap_ms(at, since.now());
        eprintln!("etcd leader {}/{runs}: puts {gap:.0} ms", run + 1);
        entry.write_gap_ms.push(gap);
        entry.runs += 1;
    }
    Ok(entry)
}

/// Puts through one member after the other, beginning with the one that served last.
fn puts(addresses: Vec<String>) -> impl FnOnce() -> Box<dyn FnMut(u64) -> Asked> + Send + 'static {
    move || {
        let channels: Arc<Vec<_>> = Arc::new(addresses.iter().filter_map(|a| lazy(a).ok()).collect());
        let last = Arc::new(AtomicUsize::new(0));
        Box::new(move |number| -> Asked {
            let (channels, last) = (channels.clone(), last.clone());
            Box::pin(async move {
                loop {
                    let at = last.load(Ordering::Relaxed);
                    let Some(channel) = channels.get(at % channels.len().max(1)) else {
                        return false;
                    };
                    let put = put_once(channel, format!("drill/{}", number % 256));
                    if let Ok(Ok(())) = tokio::time::timeout(ATTEMPT, put).await {
                        return true;
                    }
                    // Whoever fails first moves everybody on.
                    let _ = last.compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        })
    }
}

fn lazy(address: &str) -> Result<tonic::transport::Channel> {
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?;
    Ok(endpoint.tcp_nodelay(true).connect_timeout(ATTEMPT).connect_lazy())
}
