//! The record of a run: what clients, readers and faults did, on one clock, one JSON line an event.
//!
//! Checkers read nothing else, so a stored history can be checked again. All processes of a run share one kernel, hence one
//! monotonic clock: the order of times is real-time order.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Nanoseconds of `CLOCK_MONOTONIC` since the run began.
pub type Nanos = u64;

/// What is known of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// It was sent.
    Invoke,
    /// It took effect, as the answer says.
    Ok,
    /// It certainly had no effect.
    Fail,
    /// Nobody knows: it may take effect at any time from its invocation on.
    Info,
    /// Not an operation: something seen or done by the harness.
    Note,
}

/// One line of a history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When.
    pub t: Nanos,
    /// Who: `kv-3`, `jobs-0`, `reader`, `nemesis`, `node:c1`.
    pub process: String,
    /// What is known.
    pub kind: Kind,
    /// Which workload it belongs to: `register`, `jobs`, `catalogue`, `eos`, `nemesis`, `cluster`.
    pub workload: String,
    /// The operation: `read`, `write`, `cas`, `submit`, `cancel`, `partition`, ...
    pub f: String,
    /// Number of the operation: ties an answer to its invocation. Unique within a run; 0 for notes.
    #[serde(default)]
    pub op: u64,
    /// Arguments and results by name, as the workload defines them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub value: BTreeMap<String, serde_json::Value>,
    /// Why it failed or is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What a checker says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every promise that it checks was kept.
    Valid,
    /// It could not tell: too little time, or nothing happened that could have broken the promise.
    Unknown,
    /// A promise was broken.
    Invalid,
}

/// A checker's finding.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finding {
    /// The checker's name: `register-wgl`, `jobs`, `catalogue`, `eos`, `liveness`, `coverage`, ...
    pub checker: String,
    /// Its verdict.
    pub verdict: Verdict,
    /// In one sentence, with numbers.
    pub summary: String,
    /// Counts by name (operations, rows, checkpoints...), for tables.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// The events or rows that break the promise; at most a hundred lines.
    #[serde(default)]
    pub evidence: Vec<String>,
}

/// Judges a finished history. Pure: no IO, no clock.
pub trait Checker {
    /// Its name, as findings and the table of seeded bugs give it.
    fn name(&self) -> &'static str;
    /// Its judgement.
    fn check(&self, history: &[Event]) -> Finding;
}
