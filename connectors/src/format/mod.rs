//! Text formats: from bytes to Arrow and back, by the options of a table. Pure; knows no files.

mod columns;
mod csv_options;
mod csv_read;
mod csv_write;
mod json_read;
mod json_write;
mod text;
pub(crate) mod time;

pub(crate) use columns::check_schema;
pub(crate) use text::{Style, TextColumn};

use crate::options::Options;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use csv_options::CsvOptions;
use csv_read::CsvDecoder;
use csv_write::CsvEncoder;
use holdfast_dataflow::connector::ConnectorError;
use json_read::{JsonDecoder, JsonOptions};
use json_write::JsonEncoder;

/// Options that only some formats have.
const CSV_KEYS: [&str; 11] = [
    "csv.field-delimiter",
    "csv.disable-quote-character",
    "csv.quote-character",
    "csv.allow-comments",
    "csv.ignore-parse-errors",
    "csv.array-element-delimiter",
    "csv.escape-character",
    "csv.null-literal",
    "csv.skip-header",
    "csv.write-bigdecimal-in-scientific-notation",
    "format",
];
const JSON_KEYS: [&str; 6] = [
    "json.ignore-parse-errors",
    "json.fail-on-missing-field",
    "json.timestamp-format.standard",
    "json.encode.ignore-null-fields",
    "json.encode.decimal-as-plain-number",
    "format",
];

/// A table's format with its options.
#[derive(Debug, Clone)]
pub(crate) enum Format {
    /// Comma-separated values.
    Csv(CsvOptions),
    /// One JSON object per line.
    Json(JsonOptions),
}

/// The option keys that a table of this format may have.
pub(crate) fn keys_of(table: &holdfast_dataflow::graph::TableSpec) -> Vec<&'static str> {
    match table.options.get("format").map(|f| f.trim().to_ascii_lowercase()) {
        Some(format) if format == "json" => JSON_KEYS.to_vec(),
        Some(format) if format == "csv" => CSV_KEYS.to_vec(),
        _ => CSV_KEYS.iter().chain(&JSON_KEYS).copied().collect(),
    }
}

impl Format {
    /// From the options `format`, `csv.*` and `json.*`.
    pub(crate) fn new(options: &Options<'_>) -> Result<Self, ConnectorError> {
        options.required("format", "csv or json")?;
        match options.choice("format", &["csv", "json"])? {
            "csv" => Ok(Self::Csv(CsvOptions::new(options)?)),
            _ => Ok(Self::Json(JsonOptions::new(options)?)),
        }
    }

    /// The usual ending of a file's name.
    pub(crate) fn extension(&self) -> &'static str {
        match self {
            Self::Csv(_) => "csv",
            Self::Json(_) => "json",
        }
    }

    /// Whether a file's first line is no record.
    pub(crate) fn skips_header(&self) -> bool {
        matches!(self, Self::Csv(options) if options.skip_header)
    }

    /// A decoder for a schema that [`check_schema`] has accepted.
    pub(crate) fn decoder(&self, schema: &SchemaRef) -> Decoder {
        match self {
            Self::Csv(options) => Decoder::Csv(CsvDecoder::new(schema, options.clone())),
            Self::Json(options) => Decoder::Json(JsonDecoder::new(schema, options.clone())),
        }
    }

    /// An encoder.
    pub(crate) fn encoder(&self) -> Encoder {
        match self {
            Self::Csv(options) => Encoder::Csv(CsvEncoder::new(options.clone())),
            Self::Json(options) => Encoder::Json(JsonEncoder::new(options.clone())),
        }
    }
}

/// Where and why a record does not parse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ParseFailure {
    /// Line of the record, 1 being the first line of the input.
    pub line: u64,
    /// What is wrong, with the column and the text.
    pub reason: String,
}

/// What a call of a decoder did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Decoded {
    /// Bytes of whole records that were taken.
    pub bytes: usize,
    /// Lines in them.
    pub lines: u64,
}

/// Bytes to batches. The caller shows it a window of the input that begins at a record and moves it on by what was
/// taken; what remains is shown again with more behind it.
pub(crate) enum Decoder {
    Csv(CsvDecoder),
    Json(JsonDecoder),
}

impl Decoder {
    /// Takes whole records from `input` until `max_rows` rows are gathered. `at_end`: nothing follows `input`, so its last
    /// record needs no line end. `first_line` is the line number of `input`'s first byte.
    pub(crate) fn decode(
        &mut self,
        input: &[u8],
        at_end: bool,
        first_line: u64,
        max_rows: usize,
    ) -> Result<Decoded, ParseFailure> {
        match self {
            Self::Csv(csv) => csv.decode(input, at_end, first_line, max_rows),
            Self::Json(json) => json.decode(input, at_end, first_line, max_rows),
        }
    }

    /// Passes over one record, if it is whole.
    pub(crate) fn skip_record(&self, input: &[u8], at_end: bool) -> Option<Decoded> {
        match self {
            Self::Csv(csv) => csv.skip_record(input, at_end),
            Self::Json(_) => None,
        }
    }

    /// Rows gathered.
    pub(crate) fn rows(&self) -> usize {
        match self {
            Self::Csv(csv) => csv.rows(),
            Self::Json(json) => json.rows(),
        }
    }

    /// The gathered rows, and how many records were skipped as unreadable.
    pub(crate) fn flush(&mut self) -> Result<(RecordBatch, u64), ConnectorError> {
        match self {
            Self::Csv(csv) => csv.flush(),
            Self::Json(json) => json.flush(),
        }
    }
}

/// Batches to bytes.
pub(crate) enum Encoder {
    Csv(CsvEncoder),
    Json(JsonEncoder),
}

impl Encoder {
    /// Prepares a batch's columns.
    pub(crate) fn columns<'b>(&self, rows: &'b RecordBatch) -> Result<Vec<TextColumn<'b>>, ConnectorError> {
        rows.columns().iter().map(TextColumn::new).collect()
    }

    /// The batch's column names as they stand in every row, if the format repeats them.
    pub(crate) fn names(&self, rows: &RecordBatch) -> Vec<Vec<u8>> {
        match self {
            Self::Csv(_) => Vec::new(),
            Self::Json(json) => json.names(rows),
        }
    }

    /// Appends one row with its line end.
    pub(crate) fn row(
        &self,
        out: &mut Vec<u8>,
        columns: &[TextColumn<'_>],
        names: &[Vec<u8>],
        row: usize,
    ) -> Result<(), ConnectorError> {
        match self {
            Self::Csv(csv) => csv.row(out, columns, row),
            Self::Json(json) => {
                json.row(out, columns, names, row);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests;
