//! LIKE and the regular expressions. A pattern that does not compile fails the evaluation with the reason.

use super::{Arg, Call, Def, Evaluated, Ret, collect_text, def, int_at, string_at};
use Arg::{Int, Text};
use arrow::array::BooleanArray;
use regex::{NoExpand, Regex};
use std::sync::Arc;

/// The functions of this file.
pub(crate) const DEFS: &[Def] = &[
    Def {
        fallible: true,
        ..def("REGEXP_REPLACE", &[Text, Text, Text], 0, Ret::Text, replace)
    },
    Def {
        fallible: true,
        ..def("REGEXP_EXTRACT", &[Text, Text, Int], 1, Ret::Text, extract)
    },
    Def {
        fallible: true,
        ..def("REGEXP", &[Text, Text], 0, Ret::Bool, matches)
    },
];

/// The last pattern compiled: patterns are constant over a batch as good as always.
#[derive(Default)]
struct Compiled {
    text: String,
    regex: Option<Regex>,
}

impl Compiled {
    fn get(&mut self, pattern: &str) -> Result<&Regex, String> {
        if self.regex.is_none() || self.text != pattern {
            self.regex = Some(compile(pattern)?);
            self.text = pattern.to_owned();
        }
        self.regex.as_ref().ok_or_else(String::new)
    }
}

/// Compiles a regular expression.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|e| {
        let reason = e.to_string();
        let last = reason.lines().last().unwrap_or_default().to_owned();
        format!(
            "the regular expression '{pattern}' is not possible ({last}); look-around and back-references are not \
             supported"
        )
    })
}

fn replace(call: &Call<'_>) -> Evaluated {
    let mut compiled = Compiled::default();
    let mut failure = None;
    let array = collect_text(call, |i| {
        let text = string_at(&call.args[0], i)?;
        let (pattern, with) = (string_at(&call.args[1], i)?, string_at(&call.args[2], i)?);
        match compiled.get(pattern) {
            Ok(regex) => Some(regex.replace_all(text, NoExpand(with)).into_owned()),
            Err(reason) => {
                failure = Some(reason);
                None
            }
        }
    });
    failure.map_or(array, Err)
}

fn extract(call: &Call<'_>) -> Evaluated {
    let mut compiled = Compiled::default();
    let mut failure = None;
    let array = collect_text(call, |i| {
        let text = string_at(&call.args[0], i)?;
        let pattern = string_at(&call.args[1], i)?;
        let group = match call.args.get(2) {
            Some(group) => usize::try_from(int_at(group, i)?).ok()?,
            None => 0,
        };
        match compiled.get(pattern) {
            Ok(regex) => Some(regex.captures(text)?.get(group)?.as_str().to_owned()),
            Err(reason) => {
                failure = Some(reason);
                None
            }
        }
    });
    failure.map_or(array, Err)
}

fn matches(call: &Call<'_>) -> Evaluated {
    let mut compiled = Compiled::default();
    let mut failure = None;
    let array: BooleanArray = (0..call.rows)
        .map(|i| {
            let text = string_at(&call.args[0], i)?;
            match compiled.get(string_at(&call.args[1], i)?) {
                Ok(regex) => Some(regex.is_match(text)),
                Err(reason) => {
                    failure = Some(reason);
                    None
                }
            }
        })
        .collect();
    failure.map_or(Ok(Arc::new(array)), Err)
}

/// The regular expression of a LIKE pattern.
pub(crate) fn like_regex(pattern: &str, escape: Option<char>) -> Result<String, String> {
    let mut regex = String::from("(?s)^");
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            match chars.next() {
                Some(next) if next == '%' || next == '_' || Some(next) == escape => {
                    regex += &regex::escape(&next.to_string());
                }
                _ => return Err(format!("the LIKE pattern '{pattern}' escapes neither % nor _")),
            }
        } else {
            match c {
                '%' => regex += ".*",
                '_' => regex.push('.'),
                c => regex += &regex::escape(&c.to_string()),
            }
        }
    }
    Ok(regex + "$")
}

/// `a LIKE b`; `text` is the escape character, if there is one.
pub(crate) fn like(call: &Call<'_>) -> Evaluated {
    let escape = call.text.chars().next();
    let mut compiled = Compiled::default();
    let mut last: Option<(String, String)> = None;
    let mut values = Vec::with_capacity(call.rows);
    for i in 0..call.rows {
        let (Some(text), Some(pattern)) = (string_at(&call.args[0], i), string_at(&call.args[1], i)) else {
            values.push(None);
            continue;
        };
        if last.as_ref().is_none_or(|(known, _)| known != pattern) {
            last = Some((pattern.to_owned(), like_regex(pattern, escape)?));
        }
        let regex = last.as_ref().map(|(_, regex)| regex.as_str()).unwrap_or_default();
        values.push(Some(compiled.get(regex)?.is_match(text)));
    }
    Ok(Arc::new(BooleanArray::from(values)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn like_patterns() {
        for (pattern, escape, text, expected) in [
            ("a%", None, "abc", true),
            ("a_c", None, "abc", true),
            ("a_c", None, "abbc", false),
            ("a.c", None, "abc", false),
            ("10\\%", Some('\\'), "10%", true),
            ("%", None, "two\nlines", true),
        ] {
            let regex = compile(&like_regex(pattern, escape).unwrap()).unwrap();
            assert_eq!(regex.is_match(text), expected, "{text} LIKE {pattern}");
        }
        assert!(like_regex("a\\b", Some('\\')).is_err());
    }
}
