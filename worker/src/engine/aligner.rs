//! Barrier alignment of one task, as a pure state machine. It says which inputs may be read and when a checkpoint's
//! state is to be captured. Must not know what flows through the inputs.
//!
//! The rules:
//! 1. After a barrier an input is not read until every other input has brought the same barrier or has ended.
//! 2. A barrier of a checkpoint that is over (captured, or given up) is dropped.
//! 3. A newer barrier means that the coordinator gave the older checkpoint up: the older one is declined.
//! 4. Each checkpoint is captured at most once, and checkpoints only in increasing order.

use holdfast_common::CheckpointId;
use holdfast_common::inject::{self, bugs};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Channel {
    Open,
    Blocked,
    Ended,
}

/// What follows from an input's event. Both may be set: a newer barrier can decline one checkpoint and complete
/// another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verdict {
    /// This checkpoint will not be captured here.
    pub declined: Option<CheckpointId>,
    /// Capture the state for this checkpoint now, before any further input.
    pub capture: Option<CheckpointId>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Aligner {
    channels: Vec<Channel>,
    aligning: Option<CheckpointId>,
    /// Newest checkpoint that is over for this task.
    last: CheckpointId,
}

impl Aligner {
    /// All inputs open; checkpoints up to `last` are over.
    #[must_use]
    pub fn new(channels: usize, last: CheckpointId) -> Self {
        Self {
            channels: vec![Channel::Open; channels],
            aligning: None,
            last,
        }
    }

    /// Whether an input may be read.
    #[must_use]
    pub fn is_open(&self, channel: usize) -> bool {
        self.channels.get(channel) == Some(&Channel::Open)
    }

    /// Whether an input has ended.
    #[must_use]
    pub fn has_ended(&self, channel: usize) -> bool {
        self.channels.get(channel) == Some(&Channel::Ended)
    }

    /// Whether every input has ended.
    #[must_use]
    pub fn all_ended(&self) -> bool {
        self.channels.iter().all(|c| *c == Channel::Ended)
    }

    /// The checkpoint that is being aligned.
    #[must_use]
    pub fn aligning(&self) -> Option<CheckpointId> {
        self.aligning
    }

    /// Newest checkpoint that is over.
    #[must_use]
    pub fn last(&self) -> CheckpointId {
        self.last
    }

    /// A barrier has come out of an open input.
    pub fn on_barrier(&mut self, channel: usize, checkpoint: CheckpointId) -> Verdict {
        let mut verdict = Verdict::default();
        if !self.is_open(channel) || checkpoint <= self.last {
            return verdict;
        }
        match self.aligning {
            Some(current) if checkpoint < current => return verdict,
            Some(current) if checkpoint > current => {
                verdict.declined = Some(current);
                self.give_up(current);
            }
            _ => {}
        }
        self.aligning = Some(checkpoint);
        self.channels[channel] = Channel::Blocked;
        verdict.capture = self.complete();
        verdict
    }

    /// An input has ended: it counts as aligned from now on.
    pub fn on_end(&mut self, channel: usize) -> Verdict {
        if let Some(state) = self.channels.get_mut(channel) {
            *state = Channel::Ended;
        }
        Verdict {
            declined: None,
            capture: self.complete(),
        }
    }

    /// The coordinator has given a checkpoint up. Its late barriers will be dropped.
    pub fn on_abort(&mut self, checkpoint: CheckpointId) {
        if self.aligning.is_some_and(|current| current <= checkpoint) {
            self.give_up(checkpoint);
        }
        self.last = self.last.max(checkpoint);
    }

    /// The coordinator asks directly. Only a task whose inputs have all ended captures so; for others the barrier
    /// comes through an input.
    pub fn on_trigger(&mut self, checkpoint: CheckpointId) -> Option<CheckpointId> {
        if !self.all_ended() || checkpoint <= self.last {
            return None;
        }
        self.last = checkpoint;
        Some(checkpoint)
    }

    fn complete(&mut self) -> Option<CheckpointId> {
        let current = self.aligning?;
        if self.channels.contains(&Channel::Open) && !inject::bug(bugs::SKIP_ALIGNMENT) {
            return None;
        }
        self.give_up(current);
        Some(current)
    }

    fn give_up(&mut self, checkpoint: CheckpointId) {
        self.aligning = None;
        self.last = self.last.max(checkpoint);
        for channel in &mut self.channels {
            if *channel == Channel::Blocked {
                *channel = Channel::Open;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet, VecDeque};

    fn cp(n: u64) -> CheckpointId {
        CheckpointId(n)
    }

    #[test]
    fn waits_for_every_input() {
        let mut a = Aligner::new(2, cp(0));
        assert_eq!(a.on_barrier(0, cp(1)), Verdict::default());
        assert!(!a.is_open(0) && a.is_open(1));
        assert_eq!(a.on_barrier(1, cp(1)).capture, Some(cp(1)));
        assert!(a.is_open(0) && a.is_open(1));
    }

    #[test]
    fn an_ended_input_counts_as_aligned() {
        let mut a = Aligner::new(3, cp(0));
        a.on_end(2);
        a.on_barrier(0, cp(1));
        assert_eq!(a.on_end(1).capture, Some(cp(1)));
        assert!(a.is_open(0));
        assert_eq!(a.on_barrier(0, cp(2)).capture, Some(cp(2)));
        assert_eq!(a.on_trigger(cp(3)), None);
        a.on_end(0);
        assert_eq!(a.on_trigger(cp(3)), Some(cp(3)));
        assert_eq!(a.on_trigger(cp(3)), None);
    }

    #[test]
    fn late_barriers_of_an_aborted_checkpoint_are_dropped() {
        let mut a = Aligner::new(2, cp(0));
        a.on_barrier(0, cp(1));
        a.on_abort(cp(1));
        assert!(a.is_open(0));
        assert_eq!(a.on_barrier(1, cp(1)), Verdict::default());
        assert!(a.is_open(1));
    }

    #[test]
    fn a_newer_barrier_declines_the_older_checkpoint() {
        let mut a = Aligner::new(2, cp(0));
        a.on_barrier(0, cp(1));
        let verdict = a.on_barrier(1, cp(2));
        assert_eq!(
            verdict,
            Verdict {
                declined: Some(cp(1)),
                capture: None
            }
        );
        assert!(a.is_open(0) && !a.is_open(1));
        assert_eq!(a.on_barrier(0, cp(1)), Verdict::default());
        assert_eq!(a.on_barrier(0, cp(2)).capture, Some(cp(2)));
    }

    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Item {
        Data(u64),
        Barrier(u64),
        End,
    }

    /// What upstream sends on a channel: barriers in increasing order with data between them. An input that has ended
    /// before a barrier does not bring it.
    fn script(barriers: &[u64], data: u8, end_after: Option<usize>) -> VecDeque<Item> {
        let mut items = VecDeque::new();
        for (i, b) in barriers.iter().enumerate() {
            (0..data).for_each(|_| items.push_back(Item::Data(*b)));
            if end_after == Some(i) {
                items.push_back(Item::End);
                return items;
            }
            items.push_back(Item::Barrier(*b));
        }
        items.push_back(Item::Data(u64::MAX));
        items.push_back(Item::End);
        items
    }

    proptest! {
        /// Data tagged `b` stands before barrier `b` in its input: when `b` is captured, all of it and nothing tagged
        /// later must have been processed, whatever the interleaving; and nothing ever gets stuck.
        #[test]
        fn captures_are_consistent_cuts(
            ends in prop::collection::vec(prop::option::weighted(0.3, 0usize..5), 1..5),
            data in 0u8..3,
            choices in prop::collection::vec((0usize..100, 0u8..20), 0..200),
        ) {
            let barriers = [2u64, 3, 5, 8, 9];
            let mut inputs: Vec<_> = ends.iter().map(|e| script(&barriers, data, *e)).collect();
            let channels = inputs.len();
            let mut aligner = Aligner::new(channels, cp(1));
            let mut processed: Vec<Vec<u64>> = vec![Vec::new(); channels];
            let mut captured = BTreeSet::new();
            let mut over: BTreeMap<u64, &str> = BTreeMap::new();
            let mut choices = choices.into_iter();
            loop {
                let ready: Vec<usize> = (0..channels).filter(|c| aligner.is_open(*c) && !inputs[*c].is_empty()).collect();
                if ready.is_empty() {
                    break;
                }
                let (pick, abort) = choices.next().unwrap_or((0, 19));
                if abort < 2 && let Some(current) = aligner.aligning() {
                    aligner.on_abort(current);
                    over.insert(current.0, "aborted");
                    continue;
                }
                let channel = ready[pick % ready.len()];
                let verdict = match inputs[channel].pop_front().unwrap() {
                    Item::Data(tag) => {
                        processed[channel].push(tag);
                        Verdict::default()
                    }
                    Item::Barrier(b) => aligner.on_barrier(channel, cp(b)),
                    Item::End => aligner.on_end(channel),
                };
                if let Some(declined) = verdict.declined {
                    over.insert(declined.0, "declined");
                }
                if let Some(checkpoint) = verdict.capture {
                    prop_assert!(captured.insert(checkpoint.0), "captured twice");
                    prop_assert!(captured.last() == Some(&checkpoint.0), "captured out of order");
                    prop_assert!(!over.contains_key(&checkpoint.0), "captured after it was over");
                    for (c, tags) in processed.iter().enumerate() {
                        prop_assert!(tags.iter().all(|t| *t <= checkpoint.0), "data after the barrier on {c}");
                        let missing = inputs[c].iter().any(|i| matches!(i, Item::Data(t) if *t <= checkpoint.0));
                        prop_assert!(!missing, "data before the barrier not processed on {c}");
                    }
                }
            }
            prop_assert!(inputs.iter().all(VecDeque::is_empty), "stuck");
            prop_assert!(aligner.all_ended());
            // Whoever brought all its barriers and was not disturbed was captured.
            for b in barriers {
                let brought = ends.iter().any(|e| e.is_none_or(|e| barriers[e] > b));
                prop_assert_eq!(captured.contains(&b), brought && !over.contains_key(&b), "checkpoint {}", b);
            }
        }

        /// Whatever comes, in whatever order: at most one capture each, increasing, never for what is over.
        #[test]
        fn nonsense_does_no_harm(events in prop::collection::vec((0u8..4, 0usize..3, 1u64..6), 0..100)) {
            let mut aligner = Aligner::new(3, cp(0));
            let mut last = 0;
            for (kind, channel, checkpoint) in events {
                let before = aligner.last();
                let capture = match kind {
                    0 | 1 => aligner.on_barrier(channel, cp(checkpoint)).capture,
                    2 => { aligner.on_abort(cp(checkpoint)); None }
                    _ => aligner.on_trigger(cp(checkpoint)),
                };
                if let Some(capture) = capture {
                    prop_assert!(capture.0 > last && capture > before);
                    last = capture.0;
                }
                prop_assert!((0..3).any(|c| aligner.is_open(c)), "blocked for ever");
            }
        }
    }
}
