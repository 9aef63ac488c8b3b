//! Deterministic simulation: whole clusters that live through faults in virtual time, decided by one seed.
//!
//! [`core`] runs the pure parts (the state machine, the leader's core, the worker's ledger, aligner and sink operator)
//! over an ideal replicated log, thousands of lives a minute. Unlike the rest of this harness it knows the product from
//! within: it looks at what no user can see.

pub mod command;
pub mod core;
pub mod full;
pub mod mutants;
pub mod regressions;

use std::collections::BTreeMap;

/// How a seed is run.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Print every event as it happens.
    pub trace: bool,
    /// Length of the phase with faults, in seconds of virtual time; 0: as the seed decides.
    pub virtual_seconds: u64,
}

/// What became of a seed.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Of everything that happened, in order: equal for equal seeds.
    pub hash: u64,
    /// Invariants that did not hold; none is expected.
    pub violations: Vec<Violation>,
    /// What happened how often.
    pub counts: BTreeMap<&'static str, u64>,
    /// The last events before the first violation, for people.
    pub tail: Vec<String>,
}

/// An invariant that did not hold.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Violation {
    /// Which, by its stable name.
    pub invariant: String,
    /// What was found.
    pub detail: String,
    /// When, in milliseconds of virtual time.
    pub at_ms: u64,
}
