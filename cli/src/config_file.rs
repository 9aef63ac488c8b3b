//! Reading a process's configuration: YAML file, environment, flags.
//!
//! Nested keys are flattened with dots. The line of every key is found in the text, so that a refusal names it.

use crate::exit::Failure;
use holdfast_common::config::Configuration;
use holdfast_common::config::load::{
    Entry, LoadError, Origin, Problem, assemble, from_environment, from_flag,
};
use serde_yaml_ng::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The settings of a process: file, then environment, then flags.
///
/// # Errors
/// With exit code 2 and the place of what is refused.
pub fn load(file: Option<&Path>, flags: &[String]) -> Result<Configuration, Failure> {
    let mut entries = match file {
        Some(path) => read(path)?,
        None => Vec::new(),
    };
    let refused = |e: LoadError| Failure::usage(e.to_string());
    entries.extend(from_environment(variables()).map_err(refused)?);
    for flag in flags {
        entries.push(from_flag(flag).map_err(refused)?);
    }
    assemble(&entries).map_err(refused)
}

/// The settings of a file alone.
///
/// # Errors
/// As [`load`].
pub fn load_file(path: &Path) -> Result<Configuration, Failure> {
    assemble(&read(path)?).map_err(|e| Failure::usage(e.to_string()))
}

fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

fn read(path: &Path) -> Result<Vec<Entry>, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::usage(format!("cannot read configuration file {}: {e}", path.display())))?;
    parse(&path.display().to_string(), &text).map_err(Failure::usage)
}

/// The entries of a YAML text. The error is a whole message.
fn parse(path: &str, text: &str) -> Result<Vec<Entry>, String> {
    let value: Value = serde_yaml_ng::from_str(text).map_err(|e| match e.location() {
        Some(place) => format!("{path}:{}: not valid YAML: {e}", place.line()),
        None => format!("{path}: not valid YAML: {e}"),
    })?;
    let lines = lines_of_keys(text);
    let mut flat = Vec::new();
    match value {
        Value::Null => {}
        Value::Mapping(_) => flatten("", &value, &mut flat).map_err(|(key, problem)| {
            format!(
                "{}: {problem}",
                Origin::File {
                    path: path.to_owned(),
                    line: line_of(&lines, &key, 0)
                }
            )
        })?,
        _ => {
            return Err(format!(
                "{path}: expected keys with values, like 'rest.port: 8081'"
            ));
        }
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut entries = Vec::new();
    for (key, value) in flat {
        let nth = usize::from(seen.contains_key(&key));
        let line = line_of(&lines, &key, nth);
        let origin = Origin::File {
            path: path.to_owned(),
            line,
        };
        if let Some(first) = seen.insert(key.clone(), line) {
            let problem = Problem::Twice { key, first };
            return Err(LoadError { origin, problem }.to_string());
        }
        entries.push(Entry { key, value, origin });
    }
    // An earlier line is reported first.
    entries.sort_by_key(|e| match &e.origin {
        Origin::File { line, .. } => *line,
        _ => 0,
    });
    Ok(entries)
}

/// Lines, from 1, on which each key is written.
type Lines = BTreeMap<String, Vec<usize>>;
type Refused = (String, String);

fn flatten(prefix: &str, value: &Value, into: &mut Vec<(String, String)>) -> Result<(), Refused> {
    match value {
        Value::Mapping(map) => {
            for (key, inner) in map {
                let Some(name) = scalar(key) else {
                    return Err((prefix.to_owned(), "a key must be a plain word".to_owned()));
                };
                let whole = if prefix.is_empty() {
                    name
                } else {
                    format!("{prefix}.{name}")
                };
                flatten(&whole, inner, into)?;
            }
            Ok(())
        }
        other => match scalar(other) {
            Some(text) => {
                into.push((prefix.to_owned(), text));
                Ok(())
            }
            None => Err((
                prefix.to_owned(),
                format!("configuration key '{prefix}' must have one plain value"),
            )),
        },
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// The line of every key in block style, by its flattened name. Flow style is not followed: its keys are found by the
/// longest prefix.
fn lines_of_keys(text: &str) -> Lines {
    let mut lines = Lines::new();
    let mut open: Vec<(usize, String)> = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let content = line.trim_start();
        if content.is_empty() || content.starts_with('#') || content.starts_with("---") {
            continue;
        }
        let indent = line.len() - content.len();
        let Some(key) = key_of_line(content) else { continue };
        while open.last().is_some_and(|(depth, _)| *depth >= indent) {
            open.pop();
        }
        let whole = match open.last() {
            Some((_, parent)) => format!("{parent}.{key}"),
            None => key,
        };
        lines.entry(whole.clone()).or_default().push(index + 1);
        open.push((indent, whole));
    }
    lines
}

fn key_of_line(content: &str) -> Option<String> {
    for quote in ['"', '\''] {
        if let Some(rest) = content.strip_prefix(quote) {
            let (key, after) = rest.split_once(quote)?;
            return after.trim_start().starts_with(':').then(|| key.to_owned());
        }
    }
    let end = content
        .find(": ")
        .or_else(|| content.strip_suffix(':').map(str::len))?;
    Some(content.get(..end)?.trim().to_owned())
}

/// The line of the `nth` time (from 0) that a key, or the nearest key above it, is written.
fn line_of(lines: &Lines, key: &str, nth: usize) -> usize {
    let mut key = key;
    loop {
        if let Some(found) = lines.get(key) {
            return found.get(nth).or(found.last()).copied().unwrap_or(0);
        }
        match key.rsplit_once('.') {
            Some((parent, _)) => key = parent,
            None => return 0,
        }
    }
}

/// A configuration as a YAML file that [`load`] reads back.
#[must_use]
pub fn to_yaml(config: &Configuration) -> String {
    let mut text = String::from("# Written by `holdfast up`; overwritten when it starts again.\n");
    for (key, value) in config.iter() {
        // A JSON string is a YAML string.
        let quoted = serde_json::Value::String(value.to_owned());
        text.push_str(&format!("{key}: {quoted}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use holdfast_common::config::options;

    fn loaded(text: &str) -> Result<Configuration, String> {
        assemble(&parse("h.yaml", text)?).map_err(|e| e.to_string())
    }

    #[test]
    fn flat_and_nested_keys_mean_the_same() {
        let flat = loaded("rest.port: 9000\nexecution.checkpointing.interval: 2 s\n").unwrap();
        let nested =
            loaded("# comment\nrest:\n  port: 9000\nexecution:\n  checkpointing:\n    interval: 2 s\n")
                .unwrap();
        let flow = loaded("rest: {port: 9000}\nexecution.checkpointing: {interval: 2 s}\n").unwrap();
        assert_eq!(flat, nested);
        assert_eq!(flat, flow);
        assert_eq!(flat.get(&options::REST_PORT), Ok(9000));
        assert_eq!(loaded("").unwrap(), Configuration::new());
    }

    #[test]
    fn a_refusal_names_the_line_and_the_nearest_key() {
        let error = loaded("rest.port: 9000\n\nexecution:\n  checkpoint:\n    interval: 2 s\n").unwrap_err();
        assert_eq!(
            error,
            "h.yaml:5: unknown configuration key 'execution.checkpoint.interval'; did you mean \
             'execution.checkpointing.interval'?"
        );
        let error = loaded("# x\nrest.port: many\n").unwrap_err();
        assert!(
            error.starts_with("h.yaml:2: configuration key 'rest.port': 'many' is not a Port"),
            "{error}"
        );
        let error = loaded("rest.port: [1, 2]\n").unwrap_err();
        assert!(
            error.starts_with("h.yaml:1: configuration key 'rest.port' must have one plain value"),
            "{error}"
        );
        let error = loaded("rest.port: 1\nrest:\n  port: 2\n").unwrap_err();
        assert_eq!(error, "h.yaml:3: 'rest.port' was already set on line 1");
        let error = loaded("a: b: c\n").unwrap_err();
        assert!(error.starts_with("h.yaml:1: not valid YAML"), "{error}");
        assert!(loaded("- a\n").is_err());
    }

    #[test]
    fn what_is_written_reads_back() {
        let config = Configuration::from_pairs([
            ("high-availability.storageDir", "/tmp/a b: \"c\" # d"),
            ("rest.port", "8081"),
        ])
        .unwrap();
        assert_eq!(loaded(&to_yaml(&config)).unwrap(), config);
    }

    #[test]
    fn a_missing_file_is_an_error_of_usage() {
        let failure = load_file(Path::new("/nonexistent/h.yaml")).unwrap_err();
        assert_eq!(failure.exit, crate::exit::Exit::Usage);
        assert!(failure.message.contains("/nonexistent/h.yaml"));
    }
}
