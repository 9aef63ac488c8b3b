//! The `csv.*` options. Pure.

use crate::options::Options;
use holdfast_dataflow::connector::ConnectorError;

/// How CSV looks.
#[derive(Debug, Clone)]
pub(crate) struct CsvOptions {
    pub(super) delimiter: u8,
    pub(super) quote: Option<u8>,
    pub(super) escape: Option<u8>,
    pub(super) comments: bool,
    pub(super) ignore_errors: bool,
    pub(super) null_literal: Option<Vec<u8>>,
    pub(super) skip_header: bool,
}

impl CsvOptions {
    pub(super) fn new(options: &Options<'_>) -> Result<Self, ConnectorError> {
        if options.text("csv.array-element-delimiter").is_some() {
            return Err(options.wrong(
                "csv.array-element-delimiter",
                "is not supported: there are no ARRAY columns",
            ));
        }
        options.flag("csv.write-bigdecimal-in-scientific-notation")?;
        let disable_quote = options.flag("csv.disable-quote-character")?;
        let quote = character(options, "csv.quote-character")?;
        if disable_quote && quote.is_some() {
            return Err(options.wrong(
                "csv.quote-character",
                "cannot be set together with 'csv.disable-quote-character'",
            ));
        }
        let csv = Self {
            delimiter: character(options, "csv.field-delimiter")?.unwrap_or(b','),
            quote: (!disable_quote).then_some(quote.unwrap_or(b'"')),
            escape: character(options, "csv.escape-character")?,
            comments: options.flag("csv.allow-comments")?,
            ignore_errors: options.flag("csv.ignore-parse-errors")?,
            null_literal: options.text("csv.null-literal").map(|t| t.as_bytes().to_vec()),
            skip_header: options.flag("csv.skip-header")?,
        };
        if csv.quote == Some(csv.delimiter) || csv.escape == Some(csv.delimiter) {
            return Err(options.wrong("csv.field-delimiter", "is also the quote or escape character"));
        }
        if csv.escape.is_some() && csv.escape == csv.quote {
            return Err(options.wrong(
                "csv.escape-character",
                "is also the quote character: a doubled quote needs no option",
            ));
        }
        Ok(csv)
    }
}

/// One ASCII character, or `\t` and the like spelled out.
fn character(options: &Options<'_>, key: &str) -> Result<Option<u8>, ConnectorError> {
    let Some(text) = options.text(key) else {
        return Ok(None);
    };
    match text.as_bytes() {
        b"\\t" => Ok(Some(b'\t')),
        b"\\\\" => Ok(Some(b'\\')),
        [byte] if byte.is_ascii() && !matches!(byte, b'\n' | b'\r') => Ok(Some(*byte)),
        _ => Err(options.wrong(key, "must be one ASCII character that is no line end")),
    }
}
