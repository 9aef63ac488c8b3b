//! What a reader of a sink's directory saw, moment by moment.

use crate::history::{Event, Nanos};
use crate::model::part::Run;
use serde_json::Value;
use std::collections::BTreeMap;

/// What the name of a committed file says: `part-<job>-<sink>-<checkpoint>-<attempt>-<subtask>-<n>.<extension>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'n> {
    /// First digits of the job.
    pub job: &'n str,
    /// The sink.
    pub sink: &'n str,
    /// For which checkpoint it was written.
    pub checkpoint: u64,
    /// By whom.
    pub attempt: u64,
    /// Which subtask.
    pub subtask: u64,
}

/// Reads a committed file's name.
#[must_use]
pub fn parse_name(name: &str) -> Option<Name<'_>> {
    let (stem, _) = name.strip_prefix("part-")?.rsplit_once('.')?;
    let mut parts = stem.split('-');
    let (job, sink) = (parts.next()?, parts.next()?);
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (checkpoint, attempt, subtask) = (number()?, number()?, number()?);
    number()?;
    Some(Name {
        job,
        sink,
        checkpoint,
        attempt,
        subtask,
    })
}

/// Whether a reader may take a file for data: names with a leading dot or underscore are hidden, by the convention of
/// Hive and Flink.
#[must_use]
pub fn is_visible(name: &str) -> bool {
    !name.starts_with('.') && !name.starts_with('_')
}

/// What changed in a directory between two looks.
#[derive(Debug)]
pub enum Change<'h> {
    /// A file appeared.
    Visible {
        /// Numbers that it holds, if its rows are numbers.
        runs: Vec<Run>,
        /// Its rows as text, otherwise.
        lines: Vec<&'h str>,
    },
    /// It is no longer there.
    Gone,
    /// Its bytes are other ones than before.
    Changed,
    /// It ends in the middle of a row.
    Torn,
}

/// One change of one file.
#[derive(Debug)]
pub struct Sight<'h> {
    /// When it was seen.
    pub t: Nanos,
    /// The file.
    pub file: &'h str,
    /// What.
    pub change: Change<'h>,
}

/// What one sink of one job must hold in the end, and what was seen of it.
#[derive(Debug)]
pub struct Watch<'h> {
    /// The job.
    pub job: &'h str,
    /// The sink's name in the workload.
    pub sink: &'h str,
    /// The expectation.
    pub expect: &'h Event,
    /// How the job ended, if it did, and when that was seen.
    pub ended: Option<(&'h str, Nanos, Option<&'h str>)>,
    /// Changes in the order in which they were seen.
    pub sights: Vec<Sight<'h>>,
}

/// All sinks that a workload watched.
#[must_use]
pub fn watches<'h>(history: &'h [Event], workload: &str) -> Vec<Watch<'h>> {
    let mine = || history.iter().filter(|e| e.workload == workload);
    let mut watches: BTreeMap<(&str, &str), Watch<'h>> = BTreeMap::new();
    for event in mine().filter(|e| e.f == "expect") {
        if let (Some(job), Some(sink)) = (event.text("job"), event.text("sink")) {
            let watch = Watch {
                job,
                sink,
                expect: event,
                ended: None,
                sights: Vec::new(),
            };
            watches.insert((job, sink), watch);
        }
    }
    for event in mine().filter(|e| e.f == "ended") {
        for ((job, _), watch) in &mut watches {
            if event.text("job") == Some(job) {
                let state = event.text("state").unwrap_or_default();
                watch.ended = Some((state, event.t, event.error.as_deref()));
            }
        }
    }
    for event in mine() {
        let change = match event.f.as_str() {
            "visible" => Change::Visible {
                runs: runs(event),
                lines: lines(event),
            },
            "gone" => Change::Gone,
            "changed" => Change::Changed,
            "torn" => Change::Torn,
            _ => continue,
        };
        let (Some(job), Some(sink), Some(file)) = (event.text("job"), event.text("sink"), event.text("file"))
        else {
            continue;
        };
        if let Some(watch) = watches.get_mut(&(job, sink)) {
            watch.sights.push(Sight {
                t: event.t,
                file,
                change,
            });
        }
    }
    watches.into_values().collect()
}

fn runs(event: &Event) -> Vec<Run> {
    let list = event.value.get("runs").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Run::from_json).collect()
}

fn lines(event: &Event) -> Vec<&str> {
    let list = event.value.get("lines").and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read() {
        let name = parse_name("part-12345678-0000abcd-00000012-7-3-0.csv");
        let expected = Name {
            job: "12345678",
            sink: "0000abcd",
            checkpoint: 12,
            attempt: 7,
            subtask: 3,
        };
        assert_eq!(name, Some(expected));
        assert_eq!(parse_name("part-1.csv"), None);
        assert!(!is_visible(".part-1.inprogress") && is_visible("part-1"));
    }
}
