//! The default log store: the `raft-log` crate, a chunked write-ahead log. One fdatasync serves many writers, see
//! [`super::group`]: `raft-log` would gather them by waiting for a while before each sync, which a lone writer pays for.
//!
//! Every field that we encode begins with a tag of its own and carries a checksum of its length, so that a flipped bit
//! shows as damage. Without them a damaged length would look like the incomplete record that a crash leaves at the
//! end, and `raft-log` would drop it together with everything behind it.

use super::group::Group;
use super::{Attempts, Bounds, ByteBudget, Flushed, LogBackend, WRITER_GONE, entry_bytes};
use crate::codec::{payload_from, payload_to};
use crate::types::{Entry, LeaderId, LogId, Payload, Vote};
use codeq::{Decode, Encode};
use holdfast_common::inject::{self, bugs};
use openraft::LogIdOptionExt;
use parking_lot::Mutex;
use prost::Message;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::{Config, RaftLog};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// `raft-log` would hold a writer up for as long as this much waits for its thread, and that thread asks for the next sync
/// itself. So it is never reached: [`Group`] holds writers up long before.
const QUEUE_BYTES_MAX: usize = 1 << 40;
/// A chunk is deleted as a whole once all of it is purged; the open one stays in memory.
/// Small in tests, so that they see many.
const CHUNK_BYTES: usize = if cfg!(test) { 64 << 10 } else { 16 << 20 };
const CACHE_BYTES: usize = 64 << 20;
/// A purge lets go of those that it covers one by one, while consensus waits: there must not be many.
const CACHE_ITEMS: usize = 16_384;
const READ_BUFFER_BYTES: usize = 1 << 20;

const TAG_LOG_ID: u8 = 0x4c;
const TAG_VOTE: u8 = 0x56;
const TAG_PAYLOAD: u8 = 0x50;

/// The parameters of `raft-log`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Types;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct DiskLogId(LogId);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
struct DiskVote(Vote);

#[derive(Debug, Clone)]
struct DiskPayload(Payload);

impl raft_log::Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        self.done(result);
    }
}

impl raft_log::Types for Types {
    type LogId = DiskLogId;
    type LogPayload = DiskPayload;
    type Vote = DiskVote;
    type Callback = Flushed;
    type UserData = u64;

    fn log_index(log_id: &DiskLogId) -> u64 {
        log_id.0.index()
    }

    fn payload_size(payload: &DiskPayload) -> u64 {
        match &payload.0 {
            Payload::Normal(command) => command.0.len() as u64,
            Payload::Blank | Payload::Membership(_) => 64,
        }
    }
}

fn write_numbers(mut w: impl Write, tag: u8, numbers: &[u64]) -> io::Result<usize> {
    w.write_all(&[tag])?;
    for number in numbers {
        w.write_all(&number.to_be_bytes())?;
    }
    Ok(1 + numbers.len() * 8)
}

fn read_tag(mut r: impl Read, tag: u8) -> io::Result<()> {
    let mut found = [0];
    r.read_exact(&mut found)?;
    if found[0] == tag {
        return Ok(());
    }
    Err(damaged(format!("tag {:#04x} where {tag:#04x} belongs", found[0])))
}

fn read_numbers<const N: usize>(mut r: impl Read, tag: u8) -> io::Result<[u64; N]> {
    read_tag(&mut r, tag)?;
    let mut numbers = [0; N];
    for number in &mut numbers {
        let mut bytes = [0; 8];
        r.read_exact(&mut bytes)?;
        *number = u64::from_be_bytes(bytes);
    }
    Ok(numbers)
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

impl Encode for DiskLogId {
    fn encode<W: Write>(&self, w: W) -> io::Result<usize> {
        let leader = self.0.committed_leader_id();
        write_numbers(w, TAG_LOG_ID, &[leader.term, leader.node_id, self.0.index()])
    }
}

impl Decode for DiskLogId {
    fn decode<R: Read>(r: R) -> io::Result<Self> {
        let [term, node_id, index] = read_numbers(r, TAG_LOG_ID)?;
        Ok(Self(LogId::new(LeaderId { term, node_id }, index)))
    }
}

impl Encode for DiskVote {
    fn encode<W: Write>(&self, w: W) -> io::Result<usize> {
        let leader = self.0.leader_id;
        write_numbers(
            w,
            TAG_VOTE,
            &[leader.term, leader.node_id, u64::from(self.0.committed)],
        )
    }
}

impl Decode for DiskVote {
    fn decode<R: Read>(r: R) -> io::Result<Self> {
        let [term, node_id, committed] = read_numbers(r, TAG_VOTE)?;
        if committed > 1 {
            return Err(damaged(format!("vote with flag {committed}")));
        }
        Ok(Self(Vote {
            leader_id: LeaderId { term, node_id },
            committed: committed == 1,
        }))
    }
}

impl Encode for DiskPayload {
    fn encode<W: Write>(&self, mut w: W) -> io::Result<usize> {
        let body = payload_to(&self.0).encode_to_vec();
        let length = u32::try_from(body.len())
            .map_err(|_| damaged("entry over 4 GiB".to_owned()))?
            .to_be_bytes();
        w.write_all(&[TAG_PAYLOAD])?;
        w.write_all(&length)?;
        w.write_all(&crc32c::crc32c(&length).to_be_bytes())?;
        w.write_all(&body)?;
        Ok(1 + 4 + 4 + body.len())
    }
}

impl Decode for DiskPayload {
    fn decode<R: Read>(mut r: R) -> io::Result<Self> {
        read_tag(&mut r, TAG_PAYLOAD)?;
        let (mut length, mut crc) = ([0; 4], [0; 4]);
        r.read_exact(&mut length)?;
        r.read_exact(&mut crc)?;
        if crc32c::crc32c(&length) != u32::from_be_bytes(crc) {
            return Err(damaged(
                "the checksum of an entry's length does not hold".to_owned(),
            ));
        }
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        r.read_exact(&mut body)?;
        let wire =
            holdfast_proto::raft::Payload::decode(body.as_slice()).map_err(|e| damaged(e.to_string()))?;
        Ok(Self(payload_from(wire).map_err(|e| damaged(e.to_string()))?))
    }
}

/// The log in one directory.
pub(super) struct RaftLogBackend(Arc<Shared>);

struct Shared {
    /// `None` once it is being closed.
    log: Mutex<Option<RaftLog<Types>>>,
    /// Never held while something is asked of the log.
    group: Group,
    attempts: Attempts,
}

impl RaftLogBackend {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.to_str().ok_or_else(|| {
            let text = format!("the path {} is not UTF-8, which raft-log needs", dir.display());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let mut config = Config::new(path);
        config.wal.flush_batch_wait = Some(Duration::ZERO);
        config.wal.flush_queue_max_bytes = Some(QUEUE_BYTES_MAX);
        config.wal.chunk_max_size = Some(CHUNK_BYTES);
        config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
        config.log_cache_capacity = Some(CACHE_BYTES);
        config.log_cache_max_items = Some(CACHE_ITEMS);
        Ok(Self(Arc::new(Shared {
            log: Mutex::new(Some(open_log(&Arc::new(config), dir)?)),
            group: Group::default(),
            attempts: Attempts::default(),
        })))
    }
}

impl Drop for RaftLogBackend {
    fn drop(&mut self) {
        // Whoever waits is told first: nothing of that comes after the close.
        while self.0.group.is_busy() {
            self.0.sync_if_due();
            self.0.group.wait_for_end();
        }
        // Closing waits for the writer's thread, which must not be the one that closes.
        let log = self.0.log.lock().take();
        drop(log);
    }
}

impl Shared {
    /// Does something with the log, begins a sync that it asked for, and afterwards what others asked for meanwhile.
    fn with<T>(self: &Arc<Self>, act: impl FnOnce(&mut RaftLog<Types>) -> io::Result<T>) -> io::Result<T> {
        let result = {
            let mut log = self.log.lock();
            let result = match log.as_mut() {
                Some(log) => act(log),
                None => Err(io::Error::other(WRITER_GONE)),
            };
            self.begin_sync(log.as_mut());
            result
        };
        self.sync_if_due();
        result
    }

    /// Writes. Some of that happens on this thread: a new file, a closed one. `raft-log` would go on after a failure
    /// there.
    fn write(
        self: &Arc<Self>,
        flushed: Option<Flushed>,
        sync: bool,
        bytes: usize,
        act: impl FnOnce(&mut RaftLog<Types>) -> io::Result<()>,
    ) -> io::Result<()> {
        self.group.wait_for_room();
        self.with(|log| {
            self.attempts.attempt(|| act(log))?;
            self.group.ask(flushed, sync, bytes);
            Ok(())
        })
    }

    /// Begins a sync if one is due and the log is free. If it is not, whoever uses it does this afterwards: nobody waits
    /// for it here, on the writer's thread least of all, for which others may be waiting.
    fn sync_if_due(self: &Arc<Self>) {
        while self.group.is_due() {
            let Some(mut log) = self.log.try_lock() else {
                return;
            };
            self.begin_sync(log.as_mut());
        }
    }

    fn begin_sync(self: &Arc<Self>, log: Option<&mut RaftLog<Types>>) {
        let Some(batch) = self.group.begin() else { return };
        let Some(log) = log else {
            return self.group.ended();
        };
        let sync = batch.sync;
        let shared = Arc::downgrade(self);
        let flushed = Flushed::new(move |result| {
            batch.tell(&result);
            if let Some(shared) = shared.upgrade() {
                shared.group.ended();
                shared.sync_if_due();
            }
        });
        // A failure is told to all that wait, when the callback is dropped.
        let _ = self.attempts.attempt(|| log.flush(sync, Some(flushed)));
    }
}

fn open_log(config: &Arc<Config>, dir: &Path) -> io::Result<RaftLog<Types>> {
    loop {
        match RaftLog::open(Arc::clone(config)) {
            Err(_) if inject::bug(bugs::LOST_TAIL_ACCEPTED) && shorten(dir)? => {}
            opened => return opened,
        }
    }
}

/// What the seeded bug [`bugs::LOST_TAIL_ACCEPTED`] does to a damaged log: cuts an eighth off its last file. False if
/// there is nothing to cut.
fn shorten(dir: &Path) -> io::Result<bool> {
    let mut newest = None;
    for file in std::fs::read_dir(dir)? {
        let file = file?;
        let is_log = file.path().extension().is_some_and(|e| e == "wal");
        if is_log && file.metadata()?.len() > 0 {
            newest = newest.max(Some(file.path()));
        }
    }
    let Some(newest) = newest else { return Ok(false) };
    let file = std::fs::OpenOptions::new().write(true).open(newest)?;
    let length = file.metadata()?.len();
    file.set_len(length - length.div_ceil(8))?;
    Ok(true)
}

/// Whether appended entries are synced: always, but for a seeded bug.
fn sync_appended() -> bool {
    !inject::bug(bugs::ACK_BEFORE_FSYNC)
}

impl LogBackend for RaftLogBackend {
    fn bounds(&self) -> io::Result<Bounds> {
        self.0.with(|log| {
            let state = log.log_state();
            Ok(Bounds {
                purged: state.purged().map(|id| id.0),
                last: state.last().map(|id| id.0),
            })
        })
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        self.0.with(|log| Ok(log.log_state().vote().map(|vote| vote.0)))
    }

    fn committed(&self) -> io::Result<Option<LogId>> {
        self.0.with(|log| Ok(log.log_state().committed().map(|id| id.0)))
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.0.with(|log| {
            let mut budget = ByteBudget::new(bytes_max);
            let mut entries = Vec::new();
            for read in log.read(range.start, range.end) {
                let (id, payload) = read?;
                let entry = Entry {
                    log_id: id.0,
                    payload: payload.0,
                };
                if !budget.take(entry_bytes(&entry)) {
                    break;
                }
                entries.push(entry);
            }
            Ok(entries)
        })
    }

    fn append(&self, entries: Vec<Entry>, flushed: Flushed) -> io::Result<()> {
        let bytes = entries.iter().map(entry_bytes).sum();
        let entries = entries
            .into_iter()
            .map(|e| (DiskLogId(e.log_id), DiskPayload(e.payload)));
        self.0.write(Some(flushed), sync_appended(), bytes, |log| {
            log.append(entries).map(drop)
        })
    }

    fn save_vote(&self, vote: Vote, flushed: Flushed) -> io::Result<()> {
        self.0.write(Some(flushed), true, 0, |log| {
            log.save_vote(DiskVote(vote)).map(drop)
        })
    }

    fn save_committed(&self, committed: LogId) -> io::Result<()> {
        // It goes to the disk together with the next write: nobody waits for it, and a write of its own, with its
        // wake-up of the writer, would stand before the entries that somebody does wait for.
        self.0.with(|log| {
            self.0
                .attempts
                .attempt(|| log.commit(DiskLogId(committed)).map(drop))
        })
    }

    fn truncate_after(&self, last: Option<LogId>, flushed: Flushed) -> io::Result<()> {
        self.0.write(Some(flushed), true, 0, |log| {
            log.truncate(last.next_index()).map(drop)
        })
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        // Only a synced purge deletes chunks; nobody waits for it.
        self.0.write(None, sync_appended(), 0, |log| {
            log.purge(DiskLogId(upto)).map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::tests::id;
    use crate::types::LogCommand;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::mpsc::channel;
    use std::time::Instant;

    const ENTRY_BYTES: usize = 1 << 20;
    const ENTRIES: u64 = 70;
    const DEADLINE: Duration = Duration::from_secs(60);

    fn large(index: u64) -> Entry {
        Entry {
            log_id: id(1, index),
            payload: Payload::Normal(LogCommand(vec![index as u8; ENTRY_BYTES].into())),
        }
    }

    /// The disk stands still from the first entry's sync on: 64 MiB may wait for it, and whoever comes then is held up.
    /// When it goes on, all is there in its order, and everybody is told once.
    #[test]
    fn a_disk_that_stands_still_holds_writers_up_and_loses_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let backend = Arc::new(RaftLogBackend::open(dir.path()).unwrap());
        let (told, who_was_told) = channel();
        let (go_on, stands_still) = channel();
        let (synced, first_synced) = channel();
        // On the writer's own thread: nothing is written or synced while it waits here.
        let first = Flushed::new(move |result| {
            synced.send(result.is_ok()).unwrap();
            stands_still.recv().unwrap();
        });
        backend.append(vec![large(0)], first).unwrap();
        assert!(first_synced.recv_timeout(DEADLINE).unwrap());

        let appended = Arc::new(AtomicU64::new(0));
        let writer = {
            let (backend, appended) = (Arc::clone(&backend), Arc::clone(&appended));
            std::thread::spawn(move || {
                for index in 1..ENTRIES {
                    let told = told.clone();
                    let flushed = Flushed::new(move |result| told.send((index, result.is_ok())).unwrap());
                    backend.append(vec![large(index)], flushed).unwrap();
                    appended.fetch_add(1, Ordering::SeqCst);
                }
            })
        };
        let until = Instant::now() + DEADLINE;
        while !backend.0.group.is_full() {
            assert!(
                Instant::now() < until && !writer.is_finished(),
                "nothing held it up"
            );
            std::thread::yield_now();
        }
        // 64 entries and their frames are 64 MiB. The log is read while the next one waits.
        assert_eq!(backend.bounds().unwrap().last.next_index(), 64);
        assert!(appended.load(Ordering::SeqCst) < 64 && who_was_told.try_recv().is_err());

        go_on.send(()).unwrap();
        writer.join().unwrap();
        for index in 1..ENTRIES {
            assert_eq!(who_was_told.recv_timeout(DEADLINE).unwrap(), (index, true));
        }
        drop(backend);
        let again = RaftLogBackend::open(dir.path()).unwrap();
        let entries = again.read(0..ENTRIES, usize::MAX).unwrap();
        assert!(entries.into_iter().eq((0..ENTRIES).map(large)));
    }
}
