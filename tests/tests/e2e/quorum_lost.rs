//! Two of three coordinators gone: the job goes on producing, uncommitted; with the quorum back, nothing was lost,
//! doubled or restarted.

use anyhow::{Result, ensure};
use hyper::Method;
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::Duration;
use tests::cluster::{Cluster, Options, with_cluster};
use tests::rest::Call;
use tests::scenario::Running;

const OUTAGE: Duration = Duration::from_secs(4);

#[test]
fn quorum_killed_and_brought_back() {
    with_cluster("quorum-killed", Options::default().no_restart(), |cluster| {
        let running = Running::start(cluster, 20)?;
        let victims = [cluster.leader()?, cluster.followers()?.remove(0)];
        let before = records_read(cluster, &running)?;
        let mut lines = Vec::new();
        for victim in &victims {
            lines.push(cluster.command_line(victim)?);
        }
        for victim in &victims {
            cluster.kill_9(victim)?;
        }
        check_outage(cluster, &running)?;
        for line in &lines {
            cluster.start_by_hand(line)?;
        }
        check_recovery(cluster, &running, before)?;
        running.finish(cluster)?;
        Ok(())
    });
}

#[test]
fn quorum_paused_and_resumed() {
    with_cluster("quorum-paused", Options::default(), |cluster| {
        let running = Running::start(cluster, 20)?;
        let victims = [cluster.leader()?, cluster.followers()?.remove(0)];
        let before = records_read(cluster, &running)?;
        for victim in &victims {
            cluster.signal(victim, Signal::SIGSTOP)?;
        }
        let result = check_outage(cluster, &running);
        for victim in &victims {
            cluster.signal(victim, Signal::SIGCONT)?;
        }
        result?;
        check_recovery(cluster, &running, before)?;
        running.finish(cluster)?;
        Ok(())
    });
}

fn records_read(cluster: &Cluster, running: &Running) -> Result<u64> {
    Ok(cluster
        .job(&running.id)?
        .subtasks
        .values()
        .map(|s| s.read + s.written)
        .sum())
}

/// No write is acknowledged and nothing becomes visible while there is no quorum.
fn check_outage(cluster: &Cluster, running: &Running) -> Result<()> {
    // What the log had decided just before may still be committed by the workers.
    sleep(Duration::from_secs(1));
    let (raw, windows) = (running.raw.rows(), running.windows.rows());
    for address in cluster.rest().addresses() {
        let write = Call::new(Method::PUT, "/v1/kv/without-quorum").body("1");
        if let Ok(reply) = cluster
            .rest()
            .call_at(&address, &write, Duration::from_millis(500))
        {
            ensure!(
                !reply.status.is_success(),
                "{address} acknowledged a write without a quorum"
            );
        }
    }
    sleep(OUTAGE);
    let now = (running.raw.rows(), running.windows.rows());
    ensure!(
        now == (raw, windows),
        "rows became visible without a quorum: {:?}, then {now:?}",
        (raw, windows)
    );
    Ok(())
}

/// Checkpoints go on, no task was restarted, and the tasks worked during the outage.
fn check_recovery(cluster: &Cluster, running: &Running, before: u64) -> Result<()> {
    cluster.leader()?;
    cluster.wait_checkpoints(&running.id, 2)?;
    running.check_untouched(cluster)?;
    let after = records_read(cluster, running)?;
    let produced = (after - before) as f64;
    let alone = running.spec.rate as f64 * OUTAGE.as_secs_f64();
    println!("    {produced} records counted over an outage in which the source makes {alone}");
    ensure!(
        produced >= alone * 0.7,
        "the job stood still: {produced} records counted, {alone} expected"
    );
    Ok(())
}
