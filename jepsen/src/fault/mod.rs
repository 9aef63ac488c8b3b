//! The nemesis: every step of a plan installed at its time and healed after it, with what really happened on record.
//!
//! A fault is `installed`, `skipped` (it could not be, nothing was changed) or `indeterminate` (it failed on the way).
//! Installed ones say at the end whether they had an effect that can be seen.

mod disk;
mod machine;
mod members;
mod network;
mod process;
mod resolve;
mod storage;

use crate::check::words::note;
use crate::cluster::Cluster;
use crate::history::Event;
use crate::plan::{Fault, Plan, Step};
use anyhow::{Result, anyhow};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a fault did.
pub(crate) enum Outcome {
    /// It is there.
    Installed(Installed),
    /// It could not be.
    Skipped(String),
}

/// A fault that is there.
pub(crate) struct Installed {
    /// Whom it met.
    pub(crate) targets: Vec<String>,
    /// In words, for the report.
    pub(crate) detail: String,
    /// Ends it, and answers whether it had an effect (`None`: that cannot be told).
    pub(crate) heal: Box<dyn FnOnce() -> Result<Option<bool>> + Send>,
    /// What it holds meanwhile.
    pub(crate) lease: Option<Lease>,
}

/// Nodes that a fault of processes or disks has to itself.
pub(crate) struct Lease {
    all: Arc<Mutex<BTreeSet<String>>>,
    mine: Vec<String>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.mine {
            all.remove(name);
        }
    }
}

/// What faults work with.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) cluster: Cluster,
    pub(crate) shim: Option<PathBuf>,
    pub(crate) logs: PathBuf,
    pub(crate) spare_from: u32,
    pub(crate) seed: u64,
    leases: Arc<Mutex<BTreeSet<String>>>,
    stop: Arc<AtomicBool>,
}

impl Tools {
    /// Takes nodes for oneself, all or none.
    pub(crate) fn lease(&self, names: &[String]) -> Option<Lease> {
        let mut all = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        if names.iter().any(|name| all.contains(name)) {
            return None;
        }
        all.extend(names.iter().cloned());
        Some(Lease {
            all: Arc::clone(&self.leases),
            mine: names.to_vec(),
        })
    }

    /// Sleeps, unless the phase ends.
    pub(crate) fn sleep(&self, time: Duration) {
        let end = Instant::now() + time;
        while !self.stopping() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2).min(end.saturating_duration_since(Instant::now())));
        }
    }

    pub(crate) fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

/// Carries out the steps of a plan.
pub struct Nemesis {
    tools: Tools,
    threads: Vec<std::thread::JoinHandle<()>>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Nemesis {
    /// Makes ready, before the cluster is: whoever is to lose power at a point may come to it at once.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn arm(cluster: &Cluster, plan: &Plan, shim: Option<PathBuf>, logs: PathBuf) -> Result<Self> {
        let tools = Tools {
            cluster: cluster.clone(),
            shim,
            logs,
            spare_from: plan.swarm.voters + 1,
            seed: plan.seed,
            leases: Arc::default(),
            stop: Arc::default(),
        };
        let failures = Arc::new(Mutex::new(Vec::new()));
        let mut threads = Vec::new();
        for (node, environment) in &plan.first_start {
            let armed = environment
                .get("HOLDFAST_INJECT")
                .is_some_and(|text| text.ends_with("action=power"));
            if armed {
                let (tools, node, failures) = (tools.clone(), node.clone(), Arc::clone(&failures));
                let name = std::thread::Builder::new().name(format!("power-{node}"));
                threads.push(name.spawn(move || {
                    if let Err(error) = disk::power_at_point(&tools, &node) {
                        let mut failures = failures.lock().unwrap_or_else(PoisonError::into_inner);
                        failures.push(format!("power loss of {node} at its point: {error:#}"));
                    }
                })?);
            }
        }
        Ok(Self {
            tools,
            threads,
            failures,
        })
    }

    /// Starts the fault phase: the plan's times count from now.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn begin(&mut self, plan: &Plan) -> Result<()> {
        if plan.steps.is_empty() {
            let world = self.tools.cluster.world();
            world.record(note(world.now(), "nemesis", "nemesis", "control"));
        }
        let begin = Instant::now();
        for step in &plan.steps {
            let (tools, step, failures) = (self.tools.clone(), step.clone(), Arc::clone(&self.failures));
            let name = std::thread::Builder::new().name(format!("step-{}", step.id));
            self.threads.push(name.spawn(move || {
                let at = begin + Duration::from_millis(step.at_ms);
                tools.sleep(at.saturating_duration_since(Instant::now()));
                if !tools.stopping() {
                    let failed = carry_out(&tools, &step);
                    failures
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .extend(failed);
                }
            })?);
        }
        Ok(())
    }

    /// Ends the fault phase: steps that last are healed now, the others do not begin. Answers what could not be healed.
    #[must_use]
    pub fn heal_everything(mut self) -> Vec<String> {
        self.end();
        let world = self.tools.cluster.world();
        if let Some(net) = self.tools.cluster.env().net() {
            net.clear();
        }
        world.record(note(world.now(), "nemesis", "nemesis", "healed"));
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.clone()
    }

    fn end(&mut self) {
        self.tools.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Nemesis {
    fn drop(&mut self) {
        self.end();
    }
}

/// One step, from its beginning to its end. Answers why healing failed, if it did.
fn carry_out(tools: &Tools, step: &Step) -> Option<String> {
    let world = tools.cluster.world();
    let event = |outcome: &str, targets: &[String]| -> Event {
        note(world.now(), "nemesis", "nemesis", &step.name)
            .with("step", step.id)
            .with("outcome", outcome)
            .with("targets", targets.to_vec())
    };
    let begun = world.now();
    match install(tools, step) {
        Ok(Outcome::Skipped(reason)) => {
            world.record(event("skipped", &[]).because(reason));
            None
        }
        Err(error) => {
            world.record(event("indeterminate", &[]).because(format!("{error:#}")));
            Some(format!("step {} ({}): {error:#}", step.id, step.name))
        }
        Ok(Outcome::Installed(installed)) => {
            let mut installing = event("installed", &installed.targets).with("detail", installed.detail);
            installing.t = begun;
            world.record(installing);
            tools.sleep(Duration::from_millis(step.for_ms));
            let healed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(installed.heal))
                .unwrap_or_else(|_| Err(anyhow!("healing broke")));
            let event = event("installed", &installed.targets).with("phase", "heal");
            drop(installed.lease);
            match healed {
                Ok(effect) => {
                    world.record(event.with("effect", effect));
                    None
                }
                Err(error) => {
                    world.record(event.because(format!("{error:#}")));
                    Some(format!("healing of step {} ({}): {error:#}", step.id, step.name))
                }
            }
        }
    }
}

fn install(tools: &Tools, step: &Step) -> Result<Outcome> {
    match &step.fault {
        Fault::Kill {
            target,
            again_after_ms,
        } => process::kill(tools, target, *again_after_ms),
        Fault::Term { target } => process::term(tools, target),
        Fault::Rolling { pause_ms, upgrade } => process::rolling(tools, *pause_ms, *upgrade),
        Fault::Pause { target } => process::pause(tools, target),
        Fault::Freeze { target } => process::freeze(tools, target),
        Fault::Partition {
            shape,
            plane,
            flap_ms,
        } => network::partition(tools, u64::from(step.id), shape, *plane, *flap_ms),
        Fault::Packets { .. } => network::packets(tools, u64::from(step.id), &step.fault),
        Fault::Clock {
            target,
            jump_ms,
            drift_ppm,
            strobe_ms,
        } => machine::clock(tools, target, *jump_ms, *drift_ppm, *strobe_ms),
        Fault::PowerLoss { target, torn } => disk::power_loss(tools, target, *torn),
        Fault::FsyncError {
            target,
            nth,
            delay_us,
        } => disk::fsync(tools, target, *nth, *delay_us),
        Fault::DiskFull { target } => disk::full(tools, target),
        Fault::DiskStall { target } => disk::stall(tools, target, step.for_ms),
        Fault::BitFlip { target, at } => disk::bit_flip(tools, target, *at),
        Fault::Storage { mode, share, ms } => storage::misbehave(tools, mode, *share, *ms),
        Fault::MemberRemove { target } => members::remove(tools, target),
        Fault::MemberAdd => members::add(tools),
        Fault::Transfer => members::transfer(tools),
        Fault::Cpu { target, percent } => machine::cpu(tools, target, *percent),
        Fault::Memory { target, above_mib } => machine::memory(tools, target, *above_mib),
    }
}

/// Skips with a reason.
pub(crate) fn skipped(reason: impl Into<String>) -> Result<Outcome> {
    Ok(Outcome::Skipped(reason.into()))
}
