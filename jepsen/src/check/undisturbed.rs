//! Losing a coordinator never touches the data: while only coordinators die, are paused or hand over, no job gets a new
//! attempt.

use super::Case;
use super::catalogue::by_job;
use super::faults::bands;
use super::ops::{Op, ops};
use crate::history::{Checker, Event, Finding, Verdict};
use serde_json::Value;
use std::collections::BTreeSet;

/// The checker.
pub struct Undisturbed;

/// Faults that meet coordinators only and leave every worker a coordinator to talk to.
const HARMLESS: [&str; 10] = [
    "kill-leader",
    "kill-follower",
    "kill-majority",
    "kill-double",
    "term-leader",
    "transfer-leader",
    "pause-leader",
    "pause-follower",
    "freeze-leader",
    "power-loss",
];

fn texts<'h>(op: &Op<'h>) -> Vec<&'h str> {
    let list = op.field("texts").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

impl Checker for Undisturbed {
    fn name(&self) -> &'static str {
        "undisturbed"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        let of_workers = |targets: &[String]| targets.iter().any(|t| !t.starts_with('c'));
        for band in bands(history).iter().filter(|b| b.outcome != "skipped") {
            if !HARMLESS.contains(&band.name.as_str()) || of_workers(&band.targets) || band.targets.is_empty()
            {
                let verdict = Verdict::Valid;
                case.count("other faults");
                return case.finish_as(
                    self.name(),
                    verdict,
                    format!("{} may restart jobs: not judged", band.name),
                );
            }
            case.count("faults");
        }
        let all = ops(history, "catalogue");
        let exceptions = by_job(&all, "exceptions");
        for (job, details) in by_job(&all, "job") {
            let attempts: BTreeSet<u64> = details.iter().filter_map(|d| d.number("attempt_id")).collect();
            case.add("sights", details.len() as u64);
            if attempts.len() <= 1 {
                continue;
            }
            let told: Vec<&str> = exceptions
                .get(job)
                .into_iter()
                .flatten()
                .flat_map(|op| texts(op))
                .collect();
            if told.iter().any(|text| text.contains("is lost")) {
                // Silence beyond `heartbeat.timeout`: on a machine that starves workers, that is right.
                case.count("jobs that lost a worker");
                case.remark(format!(
                    "job {job} had the attempts {attempts:?}: {}",
                    told.join("; ")
                ));
            } else {
                case.violation(format!(
                    "job {job} had the attempts {attempts:?} although only coordinators were met: {told:?}"
                ));
            }
        }
        if case.violations() == 0 && case.counted("jobs that lost a worker") > 0 {
            return case.finish_as(
                self.name(),
                Verdict::Valid,
                "workers were lost without a fault of theirs: not judged",
            );
        }
        case.finish(
            self.name(),
            "the loss of coordinators restarts no job",
            &["sights"],
        )
    }
}
