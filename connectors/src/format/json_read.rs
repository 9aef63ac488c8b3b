//! JSON lines to batches: one object per line, fields by name. Pure.
//!
//! Values are cut out as raw text and parsed straight into the columns, so that decimals and large integers keep every
//! digit and no tree is built.

use super::columns::{Column, Columns};
use super::time::Separator;
use super::{Decoded, ParseFailure};
use crate::options::Options;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use holdfast_dataflow::connector::ConnectorError;
use memchr::memchr;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Range;

/// How JSON looks.
#[derive(Debug, Clone)]
pub(crate) struct JsonOptions {
    pub(super) ignore_errors: bool,
    pub(super) fail_on_missing: bool,
    pub(super) iso_8601: bool,
    pub(super) ignore_nulls: bool,
}

impl JsonOptions {
    pub(super) fn new(options: &Options<'_>) -> Result<Self, ConnectorError> {
        options.flag("json.encode.decimal-as-plain-number")?;
        let json = Self {
            ignore_errors: options.flag("json.ignore-parse-errors")?,
            fail_on_missing: options.flag("json.fail-on-missing-field")?,
            iso_8601: options.choice("json.timestamp-format.standard", &["SQL", "ISO-8601"])? == "ISO-8601",
            ignore_nulls: options.flag("json.encode.ignore-null-fields")?,
        };
        if json.ignore_errors && json.fail_on_missing {
            return Err(options.wrong(
                "json.fail-on-missing-field",
                "contradicts 'json.ignore-parse-errors' = 'true'",
            ));
        }
        Ok(json)
    }
}

/// Fills batches from JSON lines.
pub(crate) struct JsonDecoder {
    options: JsonOptions,
    columns: Columns,
    by_name: BTreeMap<String, usize>,
    /// Where in the current line each column's value stands.
    places: Vec<Option<Range<usize>>>,
}

impl JsonDecoder {
    pub(super) fn new(schema: &SchemaRef, options: JsonOptions) -> Self {
        let by_name = schema
            .fields()
            .iter()
            .enumerate()
            .map(|(index, field)| (field.name().clone(), index))
            .collect();
        Self {
            options,
            columns: Columns::new(schema),
            by_name,
            places: vec![None; schema.fields().len()],
        }
    }

    pub(super) fn rows(&self) -> usize {
        self.columns.rows()
    }

    pub(super) fn flush(&mut self) -> Result<(RecordBatch, u64), ConnectorError> {
        self.columns.finish()
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
            let (line, total) = match memchr(b'\n', rest) {
                Some(at) => (&rest[..at], at + 1),
                None if at_end => (rest, rest.len()),
                None => break,
            };
            if !line.trim_ascii().is_empty() {
                match self.line(line) {
                    Ok(()) => self.columns.end_row(),
                    Err(_) if self.options.ignore_errors => self.columns.drop_row(),
                    Err(reason) => {
                        return Err(ParseFailure {
                            line: first_line + done.lines,
                            reason: format!(
                                "{reason}; 'json.ignore-parse-errors' = 'true' would skip such rows"
                            ),
                        });
                    }
                }
            }
            done.bytes += total;
            done.lines += 1;
        }
        Ok(done)
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let text =
            std::str::from_utf8(line).map_err(|e| format!("no valid UTF-8 at byte {}", e.valid_up_to()))?;
        self.places.fill(None);
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let finder = Finder {
            line: text,
            by_name: &self.by_name,
            places: &mut self.places,
        };
        finder
            .deserialize(&mut deserializer)
            .and_then(|()| deserializer.end())
            .map_err(|e| format!("no JSON object: {}", without_line(&e)))?;
        let separator = if self.options.iso_8601 {
            Separator::T
        } else {
            Separator::Space
        };
        for (column, place) in self.columns.columns.iter_mut().zip(&self.places) {
            match place {
                Some(range) => put(column, &text[range.clone()], separator)?,
                None if self.options.fail_on_missing => {
                    return Err(format!("field '{}' is missing", column.name));
                }
                None => column.null()?,
            }
        }
        Ok(())
    }
}

/// serde_json's message with the column only: its line is always 1 here.
fn without_line(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let reason = text.split(" at line ").next().unwrap_or_default();
    format!("{reason} at character {}", error.column())
}

fn put(column: &mut Column, raw: &str, separator: Separator) -> Result<(), String> {
    match raw.as_bytes().first() {
        Some(b'n') => column.null(),
        Some(b'"') if !raw.contains('\\') => {
            let inner = raw.get(1..raw.len() - 1).unwrap_or_default();
            string(column, inner, separator)
        }
        Some(b'"') => {
            let inner: String = serde_json::from_str(raw)
                .map_err(|_| format!("column '{}': {raw} is no string", column.name))?;
            string(column, &inner, separator)
        }
        Some(b'{' | b'[') if !column.is_text() => Err(column.refuse(raw.as_bytes())),
        _ => column.text(raw.as_bytes(), separator),
    }
}

fn string(column: &mut Column, text: &str, separator: Separator) -> Result<(), String> {
    column.text(text.as_bytes(), separator)
}

/// Notes where the values of known fields stand. Of a field given twice the last counts.
struct Finder<'a> {
    line: &'a str,
    by_name: &'a BTreeMap<String, usize>,
    places: &'a mut [Option<Range<usize>>],
}

impl<'de> DeserializeSeed<'de> for Finder<'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Finder<'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(name)) = map.next_key()? {
            let Some(index) = self.by_name.get(name.as_ref()) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let raw = map.next_value::<&RawValue>()?.get();
            // The value borrows from the line, so its address tells its place.
            let start = raw.as_ptr().addr() - self.line.as_ptr().addr();
            self.places[*index] = Some(start..start + raw.len());
        }
        Ok(())
    }
}

/// A key, borrowed unless it holds escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
