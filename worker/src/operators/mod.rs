//! Operators: synchronous, non-blocking transformations of batches, and the chain that runs several in one task. Must
//! not know threads, channels or sockets.

mod accumulator;
mod accumulator_state;
mod calc;
mod chain;
mod distinct;
mod group_times;
mod sink;
mod source;
mod time;
mod watermark;
mod window;
mod window_aggregate;
mod window_assign;
mod window_firing;
mod window_state;

pub use calc::Calc;
pub use chain::{Chain, ChainNode};
pub use group_times::GroupTimes;
pub use sink::SinkOperator;
pub use source::{SourceHead, SourceTiming, SourceTurn};
pub use window_aggregate::WindowAggregate;
pub use window_assign::WindowAssign;

use crate::state::StateError;
use arrow::record_batch::RecordBatch;
use holdfast_common::CheckpointId;
use holdfast_dataflow::connector::{Committable, PrepareJob};
use holdfast_proto::snapshot::KeyGroupState;

/// No watermark yet.
pub const NO_WATERMARK: i64 = i64::MIN;
/// Nothing will ever be late again: the input has ended.
pub const END_WATERMARK: i64 = i64::MAX;

/// Why an operator fails its attempt.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct OperatorError(pub String);

impl From<StateError> for OperatorError {
    fn from(error: StateError) -> Self {
        Self(error.0)
    }
}

impl From<arrow::error::ArrowError> for OperatorError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self(error.to_string())
    }
}

/// Takes what an operator emits.
pub trait Collector {
    /// Passes rows on.
    ///
    /// # Errors
    /// If an operator downstream in the same task fails.
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError>;

    /// Passes the watermark on, after everything that was emitted before.
    ///
    /// # Errors
    /// As [`Self::emit`].
    fn watermark(&mut self, watermark_ms: i64) -> Result<(), OperatorError>;
}

/// Keyed state that was captured, and is yet to be written: runs on a thread for blocking work.
pub type KeyedCapture = Box<dyn FnOnce() -> Vec<KeyGroupState> + Send>;

/// What an operator contributes to a checkpoint.
#[derive(Default)]
pub struct OperatorSnapshot {
    /// Keyed state by key group.
    pub keyed: Option<KeyedCapture>,
    /// State of the subtask, in the operator's own versioned form.
    pub operator: Vec<u8>,
    /// What a sink must still do for its output to be durable.
    pub prepare: Option<PrepareJob>,
    /// What a sink prepared for checkpoints that did not complete.
    pub pending: Vec<Committable>,
}

impl OperatorSnapshot {
    /// The keyed state, written.
    #[must_use]
    pub fn write_keyed(self) -> Vec<KeyGroupState> {
        self.keyed.map(|write| write()).unwrap_or_default()
    }
}

/// Why an operator gives no snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotError {
    /// This checkpoint cannot be had; the task goes on.
    Declined(String),
    /// The attempt fails.
    Failed(OperatorError),
}

/// One operator of a chain.
pub trait Operator: Send {
    /// Takes rows.
    ///
    /// # Errors
    /// The attempt fails.
    fn on_batch(&mut self, batch: RecordBatch, out: &mut dyn Collector) -> Result<(), OperatorError>;

    /// Event time has advanced. What becomes due is emitted by [`Self::drain`] while [`Self::has_more`].
    ///
    /// # Errors
    /// The attempt fails.
    fn on_watermark(&mut self, _watermark_ms: i64) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Whether output is due. Until it is drained the operator gets no further input.
    fn has_more(&self) -> bool {
        false
    }

    /// Emits one batch of what is due.
    ///
    /// # Errors
    /// The attempt fails.
    fn drain(&mut self, _out: &mut dyn Collector) -> Result<(), OperatorError> {
        Ok(())
    }

    /// Captures the state between two inputs.
    ///
    /// # Errors
    /// If the checkpoint must be declined, or the attempt fails.
    fn snapshot(&mut self, _checkpoint: CheckpointId) -> Result<OperatorSnapshot, SnapshotError> {
        Ok(OperatorSnapshot::default())
    }

    /// A checkpoint is complete in the log.
    fn settled(&mut self, _checkpoint: CheckpointId) {}

    /// The result of a prepare job.
    fn prepared(&mut self, _checkpoint: CheckpointId, _committables: Vec<Committable>) {}

    /// Rows dropped because they came too late, since the last call.
    fn take_late_rows(&mut self) -> u64 {
        0
    }
}

#[cfg(test)]
mod rescale_tests;
#[cfg(test)]
mod tests;
