//! Jobs as a set (what was acknowledged is listed, one job per idempotency key, nothing from nowhere) and as a state
//! machine (an end is final, a cancelled job never runs again).

use super::Case;
use super::ops::{Op, Timed, ops, sweep};
use crate::history::{Checker, Event, Finding, Kind, Nanos};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The checker.
pub struct Jobs;

/// How far a job's life has come. Within a phase states may alternate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Created,
    Active,
    Cancelling,
    Ended,
}

fn phase(state: &str) -> Option<Phase> {
    Some(match state {
        "CREATED" => Phase::Created,
        "RUNNING" | "RESTARTING" => Phase::Active,
        "CANCELLING" => Phase::Cancelling,
        "FINISHED" | "CANCELED" | "FAILED" => Phase::Ended,
        _ => return None,
    })
}

/// A job's state as one answer had it.
struct Sight<'h> {
    op: &'h Op<'h>,
    state: &'h str,
}

impl Timed for Sight<'_> {
    fn start(&self) -> Nanos {
        self.op.start
    }

    fn end(&self) -> Nanos {
        self.op.end
    }
}

/// A list's jobs: id, name, state.
fn listed<'h>(op: &Op<'h>) -> Vec<(&'h str, &'h str, &'h str)> {
    let jobs = op.field("jobs").and_then(Value::as_object);
    let text = |value: &'h Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    jobs.into_iter()
        .flatten()
        .map(|(id, job)| (id.as_str(), text(job, "name"), text(job, "state")))
        .collect()
}

fn sights<'h>(all: &'h [Op<'h>]) -> BTreeMap<&'h str, Vec<Sight<'h>>> {
    let mut sights: BTreeMap<&str, Vec<Sight<'h>>> = BTreeMap::new();
    for op in all.iter().filter(|op| op.is_ok()) {
        match op.f {
            "list" => {
                for (id, _, state) in listed(op) {
                    sights.entry(id).or_default().push(Sight { op, state });
                }
            }
            "get" => {
                if let (Some(id), Some(state)) = (op.text("job"), op.text("state")) {
                    sights.entry(id).or_default().push(Sight { op, state });
                }
            }
            // An acknowledged cancellation is in the log: from now on the job is being cancelled, or had ended before.
            "cancel" => {
                if let Some(id) = op.text("job") {
                    sights.entry(id).or_default().push(Sight {
                        op,
                        state: "CANCELLING",
                    });
                }
            }
            _ => {}
        }
    }
    sights
}

fn judge_states(case: &mut Case, job: &str, sights: &[Sight<'_>]) {
    let mut ends: BTreeSet<&str> = BTreeSet::new();
    for sight in sights {
        match phase(sight.state) {
            None => case.violation(format!("job {job} is '{}': {}", sight.state, sight.op.told())),
            Some(Phase::Ended) => {
                ends.insert(sight.state);
            }
            Some(_) => {}
        }
    }
    if ends.len() > 1 {
        case.violation(format!("job {job} has ended in {ends:?}"));
    }
    sweep(
        sights,
        |floor: &mut Option<(Phase, u64)>, s| {
            if let Some(phase) = phase(s.state).filter(|p| floor.is_none_or(|f| *p > f.0)) {
                *floor = Some((phase, s.op.id));
            }
        },
        |s, floor| {
            case.count("sights");
            let (Some((least, by)), Some(now)) = (floor, phase(s.state)) else {
                return;
            };
            // A cancellation of an ended job is acknowledged too.
            if now < *least && s.op.f != "cancel" {
                case.violation(format!(
                    "job {job} was {least:?} for operation #{by} and is {} afterwards: {}",
                    s.state,
                    s.op.told()
                ));
            }
        },
    );
}

/// Ids per submission key, and submissions that were answered.
#[derive(Default)]
struct Submissions<'h> {
    by_key: BTreeMap<&'h str, BTreeSet<&'h str>>,
    acked: Vec<(&'h str, &'h Op<'h>)>,
    /// Names that may exist: at least one submission was not certainly without effect. With the first time that it was sent.
    possible: HashMap<&'h str, Nanos>,
    failed: BTreeSet<&'h str>,
}

impl<'h> Submissions<'h> {
    fn new(all: &'h [Op<'h>]) -> Self {
        let mut this = Self::default();
        for op in all.iter().filter(|op| op.f == "submit") {
            let (Some(key), Some(name)) = (op.text("key"), op.text("name")) else {
                continue;
            };
            if op.kind == Kind::Fail {
                this.failed.insert(name);
                continue;
            }
            let first = this.possible.entry(name).or_insert(op.start);
            *first = op.start.min(*first);
            if let Some(job) = op.text("job").filter(|_| op.is_ok()) {
                this.by_key.entry(key).or_default().insert(job);
                this.acked.push((job, op));
            }
        }
        this
    }
}

/// Jobs that the lists may have forgotten: ended ones.
fn ended_at<'h>(sights: &BTreeMap<&'h str, Vec<Sight<'h>>>) -> BTreeSet<&'h str> {
    let has_ended = |sights: &[Sight<'_>]| sights.iter().any(|s| phase(s.state) == Some(Phase::Ended));
    sights
        .iter()
        .filter(|(_, s)| has_ended(s))
        .map(|(job, _)| *job)
        .collect()
}

fn judge_set(case: &mut Case, all: &[Op<'_>], submissions: &Submissions<'_>, ended: &BTreeSet<&str>) {
    for (key, jobs) in submissions.by_key.iter().filter(|(_, jobs)| jobs.len() > 1) {
        case.violation(format!("key {key} was answered with {jobs:?}"));
    }
    let mut keys_of: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (key, jobs) in &submissions.by_key {
        for job in jobs {
            keys_of.entry(job).or_default().insert(key);
        }
    }
    for (job, keys) in keys_of.iter().filter(|(_, keys)| keys.len() > 1) {
        case.violation(format!("job {job} was the answer to the keys {keys:?}"));
    }
    let ours: BTreeSet<&str> = submissions
        .possible
        .keys()
        .chain(&submissions.failed)
        .copied()
        .collect();
    let prefixes: BTreeSet<&str> = ours
        .iter()
        .filter_map(|name| name.rsplit_once('-').map(|(p, _)| p))
        .collect();
    for op in all.iter().filter(|op| op.f == "list" && op.is_ok()) {
        case.count("lists");
        let jobs = listed(op);
        let ids: BTreeSet<&str> = jobs.iter().map(|(id, _, _)| *id).collect();
        for (job, submit) in submissions.acked.iter().filter(|(_, s)| s.end < op.start) {
            if !ids.contains(job) && !ended.contains(job) {
                case.violation(format!(
                    "{} was acknowledged, and is not in {}",
                    submit.told(),
                    op.told()
                ));
            }
        }
        let mut names: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, name, _) in &jobs {
            names.entry(name).or_default().push(id);
        }
        let mine = |name: &str| name.rsplit_once('-').is_some_and(|(p, _)| prefixes.contains(p));
        for (name, ids) in names.iter().filter(|(name, _)| mine(name)) {
            if ids.len() > 1 {
                case.violation(format!(
                    "'{name}' was submitted under one key and runs as {ids:?}: {}",
                    op.told()
                ));
            }
            match submissions.possible.get(name) {
                Some(sent) if *sent <= op.end => {}
                _ if submissions.failed.contains(name) => {
                    case.violation(format!(
                        "the submission of '{name}' failed, yet it is listed: {}",
                        op.told()
                    ));
                }
                _ => case.violation(format!("nobody had submitted '{name}': {}", op.told())),
            }
        }
    }
}

impl Checker for Jobs {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let all = ops(history, "jobs");
        let mut case = Case::default();
        let submissions = Submissions::new(&all);
        let sights = sights(&all);
        case.add("acknowledged submissions", submissions.acked.len() as u64);
        case.add(
            "acknowledged cancellations",
            all.iter().filter(|o| o.f == "cancel" && o.is_ok()).count() as u64,
        );
        judge_set(&mut case, &all, &submissions, &ended_at(&sights));
        for (job, sights) in &sights {
            judge_states(&mut case, job, sights);
        }
        case.finish(
            self.name(),
            "jobs are a set and keep to their states",
            &["sights"],
        )
    }
}
