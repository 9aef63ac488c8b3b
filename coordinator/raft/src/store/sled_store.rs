//! The log on sled 0.34 (feature `sled`): light and embedded, and no longer developed.
//!
//! sled's own `flush` is `sync_file_range` on Linux, which does not survive a loss of power: the file is synced here
//! after it. One tree holds everything, so that a batch is atomic.

use super::kv::{Batch, Engine, KvBackend};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ENTRY: u8 = b'e';
const RECORD: u8 = b'r';
const CACHE_BYTES: u64 = 32 << 20;
/// How often, and after which pause, a lock that is still held is tried again: 3 s in all. Another process that really
/// holds it is then refused by name.
const UNLOCK_TRIES: u32 = 60;
const UNLOCK_PAUSE: Duration = Duration::from_millis(50);

/// sled as an ordered key-value store.
pub(super) struct SledEngine {
    db: sled::Db,
    /// The file that sled appends to.
    file: File,
    blobs: PathBuf,
}

/// The log in one directory.
pub(super) type SledBackend = KvBackend<SledEngine>;

fn failed(error: sled::Error) -> io::Error {
    match error {
        sled::Error::Io(error) => error,
        other => io::Error::other(other),
    }
}

impl KvBackend<SledEngine> {
    pub(super) fn open_dir(dir: &Path) -> io::Result<Self> {
        remove_unfinished(dir)?;
        // No thread of sled's own syncs: ours does, when somebody waits.
        let config = sled::Config::new()
            .path(dir)
            .flush_every_ms(None)
            .cache_capacity(CACHE_BYTES);
        let db = open_unlocked(&config)?;
        let file = File::open(dir.join("db"))?;
        // The file itself may be new.
        File::open(dir)?.sync_all()?;
        Self::open(SledEngine {
            db,
            file,
            blobs: dir.join("blobs"),
        })
    }
}

/// Opens the store, waiting for its lock: sled lets go of it on a thread of its own, a moment after the store was closed.
fn open_unlocked(config: &sled::Config) -> io::Result<sled::Db> {
    let locked = |error: &io::Error| error.to_string().contains("could not acquire lock");
    for _ in 0..UNLOCK_TRIES {
        match config.open().map_err(failed) {
            Err(error) if locked(&error) => std::thread::sleep(UNLOCK_PAUSE),
            opened => return opened,
        }
    }
    config.open().map_err(failed)
}

/// Removes what a crash left half written and sled would take for damage: a copy of its index that has not got its name
/// yet, and the settings of a store that has no file of data yet.
fn remove_unfinished(dir: &Path) -> io::Result<()> {
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        let name = file.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            std::fs::remove_file(file.path())?;
        }
    }
    if std::fs::metadata(dir.join("db")).is_ok_and(|data| data.len() > 0) {
        return Ok(());
    }
    match std::fs::remove_file(dir.join("conf")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn entry_key(index: u64) -> [u8; 9] {
    let mut key = [ENTRY; 9];
    key[1..].copy_from_slice(&index.to_be_bytes());
    key
}

fn record_key(name: &str) -> Vec<u8> {
    let mut key = vec![RECORD];
    key.extend_from_slice(name.as_bytes());
    key
}

impl Engine for SledEngine {
    fn record(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self
            .db
            .get(record_key(name))
            .map_err(failed)?
            .map(|value| value.to_vec()))
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        let mut writes = sled::Batch::default();
        if let Some(range) = batch.delete {
            for key in self.db.range(entry_key(range.start)..entry_key(range.end)).keys() {
                writes.remove(key.map_err(failed)?);
            }
        }
        for (index, record) in batch.entries {
            writes.insert(&entry_key(index), record);
        }
        for (name, record) in batch.records {
            writes.insert(record_key(name), record);
        }
        self.db.apply_batch(writes).map_err(failed)
    }

    fn scan(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        for item in self.db.range(entry_key(range.start)..entry_key(range.end)) {
            let (key, record) = item.map_err(failed)?;
            let index: [u8; 8] = key
                .get(1..)
                .and_then(|key| key.try_into().ok())
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a key that is no index"))?;
            if !each(u64::from_be_bytes(index), &record)? {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.db.flush().map_err(failed)?;
        self.file.sync_data()?;
        // Large values lie in files of their own, which sled syncs; their names are in this directory.
        File::open(&self.blobs)?.sync_all()
    }
}
