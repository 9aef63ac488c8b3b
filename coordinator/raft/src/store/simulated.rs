//! A log on a simulated disk: what was written survives the death of a process, what was synced survives the loss of
//! power. Disks belong to directories and live as long as the process. Everything runs on the caller's runtime.
//!
//! The log is kept as the list of its writes, so that cutting it off after any of them is what a real disk may show.

use super::{Bounds, ByteBudget, Flushed, LogBackend, entry_bytes};
use crate::types::{Entry, LogId, Vote};
use openraft::LogIdOptionExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// One write.
#[derive(Clone)]
enum Write {
    Vote(Vote),
    Entry(Entry),
    Committed(LogId),
    Truncate(Option<LogId>),
    Purge(LogId),
}

/// A disk: its writes in order, and how many of them are synced.
pub(crate) struct Disk {
    writes: Vec<Write>,
    synced: usize,
    /// How long the next syncs take, in turn.
    pub(crate) sync_takes: Vec<Duration>,
    next_sync: usize,
    /// The next sync fails, and so do all behind it, until the machine starts again.
    pub(crate) sync_fails: bool,
    pub(crate) syncs: u64,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            writes: Vec::new(),
            synced: 0,
            sync_takes: vec![Duration::from_millis(1)],
            next_sync: 0,
            sync_fails: false,
            syncs: 0,
        }
    }
}

impl Disk {
    /// The machine loses its power: of the writes that were not synced, the first `keep` are there, the rest is gone.
    /// Answers how many are gone.
    pub(crate) fn lose_power(&mut self, keep: impl FnOnce(usize) -> usize) -> usize {
        let unsynced = self.writes.len() - self.synced;
        let kept = self.synced + keep(unsynced).min(unsynced);
        let lost = self.writes.len() - kept;
        self.writes.truncate(kept);
        self.synced = kept;
        self.sync_fails = false;
        lost
    }

    fn sync_time(&mut self) -> Duration {
        let time = self.sync_takes[self.next_sync % self.sync_takes.len()];
        self.next_sync += 1;
        time
    }
}

static DISKS: Mutex<BTreeMap<PathBuf, Arc<Mutex<Disk>>>> = Mutex::new(BTreeMap::new());

/// The disk of a directory.
pub(crate) fn disk(dir: &Path) -> Arc<Mutex<Disk>> {
    Arc::clone(DISKS.lock().entry(dir.to_owned()).or_default())
}

/// What the writes come to.
#[derive(Default)]
struct Known {
    bounds: Bounds,
    vote: Option<Vote>,
    committed: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Known {
    fn take(&mut self, write: Write) {
        match write {
            Write::Vote(vote) => self.vote = Some(vote),
            Write::Committed(id) => self.committed = Some(id),
            Write::Entry(entry) => {
                self.bounds.last = Some(entry.log_id);
                self.entries.insert(entry.log_id.index(), entry);
            }
            Write::Truncate(last) => {
                self.entries.split_off(&last.next_index());
                self.bounds.last = last.max(self.bounds.purged);
            }
            Write::Purge(upto) => {
                self.entries = self.entries.split_off(&(upto.index() + 1));
                self.bounds.purged = Some(upto);
                self.bounds.last = self.bounds.last.max(Some(upto));
            }
        }
    }
}

/// The log.
pub(crate) struct SimulatedBackend {
    disk: Arc<Mutex<Disk>>,
    known: Mutex<Known>,
    syncs: mpsc::UnboundedSender<Flushed>,
}

impl SimulatedBackend {
    /// Reads what the directory's disk holds.
    pub(super) fn open(dir: &Path) -> Self {
        let disk = disk(dir);
        let mut known = Known::default();
        {
            let disk = disk.lock();
            disk.writes.iter().cloned().for_each(|write| known.take(write));
        }
        // Bounded by the callers: each waits for its write.
        let (syncs, waiting) = mpsc::unbounded_channel();
        tokio::spawn(sync_for_ever(Arc::clone(&disk), waiting));
        Self {
            disk,
            known: Mutex::new(known),
            syncs,
        }
    }

    fn write(&self, writes: Vec<Write>) {
        let mut known = self.known.lock();
        let mut disk = self.disk.lock();
        for write in writes {
            disk.writes.push(write.clone());
            known.take(write);
        }
    }

    fn sync(&self, flushed: Flushed) -> io::Result<()> {
        self.syncs
            .send(flushed)
            .map_err(|_| io::Error::other("the log's writer has stopped"))
    }
}

/// One sync for all that wait, one after the other.
async fn sync_for_ever(disk: Arc<Mutex<Disk>>, mut waiting: mpsc::UnboundedReceiver<Flushed>) {
    while let Some(first) = waiting.recv().await {
        let mut all = vec![first];
        while let Ok(next) = waiting.try_recv() {
            all.push(next);
        }
        let (upto, time) = {
            let mut disk = disk.lock();
            (disk.writes.len(), disk.sync_time())
        };
        tokio::time::sleep(time).await;
        let failed = {
            let mut disk = disk.lock();
            disk.syncs += 1;
            if !disk.sync_fails {
                disk.synced = disk.synced.max(upto);
            }
            disk.sync_fails
        };
        for flushed in all {
            flushed.done(if failed {
                Err(io::Error::other("the simulated disk cannot sync"))
            } else {
                Ok(())
            });
        }
    }
}

impl LogBackend for SimulatedBackend {
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
        let known = self.known.lock();
        let mut budget = ByteBudget::new(bytes_max);
        let fitting = known
            .entries
            .range(range)
            .take_while(|(_, entry)| budget.take(entry_bytes(entry)));
        Ok(fitting.map(|(_, entry)| entry.clone()).collect())
    }

    fn append(&self, entries: Vec<Entry>, flushed: Flushed) -> io::Result<()> {
        self.write(entries.into_iter().map(Write::Entry).collect());
        self.sync(flushed)
    }

    fn save_vote(&self, vote: Vote, flushed: Flushed) -> io::Result<()> {
        self.write(vec![Write::Vote(vote)]);
        self.sync(flushed)
    }

    fn save_committed(&self, committed: LogId) -> io::Result<()> {
        self.write(vec![Write::Committed(committed)]);
        Ok(())
    }

    fn truncate_after(&self, last: Option<LogId>, flushed: Flushed) -> io::Result<()> {
        self.write(vec![Write::Truncate(last)]);
        self.sync(flushed)
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        self.write(vec![Write::Purge(upto)]);
        Ok(())
    }
}
