//! Proof that the fast simulator notices: with each seeded bug that it can reach switched on, one of the invariants named
//! here must break within a range of seeds. A bug is on for a whole process, so each is hunted in a child of this one.

use super::command::Finding;
use holdfast_common::inject;
use serde::Serialize;
use std::collections::BTreeSet;
use std::ops::Range;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A seeded bug that the fast simulator reaches, and the invariants of which one must break.
#[derive(Debug)]
pub struct Mutant {
    /// As in [`inject::bugs`].
    pub bug: &'static str,
    /// As in [`super::core::INVARIANTS`].
    pub caught_by: &'static [&'static str],
}

const fn mutant(bug: &'static str, caught_by: &'static [&'static str]) -> Mutant {
    Mutant { bug, caught_by }
}

/// Seeds tried unless the caller says otherwise: the rarest bug is found within a tenth of them.
pub const SEEDS: Range<u64> = 0..2000;

/// Every bug of the state machine, the leader, the ledger, the aligner and the sink operator. The others sit in what the
/// fast simulator replaces: consensus, sources, windows, the exchange and the file sink.
pub const MUTANTS: &[Mutant] = &[
    mutant("no-dedup", &["request-is-applied-once"]),
    mutant(
        "dedup-not-in-snapshot",
        &["copies-are-equal", "request-is-applied-once"],
    ),
    mutant("cas-ignores-version", &["kv-follows-the-log"]),
    mutant(
        "complete-before-all-acks",
        &["checkpoints-are-complete", "streams-have-no-gaps"],
    ),
    mutant("commit-before-entry", &["commit-after-entry"]),
    mutant(
        "no-commit-replay",
        &["commit-done-is-visible", "output-is-a-prefix"],
    ),
    mutant("commit-after-start", &["deployed-after-recovery"]),
    mutant("stale-abort", &["newest-is-never-lost"]),
    mutant("collect-by-age", &["objects-are-kept"]),
    mutant("delete-on-step-down", &["objects-are-kept"]),
    mutant("restart-on-leader-change", &["leader-change-restarts-nothing"]),
    mutant(
        "two-attempts",
        &["only-the-current-attempt-runs", "nothing-is-left-behind"],
    ),
    mutant("resurrect-cancelled", &["machine", "cancelled-stays-cancelled"]),
    mutant("submit-twice", &["machine", "submit-is-idempotent"]),
    mutant("wrong-checkpoint", &["no-row-twice", "output-is-a-prefix"]),
    mutant(
        "skip-alignment",
        &["streams-have-no-gaps", "no-row-twice", "output-is-a-prefix"],
    ),
    mutant(
        "stale-attempt-accepted",
        &[
            "no-older-attempt-is-obeyed",
            "no-older-leader-is-obeyed",
            "only-the-current-attempt-runs",
        ],
    ),
    mutant(
        "pending-dropped",
        &["output-is-a-prefix", "commit-done-is-visible"],
    ),
];

/// What came of one bug.
#[derive(Debug, Serialize)]
struct Row {
    bug: &'static str,
    /// The wrong code was passed at least once.
    reached: bool,
    /// One of the invariants that were expected broke.
    caught: bool,
    /// Those that broke in the first seed in which any did.
    broken: BTreeSet<String>,
    seed: Option<u64>,
    /// Seeds until then, or all.
    seeds: u64,
    /// Why the hunt could not be carried out.
    trouble: Option<String>,
}

/// Hunts the named bugs, or all. Exit code 1: one escaped; 2: nothing can be said.
#[must_use]
pub fn run(names: &[String], seeds: &Range<u64>, jobs: usize, json: bool) -> ExitCode {
    if !inject::COMPILED_IN {
        eprintln!("this build has no seeded bugs; build it with --features holdfast-common/inject");
        return ExitCode::from(2);
    }
    if let Some(name) = names.iter().find(|name| MUTANTS.iter().all(|m| m.bug != **name)) {
        eprintln!("the fast simulator reaches no seeded bug '{name}'");
        return ExitCode::from(2);
    }
    let wanted: Vec<&Mutant> = MUTANTS
        .iter()
        .filter(|m| names.is_empty() || names.iter().any(|name| name == m.bug))
        .collect();
    let rows = hunt_all(&wanted, seeds, jobs);
    if json {
        match serde_json::to_string_pretty(&rows) {
            Ok(text) => println!("{text}"),
            Err(error) => eprintln!("the table cannot be written: {error}"),
        }
    } else {
        print(&rows);
    }
    if rows.iter().any(|row| row.trouble.is_some()) {
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(rows.iter().any(|row| !row.caught)))
}

fn hunt_all(wanted: &[&Mutant], seeds: &Range<u64>, jobs: usize) -> Vec<Row> {
    let next = AtomicUsize::new(0);
    let rows: Mutex<Vec<(usize, Row)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..jobs.clamp(1, wanted.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(mutant) = wanted.get(i) else { return };
                    let row = hunt(mutant, seeds).unwrap_or_else(|trouble| Row {
                        bug: mutant.bug,
                        reached: false,
                        caught: false,
                        broken: BTreeSet::new(),
                        seed: None,
                        seeds: 0,
                        trouble: Some(trouble),
                    });
                    rows.lock().unwrap_or_else(PoisonError::into_inner).push((i, row));
                }
            });
        }
    });
    let mut rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    rows.sort_by_key(|(i, _)| *i);
    rows.into_iter().map(|(_, row)| row).collect()
}

/// Runs a child with the bug on, up to the first seed that breaks something.
fn hunt(mutant: &Mutant, seeds: &Range<u64>) -> Result<Row, String> {
    let dir = tempfile::tempdir().map_err(|e| format!("no temporary directory: {e}"))?;
    let log = dir.path().join("reached");
    let program = std::env::current_exe().map_err(|e| format!("this program's path is not known: {e}"))?;
    let output = Command::new(program)
        .args(["--core", "--first", "--jobs", "1", "--output", "json", "--seeds"])
        .arg(format!("{}..{}", seeds.start, seeds.end))
        .env("HOLDFAST_BUG", mutant.bug)
        .env("HOLDFAST_INJECT_LOG", &log)
        .output()
        .map_err(|e| format!("no child: {e}"))?;
    let found: Finding = serde_json::from_slice(&output.stdout).map_err(|e| {
        let stderr = String::from_utf8_lossy(&output.stderr);
        format!(
            "the child ended with {} and said nothing that parses: {e}; {stderr}",
            output.status
        )
    })?;
    let first = found.failed.into_iter().next();
    let (seed, broken) = match first {
        Some(failed) => (Some(failed.seed), failed.violations),
        None => (None, Vec::new()),
    };
    let broken: BTreeSet<String> = broken.into_iter().map(|v| v.invariant).collect();
    Ok(Row {
        bug: mutant.bug,
        reached: std::fs::read_to_string(&log).is_ok_and(|text| text.contains("reached")),
        caught: broken
            .iter()
            .any(|name| mutant.caught_by.contains(&name.as_str())),
        broken,
        seed,
        seeds: found.seeds,
        trouble: None,
    })
}

fn print(rows: &[Row]) {
    let lines: Vec<[String; 5]> = rows.iter().map(line).collect();
    let head = ["BUG", "VERDICT", "SEED", "SEEDS RUN", "BROKEN"].map(str::to_owned);
    let all = || std::iter::once(&head).chain(&lines);
    let width = |column: usize| all().map(|l| l[column].len()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3)];
    for [bug, verdict, seed, seeds, broken] in all() {
        let [a, b, c, d] = widths;
        println!("{bug:<a$}  {verdict:<b$}  {seed:>c$}  {seeds:>d$}  {broken}");
    }
    let caught = rows.iter().filter(|row| row.caught).count();
    println!("{caught} of {} seeded bugs are caught", rows.len());
}

fn line(row: &Row) -> [String; 5] {
    let verdict = match row {
        Row { trouble: Some(_), .. } => "unknown",
        Row { caught: true, .. } => "caught",
        Row { seed: Some(_), .. } => "caught by others",
        Row { reached: true, .. } => "escaped",
        _ => "not reached",
    };
    let names: Vec<&str> = row.broken.iter().map(String::as_str).collect();
    let broken = row.trouble.clone().unwrap_or_else(|| names.join(", "));
    [
        row.bug.to_owned(),
        verdict.to_owned(),
        row.seed.map_or_else(|| "-".to_owned(), |seed| seed.to_string()),
        row.seeds.to_string(),
        broken,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::core::INVARIANTS;

    #[test]
    fn bugs_and_invariants_exist_and_no_bug_stands_here_twice() {
        let mut seen = BTreeSet::new();
        for Mutant { bug, caught_by } in MUTANTS {
            assert!(seen.insert(bug), "{bug}");
            assert!(inject::bugs::BUGS.iter().any(|b| b.name == *bug), "{bug}");
            assert!(!caught_by.is_empty(), "{bug}");
            for name in *caught_by {
                assert!(INVARIANTS.iter().any(|(known, _)| known == name), "{bug}: {name}");
            }
        }
    }
}
