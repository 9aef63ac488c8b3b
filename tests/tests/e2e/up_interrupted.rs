//! `up` that is killed or stopped in its first moments: nothing of it is lost track of.

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use tests::cluster::{Cluster, Options};
use tests::process;
use tests::wait::{self, SOON};

/// Waits for the first child of a starting `up`: one that was not there before.
fn first_child(cluster: &Cluster, before: &BTreeSet<i32>) -> Result<()> {
    wait::until_true("the first child in cluster.json", SOON, || {
        Ok(pids(cluster)?.iter().any(|pid| !before.contains(pid)))
    })
}

fn pids(cluster: &Cluster) -> Result<BTreeSet<i32>> {
    let processes = cluster.file()?.processes;
    Ok(processes.iter().map(|p| p.pid).filter(|pid| *pid > 0).collect())
}

#[test]
fn up_killed_while_it_starts_loses_no_child() -> Result<()> {
    let mut cluster = Cluster::prepare(&std::env::temp_dir(), "up-killed", Options::default())?;
    for _ in 0..3 {
        let before = pids(&cluster).unwrap_or_default();
        cluster.up_without_waiting()?;
        first_child(&cluster, &before)?;
        cluster.kill_up_alone();
    }
    // The next start finds what runs, stops it, and comes up whole.
    cluster.up()?;
    let expected = cluster.file()?.processes.len() + 1;
    let running = process::all_of(&cluster.dir());
    ensure!(
        running.len() == expected,
        "{} processes run instead of {expected}",
        running.len()
    );
    cluster.down()
}

#[test]
fn up_stopped_while_it_starts_stops_what_it_has_started() -> Result<()> {
    let mut cluster = Cluster::prepare(&std::env::temp_dir(), "up-stopped", Options::default())?;
    cluster.up_without_waiting()?;
    first_child(&cluster, &BTreeSet::new())?;
    cluster.signal_up(Signal::SIGTERM)?;
    wait::until_true("the end of every process", SOON, || {
        Ok(process::all_of(&cluster.dir()).is_empty())
    })
}
