//! At most one effective attempt per task: attempt numbers never go back, and the results of one checkpoint come from one
//! attempt only, later checkpoints never from an earlier attempt.

use super::Case;
use super::catalogue::by_job;
use super::ops::{Op, ops, sweep};
use super::visible::parse_name;
use crate::history::{Checker, Event, Finding};
use std::collections::{BTreeMap, BTreeSet};

/// The checker.
pub struct Attempts;

fn judge_numbers(case: &mut Case, job: &str, details: &[&Op<'_>]) {
    let mut id_of: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for op in details {
        if let (Some(number), Some(id)) = (op.number("attempt"), op.number("attempt_id")) {
            id_of.entry(number).or_default().insert(id);
        }
    }
    for (number, ids) in id_of.iter().filter(|(_, ids)| ids.len() > 1) {
        case.violation(format!("job {job}: attempt number {number} was {ids:?}"));
    }
    case.add("attempts", id_of.len() as u64);
    let owned: Vec<Op<'_>> = details.iter().map(|op| (*op).clone()).collect();
    sweep(
        &owned,
        |floor: &mut (u64, u64, u64), op| {
            let seen = (
                op.number("attempt_id").unwrap_or(0),
                op.number("attempt").unwrap_or(0),
                op.id,
            );
            *floor = seen.max(*floor);
        },
        |op, floor| {
            case.count("sights");
            // An ended job no longer has an attempt.
            let Some(id) = op.number("attempt_id") else { return };
            if id < floor.0 || op.number("attempt").unwrap_or(0) < floor.1 {
                case.violation(format!(
                    "job {job} had attempt {} (number {}) for operation #{}, and then {}",
                    floor.0,
                    floor.1,
                    floor.2,
                    op.told()
                ));
            }
        },
    );
}

/// Attempts by job, sink and checkpoint, from the names of visible files.
fn judge_files(case: &mut Case, history: &[Event]) {
    let mut by_checkpoint: BTreeMap<(String, String), BTreeMap<u64, BTreeSet<u64>>> = BTreeMap::new();
    for event in history.iter().filter(|e| e.f == "visible") {
        let Some(name) = event.text("file").and_then(parse_name) else {
            continue;
        };
        case.count("files");
        let key = (name.job.to_owned(), name.sink.to_owned());
        let attempts = by_checkpoint
            .entry(key)
            .or_default()
            .entry(name.checkpoint)
            .or_default();
        attempts.insert(name.attempt);
    }
    for ((job, sink), checkpoints) in by_checkpoint {
        let mut newest = 0;
        for (checkpoint, attempts) in checkpoints {
            if attempts.len() > 1 {
                case.violation(format!(
                    "job {job}, sink {sink}: checkpoint {checkpoint} has files of the attempts {attempts:?}"
                ));
            }
            let (first, last) = (attempts.first().copied(), attempts.last().copied());
            if first.is_some_and(|first| first < newest) {
                case.violation(format!(
                    "job {job}, sink {sink}: checkpoint {checkpoint} is of attempt {first:?}, an earlier one of {newest}"
                ));
            }
            newest = last.unwrap_or(0).max(newest);
        }
    }
}

impl Checker for Attempts {
    fn name(&self) -> &'static str {
        "attempts"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        let mut all = ops(history, "catalogue");
        let mut gets = ops(history, "jobs");
        gets.retain(|op| op.f == "get");
        let from_jobs = by_job(&gets, "get");
        for (job, details) in &from_jobs {
            judge_numbers(&mut case, job, details);
        }
        all.retain(|op| op.f == "job");
        for (job, details) in by_job(&all, "job") {
            judge_numbers(&mut case, job, &details);
        }
        judge_files(&mut case, history);
        case.finish(
            self.name(),
            "at most one attempt is effective",
            &["sights", "files"],
        )
    }
}
