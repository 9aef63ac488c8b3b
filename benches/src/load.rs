//! A closed loop of clients over one gRPC channel: each sends its next write when the one before is answered.

use anyhow::{Context, Result};
use serde::Serialize;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a written value.
pub const VALUE_BYTES: usize = 256;
/// Keys that one client writes in turn.
const KEYS_PER_CLIENT: u64 = 1000;

/// Between two tries of a write.
pub const RETRY: Duration = Duration::from_millis(5);
/// A write that fails for this long ends the measurement.
const GIVE_UP: Duration = Duration::from_secs(20);

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const ENDED: u8 = 2;

/// One client's way to write.
pub trait Writer: Send + 'static {
    /// Writes a value and waits until it is committed.
    fn put(&mut self, key: String, value: bytes::Bytes) -> impl Future<Output = Result<()>> + Send;

    /// After a write that failed: looks for who takes writes now, before the same write is tried again.
    fn recover(&mut self) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(RETRY)
    }
}

/// What a load measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Clients at once.
    pub clients: usize,
    /// Writes per second.
    pub per_second: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// 99th percentile of the latency.
    pub p99_ms: f64,
    /// Longest latency.
    pub max_ms: f64,
    /// Writes counted.
    pub writes: usize,
    /// Tries that failed and were repeated; their time is part of the latency.
    pub retries: u64,
    /// How often leadership changed, as far as the caller of [`run`] has looked.
    pub leader_changes: u64,
}

/// What one client saw.
#[derive(Default)]
struct Seen {
    micros: Vec<u64>,
    retries: u64,
}

/// Runs the clients: first a warm-up, then the time that counts. A write that fails is repeated, and takes as long as
/// that takes: losing a leader costs latency here as it costs users.
///
/// # Errors
/// If a write fails for [`GIVE_UP`].
pub async fn run<W: Writer>(writers: Vec<W>, warm_up: Duration, time: Duration) -> Result<Measured> {
    let clients = writers.len();
    let phase = Arc::new(AtomicU8::new(WARMING));
    let tasks: Vec<_> = writers
        .into_iter()
        .enumerate()
        .map(|(number, writer)| tokio::spawn(client(number, writer, phase.clone())))
        .collect();
    tokio::time::sleep(warm_up).await;
    let start = Instant::now();
    phase.store(MEASURING, Ordering::Relaxed);
    tokio::time::sleep(time).await;
    phase.store(ENDED, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let (mut micros, mut retries) = (Vec::<u64>::new(), 0);
    for task in tasks {
        let seen = task.await.context("a client panicked")??;
        micros.extend(seen.micros);
        retries += seen.retries;
    }
    micros.sort_unstable();
    let at = |share: f64| {
        let rank = ((micros.len() as f64 * share).ceil() as usize).clamp(1, micros.len().max(1));
        micros.get(rank - 1).copied().unwrap_or(0) as f64 / 1e3
    };
    Ok(Measured {
        clients,
        per_second: micros.len() as f64 / elapsed.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        writes: micros.len(),
        retries,
        leader_changes: 0,
    })
}

async fn client<W: Writer>(number: usize, mut writer: W, phase: Arc<AtomicU8>) -> Result<Seen> {
    let value = bytes::Bytes::from(vec![b'v'; VALUE_BYTES]);
    let mut seen = Seen::default();
    for turn in 0.. {
        let key = format!("bench/{number}/{}", turn % KEYS_PER_CLIENT);
        let counts = phase.load(Ordering::Relaxed) == MEASURING;
        let start = Instant::now();
        while let Err(error) = writer.put(key.clone(), value.clone()).await {
            if start.elapsed() > GIVE_UP {
                return Err(error.context(format!("write {turn} of client {number}")));
            }
            seen.retries += u64::from(counts);
            writer.recover().await;
        }
        match phase.load(Ordering::Relaxed) {
            ENDED => break,
            _ if counts => seen.micros.push(u64::try_from(start.elapsed().as_micros())?),
            _ => {}
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Slow;

    /// Every other write fails once.
    #[derive(Default)]
    struct Flaky {
        calls: u64,
        recovered: u64,
    }

    impl Writer for Flaky {
        async fn put(&mut self, _key: String, _value: bytes::Bytes) -> Result<()> {
            self.calls += 1;
            anyhow::ensure!(!self.calls.is_multiple_of(3), "no leader");
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(())
        }

        async fn recover(&mut self) {
            self.recovered += 1;
            assert_eq!(self.recovered, self.calls / 3);
        }
    }

    #[tokio::test]
    async fn a_failed_write_is_repeated_and_counted() {
        let time = Duration::from_millis(100);
        let measured = run(vec![Flaky::default()], Duration::ZERO, time).await.unwrap();
        assert!(measured.writes > 0);
        let expected = measured.writes as u64 / 2;
        assert!(measured.retries.abs_diff(expected) <= 1, "{measured:?}");
    }

    impl Writer for Slow {
        async fn put(&mut self, _key: String, value: bytes::Bytes) -> Result<()> {
            assert_eq!(value.len(), VALUE_BYTES);
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn latency_and_rate_belong_together() {
        let time = Duration::from_millis(200);
        let measured = run(vec![Slow, Slow], Duration::from_millis(20), time)
            .await
            .unwrap();
        assert_eq!(measured.clients, 2);
        assert!(measured.p50_ms >= 2.0 && measured.max_ms >= measured.p99_ms);
        assert!(measured.per_second <= 1000.0, "{}", measured.per_second);
    }
}
