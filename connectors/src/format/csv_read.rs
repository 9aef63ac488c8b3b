//! CSV to batches: finds records, splits them into fields, and fills the columns. Pure.
//!
//! A record without quote and escape characters, the usual one, is split by one pass for delimiters. Everything else
//! goes through a field-by-field reader that also knows line ends within quotes.

use super::columns::Columns;
use super::csv_options::CsvOptions;
use super::time::Separator;
use super::{Decoded, ParseFailure};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use holdfast_dataflow::connector::ConnectorError;
use memchr::{memchr, memchr_iter};

/// Fills batches from CSV.
pub(crate) struct CsvDecoder {
    options: CsvOptions,
    columns: Columns,
    /// Scratch for fields that need unquoting.
    field: Vec<u8>,
}

/// One record's extent.
struct Extent {
    /// Bytes without the line end.
    content: usize,
    /// Bytes with the line end.
    total: usize,
    /// Lines in it.
    lines: u64,
    /// Whether quotes or escapes are in it.
    plain: bool,
}

enum Scan {
    Record(Extent),
    /// The record does not end in the window.
    Incomplete,
    /// The input ends within quotes; the extent is that of the first line.
    Unclosed(Extent),
}

impl CsvDecoder {
    pub(super) fn new(schema: &SchemaRef, options: CsvOptions) -> Self {
        Self {
            options,
            columns: Columns::new(schema),
            field: Vec::new(),
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.columns.rows()
    }

    pub(super) fn flush(&mut self) -> Result<(RecordBatch, u64), ConnectorError> {
        self.columns.finish()
    }

    pub(super) fn skip_record(&self, input: &[u8], at_end: bool) -> Option<Decoded> {
        match self.scan(input, at_end) {
            Scan::Record(e) | Scan::Unclosed(e) => Some(Decoded {
                bytes: e.total,
                lines: e.lines,
            }),
            Scan::Incomplete => None,
        }
    }

    pub(super) fn decode(
        &mut self,
        input: &[u8],
        at_end: bool,
        first_line: u64,
        max_rows: usize,
    ) -> Result<Decoded, ParseFailure> {
        let mut done = Decoded::default();
        while done.bytes < input.len() && self.columns.rows() < max_rows {
            let rest = &input[done.bytes..];
            let (extent, result) = match self.scan(rest, at_end) {
                Scan::Incomplete => break,
                Scan::Unclosed(extent) => (extent, Err("a quoted field is not closed".to_owned())),
                Scan::Record(extent) => {
                    let result = self.record(&rest[..extent.content], extent.plain);
                    (extent, result)
                }
            };
            if let Err(reason) = result {
                if !self.options.ignore_errors {
                    return Err(ParseFailure {
                        line: first_line + done.lines,
                        reason: format!("{reason}; 'csv.ignore-parse-errors' = 'true' would skip such rows"),
                    });
                }
                self.columns.drop_row();
            }
            done.bytes += extent.total;
            done.lines += extent.lines;
        }
        Ok(done)
    }

    /// The extent of the first record in `input`.
    #[inline]
    fn scan(&self, input: &[u8], at_end: bool) -> Scan {
        let newline = match memchr(b'\n', input) {
            Some(at) => at,
            None if at_end => input.len(),
            None => return Scan::Incomplete,
        };
        let line = &input[..newline];
        let special = self.options.quote.is_some_and(|q| memchr(q, line).is_some())
            || self.options.escape.is_some_and(|e| memchr(e, line).is_some());
        let is_comment = self.options.comments && line.first() == Some(&b'#');
        if !special || is_comment {
            return Scan::Record(extent(input, newline, 1, true));
        }
        self.scan_special(input, at_end, newline)
    }

    fn scan_special(&self, input: &[u8], at_end: bool, first_newline: usize) -> Scan {
        let mut at = 0;
        let mut lines = 1;
        let (mut quoted, mut field_start) = (false, true);
        while let Some(&byte) = input.get(at) {
            if Some(byte) == self.options.escape {
                at += 1;
                // An escaped line end belongs to the field.
                lines += u64::from(input.get(at) == Some(&b'\n'));
                field_start = false;
            } else if Some(byte) == self.options.quote && (quoted || field_start) {
                if quoted && input.get(at + 1) == Some(&byte) {
                    at += 1;
                } else if quoted && at + 1 == input.len() && !at_end {
                    // Whether this is a doubled quote shows only with the next byte.
                    return Scan::Incomplete;
                } else {
                    quoted = !quoted;
                }
                field_start = false;
            } else if byte == b'\n' {
                if !quoted {
                    return Scan::Record(extent(input, at, lines, false));
                }
                lines += 1;
            } else {
                field_start = !quoted && byte == self.options.delimiter;
            }
            at += 1;
        }
        match (at_end, quoted) {
            (false, _) => Scan::Incomplete,
            (true, true) => Scan::Unclosed(extent(input, first_newline, 1, false)),
            (true, false) => Scan::Record(extent(input, input.len(), lines, false)),
        }
    }

    fn record(&mut self, record: &[u8], plain: bool) -> Result<(), String> {
        if self.options.comments && record.first() == Some(&b'#') {
            return Ok(());
        }
        // An empty line is a record only where a record can be one empty field.
        if record.is_empty() && self.columns.columns.len() > 1 {
            return Ok(());
        }
        if plain {
            self.plain_record(record)?;
        } else {
            self.special_record(record)?;
        }
        self.columns.end_row();
        Ok(())
    }

    #[inline]
    fn plain_record(&mut self, record: &[u8]) -> Result<(), String> {
        let count = self.columns.columns.len();
        let (mut start, mut index) = (0, 0);
        for end in memchr_iter(self.options.delimiter, record) {
            // The last column is filled below, so a delimiter behind it is one field too many.
            if index + 1 >= count {
                return Err(wrong_count(self.count_fields(record), count));
            }
            self.field(index, start, end, record)?;
            (start, index) = (end + 1, index + 1);
        }
        if index + 1 != count {
            return Err(wrong_count(index + 1, count));
        }
        self.field(index, start, record.len(), record)
    }

    fn count_fields(&self, record: &[u8]) -> usize {
        memchr_iter(self.options.delimiter, record).count() + 1
    }

    #[inline]
    fn field(&mut self, index: usize, start: usize, end: usize, record: &[u8]) -> Result<(), String> {
        put(
            &mut self.columns,
            &self.options,
            index,
            &record[start..end],
            false,
        )
    }

    /// A record with quotes or escapes.
    fn special_record(&mut self, record: &[u8]) -> Result<(), String> {
        let count = self.columns.columns.len();
        let (mut at, mut index) = (0, 0);
        loop {
            let mut field = std::mem::take(&mut self.field);
            field.clear();
            let result = read_field(&self.options, record, at, &mut field).and_then(|(end, quoted)| {
                if index >= count {
                    return Err(format!("more than {count} fields"));
                }
                put(&mut self.columns, &self.options, index, &field, quoted)?;
                Ok(end)
            });
            self.field = field;
            let end = result?;
            index += 1;
            if end >= record.len() {
                break;
            }
            at = end + 1;
        }
        if index != count {
            return Err(wrong_count(index, count));
        }
        Ok(())
    }
}

fn wrong_count(found: usize, wanted: usize) -> String {
    let plural = if found == 1 { "" } else { "s" };
    format!("the record has {found} field{plural}, the table has {wanted} columns")
}

#[inline]
fn put(
    columns: &mut Columns,
    options: &CsvOptions,
    index: usize,
    text: &[u8],
    quoted: bool,
) -> Result<(), String> {
    let column = &mut columns.columns[index];
    let null = !quoted
        && options
            .null_literal
            .as_deref()
            .is_some_and(|literal| literal == text);
    if null || (text.is_empty() && !column.is_text()) {
        return column.null();
    }
    column.text(text, Separator::Any)
}

/// Reads the field that begins at `at` into `out`; returns where it ends (a delimiter or the record's end) and whether it
/// was quoted.
fn read_field(
    options: &CsvOptions,
    record: &[u8],
    mut at: usize,
    out: &mut Vec<u8>,
) -> Result<(usize, bool), String> {
    let quoted = options.quote.is_some() && record.get(at).copied() == options.quote;
    let mut open = quoted;
    at += usize::from(quoted);
    while let Some(&byte) = record.get(at) {
        if Some(byte) == options.escape {
            at += 1;
            out.push(*record.get(at).ok_or("an escape character ends the record")?);
        } else if open && Some(byte) == options.quote {
            if record.get(at + 1) == Some(&byte) {
                at += 1;
                out.push(byte);
            } else {
                open = false;
            }
        } else if !open && byte == options.delimiter {
            return Ok((at, quoted));
        } else if quoted && !open {
            return Err("text follows the closing quote of a field".to_owned());
        } else {
            out.push(byte);
        }
        at += 1;
    }
    Ok((at, quoted))
}

/// The extent of a record whose line end, if it has one, lies at `newline`.
#[inline]
fn extent(input: &[u8], newline: usize, lines: u64, plain: bool) -> Extent {
    let has_carriage_return = newline > 0 && input[newline - 1] == b'\r';
    Extent {
        content: newline - usize::from(has_carriage_return),
        total: (newline + 1).min(input.len()),
        lines,
        plain,
    }
}
