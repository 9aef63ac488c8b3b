//! What the process that is killed does to its log, and what may be found in the log afterwards.

use super::super::tests::{Content, entry, id, vote};
use super::super::{Bounds, Flushed, LogStore, open};
use crate::api::{LogStoreKind, StartError};
use crate::types::{Entry, LogCommand, Payload};
use openraft::LogIdOptionExt;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// One step.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Vote(u64),
    /// Appended in this term; the next step follows before this one is durable, unless the last flag is set.
    Append(u64, Range<u64>, bool),
    /// As `Append`, one entry of this many bytes.
    Large(u64, u64, usize),
    Truncate(u64, u64),
    Commit(u64, u64),
    Purge(u64, u64),
    /// Closes the log in order and opens it again.
    Reopen,
}

/// Something of everything: waiting for each write and for several at once, over several files, with a purge that
/// deletes some, and with a restart in between.
pub(super) fn script() -> Vec<Op> {
    use Op::*;
    let mut script = vec![
        Vote(1),
        Append(1, 0..3, true),
        Commit(1, 1),
        Append(1, 3..6, false),
        Append(1, 6..7, false),
        Append(1, 7..12, true),
        Commit(1, 5),
        Truncate(1, 8),
        Vote(2),
        Append(2, 9..12, true),
        Commit(2, 10),
    ];
    script.extend((12..18).map(|index| Large(2, index, 20_000)));
    script.extend([
        Commit(2, 16),
        Purge(2, 15),
        Append(2, 18..20, true),
        Reopen,
        Append(2, 20..24, false),
        Truncate(2, 21),
        Vote(3),
        Append(3, 22..25, true),
        Commit(3, 23),
        Purge(2, 20),
        Append(3, 25..27, true),
    ]);
    script
}

fn entries_of(op: &Op) -> Vec<Entry> {
    match op {
        Op::Append(term, range, _) => range.clone().map(|index| entry(*term, index)).collect(),
        Op::Large(term, index, bytes) => vec![Entry {
            log_id: id(*term, *index),
            payload: Payload::Normal(LogCommand(vec![*index as u8; *bytes].into())),
        }],
        _ => Vec::new(),
    }
}

/// The log after each step, and after each entry of one: what a crash may leave.
pub(super) struct Model {
    /// For each step, the contents that it passes through; the last one is that after it.
    steps: Vec<Vec<Content>>,
    empty: Content,
}

impl Model {
    pub(super) fn of(script: &[Op]) -> Self {
        let empty = Content {
            bounds: Bounds::default(),
            vote: None,
            committed: None,
            entries: Vec::new(),
        };
        let mut now = empty.clone();
        let steps = script
            .iter()
            .map(|op| {
                let mut passed = Vec::new();
                for entry in entries_of(op) {
                    now.bounds.last = Some(entry.log_id);
                    now.entries.push(entry);
                    passed.push(now.clone());
                }
                match op {
                    Op::Vote(term) => now.vote = Some(vote(*term)),
                    Op::Commit(term, index) => now.committed = Some(id(*term, *index)),
                    Op::Truncate(term, index) => {
                        now.entries.retain(|entry| entry.log_id.index() <= *index);
                        now.bounds.last = Some(id(*term, *index));
                    }
                    Op::Purge(term, index) => {
                        now.entries.retain(|entry| entry.log_id.index() > *index);
                        now.bounds.purged = Some(id(*term, *index));
                    }
                    Op::Append(..) | Op::Large(..) | Op::Reopen => {}
                }
                passed.push(now.clone());
                passed
            })
            .collect();
        Self { steps, empty }
    }

    /// After all steps.
    pub(super) fn whole(&self) -> &Content {
        self.steps
            .last()
            .and_then(|step| step.last())
            .unwrap_or(&self.empty)
    }

    /// Whether `found` may be left when the first `durable` steps are, and the first `begun` ones were begun.
    pub(super) fn may_be_left(&self, found: &Content, durable: usize, begun: usize) -> bool {
        let floor = match durable {
            0 => &self.empty,
            n => self.steps[n - 1].last().unwrap_or(&self.empty),
        };
        found == floor
            || self.steps[durable..begun]
                .iter()
                .flatten()
                .any(|content| content == found)
    }
}

/// What the process said before it ended.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Told {
    /// Steps begun.
    pub(super) begun: usize,
    /// The first so many steps are durable, or were said to be.
    pub(super) durable: usize,
    /// The first step that was reported as failed.
    pub(super) failed: Option<usize>,
    /// It came to the end of the script.
    pub(super) finished: bool,
    /// What must never happen: an answer that does not come, or an acknowledgement after a failure.
    pub(super) broken: Option<String>,
}

impl Told {
    pub(super) fn read(path: &Path) -> Self {
        let mut told = Self::default();
        let text = std::fs::read_to_string(path).unwrap_or_default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let step = || {
                rest.split(' ')
                    .next()
                    .and_then(|n| n.parse::<usize>().ok())
                    .unwrap_or(0)
            };
            match word {
                "begun" => told.begun = step() + 1,
                // An earlier step may still be waiting when a later one cannot begin.
                "durable" if told.failed.is_some_and(|failed| failed < step()) => {
                    told.broken = Some(format!("after a failure: {line}"));
                }
                "durable" => told.durable = step() + 1,
                "failed" => told.failed = told.failed.or(Some(step())),
                "finished" => told.finished = true,
                _ => told.broken = Some(line.to_owned()),
            }
        }
        told
    }
}

/// Runs the script on the log in `dir`, and says what becomes of it in `tell`, a line each, as it happens.
pub(super) fn run(kind: LogStoreKind, dir: &Path, tell: &Path) {
    let mut tell = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(tell)
        .unwrap();
    let mut say = move |line: String| tell.write_all(format!("{line}\n").as_bytes()).unwrap();
    let Ok(mut store) = open(kind, dir) else {
        return say("failed 0 open".to_owned());
    };
    let mut failed = false;
    let mut waiting: Vec<(usize, Receiver<std::io::Result<()>>)> = Vec::new();
    for (step, op) in script().into_iter().enumerate() {
        say(format!("begun {step}"));
        let begun = match op {
            // Only a new process opens a log that has failed.
            Op::Reopen if failed => return,
            Op::Reopen => {
                drop(store);
                match reopen(kind, dir) {
                    Ok(again) => store = again,
                    Err(error) => return say(format!("failed {step} {error}")),
                }
                Ok(None)
            }
            op => begin(&store, &op),
        };
        let waits = !matches!(op_waits(step), Some(false));
        match begun {
            Ok(Some(answer)) => waiting.push((step, answer)),
            Ok(None) => {}
            Err(error) => {
                failed = true;
                say(format!("failed {step} {error}"));
            }
        }
        if !waits {
            continue;
        }
        for (step, answer) in waiting.drain(..) {
            let answer = answer.recv_timeout(Duration::from_secs(20));
            failed |= !matches!(answer, Ok(Ok(())));
            say(match answer {
                Ok(Ok(())) => format!("durable {step}"),
                Ok(Err(error)) => format!("failed {step} {error}"),
                Err(_) => format!("silent {step}"),
            });
        }
    }
    drop(store);
    say("finished".to_owned());
}

/// Opens a log that this process has just closed. sled's own threads let go of its lock a moment later.
pub(super) fn reopen(kind: LogStoreKind, dir: &Path) -> Result<LogStore, StartError> {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match open(kind, dir) {
            Err(error) if error.to_string().contains("lock") && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened,
        }
    }
}

/// Whether an append waits for what is under way; `None` for everything else.
fn op_waits(step: usize) -> Option<bool> {
    match script().get(step) {
        Some(Op::Append(_, _, waits)) => Some(*waits),
        _ => None,
    }
}

type Answer = Option<Receiver<std::io::Result<()>>>;

/// Begins a step; where it is told when it is durable, if it ever is.
fn begin(store: &LogStore, op: &Op) -> std::io::Result<Answer> {
    let (sender, answer) = channel();
    let flushed = Flushed::new(move |result| drop(sender.send(result)));
    let backend = &store.backend;
    match op {
        Op::Vote(term) => backend.save_vote(vote(*term), flushed)?,
        Op::Append(..) | Op::Large(..) => backend.append(entries_of(op), flushed)?,
        Op::Truncate(term, index) => {
            debug_assert!(backend.bounds()?.last.next_index() > *index);
            backend.truncate_after(Some(id(*term, *index)), flushed)?;
        }
        Op::Commit(term, index) => {
            flushed.done(Ok(()));
            backend.save_committed(id(*term, *index))?;
            return Ok(None);
        }
        Op::Purge(term, index) => {
            flushed.done(Ok(()));
            backend.purge(id(*term, *index))?;
            return Ok(None);
        }
        Op::Reopen => return Ok(None),
    }
    Ok(Some(answer))
}
