//! Rows per second of CPU that the worker spends, on the queries of which a Flink was measured and on the example scripts:
//! what a row costs, whatever the number of processors.
//!
//! `cargo run --release -p benches --bin rows-per-cpu-second -- [--quick] [--output json] [SCRIPT.sql]...`

use anyhow::{Context, Result, anyhow, ensure};
use benches::output::{Form, Machine};
use benches::queries::{CSV_ROWS, QUERIES, write_bids};
use clap::Parser;
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tests::binary;
use tests::cluster::{Cluster, Options};
use tests::script::options_of;
use tests::stats::Samples;

/// Rows per CPU-second of bounded scripts.
#[derive(Debug, Parser)]
struct Args {
    /// One run of each, on a tenth of the rows.
    #[arg(long)]
    quick: bool,
    /// Runs of each script.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Form of the results.
    #[arg(long, value_enum, default_value_t)]
    output: Form,
    /// Only the queries whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
    /// Scripts; by default the peer's queries and all of examples/ whose input ends.
    scripts: Vec<PathBuf>,
}

#[derive(Debug, Serialize)]
struct Run {
    rows: u64,
    cpu_seconds: f64,
    wall_seconds: f64,
    rows_per_cpu_second: f64,
}

#[derive(Debug, Serialize)]
struct Script {
    script: String,
    rows_per_cpu_second_p50: f64,
    /// What Flink 2.2.1 reached with this query where it was measured; not on this machine, not in this run.
    flink_rows_per_cpu_second: Option<f64>,
    runs: Vec<Run>,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    machine: Machine,
    scripts: Vec<Script>,
}

/// A query that is to be measured.
struct Todo {
    name: String,
    text: String,
    rows: Option<u64>,
    flink: Option<f64>,
}

/// A script whose paths are absolute: input from the workspace, output below the cluster's directory.
fn with_absolute_paths(text: &str, out: &Path) -> String {
    let mut text = text.to_owned();
    for option in options_of(&text, "path") {
        let input = binary::workspace().join(&option.value);
        let path = if input.exists() {
            input
        } else {
            out.join(&option.table)
        };
        text = text.replace(&format!("'{}'", option.value), &format!("'{}'", path.display()));
    }
    text
}

/// Runs a script to its end; `wanted` is the number of rows that it must read, if that is known.
fn measure(name: &str, text: &str, wanted: Option<u64>) -> Result<Run> {
    let options = Options {
        coordinators: 1,
        workers: 1,
        slots: 2,
        ..Options::default()
    };
    let cluster = Cluster::start("rows-per-cpu-second", options)?;
    let worker = cluster
        .workers()?
        .into_iter()
        .next()
        .ok_or_else(|| anyhow!("no worker"))?;
    let (before, start) = (worker.cpu_time()?, Instant::now());
    let id = cluster.submit(&with_absolute_paths(text, &cluster.home().join("out")))?;
    cluster.wait_state(&id, "FINISHED", Duration::from_secs(900))?;
    let (cpu, wall) = (worker.cpu_time()?.saturating_sub(before), start.elapsed());
    let job = cluster
        .rest()
        .get(&format!("/v1/jobs/{}", id.0), Duration::from_secs(10))?;
    let rows = job["records-in"].as_u64().unwrap_or(0);
    ensure!(
        rows > 0 && wanted.is_none_or(|w| w == rows),
        "{name} read {rows} rows: {job}"
    );
    ensure!(cpu > Duration::ZERO, "{name} used no CPU time");
    Ok(Run {
        rows,
        cpu_seconds: cpu.as_secs_f64(),
        wall_seconds: wall.as_secs_f64(),
        rows_per_cpu_second: rows as f64 / cpu.as_secs_f64(),
    })
}

fn default_scripts() -> Result<Vec<PathBuf>> {
    let dir = binary::workspace().join("examples");
    let entries = std::fs::read_dir(&dir).with_context(|| dir.display().to_string())?;
    let mut scripts: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    scripts.retain(|path| path.extension().is_some_and(|e| e == "sql"));
    scripts.sort();
    Ok(scripts)
}

fn main() -> Result<()> {
    let args = Args::parse();
    let runs = if args.quick { 1 } else { args.runs };
    let paths = if args.scripts.is_empty() {
        default_scripts()?
    } else {
        args.scripts.clone()
    };
    let data = tempfile::tempdir()?;
    let mut todo: Vec<Todo> = Vec::new();
    if args.scripts.is_empty() {
        let share = if args.quick { 10 } else { 1 };
        write_bids(data.path(), CSV_ROWS / share)?;
        todo.extend(QUERIES.iter().map(|query| Todo {
            name: query.name.to_owned(),
            text: query.script(query.rows / share, data.path()),
            rows: Some(query.rows / share),
            flink: Some(query.flink_rows_per_cpu_second),
        }));
    }
    for path in paths {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
        todo.push(Todo {
            name: name.unwrap_or_default(),
            text: std::fs::read_to_string(&path).with_context(|| path.display().to_string())?,
            rows: None,
            flink: None,
        });
    }
    let mut scripts = Vec::new();
    for query in todo.into_iter().filter(|q| q.name.contains(&args.only)) {
        let name = query.name;
        let measured: Vec<Run> = (0..runs)
            .map(|_| measure(&name, &query.text, query.rows))
            .collect::<Result<_>>()?;
        eprintln!("{name}: {measured:?}");
        let rates: Samples = measured.iter().map(|r| r.rows_per_cpu_second).collect();
        scripts.push(Script {
            script: name,
            rows_per_cpu_second_p50: rates.p50(),
            flink_rows_per_cpu_second: query.flink,
            runs: measured,
        });
    }
    let report = Report {
        benchmark: "rows-per-cpu-second",
        machine: Machine::this(),
        scripts,
    };
    args.output.print(&report, |r| {
        let mut text = String::from(
            "script                     rows   CPU s  wall s   rows per CPU-second   of Flink's",
        );
        for script in &r.scripts {
            for run in &script.runs {
                let ratio = script.flink_rows_per_cpu_second.map_or(String::new(), |flink| {
                    format!("{:.1}", run.rows_per_cpu_second / flink)
                });
                let _ = write!(
                    text,
                    "\n{:<20} {:>10} {:>7.2} {:>7.2} {:>21.0} {ratio:>12}",
                    script.script, run.rows, run.cpu_seconds, run.wall_seconds, run.rows_per_cpu_second
                );
            }
        }
        text
    })
}
