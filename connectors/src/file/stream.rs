//! A window that moves over a file's content, decompressed by the name's ending. Knows no format.

use super::position::{Position, TAIL_BYTES};
use flate2::bufread::MultiGzDecoder;
use holdfast_common::limits::{RECORD_BYTES_MAX, SOURCE_CHUNK_BYTES};
use holdfast_dataflow::connector::ConnectorError;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

enum Input {
    Plain(File),
    Gzip(Box<MultiGzDecoder<BufReader<File>>>),
}

/// An open file.
pub(super) struct Stream {
    path: PathBuf,
    input: Input,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Offset of `start` in the content.
    offset: u64,
    /// Content still to be passed over before the window begins (compressed files cannot be entered in the middle).
    to_skip: u64,
    at_end: bool,
}

/// Size and modification time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub size: u64,
    pub mtime_ns: i64,
}

/// How a file is compressed, or an error for an ending that stands for an unknown compression.
pub(super) fn is_gzip(path: &Path) -> Result<bool, ConnectorError> {
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    match ending.as_deref() {
        Some("gz" | "gzip") => Ok(true),
        Some(other @ ("bz2" | "xz" | "zst" | "deflate" | "zip" | "lz4" | "snappy")) => {
            Err(ConnectorError::Data(format!(
                "{}: compression '.{other}' is not supported, only '.gz'",
                path.display()
            )))
        }
        _ => Ok(false),
    }
}

/// The error of an operation on a file.
pub(super) fn io_error(action: &str, path: &Path, error: &std::io::Error) -> ConnectorError {
    ConnectorError::Io(format!("cannot {action} '{}': {error}", path.display()))
}

/// Size and modification time of a path.
pub(super) fn stamp(path: &Path) -> Result<Stamp, ConnectorError> {
    let metadata = std::fs::metadata(path).map_err(|e| io_error("read", path, &e))?;
    Ok(stamp_of(&metadata))
}

pub(super) fn stamp_of(metadata: &std::fs::Metadata) -> Stamp {
    Stamp {
        size: metadata.size(),
        mtime_ns: metadata
            .mtime()
            .saturating_mul(1_000_000_000)
            .saturating_add(metadata.mtime_nsec()),
    }
}

/// Length and checksum of the bytes just before an offset.
pub(super) fn tail(path: &Path, offset: u64) -> Result<(u16, u32), ConnectorError> {
    let file = File::open(path).map_err(|e| io_error("read", path, &e))?;
    read_tail(&file, offset).map_err(|e| io_error("read", path, &e))
}

fn read_tail(file: &File, offset: u64) -> std::io::Result<(u16, u32)> {
    let length = u16::try_from(offset.min(u64::from(TAIL_BYTES))).unwrap_or(TAIL_BYTES);
    let mut bytes = vec![0; usize::from(length)];
    file.read_exact_at(&mut bytes, offset - u64::from(length))?;
    Ok((length, crc32c::crc32c(&bytes)))
}

impl Stream {
    /// Opens a file at a position, after checking that it is still the file that the position is of.
    pub(super) fn open(path: &Path, position: &Position) -> Result<(Self, Stamp), ConnectorError> {
        let gzip = is_gzip(path)?;
        let mut file = File::open(path).map_err(|e| io_error("open", path, &e))?;
        let stamp = stamp_of(&file.metadata().map_err(|e| io_error("read", path, &e))?);
        if position.offset > 0 {
            check_same(path, &file, gzip, stamp, position)?;
        }
        let (input, to_skip) = if gzip {
            let reader = BufReader::with_capacity(SOURCE_CHUNK_BYTES / 4, file);
            (
                Input::Gzip(Box::new(MultiGzDecoder::new(reader))),
                position.offset,
            )
        } else {
            file.seek(SeekFrom::Start(position.offset))
                .map_err(|e| io_error("read", path, &e))?;
            (Input::Plain(file), 0)
        };
        let stream = Self {
            path: path.to_owned(),
            input,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            offset: position.offset,
            to_skip,
            at_end: false,
        };
        Ok((stream, stamp))
    }

    /// The content from the current offset on, as far as it was read.
    pub(super) fn window(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Moves the window on.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.start += bytes;
        self.offset += bytes as u64;
    }

    /// Offset of the window's first byte.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Nothing follows the window.
    pub(super) fn at_end(&self) -> bool {
        self.at_end
    }

    /// Reads one chunk more; returns how many bytes that was.
    pub(super) fn fill(&mut self, line: u64) -> Result<usize, ConnectorError> {
        if self.end - self.start > RECORD_BYTES_MAX {
            return Err(ConnectorError::Data(format!(
                "{}, line {line}: the record that begins here is longer than {RECORD_BYTES_MAX} bytes; is a quote not closed?",
                self.path.display()
            )));
        }
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.buffer.len() < self.end + SOURCE_CHUNK_BYTES {
            self.buffer.resize(self.end + SOURCE_CHUNK_BYTES, 0);
        }
        let read = self.read()?;
        self.end += read;
        if self.to_skip > 0 {
            let skipped = usize::try_from(self.to_skip).map_or(read, |skip| skip.min(read));
            self.start += skipped;
            self.to_skip -= skipped as u64;
        }
        if read == 0 {
            self.reached_end()?;
        }
        Ok(read)
    }

    fn read(&mut self) -> Result<usize, ConnectorError> {
        let target = &mut self.buffer[self.end..];
        loop {
            let result = match &mut self.input {
                Input::Plain(file) => file.read(target),
                Input::Gzip(decoder) => decoder.read(target),
            };
            match result {
                Ok(read) => return Ok(read),
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) if matches!(self.input, Input::Gzip(_)) => {
                    return Err(ConnectorError::Data(format!(
                        "{}: the compressed content is damaged after byte {}: {e}",
                        self.path.display(),
                        self.offset
                    )));
                }
                Err(e) => return Err(io_error("read", &self.path, &e)),
            }
        }
    }

    fn reached_end(&mut self) -> Result<(), ConnectorError> {
        self.at_end = true;
        let reached = self.offset + (self.end - self.start) as u64;
        let short = match &self.input {
            Input::Plain(file) => {
                let metadata = file.metadata().map_err(|e| io_error("read", &self.path, &e))?;
                metadata.size() < reached
            }
            Input::Gzip(_) => self.to_skip > 0,
        };
        if short {
            return Err(ConnectorError::Data(format!(
                "file '{}' became shorter while it was read: byte {reached} is no longer there",
                self.path.display()
            )));
        }
        Ok(())
    }
}

fn check_same(
    path: &Path,
    file: &File,
    gzip: bool,
    stamp: Stamp,
    position: &Position,
) -> Result<(), ConnectorError> {
    let reason = if gzip {
        let same = stamp.size == position.size && stamp.mtime_ns == position.mtime_ns;
        (!same).then(|| {
            format!(
                "its size was {} bytes and is {}, or its time differs",
                position.size, stamp.size
            )
        })
    } else if stamp.size < position.offset {
        Some(format!("it has only {} bytes now", stamp.size))
    } else {
        match position.tail {
            Some((length, crc)) => {
                let found = read_tail(file, position.offset).map_err(|e| io_error("read", path, &e))?;
                (found != (length, crc)).then(|| "the bytes before that place are others now".to_owned())
            }
            None => None,
        }
    };
    match reason {
        None => Ok(()),
        Some(reason) => Err(ConnectorError::Data(format!(
            "file '{}' was changed after it had been read up to byte {} (line {}): {reason}; files of a source must not change",
            path.display(),
            position.offset,
            position.line
        ))),
    }
}
