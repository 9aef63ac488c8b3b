//! `kill -9` (or SIGTERM) of the leading coordinator again and again: how long writes and reads are not served.
//!
//! `cargo run --release -p benches --bin failover -- [--quick] [--graceful] [--output json]`

use anyhow::{Result, anyhow};
use benches::output::{Form, Machine};
use clap::Parser;
use nix::sys::signal::Signal;
use serde::Serialize;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::cluster::{Cluster, Options};
use tests::probe::{Kind, Probe};
use tests::stats::Samples;
use tests::wait::{self, SOON};

/// The gap in service that a leader's end causes.
#[derive(Debug, Parser)]
struct Args {
    /// Five runs.
    #[arg(long)]
    quick: bool,
    /// Runs.
    #[arg(long, default_value_t = 50)]
    runs: usize,
    /// SIGTERM instead of SIGKILL.
    #[arg(long)]
    graceful: bool,
    /// Election timing: standard, fast or relaxed.
    #[arg(long, default_value = "standard")]
    profile: String,
    /// Form of the results.
    #[arg(long, value_enum, default_value_t)]
    output: Form,
}

#[derive(Debug, Serialize)]
struct Gap {
    p50: f64,
    max: f64,
    samples: Vec<f64>,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    case: &'static str,
    profile: String,
    runs: usize,
    machine: Machine,
    write_gap_ms: Gap,
    read_gap_ms: Gap,
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.quick {
        args.runs = args.runs.min(5);
    }
    let options = Options {
        workers: 0,
        ..Options::default()
    };
    let cluster = Cluster::start(
        "failover",
        options.set("high-availability.raft.profile", &args.profile),
    )?;
    let every = Duration::from_millis(5);
    let writes = Probe::start(cluster.rest(), Kind::Write, every);
    let reads = Probe::start(cluster.rest(), Kind::Read, every);
    let (mut write_gaps, mut read_gaps) = (Samples::new(), Samples::new());
    for run in 0..args.runs {
        // A phase that has nothing to do with heartbeats.
        sleep(Duration::from_millis(700 + (run as u64 * 37) % 150));
        let leader = cluster.leader()?;
        let at = Instant::now();
        cluster.signal(
            &leader,
            if args.graceful {
                Signal::SIGTERM
            } else {
                Signal::SIGKILL
            },
        )?;
        wait::until("a write after the leader's end", SOON, || {
            Ok(writes.first_success_after(at))
        })
        .map_err(|error| anyhow!("{error:#}; errors of the probe: {:?}", writes.errors()))?;
        cluster.wait_restarted(&leader)?;
        cluster.refresh_addresses()?;
        cluster.wait_coordinators_agree()?;
        write_gaps.push(writes.longest_gap(at, Instant::now()));
        read_gaps.push(reads.longest_gap(at, Instant::now()));
        eprintln!("run {run}: write gap {:.1} ms", write_gaps.millis()[run]);
    }
    let gap = |samples: &Samples| Gap {
        p50: samples.p50(),
        max: samples.max(),
        samples: samples.millis().to_vec(),
    };
    let report = Report {
        benchmark: "failover",
        case: if args.graceful {
            "leader-graceful"
        } else {
            "leader"
        },
        profile: args.profile.clone(),
        runs: args.runs,
        machine: Machine::this(),
        write_gap_ms: gap(&write_gaps),
        read_gap_ms: gap(&read_gaps),
    };
    args.output.print(&report, |r| {
        format!(
            "{} x {} ({}): write gap p50 {:.0} ms, max {:.0} ms; read gap p50 {:.0} ms, max {:.0} ms",
            r.runs,
            r.case,
            r.profile,
            r.write_gap_ms.p50,
            r.write_gap_ms.max,
            r.read_gap_ms.p50,
            r.read_gap_ms.max
        )
    })
}
