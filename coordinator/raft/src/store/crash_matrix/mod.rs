//! The crash matrix: every log store, killed, torn, starved and failed at every operation on its disk. The process is
//! this test itself, started again under `jepsen/shim`. After each run the log is opened again: everything that was
//! acknowledged is there, nothing is there that was not written, and it takes writes.
#![allow(clippy::unwrap_used)]

mod harness;
mod script;

use super::open;
use super::tests::{Content, KINDS, content, entry};
use crate::api::LogStoreKind;
use harness::{Disk, Run, counted, hangs_on_errors, run};
use openraft::LogIdOptionExt;
use openraft::storage::RaftLogStorageExt;
use script::{Model, reopen, script};
use std::path::Path;
use tempfile::TempDir;

/// A row of the matrix: at each operation of a kind in turn, this happens.
struct Row {
    op: &'static str,
    action: &'static str,
}

const ROWS: &[Row] = &[
    Row {
        op: "write",
        action: "kill",
    },
    Row {
        op: "write",
        action: "torn",
    },
    Row {
        op: "fsync",
        action: "kill",
    },
    Row {
        op: "rename",
        action: "kill",
    },
    Row {
        op: "open",
        action: "kill",
    },
    Row {
        op: "write",
        action: "eio",
    },
    Row {
        op: "write",
        action: "enospc",
    },
    Row {
        op: "fsync",
        action: "eio",
    },
];

/// Rows of the disk that loses its power.
const POWER_ROWS: &[&str] = &["write", "fsync", "rename"];

/// More operations than any store makes.
const OPERATIONS_MAX: u64 = 2000;

/// Not a test of its own: the process that the others start.
#[test]
fn the_process_that_is_killed() {
    let var = |name| std::env::var_os(name);
    if let (Some(dir), Some(tell), Some(kind)) = (var(harness::DIR), var(harness::TELL), var(harness::KIND)) {
        let kind = kind.to_str().unwrap().parse().unwrap();
        script::run(kind, Path::new(&dir), Path::new(&tell));
    }
}

/// Opens the log and compares; then writes to it, and opens it once more.
async fn check(kind: LogStoreKind, dir: &Path, model: &Model, run: &Run) -> Result<(), String> {
    let told = &run.told;
    if run.hung && !hangs_on_errors(kind) {
        return Err("the process hangs".to_owned());
    }
    if let Some(broken) = &told.broken {
        return Err(format!("the process said: {broken}"));
    }
    let mut store = open(kind, dir).map_err(|error| format!("it does not open: {error}"))?;
    let found = content(&mut store).await;
    if !model.may_be_left(&found, told.durable, told.begun) {
        return Err(format!("it holds {}", show(&found)));
    }
    let next = found.bounds.last.next_index();
    store
        .blocking_append([entry(9, next)])
        .await
        .map_err(|error| format!("it takes no writes: {error}"))?;
    let expected = content(&mut store).await;
    drop(store);
    let mut again = reopen(kind, dir).map_err(|error| format!("it opens once: {error}"))?;
    let found = content(&mut again).await;
    if found != expected {
        return Err(format!("opened again it holds {}", show(&found)));
    }
    Ok(())
}

fn show(found: &Content) -> String {
    let indexes: Vec<_> = found
        .entries
        .iter()
        .map(|entry| entry.log_id.to_string())
        .collect();
    format!(
        "{:?}, vote {:?}, committed {:?}, entries {}",
        found.bounds,
        found.vote,
        found.committed,
        indexes.join(" ")
    )
}

/// A kill loses nothing that the kernel has: memory does as well as a disk, and is faster.
fn scratch() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| TempDir::new().unwrap())
}

/// Runs one row; what went wrong, and up to which operation there were runs.
async fn row(kind: LogStoreKind, row: &Row, model: &Model, wrong: &mut Vec<String>) -> u64 {
    // Waiting for one that hangs takes its time: a sample is enough.
    let may_hang = hangs_on_errors(kind) && matches!(row.action, "eio" | "enospc");
    let (mut hung, mut runs) = (0, 0);
    for nth in (1..OPERATIONS_MAX).step_by(if may_hang { 11 } else { 1 }) {
        let dir = scratch();
        let fault = format!("op={},nth={nth},action={}", row.op, row.action);
        let run = run(kind, dir.path(), &[("SHIM_FAULT", fault.clone())]);
        if run.fired.is_empty() {
            assert!(run.told.finished, "{kind} {fault}: {:?} {}", run.told, run.status);
            if hung > 0 {
                println!(
                    "{:>8} {:>6} {:>6} hung {hung} of {runs} times",
                    kind.to_string(),
                    row.action,
                    row.op
                );
            }
            return nth - 1;
        }
        runs += 1;
        hung += u32::from(run.hung);
        if let Err(what) = check(kind, dir.path(), model, &run).await {
            wrong.push(format!(
                "{kind} {fault} ({}): {what}; {:?}",
                run.fired.trim(),
                run.told
            ));
        }
    }
    panic!("{kind}: over {OPERATIONS_MAX} operations");
}

async fn matrix(kind: LogStoreKind) {
    let model = Model::of(&script());
    // Without a fault: the script is what the model says, and N is known.
    let dir = scratch();
    let clean = run(kind, dir.path(), &[]);
    assert!(
        clean.told.finished && clean.told.failed.is_none(),
        "{kind}: {:?}",
        clean.told
    );
    check(kind, dir.path(), &model, &clean).await.unwrap();
    let mut wrong = Vec::new();
    for r in ROWS {
        let runs = row(kind, r, &model, &mut wrong).await;
        println!(
            "{:>8} {:>6} {:>6} at each of {runs}",
            kind.to_string(),
            r.action,
            r.op
        );
        // The writer's batches differ a little from run to run.
        let expected = counted(&clean.counts, r.op);
        assert!(
            runs >= expected / 2,
            "{kind} {}: {runs} of {expected} fired",
            r.op
        );
    }
    full_disk(kind, &model, &mut wrong).await;
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

/// The disk is full after so many bytes, and stays so until the process has ended.
async fn full_disk(kind: LogStoreKind, model: &Model, wrong: &mut Vec<String>) {
    let limits = [
        0, 1, 40, 100, 333, 1000, 2000, 5000, 20_000, 40_001, 65_000, 100_000, 120_000,
    ];
    for bytes in limits {
        let dir = scratch();
        let run = run(kind, dir.path(), &[("SHIM_ENOSPC_AFTER", bytes.to_string())]);
        if run.fired.is_empty() {
            continue;
        }
        if let Err(what) = check(kind, dir.path(), model, &run).await {
            wrong.push(format!("{kind} full after {bytes} bytes: {what}; {:?}", run.told));
        }
    }
    println!("{:>8} full after each of {limits:?} bytes", kind.to_string());
}

#[tokio::test]
async fn raft_log_loses_nothing_that_it_acknowledged() {
    matrix(LogStoreKind::RaftLog).await;
}

#[cfg(feature = "sled")]
#[tokio::test]
async fn sled_loses_nothing_that_it_acknowledged() {
    matrix(LogStoreKind::Sled).await;
}

#[cfg(feature = "rocksdb")]
#[tokio::test]
async fn rocksdb_loses_nothing_that_it_acknowledged() {
    matrix(LogStoreKind::RocksDb).await;
}

/// What was never synced is gone: the page cache and the file system's journal with it.
#[tokio::test]
async fn a_loss_of_power_takes_nothing_that_was_acknowledged() {
    let disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => {
            println!("skipped, no disk can lose its power here: {why}");
            return;
        }
    };
    let model = Model::of(&script());
    let mut wrong = Vec::new();
    for (kind, op) in KINDS
        .iter()
        .flat_map(|kind| POWER_ROWS.iter().map(move |op| (*kind, *op)))
    {
        for nth in 1..OPERATIONS_MAX {
            let dir = disk.path().join(format!("{kind}-{op}-{nth}"));
            std::fs::create_dir(&dir).unwrap();
            std::fs::File::open(disk.path()).unwrap().sync_all().unwrap();
            let fault = format!("op={op},nth={nth},action=power");
            let run = run(kind, &dir, &[("SHIM_FAULT", fault.clone())]);
            if run.fired.is_empty() {
                println!("{:>8}  power {op:>6} at each of {}", kind.to_string(), nth - 1);
                break;
            }
            assert!(!run.fired.contains("could not be cut"), "{}", run.fired);
            disk.power_on();
            if let Err(what) = check(kind, &dir, &model, &run).await {
                wrong.push(format!(
                    "{kind} {fault} ({}): {what}; {:?}",
                    run.fired.trim(),
                    run.told
                ));
            }
            std::fs::remove_dir_all(&dir).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}

/// What a damaged log may answer.
#[derive(Debug, Default)]
struct Damage {
    harmless: u32,
    refused: u32,
    /// It opened with less than was acknowledged.
    lost: u32,
}

/// One byte is flipped at a time, in every file of a log that was closed in order. raft-log refuses or loses nothing.
/// The key-value stores may take damage at the end of their own write-ahead log for the end of a crashed write, since
/// their recovery cannot tell these apart: counted, and never with anything invented.
#[tokio::test]
async fn a_flipped_byte_is_refused_or_known_to_be_lost() {
    for kind in KINDS.iter().copied() {
        let model = Model::of(&script());
        let dir = scratch();
        let clean = run(kind, dir.path(), &[]);
        assert!(clean.told.finished, "{kind}: {:?}", clean.told);
        let steps = script().len();
        let mut damage = Damage::default();
        for (file, position) in positions(dir.path()) {
            let copy = scratch();
            copy_tree(dir.path(), copy.path());
            let path = copy.path().join(&file);
            let mut bytes = std::fs::read(&path).unwrap();
            bytes[position] ^= 0x10;
            std::fs::write(&path, bytes).unwrap();
            // A store that panics on damage does not start either.
            let opened = std::panic::catch_unwind(|| open(kind, copy.path()));
            let Ok(Ok(mut store)) = opened else {
                damage.refused += 1;
                continue;
            };
            let Ok(found) = content_or_error(&mut store).await else {
                damage.refused += 1;
                continue;
            };
            let place = format!("{kind}: byte {position} of {}", file.display());
            assert!(
                model.may_be_left(&found, 0, steps),
                "{place}: it holds {}",
                show(&found)
            );
            match &found == model.whole() {
                true => damage.harmless += 1,
                false => damage.lost += 1,
            }
        }
        println!("{:>8} flipped bytes: {damage:?}", kind.to_string());
        assert!(damage.refused > 0, "{kind}: {damage:?}");
        assert!(
            kind != LogStoreKind::RaftLog || damage.lost == 0,
            "{kind}: {damage:?}"
        );
    }
}

async fn content_or_error(store: &mut super::LogStore) -> std::io::Result<Content> {
    use openraft::storage::RaftLogReader;
    // The stores read entries when they are asked for them.
    store.try_get_log_entries(..).await?;
    Ok(content(store).await)
}

/// Bytes that are not zero, a few hundred of each file.
fn positions(dir: &Path) -> Vec<(std::path::PathBuf, usize)> {
    let mut positions = Vec::new();
    for file in files(dir) {
        let bytes = std::fs::read(&file).unwrap();
        let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let name = file.strip_prefix(dir).unwrap().to_owned();
        let step = used.len().div_ceil(200).max(1);
        positions.extend(used.into_iter().step_by(step).map(|at| (name.clone(), at)));
    }
    positions
}

fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => files.extend(self::files(&path)),
            false => files.push(path),
        }
    }
    files.sort();
    files
}

fn copy_tree(from: &Path, to: &Path) {
    for file in files(from) {
        let target = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(file, target).unwrap();
    }
}
