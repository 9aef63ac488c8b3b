//! What the leader knows from its workers' heartbeats alone: not replicated, learnt again by every new leader.
//!
//! The leader publishes a [`LiveView`]; REST and metrics read it. On a follower it is empty.

use holdfast_common::clock::UnixMillis;
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId, LeaderEpoch, VertexId};
use holdfast_proto::control::TaskReport;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// What the leader sees now.
#[derive(Debug, Clone, Default)]
pub struct LiveView {
    /// Under which claim; `None` while this coordinator does not lead.
    pub epoch: Option<LeaderEpoch>,
    /// Attached workers by resource id.
    pub workers: BTreeMap<String, LiveWorker>,
    /// Jobs with an attempt that the leader watches.
    pub jobs: BTreeMap<JobId, LiveJob>,
}

/// An attached worker.
#[derive(Debug, Clone)]
pub struct LiveWorker {
    /// Its process.
    pub incarnation: Incarnation,
    /// When its last heartbeat came.
    pub heartbeat_ms: UnixMillis,
    /// Slots without a task.
    pub free_slots: u32,
}

/// A job's attempt as its workers report it.
#[derive(Debug, Clone)]
pub struct LiveJob {
    /// The attempt.
    pub attempt: AttemptId,
    /// Newest report of every subtask.
    pub tasks: BTreeMap<(VertexId, u32), LiveTask>,
    /// The checkpoint in flight.
    pub pending: Option<PendingCheckpoint>,
}

/// A subtask.
#[derive(Debug, Clone)]
pub struct LiveTask {
    /// Where it runs.
    pub worker: String,
    /// Its status and counters.
    pub report: TaskReport,
}

/// A checkpoint in flight.
#[derive(Debug, Clone)]
pub struct PendingCheckpoint {
    /// Number.
    pub id: CheckpointId,
    /// When it was triggered.
    pub triggered_ms: UnixMillis,
    /// Subtasks that have acknowledged.
    pub acked: u32,
    /// Subtasks that must.
    pub expected: u32,
    /// Triggered, Writing, Proposing, Completed, Committing.
    pub phase: &'static str,
}

/// The leader's end.
pub type LivePublisher = watch::Sender<Arc<LiveView>>;
/// The readers' end.
pub type LiveReceiver = watch::Receiver<Arc<LiveView>>;
