//! What the agent hands to the engine and what it gets back: plain types. Must not know threads, sockets or operators.

use super::capture::CapturedState;
use holdfast_common::config::Configuration;
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId, VertexId};
use holdfast_dataflow::connector::{Committable, PrepareJob};
use holdfast_dataflow::graph::JobGraph;
use holdfast_proto::control::TaskStatus;
use holdfast_proto::snapshot::SubtaskState;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// What an engine is started with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Slot threads.
    pub slots: u32,
    /// Address that the data port binds.
    pub bind: IpAddr,
    /// Data port; 0 picks a free one.
    pub data_port: u16,
    /// Host that peers dial.
    pub advertise_host: String,
    /// Directory for temporary files of sinks.
    pub tmp_dir: PathBuf,
    /// This start of this process.
    pub incarnation: Incarnation,
}

/// Where a slot of a job lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotPlace {
    /// The worker's process.
    pub incarnation: Incarnation,
    /// Where it takes data, `host:port`.
    pub data_addr: String,
}

/// One attempt's tasks on this worker.
#[derive(Debug, Clone)]
pub struct Deployment {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The job's graph; the agent has checked its fingerprint.
    pub graph: Arc<JobGraph>,
    /// The job's settings over the cluster's.
    pub settings: Configuration,
    /// Every slot of the job: subtask `i` of every vertex runs in slot `i`.
    pub slots: Vec<SlotPlace>,
    /// Which of `slots` are here.
    pub my_slots: Vec<u32>,
    /// State to start from; `None` starts fresh.
    pub restore: Option<RestoreState>,
}

/// A checkpoint's state, as far as this worker's vertices need it.
#[derive(Debug, Clone)]
pub struct RestoreState {
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// By vertex.
    pub vertices: BTreeMap<VertexId, VertexRestore>,
}

/// The state of all former subtasks of one vertex.
#[derive(Debug, Clone, Default)]
pub struct VertexRestore {
    /// Number of subtasks that wrote it.
    pub old_parallelism: u32,
    /// Former subtask and its state, all of them.
    pub parts: Vec<(u32, SubtaskState)>,
}

/// Events of an engine, in order per task.
pub type EngineEvents = tokio::sync::mpsc::Receiver<EngineEvent>;

/// What happened in a task.
pub enum EngineEvent {
    /// A task changed its status.
    TaskStatus {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
        /// The vertex.
        vertex: VertexId,
        /// The subtask.
        subtask: u32,
        /// The new status.
        status: TaskStatus,
        /// Why, for FAILED.
        error: Option<String>,
    },
    /// A task captured its state at a barrier.
    Snapshot {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The vertex.
        vertex: VertexId,
        /// The subtask.
        subtask: u32,
        /// The state, to be written and made durable.
        state: CapturedState,
        /// By sink uid, what must run for the output to be durable; the results go into the acknowledgement and to
        /// [`super::Engine::prepared`]. If one fails, the agent calls [`super::Engine::fail_task`].
        prepares: Vec<(String, PrepareJob)>,
        /// By sink uid, what earlier checkpoints prepared that never completed; goes into the acknowledgement too.
        pending: Vec<(String, Vec<Committable>)>,
        /// Microseconds that the task stood still.
        sync_us: u32,
        /// Milliseconds from the first barrier to the last.
        alignment_ms: u32,
    },
    /// A task cannot take part in a checkpoint.
    Declined {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The vertex.
        vertex: VertexId,
        /// The subtask.
        subtask: u32,
        /// Why.
        reason: String,
    },
}

impl fmt::Debug for EngineEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TaskStatus {
                vertex,
                subtask,
                status,
                error,
                ..
            } => {
                write!(f, "TaskStatus({vertex}/{subtask} {status:?} {error:?})")
            }
            Self::Snapshot {
                checkpoint,
                vertex,
                subtask,
                prepares,
                pending,
                ..
            } => write!(
                f,
                "Snapshot({vertex}/{subtask} checkpoint {checkpoint}, {} prepares, {} sinks pending)",
                prepares.len(),
                pending.len()
            ),
            Self::Declined {
                checkpoint,
                vertex,
                subtask,
                reason,
                ..
            } => {
                write!(
                    f,
                    "Declined({vertex}/{subtask} checkpoint {checkpoint}: {reason})"
                )
            }
        }
    }
}

/// Why the engine refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The data port could not be bound, or a thread not started.
    #[error("cannot start the engine: {0}")]
    Start(String),
    /// The deployment contradicts itself or this worker.
    #[error("deployment refused: {0}")]
    Invalid(String),
    /// The state does not fit the job, or is damaged.
    #[error("cannot restore: {0}")]
    Restore(String),
    /// A connector could not be opened.
    #[error("cannot open a connector: {0}")]
    Connector(String),
    /// A peer could not be reached in time, or refused.
    #[error("cannot connect the exchange: {0}")]
    Connect(String),
}

impl EngineError {
    /// The same, naming the operator that it is about.
    pub(super) fn at_operator(self, name: &str) -> Self {
        match self {
            Self::Invalid(e) => Self::Invalid(format!("operator '{name}': {e}")),
            Self::Restore(e) => Self::Restore(format!("operator '{name}': {e}")),
            Self::Connector(e) => Self::Connector(format!("operator '{name}': {e}")),
            other => other,
        }
    }
}
