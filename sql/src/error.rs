//! Positions in the script and the one error that planning returns. Knows nothing of SQL's meaning.

use datafusion_common::DataFusionError;
use sqlparser::ast::{Ident, Spanned};
use sqlparser::parser::ParserError;
use sqlparser::tokenizer::{Location, Span};
use std::fmt;

/// A place in the script, counted from 1; 0 if there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos {
    /// Line, from 1.
    pub line: u32,
    /// Character in the line, from 1.
    pub column: u32,
}

impl Pos {
    /// The place of an AST node, or `self` if the parser kept none for it.
    pub(crate) fn at(self, node: &impl Spanned) -> Pos {
        self.or_span(node.span())
    }

    /// The place of an identifier, or `self`.
    pub(crate) fn ident(self, ident: &Ident) -> Pos {
        self.or_span(ident.span)
    }

    /// The start of a span, or `self` if the span is empty.
    pub(crate) fn or_span(self, span: Span) -> Pos {
        if span.start.line == 0 {
            self
        } else {
            span.start.into()
        }
    }
}

impl From<Location> for Pos {
    fn from(location: Location) -> Self {
        let clamp = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        Pos {
            line: clamp(location.line),
            column: clamp(location.column),
        }
    }
}

/// Why a script cannot become a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanError {
    /// What is wrong and what to do.
    pub message: String,
    /// Line, from 1; 0 if the error has no place.
    pub line: u32,
    /// Character in the line, from 1; 0 if the error has no place.
    pub column: u32,
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}, column {}: ", self.line, self.column)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for PlanError {}

/// The result of a planning step.
pub(crate) type Result<T> = std::result::Result<T, PlanError>;

impl PlanError {
    /// An error at a place.
    pub(crate) fn new(pos: Pos, message: impl Into<String>) -> Self {
        PlanError {
            message: message.into(),
            line: pos.line,
            column: pos.column,
        }
    }

    /// A feature that is refused by its name. `advice` says what to write instead; it may be empty.
    pub(crate) fn unsupported(pos: Pos, feature: &str, advice: &str) -> Self {
        let advice = if advice.is_empty() {
            String::new()
        } else {
            format!("; {advice}")
        };
        PlanError::new(pos, format!("{feature} is not supported yet{advice}"))
    }

    /// The parser's error. Its place stands at the end of its text.
    pub(crate) fn parser(error: ParserError, fallback: Pos) -> Self {
        let text = match error {
            ParserError::TokenizerError(text) | ParserError::ParserError(text) => text,
            ParserError::RecursionLimitExceeded => {
                "the statement is nested too deeply (the limit is 50 levels)".to_owned()
            }
        };
        let (message, place) = split_place(&text);
        PlanError::new(place.unwrap_or(fallback), format!("syntax error: {message}"))
    }
}

/// Cuts ` at Line: 3, Column: 17` off a parser's message.
fn split_place(text: &str) -> (&str, Option<Pos>) {
    let cut = || {
        let start = text.rfind(" at Line: ")?;
        let mut numbers = text[start..]
            .split(|c: char| !c.is_ascii_digit())
            .filter(|part| !part.is_empty());
        let line = numbers.next()?.parse().ok()?;
        let column = numbers.next()?.parse().ok()?;
        Some((&text[..start], Pos { line, column }))
    };
    match cut() {
        Some((message, pos)) => (message, (pos.line > 0).then_some(pos)),
        None => (text, None),
    }
}

/// Gives an error of DataFusion a place.
pub(crate) fn at(pos: Pos) -> impl Fn(DataFusionError) -> PlanError {
    move |error| PlanError::new(pos, error.strip_backtrace())
}

/// `; did you mean 'x'?` for the candidate that is most like `name`, or nothing.
pub(crate) fn did_you_mean<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> String {
    let wanted = name.to_lowercase();
    candidates
        .map(|c| {
            (
                strsim::normalized_damerau_levenshtein(&wanted, &c.to_lowercase()),
                c,
            )
        })
        .filter(|(likeness, _)| *likeness >= 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)))
        .map(|(_, c)| format!("; did you mean '{c}'?"))
        .unwrap_or_default()
}

/// The nearest name, or all names if none is near: `; the columns are a, b, c`.
pub(crate) fn hint<'a>(name: &str, what: &str, candidates: impl Iterator<Item = &'a str> + Clone) -> String {
    let near = did_you_mean(name, candidates.clone());
    let all: Vec<&str> = candidates.collect();
    if near.is_empty() && !all.is_empty() {
        format!("; the {what} are {}", all.join(", "))
    } else {
        near
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parsers_place_is_taken_from_its_text() {
        let error = PlanError::parser(
            ParserError::ParserError("Expected: ), found: EOF at Line: 3, Column: 17".into()),
            Pos::default(),
        );
        assert_eq!(
            error.to_string(),
            "line 3, column 17: syntax error: Expected: ), found: EOF"
        );
    }

    #[test]
    fn the_nearest_name_is_proposed() {
        assert_eq!(
            did_you_mean("Carier", ["carrier", "dest"].into_iter()),
            "; did you mean 'carrier'?"
        );
        assert_eq!(did_you_mean("xyz", ["carrier"].into_iter()), "");
    }
}
