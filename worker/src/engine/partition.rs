//! Who gets which row: hashing by key group, taking turns, or passing straight on; and the collecting of rows into
//! full batches per destination. Must not know channels.

use crate::operators::OperatorError;
use crate::state::keys::KeyBatch;
use arrow::compute::{concat_batches, interleave_record_batch};
use arrow::record_batch::RecordBatch;
use holdfast_common::keygroup::{key_group, subtask_of};
use holdfast_common::limits::{BATCH_ROWS, PARTITION_BATCHES_MAX};
use std::collections::VecDeque;

/// Distributes the batches of one edge.
pub struct Partitioner {
    rule: Rule,
    destinations: usize,
    /// Rows that wait for company.
    open: Vec<RecordBatch>,
    open_rows: usize,
    /// Batches that are ready, in order.
    full: VecDeque<(usize, RecordBatch)>,
}

enum Rule {
    /// Everything to the only destination.
    Single,
    /// Batches in turn.
    Turns { next: usize },
    /// By key.
    Hash(Box<HashRule>),
}

struct HashRule {
    columns: Vec<usize>,
    max_parallelism: u32,
    /// Destination of every key group.
    owner: Vec<u32>,
    keys: KeyBatch,
    /// By destination: batch and row of what is being collected.
    rows: Vec<Vec<(usize, usize)>>,
}

impl Partitioner {
    /// Everything to one destination.
    #[must_use]
    pub fn single() -> Self {
        Self::with(Rule::Single, 1)
    }

    /// Batches in turn; `first` spreads the subtasks' beginnings.
    #[must_use]
    pub fn turns(destinations: usize, first: usize) -> Self {
        Self::with(
            Rule::Turns {
                next: first % destinations.max(1),
            },
            destinations,
        )
    }

    /// By key group of some columns.
    #[must_use]
    pub fn hash(columns: Vec<usize>, max_parallelism: u32, destinations: usize) -> Self {
        if destinations <= 1 {
            return Self::single();
        }
        let owner = (0..max_parallelism)
            .map(|group| subtask_of(group, max_parallelism, destinations as u32))
            .collect();
        let rule = HashRule {
            columns,
            max_parallelism,
            owner,
            keys: KeyBatch::default(),
            rows: vec![Vec::new(); destinations],
        };
        Self::with(Rule::Hash(Box::new(rule)), destinations)
    }

    fn with(rule: Rule, destinations: usize) -> Self {
        Self {
            rule,
            destinations,
            open: Vec::new(),
            open_rows: 0,
            full: VecDeque::new(),
        }
    }

    /// Takes rows.
    ///
    /// # Errors
    /// If a column cannot be a key.
    pub fn push(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(());
        }
        if let Rule::Hash(rule) = &mut self.rule {
            rule.assign(&batch, self.open.len())?;
        }
        self.open.push(batch);
        self.open_rows += rows;
        // A hash splits the rows: collecting several batches' worth fills every destination's batch.
        let wanted = match self.rule {
            Rule::Hash(_) => BATCH_ROWS * self.destinations.min(PARTITION_BATCHES_MAX),
            _ => BATCH_ROWS / 2,
        };
        if self.open_rows >= wanted {
            self.close()?;
        }
        Ok(())
    }

    /// Makes batches of all that is being collected.
    ///
    /// # Errors
    /// If batches of one edge differ in their columns.
    pub fn close(&mut self) -> Result<(), OperatorError> {
        let open = std::mem::take(&mut self.open);
        self.open_rows = 0;
        let Some(first) = open.first() else {
            return Ok(());
        };
        match &mut self.rule {
            Rule::Hash(rule) => rule.gather(&open, &mut self.full)?,
            rule => {
                let to = match rule {
                    Rule::Turns { next } => {
                        let to = *next;
                        *next = (to + 1) % self.destinations;
                        to
                    }
                    _ => 0,
                };
                let batch = if open.len() == 1 {
                    first.clone()
                } else {
                    concat_batches(&first.schema(), &open)?
                };
                self.full.push_back((to, batch));
            }
        }
        Ok(())
    }

    /// The next batch that is ready.
    pub fn take_full(&mut self) -> Option<(usize, RecordBatch)> {
        self.full.pop_front()
    }

    /// Whether rows wait for company.
    #[must_use]
    pub fn is_collecting(&self) -> bool {
        self.open_rows > 0
    }
}

impl HashRule {
    fn assign(&mut self, batch: &RecordBatch, index: usize) -> Result<(), OperatorError> {
        self.keys.fill(batch, &self.columns)?;
        for (row, hash) in self.keys.hashes.iter().enumerate() {
            let owner = self.owner[key_group(*hash, self.max_parallelism) as usize];
            self.rows[owner as usize].push((index, row));
        }
        Ok(())
    }

    fn gather(
        &mut self,
        open: &[RecordBatch],
        full: &mut VecDeque<(usize, RecordBatch)>,
    ) -> Result<(), OperatorError> {
        let batches: Vec<&RecordBatch> = open.iter().collect();
        for (to, rows) in self.rows.iter_mut().enumerate() {
            for chunk in rows.chunks(BATCH_ROWS) {
                full.push_back((to, gather_rows(&batches, chunk)?));
            }
            rows.clear();
        }
        Ok(())
    }
}

fn gather_rows(batches: &[&RecordBatch], rows: &[(usize, usize)]) -> Result<RecordBatch, OperatorError> {
    // All rows of one batch, in order: nothing needs copying.
    if let [only] = batches
        && only.num_rows() == rows.len()
    {
        return Ok((*only).clone());
    }
    Ok(interleave_record_batch(batches, rows)?)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::Input;
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::TimestampMillisecondType;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn texts(batch: &RecordBatch) -> Vec<(Option<String>, i64)> {
        let keys = batch.column(0).as_string::<i32>();
        let times = batch.column(3).as_primitive::<TimestampMillisecondType>();
        (0..batch.num_rows())
            .map(|r| (keys.is_valid(r).then(|| keys.value(r).to_owned()), times.value(r)))
            .collect()
    }

    proptest! {
        /// Every row arrives once, all rows of a key at one place and in their order.
        #[test]
        fn hashing_keeps_keys_together_and_in_order(sizes in prop::collection::vec(0u64..900, 1..12), to in 1usize..5) {
            let input = Input { splits: 1, rows: 0, keys: 6, disorder_ms: 0 };
            let mut partitioner = Partitioner::hash(vec![0], 16, to);
            let (mut sent, mut offset) = (Vec::new(), 0);
            let mut received: BTreeMap<usize, Vec<(Option<String>, i64)>> = BTreeMap::new();
            for size in sizes {
                let batch = Input::batch(&(offset..offset + size).map(|o| input.row(0, o)).collect::<Vec<_>>());
                offset += size;
                sent.extend(texts(&batch));
                partitioner.push(batch).unwrap();
                while let Some((to, batch)) = partitioner.take_full() {
                    prop_assert!(batch.num_rows() <= BATCH_ROWS + 900);
                    received.entry(to).or_default().extend(texts(&batch));
                }
            }
            partitioner.close().unwrap();
            prop_assert!(!partitioner.is_collecting());
            while let Some((to, batch)) = partitioner.take_full() {
                received.entry(to).or_default().extend(texts(&batch));
            }
            let by_key = |rows: &[(Option<String>, i64)]| {
                let mut keys: BTreeMap<Option<String>, Vec<i64>> = BTreeMap::new();
                rows.iter().for_each(|(k, t)| keys.entry(k.clone()).or_default().push(*t));
                keys
            };
            let mut merged = BTreeMap::new();
            for rows in received.values() {
                for (key, times) in by_key(rows) {
                    prop_assert!(merged.insert(key, times).is_none(), "a key at two places");
                }
            }
            prop_assert_eq!(merged, by_key(&sent));
        }
    }

    #[test]
    fn turns_reach_everybody() {
        let input = Input {
            splits: 1,
            rows: 0,
            keys: 6,
            disorder_ms: 0,
        };
        let full: Vec<_> = (0..BATCH_ROWS as u64).map(|o| input.row(0, o)).collect();
        let mut partitioner = Partitioner::turns(3, 4);
        for _ in 0..3 {
            partitioner.push(Input::batch(&full)).unwrap();
        }
        let order: Vec<usize> = std::iter::from_fn(|| partitioner.take_full())
            .map(|(to, _)| to)
            .collect();
        assert_eq!(order, [1, 2, 0]);
    }
}
