//! No process dies of itself: every exit that no fault explains, every panic and every broken invariant is a finding.

use super::Case;
use crate::history::{Checker, Event, Finding};
use serde_json::Value;

/// The checker.
pub struct Crash;

/// What in a node's log is a finding.
#[must_use]
pub fn is_alarming(line: &str) -> bool {
    const WORDS: [&str; 5] = [
        "panicked at",
        "invariant",
        "the coordinators' states differ",
        "committed rows are lost",
        "stack overflow",
    ];
    WORDS.iter().any(|word| line.contains(word))
}

impl Checker for Crash {
    fn name(&self) -> &'static str {
        "crash"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        for event in history.iter().filter(|e| e.workload == "cluster") {
            match event.f.as_str() {
                "start" => case.count("starts"),
                "exit" => {
                    case.count("exits");
                    if event.value.get("expected").and_then(Value::as_bool) == Some(false) {
                        case.violation(format!(
                            "{:.1} ms: {} ended of itself: {}",
                            super::ops::ms(event.t),
                            event.process,
                            event.error.as_deref().unwrap_or("no reason known")
                        ));
                    }
                }
                "log" | "panic" => {
                    let line = event.text("line").or(event.error.as_deref()).unwrap_or_default();
                    if event.f == "panic" || is_alarming(line) {
                        case.violation(format!("{}: {line}", event.process));
                    }
                }
                _ => {}
            }
        }
        case.finish(self.name(), "no process ends of itself", &["starts"])
    }
}
