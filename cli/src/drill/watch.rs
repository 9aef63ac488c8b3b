//! Watches what a cluster writes: rows that tasks print into workers' logs, moments that processes stamp into their
//! logs, and the files that the job's sink commits.

use super::events::{self, Event};
use super::rows::{Committed, Emissions, printed};
use super::time::Timebase;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Between two looks at the logs: the precision of the output's silences.
const LOG_LOOK: Duration = Duration::from_millis(2);
/// Between two looks at the committed files.
const COMMIT_LOOK: Duration = Duration::from_millis(20);
/// Read from a log in one look.
const READ_BYTES_MAX: u64 = 4 << 20;

/// Everything that was seen.
#[derive(Debug)]
pub struct Seen {
    /// Rows that tasks emitted.
    pub emissions: Emissions,
    /// Stamped lines.
    pub events: Vec<Event>,
    /// Rows in committed files.
    pub committed: Committed,
    /// When rows became visible in committed files.
    pub commits: Vec<i64>,
}

/// A running watch; dropped, it ends.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    _tasks: JoinSet<()>,
}

impl Watch {
    /// Watches log files from their present ends on, and a sink's directory.
    #[must_use]
    pub fn start(logs: &[PathBuf], committed: &Path, splits: u64, time: Timebase) -> Self {
        let seen = Arc::new(Mutex::new(Seen {
            emissions: Emissions::default(),
            events: Vec::new(),
            committed: Committed::new(splits),
            commits: Vec::new(),
        }));
        let mut tasks = JoinSet::new();
        let tails = logs
            .iter()
            .enumerate()
            .map(|(process, path)| Tail::at_end(process, path));
        tasks.spawn(follow_logs(tails.collect(), Arc::clone(&seen), time));
        tasks.spawn(follow_commits(committed.to_owned(), Arc::clone(&seen), time));
        Self { seen, _tasks: tasks }
    }

    /// Looks at what was seen.
    pub fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets moments before `at`; rows stay known by their number.
    pub fn forget_before(&self, at: i64, time: Timebase) {
        self.with(|seen| {
            seen.emissions.forget_before(at);
            seen.commits.retain(|commit| *commit >= at);
            seen.events.retain(|event| event.unix_us >= time.to_unix(at));
        });
    }
}

/// Follows one log file.
struct Tail {
    process: usize,
    path: PathBuf,
    offset: u64,
    /// The beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Tail {
    fn at_end(process: usize, path: &Path) -> Self {
        Self {
            process,
            path: path.to_owned(),
            offset: std::fs::metadata(path).map_or(0, |m| m.len()),
            rest: Vec::new(),
        }
    }

    /// The whole lines that were appended.
    fn read(&mut self) -> std::io::Result<String> {
        let length = std::fs::metadata(&self.path)?.len();
        if length == self.offset {
            return Ok(String::new());
        }
        if length < self.offset {
            // It was rotated.
            (self.offset, self.rest) = (0, Vec::new());
        }
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.offset))?;
        let count = file.take(READ_BYTES_MAX).read_to_end(&mut self.rest)?;
        self.offset += count as u64;
        let end = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let lines: Vec<u8> = self.rest.drain(..end).collect();
        Ok(String::from_utf8_lossy(&lines).into_owned())
    }
}

async fn follow_logs(mut tails: Vec<Tail>, seen: Arc<Mutex<Seen>>, time: Timebase) {
    let mut look = tokio::time::interval(LOG_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        look.tick().await;
        for tail in &mut tails {
            // A log that is not there yet, or no more, is looked for again.
            let text = tail.read().unwrap_or_default();
            if text.is_empty() {
                continue;
            }
            let now = time.now();
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            for line in text.lines() {
                if let Some(number) = printed(line) {
                    seen.emissions.take(now, number);
                } else if let Some(event) = events::parse(tail.process, line) {
                    seen.events.push(event);
                }
            }
        }
    }
}

async fn follow_commits(dir: PathBuf, seen: Arc<Mutex<Seen>>, time: Timebase) {
    let mut known = BTreeSet::new();
    let mut look = tokio::time::interval(COMMIT_LOOK);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        look.tick().await;
        for name in new_files(&dir, &known) {
            // One that cannot be read is tried again.
            let Ok(text) = std::fs::read_to_string(dir.join(&name)) else {
                continue;
            };
            known.insert(name);
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            let before = seen.committed.rows();
            for line in text.lines() {
                seen.committed.line(line);
            }
            if seen.committed.rows() > before {
                seen.commits.push(time.now());
            }
        }
    }
}

/// Visible files that are not known yet: a name that begins with `.` or `_` is not visible to readers.
fn new_files(dir: &Path, known: &BTreeSet<String>) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Vec::new();
    };
    let names = entries
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned());
    names
        .filter(|name| !name.starts_with(['.', '_']) && !known.contains(name))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::Write;

    #[test]
    fn a_tail_gives_whole_lines_and_survives_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        std::fs::write(&path, "old\n").unwrap();
        let mut tail = Tail::at_end(0, &path);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(b"one\ntw").unwrap();
        assert_eq!(tail.read().unwrap(), "one\n");
        file.write_all(b"o\n").unwrap();
        assert_eq!(tail.read().unwrap(), "two\n");
        std::fs::write(&path, "new\n").unwrap();
        assert_eq!(tail.read().unwrap(), "new\n");
    }

    #[test]
    fn hidden_and_known_files_are_not_new() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["part-1", "part-2", ".part-3", "_x"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        let known = BTreeSet::from(["part-1".to_owned()]);
        assert_eq!(new_files(dir.path(), &known), ["part-2"]);
    }
}
