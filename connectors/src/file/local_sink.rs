//! The `filesystem` sink on local files. A file is written under a hidden name, made durable at the barrier, and renamed
//! when the checkpoint's log entry exists.

use super::names::{self, WriterNames};
use super::part::{ClosedPart, Failure, PartWriter};
use super::stream::io_error;
use crate::format::Format;
use arrow::record_batch::RecordBatch;
use holdfast_common::inject::{self, bugs, points};
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_dataflow::connector::{Committable, ConnectorError, PrepareJob, Sink, SinkContext, SinkWriter};
use rustix::fs::{CWD, RenameFlags};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

const VERSION: u32 = 1;

/// Listings of recovery before it gives up: a directory that is never clean has another writer.
const SWEEPS_MAX: usize = 100;

/// Makes a directory's names durable. Handed in, so that tests can fail it.
pub(super) type SyncDirectory = fn(&Path) -> std::io::Result<()>;

/// A checked sink table.
pub(super) struct LocalSink {
    directory: PathBuf,
    format: Format,
    roll_bytes: u64,
    sync: SyncDirectory,
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
            sync: |directory| File::open(directory)?.sync_all(),
        }
    }

    /// With another way to make a directory durable.
    #[cfg(test)]
    pub(super) fn syncing_by(mut self, sync: SyncDirectory) -> Self {
        self.sync = sync;
        self
    }

    fn sync_directory(&self, directory: &Path) -> Result<(), ConnectorError> {
        (self.sync)(directory).map_err(|e| sync_error(directory, &e))
    }

    /// Names in the directory; none if it does not exist.
    fn list(&self) -> Result<Vec<String>, ConnectorError> {
        let failed = |e: std::io::Error| io_error("list", &self.directory, &e);
        let entries = match std::fs::read_dir(&self.directory) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(failed)?,
        };
        let mut names = Vec::new();
        for entry in entries {
            // Names that are no UTF-8 are nobody's of ours.
            names.extend(entry.map_err(failed)?.file_name().into_string());
        }
        Ok(names)
    }

    /// Removes abandoned files until a listing shows none, and then once more.
    ///
    /// A commit that still runs elsewhere, of a checkpoint that is being undone, may give a file its visible name while
    /// the directory is listed, so that the listing shows neither name. It can do so once per file, and not after the
    /// hidden name was removed: the second of two listings shows what the first one missed, and after a listing without
    /// abandoned files nothing of them can come back.
    pub(super) fn sweep(
        &self,
        mut list: impl FnMut() -> Result<Vec<String>, ConnectorError>,
        is_abandoned: impl Fn(&str) -> bool,
    ) -> Result<(), ConnectorError> {
        let mut clean = 0;
        for _ in 0..SWEEPS_MAX {
            let abandoned: Vec<String> = list()?.into_iter().filter(|name| is_abandoned(name)).collect();
            clean = if abandoned.is_empty() { clean + 1 } else { 0 };
            if clean == 2 {
                return Ok(());
            }
            for name in abandoned {
                let path = self.directory.join(name);
                match std::fs::remove_file(&path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        return Err(io_error("remove", &path, &e));
                    }
                    _ => {}
                }
            }
        }
        Err(ConnectorError::Io(format!(
            "'{}' keeps getting files of abandoned attempts",
            self.directory.display()
        )))
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
            sync: self.sync,
        }))
    }

    fn commits(&self) -> bool {
        true
    }

    fn commit(&self, _checkpoint: CheckpointId, committables: &[Committable]) -> Result<(), ConnectorError> {
        let mut touched = BTreeSet::new();
        for (index, committable) in committables.iter().enumerate() {
            if index > 0 {
                inject::point(points::WORKER_COMMIT_BETWEEN)
                    .map_err(|e| io_error("commit to", &self.directory, &e))?;
            }
            let prepared = decode(&committable.data)?;
            publish(&prepared)?;
            touched.insert(prepared.dir);
        }
        // Also when every file was there already: the run that renamed them may have died before this.
        touched.iter().try_for_each(|dir| self.sync_directory(dir))
    }

    fn recover(
        &self,
        job: JobId,
        attempt: AttemptId,
        restored: Option<CheckpointId>,
    ) -> Result<(), ConnectorError> {
        let is_abandoned = |name: &str| {
            let parsed = names::parse(name, job, self.format.extension());
            parsed.is_some_and(|name| name.is_abandoned(attempt, restored))
        };
        self.sweep(|| self.list(), is_abandoned)?;
        if !self.directory.exists() {
            return Ok(());
        }
        // Also when nothing was left: whoever removed it may have died before this.
        self.sync_directory(&self.directory)
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
        Err(_) if name.exists() && inject::bug(bugs::COMMIT_NOT_IDEMPOTENT) => write_again(&name),
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

fn sync_error(path: &Path, error: &std::io::Error) -> ConnectorError {
    ConnectorError::Sync(io_error("sync", path, error).to_string())
}

/// A seeded bug: the rows of a committed file once more, under another name.
fn write_again(name: &Path) -> Result<(), ConnectorError> {
    let extension = name.extension().unwrap_or_default().to_string_lossy();
    let again = name.with_extension(format!("again.{extension}"));
    std::fs::copy(name, &again)
        .map(|_| ())
        .map_err(|e| io_error("copy", name, &e))
}

struct LocalWriter {
    directory: PathBuf,
    names: WriterNames,
    subtask: u32,
    parts: PartWriter,
    sync: SyncDirectory,
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
            sync: self.sync,
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
    sync: SyncDirectory,
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
        let synced = !inject::bug(bugs::PREPARE_NOT_SYNCED);
        for (index, part) in parts.into_iter().enumerate() {
            let tmp = self.names.pending(part.number, self.checkpoint);
            let path = part.temp.path();
            if synced {
                // The rows come back by replay into another file: this one is never synced again.
                part.file.sync_all().map_err(|e| sync_error(path, &e))?;
            }
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
            if inject::bug(bugs::VISIBLE_ON_PREPARE) {
                publish(&prepared)?;
            }
            committables.push(Committable {
                checkpoint: self.checkpoint,
                subtask: self.subtask,
                data: serde_json::to_vec(&prepared)
                    .map_err(|e| ConnectorError::Definition(format!("the sink's path is no UTF-8: {e}")))?,
            });
        }
        if synced {
            (self.sync)(&self.directory).map_err(|e| sync_error(&self.directory, &e))?;
        }
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
