//! Which part of a checkpoint's state belongs to which subtask: key groups by range, splits all to every reader, and event
//! time by key group, since a subtask must neither fire again what a former owner of a key group had fired, nor take rows
//! for late that none had taken for late. Pure. Must not know how operators use it.

use super::api::{EngineError, RestoreState};
use crate::operators::{GroupTimes, NO_WATERMARK};
use holdfast_common::CheckpointId;
use holdfast_common::keygroup::{range_of, subtask_of};
use holdfast_dataflow::graph::{OperatorSpec, Vertex};
use holdfast_proto::snapshot::{KeyGroupState, OperatorState, SplitState};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

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

    /// Event time that a former subtask had reached.
    fn former_watermark_ms(&self, former: u32) -> i64 {
        let part = self.parts.iter().find(|(subtask, _)| *subtask == former);
        part.and_then(|(_, part)| part.input_watermarks_ms.iter().copied().min())
            .unwrap_or(NO_WATERMARK)
    }

    /// Event time that a subtask goes on from: the least of the former subtasks whose key groups it takes over; at an
    /// unchanged parallelism that is its own.
    ///
    /// Subtasks of one vertex may differ, since an idle input is left out at another moment by each. What single key
    /// groups had reached beyond this is [`Self::reached`].
    #[must_use]
    pub fn watermark_ms(&self, subtask: u32, parallelism: u32, max_parallelism: u32) -> i64 {
        let range = range_of(subtask, max_parallelism, parallelism);
        let former = self.parts.len() as u32;
        let first = subtask_of(range.start, max_parallelism, former);
        let last = subtask_of(range.end.max(1) - 1, max_parallelism, former);
        (first..=last)
            .map(|former| self.former_watermark_ms(former))
            .min()
            .unwrap_or(NO_WATERMARK)
    }

    /// Event time that each key group of `range` had reached at an operator.
    ///
    /// # Errors
    /// If the operator's own record of it is damaged.
    pub fn reached(
        &self,
        uid: &'a str,
        range: &Range<u32>,
        max_parallelism: u32,
    ) -> Result<BTreeMap<u32, i64>, EngineError> {
        let former = self.parts.len() as u32;
        let at = |group| self.former_watermark_ms(subtask_of(group, max_parallelism, former));
        let mut reached = range.clone().map(|group| (group, at(group))).collect();
        for operator in self.operators(uid) {
            GroupTimes::decode(&operator.operator, range, &mut reached)
                .map_err(|e| EngineError::Restore(e.0))?;
        }
        Ok(reached)
    }
}

fn is_stateful(spec: &OperatorSpec) -> bool {
    matches!(spec, OperatorSpec::Source(_) | OperatorSpec::WindowAggregate(_))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use holdfast_proto::snapshot::SubtaskState;

    fn part(watermark_ms: Option<i64>) -> SubtaskState {
        SubtaskState {
            input_watermarks_ms: watermark_ms.into_iter().collect(),
            ..SubtaskState::default()
        }
    }

    fn state(parts: &[(u32, SubtaskState)]) -> VertexState<'_> {
        VertexState {
            parts,
            checkpoint: CheckpointId(1),
        }
    }

    #[test]
    fn each_subtask_goes_on_from_its_own_event_time() {
        let parts = [(0, part(Some(50))), (1, part(None)), (2, part(Some(90)))];
        let own = |subtask| state(&parts).watermark_ms(subtask, 3, 16);
        assert_eq!([0, 1, 2].map(own), [50, NO_WATERMARK, 90]);
    }

    #[test]
    fn at_another_parallelism_event_time_follows_the_key_groups() {
        let mut parts = [(0, part(Some(50))), (1, part(Some(90)))];
        let wide = |subtask| state(&parts).watermark_ms(subtask, 3, 16);
        // Groups 0..6, 6..11 and 11..16 of former 0..8 and 8..16.
        assert_eq!([0, 1, 2].map(wide), [50, 50, 90]);
        assert_eq!(state(&parts).watermark_ms(0, 1, 16), 50);
        let reached = state(&parts).reached("w", &(6..11), 16).unwrap();
        assert_eq!(reached.into_values().collect::<Vec<_>>(), [50, 50, 90, 90, 90]);
        // What an operator knows to be ahead even of its own subtask.
        let ahead = GroupTimes::new(&BTreeMap::from([(7, 70)]), 50);
        parts[0].1.operators.push(OperatorState {
            uid: "w".to_owned(),
            operator: ahead.encode().into(),
            ..OperatorState::default()
        });
        let reached = state(&parts).reached("w", &(6..11), 16).unwrap();
        assert_eq!(reached.into_values().collect::<Vec<_>>(), [50, 70, 90, 90, 90]);
    }
}
