//! `kill -9` of a worker with spare slots: the job goes on from its last checkpoint, at once and exactly.

use anyhow::ensure;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::cluster::{Options, with_cluster};
use tests::output::Pulse;
use tests::scenario::Running;
use tests::script::Numbers;
use tests::stats::Samples;
use tests::wait::SOON;

const KILLS: usize = 5;
/// What tasks put out is silent for this long at the median, and for three times that in the worst case.
const PAUSE_P50_MS: f64 = 500.0;
const PAUSE_MAX_MS: f64 = 3.0 * PAUSE_P50_MS;
/// Committed output waits for the next checkpoint besides (every 0.2 s), and for its commit.
const SILENCE_P50_MS: f64 = PAUSE_P50_MS + 200.0;
const SILENCE_MAX_MS: f64 = 3.0 * SILENCE_P50_MS;

#[test]
fn worker_kill_is_exact_and_fast() {
    with_cluster("worker-kill", Options::default(), |cluster| {
        let mut spec = Numbers::lasting(40, &cluster.home().join("out"));
        spec.printed = true;
        let running = Running::start_spec(cluster, spec)?;
        let pulse = Pulse::start(cluster.worker_logs()?);
        let mut silences = Samples::new();
        let mut pauses = Samples::new();
        for kill in 1..=KILLS {
            let worker = running.busy_worker(cluster)?;
            let before = cluster.job(&running.id)?.restarts;
            let at = cluster.kill_9(&worker)?;
            running.raw.wait_growth(SOON)?;
            sleep(Duration::from_secs(2));
            silences.push(running.raw.longest_gap(at, Instant::now()));
            pauses.push(pulse.longest_gap(at, Instant::now()));
            let job = cluster.wait_running(&running.id)?;
            ensure!(
                job.restarts > before,
                "kill {kill}: the job was not restarted though its worker is dead"
            );
            cluster.wait_restarted(&worker)?;
            cluster.wait_workers(3)?;
            cluster.wait_checkpoints(&running.id, 1)?;
        }
        println!("    output paused: {pauses}");
        println!("    committed output silent: {silences}");
        ensure!(
            pauses.p50() <= PAUSE_P50_MS && pauses.max() <= PAUSE_MAX_MS,
            "output paused: {pauses}"
        );
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
