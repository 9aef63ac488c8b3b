//! A task's state at a barrier, captured on its slot thread and written elsewhere. Must not know where it is kept.

use crate::operators::KeyedCapture;
use holdfast_proto::snapshot::{OperatorState, SplitState, SubtaskState};

/// One operator's part.
pub struct CapturedOperator {
    /// Identity of its state.
    pub uid: String,
    /// Keyed state, yet to be written.
    pub keyed: Option<KeyedCapture>,
    /// State of the subtask.
    pub operator: Vec<u8>,
    /// Where splits go on, for sources.
    pub splits: Vec<SplitState>,
}

/// All of a task's state at one barrier.
pub struct CapturedState {
    /// Operator by operator.
    pub operators: Vec<CapturedOperator>,
    /// Event time reached, if any.
    pub watermark_ms: Option<i64>,
    /// Everything had been emitted before the barrier.
    pub ended: bool,
}

impl CapturedState {
    /// Writes it. Takes time in proportion to the state: not for a slot thread.
    #[must_use]
    pub fn write(self) -> SubtaskState {
        let operators = self.operators.into_iter().map(|o| OperatorState {
            uid: o.uid,
            keyed: o.keyed.map(|write| write()).unwrap_or_default(),
            operator: o.operator.into(),
            splits: o.splits,
        });
        SubtaskState {
            operators: operators.collect(),
            input_watermarks_ms: self.watermark_ms.into_iter().collect(),
            ended: self.ended,
        }
    }
}
