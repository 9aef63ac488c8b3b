//! Batches to CSV: fields are quoted only where they must be. Pure.

use super::csv_options::CsvOptions;
use super::text::{Style, TextColumn};
use holdfast_dataflow::connector::ConnectorError;

/// Writes CSV.
pub(crate) struct CsvEncoder {
    options: CsvOptions,
}

impl CsvEncoder {
    pub(super) fn new(options: CsvOptions) -> Self {
        Self { options }
    }

    pub(super) fn row(
        &self,
        out: &mut Vec<u8>,
        columns: &[TextColumn<'_>],
        row: usize,
    ) -> Result<(), ConnectorError> {
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                out.push(self.options.delimiter);
            }
            if column.is_null(row) {
                out.extend_from_slice(self.options.null_literal.as_deref().unwrap_or_default());
                continue;
            }
            let start = out.len();
            column.write(out, row, Style::Sql);
            let lone = columns.len() == 1;
            if self.must_quote(&out[start..], index == 0, lone && column.str(row).is_some()) {
                self.quote(out, start)?;
            }
        }
        out.push(b'\n');
        Ok(())
    }

    fn must_quote(&self, text: &[u8], first: bool, lone: bool) -> bool {
        let o = &self.options;
        let special = |b: &u8| {
            *b == o.delimiter || matches!(b, b'\n' | b'\r') || Some(*b) == o.quote || Some(*b) == o.escape
        };
        text.iter().any(special)
            || o.null_literal.as_deref() == Some(text)
            || (first && o.comments && text.first() == Some(&b'#'))
            || (lone && text.is_empty())
    }

    /// Quotes what was written since `start`.
    fn quote(&self, out: &mut Vec<u8>, start: usize) -> Result<(), ConnectorError> {
        let text = out.split_off(start);
        let Some(quote) = self.options.quote else {
            return self.escape_only(out, &text);
        };
        out.push(quote);
        for byte in text {
            if byte == quote {
                out.push(quote);
            } else if Some(byte) == self.options.escape {
                out.push(byte);
            }
            out.push(byte);
        }
        out.push(quote);
        Ok(())
    }

    /// Without a quote character only escapes can keep a field whole.
    fn escape_only(&self, out: &mut Vec<u8>, text: &[u8]) -> Result<(), ConnectorError> {
        // An empty field or a text equal to the NULL literal reads back as such; there is no way to tell them apart.
        let Some(escape) = self.options.escape else {
            if text
                .iter()
                .any(|b| *b == self.options.delimiter || matches!(b, b'\n' | b'\r'))
            {
                let shown: String = String::from_utf8_lossy(text).chars().take(80).collect();
                return Err(ConnectorError::Data(format!(
                    "'{shown}' cannot be written as a CSV field without a quote or escape character: unset 'csv.disable-quote-character' or set 'csv.escape-character'"
                )));
            }
            out.extend_from_slice(text);
            return Ok(());
        };
        for byte in text {
            if *byte == self.options.delimiter || *byte == escape || matches!(byte, b'\n' | b'\r') {
                out.push(escape);
            }
            out.push(*byte);
        }
        Ok(())
    }
}
