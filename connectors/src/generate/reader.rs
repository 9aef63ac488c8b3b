//! Reads a generator: splits stride the row numbers, so that any parallelism covers each exactly once. Pacing decides
//! when a row comes, never what it is.

use arrow::record_batch::RecordBatch;
use holdfast_dataflow::connector::{
    ConnectorError, Source, SourceBatch, SourceContext, SourcePoll, SourceReader, SplitState,
};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

const VERSION: u8 = 1;
/// Longest time between two looks at the clock, so that a changed clock is noticed.
const WAIT_MS_MAX: u64 = 100;
/// Pacing makes up for at most this much lost time, so that a pause is not followed by a flood.
const CATCH_UP_MS: u64 = 1_000;

/// A table whose rows are a function of their number.
pub(super) trait Generator: Send + Sync + 'static {
    /// Number of splits: split i holds rows i, i + splits, i + 2 * splits...
    fn splits(&self) -> u32;
    /// Number of rows; `None` is without end.
    fn rows(&self) -> Option<u64>;
    /// Rows per second over all splits; `None` is as fast as possible.
    fn rate(&self) -> Option<u64>;
    /// `count` rows: `first`, `first + stride`...
    fn generate(&self, first: u64, stride: u64, count: usize) -> Result<RecordBatch, ConnectorError>;
}

/// A checked table.
pub(crate) struct GeneratedSource {
    generator: Arc<dyn Generator>,
}

impl GeneratedSource {
    pub(super) fn new(generator: Arc<dyn Generator>) -> Self {
        Self { generator }
    }
}

impl Source for GeneratedSource {
    fn bounded(&self) -> bool {
        self.generator.rows().is_some()
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let generator = self.generator.clone();
        let splits = generator.splits();
        let mut mine: Vec<Split> = (0..splits)
            .filter(|split| split % context.parallelism.max(1) == context.subtask)
            .map(|number| Split { number, next: 0 })
            .collect();
        for state in restored {
            let (number, next) = decode(&state, splits)?;
            if let Some(split) = mine.iter_mut().find(|s| s.number == number) {
                split.next = next;
            }
        }
        let finished = (0..mine.len())
            .filter(|i| remaining(&*generator, &mine[*i]) == 0)
            .collect();
        Ok(Box::new(Reader {
            context,
            generator,
            splits: mine,
            finished,
            pace: None,
        }))
    }
}

struct Split {
    number: u32,
    /// Rows emitted.
    next: u64,
}

struct Reader {
    context: SourceContext,
    generator: Arc<dyn Generator>,
    splits: Vec<Split>,
    /// Splits whose end was not reported yet.
    finished: VecDeque<usize>,
    pace: Option<Pace>,
}

/// When pacing began and what was emitted since.
struct Pace {
    since_ms: u64,
    emitted: u64,
}

fn split_id(number: u32) -> String {
    format!("gen-{number}")
}

fn encode(splits: u32, next: u64) -> Vec<u8> {
    let mut out = vec![VERSION];
    out.extend_from_slice(&splits.to_le_bytes());
    out.extend_from_slice(&next.to_le_bytes());
    out
}

fn decode(state: &SplitState, splits: u32) -> Result<(u32, u64), ConnectorError> {
    let wrong = |reason: String| {
        ConnectorError::Conflict(format!("position of split '{}': {reason}", state.split_id))
    };
    let bytes = state.position.as_slice();
    if bytes.first() != Some(&VERSION) || bytes.len() != 13 {
        return Err(wrong("written by another version".into()));
    }
    let number = |range: std::ops::Range<usize>| {
        bytes[range]
            .iter()
            .rev()
            .fold(0u64, |value, byte| (value << 8) | u64::from(*byte))
    };
    if number(1..5) != u64::from(splits) {
        return Err(wrong(format!(
            "the table had {} splits and has {splits} now; 'scan.splits' must not change",
            number(1..5)
        )));
    }
    let id = state.split_id.strip_prefix("gen-").and_then(|n| n.parse().ok());
    let id = id
        .filter(|n| *n < splits)
        .ok_or_else(|| wrong("no such split".into()))?;
    Ok((id, number(5..13)))
}

/// Rows that a split has still to emit.
fn remaining(generator: &dyn Generator, split: &Split) -> u64 {
    let Some(rows) = generator.rows() else {
        return u64::MAX;
    };
    let stride = u64::from(generator.splits());
    let in_split = rows.saturating_sub(u64::from(split.number)).div_ceil(stride);
    in_split.saturating_sub(split.next)
}

impl Reader {
    /// The row that a split emits next.
    fn next_row(&self, split: &Split) -> u64 {
        split.next * u64::from(self.generator.splits()) + u64::from(split.number)
    }

    /// Rows that may be emitted now, or how long to wait for the next.
    fn allowance(&mut self) -> Result<u64, Duration> {
        let Some(rate) = self.generator.rate() else {
            return Ok(u64::MAX);
        };
        // This reader's share of the rate, in rows per 1000 * splits seconds: no rounding, however small the rate.
        let own = u128::from(rate) * self.splits.len() as u128;
        let unit = 1000 * u128::from(self.generator.splits());
        let now = self.context.clock.now_ms();
        let pace = self.pace.get_or_insert(Pace {
            since_ms: now,
            emitted: 0,
        });
        let elapsed = u128::from(now.saturating_sub(pace.since_ms));
        // One row is due at once.
        let due = u64::try_from(elapsed * own / unit)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let lag_max = u64::try_from(u128::from(CATCH_UP_MS) * own / unit)
            .unwrap_or(u64::MAX)
            .max(1);
        let behind = due.saturating_sub(pace.emitted);
        if behind > lag_max {
            pace.emitted = due - lag_max;
            return Ok(lag_max);
        }
        if behind > 0 {
            return Ok(behind);
        }
        let next_ms =
            u64::try_from((u128::from(pace.emitted) * unit).div_ceil(own.max(1))).unwrap_or(u64::MAX);
        let wait = next_ms.saturating_sub(u64::try_from(elapsed).unwrap_or(u64::MAX));
        Err(Duration::from_millis(wait.clamp(1, WAIT_MS_MAX)))
    }
}

impl SourceReader for Reader {
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, ConnectorError> {
        if let Some(index) = self.finished.pop_front() {
            return Ok(SourcePoll::SplitFinished(index));
        }
        // The split that is furthest behind, so that splits stay within a batch of each other.
        let open = |s: &&Split| remaining(&*self.generator, s) > 0;
        let Some((index, first)) = self
            .splits
            .iter()
            .enumerate()
            .filter(|(_, s)| open(s))
            .map(|(index, s)| (index, self.next_row(s)))
            .min_by_key(|(_, row)| *row)
        else {
            return Ok(SourcePoll::End);
        };
        let allowed = match self.allowance() {
            Ok(u64::MAX) => u64::MAX,
            Ok(rows) => rows.div_ceil(self.splits.len() as u64),
            Err(wait) => return Ok(SourcePoll::Pending(wait)),
        };
        let count = remaining(&*self.generator, &self.splits[index])
            .min(allowed)
            .min(max_rows.max(1) as u64);
        let stride = u64::from(self.generator.splits());
        let rows = self
            .generator
            .generate(first, stride, usize::try_from(count).unwrap_or(1))?;
        self.splits[index].next += count;
        if let Some(pace) = &mut self.pace {
            pace.emitted += count;
        }
        if remaining(&*self.generator, &self.splits[index]) == 0 {
            self.finished.push_back(index);
        }
        Ok(SourcePoll::Batch(SourceBatch { split: index, rows }))
    }

    fn splits(&self) -> Vec<String> {
        self.splits.iter().map(|s| split_id(s.number)).collect()
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        let state = |s: &Split| SplitState {
            split_id: split_id(s.number),
            position: encode(self.generator.splits(), s.next),
            finished: remaining(&*self.generator, s) == 0,
        };
        Ok(self.splits.iter().map(state).collect())
    }
}
