//! What is known of a run, for reports and the index.

use crate::history::Verdict;
use crate::plan::Plan;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A node of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeInfo {
    /// `c1`, `w2`, `obj`.
    pub name: String,
    /// `coordinator`, `worker` or `storage`.
    pub role: String,
    /// Its log.
    pub log: PathBuf,
}

/// A run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunInfo {
    /// Its seed.
    pub seed: u64,
    /// Its plan.
    pub plan: Plan,
    /// The binary under test, with its size and time of change.
    pub binary: String,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Beginning and end of each phase, in milliseconds since the run began.
    pub phases: Vec<(String, u64, u64)>,
    /// The nodes.
    pub nodes: Vec<NodeInfo>,
    /// What this machine could not do.
    pub left_out: Vec<String>,
    /// The verdict over all checkers; `Unknown` while the run goes on.
    pub verdict: Verdict,
    /// Why the harness itself failed, if it did; then there is no verdict on the product.
    pub harness_error: Option<String>,
}
