//! What can be proposed to the log, and what the log answers.

use crate::state::{Failure, JobStatus, KvEntry, SlotAssignment};
use holdfast_common::clock::UnixMillis;
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId};
use prost::bytes::Bytes;
use std::collections::BTreeMap;

/// One entry of the log, as the application sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// The proposer's clock. The state's time is the maximum over all entries.
    pub proposed_ms: UnixMillis,
    /// Client and sequence number: applied once however often it is proposed.
    pub session: Option<SessionSeq>,
    /// What is to happen.
    pub command: Command,
}

/// A client's session and the number of its request within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionSeq {
    /// The session: the log index of its `OpenSession`.
    pub session: u64,
    /// Increasing per session. A number at or below the acknowledged watermark is refused.
    pub seq: u64,
    /// Every response up to this number has reached the client and may be forgotten.
    pub acked_up_to: u64,
}

/// What can happen. Commands with `epoch` are a leader's and are refused unless the epoch is the current one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// The first command: names the cluster. Later ones change nothing.
    InitCluster {
        /// Drawn by the proposer.
        cluster_id: ClusterId,
        /// The configured name.
        name: String,
    },
    /// A leader claims its role; the entry's index becomes the epoch.
    ClaimLeader {
        /// The new leader.
        node: NodeId,
        /// Its process.
        incarnation: Incarnation,
    },
    /// A client opens a session; the entry's index becomes its number.
    OpenSession {
        /// For people.
        client: String,
    },
    /// Raises the cluster's feature level (never lowers it). Only to what every member supports.
    SetFeatureLevel {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// The new level.
        level: u32,
    },
    /// A worker is there.
    RegisterWorker {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// The worker.
        worker: crate::state::Worker,
    },
    /// A worker is gone. Ignored if another incarnation has registered since.
    RemoveWorker {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Its name.
        resource_id: String,
        /// Which process.
        incarnation: Incarnation,
        /// Why.
        reason: String,
    },
    /// A job is submitted. With a key that was used before, the earlier job is answered.
    SubmitJob {
        /// Drawn by the proposer.
        job: JobId,
        /// For people.
        name: String,
        /// The whole script.
        sql: String,
        /// All job settings in force, resolved at submission.
        settings: BTreeMap<String, String>,
        /// Of the planned graph.
        fingerprint: String,
        /// Slots it needs.
        parallelism: u32,
        /// Key groups.
        max_parallelism: u32,
        /// The submitter's key.
        idempotency_key: Option<String>,
    },
    /// A user cancels a job.
    CancelJob {
        /// Which.
        job: JobId,
    },
    /// A new attempt of a job; the entry's index becomes its number. From here on acknowledgements of older attempts
    /// count for nothing.
    StartAttempt {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// The attempt that is replaced: refused if another is current.
        replaces: Option<AttemptId>,
        /// Slot i runs subtask i of every vertex.
        assignment: Vec<SlotAssignment>,
        /// The checkpoint to restore.
        restore: Option<CheckpointId>,
    },
    /// All tasks of the attempt run.
    AttemptRunning {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// Which attempt.
        attempt: AttemptId,
    },
    /// The attempt has failed (or lost a worker). The job restarts, unless `terminal`.
    AttemptFailed {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// Which attempt; `None` if it failed before the first one.
        attempt: Option<AttemptId>,
        /// What happened.
        failure: Failure,
        /// The restart strategy is exhausted: the job is FAILED.
        terminal: bool,
        /// When the restart strategy wants the next attempt, ms since the epoch.
        restart_at_ms: UnixMillis,
        /// As in [`Command::EndJob`], if `terminal`.
        last_reports: Bytes,
    },
    /// Takes the next block of checkpoint numbers.
    ReserveCheckpoints {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// How many.
        count: u64,
    },
    /// The checkpoint is complete: this entry is its commit point.
    CompleteCheckpoint {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// By which attempt; refused unless current.
        attempt: AttemptId,
        /// The record.
        checkpoint: crate::state::Checkpoint,
    },
    /// The checkpoint's sinks have committed.
    CommitDone {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// Which checkpoint.
        checkpoint: CheckpointId,
    },
    /// A checkpoint did not complete; for statistics and the tolerable number.
    CheckpointFailed {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// Which checkpoint.
        checkpoint: CheckpointId,
        /// When it was triggered.
        triggered_ms: UnixMillis,
        /// Why.
        reason: String,
    },
    /// Checkpoints are no longer retained; their objects may go.
    RetireCheckpoints {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// Which.
        checkpoints: Vec<CheckpointId>,
    },
    /// The objects of retired checkpoints are gone.
    ForgetCheckpoints {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// Which.
        checkpoints: Vec<CheckpointId>,
    },
    /// A retained checkpoint cannot be restored; it is passed over from now on.
    CheckpointDamaged {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// Which.
        checkpoint: CheckpointId,
        /// What was found.
        reason: String,
    },
    /// The job is over.
    EndJob {
        /// Current leader's epoch.
        epoch: LeaderEpoch,
        /// Which job.
        job: JobId,
        /// FINISHED, CANCELED or FAILED.
        status: JobStatus,
        /// Why, if FAILED.
        reason: String,
        /// What workers reported last of its tasks, for people; nothing here looks into it.
        last_reports: Bytes,
    },
    /// Writes a key of the small key-value space that users and drills have.
    KvPut {
        /// The key.
        key: String,
        /// The value.
        value: Bytes,
        /// Only if the entry's revision is this (0: only if absent).
        if_revision: Option<u64>,
    },
    /// Deletes a key.
    KvDelete {
        /// The key.
        key: String,
    },
}

/// What the log answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// Done; nothing to tell.
    Done,
    /// The cluster's identity (the first one).
    Cluster(ClusterId),
    /// The new epoch.
    Epoch(LeaderEpoch),
    /// The new session.
    Session(u64),
    /// The job, and whether it had been submitted before under the same key.
    Submitted {
        /// The job.
        job: JobId,
        /// It existed already.
        existing: bool,
    },
    /// The new attempt.
    Attempt(AttemptId),
    /// The first number of the block.
    Checkpoints(CheckpointId),
    /// The key after a put.
    Kv(KvEntry),
    /// Not done, and why. The state is unchanged but for its time.
    Rejected(Rejection),
}

/// Why a command was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Another leader has claimed its role since.
    #[error("leader epoch {given} is over: the current one is {current}")]
    StaleEpoch {
        /// The command's.
        given: LeaderEpoch,
        /// The state's.
        current: LeaderEpoch,
    },
    /// Another attempt is current.
    #[error("attempt {given:?} is not current: the current one is {current:?}")]
    StaleAttempt {
        /// The command's.
        given: Option<AttemptId>,
        /// The state's.
        current: Option<AttemptId>,
    },
    /// No such job, checkpoint, worker or session.
    #[error("{0}")]
    NotFound(String),
    /// The state does not allow it.
    #[error("{0}")]
    Conflict(String),
    /// Over a limit.
    #[error("{0}")]
    Limit(String),
    /// The session's answer to this request is no longer known; it may have been applied.
    #[error("request {seq} of session {session} was acknowledged before and its answer is forgotten")]
    Forgotten {
        /// The session.
        session: u64,
        /// The request.
        seq: u64,
    },
    /// The compare of a compare-and-set did not hold.
    #[error("revision is {current}, not {expected}")]
    Revision {
        /// The command's.
        expected: u64,
        /// The state's; 0 if absent.
        current: u64,
    },
}
