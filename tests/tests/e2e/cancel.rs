//! A cancelled job stops, frees its slots, and leaves only committed, exact rows.

use anyhow::ensure;
use std::collections::HashSet;
use std::thread::sleep;
use std::time::Duration;
use tests::cluster::{Options, with_cluster};
use tests::output::{Watcher, visible_lines};
use tests::script::Numbers;
use tests::wait::{self, SOON};

#[test]
fn cancel_stops_an_endless_job() {
    with_cluster("cancel", Options::default(), |cluster| {
        let spec = Numbers::lasting(3600, &cluster.home().join("out"));
        let raw = Watcher::numbers(&spec);
        let id = cluster.submit_running(&spec.sql())?;
        cluster.wait_checkpoints(&id, 3)?;
        raw.wait_growth(SOON)?;
        cluster.cli(&["cancel", &id.0])?.expect_code(0)?;
        cluster.wait_state(&id, "CANCELED", SOON)?;
        wait::until_true("all slots to be free again", SOON, || {
            let overview = cluster.rest().get("/v1/overview", SOON)?;
            ensure!(
                overview["slots-available"] == overview["slots-total"],
                "{overview}"
            );
            Ok(true)
        })?;
        let rows = raw.rows();
        sleep(Duration::from_secs(1));
        ensure!(
            raw.rows() == rows,
            "rows became visible after the job was cancelled"
        );
        raw.finish()?;
        // Committed is a prefix of what the source makes, per split: every number at most once, no other number.
        let numbers: Result<Vec<u64>, _> = visible_lines(&spec.raw)?
            .iter()
            .map(|line| line.parse())
            .collect();
        let numbers = numbers?;
        let distinct: HashSet<&u64> = numbers.iter().collect();
        ensure!(
            distinct.len() == numbers.len(),
            "{} rows, {} distinct",
            numbers.len(),
            distinct.len()
        );
        ensure!(
            numbers.iter().all(|n| *n < spec.rows),
            "a number that the source never makes"
        );
        // A second cancel changes nothing and does no harm.
        let again = cluster.cli(&["cancel", &id.0])?;
        println!("    cancelling again: exit code {:?}", again.code);
        ensure!(
            cluster.job(&id)?.state == "CANCELED",
            "the second cancel changed the job"
        );
        Ok(())
    });
}

#[test]
fn cancel_over_rest_as_flink_does() {
    with_cluster("cancel-rest", Options::default(), |cluster| {
        let spec = Numbers::lasting(3600, &cluster.home().join("out"));
        let id = cluster.submit_running(&spec.sql())?;
        cluster.cancel(&id)?;
        cluster.wait_state(&id, "CANCELED", SOON)?;
        Ok(())
    });
}
