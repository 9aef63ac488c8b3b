//! The whole cluster goes at once, by force or in order, and comes back on the same directory with its jobs.

use anyhow::ensure;
use std::thread::sleep;
use std::time::Duration;
use tests::cluster::{Options, with_cluster};
use tests::scenario::Running;

#[test]
fn kill_everything_then_up() {
    with_cluster("kill-everything", Options::default(), |cluster| {
        let running = Running::start(cluster, 15)?;
        for round in 1..=2 {
            sleep(Duration::from_secs(1));
            cluster.kill_all()?;
            cluster.up()?;
            let job = cluster.wait_running(&running.id)?;
            ensure!(
                job.attempt != running.first.attempt,
                "round {round}: tasks cannot have survived"
            );
            cluster.wait_checkpoints(&running.id, 2)?;
            let restored = cluster.checkpoints(&running.id)?.restored;
            ensure!(
                restored >= round,
                "round {round}: {restored} restores: the job did not go on from a checkpoint"
            );
        }
        running.finish(cluster)?;
        Ok(())
    });
}

#[test]
fn down_then_up() {
    with_cluster("down-then-up", Options::default(), |cluster| {
        let running = Running::start(cluster, 12)?;
        cluster.down()?;
        cluster.up()?;
        cluster.wait_running(&running.id)?;
        running.finish(cluster)?;
        cluster.down()?;
        Ok(())
    });
}
