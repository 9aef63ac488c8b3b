//! The `filesystem` connector: files and directories as sources, directories and object stores as sinks.

mod local_sink;
mod names;
mod object_sink;
mod part;
mod path;
mod position;
mod reader;
mod source;
mod stream;

pub use names::is_result_of;
pub(crate) use source::FileSource;

use crate::format::{self, Format};
use crate::options::Options;
use holdfast_common::config::MemorySize;
use holdfast_dataflow::connector::{ConnectorError, Sink};
use holdfast_dataflow::graph::TableSpec;
use holdfast_storage::S3Settings;
use std::sync::Arc;

/// A checked sink table: local files, or an object store by the path's scheme.
pub(crate) fn sink(table: &TableSpec, s3: &S3Settings) -> Result<Arc<dyn Sink>, ConnectorError> {
    let mut known = vec!["path", "sink.rolling-policy.file-size"];
    known.extend(format::keys_of(table));
    let options = Options::new(table, &known)?;
    format::check_schema(&table.name, &table.schema)?;
    let path = options.required("path", "a directory, memory://… or s3://bucket/prefix")?;
    let roll: Option<MemorySize> = options.value("sink.rolling-policy.file-size")?;
    // Flink's default.
    let roll_bytes = roll.map_or(128 << 20, |size| size.0.max(1));
    let format = Format::new(&options)?;
    if path.starts_with("memory://") || path.starts_with("s3://") {
        return Ok(Arc::new(object_sink::ObjectSink::open(
            &options, path, s3, format, roll_bytes,
        )?));
    }
    let directory = path::resolve(&options, path)?;
    Ok(Arc::new(local_sink::LocalSink::new(
        directory, format, roll_bytes,
    )))
}

#[cfg(test)]
mod sink_tests;
#[cfg(test)]
mod source_tests;
