//! All coordinators hold the same state: what each answers from its own memory after healing is the same for every key, and no
//! coordinator has found another one's digest to differ.

use super::Case;
use super::ops::{Op, ops};
use crate::history::{Checker, Event, Finding};
use std::collections::{BTreeMap, BTreeSet};

/// The checker.
pub struct Digests;

impl Checker for Digests {
    fn name(&self) -> &'static str {
        "digests"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        let all = ops(history, "register");
        let mut keys: BTreeMap<&str, Vec<&Op<'_>>> = BTreeMap::new();
        for op in all.iter().filter(|op| op.f == "final" && op.is_ok()) {
            case.count("answers");
            if let Some(key) = op.text("key") {
                keys.entry(key).or_default().push(op);
            }
        }
        for (key, answers) in keys {
            case.count("keys");
            // One that lags behind still is asked again by the workload; what it answers now may be old, never different.
            let newest = answers
                .iter()
                .filter_map(|a| a.number("revision"))
                .max()
                .unwrap_or(0);
            let caught_up = answers
                .iter()
                .filter(|a| a.number("applied").unwrap_or(0) >= newest);
            let states: BTreeSet<(Option<&str>, Option<u64>)> = caught_up
                .map(|a| (a.text("value"), a.number("revision")))
                .collect();
            if states.len() > 1 {
                case.violation(format!("key {key} differs between coordinators: {states:?}"));
            }
        }
        // Coordinators compare their digests themselves while they run, and say so in their logs if they differ.
        let starts = history
            .iter()
            .filter(|e| e.workload == "cluster" && e.f == "start");
        case.add(
            "coordinators started",
            starts.filter(|e| e.process.starts_with("node:c")).count() as u64,
        );
        let differs = |line: &&str| line.contains("the coordinators' states differ");
        for event in history.iter().filter(|e| e.workload == "cluster") {
            let text = event.text("line").or(event.error.as_deref()).filter(differs);
            if let Some(text) = text {
                case.violation(format!("{}: {text}", event.process));
            }
        }
        case.finish(
            self.name(),
            "coordinators hold the same state",
            &["answers", "coordinators started"],
        )
    }
}
