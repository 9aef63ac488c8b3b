//! The log on RocksDB (feature `rocksdb`).
//!
//! Writes go to RocksDB's write-ahead log unsynced, where they can be read at once; one thread syncs it for all.

use super::kv::{Batch, Engine, KvBackend};
use rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DBRecoveryMode, DBWithThreadMode, Direction, IteratorMode, Options,
    ReadOptions, SingleThreaded, WriteBatch,
};
use std::io;
use std::ops::Range;
use std::path::Path;

const ENTRIES: &str = "entries";
const RECORDS: &str = "records";
const WRITE_BUFFER_BYTES: usize = 16 << 20;

/// Named in full, so that no other crate's choice of features changes it.
type Db = DBWithThreadMode<SingleThreaded>;

/// RocksDB as an ordered key-value store.
pub(super) struct RocksEngine {
    db: Db,
}

/// The log in one directory.
pub(super) type RocksBackend = KvBackend<RocksEngine>;

fn failed(error: rocksdb::Error) -> io::Error {
    io::Error::other(error)
}

impl KvBackend<RocksEngine> {
    pub(super) fn open_dir(dir: &Path) -> io::Result<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        // An incomplete last record is what a crash leaves; anything else that is wrong is damage, and an error.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_keep_log_file_num(4);
        let families = [ENTRIES, RECORDS].map(|name| {
            let mut family = Options::default();
            family.set_write_buffer_size(WRITE_BUFFER_BYTES);
            ColumnFamilyDescriptor::new(name, family)
        });
        let db = Db::open_cf_descriptors(&options, dir, families).map_err(failed)?;
        Self::open(RocksEngine { db })
    }
}

impl RocksEngine {
    fn family(&self, name: &str) -> io::Result<&ColumnFamily> {
        self.db
            .cf_handle(name)
            .ok_or_else(|| io::Error::other(format!("column family {name} is missing")))
    }
}

impl Engine for RocksEngine {
    fn record(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.db.get_cf(self.family(RECORDS)?, name).map_err(failed)
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        let (entries, records) = (self.family(ENTRIES)?, self.family(RECORDS)?);
        let mut writes = WriteBatch::default();
        if let Some(range) = batch.delete {
            writes.delete_range_cf(entries, range.start.to_be_bytes(), range.end.to_be_bytes());
        }
        for (index, record) in batch.entries {
            writes.put_cf(entries, index.to_be_bytes(), record);
        }
        for (name, record) in batch.records {
            writes.put_cf(records, name, record);
        }
        self.db.write(writes).map_err(failed)
    }

    fn scan(
        &self,
        range: Range<u64>,
        each: &mut dyn FnMut(u64, &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        let mut options = ReadOptions::default();
        options.set_iterate_upper_bound(range.end.to_be_bytes());
        let start = range.start.to_be_bytes();
        let mode = IteratorMode::From(&start, Direction::Forward);
        for item in self.db.iterator_cf_opt(self.family(ENTRIES)?, options, mode) {
            let (key, record) = item.map_err(failed)?;
            let key: [u8; 8] = key
                .as_ref()
                .try_into()
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a key that is no index"))?;
            if !each(u64::from_be_bytes(key), &record)? {
                break;
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.db.flush_wal(true).map_err(failed)
    }
}
