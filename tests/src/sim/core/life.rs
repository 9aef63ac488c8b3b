//! A whole life: faults, healing, liveness.

use super::plan::Plan;
use super::rng::Rng;
use super::trace::Trace;
use super::world::{Event, World};
use crate::sim::{Options, Outcome, Violation};
use holdfast_machine::state::JobStatus;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Virtual time that recovery, the end of jobs and tidying up may take. Far above what they need: the longest waits in
/// the product that a fault can leave behind are the commit's deadline (30 s) and the pause between sweeps (30 s).
const BUDGET_US: u64 = 120_000_000;

/// Runs one seed. A seed that fails is run again to collect its last events.
#[must_use]
pub fn run_seed(seed: u64, options: &Options) -> Outcome {
    let outcome = run_once(seed, options, options.trace);
    if outcome.violations.is_empty() || options.trace {
        return outcome;
    }
    let again = run_once(seed, options, true);
    Outcome {
        tail: again.tail,
        ..outcome
    }
}

fn run_once(seed: u64, options: &Options, keep: bool) -> Outcome {
    // Deadlines of the product's IO are made against this runtime, which never turns: in virtual time they do not pass.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(seed, format!("no runtime: {error}")),
    };
    let _entered = runtime.enter();
    let mut rng = Rng::new(seed);
    let plan = Plan::new(&mut rng, options.virtual_seconds);
    let mut world = World::new(plan, rng, Trace::new(keep, options.trace));
    let lived = catch_unwind(AssertUnwindSafe(|| live(&mut world)));
    if let Err(panic) = lived {
        let text = panic
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        world.violation(
            "no-panic",
            text.unwrap_or_else(|| "a panic without a text".to_owned()),
        );
    }
    Outcome {
        seed,
        hash: world.trace.hash,
        violations: world.checks.violations,
        counts: world.counts,
        tail: world.trace.tail.into_iter().collect(),
    }
}

fn failed(seed: u64, detail: String) -> Outcome {
    Outcome {
        seed,
        violations: vec![Violation {
            invariant: "no-panic".to_owned(),
            detail,
            at_ms: 0,
        }],
        ..Outcome::default()
    }
}

fn live(world: &mut World) {
    let text = format!("{:?}", world.plan);
    world.note(0, 0, 0, || text);
    world.after(300_000, None, Event::Fault);
    let safety_us = world.plan.safety_us;
    world.run_until(safety_us, |_| false);
    if world.checks.is_broken() {
        return;
    }
    world.heal();
    let before: Vec<u64> = (0..world.plan.jobs.len()).map(|j| world.completed(j)).collect();
    let until = world.now_us + BUDGET_US;
    let well = world.run_until(until, |w| {
        (0..before.len()).all(|j| w.is_ended(j) || w.cancelled.contains(&j) || w.gets_on(j, before[j] + 2))
    });
    expect(world, well, "jobs-recover");
    let strays = world.strays();
    if !strays.is_empty() && well {
        // A worker is told with one of its next heartbeats.
        let until = world.now_us + BUDGET_US;
        let clean = world.run_until(until, |w| w.strays().is_empty());
        expect(world, clean, "only-the-current-attempt-runs");
    }
    end_inputs(world);
    let until = world.now_us + BUDGET_US;
    let ended = world.run_until(until, |w| (0..before.len()).all(|j| w.is_ended(j)));
    expect(world, ended, "jobs-finish");
    if !world.checks.is_broken() {
        check_results(world);
    }
    let until = world.now_us + BUDGET_US;
    let tidy = world.run_until(until, World::is_tidy);
    expect(world, tidy, "nothing-is-left-behind");
    let hidden = world.directory.files.values().filter(|f| !f.visible).count();
    (0..hidden).for_each(|_| world.count("hidden files left"));
    let digest = world.checks.reference.digest();
    let last = xxhash_rust::xxh3::xxh3_64(format!("{digest:?}").as_bytes());
    world.note(1000, last, 0, || "the end".to_owned());
}

fn expect(world: &mut World, holds: bool, invariant: &'static str) {
    if !holds && !world.checks.is_broken() {
        let detail = world.standing();
        world.violation(invariant, detail);
    }
}

/// Sources end a few rows after where the furthest of them has ever been.
fn end_inputs(world: &mut World) {
    for job in 0..world.plan.jobs.len() {
        world.limits[job] = Some(world.furthest[job] + 5);
    }
}

fn check_results(world: &mut World) {
    for job in 0..world.plan.jobs.len() {
        let Some(record) = world.record(job) else { continue };
        if record.status != JobStatus::Finished {
            let cancelled = world.cancelled.contains(&job) && record.status == JobStatus::Canceled;
            if !cancelled {
                let detail = format!("{} is {}", record.name, record.status.as_str());
                world.violation("jobs-finish", detail);
            }
            continue;
        }
        let limit = world.limits[job].unwrap_or(0);
        let visible = world.checks.jobs.get(&record.id).map(|r| &r.visible);
        let short = (0..world.plan.jobs[job].sources).find(|split| {
            let rows = visible.and_then(|v| v.get(split));
            rows.is_none_or(|v| !v.is_prefix() || v.end() != limit)
        });
        if let Some(split) = short {
            let detail = format!("split {split} of job {job} should have {limit} rows: {visible:?}");
            world.violation("result-is-complete", detail);
        }
    }
}

impl World {
    /// The log's record of a job of the plan.
    fn record(&self, job: usize) -> Option<&holdfast_machine::state::Job> {
        let id = self.checks.reference.submissions.get(&self.plan.jobs[job].key)?;
        self.checks.reference.jobs.get(id).map(AsRef::as_ref)
    }

    fn completed(&self, job: usize) -> u64 {
        self.record(job).map_or(0, |j| j.checkpoint_stats.completed)
    }

    fn is_ended(&self, job: usize) -> bool {
        self.record(job).is_some_and(|j| j.status.is_terminal())
    }

    fn gets_on(&self, job: usize, completed: u64) -> bool {
        self.record(job)
            .is_some_and(|j| j.status == JobStatus::Running && j.checkpoint_stats.completed >= completed)
    }

    /// Attempts that run and should not.
    fn strays(&self) -> Vec<String> {
        let current = |key: &super::worker::AttemptKey| {
            let job = self.checks.reference.jobs.get(&key.0);
            job.is_some_and(|j| !j.status.is_terminal() && j.attempt.as_ref().is_some_and(|a| a.id == key.1))
        };
        let running = self
            .workers
            .iter()
            .flat_map(|w| w.engine.keys().map(|key| (&w.name, key)));
        running
            .filter(|(_, key)| !current(key))
            .map(|(name, (job, attempt))| format!("{name} runs attempt {attempt} of {job}"))
            .collect()
    }

    /// Ended jobs have no tasks, no checkpoints in the log, and no objects, and nobody is about to write one.
    fn is_tidy(&self) -> bool {
        let tasks = self.workers.iter().any(|w| !w.engine.is_empty());
        let known = self
            .checks
            .reference
            .jobs
            .values()
            .any(|j| !j.checkpoints.is_empty());
        !tasks && !known && self.store.objects.is_empty() && !self.is_writing()
    }

    /// How things stand, for a report.
    fn standing(&self) -> String {
        let jobs: Vec<String> = self
            .checks
            .reference
            .jobs
            .values()
            .map(|j| {
                let attempt = j.attempt.as_ref().map(|a| (a.id.0, a.number));
                format!(
                    "{} is {} with attempt {attempt:?} and checkpoints {:?}, {} completed",
                    j.name,
                    j.status.as_str(),
                    j.checkpoints.keys().map(|c| c.0).collect::<Vec<_>>(),
                    j.checkpoint_stats.completed
                )
            })
            .collect();
        let objects: Vec<&String> = self.store.objects.keys().take(5).collect();
        format!(
            "leader {:?}; jobs {jobs:?}; strays {:?}; objects {objects:?}",
            self.log.leader,
            self.strays()
        )
    }
}
