//! The operators of one task, one after the other. Rows go down by plain calls; watermarks wait until what they make
//! due is emitted, so that a large window firing is spread over many steps. Must not know channels.

use super::{Collector, Operator, OperatorError, OperatorSnapshot, SnapshotError};
use arrow::record_batch::RecordBatch;
use holdfast_common::CheckpointId;
use holdfast_dataflow::connector::Committable;

/// An operator with the identity of its state.
pub struct ChainNode {
    /// See [`holdfast_dataflow::graph::OperatorNode::uid`].
    pub uid: String,
    /// What people see.
    pub name: String,
    /// The operator.
    pub operator: Box<dyn Operator>,
}

/// See the module.
pub struct Chain {
    nodes: Vec<ChainNode>,
    /// A watermark on its way: the next node that gets it.
    advancing: Option<(usize, i64)>,
}

/// The rest of a chain as a collector.
struct Downstream<'a> {
    rest: &'a mut [ChainNode],
    last: &'a mut dyn Collector,
}

impl Collector for Downstream<'_> {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        if batch.num_rows() == 0 {
            return Ok(());
        }
        match self.rest.split_first_mut() {
            None => self.last.emit(batch),
            Some((node, rest)) => {
                let mut out = Downstream {
                    rest,
                    last: &mut *self.last,
                };
                node.operator
                    .on_batch(batch, &mut out)
                    .map_err(|e| named(&node.name, e))
            }
        }
    }

    fn watermark(&mut self, watermark_ms: i64) -> Result<(), OperatorError> {
        self.last.watermark(watermark_ms)
    }
}

fn named(name: &str, error: OperatorError) -> OperatorError {
    // Nested calls pass through several operators: only the innermost names itself.
    if error.0.starts_with("operator '") {
        return error;
    }
    OperatorError(format!("operator '{name}': {}", error.0))
}

impl Chain {
    /// From first to last.
    #[must_use]
    pub fn new(nodes: Vec<ChainNode>) -> Self {
        Self {
            nodes,
            advancing: None,
        }
    }

    /// Whether output is due or a watermark on its way: no input may be given.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.advancing.is_some() || self.nodes.iter().any(|n| n.operator.has_more())
    }

    /// Takes rows.
    ///
    /// # Errors
    /// The attempt fails.
    pub fn process(&mut self, batch: RecordBatch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        Downstream {
            rest: &mut self.nodes,
            last: out,
        }
        .emit(batch)
    }

    /// Event time has advanced; [`Self::resume`] does the rest.
    pub fn advance(&mut self, watermark_ms: i64) {
        debug_assert!(!self.is_busy());
        self.advancing = Some((0, watermark_ms));
    }

    /// Does one piece of what is due: the operator nearest to the end first.
    ///
    /// # Errors
    /// The attempt fails.
    pub fn resume(&mut self, out: &mut dyn Collector) -> Result<(), OperatorError> {
        if let Some(at) = self.nodes.iter().rposition(|n| n.operator.has_more()) {
            let (head, rest) = self.nodes.split_at_mut(at + 1);
            let node = &mut head[at];
            let mut downstream = Downstream { rest, last: out };
            return node
                .operator
                .drain(&mut downstream)
                .map_err(|e| named(&node.name, e));
        }
        if let Some((at, watermark_ms)) = self.advancing {
            self.advancing = match self.nodes.get_mut(at) {
                Some(node) => {
                    node.operator
                        .on_watermark(watermark_ms)
                        .map_err(|e| named(&node.name, e))?;
                    Some((at + 1, watermark_ms))
                }
                None => {
                    out.watermark(watermark_ms)?;
                    None
                }
            };
        }
        Ok(())
    }

    /// Captures every operator's state, with its uid.
    ///
    /// # Errors
    /// The first operator's refusal.
    pub fn snapshot(
        &mut self,
        checkpoint: CheckpointId,
    ) -> Result<Vec<(String, OperatorSnapshot)>, SnapshotError> {
        let mut all = Vec::with_capacity(self.nodes.len());
        for node in &mut self.nodes {
            let snapshot = node.operator.snapshot(checkpoint).map_err(|e| match e {
                SnapshotError::Declined(reason) => {
                    SnapshotError::Declined(format!("operator '{}': {reason}", node.name))
                }
                SnapshotError::Failed(error) => SnapshotError::Failed(named(&node.name, error)),
            })?;
            all.push((node.uid.clone(), snapshot));
        }
        Ok(all)
    }

    /// A checkpoint is complete in the log.
    pub fn settled(&mut self, checkpoint: CheckpointId) {
        for node in &mut self.nodes {
            node.operator.settled(checkpoint);
        }
    }

    /// The result of a prepare job.
    pub fn prepared(&mut self, uid: &str, checkpoint: CheckpointId, committables: Vec<Committable>) {
        if let Some(node) = self.nodes.iter_mut().find(|n| n.uid == uid) {
            node.operator.prepared(checkpoint, committables);
        }
    }

    /// Rows dropped because they came too late, since the last call.
    pub fn take_late_rows(&mut self) -> u64 {
        self.nodes.iter_mut().map(|n| n.operator.take_late_rows()).sum()
    }
}
