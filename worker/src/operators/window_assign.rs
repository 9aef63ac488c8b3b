//! Appends the bounds of a row's windows to the row, once per window. Must not know state: nothing is kept.

use super::time::{from_millis, to_millis};
use super::window::Windows;
use super::{Collector, Operator, OperatorError};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use holdfast_dataflow::graph::WindowAssignSpec;

/// The operator of a [`WindowAssignSpec`].
pub struct WindowAssign {
    windows: Windows,
    time_column: usize,
    /// Input columns, then start, end and rowtime.
    schema: SchemaRef,
    /// A batch whose windows are still being emitted: rows, their panes, windows done. A hopping window may multiply
    /// rows a thousandfold, so one window's copy goes out at a time.
    open: Option<(RecordBatch, Vec<i64>, i64)>,
}

impl WindowAssign {
    /// From its specification and output schema.
    ///
    /// # Errors
    /// If the windows are impossible or the schema lacks their columns.
    pub fn new(spec: &WindowAssignSpec, schema: SchemaRef) -> Result<Self, OperatorError> {
        if schema.fields().len() < 3 {
            return Err(OperatorError(
                "a window's output has no columns for its bounds".to_owned(),
            ));
        }
        Ok(Self {
            windows: Windows::new(spec.kind).map_err(OperatorError)?,
            time_column: spec.time_column,
            schema,
            open: None,
        })
    }
}

impl Operator for WindowAssign {
    fn on_batch(&mut self, batch: RecordBatch, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let column = batch.column(self.time_column);
        let (times, nulls) = to_millis(column)?;
        if nulls.is_some() {
            return Err(null_rowtime(&batch, self.time_column));
        }
        let panes = times.iter().map(|t| self.windows.pane_of(*t)).collect();
        self.open = Some((batch, panes, 0));
        self.drain(out)
    }

    fn has_more(&self) -> bool {
        self.open.is_some()
    }

    fn drain(&mut self, out: &mut dyn Collector) -> Result<(), OperatorError> {
        let Some((batch, panes, done)) = self.open.take() else {
            return Ok(());
        };
        let earlier_ms = (self.windows.per_row() - 1 - done) * self.windows.slide_ms;
        let starts: Vec<i64> = panes.iter().map(|p| p.saturating_sub(earlier_ms)).collect();
        let ends: Vec<i64> = starts
            .iter()
            .map(|s| s.saturating_add(self.windows.size_ms))
            .collect();
        let times: Vec<i64> = ends.iter().map(|e| e - 1).collect();
        let input_columns = self.schema.fields().len() - 3;
        let mut columns = batch.columns().to_vec();
        for (i, values) in [starts, ends, times].iter().enumerate() {
            let data_type = self.schema.field(input_columns + i).data_type();
            columns.push(from_millis(values, data_type)?);
        }
        let assigned = RecordBatch::try_new(self.schema.clone(), columns)?;
        if done + 1 < self.windows.per_row() {
            self.open = Some((batch, panes, done + 1));
        }
        out.emit(assigned)
    }
}

/// The failure of a row without event time.
pub(super) fn null_rowtime(batch: &RecordBatch, column: usize) -> OperatorError {
    let schema = batch.schema();
    OperatorError(format!(
        "the event-time column '{}' is NULL in a row that reaches a window; filter such rows out before the window \
         (WHERE {} IS NOT NULL)",
        schema.field(column).name(),
        schema.field(column).name()
    ))
}
