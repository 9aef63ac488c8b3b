//! A process that hangs (SIGSTOP) instead of dying: its peers notice by its silence alone, and its return harms nobody.

use anyhow::{Result, anyhow, ensure};
use hyper::Method;
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::cluster::{Cluster, Options, with_cluster};
use tests::probe::{Kind, Probe};
use tests::process::Process;
use tests::rest::Call;
use tests::scenario::Running;
use tests::wait::{self, SOON};

const HUNG: Duration = Duration::from_secs(3);

#[test]
fn hung_follower_is_not_noticed() {
    with_cluster("hung-follower", Options::default(), |cluster| {
        let running = Running::start(cluster, 15)?;
        let leader = cluster.leader()?;
        let follower = cluster.followers()?.remove(0);
        let mut probe = Probe::start(
            &others(cluster, &follower)?,
            Kind::Write,
            Duration::from_millis(20),
        );
        let at = Instant::now();
        cluster.signal(&follower, Signal::SIGSTOP)?;
        sleep(HUNG);
        let gap = probe.longest_gap(at, Instant::now());
        cluster.signal(&follower, Signal::SIGCONT)?;
        println!("    write gap {gap:?}");
        ensure!(
            gap <= Duration::from_millis(600),
            "writes paused for {gap:?}: {:?}",
            probe.errors()
        );
        ensure!(
            cluster.leader()?.pid == leader.pid,
            "the leader changed though it was not touched"
        );
        cluster.wait_coordinators_agree()?;
        probe.stop();
        probe.check_writes(cluster.rest())?;
        running.check_untouched(cluster)?;
        running.finish(cluster)?;
        Ok(())
    });
}

#[test]
fn hung_leader_is_replaced_and_returns_as_a_follower_that_knows_its_place() {
    with_cluster("hung-leader", Options::default(), |cluster| {
        let running = Running::start(cluster, 30)?;
        for round in 0..2 {
            let hung = cluster.leader()?;
            put(cluster, "seen", &format!("before {round}"))?;
            cluster.signal(&hung, Signal::SIGSTOP)?;
            let outcome = while_hung(cluster, &hung, round);
            cluster.signal(&hung, Signal::SIGCONT)?;
            outcome?;
            never_stale(cluster, &hung, &format!("after {round}"))?;
            cluster.wait_coordinators_agree()?;
            cluster.wait_checkpoints(&running.id, 2)?;
            running.check_untouched(cluster)?;
        }
        running.finish(cluster)?;
        Ok(())
    });
}

/// A client that knows of all coordinators but one.
fn others(cluster: &Cluster, but: &Process) -> Result<tests::rest::Rest> {
    let rest = tests::rest::Rest::new()?;
    let all = cluster.coordinators()?;
    let others = all.into_iter().filter(|p| !p.same_place(but));
    rest.set_addresses(others.filter_map(|p| p.rest).collect());
    Ok(rest)
}

fn put(cluster: &Cluster, key: &str, value: &str) -> Result<()> {
    let call = Call::new(Method::PUT, format!("/v1/kv/{key}")).body(value.to_owned());
    cluster.rest().call(&call, SOON)?.ok()?;
    Ok(())
}

/// The others elect a leader and acknowledge a write that the hung one cannot know of.
fn while_hung(cluster: &Cluster, hung: &Process, round: u64) -> Result<()> {
    let rest = others(cluster, hung)?;
    let at = Instant::now();
    let call = Call::new(Method::PUT, "/v1/kv/seen").body(format!("after {round}"));
    wait::until_true("a write without the hung leader", SOON, || {
        rest.call(&call, Duration::from_secs(3))?.ok()?;
        Ok(true)
    })?;
    println!("    written {:?} after the leader hung", at.elapsed());
    sleep(HUNG);
    Ok(())
}

/// From its first moment on, the woken leader answers what is true now, or refuses: never what it remembers.
fn never_stale(cluster: &Cluster, woken: &Process, newest: &str) -> Result<()> {
    let address = woken.rest.clone().ok_or_else(|| anyhow!("no REST address"))?;
    let mut right = 0;
    let begun = Instant::now();
    while right < 20 && begun.elapsed() < SOON {
        for method in [Method::GET, Method::HEAD] {
            let call = Call::new(method.clone(), "/v1/kv/seen");
            let Ok(reply) = cluster.rest().call_at(&address, &call, Duration::from_secs(5)) else {
                continue;
            };
            if reply.status.is_success() && method == Method::GET {
                ensure!(
                    reply.json()?["value"] == newest,
                    "{} answered with what it remembers: {}",
                    woken.name(),
                    reply.text()
                );
                right += 1;
            }
        }
    }
    ensure!(right > 0, "{} never answered a read after it woke", woken.name());
    Ok(())
}
