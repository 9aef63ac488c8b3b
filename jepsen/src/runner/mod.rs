//! One run: setup, faults, healing, a final phase in which everything must serve, checkers, report.
//!
//! What fails in the harness is never a verdict on the product.

pub mod binary;
mod final_phase;
pub mod info;

pub use info::{NodeInfo, RunInfo};

use crate::check;
use crate::cluster::{Cluster, Setup, config};
use crate::env::preflight::Preflight;
use crate::env::{Env, Role};
use crate::fault::Nemesis;
use crate::history::{Checker, Event, Finding, Verdict};
use crate::judge;
use crate::plan::Plan;
use crate::report;
use crate::workload::{self, Workload};
use crate::world::{NodeAddr, World, WorldSpec};
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Environment variable that names the other release's binary, for rolling upgrades.
pub const OTHER_BINARY: &str = "HOLDFAST_OTHER_BIN";

/// Longest until the cluster leads and its workers are there.
const READY: Duration = Duration::from_secs(20);
/// Longest until a workload is set up.
const SET_UP: Duration = Duration::from_secs(30);
/// Longest until clients have stopped.
const STOPPED: Duration = Duration::from_secs(30);
/// Longest until a workload has read what it wants to know in the end.
const FINISHED: Duration = Duration::from_secs(120);
/// Longest until the processes have ended in order.
const ENDED: Duration = Duration::from_secs(10);

/// What runs share.
pub struct Runner {
    /// The runtime of workloads.
    pub runtime: Runtime,
    /// The binary under test.
    pub binary: PathBuf,
    /// The other release's binary.
    pub other_binary: Option<PathBuf>,
    /// The library with faults of disk and clock.
    pub shim: Option<PathBuf>,
    /// Whether the binary reaches object servers.
    pub object_storage: bool,
    /// What this machine can do.
    pub preflight: Preflight,
    /// The directory of all runs.
    pub runs: PathBuf,
    /// Set when the user wants to stop.
    pub interrupted: Arc<AtomicBool>,
}

/// What came of a run.
pub struct Outcome {
    /// What is known of it.
    pub info: RunInfo,
    /// What the checkers found.
    pub findings: Vec<Finding>,
    /// Its directory.
    pub dir: PathBuf,
    /// Its history.
    pub history: Vec<Event>,
}

impl Outcome {
    /// Whether a named checker (or any, without a name) says that a promise was broken.
    #[must_use]
    pub fn invalid_by(&self, checker: Option<&str>) -> bool {
        let mut invalid = self.findings.iter().filter(|f| f.verdict == Verdict::Invalid);
        invalid.any(|f| checker.is_none_or(|name| name == f.checker))
    }

    /// Faults that were installed.
    #[must_use]
    pub fn installed(&self) -> usize {
        let faults = self
            .history
            .iter()
            .filter(|e| e.workload == "nemesis" && e.text("phase").is_none());
        faults.filter(|e| e.text("outcome") == Some("installed")).count()
    }

    /// Operations that were answered.
    #[must_use]
    pub fn answered(&self) -> usize {
        self.history
            .iter()
            .filter(|e| e.kind == crate::history::Kind::Ok)
            .count()
    }
}

impl Runner {
    /// Finds the binary and what the machine can do.
    ///
    /// # Errors
    /// If there is no binary.
    pub fn new(dir: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupted);
        runtime.spawn(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let Ok(mut terminate) = signal(SignalKind::terminate()) else {
                return;
            };
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            eprintln!("stopping: everything is taken down first");
            flag.store(true, Ordering::SeqCst);
        });
        let binary = binary::find()?;
        let runs = dir.join("runs");
        std::fs::create_dir_all(&runs).with_context(|| runs.display().to_string())?;
        for tag in crate::env::clean::left_behind(false) {
            eprintln!("removing what an earlier run left behind: {tag}");
            crate::env::clean::remove(&tag);
        }
        Ok(Self {
            runtime,
            object_storage: binary::has_s3(&binary)?,
            other_binary: std::env::var_os(OTHER_BINARY).map(PathBuf::from),
            shim: binary::find_shim(),
            preflight: Preflight::look(),
            binary,
            runs: runs.canonicalize()?,
            interrupted,
        })
    }

    /// What this machine leaves out, in sentences.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        let mut left_out = self.preflight.left_out();
        if self.shim.is_none() {
            left_out.push("no library for faults of clock and sync: those faults are skipped".into());
        }
        if !self.object_storage {
            left_out.push("the binary was built without s3: faults of snapshot storage are skipped".into());
        }
        left_out
    }

    /// Carries out a plan and judges it.
    ///
    /// # Errors
    /// Only if not even the run's directory can be written.
    pub fn run(&self, plan: &Plan) -> Result<Outcome> {
        let started_unix_ms = crate::world::unix_time().as_millis() as u64;
        let dir = self.runs.join(format!("{}-{started_unix_ms}", plan.seed));
        let logs = dir.join("logs");
        std::fs::create_dir_all(&logs).with_context(|| logs.display().to_string())?;
        plan.write(&dir.join("plan.json"))?;
        let began = Instant::now();
        println!(
            "run {}: {} steps of {} kinds in {} s, {} coordinators, workloads {}",
            plan.seed,
            plan.steps.len(),
            kinds(plan),
            plan.fault_phase_ms / 1000,
            plan.swarm.voters,
            plan.workloads.join(", ")
        );
        let mut info = RunInfo {
            seed: plan.seed,
            plan: plan.clone(),
            binary: binary::describe(&self.binary),
            started_unix_ms,
            duration_ms: 0,
            phases: Vec::new(),
            nodes: Vec::new(),
            left_out: self.left_out(),
            verdict: Verdict::Unknown,
            harness_error: None,
        };
        let mut material = Material::default();
        if let Err(error) = self.carry_out(plan, &dir, &mut info, &mut material) {
            info.harness_error = Some(format!("{error:#}"));
        }
        // A broken history is still worth judging: what it shows to be broken is broken.
        let checkers = std::mem::take(&mut material.checkers);
        let findings = judge::findings(plan, &material.history, checkers);
        info.verdict = verdict(&findings, info.harness_error.as_deref());
        info.duration_ms = began.elapsed().as_millis() as u64;
        std::fs::write(dir.join("findings.json"), serde_json::to_vec_pretty(&findings)?)?;
        std::fs::write(dir.join("run.json"), serde_json::to_vec_pretty(&info)?)?;
        if let Err(error) = report::write_report(&dir, &info, &material.history, &findings) {
            eprintln!("jepsen: the report: {error:#}");
        }
        Ok(Outcome {
            info,
            findings,
            dir,
            history: material.history,
        })
    }

    fn carry_out(&self, plan: &Plan, dir: &Path, info: &mut RunInfo, material: &mut Material) -> Result<()> {
        let logs = dir.join("logs");
        let env = Arc::new(Env::create(plan.mode, &plan.swarm, plan.seed)?);
        let world = World::new(world_spec(&env, plan), &dir.join("history.jsonl"))?;
        let setup = Setup {
            plan,
            binary: &self.binary,
            other_binary: self.other_binary.as_deref(),
            shim: self.shim.as_deref(),
            logs: &logs,
        };
        // From here on the history is kept whatever happens.
        let done = Cluster::start(env, world.clone(), &setup).and_then(|cluster| {
            info.nodes = nodes(&cluster);
            let mut stage = Stage {
                runner: self,
                plan,
                cluster,
                world: world.clone(),
                logs,
                workloads: Vec::new(),
                running: Vec::new(),
            };
            let done = stage.play(info, material);
            world.stop();
            drop(stage);
            done
        });
        material.history = world.history()?;
        done
    }
}

/// What a run leaves to be judged.
#[derive(Default)]
struct Material {
    history: Vec<Event>,
    checkers: Vec<Box<dyn Checker>>,
}

type Boxed = Box<dyn Workload>;

/// A run while it goes on.
struct Stage<'a> {
    runner: &'a Runner,
    plan: &'a Plan,
    cluster: Cluster,
    world: World,
    logs: PathBuf,
    workloads: Vec<Boxed>,
    running: Vec<JoinHandle<(Boxed, Result<()>)>>,
}

impl Stage<'_> {
    fn play(&mut self, info: &mut RunInfo, material: &mut Material) -> Result<()> {
        let phase = |info: &mut RunInfo, name: &str, from: u64, world: &World| {
            info.phases
                .push((name.to_owned(), from / 1_000_000, world.now() / 1_000_000));
        };
        let from = self.world.now();
        let mut nemesis = Nemesis::arm(
            &self.cluster,
            self.plan,
            self.runner.shim.clone(),
            self.logs.clone(),
        )?;
        self.cluster.wait_ready(self.plan.swarm.workers as usize, READY)?;
        for name in &self.plan.workloads {
            let workload =
                workload::by_name(name, self.plan.seed).with_context(|| format!("no workload '{name}'"))?;
            material.checkers.extend(workload.checkers());
            self.workloads.push(workload);
        }
        let world = self.world.clone();
        for workload in &mut self.workloads {
            let name = workload.name();
            self.runner
                .runtime
                .block_on(async { tokio::time::timeout(SET_UP, workload.setup(&world)).await })
                .with_context(|| format!("workload {name} is not set up within {SET_UP:?}"))?
                .with_context(|| format!("setup of workload {name}"))?;
        }
        self.start_workloads();
        phase(info, "setup", from, &self.world);
        let from = self.world.now();
        nemesis.begin(self.plan)?;
        self.wait_fault_phase()?;
        let failures = nemesis.heal_everything();
        phase(info, "faults", from, &self.world);
        let from = self.world.now();
        let revived = final_phase::revive(&self.cluster, self.plan);
        let said = final_phase::wait_served(&self.cluster, self.plan, &self.runner.interrupted)?;
        let event = check::words::note(self.world.now(), "harness", "cluster", "final").with("missing", said);
        self.world.record(event);
        phase(info, "final", from, &self.world);
        let from = self.world.now();
        self.finish_workloads()?;
        let stubborn = self.cluster.stop(ENDED);
        for name in stubborn {
            let event = check::words::note(self.world.now(), &format!("node:{name}"), "cluster", "stubborn");
            self.world
                .record(event.because("did not end in order within 10 s"));
        }
        phase(info, "finish", from, &self.world);
        revived?;
        ensure!(
            failures.is_empty(),
            "faults that the harness could not manage: {}",
            failures.join("; ")
        );
        Ok(())
    }

    fn start_workloads(&mut self) {
        for mut workload in self.workloads.drain(..) {
            let world = self.world.clone();
            self.running.push(self.runner.runtime.spawn(async move {
                let done = workload.run(&world).await;
                (workload, done)
            }));
        }
    }

    fn wait_fault_phase(&self) -> Result<()> {
        let end = Instant::now() + Duration::from_millis(self.plan.fault_phase_ms);
        while Instant::now() < end {
            self.check_interrupted()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn check_interrupted(&self) -> Result<()> {
        if self.runner.interrupted.load(Ordering::SeqCst) {
            bail!("interrupted");
        }
        Ok(())
    }

    fn finish_workloads(&mut self) -> Result<()> {
        self.world.stop();
        let world = self.world.clone();
        let running = std::mem::take(&mut self.running);
        self.runner.runtime.block_on(async {
            let mut workloads = Vec::new();
            for task in running {
                let (workload, done) = tokio::time::timeout(STOPPED, task)
                    .await
                    .context("clients did not stop in time")?
                    .context("a workload broke")?;
                done.with_context(|| format!("workload {}", workload.name()))?;
                workloads.push(workload);
            }
            for mut workload in workloads {
                let name = workload.name();
                tokio::time::timeout(FINISHED, workload.finish(&world))
                    .await
                    .with_context(|| format!("workload {name} did not finish within {FINISHED:?}"))?
                    .with_context(|| format!("the end of workload {name}"))?;
            }
            Ok(())
        })
    }
}

impl Drop for Stage<'_> {
    /// Clients must be gone before their namespaces go.
    fn drop(&mut self) {
        self.world.stop();
        let running = std::mem::take(&mut self.running);
        self.workloads.clear();
        for task in &running {
            task.abort();
        }
        self.runner.runtime.block_on(async {
            for task in running {
                let _ = tokio::time::timeout(Duration::from_secs(5), task).await;
            }
        });
    }
}

fn kinds(plan: &Plan) -> usize {
    let names: std::collections::BTreeSet<&str> = plan.steps.iter().map(|step| step.name.as_str()).collect();
    names.len()
}

fn nodes(cluster: &Cluster) -> Vec<NodeInfo> {
    let logs = cluster.logs().into_iter();
    logs.map(|(name, role, log)| NodeInfo {
        name,
        role: match role {
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
            Role::Objects => "storage",
            Role::Client => "client",
        }
        .to_owned(),
        log,
    })
    .collect()
}

fn world_spec(env: &Env, plan: &Plan) -> WorldSpec {
    let of_role = |role| env.places().iter().filter(move |place| place.role == role);
    let coordinators = of_role(Role::Coordinator).filter(|place| place.number <= plan.swarm.voters);
    // Without namespaces all clients live in one place.
    let client = of_role(Role::Client)
        .next()
        .map_or("", |place| place.name.as_str());
    WorldSpec {
        seed: plan.seed,
        coordinators: coordinators
            .map(|place| NodeAddr {
                name: place.name.clone(),
                ip: place.main.ip(),
                rpc: env.reach(client, place.main),
                rest: env.reach(client, place.rest),
            })
            .collect(),
        clients: of_role(Role::Client)
            .filter_map(|place| place.namespace.clone())
            .collect(),
        shared_dir: env.shared_dir(),
        snapshot_url: config::snapshot_url(env, &plan.swarm),
        storage_settings: config::storage_settings(env, &plan.swarm),
        checkpoint_ms: plan.swarm.checkpoint_ms,
        slots: plan.swarm.workers * plan.swarm.slots,
    }
}

/// A broken promise stays broken whatever else failed, unless the harness failed: then nobody knows.
fn verdict(findings: &[Finding], harness_error: Option<&str>) -> Verdict {
    match harness_error {
        Some(_) => Verdict::Unknown,
        None => check::overall(findings),
    }
}
