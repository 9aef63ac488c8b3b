//! The head of a source task: polls a reader, computes columns, and generates watermarks per split. Must not know what
//! lies behind the reader, nor when barriers pass.

use super::time::max_millis;
use super::watermark::SplitWatermarks;
use super::{Calc, NO_WATERMARK, OperatorError};
use arrow::record_batch::RecordBatch;
use holdfast_common::CheckpointId;
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::BATCH_ROWS;
use holdfast_dataflow::connector::{ConnectorError, SourcePoll, SourceReader};
use holdfast_dataflow::expr::ExprRef;
use holdfast_dataflow::graph::SourceSpec;
use holdfast_proto::snapshot::SplitState;
use std::collections::BTreeMap;
use std::time::Duration;

/// What a turn of a source brought.
#[derive(Debug)]
pub enum SourceTurn {
    /// Rows in the table's schema.
    Rows(RecordBatch),
    /// The subtask's watermark; after [`SourceTurn::Idle`] it also says that the subtask is back.
    Watermark(i64),
    /// Every split has fallen silent: the subtask holds nobody back.
    Idle,
    /// Something happened that brings nothing; ask again.
    Again,
    /// Nothing for this long.
    Wait(Duration),
    /// Nothing will ever come again.
    End,
}

/// See the module.
pub struct SourceHead {
    reader: Box<dyn SourceReader>,
    computed: Option<Calc>,
    watermark: Option<ExprRef>,
    marks: SplitWatermarks,
    /// Watermarks of a restore by split, for splits that the reader has not listed yet.
    restored: BTreeMap<String, i64>,
    interval_ms: u64,
    checked_at_ms: Option<u64>,
    emitted_ms: i64,
    idle: bool,
    /// Rows that wait until the subtask is announced to be back.
    held: Option<RecordBatch>,
    /// For a seeded bug: what the last checkpoint saved.
    saved: Vec<SplitState>,
}

/// Times that steer watermark generation.
#[derive(Debug, Clone, Copy)]
pub struct SourceTiming {
    /// `pipeline.auto-watermark-interval`.
    pub watermark_interval: Duration,
    /// `table.exec.source.idle-timeout`.
    pub idle_timeout: Duration,
}

impl SourceHead {
    /// Around a reader that was given `restored`.
    ///
    /// # Errors
    /// If the reader cannot say where it stands.
    pub fn new(
        spec: &SourceSpec,
        reader: Box<dyn SourceReader>,
        restored: &[SplitState],
        timing: SourceTiming,
        now_ms: u64,
    ) -> Result<Self, OperatorError> {
        let idle_ms = u64::try_from(timing.idle_timeout.as_millis()).unwrap_or(u64::MAX);
        let mut head = Self {
            reader,
            computed: spec.computed.clone().map(Calc::new),
            watermark: spec.watermark.as_ref().map(|w| w.expression.clone()),
            marks: SplitWatermarks::new(idle_ms, now_ms),
            restored: restored
                .iter()
                .map(|s| (s.split_id.clone(), s.watermark_ms))
                .collect(),
            interval_ms: u64::try_from(timing.watermark_interval.as_millis()).unwrap_or(u64::MAX),
            checked_at_ms: None,
            emitted_ms: NO_WATERMARK,
            idle: false,
            held: None,
            saved: Vec::new(),
        };
        // A finished split never speaks again: that it no longer counts must be known from the start.
        let finished: BTreeMap<&str, bool> = restored
            .iter()
            .map(|s| (s.split_id.as_str(), s.finished))
            .collect();
        head.list_splits(&finished, now_ms);
        Ok(head)
    }

    fn list_splits(&mut self, finished: &BTreeMap<&str, bool>, now_ms: u64) {
        for name in self.reader.splits().iter().skip(self.marks.len()) {
            let watermark_ms = self.restored.get(name).copied().unwrap_or(NO_WATERMARK);
            let finished = finished.get(name.as_str()).copied().unwrap_or(false);
            self.marks.add(watermark_ms, finished, now_ms);
        }
    }

    /// Reads once, or passes on what is due. Never waits.
    ///
    /// # Errors
    /// The attempt fails.
    pub fn turn(&mut self, now_ms: u64) -> Result<SourceTurn, OperatorError> {
        if let Some(turn) = self.due(now_ms) {
            return Ok(turn);
        }
        if let Some(rows) = self.held.take() {
            return Ok(SourceTurn::Rows(rows));
        }
        match self.poll().map_err(failed)? {
            SourcePoll::Batch(batch) => {
                let rows = self.take(batch.split, batch.rows, now_ms)?;
                if self.idle {
                    self.idle = false;
                    self.held = Some(rows);
                    return Ok(SourceTurn::Watermark(self.emitted_ms));
                }
                Ok(SourceTurn::Rows(rows))
            }
            SourcePoll::Pending(wait) => Ok(SourceTurn::Wait(self.wait(wait))),
            SourcePoll::SplitFinished(split) => {
                self.list_splits(&BTreeMap::new(), now_ms);
                self.marks.finish(split);
                Ok(SourceTurn::Again)
            }
            SourcePoll::End => Ok(SourceTurn::End),
        }
    }

    fn poll(&mut self) -> Result<SourcePoll, ConnectorError> {
        if self.watermark.is_none() {
            return self.reader.poll(BATCH_ROWS);
        }
        let marks = &self.marks;
        self.reader.poll_least(BATCH_ROWS, &|split| marks.of(split))
    }

    /// The watermark or the silence, when it is time for one.
    fn due(&mut self, now_ms: u64) -> Option<SourceTurn> {
        self.watermark.as_ref()?;
        let waited = self.checked_at_ms.map(|at| now_ms.abs_diff(at));
        if self.held.is_some() || waited.is_some_and(|w| w < self.interval_ms) {
            return None;
        }
        self.checked_at_ms = Some(now_ms);
        self.list_splits(&BTreeMap::new(), now_ms);
        self.marks.tick(now_ms);
        let combined = self.marks.combined();
        if combined > self.emitted_ms {
            self.emitted_ms = combined;
            self.idle = false;
            return Some(SourceTurn::Watermark(combined));
        }
        if !self.idle && self.marks.all_idle(now_ms) {
            self.idle = true;
            return Some(SourceTurn::Idle);
        }
        None
    }

    fn take(&mut self, split: usize, rows: RecordBatch, now_ms: u64) -> Result<RecordBatch, OperatorError> {
        let rows = match &self.computed {
            Some(calc) => calc.apply(rows)?,
            None => rows,
        };
        if self.watermark.is_some() && split >= self.marks.len() {
            self.list_splits(&BTreeMap::new(), now_ms);
        }
        if let Some(expression) = &self.watermark {
            let greatest = max_millis(&expression.evaluate(&rows)?)?;
            self.marks.observe(split, greatest, now_ms);
        }
        Ok(rows)
    }

    fn wait(&self, wanted: Duration) -> Duration {
        let wanted = wanted.max(Duration::from_millis(1));
        if self.watermark.is_none() {
            return wanted;
        }
        wanted.min(Duration::from_millis(self.interval_ms.max(1)))
    }

    /// Where every split goes on.
    ///
    /// # Errors
    /// Why the reader cannot say.
    pub fn snapshot(&mut self) -> Result<Vec<SplitState>, String> {
        if inject::bug(bugs::SOURCE_OFFSET_AHEAD)
            && let Ok(SourcePoll::Batch(batch)) = self.reader.poll(BATCH_ROWS)
        {
            self.held = self.take(batch.split, batch.rows, 0).ok();
        }
        let states = self.positions()?;
        if inject::bug(bugs::SOURCE_OFFSET_BEHIND) {
            return Ok(std::mem::replace(&mut self.saved, states));
        }
        Ok(states)
    }

    fn positions(&mut self) -> Result<Vec<SplitState>, String> {
        let names = self.reader.splits();
        let states = self
            .reader
            .snapshot()
            .map_err(|e| format!("the source cannot snapshot: {e}"))?;
        let by_name: BTreeMap<&str, usize> = names.iter().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
        Ok(states
            .into_iter()
            .map(|state| {
                let watermark_ms = by_name
                    .get(state.split_id.as_str())
                    .filter(|i| **i < self.marks.len())
                    .map(|i| self.marks.of(*i))
                    .or_else(|| self.restored.get(&state.split_id).copied())
                    .unwrap_or(NO_WATERMARK);
                SplitState {
                    split_id: state.split_id,
                    position: state.position.into(),
                    watermark_ms,
                    finished: state.finished,
                }
            })
            .collect())
    }

    /// Whether rows were read that have not been passed on: no barrier may pass before them.
    #[must_use]
    pub fn holds_rows(&self) -> bool {
        self.held.is_some()
    }

    /// A checkpoint is complete in the log.
    pub fn settled(&mut self, checkpoint: CheckpointId) {
        self.reader.settled(checkpoint);
    }
}

fn failed(error: ConnectorError) -> OperatorError {
    OperatorError(format!("the source failed: {error}"))
}

#[cfg(test)]
#[path = "source_tests.rs"]
mod tests;
