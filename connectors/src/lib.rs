//! The connectors: `filesystem`, `datagen`, `nexmark`, `print` and `blackhole`, with Flink's names and options.
//!
//! Sources are a pure function of their positions. Sinks make nothing visible before their committables are committed.
//! Nothing here knows of checkpoints beyond that, nor of the cluster.

mod file;
mod format;
mod generate;
mod options;
mod plain;
mod registry;

pub use file::is_result_of;
pub use registry::{registry, registry_with};
