//! What reaches the leader's core, and what it wants done. Data only: no IO, no decisions.

use super::shape::Shape;
use holdfast_common::clock::UnixMillis;
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId, VertexId};
use holdfast_machine::command::{Command, Response};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::{TaskReport, TaskStatus};
use holdfast_proto::snapshot::{Manifest, ObjectRef, SinkCommittables};
use std::collections::{BTreeMap, BTreeSet};

/// One stream of one worker to this leader.
pub type SessionId = u64;
/// One subtask of one vertex.
pub type TaskKey = (VertexId, u32);

/// Time and randomness of one step, handed in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that never jumps; for waits.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch; for stamps.
    pub wall_ms: UnixMillis,
    /// Random bits.
    pub bits: u64,
}

/// Something happened.
#[derive(Debug)]
pub enum Input {
    /// A worker has registered on a new stream.
    Attached(Box<Hello>),
    /// A worker says something.
    Message {
        /// On which stream.
        session: SessionId,
        /// What.
        message: Box<FromWorker>,
    },
    /// A worker's stream has ended.
    Closed {
        /// Which.
        session: SessionId,
    },
    /// A worker whose stream ended was dialled again.
    Redialed {
        /// Which.
        incarnation: Incarnation,
        /// Nobody listens there any more.
        refused: bool,
    },
    /// The log has answered a proposal, and the state shows it.
    Answered {
        /// The proposal.
        ticket: u64,
        /// The answer.
        response: Response,
    },
    /// A job's script was planned.
    Planned {
        /// Which.
        job: JobId,
        /// The plan's shape, or why there is none.
        result: Result<Shape, String>,
    },
    /// A manifest was written.
    ManifestWritten {
        /// Whose.
        job: JobId,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// Its digest, or why it failed.
        result: Result<[u8; 32], String>,
    },
    /// A manifest was read, for its committables.
    ManifestRead {
        /// Whose.
        job: JobId,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// What is to be committed, or why it is unknown.
        result: Result<Vec<SinkCommittables>, ReadFailure>,
    },
    /// Objects were collected.
    Collected {
        /// Whose.
        job: JobId,
        /// Retired checkpoints whose objects are gone, or what hindered it.
        result: Result<BTreeSet<CheckpointId>, String>,
    },
    /// The log has gone on.
    Applied,
    /// A deadline may have passed.
    Tick,
}

/// Why a manifest could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadFailure {
    /// It is missing or its checksum is wrong.
    Damaged(String),
    /// The storage does not answer.
    Unavailable(String),
}

/// A worker's registration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Hello {
    /// The stream.
    pub session: SessionId,
    /// Stable name.
    pub resource_id: String,
    /// Its process.
    pub incarnation: Incarnation,
    /// Where other workers reach it.
    pub data_addr: String,
    /// Slots.
    pub slots: u32,
    /// Its build.
    pub version: String,
    /// Its operating-system process.
    pub pid: u32,
    /// What it runs.
    pub reports: Vec<Report>,
}

/// What a worker runs of an attempt.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptId,
    /// Its tasks there.
    pub tasks: BTreeMap<TaskKey, TaskReport>,
    /// The newest checkpoint whose barrier was injected there.
    pub checkpoint_seen: CheckpointId,
    /// Start was received.
    pub started: bool,
}

/// A worker's message, checked.
#[derive(Debug, Clone, PartialEq)]
pub enum FromWorker {
    /// It lives.
    Heartbeat {
        /// What it runs.
        reports: Vec<Report>,
        /// To be echoed.
        sequence: u64,
    },
    /// Its share of the attempt could run.
    Deployed {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// Its share of the attempt cannot run.
    DeployFailed {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        reason: String,
        /// The restored checkpoint is missing or damaged.
        damaged: bool,
    },
    /// A task has changed its state.
    TaskState {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
        /// The task.
        task: TaskKey,
        /// Its state.
        status: TaskStatus,
        /// Why it failed.
        error: String,
    },
    /// A task's state is in storage.
    Ack {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The task.
        task: TaskKey,
        /// What it holds.
        ack: TaskAck,
    },
    /// A task could not take part.
    Declined {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The task.
        task: TaskKey,
        /// Why.
        reason: String,
    },
    /// Every sink has committed.
    CommitDone {
        /// The job.
        job: JobId,
        /// As in the command.
        attempt: AttemptId,
        /// As in the command.
        checkpoint: CheckpointId,
        /// As in the command.
        part: CommitPart,
    },
    /// Some sink has not.
    CommitFailed {
        /// The job.
        job: JobId,
        /// As in the command.
        attempt: AttemptId,
        /// As in the command.
        checkpoint: CheckpointId,
        /// As in the command.
        part: CommitPart,
        /// Why.
        reason: String,
        /// Trying again may help.
        retryable: bool,
    },
    /// The attempt's tasks are gone there.
    Cancelled {
        /// The job.
        job: JobId,
        /// The attempt.
        attempt: AttemptId,
    },
    /// It is being stopped in order.
    Leaving {
        /// Why.
        reason: String,
    },
}

/// Which part of a commit a command or its answer is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitPart {
    /// Slice, from 0.
    pub slice: u32,
    /// Of so many.
    pub slices: u32,
    /// Sinks also undo what later checkpoints and abandoned attempts left: only in the last slice.
    pub recover: bool,
}

/// A task's acknowledgement of a checkpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskAck {
    /// Its state, if it has any.
    pub part: Option<ObjectRef>,
    /// What its sinks have prepared.
    pub committables: Vec<SinkCommittables>,
    /// Bytes of state.
    pub state_bytes: u64,
}

/// Something is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Tell a worker.
    Send {
        /// On which stream.
        session: SessionId,
        /// What.
        body: Box<Body>,
    },
    /// End a stream, after everything that was sent on it.
    Close {
        /// Which.
        session: SessionId,
    },
    /// Find out whether a worker's process still listens.
    Redial {
        /// Which.
        incarnation: Incarnation,
        /// Where.
        data_addr: String,
    },
    /// Propose to the log, until it gives a definite answer.
    Propose {
        /// For the answer.
        ticket: u64,
        /// What.
        command: Box<Command>,
    },
    /// Plan a job's script.
    Plan {
        /// Which.
        job: JobId,
    },
    /// Write a manifest.
    WriteManifest {
        /// Whose.
        job: JobId,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// Where.
        path: String,
        /// What.
        manifest: Box<Manifest>,
    },
    /// Read a manifest.
    ReadManifest {
        /// Whose.
        job: JobId,
        /// Of which checkpoint.
        checkpoint: CheckpointId,
        /// Where.
        path: String,
        /// Its digest in the log.
        sha256: [u8; 32],
    },
    /// Delete objects.
    Collect {
        /// Whose.
        job: JobId,
        /// Which.
        work: Box<CollectWork>,
    },
    /// Tell people.
    Note {
        /// How loud.
        level: Level,
        /// About which job.
        job: Option<JobId>,
        /// What.
        message: String,
    },
}

/// How loud a note is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of interest when something is being looked for.
    Debug,
    /// The course of things.
    Info,
    /// Something went wrong and is being dealt with.
    Warn,
    /// Somebody should look.
    Error,
}

/// Which objects of a job may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectWork {
    /// Retired checkpoints.
    pub retired: Vec<StoredCheckpoint>,
    /// Checkpoints whose objects must stay.
    pub kept: Vec<StoredCheckpoint>,
    /// Delete also what no checkpoint of the log owns, below this number: those can never complete any more.
    pub orphans_below: Option<CheckpointId>,
}

/// Where a checkpoint of the log lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCheckpoint {
    /// Its number.
    pub id: CheckpointId,
    /// The attempt that wrote it.
    pub attempt: AttemptId,
    /// Its manifest.
    pub manifest_path: String,
    /// The manifest's digest.
    pub sha256: [u8; 32],
    /// Its manifest is known to be unreadable.
    pub damaged: bool,
}
