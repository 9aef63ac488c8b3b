//! Whether a healthy leader is ever replaced: a cluster under light load beside processes that burn processor time and
//! sync files without a pause. Every change of the leader is a false alarm, as nothing fails here.
//!
//! `cargo run --release -p benches --bin false-elections -- [--minutes 60] [--cpu 3] [--fsync 3] [--output json]`

use anyhow::{Context, Result};
use benches::holdfast::{Leader, Session, leader_rpc, term};
use benches::load::{self, Measured};
use benches::output::{Form, Machine};
use clap::{Parser, ValueEnum};
use serde::Serialize;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tests::cluster::{Cluster, Options};

/// Length of one measurement, after each of which a line is printed.
const TURN: Duration = Duration::from_secs(60);
/// What one write of the disk's hog holds.
const HOG_BYTES: usize = 256 << 10;

/// Counts elections of a cluster in which nothing fails, on a machine that is busy with something else.
#[derive(Debug, Parser)]
struct Args {
    /// How long.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// Processes that burn processor time, at the cluster's own priority.
    #[arg(long, default_value_t = 3)]
    cpu: usize,
    /// Processes that write and sync without a pause, on the cluster's disk.
    #[arg(long, default_value_t = 3)]
    fsync: usize,
    /// Clients that write, each its next value when the last one is answered.
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// `high-availability.raft.profile`.
    #[arg(long, default_value = "standard")]
    profile: String,
    /// Form of the results.
    #[arg(long, value_enum, default_value_t)]
    output: Form,
    /// Be one of the processes that disturb, until killed.
    #[arg(long, hide = true)]
    hog: Option<Hog>,
    /// File of the disk's hog.
    #[arg(long, hide = true, default_value = "hog")]
    file: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Hog {
    Cpu,
    Fsync,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    machine: Machine,
    profile: String,
    minutes: f64,
    cpu_hogs: usize,
    fsync_hogs: usize,
    /// Terms that began after the first leader's.
    elections: u64,
    writes: usize,
    longest_write_ms: f64,
    worst_minute_p99_ms: f64,
    /// Writes that had to be repeated.
    retries: u64,
    /// What followers noted of a leader that they did not hear for half a lease and longer, but heard again.
    silences: Vec<u64>,
}

/// The silences in the coordinators' logs, in milliseconds, the longest last.
fn silences(cluster: &Cluster) -> Result<Vec<u64>> {
    let mut all = Vec::new();
    for coordinator in cluster.coordinators()? {
        let Some(log) = coordinator.log else { continue };
        let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        let said = text.lines().filter(|line| line.contains("the leader was silent"));
        all.extend(said.filter_map(|line| line.rsplit_once("silent_ms=")?.1.trim().parse::<u64>().ok()));
    }
    all.sort_unstable();
    Ok(all)
}

/// Children that end with this process's interest in them.
struct Hogs(Vec<Child>);

impl Hogs {
    fn start(args: &Args, dir: &Path) -> Result<Self> {
        let mut hogs = Self(Vec::new());
        let program = std::env::current_exe().context("the path of this program")?;
        let kinds = [("cpu", args.cpu), ("fsync", args.fsync)];
        for (kind, count) in kinds {
            for n in 0..count {
                let child = Command::new(&program)
                    .args(["--hog", kind, "--file"])
                    .arg(dir.join(format!("hog-{n}")))
                    .stdin(Stdio::null())
                    .spawn()
                    .context("starting a process that disturbs")?;
                hogs.0.push(child);
            }
        }
        Ok(hogs)
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Disturbs for as long as whoever started it lives.
fn be_a_hog(hog: Hog, file: &Path) -> Result<()> {
    let parent = nix::unistd::getppid();
    if hog == Hog::Cpu {
        let mut n = 0_u64;
        while nix::unistd::getppid() == parent {
            for _ in 0..1 << 24 {
                n = std::hint::black_box(n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1));
            }
        }
        return Ok(());
    }
    let block = vec![7; HOG_BYTES];
    let mut out = std::fs::File::create(file).with_context(|| file.display().to_string())?;
    while nix::unistd::getppid() == parent {
        out.seek(SeekFrom::Start(0))?;
        out.write_all(&block)?;
        out.sync_all()?;
    }
    Ok(())
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(hog) = args.hog {
        return be_a_hog(hog, &args.file);
    }
    let options = Options {
        workers: 0,
        ..Options::default()
    };
    let options = options.set("high-availability.raft.profile", &args.profile);
    let mut cluster = Cluster::start("false-elections", options)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let rpcs = cluster.coordinators()?.into_iter().filter_map(|c| c.rpc);
    let leader = runtime.block_on(Leader::connect(&leader_rpc(&cluster)?, rpcs.collect()))?;
    let first = term(&cluster)?;
    let hogs = Hogs::start(&args, cluster.home())?;
    let (start, length) = (Instant::now(), Duration::from_secs(args.minutes * 60));
    let mut turns: Vec<Measured> = Vec::new();
    while start.elapsed() < length {
        let turn = TURN.min(length.saturating_sub(start.elapsed()));
        let measured = runtime.block_on(async {
            let mut writers = Vec::new();
            for _ in 0..args.clients {
                writers.push(Session::open(&leader).await?);
            }
            load::run(writers, Duration::ZERO, turn).await
        })?;
        eprintln!(
            "{:>4} min: {:>6.0} writes/s, p50 {:>6.1} ms, p99 {:>6.1} ms, max {:>6.0} ms, {} elections so far",
            start.elapsed().as_secs() / 60,
            measured.per_second,
            measured.p50_ms,
            measured.p99_ms,
            measured.max_ms,
            term(&cluster)?.saturating_sub(first)
        );
        turns.push(measured);
    }
    let worst = |of: fn(&Measured) -> f64| turns.iter().map(of).fold(0.0, f64::max);
    let report = Report {
        benchmark: "false-elections",
        machine: Machine::this(),
        profile: args.profile.clone(),
        minutes: start.elapsed().as_secs_f64() / 60.0,
        cpu_hogs: args.cpu,
        fsync_hogs: args.fsync,
        elections: term(&cluster)?.saturating_sub(first),
        writes: turns.iter().map(|m| m.writes).sum(),
        longest_write_ms: worst(|m| m.max_ms),
        worst_minute_p99_ms: worst(|m| m.p99_ms),
        retries: turns.iter().map(|m| m.retries).sum(),
        silences: silences(&cluster)?,
    };
    drop(hogs);
    if report.elections > 0
        && let Some(kept) = cluster.keep()
    {
        eprintln!("the logs say when and why: {}", kept.display());
    }
    args.output.print(&report, |r| {
        format!(
            "{} elections in {:.1} minutes beside {} CPU and {} fsync hogs ({}); {} writes, the longest {:.0} ms, p99 of \
             the worst minute {:.1} ms, {} repeated; {} silences of the leader, the longest {} ms",
            r.elections,
            r.minutes,
            r.cpu_hogs,
            r.fsync_hogs,
            r.profile,
            r.writes,
            r.longest_write_ms,
            r.worst_minute_p99_ms,
            r.retries,
            r.silences.len(),
            r.silences.last().copied().unwrap_or_default()
        )
    })
}
