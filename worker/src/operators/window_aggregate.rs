//! Aggregation per key and window. Rows go into panes as long as the slide; when the watermark closes a window, its
//! panes are merged and the result is emitted in the order of window end and key, one bounded piece at a time. Must not
//! know channels or checkpoints' course.

use super::accumulator::Plan;
use super::group_times::GroupTimes;
use super::time::{from_millis, to_millis};
use super::window::Windows;
use super::window_assign::null_rowtime;
use super::window_firing::{Firing, FiringStep};
use super::window_state::{self, Pane};
use super::{Collector, NO_WATERMARK, Operator, OperatorError, OperatorSnapshot, SnapshotError};
use crate::state::keys::{KeyBatch, KeyDecoder};
use arrow::array::ArrayRef;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use holdfast_common::CheckpointId;
use holdfast_common::inject::{self, bugs};
use holdfast_common::keygroup::key_group;
use holdfast_dataflow::graph::{WindowAggregateSpec, WindowOutput};
use holdfast_proto::snapshot::KeyGroupState;
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

/// The operator of a [`WindowAggregateSpec`].
pub struct WindowAggregate {
    spec: WindowAggregateSpec,
    windows: Windows,
    plans: Vec<Plan>,
    decoder: KeyDecoder,
    schema: SchemaRef,
    max_parallelism: u32,
    watermark_ms: i64,
    panes: BTreeMap<i64, Pane>,
    /// Window ends up to here are done.
    closed: Option<i64>,
    /// Key groups that have closed more than that.
    ahead: GroupTimes,
    firing: Option<Firing>,
    late_rows: u64,
    scratch: Scratch,
}

/// Reused from batch to batch.
#[derive(Default)]
struct Scratch {
    keys: KeyBatch,
    /// By pane of the batch: its start and its rows.
    panes: Vec<(i64, Vec<u32>)>,
    numbers: Vec<u32>,
}

impl WindowAggregate {
    /// From its specification, its input's schema and its output's.
    ///
    /// # Errors
    /// If a type or the windows are not possible.
    pub fn new(
        spec: &WindowAggregateSpec,
        input: &Schema,
        schema: SchemaRef,
        max_parallelism: u32,
    ) -> Result<Self, OperatorError> {
        let plans = spec
            .aggregates
            .iter()
            .map(|a| Plan::new(a, input))
            .collect::<Result<Vec<_>, _>>()?;
        if schema.fields().len() != spec.output.len() {
            return Err(OperatorError(format!(
                "a window aggregation emits {} columns, its schema has {}",
                spec.output.len(),
                schema.fields().len()
            )));
        }
        Ok(Self {
            windows: Windows::new(spec.kind).map_err(OperatorError)?,
            plans,
            decoder: KeyDecoder::new(spec.keys.iter().map(|k| input.field(*k).data_type().clone()))?,
            schema,
            max_parallelism,
            watermark_ms: NO_WATERMARK,
            panes: BTreeMap::new(),
            closed: None,
            ahead: GroupTimes::default(),
            firing: None,
            late_rows: 0,
            scratch: Scratch::default(),
            spec: spec.clone(),
        })
    }

    /// Takes the state of key groups in `range`, the watermark that the subtask goes on from, and what single key groups
    /// had reached beyond it.
    ///
    /// # Errors
    /// If the state is damaged or of another operator.
    pub fn restore<'a>(
        &mut self,
        keyed: impl Iterator<Item = &'a KeyGroupState>,
        range: &Range<u32>,
        watermark_ms: i64,
        reached: &BTreeMap<u32, i64>,
    ) -> Result<(), OperatorError> {
        let mine = keyed.filter(|state| range.contains(&state.key_group));
        for state in mine.skip(usize::from(inject::bug(bugs::STATE_LOST_ON_RESTORE))) {
            window_state::decode(state, &mut self.panes, &self.plans, range, self.max_parallelism)?;
        }
        self.watermark_ms = watermark_ms;
        self.closed = self.windows.closed_end(watermark_ms);
        self.ahead = GroupTimes::new(reached, watermark_ms);
        if inject::bug(bugs::TIMER_LOST_ON_RESTORE)
            && let Some((last, _)) = self.panes.last_key_value()
        {
            self.closed = Some(last.saturating_add(self.windows.size_ms));
        }
        Ok(())
    }

    /// The next window that the watermark has closed and that has rows; panes without further windows are dropped.
    fn due(&mut self) -> Option<i64> {
        while let Some((&start, _)) = self.panes.first_key_value() {
            match self.windows.next_end(start, self.closed) {
                Some(end) => return (end.saturating_sub(1) <= self.watermark_ms).then_some(end),
                None => self.panes.pop_first(),
            };
        }
        None
    }

    fn fire(&mut self, end_ms: i64) -> Firing {
        let from = end_ms.saturating_sub(self.windows.size_ms);
        // The window's first pane has no further window: it is taken. The others are shared until they are merged.
        let first = self.panes.remove(&from);
        let mut parts: VecDeque<Pane> = self.panes.range(from..end_ms).map(|(_, p)| p.clone()).collect();
        let pane = first.or_else(|| parts.pop_front()).unwrap_or_default();
        self.closed = Some(end_ms);
        Firing::new(end_ms, pane, parts)
    }

    /// One step of the window that is being emitted; the rows that it brought, if any.
    fn step_firing(&mut self, firing: &mut Firing) -> Result<Option<RecordBatch>, OperatorError> {
        let (windows, ahead, groups) = (self.windows, &self.ahead, self.max_parallelism);
        let end_ms = firing.end_ms;
        let fired = |hash: u64| {
            let reached = ahead.of(key_group(hash, groups));
            windows.closed_end(reached).is_some_and(|closed| end_ms <= closed)
        };
        let wanted = |hash: u64| ahead.is_empty() || !fired(hash);
        match firing.step(&self.plans, wanted)? {
            FiringStep::Working => Ok(Some(RecordBatch::new_empty(self.schema.clone()))),
            FiringStep::Keys(keys) => self.emit_chunk(firing, &keys).map(Some),
            FiringStep::Done => Ok(None),
        }
    }

    fn emit_chunk(&self, firing: &Firing, keys: &[u32]) -> Result<RecordBatch, OperatorError> {
        let key_columns = self
            .decoder
            .decode(keys.iter().map(|k| firing.pane.keys().get(*k)))?;
        let repeated = |at_ms: i64, column: usize| -> Result<ArrayRef, OperatorError> {
            from_millis(&vec![at_ms; keys.len()], self.schema.field(column).data_type())
        };
        let columns = self
            .spec
            .output
            .iter()
            .enumerate()
            .map(|(i, output)| match *output {
                WindowOutput::Key(k) => key_columns
                    .get(k)
                    .cloned()
                    .ok_or_else(|| OperatorError(format!("there is no grouping column {k}"))),
                WindowOutput::Start => repeated(firing.end_ms - self.windows.size_ms, i),
                WindowOutput::End => repeated(firing.end_ms, i),
                WindowOutput::Time => repeated(firing.end_ms - 1, i),
                WindowOutput::Aggregate(a) => match (self.plans.get(a), firing.pane.accumulators().get(a)) {
                    (Some(plan), Some(accumulator)) => plan.finish(accumulator, keys),
                    _ => Err(OperatorError(format!("there is no aggregate {a}"))),
                },
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(keys.len()));
        Ok(RecordBatch::try_new_with_options(
            self.schema.clone(),
            columns,
            &options,
        )?)
    }

    /// Sorts a batch's rows by pane; counts those that are too late.
    fn split(&mut self, times: &[i64]) {
        let panes = &mut self.scratch.panes;
        panes.iter_mut().for_each(|(_, rows)| rows.clear());
        let mut used = 0;
        let mut current = usize::MAX;
        let mut span = 0..0;
        for (row, &at) in times.iter().enumerate() {
            if !span.contains(&at) {
                let start = self.windows.pane_of(at);
                span = start..start.saturating_add(self.windows.slide_ms);
                current = match panes[..used].iter().position(|(s, _)| *s == start) {
                    Some(found) => found,
                    None => {
                        if used == panes.len() {
                            panes.push((start, Vec::new()));
                        } else {
                            panes[used].0 = start;
                        }
                        used += 1;
                        used - 1
                    }
                };
            }
            panes[current].1.push(row as u32);
        }
        for (start, rows) in &mut panes[..used] {
            if self.windows.pane_closed(*start, self.watermark_ms) {
                self.late_rows += rows.len() as u64;
                rows.clear();
            } else if !self.ahead.is_empty() {
                let before = rows.len();
                rows.retain(|row| {
                    let group = key_group(self.scratch.keys.hashes[*row as usize], self.max_parallelism);
                    !self.windows.pane_closed(*start, self.ahead.of(group))
                });
                self.late_rows += (before - rows.len()) as u64;
            }
        }
    }
}

impl Operator for WindowAggregate {
    fn on_batch(&mut self, batch: RecordBatch, _out: &mut dyn Collector) -> Result<(), OperatorError> {
        let (times, nulls) = to_millis(batch.column(self.spec.time_column))?;
        if nulls.is_some() {
            return Err(null_rowtime(&batch, self.spec.time_column));
        }
        self.scratch.keys.fill(&batch, &self.spec.keys)?;
        self.split(&times);
        let arguments = self
            .plans
            .iter()
            .map(|p| p.argument(&batch))
            .collect::<Result<Vec<_>, _>>()?;
        let Scratch { keys, panes, numbers } = &mut self.scratch;
        for (start, rows) in panes.iter().filter(|(_, rows)| !rows.is_empty()) {
            let pane = self.panes.entry(*start).or_insert_with(|| Pane::new(&self.plans));
            pane.intern_rows(keys, rows, numbers);
            for ((plan, accumulator), argument) in
                self.plans.iter().zip(pane.accumulators_mut()).zip(&arguments)
            {
                plan.update(accumulator, argument, rows, numbers)?;
            }
        }
        Ok(())
    }

    fn on_watermark(&mut self, watermark_ms: i64) -> Result<(), OperatorError> {
        if watermark_ms <= self.watermark_ms {
            return Ok(());
        }
        // Windows that the former watermark closed are done, also those that had no rows then.
        self.closed = self.closed.max(self.windows.closed_end(self.watermark_ms));
        self.watermark_ms = watermark_ms;
        if let Some(end) = self.due() {
            self.firing = Some(self.fire(end));
        } else {
            self.ahead.advance(watermark_ms);
        }
        Ok(())
    }

    fn has_more(&self) -> bool {
        self.firing.is_some()
    }

    fn drain(&mut self, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let Some(mut firing) = self.firing.take() else {
            return Ok(());
        };
        match self.step_firing(&mut firing)? {
            Some(rows) => {
                self.firing = Some(firing);
                if rows.num_rows() > 0 {
                    out.emit(rows)?;
                }
            }
            None => match self.due() {
                Some(end) => self.firing = Some(self.fire(end)),
                // Not before: a window that this watermark closes may have been fired for a key group ahead of it.
                None => self.ahead.advance(self.watermark_ms),
            },
        }
        Ok(())
    }

    fn snapshot(&mut self, _checkpoint: CheckpointId) -> Result<OperatorSnapshot, SnapshotError> {
        debug_assert!(self.firing.is_none());
        let captured = window_state::capture(&self.panes, &self.plans, self.max_parallelism);
        Ok(OperatorSnapshot {
            keyed: Some(Box::new(move || captured.serialize())),
            operator: self.ahead.encode(),
            ..OperatorSnapshot::default()
        })
    }

    fn take_late_rows(&mut self) -> u64 {
        std::mem::take(&mut self.late_rows)
    }
}
