//! `kill -9` of a worker with spare slots: the job goes on from its last checkpoint, at once and exactly.

use anyhow::ensure;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::cluster::{Options, with_cluster};
use tests::scenario::Running;
use tests::stats::Samples;
use tests::wait::SOON;

const KILLS: usize = 5;
/// Committed output is silent for the failover (0.5 s at the median) and the wait for the next checkpoint (0.2 s).
const SILENCE_P50_MS: f64 = 700.0;
const SILENCE_MAX_MS: f64 = 5_000.0;

#[test]
fn worker_kill_is_exact_and_fast() {
    with_cluster("worker-kill", Options::default(), |cluster| {
        let running = Running::start(cluster, 40)?;
        let mut silences = Samples::new();
        for kill in 1..=KILLS {
            let worker = running.busy_worker(cluster)?;
            let before = cluster.job(&running.id)?.restarts;
            let at = cluster.kill_9(&worker)?;
            running.raw.wait_growth(SOON)?;
            sleep(Duration::from_secs(2));
            silences.push(running.raw.longest_gap(at, Instant::now()));
            let job = cluster.wait_running(&running.id)?;
            ensure!(
                job.restarts > before,
                "kill {kill}: the job was not restarted though its worker is dead"
            );
            cluster.wait_restarted(&worker)?;
            cluster.wait_workers(3)?;
            cluster.wait_checkpoints(&running.id, 1)?;
        }
        println!("    committed output silent: {silences}");
        ensure!(
            silences.p50() <= SILENCE_P50_MS,
            "committed output silent: {silences}"
        );
        ensure!(
            silences.max() <= SILENCE_MAX_MS,
            "committed output silent: {silences}"
        );
        let restored = cluster.checkpoints(&running.id)?.restored;
        ensure!(restored >= KILLS as u64, "only {restored} restores");
        running.finish(cluster)?;
        Ok(())
    });
}

#[test]
fn idle_worker_kill_is_not_noticed() {
    with_cluster("idle-worker-kill", Options::default(), |cluster| {
        let running = Running::start(cluster, 8)?;
        let busy = cluster.job(&running.id)?.by_worker();
        let view = cluster.view()?;
        let idle = view["workers"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|worker| {
                let name = worker["resource_id"].as_str()?;
                (!busy.contains_key(name)).then_some(worker["pid"].as_i64()?)
            });
        let workers = cluster.workers()?;
        let Some(worker) = workers.into_iter().find(|p| Some(i64::from(p.pid)) == idle) else {
            println!("    every worker has tasks; nothing to test");
            running.finish(cluster)?;
            return Ok(());
        };
        cluster.kill_9(&worker)?;
        cluster.wait_restarted(&worker)?;
        running.check_untouched(cluster)?;
        running.finish(cluster)?;
        Ok(())
    });
}
