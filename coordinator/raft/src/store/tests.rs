//! One suite for all log stores: openraft's conformance cases, restarts, and a matrix of crashes and damage.
#![allow(clippy::unwrap_used)]

use super::{Bounds, LogBackend, LogStore, open};
use crate::api::LogStoreKind;
use crate::disk::NoFaults;
use crate::fsm::StateMachine;
use crate::snapshots::SnapshotDir;
use crate::types::{Entry, LeaderId, LogCommand, LogId, Membership, NodeInfo, Payload, TypeConfig, Vote};
use openraft::StorageError;
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::log::{StoreBuilder, Suite};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::mpsc::channel;
use tempfile::TempDir;

pub(super) const KINDS: &[LogStoreKind] = &[
    LogStoreKind::RaftLog,
    #[cfg(feature = "rocksdb")]
    LogStoreKind::RocksDb,
    #[cfg(feature = "sled")]
    LogStoreKind::Sled,
];

struct Builder(LogStoreKind);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["log", "snapshots"] {
            std::fs::create_dir(dir.path().join(sub)).unwrap();
        }
        let log = open(self.0, &dir.path().join("log")).unwrap();
        let snapshots = SnapshotDir::open(&dir.path().join("snapshots"), "test", Box::new(NoFaults)).unwrap();
        Ok((dir, log, StateMachine::new(1, snapshots, 1000)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openrafts_conformance_suite_passes() {
    for kind in KINDS {
        Suite::test_all(Builder(*kind))
            .await
            .unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
}

pub(super) fn id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId { term, node_id: 1 }, index)
}

pub(super) fn vote(term: u64) -> Vote {
    Vote {
        leader_id: LeaderId { term, node_id: 1 },
        committed: true,
    }
}

pub(super) fn entry(term: u64, index: u64) -> Entry {
    let payload = match index % 5 {
        0 => Payload::Blank,
        1 => {
            let nodes: BTreeMap<u64, NodeInfo> = [(
                1,
                NodeInfo {
                    rpc: "a:1".into(),
                    ..NodeInfo::default()
                },
            )]
            .into();
            Payload::Membership(Membership::new(vec![BTreeSet::from([1])], nodes).unwrap())
        }
        n => Payload::Normal(LogCommand(vec![n as u8; 10 * n as usize].into())),
    };
    Entry {
        log_id: id(term, index),
        payload,
    }
}

async fn append(store: &mut LogStore, term: u64, range: std::ops::Range<u64>) {
    store
        .blocking_append(range.map(|index| entry(term, index)))
        .await
        .unwrap();
}

/// Everything that a store holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content {
    pub(super) bounds: Bounds,
    pub(super) vote: Option<Vote>,
    pub(super) committed: Option<LogId>,
    pub(super) entries: Vec<Entry>,
}

pub(super) async fn content(store: &mut LogStore) -> Content {
    Content {
        bounds: store.bounds().unwrap(),
        vote: store.read_vote().await.unwrap(),
        committed: store.read_committed().await.unwrap(),
        entries: store.try_get_log_entries(..).await.unwrap(),
    }
}

/// Votes, appends, a truncation, a purge: something of everything.
async fn history(store: &mut LogStore) {
    store.save_vote(&vote(1)).await.unwrap();
    append(store, 1, 0..12).await;
    store.save_committed(Some(id(1, 5))).await.unwrap();
    store.truncate_after(Some(id(1, 8))).await.unwrap();
    store.save_vote(&vote(2)).await.unwrap();
    append(store, 2, 9..15).await;
    store.save_committed(Some(id(2, 11))).await.unwrap();
    store.purge(id(1, 3)).await.unwrap();
    append(store, 2, 15..16).await;
}

#[tokio::test]
async fn a_restart_finds_what_was_written() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(*kind, dir.path()).unwrap();
        history(&mut store).await;
        let before = content(&mut store).await;
        assert_eq!(
            before.bounds,
            Bounds {
                purged: Some(id(1, 3)),
                last: Some(id(2, 15))
            }
        );
        assert_eq!((before.vote, before.committed), (Some(vote(2)), Some(id(2, 11))));
        drop(store);
        for _ in 0..3 {
            let mut again = open(*kind, dir.path()).unwrap();
            assert_eq!(content(&mut again).await, before, "{kind}");
        }
        // And goes on from there, also after everything was purged beyond the end, as a snapshot does.
        let mut store = open(*kind, dir.path()).unwrap();
        store.purge(id(3, 40)).await.unwrap();
        append(&mut store, 3, 41..43).await;
        let before = content(&mut store).await;
        drop(store);
        let mut again = open(*kind, dir.path()).unwrap();
        assert_eq!(content(&mut again).await, before, "{kind}");
        assert_eq!(
            before.bounds,
            Bounds {
                purged: Some(id(3, 40)),
                last: Some(id(3, 42))
            }
        );
        assert_eq!(before.entries.len(), 2);
    }
}

#[tokio::test]
async fn reads_are_bounded_by_bytes_and_make_progress() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let store = open(*kind, dir.path()).unwrap();
        append(&mut store.clone(), 1, 0..100).await;
        let read = store.backend.read(10..90, 1).unwrap();
        assert_eq!(read, vec![entry(1, 10)], "{kind}");
        let read = store.backend.read(10..90, 1200).unwrap();
        assert!(read.len() > 1 && read.len() < 80, "{kind}");
    }
}

/// Writes synchronously; each call is acknowledged before the next one.
fn acknowledged(backend: &dyn LogBackend, write: impl FnOnce(&dyn LogBackend, super::Flushed)) {
    let (tx, rx) = channel();
    write(
        backend,
        super::Flushed::new(move |result| tx.send(result).unwrap()),
    );
    rx.recv().unwrap().unwrap();
}

fn wal_files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "wal") && p.metadata().unwrap().len() > 0)
        .collect();
    files.sort();
    files
}

fn copy_dir(from: &Path) -> TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap().path();
        if file.is_dir() {
            continue;
        }
        std::fs::copy(&file, to.path().join(file.file_name().unwrap())).unwrap();
    }
    to
}

/// A log with some history, its last file, and the content after each acknowledged write with the file's length then.
async fn recorded() -> (TempDir, std::path::PathBuf, Vec<(u64, Content)>) {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(LogStoreKind::RaftLog, dir.path()).unwrap();
    let mut marks = Vec::new();
    for step in 0..5_u64 {
        if step % 2 == 0 {
            store.save_vote(&vote(step + 1)).await.unwrap();
        }
        let next = openraft::LogIdOptionExt::next_index(&store.bounds().unwrap().last);
        acknowledged(&*store.backend, |b, done| {
            b.append(vec![entry(1, next), entry(1, next + 1)], done).unwrap()
        });
        let path = wal_files(dir.path()).pop().unwrap();
        marks.push((path.metadata().unwrap().len(), content(&mut store).await));
    }
    drop(store);
    let path = wal_files(dir.path()).pop().unwrap();
    (dir, path, marks)
}

/// The file is cut at every byte, as a crash in the middle of a write leaves it: what was acknowledged by then is
/// there, and nothing else than a prefix of what was written.
#[tokio::test]
async fn a_write_cut_anywhere_loses_nothing_acknowledged() {
    let (dir, path, marks) = recorded().await;
    let whole = std::fs::read(&path).unwrap();
    let start = marks[0].0;
    for cut in start..whole.len() as u64 {
        let copy = copy_dir(dir.path());
        let file = copy.path().join(path.file_name().unwrap());
        std::fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(cut)
            .unwrap();
        let mut store = open(LogStoreKind::RaftLog, copy.path()).unwrap();
        let found = content(&mut store).await;
        let (_, acked) = marks.iter().rev().find(|(length, _)| *length <= cut).unwrap();
        let (_, all) = marks.last().unwrap();
        assert!(found.vote >= acked.vote, "cut at {cut}");
        assert!(found.entries.len() >= acked.entries.len(), "cut at {cut}");
        assert_eq!(
            found.entries[..],
            all.entries[..found.entries.len()],
            "cut at {cut}"
        );
        // And it can be written to again (not after each cut: a sync takes its time).
        let next = found.entries.len() as u64;
        if cut % 16 == 0 {
            append(&mut store, 9, next..next + 1).await;
        }
    }
}

/// Blocks that were allocated and never written read as zeros after a crash.
#[tokio::test]
async fn zeros_behind_the_end_are_dropped() {
    let (dir, path, marks) = recorded().await;
    let copy = copy_dir(dir.path());
    let file = copy.path().join(path.file_name().unwrap());
    let length = file.metadata().unwrap().len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(length + 4096)
        .unwrap();
    let mut store = open(LogStoreKind::RaftLog, copy.path()).unwrap();
    assert_eq!(content(&mut store).await, marks.last().unwrap().1);
}

/// Every bit of the file is flipped in turn: the log refuses to open, or nothing is lost. It never opens with less.
#[tokio::test]
async fn a_flipped_bit_is_never_taken_for_a_crash() {
    let (dir, path, marks) = recorded().await;
    let whole = std::fs::read(&path).unwrap();
    let (_, all) = marks.last().unwrap();
    let copy = copy_dir(dir.path());
    let pristine: Vec<_> = wal_files(dir.path())
        .into_iter()
        .map(|p| (p.file_name().unwrap().to_owned(), std::fs::read(&p).unwrap()))
        .collect();
    let mut refused = 0;
    for bit in 0..whole.len() * 8 {
        // One of eight bits per byte, another one each time, keeps the test short.
        if bit % 8 != (bit / 8) % 8 {
            continue;
        }
        for old in wal_files(copy.path()) {
            std::fs::remove_file(old).unwrap();
        }
        for (name, bytes) in &pristine {
            std::fs::write(copy.path().join(name), bytes).unwrap();
        }
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(copy.path().join(path.file_name().unwrap()), bad).unwrap();
        match open(LogStoreKind::RaftLog, copy.path()) {
            Err(_) => refused += 1,
            Ok(mut store) => assert_eq!(
                &content(&mut store).await,
                all,
                "bit {bit} of {}",
                whole.len() * 8
            ),
        }
    }
    assert!(
        refused > whole.len() * 9 / 10,
        "{refused} of {} flipped bytes",
        whole.len()
    );
}

/// What was never synced is lost: the acknowledged part is whole, the rest may go.
#[tokio::test]
async fn an_unsynced_tail_may_be_lost() {
    for (length, acked) in recorded().await.2 {
        assert!(length > 0 && acked.bounds.last.is_some());
    }
    let (dir, path, marks) = recorded().await;
    for (length, acked) in &marks {
        let copy = copy_dir(dir.path());
        let file = copy.path().join(path.file_name().unwrap());
        std::fs::OpenOptions::new()
            .write(true)
            .open(&file)
            .unwrap()
            .set_len(*length)
            .unwrap();
        let mut store = open(LogStoreKind::RaftLog, copy.path()).unwrap();
        assert_eq!(&content(&mut store).await, acked);
    }
}

/// Damage in a file that is not the last one is never a crash's.
#[tokio::test]
async fn a_hole_between_two_files_is_damage() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = open(LogStoreKind::RaftLog, dir.path()).unwrap();
    // More than one file holds.
    let large = |index| Entry {
        log_id: id(1, index),
        payload: Payload::Normal(LogCommand(vec![7; 1 << 20].into())),
    };
    store.blocking_append((0..20).map(large)).await.unwrap();
    drop(store);
    let files = wal_files(dir.path());
    assert!(files.len() > 1);
    let path = &files[0];
    let length = path.metadata().unwrap().len();
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .unwrap()
        .set_len(length - 3)
        .unwrap();
    assert!(open(LogStoreKind::RaftLog, dir.path()).is_err());
}

#[test]
fn a_store_that_is_not_built_in_says_so() {
    let dir = tempfile::tempdir().unwrap();
    if cfg!(not(feature = "rocksdb")) {
        let error = open(LogStoreKind::RocksDb, dir.path()).err().unwrap().to_string();
        assert!(error.contains("--features rocksdb"), "{error}");
    }
}

#[test]
fn a_callback_is_called_once_even_if_its_writer_drops_it() {
    let (tx, rx) = channel();
    let again = tx.clone();
    super::Flushed::new(move |result| tx.send(result.is_ok()).unwrap()).done(Ok(()));
    drop(super::Flushed::new(move |result| {
        again.send(result.is_ok()).unwrap()
    }));
    assert_eq!(rx.iter().collect::<Vec<_>>(), [true, false]);
}

/// An orderly end writes and syncs what is queued: nobody is told of a failure.
#[tokio::test]
async fn closing_a_store_fails_nothing_that_is_queued() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let store = open(*kind, dir.path()).unwrap();
        let (tx, rx) = channel();
        for index in 0..20 {
            let tx = tx.clone();
            let flushed = super::Flushed::new(move |result| tx.send(result.is_ok()).unwrap());
            store.backend.append(vec![entry(1, index)], flushed).unwrap();
        }
        drop((store, tx));
        assert_eq!(rx.iter().collect::<Vec<_>>(), [true; 20], "{kind}");
    }
}

/// What follows a truncation may be a snapshot, which is no write to the log.
#[tokio::test]
async fn a_truncation_is_on_disk_when_it_returns() {
    for kind in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let mut store = open(*kind, dir.path()).unwrap();
        append(&mut store, 1, 0..12).await;
        store.truncate_after(Some(id(1, 8))).await.unwrap();
        let copy = copy_dir(dir.path());
        let found = open(*kind, copy.path()).unwrap().bounds().unwrap();
        assert_eq!(found.last, Some(id(1, 8)), "{kind}");
    }
}
