//! The `filesystem` source table: its options, and which files it has. Knows no positions.

use super::position::owner;
use super::reader::FileReader;
use super::stream::io_error;
use crate::format::{self, Format};
use crate::options::Options;
use arrow::datatypes::SchemaRef;
use holdfast_common::limits::SOURCE_FILES_MAX;
use holdfast_dataflow::connector::{ConnectorError, Source, SourceContext, SourceReader, SplitState};
use holdfast_dataflow::graph::TableSpec;
use regex::Regex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Directories within directories that are followed; more is a loop of links.
const DEPTH_MAX: u32 = 16;

/// A checked source table.
pub(crate) struct FileSource {
    table: Arc<FileTable>,
}

/// What a reader needs of the table.
pub(super) struct FileTable {
    pub(super) root: PathBuf,
    pub(super) format: Format,
    pub(super) schema: SchemaRef,
    /// How often the directory is looked through; `None` reads what is there and ends.
    pub(super) monitor: Option<Duration>,
    pattern: Option<Regex>,
}

impl FileSource {
    pub(crate) fn new(table: &TableSpec) -> Result<Self, ConnectorError> {
        let mut known = vec!["path", "source.monitor-interval", "source.path.regex-pattern"];
        known.extend(format::keys_of(table));
        let options = Options::new(table, &known)?;
        format::check_schema(&table.name, &table.schema)?;
        let path = options.required("path", "a file or directory")?;
        let monitor: Option<Duration> = options.value("source.monitor-interval")?;
        if monitor.is_some_and(|m| m < Duration::from_millis(1)) {
            return Err(options.wrong("source.monitor-interval", "must be at least 1 ms"));
        }
        let pattern = options
            .text("source.path.regex-pattern")
            .map(|text| {
                // Flink's pattern has to match the whole path.
                Regex::new(&format!("^(?:{text})$")).map_err(|e| {
                    options.wrong(
                        "source.path.regex-pattern",
                        &format!("is no regular expression: {e}"),
                    )
                })
            })
            .transpose()?;
        Ok(Self {
            table: Arc::new(FileTable {
                root: super::path::resolve(&options, path)?,
                format: Format::new(&options)?,
                schema: table.schema.clone(),
                monitor,
                pattern,
            }),
        })
    }
}

impl Source for FileSource {
    fn bounded(&self) -> bool {
        self.table.monitor.is_none()
    }

    fn reader(
        &self,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        Ok(Box::new(FileReader::new(self.table.clone(), context, restored)?))
    }
}

impl FileTable {
    /// The files that a subtask owns, by name: the path below the directory, or the file's own name.
    pub(super) fn files(
        &self,
        subtask: u32,
        parallelism: u32,
    ) -> Result<BTreeMap<String, PathBuf>, ConnectorError> {
        let mut all = BTreeMap::new();
        let metadata = std::fs::metadata(&self.root).map_err(|e| io_error("read", &self.root, &e))?;
        if metadata.is_dir() {
            self.walk(&self.root, "", 0, &mut all)?;
        } else {
            let name = self
                .root
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            all.insert(name, self.root.clone());
        }
        all.retain(|name, _| owner(name, parallelism) == subtask);
        Ok(all)
    }

    fn walk(
        &self,
        directory: &Path,
        prefix: &str,
        depth: u32,
        all: &mut BTreeMap<String, PathBuf>,
    ) -> Result<(), ConnectorError> {
        if depth > DEPTH_MAX {
            return Err(ConnectorError::Io(format!(
                "'{}' lies more than {DEPTH_MAX} directories deep: is there a loop of links?",
                directory.display()
            )));
        }
        let failed = |e: std::io::Error| io_error("list", directory, &e);
        for entry in std::fs::read_dir(directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name().to_string_lossy().into_owned();
            if file_name.starts_with('.') || file_name.starts_with('_') {
                continue;
            }
            let path = entry.path();
            let name = format!("{prefix}{file_name}");
            match std::fs::metadata(&path) {
                Ok(m) if m.is_dir() => self.walk(&path, &format!("{name}/"), depth + 1, all)?,
                Ok(m) if m.is_file() && self.wanted(&path) => {
                    all.insert(name, path);
                }
                // A file that vanished between the listing and now was never there.
                Ok(_) => {}
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(io_error("read", &path, &e)),
            }
            if all.len() > SOURCE_FILES_MAX {
                return Err(ConnectorError::Io(format!(
                    "'{}' holds more than {SOURCE_FILES_MAX} files, the most that a source table can have",
                    self.root.display()
                )));
            }
        }
        Ok(())
    }

    fn wanted(&self, path: &Path) -> bool {
        self.pattern
            .as_ref()
            .is_none_or(|p| p.is_match(&path.to_string_lossy()))
    }
}
