//! The WITH clause of a table, checked: unknown options are refused with the nearest known one. Pure.

use holdfast_common::config::ConfigValue;
use holdfast_dataflow::connector::ConnectorError;
use holdfast_dataflow::graph::TableSpec;

/// A table's options.
pub(crate) struct Options<'a> {
    table: &'a TableSpec,
}

impl<'a> Options<'a> {
    /// Takes the table's options if all of them are known.
    pub(crate) fn new<S: AsRef<str>>(table: &'a TableSpec, known: &[S]) -> Result<Self, ConnectorError> {
        for key in table.options.keys().filter(|key| *key != "connector") {
            if known.iter().any(|k| k.as_ref() == key) {
                continue;
            }
            let hint = nearest(key, known.iter().map(AsRef::as_ref)).map_or_else(
                || {
                    let all: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
                    format!("; it has {}", all.join(", "))
                },
                |name| format!("; did you mean '{name}'?"),
            );
            return Err(ConnectorError::Definition(format!(
                "table '{}': connector '{}' has no option '{key}'{hint}",
                table.name, table.connector
            )));
        }
        Ok(Self { table })
    }

    /// An option's text.
    pub(crate) fn text(&self, key: &str) -> Option<&'a str> {
        self.table.options.get(key).map(String::as_str)
    }

    /// An option that must be there.
    pub(crate) fn required(&self, key: &str, meaning: &str) -> Result<&'a str, ConnectorError> {
        match self.text(key).map(str::trim) {
            Some(text) if !text.is_empty() => Ok(text),
            _ => Err(ConnectorError::Definition(format!(
                "table '{}': connector '{}' needs the option '{key}': {meaning}",
                self.table.name, self.table.connector
            ))),
        }
    }

    /// An option as a value.
    pub(crate) fn value<T: ConfigValue>(&self, key: &str) -> Result<Option<T>, ConnectorError> {
        self.text(key)
            .map(|text| T::parse(text).map_err(|e| self.wrong(key, &format!("is not a {}: {e}", T::NAME))))
            .transpose()
    }

    /// A boolean option that is false if absent.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, ConnectorError> {
        Ok(self.value(key)?.unwrap_or(false))
    }

    /// An option with a fixed set of values, the first of which is the default.
    pub(crate) fn choice(&self, key: &str, values: &[&'static str]) -> Result<&'static str, ConnectorError> {
        let text = self.text(key).map(str::trim);
        let found = values
            .iter()
            .find(|v| text.is_none_or(|t| t.eq_ignore_ascii_case(v)));
        found
            .copied()
            .ok_or_else(|| self.wrong(key, &format!("is not one of {}", values.join(", "))))
    }

    /// The error for an option whose value does not do.
    pub(crate) fn wrong(&self, key: &str, reason: &str) -> ConnectorError {
        ConnectorError::Definition(format!(
            "table '{}': option '{key}' = '{}' {reason}",
            self.table.name,
            self.text(key).unwrap_or_default()
        ))
    }

    /// The error for a column that the connector cannot do.
    pub(crate) fn wrong_column(&self, column: &str, reason: &str) -> ConnectorError {
        ConnectorError::Definition(format!("table '{}': column '{column}' {reason}", self.table.name))
    }
}

/// The name most like `key`, if any is at all like it.
pub(crate) fn nearest<'n>(key: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    names
        .map(|name| (strsim::normalized_damerau_levenshtein(key, name), name))
        .filter(|(likeness, _)| *likeness > 0.5)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

/// A table for tests.
#[cfg(test)]
pub(crate) fn test_table(
    connector: &str,
    options: &[(&str, &str)],
    columns: &[(&str, arrow::datatypes::DataType)],
) -> TableSpec {
    use arrow::datatypes::{Field, Schema};
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, ty)| Field::new(*name, ty.clone(), true))
        .collect();
    TableSpec {
        name: "t".into(),
        connector: connector.into(),
        options: options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        schema: std::sync::Arc::new(Schema::new(fields)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::Duration;

    #[test]
    fn options_are_checked_by_name_and_by_value() {
        let table = test_table("x", &[("rate", "5 s"), ("mode", "B"), ("connector", "x")], &[]);
        let error = Options::new(&table, &["rates", "mode"]).err().unwrap();
        assert!(
            error
                .to_string()
                .contains("no option 'rate'; did you mean 'rates'?"),
            "{error}"
        );
        let error = Options::new(&table, &["mode"]).err().unwrap();
        assert!(error.to_string().contains("it has mode"), "{error}");
        let options = Options::new(&table, &["rate", "mode"]).unwrap();
        assert_eq!(
            options.value::<Duration>("rate").unwrap(),
            Some(Duration::from_secs(5))
        );
        assert!(options.value::<u64>("rate").is_err());
        assert_eq!(options.choice("mode", &["a", "b"]).unwrap(), "b");
        assert_eq!(options.choice("other", &["a", "b"]).unwrap(), "a");
        let error = options.choice("mode", &["a", "c"]).err().unwrap();
        assert!(
            error.to_string().contains("'mode' = 'B' is not one of a, c"),
            "{error}"
        );
        assert!(
            options
                .required("path", "where")
                .err()
                .unwrap()
                .to_string()
                .contains("'path'")
        );
    }
}
