//! What a drill measured, and its JSON. All times are milliseconds; moments count from the fault. Pure.

use super::probe::Sample;
use super::rows::Emitted;
use super::stats;
use super::time::millis;
use serde::Serialize;
use serde_json::{Value, json};

/// When things happened after a fault; `None` for what did not, or is not stamped.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Moments {
    /// What failed was first suspected.
    pub detected: Option<f64>,
    /// A new leader was elected.
    pub elected: Option<f64>,
    /// Its claim was in the log.
    pub claimed: Option<f64>,
    /// The first write sent after the fault was served.
    pub first_write: Option<f64>,
    /// The first linearizable read sent after the fault was served.
    pub first_read: Option<f64>,
    /// The last worker was attached to the leader.
    pub reattached: Option<f64>,
    /// The slowest subtask emitted a row after the fault; of the new attempt, if there is one.
    pub first_record: Option<f64>,
    /// Every split was beyond what it had emitted before.
    pub caught_up: Option<f64>,
    /// A checkpoint that began after the fault (after healing, if storage failed) was complete.
    pub next_checkpoint: Option<f64>,
    /// The fault was taken back.
    pub healed: Option<f64>,
}

/// One failure.
#[derive(Debug, Clone, Serialize)]
pub struct Failure {
    /// Its number within the case, from 1.
    pub number: u32,
    /// What was hit.
    pub victim: String,
    /// When things happened.
    pub moments: Moments,
    /// Longest time without a served write.
    pub write_gap_ms: f64,
    /// Longest time without a served read.
    pub read_gap_ms: f64,
    /// Longest silence of a subtask's output.
    pub output_gap_ms: f64,
    /// When that silence began, from the fault: tells what the fault did from what its repair did, or neither.
    pub output_gap_from_ms: f64,
    /// Longest silence of a subtask's output in the second before the fault: the output's rhythm.
    pub usual_output_gap_ms: f64,
    /// Longest time without growth of the committed files.
    pub commit_gap_ms: f64,
    /// Median latency of writes in the second before the fault.
    pub usual_write_ms: f64,
    /// Tasks that were started anew.
    pub tasks_restarted: u64,
    /// Rows that were emitted a second time.
    pub records_replayed: u64,
    /// Rows missing in the committed files.
    pub rows_lost: u64,
    /// Rows twice in the committed files.
    pub rows_doubled: u64,
    /// For the picture: every probe and every moment of output around the fault.
    pub strip: Strip,
}

/// What is drawn of a failure. Times are milliseconds from the fault.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Strip {
    /// Writes: sent, latency, served.
    pub writes: Vec<(f64, f64, bool)>,
    /// Reads.
    pub reads: Vec<(f64, f64, bool)>,
    /// Rows emitted per bucket of [`BUCKET_MS`]: its beginning, new rows, rows emitted before.
    pub rows: Vec<(f64, u32, u32)>,
    /// When committed files grew.
    pub commits: Vec<f64>,
}

/// Width of a bucket of emitted rows.
pub const BUCKET_MS: f64 = 20.0;

impl Strip {
    /// From what was seen between `from` and `to`; everything in microseconds of the drill.
    #[must_use]
    pub fn of(
        writes: &[Sample],
        reads: &[Sample],
        rows: &[Emitted],
        commits: &[i64],
        (from, fault, to): (i64, i64, i64),
    ) -> Self {
        let dots = |samples: &[Sample]| {
            let mut dots: Vec<_> = samples
                .iter()
                .filter(|s| (from..=to).contains(&s.sent))
                .map(|s| (millis(s.sent - fault), millis(s.done - s.sent), s.ok))
                .collect();
            dots.sort_by(|a, b| a.0.total_cmp(&b.0));
            dots
        };
        let mut buckets: std::collections::BTreeMap<i64, (u32, u32)> = std::collections::BTreeMap::new();
        for row in rows.iter().filter(|r| (from..=to).contains(&r.at)) {
            let bucket = buckets
                .entry((millis(row.at - fault) / BUCKET_MS).floor() as i64)
                .or_default();
            if row.again {
                bucket.1 += 1;
            } else {
                bucket.0 += 1;
            }
        }
        Self {
            writes: dots(writes),
            reads: dots(reads),
            rows: buckets
                .into_iter()
                .map(|(n, (new, again))| (n as f64 * BUCKET_MS, new, again))
                .collect(),
            commits: commits
                .iter()
                .filter(|at| (from..=to).contains(*at))
                .map(|at| millis(at - fault))
                .collect(),
        }
    }
}

/// All failures of a case.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// The case's name.
    pub case: String,
    /// What it does.
    pub about: String,
    /// Rows per second of the job.
    pub load: u64,
    /// Election timing.
    pub profile: String,
    /// Every failure.
    pub failures: Vec<Failure>,
}

/// A measure of a failure.
pub struct Measure {
    /// Its name in JSON, which ends in its unit.
    pub key: &'static str,
    /// For people.
    pub label: &'static str,
    /// Its value, if there is one.
    pub of: fn(&Failure) -> Option<f64>,
}

/// The measures of the JSON object, in its order.
pub const MEASURES: [Measure; 7] = [
    Measure {
        key: "write_gap_ms",
        label: "writes not served",
        of: |f| Some(f.write_gap_ms),
    },
    Measure {
        key: "read_gap_ms",
        label: "reads not served",
        of: |f| Some(f.read_gap_ms),
    },
    Measure {
        key: "output_gap_ms",
        label: "output silent",
        of: |f| Some(f.output_gap_ms),
    },
    Measure {
        key: "detect_ms",
        label: "detected after",
        of: |f| f.moments.detected,
    },
    Measure {
        key: "elect_ms",
        label: "elected, from detection",
        of: |f| Some(f.moments.elected? - f.moments.detected.unwrap_or(0.0)),
    },
    Measure {
        key: "reattach_ms",
        label: "workers re-attached after",
        of: |f| f.moments.reattached,
    },
    Measure {
        key: "caught_up_ms",
        label: "caught up after",
        of: |f| f.moments.caught_up,
    },
];

/// Further measures, for the table and the page.
pub const MORE: [Measure; 6] = [
    Measure {
        key: "first_write_ms",
        label: "first write served after",
        of: |f| f.moments.first_write,
    },
    Measure {
        key: "first_read_ms",
        label: "first read served after",
        of: |f| f.moments.first_read,
    },
    Measure {
        key: "first_record_ms",
        label: "first record out after",
        of: |f| f.moments.first_record,
    },
    Measure {
        key: "next_checkpoint_ms",
        label: "next checkpoint after",
        of: |f| f.moments.next_checkpoint,
    },
    Measure {
        key: "commit_gap_ms",
        label: "committed files unchanged",
        of: |f| Some(f.commit_gap_ms),
    },
    Measure {
        key: "usual_output_gap_ms",
        label: "output's rhythm, undisturbed",
        of: |f| Some(f.usual_output_gap_ms),
    },
];

impl CaseResult {
    /// The samples of a measure, in the order of the failures.
    #[must_use]
    pub fn samples(&self, measure: &Measure) -> Vec<f64> {
        self.failures.iter().filter_map(measure.of).collect()
    }

    /// A count over all failures.
    #[must_use]
    pub fn sum(&self, of: fn(&Failure) -> u64) -> u64 {
        self.failures.iter().map(of).sum()
    }

    /// Median of an undisturbed write over all failures.
    #[must_use]
    pub fn usual_write_ms(&self) -> f64 {
        let all: Vec<f64> = self.failures.iter().map(|f| f.usual_write_ms).collect();
        stats::p50(&all).unwrap_or(0.0)
    }

    /// The object that programs read.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut object = json!({ "case": self.case, "runs": self.failures.len() });
        for measure in &MEASURES {
            let samples: Vec<f64> = self.samples(measure).into_iter().map(rounded).collect();
            object[measure.key] = json!({
                "p50": stats::p50(&samples),
                "max": stats::max(&samples),
                "samples": samples,
            });
        }
        object["tasks_restarted"] = self.sum(|f| f.tasks_restarted).into();
        object["records_replayed"] = self.sum(|f| f.records_replayed).into();
        object["rows_lost"] = self.sum(|f| f.rows_lost).into();
        object["rows_doubled"] = self.sum(|f| f.rows_doubled).into();
        object
    }

    /// Whether every row is in the committed files, once.
    #[must_use]
    pub fn exact(&self) -> bool {
        self.sum(|f| f.rows_lost) == 0 && self.sum(|f| f.rows_doubled) == 0
    }
}

/// Thousandths of a millisecond: what the clocks give.
fn rounded(millis: f64) -> f64 {
    (millis * 1e3).round() / 1e3
}

/// What `--output json` prints: the case's object, or for several one object that holds them.
#[must_use]
pub fn json_of(cases: &[CaseResult]) -> Value {
    match cases {
        [one] => one.json(),
        many => json!({
            "case": "all",
            "runs": many.iter().map(|c| c.failures.len()).max().unwrap_or(0),
            "cases": many.iter().map(CaseResult::json).collect::<Vec<_>>(),
        }),
    }
}

/// Results for the tests of what is drawn from them.
#[cfg(test)]
pub mod fixture {
    use super::*;

    /// Two leader failures.
    #[must_use]
    pub fn leader() -> CaseResult {
        let failure = |number: u32, gap: f64| Failure {
            number,
            victim: "coordinator 1".into(),
            moments: Moments {
                detected: Some(2.0),
                elected: Some(gap - 10.0),
                claimed: Some(gap - 5.0),
                first_write: Some(gap),
                first_read: Some(gap),
                reattached: Some(gap + 20.0),
                first_record: Some(8.0),
                caught_up: Some(9.0),
                next_checkpoint: Some(900.0),
                healed: None,
            },
            write_gap_ms: gap,
            read_gap_ms: gap + 1.0,
            output_gap_ms: 18.0,
            output_gap_from_ms: 40.0,
            usual_output_gap_ms: 16.0,
            commit_gap_ms: 1100.0,
            usual_write_ms: 1.5,
            tasks_restarted: 0,
            records_replayed: 0,
            rows_lost: 0,
            rows_doubled: 0,
            strip: Strip {
                writes: vec![(-10.0, 1.5, true), (10.0, 250.0, false), (gap, 2.0, true)],
                reads: vec![(-10.0, 1.0, true), (gap, 2.0, true)],
                rows: vec![(-20.0, 20, 0), (0.0, 20, 0), (20.0, 10, 3)],
                commits: vec![-500.0, 600.0],
            },
        };
        CaseResult {
            case: "leader".into(),
            about: "kill -9 of the leading coordinator".into(),
            load: 1000,
            profile: "standard".into(),
            failures: vec![failure(1, 210.0), failure(2, 222.0)],
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_json_has_the_contracts_shape() {
        let json = json_of(&[fixture::leader()]);
        assert_eq!(
            json,
            json!({
                "case": "leader",
                "runs": 2,
                "write_gap_ms": {"p50": 210.0, "max": 222.0, "samples": [210.0, 222.0]},
                "read_gap_ms": {"p50": 211.0, "max": 223.0, "samples": [211.0, 223.0]},
                "output_gap_ms": {"p50": 18.0, "max": 18.0, "samples": [18.0, 18.0]},
                "detect_ms": {"p50": 2.0, "max": 2.0, "samples": [2.0, 2.0]},
                "elect_ms": {"p50": 198.0, "max": 210.0, "samples": [198.0, 210.0]},
                "reattach_ms": {"p50": 230.0, "max": 242.0, "samples": [230.0, 242.0]},
                "caught_up_ms": {"p50": 9.0, "max": 9.0, "samples": [9.0, 9.0]},
                "tasks_restarted": 0,
                "records_replayed": 0,
                "rows_lost": 0,
                "rows_doubled": 0
            })
        );
        let all = json_of(&[fixture::leader(), fixture::leader()]);
        assert_eq!(all["cases"][1]["case"], "leader");
    }

    #[test]
    fn a_strip_counts_rows_per_bucket() {
        let row = |at, again| Emitted { at, number: 1, again };
        let rows = [
            row(900_000, false),
            row(1_001_000, false),
            row(1_002_000, true),
            row(1_021_000, false),
        ];
        let strip = Strip::of(
            &[],
            &[],
            &rows,
            &[1_500_000, 9_000_000],
            (950_000, 1_000_000, 2_000_000),
        );
        assert_eq!(strip.rows, [(0.0, 1, 1), (20.0, 1, 0)]);
        assert_eq!(strip.commits, [500.0]);
    }
}
