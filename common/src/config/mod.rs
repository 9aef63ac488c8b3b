//! Configuration: the registry of keys, typed values, and the merged settings of one process or one job.
//!
//! Keys are Flink's wherever Flink has one. [`options`] is the only place where a key, its type, its default and its
//! meaning are written; docs/configuration.md is generated from it.

mod value;

pub mod docs;
pub mod load;
pub mod options;
pub mod peers;

pub use value::{ConfigValue, MemorySize, ValueError, format_duration};

use std::collections::BTreeMap;
use std::fmt;

/// Which processes read a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Read by a process when it starts: file, environment or flag.
    Process,
    /// Read for a job: `SET` in its script, over the submitting cluster's settings.
    Job,
}

/// What is known of a key without its Rust type.
#[derive(Debug, Clone, Copy)]
pub struct OptionInfo {
    /// The key.
    pub key: &'static str,
    /// The type's name as documentation writes it.
    pub type_name: &'static str,
    /// The default as a user would write it; `None` if there is none.
    pub default: Option<&'static str>,
    /// Who reads it.
    pub scope: Scope,
    /// One paragraph.
    pub doc: &'static str,
    /// Checks a text against the type.
    pub check: fn(&str) -> Result<(), ValueError>,
}

/// A key with its type.
#[derive(Debug)]
pub struct ConfigOption<T> {
    /// The untyped part.
    pub info: OptionInfo,
    pub(crate) marker: std::marker::PhantomData<fn() -> T>,
}

/// Settings by key, already checked against the registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Configuration {
    values: BTreeMap<String, String>,
}

/// A setting that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The key is not in the registry.
    #[error("unknown configuration key '{key}'{}", nearest.as_ref().map(|n| format!("; did you mean '{n}'?")).unwrap_or_default())]
    UnknownKey {
        /// What was given.
        key: String,
        /// The nearest known key.
        nearest: Option<String>,
    },
    /// The value does not have the key's type.
    #[error("configuration key '{key}': '{value}' is not a {type_name}: {reason}")]
    BadValue {
        /// The key.
        key: String,
        /// What was given.
        value: String,
        /// What was expected.
        type_name: &'static str,
        /// Why it does not fit.
        reason: String,
    },
    /// A key without default is missing.
    #[error("configuration key '{key}' is required and not set: {doc}")]
    Missing {
        /// The key.
        key: &'static str,
        /// Its meaning.
        doc: &'static str,
    },
}

impl Configuration {
    /// No settings: every key has its default.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a key from text.
    ///
    /// # Errors
    /// If the key is unknown or the value has another type.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), ConfigError> {
        let info = options::lookup(key).ok_or_else(|| ConfigError::UnknownKey {
            key: key.to_owned(),
            nearest: options::nearest(key).map(str::to_owned),
        })?;
        (info.check)(value).map_err(|e| bad_value(info, value, &e))?;
        self.values.insert(info.key.to_owned(), value.trim().to_owned());
        Ok(())
    }

    /// Settings from pairs, as they stand in the replicated log.
    ///
    /// # Errors
    /// As [`Self::set`], for the first pair that is refused.
    pub fn from_pairs<K: AsRef<str>, V: AsRef<str>>(
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, ConfigError> {
        let mut config = Self::new();
        for (key, value) in pairs {
            config.set(key.as_ref(), value.as_ref())?;
        }
        Ok(config)
    }

    /// The value of a key, or its default.
    ///
    /// # Errors
    /// If neither exists.
    pub fn get<T: ConfigValue>(&self, option: &ConfigOption<T>) -> Result<T, ConfigError> {
        self.get_optional(option)?.ok_or(ConfigError::Missing {
            key: option.info.key,
            doc: option.info.doc,
        })
    }

    /// The value of a key, its default, or nothing.
    ///
    /// # Errors
    /// If the stored text does not have the key's type (never for values that [`Self::set`] took).
    pub fn get_optional<T: ConfigValue>(&self, option: &ConfigOption<T>) -> Result<Option<T>, ConfigError> {
        let text = self
            .values
            .get(option.info.key)
            .map(String::as_str)
            .or(option.info.default);
        text.map(|t| T::parse(t).map_err(|e| bad_value(&option.info, t, &e)))
            .transpose()
    }

    /// Whether the key was set explicitly.
    #[must_use]
    pub fn is_set(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// All explicit settings, in the keys' order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(k, v)| (k.as_str(), v.as_str()))
    }

    /// The settings as pairs for a record.
    #[must_use]
    pub fn to_pairs(&self) -> BTreeMap<String, String> {
        self.values.clone()
    }

    /// Lays `over` on top of this configuration.
    pub fn merge(&mut self, over: &Configuration) {
        for (key, value) in &over.values {
            self.values.insert(key.clone(), value.clone());
        }
    }
}

fn bad_value(info: &OptionInfo, value: &str, error: &ValueError) -> ConfigError {
    ConfigError::BadValue {
        key: info.key.to_owned(),
        value: value.to_owned(),
        type_name: info.type_name,
        reason: error.to_string(),
    }
}

impl fmt::Display for Configuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.values {
            writeln!(f, "{key}: {value}")?;
        }
        Ok(())
    }
}
