//! The state: what the log has decided so far. Fields are public to read; only `apply` changes them.

use holdfast_common::clock::UnixMillis;
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId};
use imbl::OrdMap;
use prost::bytes::Bytes;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Everything that is replicated. A copy takes next to no time, however much there is: the large maps share what they
/// have in common, and a job is copied when it changes while a copy is held. Snapshots and digests live on that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// The last entry applied.
    pub applied: u64,
    /// Greatest stamp of any entry.
    pub now_ms: UnixMillis,
    /// The cluster, once named.
    pub cluster: Option<Cluster>,
    /// Who leads, as the log says.
    pub leader: Option<LeaderClaim>,
    /// Features that every member supports.
    pub feature_level: u32,
    /// Workers by resource id.
    pub workers: BTreeMap<String, Worker>,
    /// Jobs, ended ones included.
    pub jobs: BTreeMap<JobId, Arc<Job>>,
    /// Idempotency keys of submissions.
    pub submissions: BTreeMap<String, JobId>,
    /// Client sessions.
    pub sessions: OrdMap<u64, Session>,
    /// The users' key-value space.
    pub kv: OrdMap<String, KvEntry>,
}

/// The cluster's identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Unique.
    pub id: ClusterId,
    /// Configured.
    pub name: String,
    /// When it was named.
    pub created_ms: UnixMillis,
}

/// The newest claim of leadership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaderClaim {
    /// Its fencing number.
    pub epoch: LeaderEpoch,
    /// Who.
    pub node: NodeId,
    /// Which process.
    pub incarnation: Incarnation,
}

/// A registered worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// Stable name.
    pub resource_id: String,
    /// Its process.
    pub incarnation: Incarnation,
    /// Where other workers reach it for data.
    pub data_addr: String,
    /// Slots.
    pub slots: u32,
    /// Its build.
    pub version: String,
    /// Its operating-system process.
    pub pid: u32,
    /// When it registered.
    pub registered_ms: UnixMillis,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Identity.
    pub id: JobId,
    /// For people.
    pub name: String,
    /// The script.
    pub sql: String,
    /// Settings in force.
    pub settings: BTreeMap<String, String>,
    /// Of the plan.
    pub fingerprint: String,
    /// Slots it needs.
    pub parallelism: u32,
    /// Key groups.
    pub max_parallelism: u32,
    /// Where it stands.
    pub status: JobStatus,
    /// When it came to stand there.
    pub status_ms: UnixMillis,
    /// When it was submitted.
    pub submitted_ms: UnixMillis,
    /// When it ended.
    pub ended_ms: Option<UnixMillis>,
    /// The current attempt.
    pub attempt: Option<Attempt>,
    /// Attempts so far; `attempts - 1` restarts.
    pub attempts: u32,
    /// Earliest start of the next attempt while RESTARTING.
    pub restart_at_ms: UnixMillis,
    /// Times of failures, newest last, for the restart strategy; bounded.
    pub failure_times_ms: VecDeque<UnixMillis>,
    /// Exceptions, newest last; bounded by [`holdfast_common::limits::EXCEPTIONS_PER_JOB`].
    pub exceptions: VecDeque<Failure>,
    /// Next checkpoint number that nobody has reserved.
    pub next_checkpoint: CheckpointId,
    /// Completed checkpoints that are retained or retired but not yet collected.
    pub checkpoints: BTreeMap<CheckpointId, Checkpoint>,
    /// Counters and history for REST.
    pub checkpoint_stats: CheckpointStats,
    /// The key it was submitted with.
    pub idempotency_key: Option<String>,
    /// What workers had reported of its tasks when it ended, for people; empty until then, and if it was longer than
    /// [`holdfast_common::limits::LAST_REPORTS_BYTES_MAX`].
    pub last_reports: Bytes,
}

/// Where a job stands; Flink's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobStatus {
    /// Submitted; no attempt runs yet.
    Created,
    /// Deployed and running.
    Running,
    /// Failed and waiting for its next attempt, or deploying it.
    Restarting,
    /// A user cancelled it; tasks are being stopped.
    Cancelling,
    /// Its input ended and everything is committed.
    Finished,
    /// Cancelled.
    Canceled,
    /// Failed for good.
    Failed,
}

/// One deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Fencing number.
    pub id: AttemptId,
    /// 1 for the first.
    pub number: u32,
    /// Slot i runs subtask i of every vertex.
    pub assignment: Vec<SlotAssignment>,
    /// What it was restored from.
    pub restored: Option<CheckpointId>,
    /// When it was started.
    pub started_ms: UnixMillis,
    /// When all tasks ran.
    pub running_ms: Option<UnixMillis>,
}

/// A slot's worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotAssignment {
    /// The worker.
    pub resource_id: String,
    /// Its process.
    pub incarnation: Incarnation,
    /// Where other workers reach it.
    pub data_addr: String,
}

/// A checkpoint whose entry is in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Number.
    pub id: CheckpointId,
    /// By which attempt.
    pub attempt: AttemptId,
    /// Where its manifest lies.
    pub manifest_path: String,
    /// Digest of the manifest.
    pub manifest_sha256: [u8; 32],
    /// Bytes of state.
    pub state_bytes: u64,
    /// When it was triggered.
    pub triggered_ms: UnixMillis,
    /// When its entry was proposed.
    pub completed_ms: UnixMillis,
    /// The manifest lists committables.
    pub needs_commit: bool,
    /// They are committed (true if there are none).
    pub committed: bool,
    /// The job's last one: every task had ended.
    pub is_final: bool,
    /// No longer retained; objects may be deleted.
    pub retired: bool,
    /// Found unreadable.
    pub damaged: bool,
}

/// Counters and history of a job's checkpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckpointStats {
    /// Entries in the log.
    pub completed: u64,
    /// Failed ones.
    pub failed: u64,
    /// Failed since the last completed one.
    pub failed_in_a_row: u32,
    /// Restores.
    pub restored: u64,
    /// Greatest number that ever completed, though it may be forgotten; 0 if none has.
    pub newest_completed: CheckpointId,
    /// Newest last; bounded by [`holdfast_common::limits::CHECKPOINT_HISTORY`].
    pub history: VecDeque<CheckpointOutcome>,
}

/// One line of the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointOutcome {
    /// Number.
    pub id: CheckpointId,
    /// When it was triggered.
    pub triggered_ms: UnixMillis,
    /// When it was decided.
    pub ended_ms: UnixMillis,
    /// Bytes of state, if completed.
    pub state_bytes: u64,
    /// Why it failed; `None` if completed.
    pub failure: Option<String>,
}

/// What made an attempt fail, or an event that users must hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at_ms: UnixMillis,
    /// Attempt number (1 for the first), 0 if before.
    pub attempt_number: u32,
    /// Which task, as people name it.
    pub task: String,
    /// On which worker.
    pub worker: String,
    /// What happened, to what, and what to do about it.
    pub message: String,
}

/// A client session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// For people.
    pub client: String,
    /// Every answer up to here is forgotten.
    pub acked_up_to: u64,
    /// Answers that may still be asked for.
    pub responses: BTreeMap<u64, crate::command::Response>,
    /// Last use, for eviction.
    pub used_at: u64,
}

/// A value of the key-value space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvEntry {
    /// The value.
    pub value: Bytes,
    /// Log index of the write.
    pub revision: u64,
}

impl JobStatus {
    /// Nothing will ever happen to the job again.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Finished | Self::Canceled | Self::Failed)
    }

    /// As Flink's REST interface writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Running => "RUNNING",
            Self::Restarting => "RESTARTING",
            Self::Cancelling => "CANCELLING",
            Self::Finished => "FINISHED",
            Self::Canceled => "CANCELED",
            Self::Failed => "FAILED",
        }
    }
}

impl Job {
    /// The checkpoint that the next attempt restores: the newest that is retained and not damaged.
    #[must_use]
    pub fn latest_restorable(&self) -> Option<&Checkpoint> {
        self.checkpoints.values().rev().find(|c| !c.retired && !c.damaged)
    }
}
