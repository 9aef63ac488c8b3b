//! Watches a Flink job from outside: the rows that its tasks print into the TaskManagers' output, and the files that its
//! sink commits.

use super::probe::Since;
use super::rows::{self, Committed, Emissions};
use anyhow::Result;
use std::collections::BTreeSet;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, sleep};
use std::time::Duration;

/// What is seen of the job from outside.
pub struct Seen {
    /// Rows that tasks printed.
    pub emissions: Emissions,
    /// Rows in committed files.
    pub committed: Committed,
}

/// A running watch; dropped, it ends.
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches logs and a sink's directory; `parallelism` is that of the job.
    #[must_use]
    pub fn start(logs: Vec<PathBuf>, dir: PathBuf, parallelism: u64, since: Since) -> Self {
        let seen = Arc::new(Mutex::new(Seen {
            emissions: Emissions::default(),
            committed: Committed::new(parallelism),
        }));
        let stop = Arc::new(AtomicBool::new(false));
        let (thread_seen, thread_stop) = (seen.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut tails: Vec<(PathBuf, u64, Vec<u8>)> =
                logs.into_iter().map(|l| (l, 0, Vec::new())).collect();
            let mut known = BTreeSet::new();
            let mut look = 0_u32;
            while !thread_stop.load(Ordering::Relaxed) {
                for tail in &mut tails {
                    let text = appended(tail).unwrap_or_default();
                    let mut seen = thread_seen.lock().unwrap_or_else(PoisonError::into_inner);
                    for number in text.lines().filter_map(rows::printed) {
                        seen.emissions.take(since.now(), number);
                    }
                }
                if look.is_multiple_of(10) {
                    let mut seen = thread_seen.lock().unwrap_or_else(PoisonError::into_inner);
                    take_files(&dir, &mut known, &mut seen.committed);
                }
                look = look.wrapping_add(1);
                sleep(Duration::from_millis(2));
            }
        });
        Self {
            seen,
            stop,
            thread: Some(thread),
        }
    }

    /// Looks at what was seen.
    pub fn with<T>(&self, look: impl FnOnce(&mut Seen) -> T) -> T {
        look(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Whole lines that were appended to a file since the last look; a file that was begun anew is read from its beginning.
fn appended((path, offset, rest): &mut (PathBuf, u64, Vec<u8>)) -> Result<String> {
    let length = std::fs::metadata(&*path)?.len();
    if length < *offset {
        (*offset, *rest) = (0, Vec::new());
    }
    if length == *offset {
        return Ok(String::new());
    }
    let mut file = std::fs::File::open(&*path)?;
    file.seek(SeekFrom::Start(*offset))?;
    *offset += file.take(8 << 20).read_to_end(rest)? as u64;
    let end = rest.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    let lines: Vec<u8> = rest.drain(..end).collect();
    Ok(String::from_utf8_lossy(&lines).into_owned())
}

fn take_files(dir: &Path, known: &mut BTreeSet<String>, committed: &mut Committed) {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(['.', '_']) || known.contains(&name) {
            continue;
        }
        if let Ok(text) = std::fs::read_to_string(entry.path()) {
            text.lines().for_each(|line| committed.line(line));
            known.insert(name);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_log_that_is_begun_anew_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tm1.log");
        std::fs::write(&path, "drill:1> +I[1]\ndrill:2> +I[").unwrap();
        let mut tail = (path.clone(), 0, Vec::new());
        assert_eq!(appended(&mut tail).unwrap(), "drill:1> +I[1]\n");
        std::fs::write(&path, "+I[7]\n").unwrap();
        assert_eq!(appended(&mut tail).unwrap(), "+I[7]\n");
    }
}
