//! Whether a run could have shown anything: faults that bit, operations that were answered. A run without is vacuous, not
//! valid.
//!
//! And its opposite, [`Control`]: in a run without faults nothing may fail at all.

use super::Case;
use super::faults::{Band, bands};
use super::ops::{Op, ops};
use crate::history::{Checker, Event, Finding, Kind, Verdict};

/// How the reason of a refusal begins that every coordinator but one gives: no failure.
pub const NOT_THE_LEADER: &str = "not the leader: ";

/// The checker of runs with faults.
pub struct Coverage;

/// The checker of runs without.
pub struct Control;

/// The highest term that anybody reported before and after a moment.
fn terms(cluster: &[Op<'_>], t: u64) -> (u64, u64) {
    let term = |op: &Op<'_>| op.number("term").unwrap_or(0);
    let before = cluster
        .iter()
        .filter(|op| op.is_ok() && op.end <= t)
        .map(term)
        .max()
        .unwrap_or(0);
    let after = cluster
        .iter()
        .filter(|op| op.is_ok() && op.start >= t)
        .map(term)
        .max()
        .unwrap_or(0);
    (before, after)
}

/// Long enough for any timing profile to elect: shorter pauses and partitions need not be noticed.
const NOTICED_NS: u64 = 3_000_000_000;

/// Whether an installed fault had the effect that its name promises; `None` if that cannot be told.
fn bit(band: &Band, history: &[Event], cluster: &[Op<'_>]) -> Option<bool> {
    if band.effect.is_some() {
        return band.effect;
    }
    let ended = |target: &String| {
        let process = format!("node:{target}");
        let exits = history
            .iter()
            .filter(|e| e.workload == "cluster" && e.f == "exit" && e.process == process);
        exits
            .map(|e| e.t)
            .any(|t| t + 1_000_000_000 >= band.start && t <= band.end + 1_000_000_000)
    };
    let kills = ["kill-", "term-", "power-loss"]
        .iter()
        .any(|word| band.name.starts_with(word));
    if kills && !band.targets.is_empty() {
        return Some(band.targets.iter().any(ended));
    }
    let unseats = ["partition-leader", "pause-leader", "freeze-leader"].contains(&band.name.as_str());
    if unseats && band.end - band.start >= NOTICED_NS && !cluster.is_empty() {
        let (before, after) = terms(cluster, band.start);
        return Some(before == 0 || after > before);
    }
    None
}

impl Checker for Coverage {
    fn name(&self) -> &'static str {
        "coverage"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        let bands = bands(history);
        let mut cluster = ops(history, "catalogue");
        cluster.retain(|op| op.f == "cluster");
        for band in &bands {
            case.count(&format!("faults {}", band.outcome));
            if !band.installed() {
                continue;
            }
            case.count(&format!("fault {}", band.name));
            match bit(band, history, &cluster) {
                Some(true) => case.count("faults that bit"),
                Some(false) => {
                    case.count("faults without effect");
                    case.remark(format!("{} on {:?} had no effect", band.name, band.targets));
                }
                None => {}
            }
        }
        let answered = history.iter().filter(|e| e.kind == Kind::Ok).count() as u64;
        case.add("operations answered", answered);
        case.add(
            "rows seen files",
            history.iter().filter(|e| e.f == "visible").count() as u64,
        );
        let planned = history
            .iter()
            .any(|e| e.workload == "nemesis" && e.f == "control");
        let installed = case.counted("faults installed");
        let without_effect = case.counted("faults without effect");
        let (verdict, summary) = if answered == 0 {
            (Verdict::Unknown, "no operation was answered")
        } else if planned {
            (Verdict::Valid, "a control run")
        } else if installed == 0 {
            (Verdict::Unknown, "no fault was installed")
        } else if without_effect == installed {
            (Verdict::Unknown, "no fault had an effect")
        } else {
            (Verdict::Valid, "faults were installed and operations answered")
        };
        case.finish_as(self.name(), verdict, summary)
    }
}

impl Checker for Control {
    fn name(&self) -> &'static str {
        "control"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        if bands(history).iter().any(Band::installed) {
            return case.finish_as(
                self.name(),
                Verdict::Unknown,
                "faults were installed: this is no control run",
            );
        }
        for workload in ["register", "jobs"] {
            for op in ops(history, workload) {
                case.count("operations");
                let reason = op.done.and_then(|d| d.error.as_deref()).unwrap_or_default();
                let expected = op.number("mismatch").is_some() || reason.starts_with(NOT_THE_LEADER);
                // A repeated request has had its effect before, whoever refuses it now.
                let refused = (op.kind == Kind::Fail || op.f == "repeat") && expected;
                if !op.is_ok() && !refused && op.done.is_some() {
                    case.violation(format!("failed without a fault: {}", op.told()));
                }
            }
        }
        let all = ops(history, "catalogue");
        for op in all
            .iter()
            .filter(|op| op.f == "job" && op.number("attempt").unwrap_or(0) > 1)
        {
            case.violation(format!("a restart without a fault: {}", op.told()));
        }
        let terms: std::collections::BTreeSet<u64> = all
            .iter()
            .filter(|op| op.f == "cluster" && op.number("leader").is_some())
            .filter_map(|op| op.number("term"))
            .collect();
        if terms.len() > 1 {
            case.violation(format!("elections without a fault: terms {terms:?}"));
        }
        case.finish(self.name(), "nothing fails without a fault", &["operations"])
    }
}
