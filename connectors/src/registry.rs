//! Which connectors exist. Knows none of their options.

use crate::{file, generate, options, plain};
use holdfast_common::config::Configuration;
use holdfast_dataflow::connector::{ConnectorError, ConnectorRegistry, Sink, Source};
use holdfast_dataflow::graph::TableSpec;
use holdfast_storage::S3Settings;
use std::sync::Arc;

const SOURCES: [&str; 3] = ["datagen", "filesystem", "nexmark"];
const SINKS: [&str; 3] = ["blackhole", "filesystem", "print"];

/// All connectors, with S3 credentials from the environment.
#[must_use]
pub fn registry() -> Arc<dyn ConnectorRegistry> {
    registry_with(&Configuration::new())
}

/// All connectors, with the `s3.*` keys of a process's configuration.
#[must_use]
pub fn registry_with(config: &Configuration) -> Arc<dyn ConnectorRegistry> {
    Arc::new(Registry {
        s3: S3Settings::from_config(config).unwrap_or_default(),
    })
}

struct Registry {
    s3: S3Settings,
}

impl ConnectorRegistry for Registry {
    fn source(&self, table: &TableSpec) -> Result<Arc<dyn Source>, ConnectorError> {
        match table.connector.as_str() {
            "filesystem" => Ok(Arc::new(file::FileSource::new(table)?)),
            "datagen" => Ok(Arc::new(generate::datagen(table)?)),
            "nexmark" => Ok(Arc::new(generate::nexmark(table)?)),
            other if SINKS.contains(&other) => Err(ConnectorError::Definition(format!(
                "table '{}': connector '{other}' can only be written to; sources are {}",
                table.name,
                SOURCES.join(", ")
            ))),
            _ => Err(unknown(table)),
        }
    }

    fn sink(&self, table: &TableSpec) -> Result<Arc<dyn Sink>, ConnectorError> {
        match table.connector.as_str() {
            "filesystem" => file::sink(table, &self.s3),
            "print" => Ok(Arc::new(plain::PrintSink::new(table)?)),
            "blackhole" => Ok(Arc::new(plain::BlackholeSink::new(table)?)),
            other if SOURCES.contains(&other) => Err(ConnectorError::Definition(format!(
                "table '{}': connector '{other}' can only be read from; sinks are {}",
                table.name,
                SINKS.join(", ")
            ))),
            _ => Err(unknown(table)),
        }
    }
}

fn unknown(table: &TableSpec) -> ConnectorError {
    let mut names: Vec<&str> = SOURCES.iter().chain(&SINKS).copied().collect();
    names.sort_unstable();
    names.dedup();
    let hint = options::nearest(&table.connector, names.iter().copied())
        .map(|name| format!("; did you mean '{name}'?"))
        .unwrap_or_default();
    ConnectorError::Definition(format!(
        "table '{}': unknown connector '{}'{hint} (there are {})",
        table.name,
        table.connector,
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::options::test_table;

    #[test]
    fn unknown_connectors_and_wrong_directions_are_named() {
        let registry = registry();
        let error = |connector: &str, source: bool| {
            let table = test_table(connector, &[], &[]);
            if source {
                registry.source(&table).err().unwrap().to_string()
            } else {
                registry.sink(&table).err().unwrap().to_string()
            }
        };
        assert!(error("filesytem", true).contains("did you mean 'filesystem'?"));
        assert!(error("print", true).contains("only be written to"));
        assert!(error("nexmark", false).contains("only be read from"));
    }
}
