//! The default log store: the `raft-log` crate, a chunked write-ahead log with one fdatasync for many writers.
//!
//! Every field that we encode begins with a tag of its own and carries a checksum of its length, so that a flipped bit
//! shows as damage. Without them a damaged length would look like the incomplete record that a crash leaves at the
//! end, and `raft-log` would drop it together with everything behind it.

use super::{Attempts, Bounds, ByteBudget, Flushed, LogBackend, entry_bytes};
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

/// How long the writer waits for company before it syncs. Zero would turn batching off.
const FLUSH_BATCH_WAIT: Duration = Duration::from_micros(20);
/// A chunk is deleted as a whole once all of it is purged; the open one stays in memory.
/// Small in tests, so that they see many.
const CHUNK_BYTES: usize = if cfg!(test) { 64 << 10 } else { 16 << 20 };
const CACHE_BYTES: usize = 64 << 20;
const CACHE_ITEMS: usize = 100_000;
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
pub(super) struct RaftLogBackend {
    log: Mutex<RaftLog<Types>>,
    attempts: Attempts,
}

impl RaftLogBackend {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let path = dir.to_str().ok_or_else(|| {
            let text = format!("the path {} is not UTF-8, which raft-log needs", dir.display());
            io::Error::new(io::ErrorKind::InvalidInput, text)
        })?;
        let mut config = Config::new(path);
        config.wal.flush_batch_wait = Some(FLUSH_BATCH_WAIT);
        config.wal.chunk_max_size = Some(CHUNK_BYTES);
        config.wal.read_buffer_size = Some(READ_BUFFER_BYTES);
        config.log_cache_capacity = Some(CACHE_BYTES);
        config.log_cache_max_items = Some(CACHE_ITEMS);
        Ok(Self {
            log: Mutex::new(open_log(&Arc::new(config), dir)?),
            attempts: Attempts::default(),
        })
    }

    /// Some of a write happens on this thread: a new file, a closed one. `raft-log` would go on after a failure there.
    fn write(&self, act: impl FnOnce(&mut RaftLog<Types>) -> io::Result<()>) -> io::Result<()> {
        let mut log = self.log.lock();
        self.attempts.attempt(|| act(&mut log))
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
        let log = self.log.lock();
        let state = log.log_state();
        Ok(Bounds {
            purged: state.purged().map(|id| id.0),
            last: state.last().map(|id| id.0),
        })
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        Ok(self.log.lock().log_state().vote().map(|vote| vote.0))
    }

    fn committed(&self) -> io::Result<Option<LogId>> {
        Ok(self.log.lock().log_state().committed().map(|id| id.0))
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        let log = self.log.lock();
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
    }

    fn append(&self, entries: Vec<Entry>, flushed: Flushed) -> io::Result<()> {
        let entries = entries
            .into_iter()
            .map(|e| (DiskLogId(e.log_id), DiskPayload(e.payload)));
        self.write(|log| {
            log.append(entries)?;
            log.flush(sync_appended(), Some(flushed))
        })
    }

    fn save_vote(&self, vote: Vote, flushed: Flushed) -> io::Result<()> {
        self.write(|log| {
            log.save_vote(DiskVote(vote))?;
            log.flush(true, Some(flushed))
        })
    }

    fn save_committed(&self, committed: LogId) -> io::Result<()> {
        // It goes to the disk together with the next write: nobody waits for it, and a write of its own, with its
        // wake-up of the writer, would stand before the entries that somebody does wait for.
        self.write(|log| log.commit(DiskLogId(committed)).map(drop))
    }

    fn truncate_after(&self, last: Option<LogId>, flushed: Flushed) -> io::Result<()> {
        self.write(|log| {
            log.truncate(last.next_index())?;
            log.flush(true, Some(flushed))
        })
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        self.write(|log| {
            log.purge(DiskLogId(upto))?;
            // Only a synced purge deletes chunks; nobody waits for it.
            log.flush(sync_appended(), None)
        })
    }
}
