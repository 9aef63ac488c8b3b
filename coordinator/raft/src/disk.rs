//! Small files that must survive a crash: written beside their name, synced, renamed, and the directory synced.
//! Every step is a hook, so that tests can crash in between.

use holdfast_common::inject::{self, points};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The end of a file's name while it is being written.
pub(crate) const TEMPORARY: &str = ".tmp";

/// The steps of [`replace_file`], for tests that fail in one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    Create,
    Write,
    Sync,
    Rename,
    SyncDir,
}

/// Called before each step; an error stands for a crash or a full disk there.
pub(crate) trait Faults: Send + Sync {
    fn before(&self, step: Step) -> io::Result<()>;
}

/// Nothing fails but what really fails.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NoFaults;

impl Faults for NoFaults {
    fn before(&self, _step: Step) -> io::Result<()> {
        Ok(())
    }
}

/// The crash points of a snapshot's file.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CrashPoints;

impl Faults for CrashPoints {
    fn before(&self, step: Step) -> io::Result<()> {
        match step {
            Step::Rename => inject::point(points::RAFT_SNAPSHOT_WRITTEN),
            Step::SyncDir => inject::point(points::RAFT_SNAPSHOT_RENAMED),
            Step::Create | Step::Write | Step::Sync => Ok(()),
        }
    }
}

/// A large file is synced after every so many bytes.
const SYNCED_BYTES: usize = 2 << 20;

/// Makes `path` hold `parts`, one after another: either all of it, durably, or what was there before.
pub(crate) fn replace_file(path: &Path, parts: &[&[u8]], faults: &dyn Faults) -> io::Result<()> {
    let temporary = temporary_of(path);
    faults.before(Step::Create)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)?;
    for part in parts {
        for (n, piece) in part.chunks(SYNCED_BYTES).enumerate() {
            if n > 0 {
                // What a sync of the log has to wait for behind this file stays short.
                file.sync_data()?;
            }
            faults.before(Step::Write)?;
            file.write_all(piece)?;
        }
    }
    faults.before(Step::Sync)?;
    file.sync_all()?;
    drop(file);
    faults.before(Step::Rename)?;
    std::fs::rename(&temporary, path)?;
    faults.before(Step::SyncDir)?;
    sync_parent(path)
}

/// Makes the entry of `path` in its directory durable.
pub(crate) fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// Creates a directory and makes its existence durable.
pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    std::fs::create_dir_all(path)?;
    sync_parent(path)
}

fn temporary_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(TEMPORARY);
    PathBuf::from(name)
}
