//! A log on an ordered key-value store: what RocksDB and sled have in common. Vote, positions and entries lie in one
//! store with one write-ahead log of its own, so that a later write is never durable without the earlier ones.

use super::flusher::{Durable, Flusher};
use super::frame;
use super::{Attempts, Bounds, ByteBudget, Flushed, LogBackend};
use crate::codec::{entry_from, entry_to, log_id_from, log_id_to, vote_from, vote_to};
use crate::types::{Entry, LogId, Vote};
use holdfast_common::inject::{self, bugs};
use openraft::LogIdOptionExt;
use parking_lot::Mutex;
use prost::Message;
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// The names of the records beside the entries.
const VOTE: &str = "vote";
const COMMITTED: &str = "committed";
const PURGED: &str = "purged";

/// Entries to put or delete and records to put: all or nothing.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) entries: Vec<(u64, Vec<u8>)>,
    pub(super) records: Vec<(&'static str, Vec<u8>)>,
    pub(super) delete: Option<Range<u64>>,
}

/// An ordered key-value store.
pub(super) trait Engine: Send + Sync + 'static {
    fn record(&self, name: &str) -> io::Result<Option<Vec<u8>>>;
    /// Atomic, and readable on return; durable with the next sync.
    fn write(&self, batch: Batch) -> io::Result<()>;
    /// Entries in the range, in order, until `each` says false.
    fn scan(&self, range: Range<u64>, each: &mut dyn FnMut(u64, &[u8]) -> io::Result<bool>)
    -> io::Result<()>;
    /// Makes everything written before the call durable.
    fn sync(&self) -> io::Result<()>;
}

struct Shared<E>(Arc<E>);

impl<E: Engine> Durable for Shared<E> {
    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn delete(&self, range: Range<u64>) -> io::Result<()> {
        self.0.write(Batch {
            delete: Some(range),
            ..Batch::default()
        })
    }
}

/// What is asked for often.
#[derive(Default)]
struct Known {
    bounds: Bounds,
    vote: Option<Vote>,
    committed: Option<LogId>,
}

/// The log on such a store.
pub(super) struct KvBackend<E> {
    // Dropped first: its thread uses the engine.
    flusher: Flusher,
    engine: Arc<E>,
    known: Mutex<Known>,
    attempts: Attempts,
}

fn invalid(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

impl<E: Engine> KvBackend<E> {
    /// Reads and verifies all that is there.
    pub(super) fn open(engine: E) -> io::Result<Self> {
        let log_id = |name: &'static str| -> io::Result<Option<LogId>> {
            let Some(record) = engine.record(name)? else {
                return Ok(None);
            };
            let wire = holdfast_proto::raft::LogId::decode(frame::open(name, &record)?).map_err(invalid)?;
            log_id_from(wire).map(Some).map_err(invalid)
        };
        let (purged, committed) = (log_id(PURGED)?, log_id(COMMITTED)?);
        let vote = match engine.record(VOTE)? {
            Some(record) => {
                let wire =
                    holdfast_proto::raft::Vote::decode(frame::open(VOTE, &record)?).map_err(invalid)?;
                Some(vote_from(Some(wire)).map_err(invalid)?)
            }
            None => None,
        };
        let mut last = purged;
        let mut next = purged.next_index();
        let first = next;
        engine.scan(first..u64::MAX, &mut |index, record| {
            let entry = decode_entry(index, record)?;
            // A log may begin anywhere after a snapshot was installed into an empty one; holes are damage.
            if index != next && last.is_some() || entry.log_id.index() != index {
                return Err(invalid(format!(
                    "entry {index} stands where entry {next} belongs"
                )));
            }
            last = Some(entry.log_id);
            next = index + 1;
            Ok(true)
        })?;
        if committed > last {
            return Err(invalid(format!(
                "entries up to {committed:?} were committed and the log ends at {last:?}"
            )));
        }
        let engine = Arc::new(engine);
        let flusher = Flusher::spawn(Shared(Arc::clone(&engine)))?;
        if first > 0 {
            // What a crash kept from being deleted.
            flusher.delete(0..first)?;
        }
        let known = Mutex::new(Known {
            bounds: Bounds { purged, last },
            vote,
            committed,
        });
        Ok(Self {
            flusher,
            engine,
            known,
            attempts: Attempts::default(),
        })
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        self.attempts.attempt(|| self.engine.write(batch))
    }
}

fn decode_entry(index: u64, record: &[u8]) -> io::Result<Entry> {
    let body = frame::open(&format!("entry {index}"), record)?;
    entry_from(holdfast_proto::raft::Entry::decode(body).map_err(invalid)?).map_err(invalid)
}

impl<E: Engine> LogBackend for KvBackend<E> {
    fn bounds(&self) -> io::Result<Bounds> {
        Ok(self.known.lock().bounds)
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        Ok(self.known.lock().vote)
    }

    fn committed(&self) -> io::Result<Option<LogId>> {
        Ok(self.known.lock().committed)
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        // Purged entries may still be there.
        let start = range.start.max(self.known.lock().bounds.purged.next_index());
        let mut entries = Vec::new();
        let mut budget = ByteBudget::new(bytes_max);
        if start < range.end {
            self.engine.scan(start..range.end, &mut |index, record| {
                if !budget.take(record.len()) {
                    return Ok(false);
                }
                entries.push(decode_entry(index, record)?);
                Ok(true)
            })?;
        }
        Ok(entries)
    }

    fn append(&self, entries: Vec<Entry>, flushed: Flushed) -> io::Result<()> {
        let mut known = self.known.lock();
        let last = entries.last().map(|e| e.log_id);
        let entries = entries
            .iter()
            .map(|e| (e.log_id.index(), frame::seal(&entry_to(e).encode_to_vec())))
            .collect();
        self.write(Batch {
            entries,
            ..Batch::default()
        })?;
        known.bounds.last = last.or(known.bounds.last);
        if inject::bug(bugs::ACK_BEFORE_FSYNC) {
            flushed.done(Ok(()));
            return Ok(());
        }
        self.flusher.sync(flushed)
    }

    fn save_vote(&self, vote: Vote, flushed: Flushed) -> io::Result<()> {
        let mut known = self.known.lock();
        let record = frame::seal(&vote_to(&vote).encode_to_vec());
        self.write(Batch {
            records: vec![(VOTE, record)],
            ..Batch::default()
        })?;
        known.vote = Some(vote);
        self.flusher.sync(flushed)
    }

    fn save_committed(&self, committed: LogId) -> io::Result<()> {
        let mut known = self.known.lock();
        let record = frame::seal(&log_id_to(&committed).encode_to_vec());
        self.write(Batch {
            records: vec![(COMMITTED, record)],
            ..Batch::default()
        })?;
        known.committed = Some(committed);
        Ok(())
    }

    fn truncate_after(&self, last: Option<LogId>, flushed: Flushed) -> io::Result<()> {
        let mut known = self.known.lock();
        let range = last.next_index()..known.bounds.last.next_index();
        self.write(Batch {
            delete: Some(range),
            ..Batch::default()
        })?;
        known.bounds.last = last.max(known.bounds.purged);
        self.flusher.sync(flushed)
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        let mut known = self.known.lock();
        let record = frame::seal(&log_id_to(&upto).encode_to_vec());
        self.write(Batch {
            records: vec![(PURGED, record)],
            ..Batch::default()
        })?;
        let start = known.bounds.purged.next_index();
        known.bounds.purged = Some(upto);
        known.bounds.last = known.bounds.last.max(Some(upto));
        // First noted, then deleted: a crash in between leaves entries that nobody asks for any more.
        self.flusher.delete(start..upto.index() + 1)
    }
}
