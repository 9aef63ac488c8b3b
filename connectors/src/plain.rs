//! Sinks without commits: `print` writes rows to the worker's standard output, `blackhole` drops them.

use crate::format::{Style, TextColumn, check_schema};
use crate::options::Options;
use arrow::record_batch::RecordBatch;
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_dataflow::connector::{Committable, ConnectorError, PrepareJob, Sink, SinkContext, SinkWriter};
use holdfast_dataflow::graph::TableSpec;
use std::io::Write as _;

/// A `print` table.
pub(crate) struct PrintSink {
    identifier: Option<String>,
    to_stderr: bool,
}

impl PrintSink {
    pub(crate) fn new(table: &TableSpec) -> Result<Self, ConnectorError> {
        let options = Options::new(table, &["print-identifier", "standard-error"])?;
        check_schema(&table.name, &table.schema)?;
        Ok(Self {
            identifier: options.text("print-identifier").map(str::to_owned),
            to_stderr: options.flag("standard-error")?,
        })
    }
}

impl Sink for PrintSink {
    fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        let prefix = self
            .identifier
            .as_ref()
            .map(|id| format!("{id}:{}> ", context.subtask + 1))
            .unwrap_or_default();
        Ok(Box::new(PrintWriter {
            prefix,
            to_stderr: self.to_stderr,
        }))
    }

    fn commits(&self) -> bool {
        false
    }

    fn commit(&self, _: CheckpointId, _: &[Committable]) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn recover(&self, _: JobId, _: AttemptId, _: Option<CheckpointId>) -> Result<(), ConnectorError> {
        Ok(())
    }
}

struct PrintWriter {
    prefix: String,
    to_stderr: bool,
}

/// Rows as Flink prints insertions.
fn printed(prefix: &str, rows: &RecordBatch) -> Result<Vec<u8>, ConnectorError> {
    let columns: Vec<TextColumn<'_>> = rows
        .columns()
        .iter()
        .map(TextColumn::new)
        .collect::<Result<_, _>>()?;
    let mut out = Vec::new();
    for row in 0..rows.num_rows() {
        out.extend_from_slice(prefix.as_bytes());
        out.extend_from_slice(b"+I[");
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                out.extend_from_slice(b", ");
            }
            if column.is_null(row) {
                out.extend_from_slice(b"null");
            } else {
                column.write(&mut out, row, Style::Java);
            }
        }
        out.extend_from_slice(b"]\n");
    }
    Ok(out)
}

impl SinkWriter for PrintWriter {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), ConnectorError> {
        let text = printed(&self.prefix, rows)?;
        let result = if self.to_stderr {
            std::io::stderr().lock().write_all(&text)
        } else {
            let mut out = std::io::stdout().lock();
            out.write_all(&text).and_then(|()| out.flush())
        };
        result.map_err(|e| ConnectorError::Io(format!("cannot print rows: {e}")))
    }

    fn prepare(&mut self, _: CheckpointId) -> Result<PrepareJob, ConnectorError> {
        Ok(Box::new(|| Ok(Vec::new())))
    }
}

/// A `blackhole` table.
pub(crate) struct BlackholeSink;

impl BlackholeSink {
    pub(crate) fn new(table: &TableSpec) -> Result<Self, ConnectorError> {
        Options::new::<&str>(table, &[])?;
        Ok(Self)
    }
}

impl Sink for BlackholeSink {
    fn writer(&self, _: SinkContext) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        Ok(Box::new(Self))
    }

    fn commits(&self) -> bool {
        false
    }

    fn commit(&self, _: CheckpointId, _: &[Committable]) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn recover(&self, _: JobId, _: AttemptId, _: Option<CheckpointId>) -> Result<(), ConnectorError> {
        Ok(())
    }
}

impl SinkWriter for BlackholeSink {
    fn write(&mut self, _: &RecordBatch) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn prepare(&mut self, _: CheckpointId) -> Result<PrepareJob, ConnectorError> {
        Ok(Box::new(|| Ok(Vec::new())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::options::test_table;
    use arrow::array::{Float64Array, StringArray, TimestampMillisecondArray};
    use std::sync::Arc;

    #[test]
    fn rows_are_printed_as_in_flink() {
        let rows = RecordBatch::try_from_iter([
            (
                "t",
                Arc::new(TimestampMillisecondArray::from(vec![0, 1_357_017_301_250])) as _,
            ),
            ("s", Arc::new(StringArray::from(vec![Some("a, b"), None])) as _),
            ("d", Arc::new(Float64Array::from(vec![1.0, 0.5])) as _),
        ])
        .unwrap();
        assert_eq!(
            String::from_utf8(printed("x:1> ", &rows).unwrap()).unwrap(),
            "x:1> +I[1970-01-01T00:00, a, b, 1.0]\nx:1> +I[2013-01-01T05:15:01.250, null, 0.5]\n"
        );
    }

    #[test]
    fn options_are_checked() {
        assert!(BlackholeSink::new(&test_table("blackhole", &[("format", "csv")], &[])).is_err());
        let columns = [("a", arrow::datatypes::DataType::Int32)];
        assert!(PrintSink::new(&test_table("print", &[("print-identifier", "p")], &columns)).is_ok());
        assert!(PrintSink::new(&test_table("print", &[("print-identifer", "p")], &columns)).is_err());
    }
}
