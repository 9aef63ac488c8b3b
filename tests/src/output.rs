//! What a reader of a sink's directory sees, at any moment.
//!
//! A file is visible if its name does not begin with `.` or `_`; a visible file never changes and never goes.

use crate::oracle;
use crate::script::Numbers;
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a watcher looks. Gaps are known to this precision.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The names of the visible files; none if the directory does not exist yet.
///
/// # Errors
/// If a visible file is no `part-…` file.
pub fn visible_files(dir: &Path) -> Result<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut names = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(['.', '_']) {
            continue;
        }
        ensure!(
            name.starts_with("part-"),
            "{} is visible and no part file",
            dir.join(&name).display()
        );
        names.push(name);
    }
    names.sort();
    Ok(names)
}

/// All lines of all visible files.
///
/// # Errors
/// If a file cannot be read.
pub fn visible_lines(dir: &Path) -> Result<Vec<String>> {
    let mut lines = Vec::new();
    for name in visible_files(dir)? {
        let path = dir.join(name);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        lines.extend(text.lines().map(str::to_owned));
    }
    Ok(lines)
}

/// Compares the final output of a [`Numbers`] job with its oracle, row for row.
///
/// # Errors
/// Names what differs.
pub fn check_numbers_job(job: &Numbers) -> Result<()> {
    oracle::check_numbers(&visible_lines(&job.raw)?, job.rows).context("raw numbers")?;
    let windows: Result<Vec<_>> = visible_lines(&job.windows)?
        .iter()
        .map(|l| oracle::parse_window(l))
        .collect();
    oracle::check_rows(windows?, oracle::number_windows(job.rows)).context("windows")?;
    Ok(())
}

/// Looks at a sink's directory all the time. Every visible row must be unique by its key, for ever visible, in a file
/// that never changes.
pub struct Watcher {
    dir: PathBuf,
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    files: BTreeMap<String, u64>,
    owner: HashMap<String, String>,
    growth: Vec<(Instant, usize)>,
    violations: Vec<String>,
}

impl Watcher {
    /// Watches `dir`; `key` says what of a row must be unique.
    #[must_use]
    pub fn start(dir: &Path, key: fn(&str) -> String) -> Self {
        let (stop, seen) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(Mutex::new(Seen::default())),
        );
        let (thread_dir, thread_stop, thread_seen) = (dir.to_path_buf(), stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            while !thread_stop.load(Ordering::Relaxed) {
                let mut seen = thread_seen.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = seen.look(&thread_dir, key) {
                    seen.violations.push(format!("{error:#}"));
                }
                drop(seen);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Self {
            dir: dir.to_path_buf(),
            stop,
            seen,
            thread: Some(thread),
        }
    }

    /// Watches the raw numbers of a job.
    #[must_use]
    pub fn numbers(job: &Numbers) -> Self {
        Self::start(&job.raw, str::to_owned)
    }

    /// Watches the windows of a job: one row per window and digit.
    #[must_use]
    pub fn windows(job: &Numbers) -> Self {
        Self::start(&job.windows, |line| {
            line.splitn(3, ',').take(2).collect::<Vec<_>>().join(",")
        })
    }

    /// Rows seen so far.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.seen
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .owner
            .len()
    }

    /// Waits until more rows than now are visible.
    ///
    /// # Errors
    /// If none come within the deadline.
    pub fn wait_growth(&self, deadline: Duration) -> Result<Instant> {
        let before = self.rows();
        wait::until_true(
            format!("more visible rows than {before} in {}", self.dir.display()),
            deadline,
            || Ok(self.rows() > before),
        )?;
        Ok(Instant::now())
    }

    /// Longest time without growth that touches `from..to`.
    #[must_use]
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        longest_gap(seen.growth.iter().map(|(at, _)| *at), from, to)
    }

    /// Ends the watch.
    ///
    /// # Errors
    /// If a row was ever lost or doubled, or a file changed or went.
    pub fn finish(mut self) -> Result<()> {
        self.stop_thread();
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.violations.is_empty() {
            bail!(
                "{}: readers saw {} violations: {:#?}",
                self.dir.display(),
                seen.violations.len(),
                seen.violations.iter().take(10).collect::<Vec<_>>()
            );
        }
        for (name, length) in &seen.files {
            let now = std::fs::metadata(self.dir.join(name)).map(|m| m.len()).ok();
            ensure!(
                now == Some(*length),
                "{name} had {length} bytes when it became visible and has {now:?} now"
            );
        }
        Ok(())
    }

    fn stop_thread(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop_thread();
    }
}

impl Seen {
    fn look(&mut self, dir: &Path, key: fn(&str) -> String) -> Result<()> {
        let names = visible_files(dir)?;
        let before = self.owner.len();
        for gone in self
            .files
            .keys()
            .filter(|known| names.binary_search(known).is_err())
        {
            self.violations.push(format!("{gone} was visible and is gone"));
        }
        self.files.retain(|known, _| names.binary_search(known).is_ok());
        for name in names {
            if self.files.contains_key(&name) {
                continue;
            }
            let text = match std::fs::read_to_string(dir.join(&name)) {
                Ok(text) => text,
                Err(error) => {
                    self.violations
                        .push(format!("{name} is listed and cannot be read: {error}"));
                    continue;
                }
            };
            self.files.insert(name.clone(), text.len() as u64);
            if !text.is_empty() && !text.ends_with('\n') {
                self.violations
                    .push(format!("{name} ends in the middle of a line"));
            }
            for line in text.lines() {
                if let Some(other) = self.owner.insert(key(line), name.clone()) {
                    self.violations
                        .push(format!("'{line}' is visible in {other} and in {name}"));
                }
            }
        }
        if self.owner.len() > before {
            self.growth.push((Instant::now(), self.owner.len()));
        }
        Ok(())
    }
}

/// Watches the rows that a `print` sink writes into workers' logs: the pulse of the tasks themselves, whether or not a
/// checkpoint commits their output.
pub struct Pulse {
    stop: Arc<AtomicBool>,
    beats: Arc<Mutex<Vec<Instant>>>,
    thread: Option<JoinHandle<()>>,
}

/// What marks a printed row, as in Flink: its kind of change.
const PRINTED_ROW: &[u8] = b"+I[";

impl Pulse {
    /// Watches files, from their present ends on.
    #[must_use]
    pub fn start(files: Vec<PathBuf>) -> Self {
        let (stop, beats) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (thread_stop, thread_beats) = (stop.clone(), beats.clone());
        let length = |path: &PathBuf| std::fs::metadata(path).map_or(0, |m| m.len());
        let mut ends: Vec<(PathBuf, u64)> = files.into_iter().map(|f| (f.clone(), length(&f))).collect();
        let thread = std::thread::spawn(move || {
            while !thread_stop.load(Ordering::Relaxed) {
                let mut beat = false;
                for (path, end) in &mut ends {
                    let new = read_from(path, end).unwrap_or_default();
                    beat |= new.windows(PRINTED_ROW.len()).any(|part| part == PRINTED_ROW);
                }
                if beat {
                    thread_beats
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(Instant::now());
                }
                std::thread::sleep(LOOK_EVERY / 2);
            }
        });
        Self {
            stop,
            beats,
            thread: Some(thread),
        }
    }

    /// Number of looks that saw new rows.
    #[must_use]
    pub fn beats(&self) -> usize {
        self.beats.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Longest time without growth that touches `from..to`.
    #[must_use]
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        longest_gap(beats.iter().copied(), from, to)
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// What was appended to a file since `end`, which is moved.
fn read_from(path: &Path, end: &mut u64) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(*end))?;
    let mut new = Vec::new();
    *end += file.read_to_end(&mut new)? as u64;
    Ok(new)
}

/// The longest time between two events in order that touches `from..to`. An end without event counts as one at `to`.
#[must_use]
pub fn longest_gap(events: impl IntoIterator<Item = Instant>, from: Instant, to: Instant) -> Duration {
    let mut last = from;
    let mut longest = Duration::ZERO;
    let mut ended = false;
    for event in events {
        if event <= from {
            // A silence that began before `from` counts whole if it reaches into the span.
            last = event;
            continue;
        }
        longest = longest.max(event.saturating_duration_since(last));
        last = event;
        if event >= to {
            ended = true;
            break;
        }
    }
    if ended {
        longest
    } else {
        longest.max(to.saturating_duration_since(last))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn write(dir: &Path, name: &str, text: &str) {
        std::fs::write(dir.join(name), text).unwrap();
    }

    #[test]
    fn hidden_files_are_not_seen() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), ".part-1.inprogress", "1\n");
        write(dir.path(), "part-0-0", "2\n3\n");
        assert_eq!(visible_lines(dir.path()).unwrap(), ["2", "3"]);
        write(dir.path(), "stray", "");
        assert!(visible_files(dir.path()).is_err());
    }

    #[test]
    fn a_doubled_and_a_lost_row_are_violations() {
        let dir = tempfile::tempdir().unwrap();
        let mut seen = Seen::default();
        write(dir.path(), "part-0", "1\n2\n");
        seen.look(dir.path(), str::to_owned).unwrap();
        assert!(seen.violations.is_empty());
        write(dir.path(), "part-1", "2\n");
        seen.look(dir.path(), str::to_owned).unwrap();
        assert_eq!(seen.violations.len(), 1, "{:?}", seen.violations);
        std::fs::remove_file(dir.path().join("part-0")).unwrap();
        seen.look(dir.path(), str::to_owned).unwrap();
        assert_eq!(seen.violations.len(), 2, "{:?}", seen.violations);
        assert_eq!(seen.growth.len(), 1);
    }

    #[test]
    fn gaps_that_touch_a_span() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let events = || [10, 20, 120, 130, 500].map(at);
        assert_eq!(longest_gap(events(), at(15), at(125)), Duration::from_millis(100));
        assert_eq!(
            longest_gap(events(), at(125), at(200)),
            Duration::from_millis(370)
        );
        assert_eq!(
            longest_gap(events(), at(505), at(600)),
            Duration::from_millis(100)
        );
        assert_eq!(longest_gap([], at(0), at(7)), Duration::from_millis(7));
    }
}
