//! Reads a subtask's files: one after the other by name, or, in a table with event time, the one that is furthest behind
//! next. All are splits from the start, so that no row is late because of the order in which files are read; reading them
//! in step keeps event time from standing still until the last one. (Flink counts a file only once it is being read: it
//! advances event time by the first file's rows, and drops those of the next as late.)
//!
//! In a watched directory it looks for new files and for files that grow: a file counts as complete once it has not
//! changed for one interval, and what is appended later is a split of its own, so that a finished file never holds the
//! watermark back.

use super::position::{Position, file_of, owner};
use super::source::FileTable;
use super::stream::{Stamp, Stream, is_gzip, stamp, tail};
use crate::format::{Decoded, Decoder};
use holdfast_common::limits::{SOURCE_FILES_OPEN_MAX, SOURCE_POLL_BYTES_MAX};
use holdfast_dataflow::connector::{
    ConnectorError, SourceBatch, SourceContext, SourcePoll, SourceReader, SplitState,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

pub(super) struct FileReader {
    table: Arc<FileTable>,
    context: SourceContext,
    splits: Vec<Split>,
    /// Open files by split.
    open: BTreeMap<usize, Stream>,
    decoder: Decoder,
    /// Finished splits that were not reported yet.
    finished: VecDeque<usize>,
    next_scan_ms: u64,
}

struct Split {
    id: String,
    path: PathBuf,
    position: Position,
    finished: bool,
    /// The position's tail has to be read before it can be snapshotted.
    moved: bool,
    /// Watched files: what the file looked like when its end was last reached.
    seen: Option<Stamp>,
    /// Watched files: not before this time.
    rest_until_ms: u64,
    /// Watched files: unchanged for an interval, so its last line needs no line end.
    complete: bool,
}

/// What reading a split for one poll came to.
enum Step {
    /// Rows may be there; there is more to come.
    More,
    /// The split is at its end for good.
    Finished,
    /// The split is at its end for now.
    Resting,
}

impl FileReader {
    pub(super) fn new(
        table: Arc<FileTable>,
        context: SourceContext,
        restored: Vec<SplitState>,
    ) -> Result<Self, ConnectorError> {
        let decoder = table.format.decoder(&table.schema);
        let mut reader = Self {
            table,
            context,
            splits: Vec::new(),
            open: BTreeMap::new(),
            decoder,
            finished: VecDeque::new(),
            next_scan_ms: 0,
        };
        let mine = reader
            .table
            .files(reader.context.subtask, reader.context.parallelism)?;
        reader.restore(restored, &mine)?;
        reader.add_new(&mine)?;
        if let Some(interval) = reader.table.monitor {
            reader.next_scan_ms = reader.now_ms() + millis(interval);
        }
        Ok(reader)
    }

    fn now_ms(&self) -> u64 {
        self.context.clock.now_ms()
    }

    fn restore(
        &mut self,
        mut restored: Vec<SplitState>,
        files: &BTreeMap<String, PathBuf>,
    ) -> Result<(), ConnectorError> {
        restored.retain(|s| owner(file_of(&s.split_id), self.context.parallelism) == self.context.subtask);
        restored.sort_by(|a, b| a.split_id.cmp(&b.split_id));
        for state in restored {
            let position = Position::decode(&state.split_id, &state.position)?;
            let name = file_of(&state.split_id);
            if !state.finished && position.offset > 0 && !files.contains_key(name) {
                return Err(ConnectorError::Data(format!(
                    "file '{name}' in '{}' is gone; the job had read it up to byte {} (line {})",
                    self.table.root.display(),
                    position.offset,
                    position.line
                )));
            }
            // A file that was listed and never begun may be gone: then it has no rows.
            let finished = state.finished || !files.contains_key(name);
            let path = files
                .get(name)
                .cloned()
                .unwrap_or_else(|| self.table.root.join(name));
            self.push(state.split_id, path, position, finished);
        }
        Ok(())
    }

    fn push(&mut self, id: String, path: PathBuf, position: Position, finished: bool) {
        if finished {
            self.finished.push_back(self.splits.len());
        }
        self.splits.push(Split {
            id,
            path,
            position,
            finished,
            moved: false,
            seen: None,
            rest_until_ms: 0,
            complete: false,
        });
    }

    fn add_new(&mut self, files: &BTreeMap<String, PathBuf>) -> Result<(), ConnectorError> {
        let known: BTreeSet<&str> = self.splits.iter().map(|s| file_of(&s.id)).collect();
        let fresh: Vec<_> = files
            .iter()
            .filter(|(name, _)| !known.contains(name.as_str()))
            .collect();
        for (name, path) in fresh {
            is_gzip(path)?;
            self.push(name.clone(), path.clone(), Position::default(), false);
        }
        Ok(())
    }

    /// Looks through a watched directory.
    fn scan(&mut self) -> Result<(), ConnectorError> {
        let files = self.table.files(self.context.subtask, self.context.parallelism)?;
        self.add_new(&files)?;
        let mut last: BTreeMap<&str, usize> = BTreeMap::new();
        for (index, split) in self.splits.iter().enumerate() {
            let newest = last.entry(file_of(&split.id)).or_insert(index);
            if split.position.offset >= self.splits[*newest].position.offset {
                *newest = index;
            }
        }
        let candidates: Vec<usize> = last.into_values().filter(|i| self.splits[*i].finished).collect();
        for index in candidates {
            if let Some(path) = files.get(file_of(&self.splits[index].id)) {
                self.continue_grown(index, path)?;
            }
        }
        Ok(())
    }

    /// A new split for what was appended to a finished file.
    fn continue_grown(&mut self, index: usize, path: &Path) -> Result<(), ConnectorError> {
        let split = &self.splits[index];
        let position = split.position;
        let now = stamp(path)?;
        if now.size == position.size {
            return Ok(());
        }
        let refuse = |reason: &str| {
            Err(ConnectorError::Data(format!(
                "file '{}' was changed after it had been read to its end ({} bytes, now {}): {reason}",
                path.display(),
                position.size,
                now.size
            )))
        };
        if is_gzip(path)? {
            return refuse("compressed files must be complete when they appear");
        }
        if now.size < position.size {
            return refuse("it became shorter; give new content a new name");
        }
        if position.mid_line {
            return refuse("its last line had no line end and was taken as a record; append whole lines");
        }
        let id = format!("{}//{}", file_of(&split.id), position.offset);
        let position = Position {
            tail: None,
            ..position
        };
        self.push(id, path.to_owned(), position, false);
        Ok(())
    }

    /// The next split to read: the open one, else the first that is neither finished nor at rest. By event time, the
    /// least of those that may be read side by side.
    fn next_split(&self, event_time_ms: Option<&dyn Fn(usize) -> i64>) -> Option<usize> {
        let now = self.now_ms();
        let mut readable = (0..self.splits.len()).filter(|i| {
            let split = &self.splits[*i];
            !split.finished && split.rest_until_ms <= now
        });
        match event_time_ms {
            None => {
                let open = self.open.keys().next().copied();
                open.or_else(|| readable.next())
            }
            Some(time) => readable
                .take(SOURCE_FILES_OPEN_MAX)
                .min_by_key(|split| (time(*split), *split)),
        }
    }

    /// Opens a split's file at its position. `false` if it is to rest first.
    fn open(&mut self, index: usize) -> Result<bool, ConnectorError> {
        if self.open.contains_key(&index) {
            return Ok(true);
        }
        let rest_until_ms = self
            .table
            .monitor
            .map(|interval| self.now_ms() + millis(interval));
        let split = &mut self.splits[index];
        let (stream, stamp) = Stream::open(&split.path, &split.position)?;
        if let Some(rest_until_ms) = rest_until_ms {
            split.complete = split.seen == Some(stamp);
            // Half a compressed file cannot be told from a damaged one, so it is not touched before it is at rest.
            if !split.complete && is_gzip(&split.path)? {
                split.seen = Some(stamp);
                split.rest_until_ms = rest_until_ms;
                return Ok(false);
            }
        }
        split.position.size = stamp.size;
        split.position.mtime_ns = stamp.mtime_ns;
        self.open.insert(index, stream);
        Ok(true)
    }

    /// Parses until `max_rows` rows are gathered, the poll's share of input is used up or the file ends.
    fn step(&mut self, index: usize, max_rows: usize) -> Result<Step, ConnectorError> {
        let Some(stream) = self.open.get_mut(&index) else {
            return Ok(Step::More);
        };
        let split = &mut self.splits[index];
        let watched = self.table.monitor.is_some();
        let mut work = 0;
        loop {
            let at_end = stream.at_end() && (!watched || split.complete);
            let header = split.position.offset == 0 && self.table.format.skips_header();
            let decoded = if header {
                self.decoder
                    .skip_record(stream.window(), at_end)
                    .unwrap_or_default()
            } else {
                self.decoder
                    .decode(stream.window(), at_end, split.position.line, max_rows)
                    .map_err(|e| {
                        ConnectorError::Data(format!(
                            "{}, line {}: {}",
                            split.path.display(),
                            e.line,
                            e.reason
                        ))
                    })?
            };
            take(stream, split, decoded);
            work += decoded.bytes;
            if self.decoder.rows() >= max_rows || work >= SOURCE_POLL_BYTES_MAX {
                return Ok(Step::More);
            }
            if header && decoded.bytes > 0 {
                continue;
            }
            if !stream.at_end() {
                work += stream.fill(split.position.line)?;
                continue;
            }
            return Ok(if at_end { Step::Finished } else { Step::Resting });
        }
    }

    fn rows(&mut self, index: usize) -> Result<Option<SourceBatch>, ConnectorError> {
        let (rows, skipped) = self.decoder.flush()?;
        self.context.bad_records.fetch_add(skipped, Ordering::Relaxed);
        Ok((rows.num_rows() > 0).then_some(SourceBatch { split: index, rows }))
    }

    fn finish(&mut self, index: usize) {
        self.open.remove(&index);
        let split = &mut self.splits[index];
        // What was appended after the file was opened may have been read, too.
        if is_gzip(&split.path).is_ok_and(|gzip| !gzip) {
            split.position.size = split.position.offset;
        }
        split.finished = true;
        self.finished.push_back(index);
    }

    /// A watched file has no more for now: look again after an interval, and take it as complete if it has not changed.
    fn rest(&mut self, index: usize, interval: Duration) {
        let until = self.now_ms() + millis(interval);
        self.open.remove(&index);
        let split = &mut self.splits[index];
        split.seen = Some(Stamp {
            size: split.position.size,
            mtime_ns: split.position.mtime_ns,
        });
        split.rest_until_ms = until;
    }

    fn idle(&self, interval: Duration) -> SourcePoll {
        let now = self.now_ms();
        let resting = self
            .splits
            .iter()
            .filter(|s| !s.finished)
            .map(|s| s.rest_until_ms);
        let next = resting.chain([self.next_scan_ms]).min().unwrap_or(now);
        let wait = Duration::from_millis(next.saturating_sub(now).max(1));
        SourcePoll::Pending(wait.min(interval))
    }
}

fn take(stream: &mut Stream, split: &mut Split, decoded: Decoded) {
    if decoded.bytes == 0 {
        return;
    }
    split.position.mid_line = stream.window().get(decoded.bytes - 1) != Some(&b'\n');
    stream.advance(decoded.bytes);
    split.position.offset = stream.offset();
    split.position.line += decoded.lines;
    split.moved = true;
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}

impl FileReader {
    fn poll_by(
        &mut self,
        max_rows: usize,
        event_time_ms: Option<&dyn Fn(usize) -> i64>,
    ) -> Result<SourcePoll, ConnectorError> {
        if let Some(interval) = self.table.monitor
            && self.now_ms() >= self.next_scan_ms
        {
            self.scan()?;
            self.next_scan_ms = self.now_ms() + millis(interval);
        }
        if let Some(index) = self.finished.pop_front() {
            return Ok(SourcePoll::SplitFinished(index));
        }
        let Some(index) = self.next_split(event_time_ms) else {
            return Ok(self
                .table
                .monitor
                .map_or(SourcePoll::End, |interval| self.idle(interval)));
        };
        if !self.open(index)? {
            return Ok(SourcePoll::Pending(Duration::ZERO));
        }
        let step = self.step(index, max_rows.max(1))?;
        match (step, self.table.monitor) {
            (Step::More, _) => {}
            (Step::Resting, Some(interval)) => self.rest(index, interval),
            (Step::Finished | Step::Resting, _) => self.finish(index),
        }
        match self.rows(index)? {
            Some(batch) => Ok(SourcePoll::Batch(batch)),
            None => Ok(SourcePoll::Pending(Duration::ZERO)),
        }
    }
}

impl SourceReader for FileReader {
    fn poll(&mut self, max_rows: usize) -> Result<SourcePoll, ConnectorError> {
        self.poll_by(max_rows, None)
    }

    fn poll_least(
        &mut self,
        max_rows: usize,
        event_time_ms: &dyn Fn(usize) -> i64,
    ) -> Result<SourcePoll, ConnectorError> {
        self.poll_by(max_rows, Some(event_time_ms))
    }

    fn splits(&self) -> Vec<String> {
        self.splits.iter().map(|s| s.id.clone()).collect()
    }

    fn snapshot(&mut self) -> Result<Vec<SplitState>, ConnectorError> {
        let mut states = Vec::with_capacity(self.splits.len());
        for split in &mut self.splits {
            if split.moved {
                // A finished file may be gone by now: nothing will continue it, and there is nothing to compare with.
                let gone = split.finished && !split.path.exists();
                // A finished file of a table that ends is never opened again.
                let wanted = !gone && (!split.finished || self.table.monitor.is_some());
                let needed = wanted && !is_gzip(&split.path)?;
                split.position.tail = if needed {
                    Some(tail(&split.path, split.position.offset)?)
                } else {
                    None
                };
                split.moved = false;
            }
            states.push(SplitState {
                split_id: split.id.clone(),
                position: split.position.encode(),
                finished: split.finished,
            });
        }
        Ok(states)
    }
}
