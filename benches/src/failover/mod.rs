//! The failover benchmark: the same faults on Holdfast, on Flink with ZooKeeper, and, for the bare election, on etcd.
//! Results are kept as JSON, so that the page can be written again without measuring again.

pub mod etcd;
pub mod flink;
pub mod flink_watch;
pub mod holdfast;
pub mod page;
pub mod probe;
// The accounts, statistics and drawings are the drill's own: both sides are judged by one ruler.
#[path = "../../../cli/src/drill/rows.rs"]
pub mod rows;
#[path = "../../../cli/src/drill/stats.rs"]
pub mod stats;
#[path = "../../../cli/src/drill/svg.rs"]
pub mod svg;

use crate::output::Machine;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Everything that was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Results {
    /// Where.
    pub machine: Option<Machine>,
    /// Rows per second of the job.
    pub load: u64,
    /// One entry per system and case.
    pub entries: Vec<Entry>,
}

/// A case on a system. Samples are milliseconds, one per failure; a measure that the system does not have is empty.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Entry {
    /// `holdfast`, `holdfast-fast`, `etcd`, `flink`, `flink-tuned`.
    pub system: String,
    /// The case's name as in `holdfast drill`.
    pub case: String,
    /// Version and what exactly was done.
    pub what: String,
    /// The day on which it was measured.
    #[serde(default)]
    pub measured: String,
    /// Failures.
    pub runs: usize,
    /// Longest time without a served write; for Flink, without a served request to the leading JobManager.
    pub write_gap_ms: Vec<f64>,
    /// Longest time without a served linearizable read.
    pub read_gap_ms: Vec<f64>,
    /// Longest silence of a subtask's output.
    pub output_gap_ms: Vec<f64>,
    /// Until the failure was noticed.
    pub detect_ms: Vec<f64>,
    /// From there until a leader was elected.
    pub elect_ms: Vec<f64>,
    /// Until the workers were attached to the leader.
    pub reattach_ms: Vec<f64>,
    /// Until the output was beyond what it had been.
    pub caught_up_ms: Vec<f64>,
    /// Over all failures.
    pub tasks_restarted: Option<u64>,
    /// Over all failures.
    pub records_replayed: Option<u64>,
    /// Over all failures.
    pub rows_lost: Option<u64>,
    /// Over all failures.
    pub rows_doubled: Option<u64>,
    /// Why there are fewer failures than wanted.
    pub trouble: Option<String>,
}

impl Results {
    /// Reads a file; nothing if it is not there.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        match std::fs::read(path) {
            Ok(bytes) => {
                let results = serde_json::from_slice(&bytes);
                results
                    .map(Some)
                    .with_context(|| format!("{} is damaged", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Writes the file whole.
    ///
    /// # Errors
    /// If the disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let temporary = path.with_extension("tmp");
        std::fs::write(&temporary, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The entry of a case, if it was measured.
    #[must_use]
    pub fn entry(&self, system: &str, case: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.system == system && e.case == case)
    }

    /// Takes an entry in the place of an older one; they stand in the plan's order, whenever each was measured.
    pub fn put(&mut self, entry: Entry) {
        self.entries
            .retain(|e| (&e.system, &e.case) != (&entry.system, &entry.case));
        self.entries.push(entry);
        self.entries.sort_by_key(|e| {
            PLAN.iter()
                .position(|planned| *planned == (e.system.as_str(), e.case.as_str()))
        });
    }
}

/// What the benchmark measures, in its order: system and case.
pub const PLAN: [(&str, &str); 19] = [
    ("holdfast", "leader"),
    ("holdfast", "leader-graceful"),
    ("holdfast", "pause-leader"),
    ("holdfast", "partition-leader"),
    ("holdfast", "follower"),
    ("holdfast", "worker"),
    ("holdfast", "worker-silent"),
    ("holdfast", "blip"),
    ("holdfast", "storage-outage"),
    ("holdfast-fast", "leader"),
    ("etcd", "leader"),
    ("flink-tuned", "leader"),
    ("flink-tuned", "worker"),
    ("flink-tuned", "worker-silent"),
    ("flink-tuned", "blip"),
    ("flink", "leader"),
    ("flink", "worker"),
    ("flink", "worker-silent"),
    ("flink", "blip"),
];

/// Whether `only` (empty: everything) names a system, or a system and a case (`flink/leader`).
#[must_use]
pub fn wanted(only: &[String], system: &str, case: &str) -> bool {
    only.is_empty()
        || only
            .iter()
            .any(|o| o == system || *o == format!("{system}/{case}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn results_survive_a_file_and_are_replaced_by_case() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a").join("failover.json");
        assert!(Results::read(&path).unwrap().is_none());
        let mut results = Results::default();
        let entry = |runs| Entry {
            system: "etcd".into(),
            case: "leader".into(),
            runs,
            ..Entry::default()
        };
        results.put(entry(1));
        results.put(entry(2));
        results.write(&path).unwrap();
        let read = Results::read(&path).unwrap().unwrap();
        assert_eq!(read.entries.len(), 1);
        assert_eq!(read.entry("etcd", "leader").unwrap().runs, 2);
    }

    #[test]
    fn only_names_systems_or_cases() {
        assert!(wanted(&[], "flink", "leader"));
        let only = ["etcd".to_owned(), "flink/worker".to_owned()];
        assert!(wanted(&only, "etcd", "leader") && wanted(&only, "flink", "worker"));
        assert!(!wanted(&only, "flink", "leader"));
    }
}
