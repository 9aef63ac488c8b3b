//! Failover of Holdfast, of Flink with ZooKeeper, and of etcd, side by side, and the page about it.
//!
//!     cargo run --release -p benches --bin failover -- [--runs N] [--only SYSTEM[/CASE],…] [--flink FLINK_SH]
//!     cargo run --release -p benches --bin failover -- --from docs/failover.json
//!
//! Every case is kept in the results file when it is done; a second start goes on with those that are missing.

use anyhow::{Context, Result};
use benches::failover::{self, Entry, PLAN, Results, page};
use benches::output::Machine;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The gaps that failures cause, side by side.
#[derive(Debug, Parser)]
struct Args {
    /// Failures of each case.
    #[arg(long, default_value_t = 100)]
    runs: usize,
    /// Failures of each case on Flink: one takes up to a minute.
    #[arg(long, default_value_t = 20)]
    flink_runs: usize,
    /// Two failures of each case.
    #[arg(long)]
    quick: bool,
    /// Only these: `holdfast`, `etcd`, `flink-tuned/worker`, …
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Rows per second of the job.
    #[arg(long, default_value_t = 1000)]
    load: u64,
    /// Longest time for one case; it ends with the failures that it has by then.
    #[arg(long, default_value_t = 30)]
    minutes_per_case: u64,
    /// The script that runs Flink (its `setup` must have been run); without it Flink is left out.
    #[arg(long)]
    flink: Option<PathBuf>,
    /// Flink's directory.
    #[arg(long, default_value = "target/peers/flink")]
    flink_work: PathBuf,
    /// Where results are kept: beside the page, so that a case can be measured again by itself.
    #[arg(long, default_value = "docs/failover.json")]
    results: PathBuf,
    /// Measure again what the results have already.
    #[arg(long)]
    again: bool,
    /// Measure nothing: write the page from these results.
    #[arg(long)]
    from: Option<PathBuf>,
    /// Where the page and its plots are written.
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.quick {
        (args.runs, args.flink_runs) = (2, 2);
    }
    if let Some(from) = &args.from {
        let results = Results::read(from)?.with_context(|| format!("there is no {}", from.display()))?;
        return write_page(&results, &args.docs);
    }
    let mut results = Results::read(&args.results)?.unwrap_or_default();
    results.machine = Some(Machine::this());
    results.load = args.load;
    let mut flink: Option<(bool, failover::flink::Flink)> = None;
    for (system, case) in PLAN {
        let of_flink = system.starts_with("flink");
        let left_out = of_flink && args.flink.is_none();
        let done = results.entry(system, case).is_some_and(|e| e.runs > 0) && !args.again;
        if !failover::wanted(&args.only, system, case) || left_out || done {
            continue;
        }
        // One system at a time.
        let tuned = system == "flink-tuned";
        if flink.as_ref().is_some_and(|(t, _)| !of_flink || *t != tuned) {
            flink = None;
        }
        eprintln!("== {system} {case}");
        match measure(&args, system, case, &mut flink) {
            Ok(mut entry) => {
                entry.measured = chrono::Local::now().format("%Y-%m-%d").to_string();
                results.put(entry);
                results.write(&args.results)?;
            }
            Err(error) => eprintln!("{system} {case}: not measured: {error:#}"),
        }
    }
    drop(flink);
    write_page(&results, &args.docs)
}

fn measure(
    args: &Args,
    system: &str,
    case: &str,
    flink: &mut Option<(bool, failover::flink::Flink)>,
) -> Result<Entry> {
    let deadline = Duration::from_secs(args.minutes_per_case * 60);
    match system {
        "etcd" => failover::etcd::run(args.runs, deadline, &std::env::temp_dir()),
        "flink" | "flink-tuned" => {
            let tuned = system == "flink-tuned";
            if flink.is_none() {
                let script = args.flink.as_ref().context("--flink names no script")?;
                std::fs::create_dir_all(&args.flink_work)?;
                let work = args.flink_work.canonicalize()?;
                *flink = Some((tuned, failover::flink::Flink::start(script, &work, tuned)?));
            }
            let (_, running) = flink.as_ref().context("Flink does not run")?;
            failover::flink::run(running, case, args.flink_runs, args.load, deadline)
        }
        _ => failover::holdfast::run(system, case, args.runs, args.load, deadline),
    }
}

fn write_page(results: &Results, docs: &Path) -> Result<()> {
    std::fs::create_dir_all(docs)?;
    for (name, content) in page::files(results) {
        let path = docs.join(name);
        std::fs::write(&path, content).with_context(|| path.display().to_string())?;
        println!("wrote {}", path.display());
    }
    Ok(())
}
