//! What REST answers, as pure functions from the replicated state and the leader's live view to serde structs with
//! Flink's field names.
//!
//! Nothing here waits, does IO, knows HTTP or asks Raft. The same structs are read back by the command line.

pub mod checkpoints;
pub mod cluster;
pub mod jobs;
pub mod plan;
pub mod tasks;
pub mod workers;

#[cfg(test)]
pub(crate) mod fixture;

use crate::live::LiveView;
use holdfast_common::clock::UnixMillis;
use holdfast_machine::state::State;

/// What every answer is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Scene<'a> {
    /// What the log has decided.
    pub state: &'a State,
    /// What the leader hears from its workers; empty on a follower.
    pub live: &'a LiveView,
    /// This coordinator's clock.
    pub now_ms: UnixMillis,
}

/// Flink writes -1 for a time that has not come.
pub(crate) fn time_or_minus_one(at: Option<UnixMillis>) -> i64 {
    at.map_or(-1, |ms| i64::try_from(ms).unwrap_or(i64::MAX))
}
