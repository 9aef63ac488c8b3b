//! Twenty faults by seed: any process is killed, stopped in order, or hangs for a while; after each the cluster heals by
//! itself, and in the end every row is there once.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::thread::sleep;
use std::time::Duration;
use tests::cluster::{Cluster, Options, with_cluster};
use tests::probe::{Kind, Probe};
use tests::scenario::Running;
use tests::script::Numbers;
use tests::wait;

const FAULTS: usize = 20;
/// The seed of every run, unless this variable names another.
const SEED: u64 = 20_261_122;
const SEED_VARIABLE: &str = "HOLDFAST_TEST_SEED";
/// Patience with one fault: a hung worker's timeout, a restart strategy's growing delay, a busy machine.
const HEALED: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    Hang(u64),
}

#[test]
fn twenty_random_faults_by_seed() {
    let seed = std::env::var(SEED_VARIABLE)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(SEED);
    println!("    seed {seed}; another one by {SEED_VARIABLE}");
    let options = Options::default().set("heartbeat.timeout", "1 s");
    with_cluster("random-faults", options, |cluster| {
        let mut random = StdRng::seed_from_u64(seed);
        let mut spec = Numbers::lasting(120, &cluster.home().join("out"));
        (spec.rate, spec.rows) = (5_000, 120 * 5_000);
        let spec = spec.set("restart-strategy.exponential-delay.max-backoff", "1 s");
        let running = Running::start_spec(cluster, spec)?;
        let mut probe = Probe::start(cluster.rest(), Kind::Write, Duration::from_millis(50));
        for number in 1..=FAULTS {
            let fault = draw(&mut random);
            let processes = cluster.file()?.processes;
            let victim = processes[random.random_range(0..processes.len())].clone();
            println!("    {number}: {fault:?} {}", victim.name());
            strike(cluster, fault, &victim).with_context(|| format!("fault {number}"))?;
            heal(cluster, &running)
                .with_context(|| format!("after fault {number}, {fault:?} {}", victim.name()))?;
            sleep(Duration::from_millis(random.random_range(0..500)));
        }
        probe.stop();
        println!(
            "    {} acknowledged writes are all there",
            probe.check_writes(cluster.rest())?
        );
        running.finish(cluster)?;
        Ok(())
    });
}

fn draw(random: &mut StdRng) -> Fault {
    match random.random_range(0..3) {
        0 => Fault::Kill,
        1 => Fault::Stop,
        _ => Fault::Hang(random.random_range(50..2_500)),
    }
}

fn strike(cluster: &Cluster, fault: Fault, victim: &tests::process::Process) -> Result<()> {
    match fault {
        Fault::Kill => {
            cluster.kill_9(victim)?;
            cluster.wait_restarted(victim)?;
        }
        Fault::Stop => {
            cluster.signal(victim, Signal::SIGTERM)?;
            cluster.wait_restarted(victim)?;
        }
        Fault::Hang(ms) => {
            cluster.signal(victim, Signal::SIGSTOP)?;
            sleep(Duration::from_millis(ms));
            cluster.signal(victim, Signal::SIGCONT)?;
        }
    }
    cluster.refresh_addresses()
}

/// All coordinators agree, all workers are attached, the job runs and takes checkpoints.
fn heal(cluster: &Cluster, running: &Running) -> Result<()> {
    cluster.wait_coordinators_agree()?;
    let before = cluster.checkpoints(&running.id)?.latest;
    wait::until_true("the cluster to heal", HEALED, || {
        let view = cluster.leader_view()?;
        let expected: Vec<i32> = cluster.workers()?.iter().map(|p| p.pid).collect();
        let attached = tests::cluster::attached_pids(&view);
        ensure!(
            expected.iter().all(|pid| attached.contains(pid)),
            "attached are {attached:?} of {expected:?}"
        );
        let job = cluster.job(&running.id)?;
        ensure!(
            job.state == "FINISHED" || job.all_running(),
            "the job is {}: {:?}",
            job.state,
            job.subtasks
        );
        let now = cluster.checkpoints(&running.id)?.latest;
        ensure!(
            now > before || job.state == "FINISHED",
            "no checkpoint since {before}"
        );
        Ok(true)
    })
}
