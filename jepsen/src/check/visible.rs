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
    /// A power loss took it back while its commit was under way; it came back as it was.
    Unsynced,
    /// Its bytes are other ones than before.
    Changed,
    /// It ends in the middle of a row.
    Torn,
}

/// Files of one commit are seen within this time.
const ONE_COMMIT: Nanos = 500_000_000;

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

impl Sight<'_> {
    fn holds_the_same(&self, other: &Self) -> bool {
        match (&self.change, &other.change) {
            (Change::Visible { runs, lines }, Change::Visible { runs: r, lines: l }) => {
                runs == r && lines == l
            }
            _ => false,
        }
    }
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
    let powerless = power_losses(history);
    for watch in watches.values_mut() {
        excuse_unsynced(&mut watch.sights, &powerless);
    }
    watches.into_values().collect()
}

/// When the disk lost its power on which the sinks' directories lie.
fn power_losses(history: &[Event]) -> Vec<Nanos> {
    let mut times: Vec<Nanos> = history
        .iter()
        .filter(|e| e.workload == "nemesis" && e.text("outcome") == Some("installed"))
        .filter(|e| matches!(e.f.as_str(), "power-loss" | "power-loss-all" | "torn-write"))
        .filter(|e| e.text("detail").is_some_and(|detail| detail.contains("shared")))
        .map(|e| e.t)
        .collect();
    times.sort_unstable();
    times
}

/// A file is visible as soon as it has its name, and durable when its directory was synced a moment later. A reader
/// that looks between the two sees what a power loss may still take back: no local file system lets it be otherwise.
/// It is excused only if nothing of a later commit had been seen before the power went (commits come one after the
/// other, so that what was committed before is durable), and if the file came back with the same content.
fn excuse_unsynced(sights: &mut Vec<Sight<'_>>, powerless: &[Nanos]) {
    for gone in 0..sights.len() {
        if gone >= sights.len() || !matches!(sights[gone].change, Change::Gone) {
            continue;
        }
        let file = sights[gone].file;
        let is_seen = |s: &Sight<'_>| s.file == file && matches!(s.change, Change::Visible { .. });
        let seen = sights[..gone].iter().rposition(is_seen);
        let back = sights[gone..].iter().position(is_seen).map(|at| gone + at);
        let (Some(seen), Some(back)) = (seen, back) else {
            continue;
        };
        let taken = powerless
            .iter()
            .find(|p| (sights[seen].t..=sights[gone].t).contains(*p));
        let Some(&taken) = taken else { continue };
        let is_later = |s: &Sight<'_>| {
            matches!(s.change, Change::Visible { .. }) && s.t > sights[seen].t + ONE_COMMIT && s.t < taken
        };
        if sights[seen].holds_the_same(&sights[back]) && !sights.iter().any(is_later) {
            sights[gone].change = Change::Unsynced;
            sights.remove(back);
        }
    }
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

    fn seen(at_ms: u64, file: &'static str, line: Option<&'static str>) -> Sight<'static> {
        let change = line.map_or(Change::Gone, |line| Change::Visible {
            runs: Vec::new(),
            lines: vec![line],
        });
        Sight {
            t: at_ms * 1_000_000,
            file,
            change,
        }
    }

    fn gone_after(mut sights: Vec<Sight<'static>>, power_lost_ms: &[u64]) -> usize {
        let powerless: Vec<Nanos> = power_lost_ms.iter().map(|ms| ms * 1_000_000).collect();
        excuse_unsynced(&mut sights, &powerless);
        sights.iter().filter(|s| matches!(s.change, Change::Gone)).count()
    }

    /// Found by a campaign (seed 1795405972).
    #[test]
    fn a_power_loss_may_take_back_only_what_was_being_committed() {
        let history = |later_ms: u64, back: Option<&'static str>| {
            let mut sights = vec![seen(1000, "a", Some("1")), seen(1010, "b", Some("2"))];
            if later_ms > 0 {
                sights.push(seen(later_ms, "c", Some("3")));
            }
            sights.extend([seen(4000, "a", None), seen(4000, "b", None)]);
            sights.push(seen(6000, "b", Some("2")));
            sights.extend(back.map(|line| seen(6000, "a", Some(line))));
            sights
        };
        assert_eq!(gone_after(history(0, Some("1")), &[3000]), 0);
        assert_eq!(gone_after(history(5000, Some("1")), &[3000]), 0, "after the loss");
        assert_eq!(gone_after(history(0, None), &[3000]), 1, "never back");
        assert_eq!(
            gone_after(history(0, Some("9")), &[3000]),
            1,
            "back as another one"
        );
        assert_eq!(
            gone_after(history(2000, Some("1")), &[3000]),
            2,
            "committed before"
        );
        assert_eq!(
            gone_after(history(0, Some("1")), &[500, 5000]),
            2,
            "no power loss then"
        );
    }
}
