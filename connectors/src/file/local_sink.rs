//! The `filesystem` sink on local files. A file is written under a hidden name, made durable at the barrier, and renamed
//! when the checkpoint's log entry exists.

use super::names::{self, WriterNames};
use super::part::{ClosedPart, Failure, PartWriter};
use super::stream::io_error;
use crate::format::Format;
use arrow::record_batch::RecordBatch;
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_dataflow::connector::{Committable, ConnectorError, PrepareJob, Sink, SinkContext, SinkWriter};
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// A checked sink table.
pub(super) struct LocalSink {
    directory: PathBuf,
    format: Format,
    roll_bytes: u64,
}

/// A durable file that waits under a hidden name.
#[derive(Debug, Serialize, Deserialize)]
struct PreparedFile {
    v: u32,
    dir: PathBuf,
    tmp: String,
    name: String,
    size: u64,
    crc32c: u32,
    rows: u64,
}

impl LocalSink {
    pub(super) fn new(directory: PathBuf, format: Format, roll_bytes: u64) -> Self {
        Self {
            directory,
            format,
            roll_bytes,
        }
    }
}

impl Sink for LocalSink {
    fn writer(&self, context: SinkContext) -> Result<Box<dyn SinkWriter>, ConnectorError> {
        holdfast_storage::create_dirs_durably(&self.directory)
            .map_err(|e| io_error("create the directory", &self.directory, &e))?;
        let names = WriterNames::new(
            context.job,
            &context.uid,
            context.attempt,
            context.subtask,
            self.format.extension(),
        );
        let parts = PartWriter::new(
            self.directory.clone(),
            names.clone(),
            self.format.encoder(),
            self.roll_bytes,
        );
        Ok(Box::new(LocalWriter {
            directory: self.directory.clone(),
            names,
            subtask: context.subtask,
            parts,
        }))
    }

    fn commits(&self) -> bool {
        true
    }

    fn commit(&self, _checkpoint: CheckpointId, committables: &[Committable]) -> Result<(), ConnectorError> {
        let mut touched = BTreeSet::new();
        for committable in committables {
            let prepared = decode(&committable.data)?;
            publish(&prepared)?;
            touched.insert(prepared.dir);
        }
        // Also when every file was there already: the run that renamed them may have died before this.
        touched.iter().try_for_each(|dir| sync_directory(dir))
    }

    fn recover(
        &self,
        job: JobId,
        attempt: AttemptId,
        restored: Option<CheckpointId>,
    ) -> Result<(), ConnectorError> {
        let failed = |e: std::io::Error| io_error("list", &self.directory, &e);
        let entries = match std::fs::read_dir(&self.directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => other.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let file_name = entry.file_name();
            let Some(name) = file_name
                .to_str()
                .and_then(|n| names::parse(n, job, self.format.extension()))
            else {
                continue;
            };
            if name.is_abandoned(attempt, restored) {
                let path = entry.path();
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(io_error("remove", &path, &e));
                    }
                    _ => {}
                }
            }
        }
        // Also when nothing was left: whoever removed it may have died before this.
        sync_directory(&self.directory)
    }

    fn location(&self) -> Option<String> {
        Some(self.directory.display().to_string())
    }
}

fn decode(data: &[u8]) -> Result<PreparedFile, ConnectorError> {
    let wrong = |reason: String| {
        ConnectorError::Conflict(format!("a prepared file's record does not parse: {reason}"))
    };
    let prepared: PreparedFile = serde_json::from_slice(data).map_err(|e| wrong(e.to_string()))?;
    if prepared.v != VERSION {
        return Err(wrong(format!(
            "version {}, this build knows {VERSION}",
            prepared.v
        )));
    }
    Ok(prepared)
}

/// Gives a prepared file its visible name, or finds that it has it already.
fn publish(prepared: &PreparedFile) -> Result<(), ConnectorError> {
    let tmp = prepared.dir.join(&prepared.tmp);
    let name = prepared.dir.join(&prepared.name);
    match std::fs::metadata(&tmp) {
        Ok(found) if found.len() != prepared.size => {
            return Err(ConnectorError::Conflict(format!(
                "prepared file '{}' has {} bytes instead of {}",
                tmp.display(),
                found.len(),
                prepared.size
            )));
        }
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io_error("read", &tmp, &e)),
        _ => {}
    }
    match rename_noreplace(&tmp, &name) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
            check_published(prepared, &tmp, &name)?;
            std::fs::remove_file(&tmp).map_err(|e| io_error("remove", &tmp, &e))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => check_published(prepared, &tmp, &name),
        Err(e) => Err(io_error("rename", &tmp, &e)),
    }
}

fn check_published(prepared: &PreparedFile, tmp: &Path, name: &Path) -> Result<(), ConnectorError> {
    let found = match checksum(name) {
        Ok(found) => found,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return Err(ConnectorError::Conflict(format!(
                "neither the prepared file '{}' nor the committed file '{}' exists: {} committed rows are lost",
                tmp.display(),
                name.display(),
                prepared.rows
            )));
        }
        Err(e) => return Err(io_error("read", name, &e)),
    };
    if found == (prepared.size, prepared.crc32c) {
        return Ok(());
    }
    Err(ConnectorError::Conflict(format!(
        "'{}' exists with other content than '{}' ({} bytes, checksum {:08x}; expected {}, {:08x})",
        name.display(),
        tmp.display(),
        found.0,
        found.1,
        prepared.size,
        prepared.crc32c
    )))
}

fn checksum(path: &Path) -> std::io::Result<(u64, u32)> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; holdfast_common::limits::SINK_BUFFER_BYTES];
    let (mut size, mut crc) = (0, 0);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((size, crc));
        }
        size += read as u64;
        crc = crc32c::crc32c_append(crc, &buffer[..read]);
    }
}

/// Renames without ever replacing. File systems that cannot do it in one step get a hard link, then lose the old name.
fn rename_noreplace(from: &Path, to: &Path) -> std::io::Result<()> {
    use rustix::io::Errno;
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        Err(e) => Err(e.into()),
    }
}

fn sync_directory(directory: &Path) -> Result<(), ConnectorError> {
    File::open(directory)
        .and_then(|d| d.sync_all())
        .map_err(|e| io_error("sync the directory", directory, &e))
}

struct LocalWriter {
    directory: PathBuf,
    names: WriterNames,
    subtask: u32,
    parts: PartWriter,
}

impl SinkWriter for LocalWriter {
    fn write(&mut self, rows: &RecordBatch) -> Result<(), ConnectorError> {
        self.parts.write(rows)
    }

    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<PrepareJob, ConnectorError> {
        let parts = self.parts.take()?;
        let mut job = Prepare {
            directory: self.directory.clone(),
            names: self.names.clone(),
            subtask: self.subtask,
            checkpoint,
            parts,
            failure: self.parts.failure.clone(),
        };
        Ok(Box::new(move || job.run()))
    }
}

/// Makes closed files durable. If it fails, or is dropped without having run, their rows are lost to this attempt.
struct Prepare {
    directory: PathBuf,
    names: WriterNames,
    subtask: u32,
    checkpoint: CheckpointId,
    parts: Vec<ClosedPart>,
    failure: Failure,
}

impl Prepare {
    fn run(&mut self) -> Result<Vec<Committable>, ConnectorError> {
        let parts = std::mem::take(&mut self.parts);
        if parts.is_empty() {
            return Ok(Vec::new());
        }
        let result = self.make_durable(parts);
        if let Err(error) = &result {
            self.failure.set(error);
        }
        result
    }

    fn make_durable(&self, parts: Vec<ClosedPart>) -> Result<Vec<Committable>, ConnectorError> {
        let mut committables = Vec::with_capacity(parts.len());
        for (index, part) in parts.into_iter().enumerate() {
            let tmp = self.names.pending(part.number, self.checkpoint);
            let path = part.temp.path();
            part.file.sync_all().map_err(|e| io_error("sync", path, &e))?;
            rename_noreplace(path, &self.directory.join(&tmp)).map_err(|e| io_error("rename", path, &e))?;
            part.temp.keep();
            let prepared = PreparedFile {
                v: VERSION,
                dir: self.directory.clone(),
                tmp,
                name: self.names.committed(self.checkpoint, index),
                size: part.size,
                crc32c: part.crc32c,
                rows: part.rows,
            };
            committables.push(Committable {
                checkpoint: self.checkpoint,
                subtask: self.subtask,
                data: serde_json::to_vec(&prepared)
                    .map_err(|e| ConnectorError::Definition(format!("the sink's path is no UTF-8: {e}")))?,
            });
        }
        sync_directory(&self.directory)?;
        Ok(committables)
    }
}

impl Drop for Prepare {
    fn drop(&mut self) {
        if !self.parts.is_empty() {
            self.failure.set(&ConnectorError::Io(format!(
                "rows prepared for checkpoint {} in '{}' were dropped before they were durable",
                self.checkpoint,
                self.directory.display()
            )));
        }
    }
}
