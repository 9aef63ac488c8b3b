//! A process per seed: only a fresh one repeats itself. The `sim` binary starts itself again with the seed in its
//! environment, and the child answers with its outcome on standard output.

use super::super::{Options, Outcome, Violation};
use super::determinism;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Set for the child: `seed,virtual seconds,trace`.
const SEED: &str = "HOLDFAST_SIM_SEED";
/// A tick takes milliseconds; a process that shows none for so long, in real time, loops.
const TICK_DEADLINE: Duration = Duration::from_secs(60);
/// What the outcome's line begins with.
const MARK: &str = "OUTCOME ";

#[derive(Serialize, Deserialize)]
struct Wire {
    hash: u64,
    violations: Vec<(String, String, u64)>,
    counts: BTreeMap<String, u64>,
    tail: Vec<String>,
}

/// Runs a seed in a process of its own, and waits for it.
///
/// A child that does not answer is a violation too: the simulation may hang where the product loops.
#[must_use]
pub fn run_seed(seed: u64, options: &Options) -> Outcome {
    match try_run_seed(seed, options) {
        Ok(outcome) => outcome,
        Err(reason) => Outcome {
            seed,
            violations: vec![Violation {
                invariant: "the-simulation-runs".to_owned(),
                detail: reason,
                at_ms: 0,
            }],
            ..Outcome::default()
        },
    }
}

/// As [`run_seed`], for callers that tell a simulation that did not work from a verdict.
///
/// # Errors
/// If the seed's process could not be started, or ended without an answer.
pub fn try_run_seed(seed: u64, options: &Options) -> Result<Outcome, String> {
    let program = std::env::current_exe().map_err(|error| format!("no path of this program: {error}"))?;
    let child = Command::new(program)
        .env(
            SEED,
            format!("{seed},{},{}", options.virtual_seconds, options.trace),
        )
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("the seed's process could not be started: {error}"))?;
    let text = String::from_utf8_lossy(&child.stdout);
    let mut answer = None;
    for line in text.lines() {
        match line.strip_prefix(MARK) {
            Some(json) => answer = Some(json),
            None => println!("{line}"),
        }
    }
    let json =
        answer.ok_or_else(|| format!("the seed's process ended without an answer: {}", child.status))?;
    let wire: Wire = serde_json::from_str(json).map_err(|error| format!("its answer is damaged: {error}"))?;
    Ok(outcome(seed, wire))
}

fn outcome(seed: u64, wire: Wire) -> Outcome {
    let violations = wire
        .violations
        .into_iter()
        .map(|(invariant, detail, at_ms)| Violation {
            invariant,
            detail,
            at_ms,
        });
    Outcome {
        seed,
        hash: wire.hash,
        violations: violations.collect(),
        counts: wire
            .counts
            .into_iter()
            .map(|(name, count)| (lasting(name), count))
            .collect(),
        tail: wire.tail,
    }
}

/// A name that lasts as long as the process; there are a few dozen.
fn lasting(name: String) -> &'static str {
    static NAMES: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    let mut names = NAMES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = names.get(name.as_str()) {
        return known;
    }
    let new: &'static str = Box::leak(name.into_boxed_str());
    names.insert(new);
    new
}

/// The binary's first act: if this process was started for a seed, runs it, answers, and says so; the caller ends then.
///
/// The program that calls this has to contain the functions of `symbols.rs`, or nothing repeats itself.
#[must_use]
pub fn child_main() -> bool {
    let Ok(text) = std::env::var(SEED) else {
        return false;
    };
    let mut parts = text.split(',');
    let seed = parts.next().and_then(|t| t.parse().ok()).unwrap_or(0);
    let options = Options {
        virtual_seconds: parts.next().and_then(|t| t.parse().ok()).unwrap_or(0),
        trace: parts.next() == Some("true"),
    };
    determinism::enable(seed);
    if options.trace && std::env::var_os("RUST_LOG").is_some() {
        // What the product itself says, between the simulator's events.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let log = tracing_subscriber::fmt().with_env_filter(filter).without_time();
        log.with_ansi(false).with_writer(std::io::stderr).init();
    }
    std::thread::spawn(move || watch_time(seed));
    // Hash keys are drawn once per thread: this one has drawn some already.
    let lived = std::thread::spawn(move || in_own_dir(seed, &options)).join();
    match lived {
        Ok(Ok(outcome)) => print(&outcome),
        Ok(Err(reason)) => eprintln!("seed {seed}: {reason}"),
        Err(_) => eprintln!("seed {seed}: the simulation has panicked"),
    }
    true
}

/// Ends the process if virtual time stands still: something loops without ever waiting.
fn watch_time(seed: u64) {
    let mut seen = determinism::clocks_ns();
    loop {
        std::thread::sleep(TICK_DEADLINE);
        let now = determinism::clocks_ns();
        if now == seen {
            print(&Outcome {
                seed,
                violations: vec![Violation {
                    invariant: "time-goes-on".to_owned(),
                    detail: format!(
                        "no tick has ended within {TICK_DEADLINE:?}: something loops without waiting"
                    ),
                    at_ms: super::trace::now_ms(),
                }],
                ..Outcome::default()
            });
            std::process::exit(0);
        }
        seen = now;
    }
}

fn print(outcome: &Outcome) {
    let wire = Wire {
        hash: outcome.hash,
        violations: outcome
            .violations
            .iter()
            .map(|v| (v.invariant.clone(), v.detail.clone(), v.at_ms))
            .collect(),
        counts: outcome
            .counts
            .iter()
            .map(|(k, v)| ((*k).to_owned(), *v))
            .collect(),
        tail: outcome.tail.clone(),
    };
    if let Ok(json) = serde_json::to_string(&wire) {
        println!("{MARK}{json}");
    }
}

/// The directory's path is part of what a seed sends around, so it depends on the seed alone; two processes with one
/// seed take turns.
fn in_own_dir(seed: u64, options: &Options) -> Result<Outcome, String> {
    let io = |what: &str, error: std::io::Error| format!("{what}: {error}");
    let root = root();
    std::fs::create_dir_all(&root).map_err(|e| io("the directory of simulations", e))?;
    let lock = File::create(root.join(format!("seed-{seed}.lock"))).map_err(|e| io("the seed's lock", e))?;
    lock.lock().map_err(|e| io("the seed's lock", e))?;
    let dir = root.join(format!("seed-{seed}"));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).map_err(|e| io("the seed's directory", e))?;
    let outcome = super::live(seed, options, &dir);
    let _ = std::fs::remove_dir_all(&dir);
    let _ = std::fs::remove_file(root.join(format!("seed-{seed}.lock")));
    outcome
}

/// In memory, if the machine has such a place: real disks would only cost time.
fn root() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let base = if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    };
    base.join("holdfast-sim")
}
