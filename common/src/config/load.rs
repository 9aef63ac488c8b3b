//! From texts of several origins to one checked [`Configuration`]: the precedence, the names of environment variables,
//! and errors that say where the refused text stands. Reads nothing itself.

use super::{ConfigError, Configuration, options};
use std::fmt;

/// Prefix of environment variables that set configuration keys.
pub const ENV_PREFIX: &str = "HOLDFAST_";

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A file, and the line in it, from 1.
    File {
        /// As the user named it.
        path: String,
        /// From 1; 0 if unknown.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A `-D key=value` flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: 0 } => f.write_str(path),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(text) => write!(f, "flag -D {text}"),
        }
    }
}

/// A setting as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value's text.
    pub value: String,
    /// Where it stands.
    pub origin: Origin,
}

/// A refused setting and its place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct LoadError {
    /// Where it stands.
    pub origin: Origin,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a setting.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The key or value is refused.
    #[error(transparent)]
    Refused(#[from] ConfigError),
    /// The text has no `=`.
    #[error("expected key=value")]
    NoKeyValue,
    /// An environment variable that looks like a key but is none.
    #[error("no configuration key has this name{}", nearest.as_ref().map(|n| format!("; did you mean {n}?")).unwrap_or_default())]
    UnknownVariable {
        /// The nearest known name.
        nearest: Option<String>,
    },
    /// The same key twice in one file.
    #[error("'{key}' was already set on line {first}")]
    Twice {
        /// The key.
        key: String,
        /// Line of the first.
        first: usize,
    },
}

/// The environment variable that sets a key: `HOLDFAST_`, then the key in capitals with `__` for each dot and `_` for
/// each dash.
#[must_use]
pub fn env_name(key: &str) -> String {
    format!(
        "{ENV_PREFIX}{}",
        key.to_uppercase().replace('.', "__").replace('-', "_")
    )
}

/// The settings among a process's environment variables, in the variables' order. Variables with the prefix but
/// without `__` are not settings (`HOLDFAST_REST` is for clients).
///
/// # Errors
/// If a variable looks like a setting and is none.
pub fn from_environment(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<Vec<Entry>, LoadError> {
    let mut entries = Vec::new();
    for (name, value) in variables {
        if !name.starts_with(ENV_PREFIX) || !name.contains("__") {
            continue;
        }
        let origin = Origin::Environment(name.clone());
        let Some(info) = options::all().into_iter().find(|info| env_name(info.key) == name) else {
            let nearest = nearest_variable(&name);
            return Err(LoadError {
                origin,
                problem: Problem::UnknownVariable { nearest },
            });
        };
        entries.push(Entry {
            key: info.key.to_owned(),
            value,
            origin,
        });
    }
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(entries)
}

fn nearest_variable(name: &str) -> Option<String> {
    let known: Vec<String> = options::all()
        .into_iter()
        .map(|info| env_name(info.key))
        .collect();
    known
        .into_iter()
        .map(|candidate| {
            (
                strsim::normalized_damerau_levenshtein(name, &candidate),
                candidate,
            )
        })
        .filter(|(likeness, _)| *likeness > 0.6)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// A `-D` flag's text.
///
/// # Errors
/// If it has no `=`.
pub fn from_flag(text: &str) -> Result<Entry, LoadError> {
    let origin = Origin::Flag(text.to_owned());
    match text.split_once('=') {
        Some((key, value)) => Ok(Entry {
            key: key.trim().to_owned(),
            value: value.trim().to_owned(),
            origin,
        }),
        None => Err(LoadError {
            origin,
            problem: Problem::NoKeyValue,
        }),
    }
}

/// Checks entries and lays later ones over earlier ones: file, then environment, then flags.
///
/// # Errors
/// For the first entry that is refused, with its place.
pub fn assemble<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> Result<Configuration, LoadError> {
    let mut config = Configuration::new();
    for entry in entries {
        config.set(&entry.key, &entry.value).map_err(|e| LoadError {
            origin: entry.origin.clone(),
            problem: e.into(),
        })?;
    }
    Ok(config)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeSet;

    fn variable(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn every_key_has_its_own_variable() {
        let names: BTreeSet<String> = options::all().iter().map(|info| env_name(info.key)).collect();
        assert_eq!(names.len(), options::all().len());
        assert!(
            names.iter().all(|n| n.contains("__")),
            "a key without a dot cannot be told from other variables"
        );
        assert_eq!(
            env_name("taskmanager.numberOfTaskSlots"),
            "HOLDFAST_TASKMANAGER__NUMBEROFTASKSLOTS"
        );
        assert_eq!(
            env_name("high-availability.raft.id"),
            "HOLDFAST_HIGH_AVAILABILITY__RAFT__ID"
        );
    }

    #[test]
    fn flags_lie_over_the_environment_and_that_over_the_file() {
        let file = Entry {
            key: "rest.port".into(),
            value: "1".into(),
            origin: Origin::File {
                path: "h.yaml".into(),
                line: 3,
            },
        };
        let environment = from_environment([
            variable("HOLDFAST_REST__PORT", "2"),
            variable("HOLDFAST_REST", "x"),
        ])
        .unwrap();
        let flag = from_flag("rest.port=3").unwrap();
        let config = assemble([&file, &environment[0]]).unwrap();
        assert_eq!(config.get(&options::REST_PORT), Ok(2));
        let config = assemble([&file, &environment[0], &flag]).unwrap();
        assert_eq!(config.get(&options::REST_PORT), Ok(3));
    }

    #[test]
    fn errors_name_their_place() {
        let entry = Entry {
            key: "rest.prot".into(),
            value: "1".into(),
            origin: Origin::File {
                path: "h.yaml".into(),
                line: 3,
            },
        };
        assert_eq!(
            assemble([&entry]).unwrap_err().to_string(),
            "h.yaml:3: unknown configuration key 'rest.prot'; did you mean 'rest.port'?"
        );
        let error = from_environment([variable("HOLDFAST_REST__PROT", "2")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable HOLDFAST_REST__PROT: no configuration key has this name; did you mean \
             HOLDFAST_REST__PORT?"
        );
        assert_eq!(
            from_flag("rest.port").unwrap_err().to_string(),
            "flag -D rest.port: expected key=value"
        );
    }
}
