//! SIGSTOP of a worker for longer than its timeout, then SIGCONT: the zombie commits nothing, notices, and rejoins.

use anyhow::ensure;
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::Duration;
use tests::cluster::{Options, with_cluster};
use tests::scenario::Running;
use tests::wait::{self, SOON};

#[test]
fn worker_sigstop_makes_a_harmless_zombie() {
    with_cluster(
        "worker-sigstop",
        Options::default().set("heartbeat.timeout", "1 s"),
        |cluster| {
            let running = Running::start(cluster, 25)?;
            for _ in 0..2 {
                let worker = running.busy_worker(cluster)?;
                let before = cluster.job(&running.id)?;
                cluster.signal(&worker, Signal::SIGSTOP)?;
                let replaced = wait::until("another attempt without the silent worker", SOON, || {
                    let job = cluster.job(&running.id)?;
                    Ok((job.attempt != before.attempt && job.all_running()).then_some(job))
                });
                if replaced.is_ok() {
                    cluster.wait_checkpoints(&running.id, 2)?;
                }
                // Long after its timeout it wakes up, with output that nobody asked for any more.
                sleep(Duration::from_secs(1));
                cluster.signal(&worker, Signal::SIGCONT)?;
                let attempt = replaced?.attempt;
                wait::until_true("the zombie's return as a clean worker", SOON, || {
                    let view = cluster.leader_view()?;
                    let workers = view["workers"].as_array().cloned().unwrap_or_default();
                    let fresh = workers
                        .iter()
                        .filter(|w| w["heartbeat_age_ms"].as_u64().is_some_and(|age| age < 1000));
                    ensure!(fresh.count() == 3, "workers: {}", view["workers"]);
                    Ok(true)
                })?;
                cluster.wait_checkpoints(&running.id, 2)?;
                let job = cluster.wait_running(&running.id)?;
                ensure!(
                    job.attempt == attempt,
                    "the zombie's return cost an attempt: {attempt}, then {}",
                    job.attempt
                );
            }
            running.finish(cluster)?;
            Ok(())
        },
    );
}
