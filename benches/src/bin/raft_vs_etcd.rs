//! Raft commits beside etcd: same client, same disk, same value size, rounds in turn.
//!
//! `cargo run --release -p benches --bin raft-vs-etcd -- [--quick] [--output json]`

use anyhow::{Context, Result};
use benches::etcd::{Etcd, Putter};
use benches::holdfast::{Leader, Session, connect, leader_rpc, term};
use benches::load::{self, Measured};
use benches::output::{Form, Machine};
use clap::Parser;
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;
use tests::cluster::{Cluster, Options};
use tests::stats::Samples;

/// Raft commits per second and their latency, Holdfast beside etcd.
#[derive(Debug, Parser)]
struct Args {
    /// One short round.
    #[arg(long)]
    quick: bool,
    /// Rounds; the order of the two changes from round to round.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Clients at once.
    #[arg(long, value_delimiter = ',', default_value = "1,16,256")]
    clients: Vec<usize>,
    /// Holdfast's log store.
    #[arg(long, default_value = "raft-log")]
    log_store: String,
    /// Directory for both clusters' data; choose the disk with it. Default: the system's temporary directory.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Form of the results.
    #[arg(long, value_enum, default_value_t)]
    output: Form,
}

#[derive(Debug, Serialize)]
struct Round {
    system: &'static str,
    version: String,
    round: usize,
    measured: Vec<Measured>,
}

#[derive(Debug, Serialize)]
struct Comparison {
    clients: usize,
    holdfast_per_second: f64,
    etcd_per_second: f64,
    ratio_p50: f64,
    ratio_min: f64,
    ratio_max: f64,
    holdfast_p99_ms: f64,
    etcd_p99_ms: f64,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    value_bytes: usize,
    seconds: f64,
    log_store: String,
    machine: Machine,
    comparisons: Vec<Comparison>,
    rounds: Vec<Round>,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.quick {
        args.rounds = 1;
        args.seconds = args.seconds.min(1.5);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        for first in [true, false] {
            let holdfast_turn = first == (round % 2 == 0);
            let result = if holdfast_turn {
                holdfast(&args, &runtime, round)
            } else {
                etcd(&args, &runtime, round)
            }?;
            eprintln!("round {round} {}: {:?}", result.system, result.measured);
            rounds.push(result);
        }
    }
    let report = Report {
        benchmark: "raft-vs-etcd",
        value_bytes: load::VALUE_BYTES,
        seconds: args.seconds,
        log_store: args.log_store.clone(),
        machine: Machine::this(),
        comparisons: compare(&args.clients, &rounds),
        rounds,
    };
    args.output.print(&report, text)
}

fn times(args: &Args) -> (Duration, Duration) {
    (
        Duration::from_secs_f64((args.seconds / 4.0).clamp(0.5, 2.0)),
        Duration::from_secs_f64(args.seconds),
    )
}

fn holdfast(args: &Args, runtime: &tokio::runtime::Runtime, round: usize) -> Result<Round> {
    let options = Options {
        workers: 0,
        ..Options::default()
    };
    let options = options.set("high-availability.raft.log-store", &args.log_store);
    let cluster = match &args.dir {
        Some(dir) => Cluster::start_in(dir, "raft-vs-etcd", options)?,
        None => Cluster::start("raft-vs-etcd", options)?,
    };
    let version = cluster.view()?["version"].as_str().unwrap_or_default().to_owned();
    let address = leader_rpc(&cluster)?;
    let (warm_up, time) = times(args);
    let rpcs = cluster
        .coordinators()?
        .into_iter()
        .filter_map(|c| c.rpc)
        .collect();
    let leader = runtime.block_on(Leader::connect(&address, rpcs))?;
    let mut measured = Vec::new();
    for clients in &args.clients {
        let before = term(&cluster)?;
        let mut result = runtime.block_on(async {
            let mut writers = Vec::new();
            for _ in 0..*clients {
                writers.push(Session::open(&leader).await?);
            }
            load::run(writers, warm_up, time).await.context("holdfast")
        })?;
        result.leader_changes = term(&cluster)?.saturating_sub(before);
        measured.push(result);
    }
    Ok(Round {
        system: "holdfast",
        version,
        round,
        measured,
    })
}

fn etcd(args: &Args, runtime: &tokio::runtime::Runtime, round: usize) -> Result<Round> {
    let dir = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let etcd = Etcd::start(&dir)?;
    let (warm_up, time) = times(args);
    runtime.block_on(async {
        let (address, version) = etcd.leader().await?;
        let channel = connect(&address).await?;
        let mut measured = Vec::new();
        for clients in &args.clients {
            let writers = (0..*clients).map(|_| Putter::new(channel.clone())).collect();
            measured.push(load::run(writers, warm_up, time).await.context("etcd")?);
        }
        Ok(Round {
            system: "etcd",
            version,
            round,
            measured,
        })
    })
}

fn compare(clients: &[usize], rounds: &[Round]) -> Vec<Comparison> {
    let of = |system: &str, at: usize, value: fn(&Measured) -> f64| -> Vec<f64> {
        let mut found: Vec<&Round> = rounds.iter().filter(|r| r.system == system).collect();
        found.sort_by_key(|r| r.round);
        found
            .iter()
            .filter_map(|r| r.measured.get(at))
            .map(value)
            .collect()
    };
    let median = |values: &[f64]| values.iter().copied().collect::<Samples>().p50();
    let mut comparisons = Vec::new();
    for (at, clients) in clients.iter().enumerate() {
        let (ours, theirs) = (
            of("holdfast", at, |m| m.per_second),
            of("etcd", at, |m| m.per_second),
        );
        let ratios: Samples = ours.iter().zip(&theirs).map(|(a, b)| a / b).collect();
        comparisons.push(Comparison {
            clients: *clients,
            holdfast_per_second: median(&ours),
            etcd_per_second: median(&theirs),
            ratio_p50: ratios.p50(),
            ratio_min: ratios.quantile(0.0),
            ratio_max: ratios.max(),
            holdfast_p99_ms: median(&of("holdfast", at, |m| m.p99_ms)),
            etcd_p99_ms: median(&of("etcd", at, |m| m.p99_ms)),
        });
    }
    comparisons
}

fn text(report: &Report) -> String {
    let mut text = format!(
        "{} bytes, {} s each, log store {}, {} x {}\n",
        report.value_bytes, report.seconds, report.log_store, report.machine.cpus, report.machine.model
    );
    let _ = writeln!(
        text,
        "round system   clients   writes/s    p50 ms    p99 ms    max ms  retries  leader changes"
    );
    for round in &report.rounds {
        for m in &round.measured {
            let _ = writeln!(
                text,
                "{:>5} {:<8} {:>7} {:>10.0} {:>9.2} {:>9.2} {:>9.2} {:>8} {:>15}",
                round.round,
                round.system,
                m.clients,
                m.per_second,
                m.p50_ms,
                m.p99_ms,
                m.max_ms,
                m.retries,
                m.leader_changes
            );
        }
    }
    let _ = writeln!(
        text,
        "\nclients   holdfast/s     etcd/s   ratio (min .. max)        p99 ms (etcd)"
    );
    for c in &report.comparisons {
        let _ = writeln!(
            text,
            "{:>7} {:>12.0} {:>10.0} {:>7.2} ({:.2} .. {:.2}) {:>12.2} ({:.2})",
            c.clients,
            c.holdfast_per_second,
            c.etcd_per_second,
            c.ratio_p50,
            c.ratio_min,
            c.ratio_max,
            c.holdfast_p99_ms,
            c.etcd_p99_ms
        );
    }
    text
}
