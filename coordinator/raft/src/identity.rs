//! Whose data directory this is: a lock against a second process, and an identity that a wiped disk loses.
//!
//! The identity is drawn at the first start and stands in the cluster's membership beside the coordinator's number.
//! A coordinator whose disk was wiped comes back with another identity, and is refused under its old number: it has
//! forgotten its votes and entries, so that counting it as itself could lose what was acknowledged.

use crate::api::{DirIdentity, MemberAddr, RaftConfig, StartError};
use crate::codec::{dir_from, dir_to};
use crate::disk::{NoFaults, create_dir, replace_file};
use crate::types::DirId;
use holdfast_common::{ClusterId, Incarnation, NodeId};
use holdfast_proto::raft as pb;
use parking_lot::Mutex;
use prost::Message;
use prost::bytes::Bytes;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"HFIDENT\0";
const VERSION: u32 = 1;
const PREFIX_BYTES: usize = 8 + 4 + 4;

/// Holds the directory against other processes until dropped, even by a crash.
#[derive(Debug)]
pub(crate) struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock, or says who holds it.
    pub(crate) fn take(data_dir: &Path) -> Result<Self, StartError> {
        let storage = |error: io::Error| StartError::Storage {
            path: data_dir.to_owned(),
            reason: error.to_string(),
        };
        create_dir(data_dir).map_err(storage)?;
        let path = data_dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(storage)?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                let holder = file
                    .read_to_string(&mut text)
                    .ok()
                    .and_then(|_| text.trim().parse().ok());
                return Err(StartError::Locked {
                    path: data_dir.to_owned(),
                    holder,
                });
            }
            Err(error) => return Err(storage(error.into())),
        }
        // For people, and for the message above.
        file.set_len(0).map_err(storage)?;
        file.rewind().map_err(storage)?;
        file.write_all(std::process::id().to_string().as_bytes())
            .map_err(storage)?;
        Ok(Self { _file: file })
    }
}

/// The identity file, and what it says.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    record: Mutex<Record>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    cluster_name: String,
    node_id: u64,
    dir: DirId,
    cluster_id: Option<ClusterId>,
    joined: bool,
    peers_hash: u64,
}

impl Identity {
    /// Reads the file, or draws an identity and writes it. `dir` is used only then.
    pub(crate) fn open(config: &RaftConfig, dir: DirId) -> Result<Self, StartError> {
        let path = config.data_dir.join("identity");
        let storage = |reason: String| StartError::Storage {
            path: path.clone(),
            reason,
        };
        let record = match std::fs::read(&path) {
            Ok(bytes) => decode(&bytes).map_err(storage)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Record {
                cluster_name: config.cluster_name.clone(),
                node_id: config.id.0,
                dir,
                cluster_id: None,
                joined: false,
                peers_hash: peers_hash(&config.peers),
            },
            Err(error) => return Err(storage(error.to_string())),
        };
        check(&record, config)?;
        let identity = Self {
            path: path.clone(),
            record: Mutex::new(record),
        };
        identity.write().map_err(|error| storage(error.to_string()))?;
        Ok(identity)
    }

    pub(crate) fn dir(&self) -> DirId {
        self.record.lock().dir
    }

    pub(crate) fn joined(&self) -> bool {
        self.record.lock().joined
    }

    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.record.lock().cluster_id
    }

    /// Notes that the log is not empty any more, before anybody is told so.
    pub(crate) fn set_joined(&self) -> io::Result<()> {
        let mut record = self.record.lock();
        if record.joined {
            return Ok(());
        }
        let joined = Record {
            joined: true,
            ..record.clone()
        };
        write_record(&self.path, &joined)?;
        *record = joined;
        Ok(())
    }

    /// Notes the cluster's identity. Another one than before is an error: entries of two clusters must not mix.
    pub(crate) fn set_cluster_id(&self, id: ClusterId) -> Result<(), String> {
        let mut record = self.record.lock();
        match record.cluster_id {
            Some(known) if known == id => Ok(()),
            Some(known) => Err(format!(
                "the data directory belongs to cluster {known}, its log to cluster {id}"
            )),
            None => {
                let named = Record {
                    cluster_id: Some(id),
                    ..record.clone()
                };
                write_record(&self.path, &named).map_err(|e| e.to_string())?;
                *record = named;
                Ok(())
            }
        }
    }

    pub(crate) fn public(&self) -> DirIdentity {
        let record = self.record.lock();
        DirIdentity {
            cluster_name: record.cluster_name.clone(),
            cluster_id: record.cluster_id,
            node_id: NodeId(record.node_id),
            first_incarnation: Incarnation(record.dir.0),
        }
    }

    fn write(&self) -> io::Result<()> {
        write_record(&self.path, &self.record.lock())
    }
}

fn check(record: &Record, config: &RaftConfig) -> Result<(), StartError> {
    let dir = config.data_dir.display();
    if record.cluster_name != config.cluster_name {
        return Err(StartError::Identity(format!(
            "the data directory {dir} belongs to cluster '{}', the configuration says '{}'",
            record.cluster_name, config.cluster_name
        )));
    }
    if record.node_id != config.id.0 {
        return Err(StartError::Identity(format!(
            "the data directory {dir} belongs to coordinator {}, the configuration says {}",
            record.node_id, config.id
        )));
    }
    Ok(())
}

/// Equal configurations of initial peers have equal hashes.
pub(crate) fn peers_hash(peers: &BTreeMap<NodeId, MemberAddr>) -> u64 {
    // It guards against mistakes, not against malice.
    let text: String = peers
        .iter()
        .map(|(id, addr)| format!("{id}@{};", addr.rpc))
        .collect();
    let crc = crc32c::crc32c(text.as_bytes());
    (u64::from(crc) << 32) | text.len() as u64
}

fn write_record(path: &Path, record: &Record) -> io::Result<()> {
    let body = pb::Identity {
        cluster_name: record.cluster_name.clone(),
        node_id: record.node_id,
        dir: dir_to(record.dir),
        cluster_id: record
            .cluster_id
            .map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_bytes())),
        joined: record.joined,
        peers_hash: record.peers_hash,
    }
    .encode_to_vec();
    let mut head = Vec::with_capacity(PREFIX_BYTES);
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
    replace_file(path, &[&head, &body], &NoFaults)
}

fn decode(bytes: &[u8]) -> Result<Record, String> {
    if bytes.len() < PREFIX_BYTES || &bytes[..8] != MAGIC {
        return Err("it is not an identity file".to_owned());
    }
    let number = |at: usize| {
        let mut array = [0; 4];
        array.copy_from_slice(&bytes[at..at + 4]);
        u32::from_le_bytes(array)
    };
    if number(8) != VERSION {
        return Err(format!("it has format {}, this build reads {VERSION}", number(8)));
    }
    let body = &bytes[PREFIX_BYTES..];
    if crc32c::crc32c(body) != number(12) {
        return Err("its checksum does not hold".to_owned());
    }
    let wire = pb::Identity::decode(body).map_err(|e| e.to_string())?;
    let cluster_id = match wire.cluster_id.as_ref() {
        [] => None,
        bytes => Some(ClusterId::from_bytes(bytes).map_err(|e| e.to_string())?),
    };
    Ok(Record {
        cluster_name: wire.cluster_name,
        node_id: wire.node_id,
        dir: dir_from(&wire.dir).map_err(|e| e.to_string())?,
        cluster_id,
        joined: wire.joined,
        peers_hash: wire.peers_hash,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::{LogStoreKind, TimingProfile};

    fn config(dir: &Path, id: u64, name: &str) -> RaftConfig {
        RaftConfig {
            id: NodeId(id),
            cluster_name: name.to_owned(),
            peers: BTreeMap::new(),
            data_dir: dir.to_owned(),
            profile: TimingProfile::Standard,
            log_store: LogStoreKind::RaftLog,
            snapshot_after_logs: 100,
            incarnation: Incarnation(1),
        }
    }

    #[test]
    fn an_identity_is_drawn_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let first = Identity::open(&config(dir.path(), 1, "a"), DirId(7)).unwrap();
        first.set_joined().unwrap();
        first.set_cluster_id(ClusterId(9)).unwrap();
        let again = Identity::open(&config(dir.path(), 1, "a"), DirId(8)).unwrap();
        assert_eq!(again.dir(), DirId(7));
        assert!(again.joined());
        assert_eq!(again.cluster_id(), Some(ClusterId(9)));
        assert!(again.set_cluster_id(ClusterId(10)).is_err());
        assert!(matches!(
            Identity::open(&config(dir.path(), 2, "a"), DirId(8)),
            Err(StartError::Identity(_))
        ));
        assert!(matches!(
            Identity::open(&config(dir.path(), 1, "b"), DirId(8)),
            Err(StartError::Identity(_))
        ));
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), 1, "a");
        Identity::open(&config, DirId(7)).unwrap();
        let path = dir.path().join("identity");
        let good = std::fs::read(&path).unwrap();
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad).is_err(), "bit {bit}");
        }
        for end in 0..good.len() {
            assert!(decode(&good[..end]).is_err(), "cut at {end}");
        }
    }

    #[test]
    fn a_directory_is_held_by_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let held = DirLock::take(dir.path()).unwrap();
        let error = DirLock::take(dir.path()).unwrap_err();
        let me = std::process::id();
        assert!(
            matches!(error, StartError::Locked { holder: Some(pid), .. } if pid == me),
            "{error}"
        );
        drop(held);
        DirLock::take(dir.path()).unwrap();
    }
}
