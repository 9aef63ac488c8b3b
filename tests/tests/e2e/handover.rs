//! A planned handover of leadership: whoever asks meanwhile, and wherever, waits for the next leader and is answered.

use anyhow::{Result, ensure};
use hyper::Method;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tests::cluster::{Cluster, Options, with_cluster};
use tests::rest::{Call, Rest};
use tests::wait::{self, SOON};

const HANDOVERS: usize = 6;

#[test]
fn requests_wait_for_the_next_leader() {
    with_cluster("handover", Options::default().no_restart(), |cluster| {
        let stop = AtomicBool::new(false);
        let failures = Mutex::new(Vec::new());
        let answered = Mutex::new(0_u64);
        let addresses = cluster.rest().addresses();
        std::thread::scope(|scope| {
            for address in &addresses {
                for method in [Method::PUT, Method::GET, Method::HEAD] {
                    let (stop, failures, answered) = (&stop, &failures, &answered);
                    let rest = cluster.rest();
                    scope.spawn(move || ask(rest, address, &method, stop, failures, answered));
                }
            }
            let outcome = hand_over(cluster);
            stop.store(true, Ordering::Relaxed);
            outcome
        })?;
        let failures = failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        let answered = answered.into_inner().unwrap_or_else(PoisonError::into_inner);
        println!(
            "    {answered} requests during {HANDOVERS} handovers, {} failed",
            failures.len()
        );
        ensure!(answered > 100, "only {answered} requests were answered");
        ensure!(
            failures.is_empty(),
            "{} of {answered} failed: {:?}",
            failures.len(),
            failures.first()
        );
        Ok(())
    });
}

fn ask(
    rest: &Rest,
    address: &str,
    method: &Method,
    stop: &AtomicBool,
    failures: &Mutex<Vec<String>>,
    answered: &Mutex<u64>,
) {
    let call = match *method {
        Method::PUT => Call::new(Method::PUT, "/v1/kv/handover").body("1"),
        _ => Call::new(method.clone(), "/v1/overview"),
    };
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let failure = match rest.call_at(address, &call, Duration::from_secs(10)) {
            Ok(reply) if reply.status.is_success() => None,
            Ok(reply) => Some(format!("{}: {}", reply.status, reply.text())),
            Err(error) => Some(format!("{error:#}")),
        };
        let mut count = answered.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        drop(count);
        if let Some(failure) = failure {
            let text = format!("{method} at {address} after {:?}: {failure}", begun.elapsed());
            failures.lock().unwrap_or_else(PoisonError::into_inner).push(text);
        }
    }
}

fn hand_over(cluster: &Cluster) -> Result<()> {
    for _ in 0..HANDOVERS {
        let from = cluster.leader()?.number()?;
        let to = from % 3 + 1;
        // On a busy machine a handover may not come about in time; then it is asked for again.
        wait::until_true(format!("coordinator {to} to lead"), SOON, || {
            if cluster.view()?["leader"].as_u64() == Some(to) {
                return Ok(true);
            }
            cluster.cli(&["members", "transfer", &to.to_string()])?;
            Ok(false)
        })?;
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}
