//! The reader of a sink's directory: looks again and again, and records each change it sees.

use super::sql::SPLITS;
use crate::check::visible::is_visible;
use crate::check::words::note;
use crate::history::Event;
use crate::model::part::runs;
use crate::world::World;
use serde_json::Value;
use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A sink of a job.
#[derive(Debug, Clone)]
pub(super) struct SinkSpec {
    pub(super) workload: &'static str,
    pub(super) job: String,
    pub(super) sink: String,
    pub(super) oracle: &'static str,
    pub(super) rows: u64,
    pub(super) dir: PathBuf,
}

/// What tells a file's present content from another, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified_ns: i128,
}

/// Looks at one directory.
pub(super) struct Reader {
    spec: SinkSpec,
    known: BTreeMap<String, Stamp>,
}

/// Listings of a directory are not atomic: a name that appears while it is read may be missed although a later one is not. Two
/// listings that agree are as good as one at a moment between them.
const LISTINGS_MAX: u32 = 10;

/// The visible files; `None` if the directory cannot be read, as while its disk is without power.
fn list(dir: &Path) -> Option<BTreeMap<String, Stamp>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).ok()? {
        let entry = entry.ok()?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !is_visible(&name) {
            continue;
        }
        match entry.metadata() {
            Ok(meta) => found.insert(
                name,
                Stamp {
                    inode: meta.ino(),
                    size: meta.size(),
                    modified_ns: i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()),
                },
            ),
            // Renamed or deleted since it was listed.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(_) => return None,
        };
    }
    Some(found)
}

/// The files on which two listings agree. A sink's directory that does not exist (yet, or because its disk is not mounted) is
/// not looked at: a sink that deletes its directory is found by what is missing in the end.
fn settled_list(dir: &Path) -> Option<BTreeMap<String, Stamp>> {
    let mut before = list(dir)?;
    for _ in 0..LISTINGS_MAX {
        let now = list(dir)?;
        if now == before {
            return Some(now);
        }
        before = now;
    }
    None
}

impl Reader {
    pub(super) fn new(spec: SinkSpec) -> Self {
        Self {
            spec,
            known: BTreeMap::new(),
        }
    }

    /// What the directory must hold in the end.
    pub(super) fn expect(&self, t: u64) -> Event {
        self.note(t, "expect")
            .with("oracle", self.spec.oracle)
            .with("rows", self.spec.rows)
            .with("splits", SPLITS)
    }

    fn note(&self, t: u64, f: &str) -> Event {
        note(t, "reader", self.spec.workload, f)
            .with("job", self.spec.job.as_str())
            .with("sink", self.spec.sink.as_str())
    }

    /// One look. All that it finds has one time: the look's end.
    pub(super) fn look(&mut self, world: &World) {
        let Some(now) = settled_list(&self.spec.dir) else {
            return;
        };
        if now == self.known {
            return;
        }
        let mut events = Vec::new();
        for (file, stamp) in &self.known {
            match now.get(file) {
                None => events.push(self.note(0, "gone").with("file", file.as_str())),
                Some(other) if other != stamp => {
                    events.push(self.note(0, "changed").with("file", file.as_str()))
                }
                Some(_) => {}
            }
        }
        let mut known = now.clone();
        for file in now.keys().filter(|file| !self.known.contains_key(*file)) {
            match std::fs::read_to_string(self.spec.dir.join(file)) {
                Ok(text) => events.extend(self.visible(file, &text)),
                // It went away between listing and reading: the next look tells.
                Err(_) => {
                    known.remove(file);
                }
            }
        }
        self.known = known;
        let t = world.now();
        for mut event in events {
            event.t = t;
            world.record(event);
        }
    }

    fn visible(&self, file: &str, text: &str) -> Vec<Event> {
        let event = self.note(0, "visible").with("file", file);
        let numbers = matches!(self.spec.oracle, "numbers" | "filtered");
        let event = if numbers {
            // What is no number is kept as one that never comes.
            let parsed = text
                .lines()
                .map(|line| line.trim().parse().unwrap_or(u64::MAX))
                .collect();
            let list: Vec<Value> = runs(parsed, SPLITS)
                .into_iter()
                .map(|run| run.to_json())
                .collect();
            event.with("runs", list)
        } else {
            let list: Vec<Value> = text.lines().map(Value::from).collect();
            event.with("lines", list)
        };
        let mut events = vec![event];
        if !text.is_empty() && !text.ends_with('\n') {
            events.push(self.note(0, "torn").with("file", file));
        }
        events
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn reader(dir: &Path, oracle: &'static str) -> Reader {
        Reader::new(SinkSpec {
            workload: "eos",
            job: "j".into(),
            sink: "s".into(),
            oracle,
            rows: 100,
            dir: dir.to_owned(),
        })
    }

    #[test]
    fn appearing_changing_and_vanishing_files_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let reader = reader(dir.path(), "filtered");
        let events = reader.visible("part-1", "1\n17\n2");
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!(
            events[0].value["runs"],
            serde_json::json!([[1, 16, 2], [2, 16, 1]])
        );
        assert_eq!(events[1].f, "torn");
        std::fs::write(dir.path().join(".hidden"), "x").unwrap();
        std::fs::write(dir.path().join("part-1"), "1\n").unwrap();
        assert_eq!(settled_list(dir.path()).unwrap().len(), 1);
    }
}
