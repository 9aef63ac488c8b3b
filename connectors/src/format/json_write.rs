//! Batches to JSON lines. Pure.

use super::json_read::JsonOptions;
use super::text::{Kind, Style, TextColumn};
use arrow::record_batch::RecordBatch;

/// Writes JSON lines.
pub(crate) struct JsonEncoder {
    options: JsonOptions,
}

impl JsonEncoder {
    pub(super) fn new(options: JsonOptions) -> Self {
        Self { options }
    }

    /// `"name":` of every column.
    pub(super) fn names(&self, rows: &RecordBatch) -> Vec<Vec<u8>> {
        let schema = rows.schema();
        let name = |field: &arrow::datatypes::FieldRef| {
            let mut out = Vec::new();
            write_string(&mut out, field.name());
            out.push(b':');
            out
        };
        schema.fields().iter().map(name).collect()
    }

    pub(super) fn row(&self, out: &mut Vec<u8>, columns: &[TextColumn<'_>], names: &[Vec<u8>], row: usize) {
        let style = if self.options.iso_8601 {
            Style::Iso8601
        } else {
            Style::Sql
        };
        out.push(b'{');
        let mut first = true;
        for (column, name) in columns.iter().zip(names) {
            let null = column.is_null(row);
            if null && self.options.ignore_nulls {
                continue;
            }
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(name);
            if null {
                out.extend_from_slice(b"null");
                continue;
            }
            match (column.kind(row), column.str(row)) {
                (Kind::Text, Some(text)) => write_string(out, text),
                (Kind::Bare, _) => column.write(out, row, style),
                _ => {
                    out.push(b'"');
                    column.write(out, row, style);
                    out.push(b'"');
                }
            }
        }
        out.extend_from_slice(b"}\n");
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    // Strings always serialize, and writing to memory does not fail.
    if serde_json::to_writer(&mut *out, text).is_err() {
        out.extend_from_slice(b"null");
    }
}
