//! The catalogue of completed checkpoints: numbers go strictly up, the newest never goes back, what is listed can be read
//! whole, epochs and attempts never go back, and a new attempt starts from no older checkpoint than the newest complete one.
//!
//! An answer of `checkpoints` has `completed`: [{`id`, `attempt`, `path`, `discarded`, `damaged`}], `failed`: [id],
//! `in_progress`: id or
//! null, `latest`: id of the newest completed, `restored`: id or null, `done`: number of completed ones so far.

use super::Case;
use super::ops::{Op, ops, sweep};
use crate::history::{Checker, Event, Finding};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The checker.
pub struct Catalogue;

/// A completed checkpoint in an answer.
#[derive(Debug, Clone)]
pub struct Listed<'h> {
    /// Its number.
    pub id: u64,
    /// Its attempt, while the catalogue holds it.
    pub attempt: Option<u64>,
    /// Its manifest, while the catalogue holds it.
    pub path: Option<&'h str>,
    /// No longer retained.
    pub discarded: bool,
    /// Found unreadable.
    pub damaged: bool,
}

/// The completed checkpoints of an answer.
#[must_use]
pub fn completed<'h>(op: &Op<'h>) -> Vec<Listed<'h>> {
    let list = op.field("completed").and_then(Value::as_array);
    let flag = |value: &Value, name: &str| value.get(name).and_then(Value::as_bool).unwrap_or(false);
    let read = |value: &'h Value| {
        Some(Listed {
            id: value.get("id")?.as_u64()?,
            attempt: value.get("attempt").and_then(Value::as_u64),
            path: value.get("path").and_then(Value::as_str),
            discarded: flag(value, "discarded"),
            damaged: flag(value, "damaged"),
        })
    };
    list.into_iter().flatten().filter_map(read).collect()
}

/// Numbers of an answer's list.
#[must_use]
pub fn numbers(op: &Op<'_>, name: &str) -> BTreeSet<u64> {
    let list = op.field(name).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_u64).collect()
}

/// Checkpoints of a job that any answer called damaged.
fn damaged(polls: &[&Op<'_>]) -> BTreeSet<u64> {
    polls
        .iter()
        .flat_map(|op| completed(op))
        .filter(|c| c.damaged)
        .map(|c| c.id)
        .collect()
}

#[derive(Default)]
struct Floor {
    latest: u64,
    done: u64,
    by: u64,
    completed: BTreeSet<u64>,
    failed: BTreeSet<u64>,
}

fn judge_order(case: &mut Case, job: &str, polls: &[&Op<'_>]) {
    let owned: Vec<Op<'_>> = polls.iter().map(|op| (*op).clone()).collect();
    sweep(
        &owned,
        |floor: &mut Floor, op| {
            let latest = op.number("latest").unwrap_or(0);
            if latest >= floor.latest {
                (floor.latest, floor.by) = (latest, op.id);
            }
            floor.done = floor.done.max(op.number("done").unwrap_or(0));
            floor.completed.extend(completed(op).iter().map(|c| c.id));
            floor.failed.extend(numbers(op, "failed"));
        },
        |op, floor| {
            case.count("polls");
            let (latest, done) = (op.number("latest").unwrap_or(0), op.number("done").unwrap_or(0));
            if latest < floor.latest || done < floor.done {
                case.violation(format!(
                    "job {job}: the newest was {} of {} completed for operation #{}, and then {}",
                    floor.latest,
                    floor.done,
                    floor.by,
                    op.told()
                ));
            }
            let now = completed(op);
            for c in now
                .iter()
                .filter(|c| c.id < floor.latest && !floor.completed.contains(&c.id))
            {
                case.violation(format!(
                    "job {job}: checkpoint {} completed after {} had: {}",
                    c.id,
                    floor.latest,
                    op.told()
                ));
            }
            for id in now.iter().map(|c| c.id).filter(|id| floor.failed.contains(id)) {
                case.violation(format!(
                    "job {job}: checkpoint {id} had failed and is complete: {}",
                    op.told()
                ));
            }
            for id in numbers(op, "failed")
                .iter()
                .filter(|id| floor.completed.contains(id))
            {
                case.violation(format!(
                    "job {job}: checkpoint {id} was complete and has failed: {}",
                    op.told()
                ));
            }
        },
    );
}

/// The newest readable checkpoint is never given up while its job lives, and what is known of a checkpoint does not change.
fn judge_lists(case: &mut Case, job: &str, polls: &[&Op<'_>], details: &[&Op<'_>]) {
    let mut known: BTreeMap<u64, (Option<u64>, Option<&str>)> = BTreeMap::new();
    for op in polls {
        let list = completed(op);
        // An ended job may give everything up; it was alive if a later answer says so.
        let over = |d: &Op<'_>| {
            d.text("state")
                .is_none_or(|s| matches!(s, "CANCELLING" | "CANCELED" | "FINISHED" | "FAILED"))
        };
        let alive = details.iter().any(|d| d.start > op.end && !over(d));
        let newest = list.iter().filter(|c| !c.damaged).max_by_key(|c| c.id);
        if let Some(newest) = newest.filter(|c| c.discarded && alive) {
            case.violation(format!(
                "job {job}: the newest checkpoint {} was discarded: {}",
                newest.id,
                op.told()
            ));
        }
        for c in &list {
            let entry = known.entry(c.id).or_default();
            let differs = entry.0.is_some() && c.attempt.is_some() && entry.0 != c.attempt
                || entry.1.is_some() && c.path.is_some() && entry.1 != c.path;
            if differs {
                case.violation(format!(
                    "job {job}: checkpoint {} was {entry:?} and is another: {}",
                    c.id,
                    op.told()
                ));
            }
            *entry = (entry.0.or(c.attempt), entry.1.or(c.path));
        }
    }
    case.add("checkpoints", known.len() as u64);
    let mut attempt = 0;
    for (id, (by, _)) in &known {
        let Some(by) = by else { continue };
        if *by < attempt {
            case.violation(format!(
                "job {job}: checkpoint {id} belongs to attempt {by}, an earlier one to {attempt}"
            ));
        }
        attempt = attempt.max(*by);
    }
}

/// What is listed can be read: a miss counts if a list that was asked for afterwards still has the checkpoint.
fn judge_objects(case: &mut Case, job: &str, polls: &[&Op<'_>], fetches: &[&Op<'_>]) {
    let mut epochs: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for fetch in fetches.iter().filter(|f| f.is_ok()) {
        let (Some(id), Some(outcome)) = (fetch.number("id"), fetch.text("outcome")) else {
            continue;
        };
        case.count("fetches");
        match outcome {
            "ok" => {
                case.add("objects read", fetch.number("objects").unwrap_or(0) + 1);
                if let Some(epoch) = fetch.number("epoch") {
                    epochs.insert(id, (epoch, fetch.id));
                }
                if fetch.number("attempt") != fetch.number("manifest_attempt") {
                    case.violation(format!(
                        "job {job}: a manifest of another attempt: {}",
                        fetch.told()
                    ));
                }
            }
            "unavailable" => case.count("fetches without storage"),
            _ => {
                let later = polls
                    .iter()
                    .filter(|p| p.is_ok() && p.start > fetch.end)
                    .min_by_key(|p| p.start);
                let still = later.is_some_and(|p| {
                    let mut list = completed(p).into_iter();
                    list.any(|c| c.id == id && !c.discarded && !c.damaged)
                });
                if still {
                    case.violation(format!(
                        "job {job}: checkpoint {id} is listed and {outcome}: {}",
                        fetch.told()
                    ));
                }
            }
        }
    }
    let mut floor = (0, 0);
    for (id, (epoch, by)) in epochs {
        if epoch < floor.0 {
            case.violation(format!(
                "job {job}: checkpoint {id} was completed by epoch {epoch} (#{by}), checkpoint {} before it by {}",
                floor.1, floor.0
            ));
        }
        floor = floor.max((epoch, id));
    }
}

/// A new attempt begins from the newest complete checkpoint: once a checkpoint was seen complete and then an attempt was
/// seen, a later attempt restores that checkpoint or a newer one.
fn judge_restores(case: &mut Case, job: &str, polls: &[&Op<'_>], details: &[&Op<'_>]) {
    let damaged = damaged(polls);
    let mut attempts: Vec<&&Op<'_>> = details
        .iter()
        .filter(|d| d.is_ok() && d.number("attempt_id").is_some())
        .collect();
    attempts.sort_by_key(|d| d.start);
    // For each attempt: the newest checkpoint that was certainly complete while that attempt still ran.
    let mut complete_under: BTreeMap<u64, u64> = BTreeMap::new();
    for detail in &attempts {
        let Some(attempt) = detail.number("attempt_id") else {
            continue;
        };
        let before = polls.iter().filter(|p| p.is_ok() && p.end < detail.start);
        let newest = before
            .filter_map(|p| newest_whole(p, &damaged))
            .max()
            .unwrap_or(0);
        let entry = complete_under.entry(attempt).or_default();
        *entry = newest.max(*entry);
    }
    let mut judged = BTreeSet::new();
    for detail in attempts {
        let Some(attempt) = detail.number("attempt_id").filter(|a| judged.insert(*a)) else {
            continue;
        };
        let least = complete_under
            .range(..attempt)
            .map(|(_, newest)| *newest)
            .max()
            .unwrap_or(0);
        let restored = detail.number("restored").unwrap_or(0);
        case.count("attempts");
        if restored < least {
            case.violation(format!(
                "job {job}: attempt {attempt} began from checkpoint {restored}, {least} was complete before: {}",
                detail.told()
            ));
        }
    }
}

fn newest_whole(poll: &Op<'_>, damaged: &BTreeSet<u64>) -> Option<u64> {
    completed(poll)
        .iter()
        .map(|c| c.id)
        .filter(|id| !damaged.contains(id))
        .max()
}

/// Operations of one kind by job.
#[must_use]
pub fn by_job<'o, 'h>(all: &'o [Op<'h>], f: &str) -> BTreeMap<&'h str, Vec<&'o Op<'h>>> {
    let mut jobs: BTreeMap<&str, Vec<&Op<'_>>> = BTreeMap::new();
    for op in all.iter().filter(|op| op.f == f && op.is_ok()) {
        if let Some(job) = op.text("job") {
            jobs.entry(job).or_default().push(op);
        }
    }
    jobs
}

impl Checker for Catalogue {
    fn name(&self) -> &'static str {
        "catalogue"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let all = ops(history, "catalogue");
        let (fetches, details) = (by_job(&all, "fetch"), by_job(&all, "job"));
        let mut case = Case::default();
        for (job, polls) in by_job(&all, "checkpoints") {
            case.count("jobs");
            judge_order(&mut case, job, &polls);
            judge_lists(
                &mut case,
                job,
                &polls,
                details.get(job).map_or(&[], Vec::as_slice),
            );
            judge_objects(
                &mut case,
                job,
                &polls,
                fetches.get(job).map_or(&[], Vec::as_slice),
            );
            judge_restores(
                &mut case,
                job,
                &polls,
                details.get(job).map_or(&[], Vec::as_slice),
            );
        }
        case.finish(
            self.name(),
            "completed checkpoints are kept and whole",
            &["checkpoints"],
        )
    }
}
