//! The commands. Exit code 0: valid; 1: invalid; 2: unknown, or the harness failed. The last line of output is the verdict
//! with its counts.

use crate::env::{clean, preflight::Preflight};
use crate::history::Verdict;
use crate::plan::generate::{self, Wishes};
use crate::plan::{self, Plan, shrink};
use crate::runner::{Outcome, Runner};
use crate::{judge, mutants, nightly, objd, report, sweep, workload};
use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Proof on real processes.
#[derive(Parser)]
#[command(name = "jepsen", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs clusters under faults that a seed draws, and judges what clients saw.
    Run(RunArgs),
    /// Carries out a plan again.
    Replay(ReplayArgs),
    /// Judges stored runs again, with the checkers as they are now.
    Judge {
        /// Directories of runs.
        #[arg(required = true)]
        runs: Vec<PathBuf>,
    },
    /// Looks for the smallest part of a plan that still fails.
    Shrink(ShrinkArgs),
    /// Ends, stalls or fails a process at every crash point.
    Sweep(SweepArgs),
    /// Shows that the checkers notice: each seeded bug must be caught.
    Mutants(MutantsArgs),
    /// Runs for hours and appends to a page of results.
    Nightly(NightlyArgs),
    /// Tells what this machine can do.
    Preflight,
    /// Removes what runs left behind that were killed.
    Clean {
        /// Also of runs that still go on.
        #[arg(long)]
        all: bool,
    },
    /// The object server of a run.
    #[command(hide = true)]
    Objd(ObjdArgs),
    /// A client of a run.
    #[command(hide = true)]
    Client {
        /// As the workload has them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// Where things go.
#[derive(Args, Clone)]
struct Place {
    /// Directory of the results.
    #[arg(long, default_value = "jepsen-results")]
    dir: PathBuf,
}

#[derive(Args)]
struct RunArgs {
    /// The first seed; drawn from the clock without it.
    #[arg(long)]
    seed: Option<u64>,
    /// Go on with new seeds for so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// How many runs; with --minutes at most so many.
    #[arg(long)]
    runs: Option<u32>,
    /// Length of a run's fault phase.
    #[arg(long, default_value_t = 45)]
    seconds: u64,
    /// Faults or groups of them, or `all`, or `none`.
    #[arg(long, value_delimiter = ',', default_value = "all")]
    faults: Vec<String>,
    /// Workloads.
    #[arg(long, value_delimiter = ',', default_value = "register,jobs,eos,catalogue")]
    workloads: Vec<String>,
    /// Voters, if not by the seed.
    #[arg(long)]
    voters: Option<u32>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct ReplayArgs {
    /// `plan.json` of a run.
    plan: PathBuf,
    /// How often; ends at the first run that is invalid.
    #[arg(long, default_value_t = 1)]
    repeat: u32,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct ShrinkArgs {
    /// `plan.json` of a run that was invalid.
    plan: PathBuf,
    /// How often each candidate is run.
    #[arg(long, default_value_t = 3)]
    repeat: u32,
    /// How often it must fail.
    #[arg(long, default_value_t = 1)]
    fails: u32,
    /// Candidates at most.
    #[arg(long, default_value_t = 40)]
    budget: usize,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct SweepArgs {
    /// Points by name; all without any.
    points: Vec<String>,
    /// Actions: abort, power, delay, error.
    #[arg(long, value_delimiter = ',', default_value = "abort,power,delay,error")]
    actions: Vec<String>,
    /// Every so manyeth combination only, beginning with the one that --offset says.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// See --every.
    #[arg(long, default_value_t = 0)]
    offset: usize,
    /// Length of each run's fault phase.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct MutantsArgs {
    /// Bugs by name; all without any.
    names: Vec<String>,
    /// Where the table goes.
    #[arg(long)]
    table: Option<PathBuf>,
    /// Every so manyeth bug only, beginning with the one that --offset says.
    #[arg(long, default_value_t = 1)]
    every: usize,
    /// See --every.
    #[arg(long, default_value_t = 0)]
    offset: usize,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct NightlyArgs {
    /// How long.
    #[arg(long, default_value_t = 8.0)]
    hours: f64,
    /// The page of results that is appended to.
    #[arg(long)]
    page: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Args)]
struct ObjdArgs {
    /// Where it listens.
    #[arg(long)]
    listen: SocketAddr,
    /// Its log of operations.
    #[arg(long)]
    log: PathBuf,
    /// Draws which requests are met.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Reads the command line and does what it says.
#[must_use]
pub fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(Verdict::Valid) => ExitCode::SUCCESS,
        Ok(Verdict::Invalid) => ExitCode::from(1),
        Ok(Verdict::Unknown) => ExitCode::from(2),
        Err(error) => {
            eprintln!("jepsen: {error:#}");
            println!("harness failure: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn dispatch(command: Command) -> Result<Verdict> {
    match command {
        Command::Run(args) => run(&args),
        Command::Replay(args) => replay(&args),
        Command::Judge { runs } => judge::judge(&runs),
        Command::Shrink(args) => shrink_plan(&args),
        Command::Sweep(args) => {
            let runner = Runner::new(&args.place.dir)?;
            let chosen = sweep::choose(&args.points, &args.actions, args.every, args.offset)?;
            sweep::sweep(&runner, &chosen, Duration::from_secs(args.seconds))
        }
        Command::Mutants(args) => {
            let runner = Runner::new(&args.place.dir)?;
            let table = args.table.unwrap_or_else(|| args.place.dir.join("mutants.md"));
            mutants::mutants(&runner, &args.names, args.every, args.offset, &table)
        }
        Command::Nightly(args) => {
            let runner = Runner::new(&args.place.dir)?;
            let page = args.page.unwrap_or_else(|| args.place.dir.join("results.md"));
            nightly::nightly(&runner, Duration::from_secs_f64(args.hours * 3600.0), &page)
        }
        Command::Preflight => {
            let preflight = Preflight::look();
            for ability in &preflight.abilities {
                match &ability.trouble {
                    None => println!("yes  {}", ability.name),
                    Some(trouble) => println!(
                        "no   {}: {trouble}; without it: no {}",
                        ability.name, ability.without
                    ),
                }
            }
            println!("mode: {:?}", preflight.mode());
            Ok(Verdict::Valid)
        }
        Command::Clean { all } => {
            let tags = clean::left_behind(all);
            for tag in &tags {
                println!("removing {tag}");
                clean::remove(tag);
            }
            println!("{} runs removed", tags.len());
            Ok(Verdict::Valid)
        }
        Command::Objd(args) => {
            objd::serve(args.listen, &args.log, args.seed)?;
            Ok(Verdict::Valid)
        }
        Command::Client { args } => {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()?;
            let done = runtime.block_on(workload::client::client_main(&args));
            // A read of the standard input waits for its end, which comes only after this process has ended: such a
            // thread is left behind.
            runtime.shutdown_background();
            done.map(|()| Verdict::Valid)
        }
    }
}

fn run(args: &RunArgs) -> Result<Verdict> {
    for name in &args.workloads {
        ensure!(
            workload::NAMES.contains(&name.as_str()),
            "there is no workload '{name}'; there are {:?}",
            workload::NAMES
        );
    }
    let asked = plan::expand(&args.faults)?;
    let runner = Runner::new(&args.place.dir)?;
    tell_left_out(&runner);
    let first = args
        .seed
        .unwrap_or_else(|| crate::world::monotonic_ns() % 1_000_000_000);
    let end = args
        .minutes
        .map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let most = args.runs.unwrap_or(if end.is_some() { u32::MAX } else { 1 });
    let wishes = Wishes {
        swarm: args.faults == ["all"],
        faults: asked,
        workloads: args.workloads.clone(),
        fault_phase_ms: args.seconds * 1000,
        mode: runner.preflight.mode(),
        object_storage: runner.object_storage,
    };
    let mut total = Total::default();
    for n in 0..most {
        let over = end.is_some_and(|end| Instant::now() >= end);
        if over || runner.interrupted.load(Ordering::SeqCst) {
            break;
        }
        let mut plan = generate::draw(first.wrapping_add(n.into()), &wishes);
        if let Some(voters) = args.voters {
            ensure!((1..=9).contains(&voters), "1 to 9 voters");
            plan.swarm.voters = voters;
        }
        let outcome = runner.run(&plan)?;
        tell(&outcome);
        total.add(&outcome);
    }
    finish(&runner, &total)
}

fn replay(args: &ReplayArgs) -> Result<Verdict> {
    let plan = Plan::read(&args.plan)?;
    let runner = Runner::new(&args.place.dir)?;
    tell_left_out(&runner);
    let mut total = Total::default();
    for _ in 0..args.repeat {
        let outcome = runner.run(&plan)?;
        tell(&outcome);
        total.add(&outcome);
        if outcome.info.verdict == Verdict::Invalid || runner.interrupted.load(Ordering::SeqCst) {
            break;
        }
    }
    finish(&runner, &total)
}

fn shrink_plan(args: &ShrinkArgs) -> Result<Verdict> {
    let plan = Plan::read(&args.plan)?;
    let runner = Runner::new(&args.place.dir)?;
    let mut total = Total::default();
    let mut fails = |candidate: &Plan| -> Result<bool> {
        let mut failed = 0;
        for left in (0..args.repeat).rev() {
            if runner.interrupted.load(Ordering::SeqCst) {
                bail!("interrupted");
            }
            let outcome = runner.run(candidate)?;
            total.add(&outcome);
            failed += u32::from(outcome.info.verdict == Verdict::Invalid);
            if failed >= args.fails || failed + left < args.fails {
                break;
            }
        }
        println!("{} steps: failed {failed} times", candidate.steps.len());
        Ok(failed >= args.fails)
    };
    if !fails(&plan)? {
        println!(
            "unknown: the plan did not fail {} times in {} runs",
            args.fails, args.repeat
        );
        return Ok(Verdict::Unknown);
    }
    let small = shrink::shrink(&plan, args.budget, &mut fails)?;
    let path = args.plan.with_extension("shrunk.json");
    small.write(&path)?;
    for step in &small.steps {
        println!(
            "{:6} ms  {} for {} ms: {:?}",
            step.at_ms, step.name, step.for_ms, step.fault
        );
    }
    let (was, now) = (plan.steps.len(), small.steps.len());
    println!("invalid: {now} of {was} steps are left, in {}", path.display());
    Ok(Verdict::Invalid)
}

/// Counts over runs.
#[derive(Default)]
pub(crate) struct Total {
    pub(crate) valid: u32,
    pub(crate) invalid: u32,
    pub(crate) unknown: u32,
    pub(crate) failures: u32,
    pub(crate) faults: usize,
    pub(crate) answered: usize,
}

impl Total {
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        match outcome.info.verdict {
            _ if outcome.info.harness_error.is_some() => self.failures += 1,
            Verdict::Valid => self.valid += 1,
            Verdict::Invalid => self.invalid += 1,
            Verdict::Unknown => self.unknown += 1,
        }
        self.faults += outcome.installed();
        self.answered += outcome.answered();
    }

    pub(crate) fn verdict(&self) -> Verdict {
        if self.invalid > 0 {
            Verdict::Invalid
        } else if self.unknown + self.failures > 0 || self.valid == 0 {
            Verdict::Unknown
        } else {
            Verdict::Valid
        }
    }

    pub(crate) fn line(&self) -> String {
        format!(
            "{}: {} runs valid, {} invalid, {} unknown, {} harness failures; {} faults installed, {} operations answered",
            word(self.verdict()),
            self.valid,
            self.invalid,
            self.unknown,
            self.failures,
            self.faults,
            self.answered
        )
    }
}

/// A verdict as a word.
#[must_use]
pub fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Valid => "valid",
        Verdict::Invalid => "invalid",
        Verdict::Unknown => "unknown",
    }
}

fn tell_left_out(runner: &Runner) {
    for sentence in runner.left_out() {
        println!("left out: {sentence}");
    }
}

/// One run in a few lines.
pub(crate) fn tell(outcome: &Outcome) {
    let info = &outcome.info;
    println!(
        "run {}: {} in {:.1} s, {} faults, {} answers, {}",
        info.seed,
        word(info.verdict),
        info.duration_ms as f64 / 1000.0,
        outcome.installed(),
        outcome.answered(),
        outcome.dir.display()
    );
    if let Some(error) = &info.harness_error {
        println!("  harness failure: {error}");
    }
    for finding in &outcome.findings {
        if finding.verdict != Verdict::Valid {
            println!(
                "  {} {}: {}",
                word(finding.verdict),
                finding.checker,
                finding.summary
            );
            for line in finding.evidence.iter().take(5) {
                println!("    {line}");
            }
        }
    }
}

fn finish(runner: &Runner, total: &Total) -> Result<Verdict> {
    report::write_index(&runner.runs).context("the index of runs")?;
    println!("{}", total.line());
    Ok(total.verdict())
}
