//! One subtask's output between two barriers, in files of limited size. Where the files go when they are closed is the
//! sink's business.

use super::names::WriterNames;
use super::stream::io_error;
use crate::format::Encoder;
use arrow::record_batch::RecordBatch;
use holdfast_common::limits::SINK_BUFFER_BYTES;
use holdfast_dataflow::connector::ConnectorError;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A file that is removed when nobody wants it any more.
pub(super) struct TempFile {
    path: PathBuf,
    keep: bool,
}

impl TempFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The file has become something else.
    pub(super) fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if !self.keep {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// A complete file, written but not yet durable.
pub(super) struct ClosedPart {
    pub(super) temp: TempFile,
    pub(super) file: File,
    /// Unique within the writer.
    pub(super) number: u64,
    pub(super) size: u64,
    pub(super) crc32c: u32,
    pub(super) rows: u64,
}

struct OpenPart {
    temp: TempFile,
    file: File,
    number: u64,
    buffer: Vec<u8>,
    size: u64,
    crc32c: u32,
    rows: u64,
}

/// The first failure of a writer. What was lost with it can only come back by replay, so every later call fails too and
/// the attempt with it.
#[derive(Clone, Default)]
pub(super) struct Failure(Arc<Mutex<Option<ConnectorError>>>);

impl Failure {
    pub(super) fn check(&self) -> Result<(), ConnectorError> {
        match &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    pub(super) fn set(&self, error: &ConnectorError) {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slot.get_or_insert_with(|| error.clone());
    }
}

/// Writes rows into files.
pub(super) struct PartWriter {
    directory: PathBuf,
    names: WriterNames,
    encoder: Encoder,
    roll_bytes: u64,
    next_number: u64,
    open: Option<OpenPart>,
    closed: Vec<ClosedPart>,
    pub(super) failure: Failure,
}

impl PartWriter {
    pub(super) fn new(directory: PathBuf, names: WriterNames, encoder: Encoder, roll_bytes: u64) -> Self {
        Self {
            directory,
            names,
            encoder,
            roll_bytes,
            next_number: 0,
            open: None,
            closed: Vec::new(),
            failure: Failure::default(),
        }
    }

    pub(super) fn write(&mut self, rows: &RecordBatch) -> Result<(), ConnectorError> {
        self.failure.check()?;
        let result = self.try_write(rows);
        if let Err(error) = &result {
            self.failure.set(error);
        }
        result
    }

    fn try_write(&mut self, rows: &RecordBatch) -> Result<(), ConnectorError> {
        let columns = self.encoder.columns(rows)?;
        let names = self.encoder.names(rows);
        for row in 0..rows.num_rows() {
            let part = match &mut self.open {
                Some(part) => part,
                None => {
                    let part = create(&self.directory, &self.names, self.next_number)?;
                    self.next_number += 1;
                    self.open.insert(part)
                }
            };
            self.encoder.row(&mut part.buffer, &columns, &names, row)?;
            part.rows += 1;
            if part.buffer.len() >= SINK_BUFFER_BYTES {
                part.flush()?;
            }
            if part.size + part.buffer.len() as u64 >= self.roll_bytes {
                self.close()?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), ConnectorError> {
        if let Some(mut part) = self.open.take() {
            part.flush()?;
            self.closed.push(ClosedPart {
                temp: part.temp,
                file: part.file,
                number: part.number,
                size: part.size,
                crc32c: part.crc32c,
                rows: part.rows,
            });
        }
        Ok(())
    }

    /// Everything that was written since the last call.
    pub(super) fn take(&mut self) -> Result<Vec<ClosedPart>, ConnectorError> {
        self.failure.check()?;
        if let Err(error) = self.close() {
            self.failure.set(&error);
            return Err(error);
        }
        Ok(std::mem::take(&mut self.closed))
    }
}

fn create(directory: &Path, names: &WriterNames, number: u64) -> Result<OpenPart, ConnectorError> {
    let path = directory.join(names.in_progress(number));
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(&path)
        .map_err(|e| io_error("create", &path, &e))?;
    Ok(OpenPart {
        temp: TempFile { path, keep: false },
        file,
        number,
        buffer: Vec::with_capacity(SINK_BUFFER_BYTES + SINK_BUFFER_BYTES / 8),
        size: 0,
        crc32c: 0,
        rows: 0,
    })
}

impl OpenPart {
    fn flush(&mut self) -> Result<(), ConnectorError> {
        self.file
            .write_all(&self.buffer)
            .map_err(|e| io_error("write", &self.temp.path, &e))?;
        self.size += self.buffer.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &self.buffer);
        self.buffer.clear();
        Ok(())
    }
}
