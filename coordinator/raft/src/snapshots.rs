//! Snapshot files: one directory, the newest file counts. Knows the file's frame, not the state within.
//!
//! Layout, little-endian: magic (8 bytes), format version (u32), header length (u32), crc32c of the header (u32),
//! header (protobuf: cluster name, log position, membership, length and crc32c of the body), body.

use crate::codec::{meta_from, meta_to};
use crate::disk::{Faults, TEMPORARY, replace_file, sync_parent};
use crate::types::SnapshotMeta;
use holdfast_proto::raft as pb;
use openraft::LogIdOptionExt;
use parking_lot::Mutex;
use prost::Message;
use prost::bytes::Bytes;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const MAGIC: &[u8; 8] = b"HFSNAP\0\0";
const VERSION: u32 = 1;
const PREFIX_BYTES: usize = 8 + 4 + 4 + 4;
const EXTENSION: &str = "snapshot";

/// The directory, and what is known to lie in it.
#[derive(Clone)]
pub(crate) struct SnapshotDir {
    inner: Arc<Inner>,
}

struct Inner {
    dir: PathBuf,
    cluster_name: String,
    faults: Box<dyn Faults>,
    /// Building and installing take turns, so that an older snapshot never replaces a newer one.
    current: Mutex<Option<Current>>,
}

#[derive(Clone)]
struct Current {
    meta: SnapshotMeta,
    path: PathBuf,
}

impl SnapshotDir {
    /// Opens the directory, which exists, and removes what a crash left half written.
    pub(crate) fn open(dir: &Path, cluster_name: &str, faults: Box<dyn Faults>) -> io::Result<Self> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.to_string_lossy();
            if name.ends_with(TEMPORARY) {
                std::fs::remove_file(&path)?;
            } else if path.extension().is_some_and(|e| e == EXTENSION) {
                files.push(path);
            }
        }
        // Names sort by log index. A crash may leave the previous one beside the newest.
        files.sort();
        let newest = files.pop();
        let inner = Inner {
            dir: dir.to_owned(),
            cluster_name: cluster_name.to_owned(),
            faults,
            current: Mutex::new(None),
        };
        if let Some(path) = newest {
            let (meta, _) = read_file(&path, cluster_name)?;
            *inner.current.lock() = Some(Current { meta, path });
        }
        for path in files {
            std::fs::remove_file(&path)?;
        }
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// The newest snapshot's position; `None` if there is no snapshot.
    pub(crate) fn current_meta(&self) -> Option<SnapshotMeta> {
        self.inner.current.lock().as_ref().map(|c| c.meta.clone())
    }

    /// The newest snapshot, verified.
    pub(crate) fn read_current(&self) -> io::Result<Option<(SnapshotMeta, Bytes)>> {
        let current = self.inner.current.lock().clone();
        current
            .map(|c| read_file(&c.path, &self.inner.cluster_name))
            .transpose()
    }

    /// Stores a snapshot durably, unless a newer one is there; then removes the previous one.
    pub(crate) fn store(&self, meta: &SnapshotMeta, body: &[u8]) -> io::Result<()> {
        let mut current = self.inner.current.lock();
        if let Some(c) = current.as_ref()
            && c.meta.last_log_id >= meta.last_log_id
        {
            return Ok(());
        }
        let index = meta.last_log_id.next_index().saturating_sub(1);
        let path = self.inner.dir.join(format!("{index:020}.{EXTENSION}"));
        let head = encode_head(&self.inner.cluster_name, meta, body);
        replace_file(&path, &[&head, body], self.inner.faults.as_ref())?;
        let previous = current.replace(Current {
            meta: meta.clone(),
            path: path.clone(),
        });
        if let Some(previous) = previous.filter(|p| p.path != path) {
            std::fs::remove_file(&previous.path)?;
            sync_parent(&path)?;
        }
        Ok(())
    }
}

fn encode_head(cluster_name: &str, meta: &SnapshotMeta, body: &[u8]) -> Vec<u8> {
    let header = pb::SnapshotFileHeader {
        cluster_name: cluster_name.to_owned(),
        meta: Some(meta_to(meta)),
        body_bytes: body.len() as u64,
        body_crc32c: crc32c::crc32c(body),
    }
    .encode_to_vec();
    let length = u32::try_from(header.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(PREFIX_BYTES + header.len());
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(&header).to_le_bytes());
    bytes.extend_from_slice(&header);
    bytes
}

fn read_file(path: &Path, cluster_name: &str) -> io::Result<(SnapshotMeta, Bytes)> {
    let bytes = Bytes::from(std::fs::read(path)?);
    decode(&bytes, cluster_name).map_err(|reason| {
        let text = format!("snapshot file {}: {reason}", path.display());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

fn decode(bytes: &Bytes, cluster_name: &str) -> Result<(SnapshotMeta, Bytes), String> {
    if bytes.len() < PREFIX_BYTES || &bytes[..8] != MAGIC {
        return Err("it does not begin as a snapshot does".to_owned());
    }
    let number = |at: usize| {
        let mut array = [0; 4];
        array.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(array)
    };
    if number(8) != VERSION {
        return Err(format!("it has format {}, this build reads {VERSION}", number(8)));
    }
    let header_end = PREFIX_BYTES + number(12) as usize;
    let header = bytes
        .get(PREFIX_BYTES..header_end)
        .ok_or("its header is cut short")?;
    if crc32c::crc32c(header) != number(16) {
        return Err("its header's checksum does not hold".to_owned());
    }
    let header = pb::SnapshotFileHeader::decode(header).map_err(|e| e.to_string())?;
    if header.cluster_name != cluster_name {
        return Err(format!(
            "it belongs to cluster '{}', not '{cluster_name}'",
            header.cluster_name
        ));
    }
    let body = bytes.slice(header_end..);
    if body.len() as u64 != header.body_bytes {
        return Err(format!(
            "it holds {} bytes of state and should hold {}",
            body.len(),
            header.body_bytes
        ));
    }
    if crc32c::crc32c(&body) != header.body_crc32c {
        return Err("its checksum does not hold".to_owned());
    }
    Ok((meta_from(header.meta).map_err(|e| e.to_string())?, body))
}

#[cfg(test)]
#[path = "snapshots_tests.rs"]
mod tests;
