//! SIGTERM of the leader: it hands leadership over before it goes, so writes hardly pause.

use anyhow::ensure;
use nix::sys::signal::Signal;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::cluster::{Options, with_cluster};
use tests::probe::{Kind, Probe};
use tests::scenario::Running;
use tests::stats::Samples;
use tests::wait::{self, SOON};

const STOPS: usize = 5;
/// The promise, kept at the median of all stops.
const TARGET_MS: f64 = 30.0;
/// The worst of them may meet a stall of a shared machine, but it is no election: that takes a lease, 150 ms, at least.
const BOUND_MS: f64 = 150.0;

#[test]
fn leader_sigterm_hands_over() {
    with_cluster("leader-sigterm", Options::default(), |cluster| {
        let running = Running::start(cluster, 25)?;
        let mut probe = Probe::start(cluster.rest(), Kind::Write, Duration::from_millis(5));
        let mut gaps = Samples::new();
        for _ in 0..STOPS {
            sleep(Duration::from_secs(1));
            let leader = cluster.leader()?;
            let at = Instant::now();
            cluster.signal(&leader, Signal::SIGTERM)?;
            wait::until_true(format!("the end of {}", leader.name()), SOON, || {
                Ok(!leader.alive())
            })?;
            let took = at.elapsed();
            cluster.wait_restarted(&leader)?;
            cluster.refresh_addresses()?;
            cluster.wait_coordinators_agree()?;
            gaps.push(probe.longest_gap(at, Instant::now()));
            println!("    the leader was gone after {took:?}");
            running.check_untouched(cluster)?;
        }
        probe.stop();
        println!("    write gap: {gaps}; promised {TARGET_MS} ms");
        ensure!(
            gaps.p50() <= TARGET_MS && gaps.max() <= BOUND_MS,
            "write gap {gaps}; errors {:?}",
            probe.errors()
        );
        println!(
            "    {} acknowledged writes are all there",
            probe.check_writes(cluster.rest())?
        );
        running.finish(cluster)?;
        Ok(())
    });
}
