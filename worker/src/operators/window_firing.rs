//! One window on its way out, in steps of bounded work: its panes are merged piece by piece, its keys are sorted in runs,
//! and the runs are merged while they are emitted. Must not know event time or columns.

use super::OperatorError;
use super::accumulator::Plan;
use super::window_state::Pane;
use crate::state::interner::prefix;
use holdfast_common::limits::{BATCH_ROWS, FIRING_KEYS_PER_STEP};
use std::collections::VecDeque;

/// A window that is being emitted, in the order of its keys.
pub struct Firing {
    /// The window's end.
    pub end_ms: i64,
    /// The window's keys; complete once keys come out of [`Self::step`].
    pub pane: Pane,
    /// Panes that are yet to be merged, and how many keys of the first one have been.
    parts: VecDeque<Pane>,
    merged: u32,
    /// How many keys have been put into runs.
    listed: u32,
    /// Sorted runs of keys with the beginnings that decide nearly every comparison, and how far each is emitted.
    runs: Vec<(Vec<(u128, u32)>, usize)>,
    /// Runs with keys left, as a heap: the one with the least next key first.
    heap: Vec<u32>,
}

/// What a step came to.
#[derive(Debug, PartialEq, Eq)]
pub enum FiringStep {
    /// Nothing to emit yet.
    Working,
    /// These keys of the pane are next.
    Keys(Vec<u32>),
    /// All keys were emitted.
    Done,
}

impl Firing {
    /// A window made of `parts`, of which `pane` is none.
    #[must_use]
    pub fn new(end_ms: i64, pane: Pane, parts: VecDeque<Pane>) -> Self {
        Self {
            end_ms,
            pane,
            parts,
            merged: 0,
            listed: 0,
            runs: Vec::new(),
            heap: Vec::new(),
        }
    }

    /// Does at most [`FIRING_KEYS_PER_STEP`] keys' worth of work. Only keys that are `wanted` are emitted.
    ///
    /// # Errors
    /// If a sum overflows.
    pub fn step(
        &mut self,
        plans: &[Plan],
        wanted: impl Fn(u64) -> bool,
    ) -> Result<FiringStep, OperatorError> {
        if let Some(part) = self.parts.front() {
            let count = part.keys().len() as u32;
            let until = self.merged.saturating_add(FIRING_KEYS_PER_STEP).min(count);
            self.pane.merge(part, self.merged..until, plans)?;
            self.merged = until;
            if until == count {
                self.parts.pop_front();
                self.merged = 0;
            }
            return Ok(FiringStep::Working);
        }
        let count = self.pane.keys().len() as u32;
        if self.listed < count {
            self.list(count, wanted);
            if self.listed < count {
                return Ok(FiringStep::Working);
            }
        }
        let keys = self.next_keys();
        Ok(if keys.is_empty() {
            FiringStep::Done
        } else {
            FiringStep::Keys(keys)
        })
    }

    /// Sorts one more run.
    fn list(&mut self, count: u32, wanted: impl Fn(u64) -> bool) {
        let keys = self.pane.keys();
        let until = self.listed.saturating_add(FIRING_KEYS_PER_STEP).min(count);
        let mut run: Vec<(u128, u32)> = (self.listed..until)
            .filter(|n| wanted(keys.hash(*n)))
            .map(|n| (prefix(keys.get(n)), n))
            .collect();
        run.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| keys.get(a.1).cmp(keys.get(b.1))));
        self.listed = until;
        if !run.is_empty() {
            self.runs.push((run, 0));
            self.heap.push(self.runs.len() as u32 - 1);
            self.rise(self.heap.len() - 1);
        }
    }

    fn next_keys(&mut self) -> Vec<u32> {
        if let [only] = self.heap[..] {
            let (run, at) = &mut self.runs[only as usize];
            let until = (*at + BATCH_ROWS).min(run.len());
            let keys = run[*at..until].iter().map(|(_, n)| *n).collect();
            *at = until;
            if until == run.len() {
                self.heap.clear();
            }
            return keys;
        }
        let mut keys = Vec::new();
        while keys.len() < BATCH_ROWS
            && let Some(&first) = self.heap.first()
        {
            let (run, at) = &mut self.runs[first as usize];
            keys.push(run[*at].1);
            *at += 1;
            if *at == run.len() {
                *run = Vec::new();
                self.heap.swap_remove(0);
            }
            self.sink();
        }
        keys
    }

    /// Whether the heap's entry `a` comes before its entry `b`.
    fn before(&self, a: usize, b: usize) -> bool {
        let next = |i: usize| {
            let (run, at) = &self.runs[self.heap[i] as usize];
            run[*at]
        };
        let (a, b) = (next(a), next(b));
        let keys = self.pane.keys();
        a.0.cmp(&b.0)
            .then_with(|| keys.get(a.1).cmp(keys.get(b.1)))
            .is_lt()
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.before(at, (at - 1) / 2) {
            self.heap.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    /// Moves the heap's first entry down to where it belongs.
    fn sink(&mut self) {
        let mut at = 0;
        loop {
            let least = [2 * at + 1, 2 * at + 2]
                .into_iter()
                .filter(|child| *child < self.heap.len())
                .fold(
                    at,
                    |least, child| if self.before(child, least) { child } else { least },
                );
            if least == at {
                return;
            }
            self.heap.swap(at, least);
            at = least;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::state::keys::KeyBatch;
    use arrow::array::{Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    fn pane(values: impl Iterator<Item = i64>) -> Pane {
        let schema = Arc::new(Schema::new(
            ["a", "b"].map(|n| Field::new(n, DataType::Int64, false)).to_vec(),
        ));
        // Two columns: the first sixteen bytes of a key do not tell all keys apart.
        let second: Int64Array = values.collect();
        let first = Int64Array::from(vec![7; second.len()]);
        let batch = RecordBatch::try_new(schema, vec![Arc::new(first), Arc::new(second)]).unwrap();
        let (mut keys, mut pane, mut numbers) = (KeyBatch::default(), Pane::default(), Vec::new());
        keys.fill(&batch, &[0, 1]).unwrap();
        let rows: Vec<u32> = (0..batch.num_rows() as u32).collect();
        pane.intern_rows(&keys, &rows, &mut numbers);
        pane
    }

    #[test]
    fn many_keys_come_out_in_order_in_bounded_steps() {
        let step = i64::from(FIRING_KEYS_PER_STEP);
        let spread = |n: i64| (n * 7_919) % (2 * step + 5);
        let first = pane((0..step).map(spread));
        let parts = VecDeque::from([pane((step - 10..2 * step + 5).map(spread)), pane(0..3)]);
        let mut firing = Firing::new(9, first, parts);
        let (mut found, mut steps) = (Vec::new(), 0);
        loop {
            steps += 1;
            match firing.step(&[], |hash| !hash.is_multiple_of(4)).unwrap() {
                FiringStep::Working => {}
                FiringStep::Keys(keys) => {
                    assert!(keys.len() <= BATCH_ROWS);
                    found.extend(keys.iter().map(|k| firing.pane.keys().get(*k).to_vec()));
                }
                FiringStep::Done => break,
            }
        }
        let keys = firing.pane.keys();
        let mut expected: Vec<Vec<u8>> = (0..keys.len() as u32)
            .filter(|n| !keys.hash(*n).is_multiple_of(4))
            .map(|n| keys.get(n).to_vec())
            .collect();
        expected.sort();
        assert_eq!(keys.len() as i64, 2 * step + 5);
        assert_eq!(found, expected);
        assert!(steps >= 2 + 3 + expected.len() / BATCH_ROWS, "{steps}");
    }
}
