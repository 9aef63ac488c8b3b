//! The end of a chain: hands rows to a writer, and keeps what was prepared until a checkpoint that covers it is
//! complete in the log. Must not commit anything: that is the leader's decision.

use super::{Collector, Operator, OperatorError, OperatorSnapshot, SnapshotError};
use arrow::record_batch::RecordBatch;
use holdfast_common::CheckpointId;
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::COMMITTABLES_UNSETTLED_MAX;
use holdfast_dataflow::connector::{Committable, SinkWriter};
use std::collections::BTreeMap;

/// The operator of a sink table.
pub struct SinkOperator {
    writer: Box<dyn SinkWriter>,
    /// Whether the writer's committables matter.
    commits: bool,
    /// Checkpoints that were prepared and are not settled; `None` until the prepare job's result is known.
    unsettled: BTreeMap<CheckpointId, Option<Vec<Committable>>>,
}

impl SinkOperator {
    /// Around a writer.
    #[must_use]
    pub fn new(writer: Box<dyn SinkWriter>, commits: bool) -> Self {
        Self {
            writer,
            commits,
            unsettled: BTreeMap::new(),
        }
    }

    fn pending(&self) -> Result<Vec<Committable>, SnapshotError> {
        let mut pending = Vec::new();
        if inject::bug(bugs::PENDING_DROPPED) {
            return Ok(pending);
        }
        for (earlier, committables) in &self.unsettled {
            let Some(committables) = committables else {
                // Without the earlier result this checkpoint would not cover all rows before its barrier.
                return Err(SnapshotError::Declined(format!(
                    "the sink is still preparing checkpoint {earlier}"
                )));
            };
            pending.extend(committables.iter().cloned());
        }
        if pending.len() > COMMITTABLES_UNSETTLED_MAX {
            return Err(SnapshotError::Failed(OperatorError(format!(
                "{} outputs wait for a checkpoint to complete; none has since checkpoint {}",
                pending.len(),
                self.unsettled.keys().next().copied().unwrap_or_default()
            ))));
        }
        Ok(pending)
    }
}

impl Operator for SinkOperator {
    fn on_batch(&mut self, batch: RecordBatch, _out: &mut dyn Collector) -> Result<(), OperatorError> {
        self.writer
            .write(&batch)
            .map_err(|e| OperatorError(format!("the sink refused rows: {e}")))
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) -> Result<OperatorSnapshot, SnapshotError> {
        let pending = self.pending()?;
        let job = self
            .writer
            .prepare(checkpoint)
            // Rows that could not be closed are lost to this attempt: only replaying brings them back.
            .map_err(|e| SnapshotError::Failed(OperatorError(format!("the sink cannot prepare: {e}"))))?;
        if self.commits {
            self.unsettled.insert(checkpoint, None);
        }
        Ok(OperatorSnapshot {
            prepare: Some(job),
            pending,
            ..OperatorSnapshot::default()
        })
    }

    fn settled(&mut self, checkpoint: CheckpointId) {
        self.unsettled = self.unsettled.split_off(&CheckpointId(checkpoint.0 + 1));
    }

    fn prepared(&mut self, checkpoint: CheckpointId, committables: Vec<Committable>) {
        if let Some(entry) = self.unsettled.get_mut(&checkpoint) {
            *entry = Some(committables);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use holdfast_dataflow::connector::{ConnectorError, PrepareJob};

    struct Nothing;

    impl SinkWriter for Nothing {
        fn write(&mut self, _: &RecordBatch) -> Result<(), ConnectorError> {
            Ok(())
        }

        fn prepare(&mut self, _: CheckpointId) -> Result<PrepareJob, ConnectorError> {
            Ok(Box::new(|| Ok(Vec::new())))
        }
    }

    fn output(checkpoint: u64) -> Vec<Committable> {
        vec![Committable {
            checkpoint: CheckpointId(checkpoint),
            subtask: 0,
            data: Vec::new(),
        }]
    }

    fn pending(sink: &mut SinkOperator, checkpoint: u64) -> Result<Vec<u64>, SnapshotError> {
        let snapshot = sink.snapshot(CheckpointId(checkpoint))?;
        Ok(snapshot.pending.iter().map(|c| c.checkpoint.0).collect())
    }

    #[test]
    fn what_did_not_complete_rides_along_until_it_is_settled() {
        let mut sink = SinkOperator::new(Box::new(Nothing), true);
        assert_eq!(pending(&mut sink, 1), Ok(vec![]));
        // While the outcome of 1 is unknown, 2 would not cover all rows.
        assert!(matches!(pending(&mut sink, 2), Err(SnapshotError::Declined(_))));
        sink.prepared(CheckpointId(1), output(1));
        assert_eq!(pending(&mut sink, 3), Ok(vec![1]));
        sink.prepared(CheckpointId(3), output(3));
        assert_eq!(pending(&mut sink, 4), Ok(vec![1, 3]));
        sink.prepared(CheckpointId(4), output(4));
        sink.settled(CheckpointId(3));
        assert_eq!(pending(&mut sink, 5), Ok(vec![4]));
        sink.prepared(CheckpointId(5), Vec::new());
        sink.settled(CheckpointId(5));
        assert_eq!(pending(&mut sink, 6), Ok(vec![]));
    }

    /// Its file cannot be closed: the disk is full, say.
    struct Broken;

    impl SinkWriter for Broken {
        fn write(&mut self, _: &RecordBatch) -> Result<(), ConnectorError> {
            Ok(())
        }

        fn prepare(&mut self, _: CheckpointId) -> Result<PrepareJob, ConnectorError> {
            Err(ConnectorError::Io("the disk is full".to_owned()))
        }
    }

    #[test]
    fn a_sink_that_cannot_close_its_output_fails_the_attempt() {
        // Declining would let the task go on without the rows that were lost.
        let mut sink = SinkOperator::new(Box::new(Broken), true);
        let error = sink.snapshot(CheckpointId(1)).err().unwrap();
        let SnapshotError::Failed(OperatorError(text)) = error else {
            panic!("{error:?}");
        };
        assert!(text.contains("the disk is full"), "{text}");
    }

    #[test]
    fn a_sink_that_does_not_commit_keeps_nothing() {
        let mut sink = SinkOperator::new(Box::new(Nothing), false);
        assert_eq!(pending(&mut sink, 1), Ok(vec![]));
        assert_eq!(pending(&mut sink, 2), Ok(vec![]));
    }
}
