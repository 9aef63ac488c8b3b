//! The command line of the `sim` binary: which seeds, on how many threads or processes, and the verdict.

use super::{Options, Outcome, Violation};
use clap::Parser;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Failing seeds that are told in full.
const TOLD_MAX: usize = 5;
/// How often progress is told.
const PROGRESS: Duration = Duration::from_secs(10);

/// Deterministic simulation of whole clusters.
#[derive(Debug, Parser)]
#[command(name = "sim")]
pub struct Command {
    /// One seed.
    #[arg(long, conflicts_with_all = ["seeds", "until_stopped"])]
    seed: Option<u64>,
    /// A range of seeds, `A..B` without B.
    #[arg(long, value_parser = range)]
    seeds: Option<Range<u64>>,
    /// The fast simulator of the pure parts, instead of the full stack.
    #[arg(long)]
    core: bool,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// Run every seed twice and compare.
    #[arg(long)]
    check_determinism: bool,
    /// One seed after the other until the process is stopped, from the start of `--seeds` on.
    #[arg(long)]
    until_stopped: bool,
    /// Seeds at a time; 0: as many as there are processors.
    #[arg(long, default_value_t = 0)]
    jobs: usize,
    /// Virtual seconds with faults; 0: as the seed decides.
    #[arg(long, default_value_t = 0)]
    virtual_seconds: u64,
    /// Stop at the first seed that violates anything.
    #[arg(long)]
    first: bool,
    /// Switch on one seeded bug after the other (those named, or all that the fast simulator reaches), each up to the
    /// first seed that notices. Only in a build with them.
    #[arg(long, num_args = 0.., value_name = "BUG", requires = "core")]
    mutants: Option<Vec<String>>,
    /// How results are told.
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
}

/// How results are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// One JSON document on standard output, and nothing else there.
    Json,
}

/// What a run came to, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Finding {
    /// `valid`, `INVALID` or `unknown`.
    pub(super) verdict: String,
    /// Seeds that were run.
    pub(super) seeds: u64,
    /// The first seeds that violated something.
    pub(super) failed: Vec<Failed>,
    /// Why seeds could not be run.
    pub(super) broken: Vec<String>,
    /// What happened how often.
    pub(super) counts: BTreeMap<String, u64>,
}

/// A seed that violated something.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failed {
    pub(super) seed: u64,
    pub(super) violations: Vec<Violation>,
}

fn range(text: &str) -> Result<Range<u64>, String> {
    let parsed = text.split_once("..").and_then(|(from, to)| {
        let (from, to) = (from.parse().ok()?, to.parse().ok()?);
        (from < to).then_some(from..to)
    });
    parsed.ok_or_else(|| format!("'{text}' is no range of seeds; expected for instance 0..500"))
}

/// What all seeds came to.
#[derive(Default)]
struct Tally {
    done: u64,
    failed: Vec<Outcome>,
    failures: u64,
    broken: Vec<String>,
    counts: BTreeMap<&'static str, u64>,
}

/// Runs what the command line asks for.
#[must_use]
pub fn run(command: &Command) -> ExitCode {
    let options = Options {
        trace: command.trace,
        virtual_seconds: command.virtual_seconds,
    };
    if let Some(names) = &command.mutants {
        let seeds = command.seeds.clone().unwrap_or(super::mutants::SEEDS);
        return super::mutants::run(names, &seeds, threads(command), command.output == Output::Json);
    }
    let seeds = match (command.seed, &command.seeds) {
        (Some(seed), _) => seed..seed.saturating_add(1),
        (None, Some(seeds)) if command.until_stopped => seeds.start..u64::MAX,
        (None, Some(seeds)) => seeds.clone(),
        (None, None) if command.until_stopped => 0..u64::MAX,
        (None, None) => {
            eprintln!("say which seeds: --seed N, --seeds A..B or --until-stopped");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    let tally = run_all(command, &options, seeds);
    verdict(command, &tally, began.elapsed())
}

fn threads(command: &Command) -> usize {
    match command.jobs {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        jobs => jobs,
    }
}

fn run_all(command: &Command, options: &Options, seeds: Range<u64>) -> Tally {
    let threads = threads(command);
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let tally = Mutex::new(Tally::default());
    let began = Instant::now();
    let told = Mutex::new(began);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let result = run_seed(command, options, seed);
                    let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                    take(command, &mut tally, result);
                    if tally.broken.len() > TOLD_MAX || (command.first && tally.failures > 0) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
                    if told.elapsed() >= PROGRESS && command.output == Output::Text {
                        *told = Instant::now();
                        let seconds = began.elapsed().as_secs_f64();
                        let (done, failures) = (tally.done, tally.failures);
                        println!("{done} seeds in {seconds:.0} s, {failures} failed, the last was {seed}");
                    }
                }
            });
        }
    });
    tally.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn run_seed(command: &Command, options: &Options, seed: u64) -> Result<Outcome, String> {
    let once = || {
        if command.core {
            Ok(super::core::run_seed(seed, options))
        } else {
            super::full::try_run_seed(seed, options)
        }
    };
    let mut outcome = once()?;
    if command.check_determinism {
        let again = once()?;
        if again.hash != outcome.hash || again.counts != outcome.counts {
            outcome.violations.push(Violation {
                invariant: "determinism".to_owned(),
                detail: format!(
                    "the same seed gave {:016x} and then {:016x}",
                    outcome.hash, again.hash
                ),
                at_ms: 0,
            });
        }
    }
    Ok(outcome)
}

fn take(command: &Command, tally: &mut Tally, result: Result<Outcome, String>) {
    tally.done += 1;
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(reason) => {
            if command.output == Output::Text {
                println!("{reason}");
            }
            return tally.broken.push(reason);
        }
    };
    for (what, n) in &outcome.counts {
        *tally.counts.entry(what).or_default() += n;
    }
    if command.seed.is_some() && command.output == Output::Text {
        println!("seed {} has hash {:016x}", outcome.seed, outcome.hash);
    }
    if !outcome.violations.is_empty() {
        tally.failures += 1;
        if tally.failed.len() < TOLD_MAX {
            if command.output == Output::Text {
                tell(command, &outcome);
            }
            tally.failed.push(outcome);
        }
    }
}

/// A failing seed: its last events, what did not hold, and how to see it again.
fn tell(command: &Command, outcome: &Outcome) {
    if !command.trace {
        for line in &outcome.tail {
            println!("{line}");
        }
    }
    for violation in &outcome.violations {
        println!(
            "seed {} violates {} after {} ms: {}",
            outcome.seed, violation.invariant, violation.at_ms, violation.detail
        );
    }
    let core = if command.core { " --core" } else { "" };
    let length = match command.virtual_seconds {
        0 => String::new(),
        seconds => format!(" --virtual-seconds {seconds}"),
    };
    println!(
        "replay: cargo run --release -p tests --bin sim --{core} --seed {}{length} --trace",
        outcome.seed
    );
}

fn verdict(command: &Command, tally: &Tally, took: Duration) -> ExitCode {
    let (word, code) = match (tally.failures, tally.broken.len()) {
        (0, 0) if tally.done > 0 => ("valid", 0),
        (0, _) => ("unknown", 2),
        _ => ("INVALID", 1),
    };
    if command.output == Output::Json {
        return tell_json(tally, word, code);
    }
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    for outcome in &tally.failed {
        for violation in &outcome.violations {
            *found.entry(&violation.invariant).or_default() += 1;
        }
    }
    let counts: Vec<String> = tally
        .counts
        .iter()
        .map(|(what, n)| format!("{what} {n}"))
        .collect();
    println!("{}", counts.join(", "));
    let kind = if command.core { "core" } else { "full-stack" };
    println!(
        "{word}: {} {kind} seeds in {:.1} s, {} failed {found:?}, {} could not be run",
        tally.done,
        took.as_secs_f64(),
        tally.failures,
        tally.broken.len()
    );
    ExitCode::from(code)
}

fn tell_json(tally: &Tally, word: &str, code: u8) -> ExitCode {
    let failed = tally.failed.iter().map(|outcome| Failed {
        seed: outcome.seed,
        violations: outcome.violations.clone(),
    });
    let counts = tally.counts.iter().map(|(what, n)| ((*what).to_owned(), *n));
    let finding = Finding {
        verdict: word.to_owned(),
        seeds: tally.done,
        failed: failed.collect(),
        broken: tally.broken.clone(),
        counts: counts.collect(),
    };
    match serde_json::to_string_pretty(&finding) {
        Ok(text) => {
            println!("{text}");
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("the result cannot be written: {error}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        assert_eq!(range("3..9"), Ok(3..9));
        for bad in ["", "3", "9..3", "a..b", "3..3"] {
            assert!(range(bad).is_err(), "{bad}");
        }
    }
}
