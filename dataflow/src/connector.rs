//! What connectors provide. Planning asks a [`ConnectorRegistry`] whether a table is possible; workers ask it for
//! readers, writers and committers.
//!
//! Readers and writers are stepped by a slot thread: they must not block on the network. What takes time is returned as
//! a closure that runs elsewhere.

use crate::graph::TableSpec;
use arrow::record_batch::RecordBatch;
use holdfast_common::clock::SharedClock;
use holdfast_common::{AttemptId, CheckpointId, JobId};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// Why a connector refuses or fails.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectorError {
    /// The table's definition is wrong: unknown connector or option, missing option, bad value, unsupported type. The
    /// text names the table, the option and what is possible.
    #[error("{0}")]
    Definition(String),
    /// The input is wrong: the text names file, line or offset, column.
    #[error("{0}")]
    Data(String),
    /// IO failed; trying again may help. The text names the object.
    #[error("{0}")]
    Io(String),
    /// A sync failed: what it was to make durable may be gone, and a second sync would not tell. The process must end, and
    /// another one repeat the work. The text names the object.
    #[error("{0}")]
    Sync(String),
    /// What was prepared or recorded does not match what is there; trying again will not help.
    #[error("{0}")]
    Conflict(String),
}

/// All connectors of a process, by name.
pub trait ConnectorRegistry: Send + Sync {
    /// Checks a source table: connector, options (every option of the WITH clause must be known), types.
    ///
    /// # Errors
    /// [`ConnectorError::Definition`].
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn Source>, ConnectorError>;

    /// Checks a sink table.
    ///
    /// # Errors
    /// [`ConnectorError::Definition`].
    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn Sink>, ConnectorError>;
}

/// A checked source table.
pub trait Source: Send + Sync {
    /// Whether its input ends.
    fn bounded(&self) -> bool;

    /// A reader for one subtask. `restored` holds the state of every split of every former subtask (empty on a fresh
    /// start); the reader takes those that are its own: assignment is a pure function of (split id, parallelism).
    ///
    /// # Errors
    /// If the input cannot be opened.
    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError>;
}

/// Where a reader runs.
#[derive(Clone)]
pub struct SourceContext {
    /// The job.
    pub job: JobId,
    /// This subtask.
    pub subtask: u32,
    /// Number of subtasks.
    pub parallelism: u32,
    /// Stamps and rate limits.
    pub clock: SharedClock,
    /// Rows that did not parse and were skipped by option.
    pub bad_records: Arc<AtomicU64>,
}

/// Where one split goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SplitState {
    /// Stable name of the split.
    pub split_id: String,
    /// Position of the next record, in the connector's own versioned form.
    pub position: Vec<u8>,
    /// Everything of the split was emitted.
    pub finished: bool,
}

/// Rows of one split.
#[derive(Debug)]
pub struct SourceBatch {
    /// Index of the split among those that [`SourceReader::splits`] lists; stable while the reader lives.
    pub split: usize,
    /// Rows in the table's physical schema.
    pub rows: RecordBatch,
}

/// What a poll brought.
#[derive(Debug)]
pub enum SourcePoll {
    /// Rows.
    Batch(SourceBatch),
    /// Nothing now; ask again after this long at the latest.
    Pending(Duration),
    /// A split has come to its end (others may go on). It no longer holds the watermark back.
    SplitFinished(usize),
    /// Nothing will ever come again from this subtask.
    End,
}

/// Reads splits, one subtask's share of a source.
pub trait SourceReader: Send {
    /// At most about `max_rows` rows. Never waits.
    ///
    /// # Errors
    /// The attempt fails.
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, ConnectorError>;

    /// As [`Self::poll`], of a table with event time: `event_time_ms` is what each split has reached, the least value of
    /// all for one that was not read yet. A reader that can choose reads the split that is furthest behind, so that no
    /// split holds event time back for longer than it must.
    ///
    /// # Errors
    /// As [`Self::poll`].
    fn poll_least(
        &mut self,
        max_rows: usize,
        _event_time_ms: &dyn Fn(usize) -> i64,
    ) -> Result<SourcePoll, ConnectorError> {
        self.poll(max_rows)
    }

    /// Names of this reader's splits, in the order of their indexes. Grows when files appear.
    fn splits(&self) -> Vec<String>;

    /// Position of the next record to emit, for every split known, including finished ones.
    ///
    /// # Errors
    /// The checkpoint is declined.
    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError>;

    /// A checkpoint is complete in the log.
    fn settled(&mut self, _checkpoint: CheckpointId) {}
}

/// A checked sink table.
pub trait Sink: Send + Sync {
    /// A writer for one subtask.
    ///
    /// # Errors
    /// If the output cannot be opened.
    fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>, ConnectorError>;

    /// Whether writers return committables that must be committed. `print` and `blackhole` do not.
    fn commits(&self) -> bool;

    /// Makes committables visible. Idempotent; runs on any worker, from the committables alone, after the checkpoint's
    /// log entry. May block (it runs on a thread for blocking work).
    ///
    /// # Errors
    /// [`ConnectorError::Io`] is retried; anything else stops the job.
    fn commit(&self, checkpoint: CheckpointId, committables: &[Committable]) -> Result<(), ConnectorError>;

    /// Before tasks start from `restored` (or from nothing): removes what abandoned attempts left behind and makes
    /// invisible again what checkpoints after `restored` had committed. Called after the restored checkpoint's own
    /// committables were committed. `job` limits what may be touched to this job's output. May block.
    ///
    /// # Errors
    /// As [`Self::commit`]; a sink that cannot undo a later commit returns [`ConnectorError::Conflict`].
    fn recover(
        &self,
        job: JobId,
        attempt: AttemptId,
        restored: Option<CheckpointId>,
    ) -> Result<(), ConnectorError>;

    /// Where the result lies, for people: a directory, or nothing.
    fn location(&self) -> Option<String> {
        None
    }
}

/// Where a writer runs.
#[derive(Clone)]
pub struct SinkContext {
    /// The job.
    pub job: JobId,
    /// The attempt: part of every unfinished object's name.
    pub attempt: AttemptId,
    /// The sink operator's identity.
    pub uid: String,
    /// This subtask.
    pub subtask: u32,
    /// Stamps.
    pub clock: SharedClock,
    /// Directory for temporary files of this worker.
    pub tmp_dir: PathBuf,
}

/// Something prepared and not yet visible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committable {
    /// The checkpoint at whose barrier it was prepared.
    pub checkpoint: CheckpointId,
    /// Who prepared it.
    pub subtask: u32,
    /// The sink's own versioned record.
    pub data: Vec<u8>,
}

/// What remains to be done to make a prepared output durable (flush, fsync, upload). Runs off the slot thread.
pub type PrepareJob = Box<dyn FnOnce() -> Result<Vec<Committable>, ConnectorError> + Send>;

/// Writes one subtask's share of a sink.
pub trait SinkWriter: Send {
    /// Takes rows in the table's physical schema.
    ///
    /// # Errors
    /// The attempt fails.
    fn write(&mut self, rows: &RecordBatch) -> Result<(), ConnectorError>;

    /// Closes what was written before the barrier, so that it can become visible when the checkpoint completes. The
    /// runtime keeps the committables until then: those of an aborted checkpoint ride into the next one.
    ///
    /// # Errors
    /// The attempt fails: what could not be closed comes back only by replaying.
    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<PrepareJob, ConnectorError>;
}
