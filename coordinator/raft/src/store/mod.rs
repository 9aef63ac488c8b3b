//! The log on disk: one trait that each backend implements, and the one adapter that openraft talks to.
//!
//! What a backend owes:
//! 1. All writes take effect in the order of the calls, votes and entries alike: a later write is never durable
//!    without the earlier ones.
//! 2. `append`, `save_vote` and `truncate_after` return once the record can be read, and call back once it is durable;
//!    they never wait for the disk themselves.
//! 3. There are no holes: after a crash, what is left is a prefix of what was written, at least as long as what was
//!    called back for.
//! 4. A failed write or fsync is reported to every callback from then on and never retried: the process ends.
//! 5. Damage is an error on opening. Only an incomplete last record, which nobody was told of, may be dropped.

#[cfg(any(feature = "rocksdb", feature = "sled"))]
mod flusher;
#[cfg(any(feature = "rocksdb", feature = "sled"))]
mod frame;
mod group;
#[cfg(any(feature = "rocksdb", feature = "sled"))]
mod kv;
mod raft_log;
#[cfg(feature = "rocksdb")]
mod rocks;
pub(crate) mod simulated;
#[cfg(feature = "sled")]
mod sled_store;

use crate::api::{LogStoreKind, StartError};
use crate::types::{Entry, LogId, TypeConfig, Vote};
use holdfast_common::inject::{self, bugs, points};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{LogIdOptionExt, OptionalSend};
use parking_lot::Mutex;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, Range, RangeBounds};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::oneshot;

type Callback = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Called exactly once, when a record is durable or never will be: one that is dropped uncalled, with the writer that
/// held it, reports a failure.
pub(crate) struct Flushed(Option<Callback>);

impl Flushed {
    pub(crate) fn new(callback: impl FnOnce(io::Result<()>) + Send + 'static) -> Self {
        Self(Some(Box::new(callback)))
    }

    pub(crate) fn done(mut self, result: io::Result<()>) {
        if let Some(callback) = self.0.take() {
            callback(result);
        }
    }
}

impl Drop for Flushed {
    fn drop(&mut self) {
        if let Some(callback) = self.0.take() {
            callback(Err(io::Error::other(WRITER_GONE)));
        }
    }
}

const WRITER_GONE: &str = "the log's writer has stopped";

/// Where the log begins and ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// The last entry that was purged.
    pub(crate) purged: Option<LogId>,
    /// The last entry, or the last purged one if there is none.
    pub(crate) last: Option<LogId>,
}

/// A log on disk. See the module for what it owes.
pub(crate) trait LogBackend: Send + Sync + 'static {
    fn bounds(&self) -> io::Result<Bounds>;
    fn vote(&self) -> io::Result<Option<Vote>>;
    fn committed(&self) -> io::Result<Option<LogId>>;
    /// Entries in the range that exist, in order, at most `bytes_max` of them but at least one.
    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>>;
    fn append(&self, entries: Vec<Entry>, flushed: Flushed) -> io::Result<()>;
    fn save_vote(&self, vote: Vote, flushed: Flushed) -> io::Result<()>;
    /// Durable whenever a later write is.
    fn save_committed(&self, committed: LogId) -> io::Result<()>;
    /// Removes everything behind `last`.
    fn truncate_after(&self, last: Option<LogId>, flushed: Flushed) -> io::Result<()>;
    /// Removes everything up to `upto`, which may lie beyond the end.
    fn purge(&self, upto: LogId) -> io::Result<()>;
}

/// After the first failure nothing is tried any more: what the disk holds then is not known.
#[derive(Default)]
pub(crate) struct Attempts(Mutex<Option<String>>);

impl Attempts {
    /// Does it, unless something has failed before.
    pub(crate) fn attempt<T>(&self, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let mut failed = self.0.lock();
        if let Some(reason) = failed.as_ref() {
            return Err(io::Error::other(format!("an earlier write has failed: {reason}")));
        }
        act().inspect_err(|error| *failed = Some(error.to_string()))
    }
}

/// Bytes that one replication message aims at: well under the limit of an RPC message.
const READ_BYTES: usize = 2 << 20;

/// Opens the configured backend in `dir`, which exists.
pub(crate) fn open(kind: LogStoreKind, dir: &Path) -> Result<LogStore, StartError> {
    let opened = match kind {
        LogStoreKind::RaftLog => raft_log::RaftLogBackend::open(dir).map(LogStore::new),
        LogStoreKind::Simulated => Ok(LogStore::new(simulated::SimulatedBackend::open(dir))),
        #[cfg(feature = "rocksdb")]
        LogStoreKind::RocksDb => rocks::RocksBackend::open_dir(dir).map(LogStore::new),
        #[cfg(feature = "sled")]
        LogStoreKind::Sled => sled_store::SledBackend::open_dir(dir).map(LogStore::new),
        #[allow(unreachable_patterns)]
        other => return Err(StartError::LogStore(other)),
    };
    opened.map_err(|error| StartError::Storage {
        path: dir.to_owned(),
        reason: format!(
            "{error}. If the log is damaged, remove this coordinator from the cluster, clear its data directory and \
             add it under a new id"
        ),
    })
}

/// The log as openraft sees it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LogStore {
    backend: Arc<dyn LogBackend>,
    /// Of the seeded bug [`bugs::VOTE_NOT_SAVED`]; else never set.
    unsaved_vote: Arc<Mutex<Option<Vote>>>,
}

impl LogStore {
    pub(crate) fn new(backend: impl LogBackend) -> Self {
        Self {
            backend: Arc::new(backend),
            unsaved_vote: Arc::default(),
        }
    }

    /// What is underneath: to measure it, or to put something in between.
    pub(crate) fn backend(&self) -> Arc<dyn LogBackend> {
        Arc::clone(&self.backend)
    }

    pub(crate) fn bounds(&self) -> io::Result<Bounds> {
        self.backend.bounds()
    }

    /// Writes, and waits until that is durable.
    async fn until_durable(
        &self,
        write: impl FnOnce(&dyn LogBackend, Flushed) -> io::Result<()>,
    ) -> io::Result<()> {
        let (sender, durable) = oneshot::channel();
        let flushed = Flushed::new(move |result| {
            // The receiver is gone only if openraft has stopped.
            let _ = sender.send(result);
        });
        write(&*self.backend, flushed)?;
        durable.await.map_err(|_| io::Error::other(WRITER_GONE))?
    }

    /// Nothing was ever promised or stored.
    pub(crate) fn is_empty(&self) -> io::Result<bool> {
        Ok(self.backend.vote()?.is_none() && self.backend.bounds()? == Bounds::default())
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        self.backend.read(half_open(&range), usize::MAX)
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        if let Some(vote) = *self.unsaved_vote.lock() {
            return Ok(Some(vote));
        }
        self.backend.vote()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.backend.read(start..end, READ_BYTES)
    }
}

/// What the seeded bug [`bugs::FSYNC_ERROR_IGNORED`] makes of a failed write.
fn believed(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(_) if inject::bug(bugs::FSYNC_ERROR_IGNORED) => Ok(()),
        result => result,
    }
}

fn half_open(range: &impl RangeBounds<u64>) -> Range<u64> {
    let start = match range.start_bound() {
        Bound::Included(index) => *index,
        Bound::Excluded(index) => index.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(index) => index.saturating_add(1),
        Bound::Excluded(index) => *index,
        Bound::Unbounded => u64::MAX,
    };
    start..end.max(start)
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let Bounds { purged, last } = self.backend.bounds()?;
        Ok(LogState {
            last_purged_log_id: purged,
            last_log_id: last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        inject::point(points::RAFT_VOTE_BEFORE)?;
        if inject::bug(bugs::VOTE_NOT_SAVED) {
            *self.unsaved_vote.lock() = Some(*vote);
            return Ok(());
        }
        self.until_durable(|backend, flushed| backend.save_vote(*vote, flushed))
            .await?;
        inject::pass(points::RAFT_VOTE_AFTER);
        Ok(())
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        let Some(committed) = committed else { return Ok(()) };
        // What is committed but not yet in this log (a snapshot is on its way) is noted when it is.
        if Some(committed) > self.backend.bounds()?.last || Some(committed) <= self.backend.committed()? {
            return Ok(());
        }
        self.backend.save_committed(committed)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.backend.committed()
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        inject::point(points::RAFT_APPEND_BEFORE)?;
        let flushed = Flushed::new(move |result| {
            let result = believed(result);
            if result.is_ok() {
                inject::pass(points::RAFT_FLUSHED);
            }
            callback.io_completed(result);
        });
        believed(self.backend.append(entries.into_iter().collect(), flushed))?;
        inject::pass(points::RAFT_APPEND_AFTER);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> io::Result<()> {
        if last.next_index() >= self.backend.bounds()?.last.next_index() {
            return Ok(());
        }
        inject::point(points::RAFT_TRUNCATE_BEFORE)?;
        // What may follow is no write to this log: a snapshot that replaces what was cut off. Were that durable and
        // this not, the log would be found to contradict it.
        self.until_durable(|backend, flushed| backend.truncate_after(last, flushed))
            .await
    }

    async fn purge(&mut self, upto: LogId) -> io::Result<()> {
        if Some(upto) <= self.backend.bounds()?.purged {
            return Ok(());
        }
        inject::point(points::RAFT_PURGE_BEFORE)?;
        self.backend.purge(upto)
    }
}

/// Takes entries until `bytes_max` is passed; always the first one.
pub(crate) struct ByteBudget {
    left: usize,
    taken: usize,
}

impl ByteBudget {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            left: bytes_max,
            taken: 0,
        }
    }

    /// Whether an entry of this size still fits.
    pub(crate) fn take(&mut self, bytes: usize) -> bool {
        if self.taken > 0 && bytes > self.left {
            return false;
        }
        self.left = self.left.saturating_sub(bytes);
        self.taken += 1;
        true
    }
}

/// An entry's size on disk, roughly.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => 64 + command.0.len(),
        openraft::EntryPayload::Blank => 64,
        openraft::EntryPayload::Membership(_) => 1024,
    }
}

#[cfg(test)]
mod crash_matrix;
#[cfg(test)]
mod tests;
