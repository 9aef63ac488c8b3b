//! Measures one log store by itself, for `benches/log_stores.rs`: appends that wait for the disk, and opening again. And
//! what the disk itself takes, for files that grow and for files that were allocated beforehand.

use crate::api::LogStoreKind;
use crate::store::{Flushed, LogStore, open};
use crate::types::{Entry, LeaderId, LogCommand, LogId, Payload};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// One append may take this long.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is appended.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Entries per append.
    pub batch: u64,
    /// Bytes of each entry's command.
    pub entry_bytes: usize,
    /// Appends under way at the same time: 1 waits for each.
    pub in_flight: usize,
    /// Appends in all.
    pub appends: u64,
}

/// What came of it.
#[derive(Debug, Clone, Copy)]
pub struct Measured {
    /// Durable entries per second.
    pub entries_per_s: f64,
    /// From the append to its callback, median, in microseconds.
    pub p50_us: u64,
    /// The same, of the slowest hundredth.
    pub p99_us: u64,
    /// Closing and opening again with all entries verified, in milliseconds.
    pub reopen_ms: f64,
    /// Size of the directory afterwards.
    pub bytes_on_disk: u64,
}

/// Runs a load on a new log in `dir`, which is empty.
///
/// # Errors
/// If the store cannot be opened, is not built in, or fails.
pub fn measure(kind: LogStoreKind, dir: &Path, load: Load) -> io::Result<Measured> {
    let store = open(kind, dir).map_err(io::Error::other)?;
    let mut times = Vec::new();
    let mut waiting: VecDeque<Receiver<io::Result<Duration>>> = VecDeque::new();
    let started = Instant::now();
    for n in 0..load.appends {
        if waiting.len() >= load.in_flight.max(1) {
            times.extend(next(&mut waiting)?);
        }
        waiting.push_back(append(&store, n * load.batch, load)?);
    }
    while !waiting.is_empty() {
        times.extend(next(&mut waiting)?);
    }
    let elapsed = started.elapsed();
    drop(store);
    let (reopen_ms, entries) = reopen(kind, dir)?;
    if entries != load.appends * load.batch {
        return Err(io::Error::other(format!("{kind} holds {entries} entries")));
    }
    times.sort_unstable();
    let at = |hundredth: usize| {
        let index = (times.len() * hundredth / 100).min(times.len().saturating_sub(1));
        times
            .get(index)
            .map_or(0, |time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX))
    };
    Ok(Measured {
        entries_per_s: (load.appends * load.batch) as f64 / elapsed.as_secs_f64(),
        p50_us: at(50),
        p99_us: at(99),
        reopen_ms,
        bytes_on_disk: size_of_dir(dir)?,
    })
}

fn append(store: &LogStore, first: u64, load: Load) -> io::Result<Receiver<io::Result<Duration>>> {
    let leader = LeaderId { term: 1, node_id: 1 };
    let body = prost::bytes::Bytes::from(vec![0x5a; load.entry_bytes]);
    let entries = (first..first + load.batch).map(|index| Entry {
        log_id: LogId::new(leader, index),
        payload: Payload::Normal(LogCommand(body.clone())),
    });
    let (sender, durable) = channel();
    let begun = Instant::now();
    let flushed = Flushed::new(move |result| drop(sender.send(result.map(|()| begun.elapsed()))));
    store.backend().append(entries.collect(), flushed)?;
    Ok(durable)
}

fn next(waiting: &mut VecDeque<Receiver<io::Result<Duration>>>) -> io::Result<Option<Duration>> {
    let Some(durable) = waiting.pop_front() else {
        return Ok(None);
    };
    durable
        .recv_timeout(DEADLINE)
        .map_err(|error| io::Error::other(format!("an append is not answered: {error}")))?
        .map(Some)
}

/// How long opening takes, and how many entries are there. sled lets go of its lock a moment after it is closed.
fn reopen(kind: LogStoreKind, dir: &Path) -> io::Result<(f64, u64)> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let started = Instant::now();
        match open(kind, dir) {
            Ok(store) => {
                let took = started.elapsed().as_secs_f64() * 1e3;
                let entries = openraft::LogIdOptionExt::next_index(&store.bounds()?.last);
                return Ok((took, entries));
            }
            Err(error) if Instant::now() > deadline => return Err(io::Error::other(error)),
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn size_of_dir(dir: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        // What is allocated, not what a sparse file pretends.
        bytes += if metadata.is_dir() {
            size_of_dir(&entry.path())?
        } else {
            metadata.blocks() * 512
        };
    }
    Ok(bytes)
}

/// Files that [`quorum_syncs`] writes: a leader's and its two followers'.
const FILES: usize = 3;
/// Bytes of one write there: an entry of 256 bytes with its frame.
const WRITTEN: usize = 300;

/// How long one disk takes for a commit of three coordinators that share it: three files are written at one moment and
/// synced, and the second one that is done counts. If `allocated`, the files have their length and their blocks
/// beforehand, so that a write changes data alone; else each write makes its file longer, which the file system's
/// journal has to note as well. One time per round, in rising order. `dir` is empty.
///
/// # Errors
/// If the disk fails.
pub fn quorum_syncs(dir: &Path, allocated: bool, rounds: usize) -> io::Result<Vec<Duration>> {
    std::thread::scope(|scope| {
        let mut writers = Vec::new();
        for number in 0..FILES {
            let file = File::create_new(dir.join(number.to_string()))?;
            if allocated {
                file.write_all_at(&vec![0; rounds * WRITTEN], 0)?;
            }
            file.sync_all()?;
            let ((go, wanted), (done, times)) = (channel(), channel());
            scope.spawn(move || syncs(&file, &wanted, &done));
            writers.push((go, times));
        }
        let gone = |_| io::Error::other("a writer has stopped");
        let mut quorum = Vec::with_capacity(rounds);
        for round in 0..rounds {
            for (go, _) in &writers {
                go.send(round)
                    .map_err(|_| io::Error::other("a writer has stopped"))?;
            }
            let times: io::Result<Vec<Duration>> = writers
                .iter()
                .map(|(_, times)| times.recv_timeout(DEADLINE).map_err(gone)?)
                .collect();
            let mut times = times?;
            times.sort_unstable();
            quorum.push(times[FILES / 2]);
        }
        quorum.sort_unstable();
        Ok(quorum)
    })
}

fn syncs(file: &File, wanted: &Receiver<usize>, done: &Sender<io::Result<Duration>>) {
    for round in wanted {
        let begun = Instant::now();
        let written = file
            .write_all_at(&[0x5a; WRITTEN], (round * WRITTEN) as u64)
            .and_then(|()| file.sync_data());
        if done.send(written.map(|()| begun.elapsed())).is_err() {
            return;
        }
    }
}
