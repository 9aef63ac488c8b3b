//! Which part of a checkpoint's state belongs to which subtask: key groups by range, splits all to every reader,
//! watermarks as the least over all former subtasks. Pure. Must not know how operators use it.

use super::api::{EngineError, RestoreState};
use crate::operators::NO_WATERMARK;
use holdfast_common::CheckpointId;
use holdfast_dataflow::graph::{OperatorSpec, Vertex};
use holdfast_proto::snapshot::{KeyGroupState, OperatorState, SplitState};
use std::collections::BTreeSet;

/// The state of one vertex's former subtasks, as far as a new one may need it.
#[derive(Debug, Clone, Copy)]
pub struct VertexState<'a> {
    parts: &'a [(u32, holdfast_proto::snapshot::SubtaskState)],
    /// The checkpoint.
    pub checkpoint: CheckpointId,
}

impl<'a> VertexState<'a> {
    /// Finds and checks a vertex's state.
    ///
    /// # Errors
    /// If the vertex is missing, a part is, or operators' identities do not match the job.
    pub fn find(restore: &'a RestoreState, vertex: &Vertex) -> Result<Self, EngineError> {
        let refuse = |what: String| {
            EngineError::Restore(format!(
                "checkpoint {}, vertex {} '{}': {what}",
                restore.checkpoint, vertex.id, vertex.name
            ))
        };
        let state = restore
            .vertices
            .get(&vertex.id)
            .ok_or_else(|| refuse("the checkpoint has no state for it".to_owned()))?;
        let subtasks: BTreeSet<u32> = state.parts.iter().map(|(s, _)| *s).collect();
        if subtasks.len() != state.parts.len() || !subtasks.iter().copied().eq(0..state.old_parallelism) {
            return Err(refuse(format!(
                "the state of {} subtasks was given as parts {subtasks:?}",
                state.old_parallelism
            )));
        }
        let found = Self {
            parts: &state.parts,
            checkpoint: restore.checkpoint,
        };
        found.check_operators(vertex).map_err(refuse)?;
        Ok(found)
    }

    fn check_operators(&self, vertex: &Vertex) -> Result<(), String> {
        let known: BTreeSet<&str> = vertex.chain.iter().map(|n| n.uid.as_str()).collect();
        for (subtask, part) in self.parts {
            for operator in &part.operators {
                let empty =
                    operator.keyed.is_empty() && operator.splits.is_empty() && operator.operator.is_empty();
                if !known.contains(operator.uid.as_str()) && !empty {
                    return Err(format!(
                        "subtask {subtask} has state of operator '{}', which the job does not have; the query has \
                         changed since, so start it without this checkpoint",
                        operator.uid
                    ));
                }
            }
            let present: BTreeSet<&str> = part.operators.iter().map(|o| o.uid.as_str()).collect();
            for node in vertex.chain.iter().filter(|n| is_stateful(&n.spec)) {
                if !present.contains(node.uid.as_str()) {
                    return Err(format!(
                        "subtask {subtask} has no state of operator '{}' ({}); the query has changed since, so start \
                         it without this checkpoint",
                        node.uid, node.name
                    ));
                }
            }
        }
        Ok(())
    }

    fn operators(&self, uid: &'a str) -> impl Iterator<Item = &'a OperatorState> {
        self.parts
            .iter()
            .flat_map(|(_, part)| &part.operators)
            .filter(move |o| o.uid == uid)
    }

    /// Keyed state of an operator, of all former subtasks.
    pub fn keyed(&self, uid: &'a str) -> impl Iterator<Item = &'a KeyGroupState> {
        self.operators(uid).flat_map(|o| &o.keyed)
    }

    /// Splits of a source, of all former subtasks.
    #[must_use]
    pub fn splits(&self, uid: &'a str) -> Vec<SplitState> {
        self.operators(uid)
            .flat_map(|o| o.splits.iter().cloned())
            .collect()
    }

    /// Event time that a subtask goes on from: its own, or the least of all former subtasks if their number changes.
    ///
    /// Subtasks of one vertex may differ, since an idle input is left out at another moment by each. One that restarted
    /// from less than it had reached would fire windows again that it had closed.
    #[must_use]
    pub fn watermark_ms(&self, subtask: u32, parallelism: u32) -> i64 {
        let unchanged = self.parts.len() == parallelism as usize;
        self.parts
            .iter()
            .filter(|(former, _)| !unchanged || *former == subtask)
            .map(|(_, part)| {
                part.input_watermarks_ms
                    .iter()
                    .copied()
                    .min()
                    .unwrap_or(NO_WATERMARK)
            })
            .min()
            .unwrap_or(NO_WATERMARK)
    }
}

fn is_stateful(spec: &OperatorSpec) -> bool {
    matches!(spec, OperatorSpec::Source(_) | OperatorSpec::WindowAggregate(_))
}
