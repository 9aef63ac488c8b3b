//! How long a checkpoint takes against the state that it holds: a job whose state grows by a key per row.
//!
//! `cargo run --release -p benches --bin checkpoint-size -- [--quick] [--output json]`

use anyhow::{Context, Result, ensure};
use benches::output::{Form, Machine};
use clap::Parser;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::thread::sleep;
use std::time::{Duration, Instant};
use tests::cluster::{Cluster, Options};

/// Checkpoint time against state size.
#[derive(Debug, Parser)]
struct Args {
    /// Up to 20 MB.
    #[arg(long)]
    quick: bool,
    /// State at which to stop, in MB.
    #[arg(long, default_value_t = 500)]
    megabytes: u64,
    /// Rows, hence keys, per second.
    #[arg(long, default_value_t = 200_000)]
    rate: u64,
    /// Longest time.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// Form of the results.
    #[arg(long, value_enum, default_value_t)]
    output: Form,
}

#[derive(Debug, Clone, Serialize)]
struct Checkpoint {
    id: u64,
    state_bytes: u64,
    duration_ms: u64,
    /// The longest that a task stood still for it, in microseconds.
    sync_us_max: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Report {
    benchmark: &'static str,
    machine: Machine,
    checkpoints: Vec<Checkpoint>,
}

fn script(rate: u64) -> String {
    format!(
        "SET 'execution.checkpointing.interval' = '1 s';
SET 'parallelism.default' = '2';
CREATE TABLE numbers (
  n BIGINT,
  ts AS TO_TIMESTAMP_LTZ(n / 1000, 3),
  WATERMARK FOR ts AS ts
) WITH (
  'connector' = 'datagen', 'rows-per-second' = '{rate}',
  'fields.n.kind' = 'sequence', 'fields.n.start' = '0', 'fields.n.end' = '80000000000'
);
CREATE TABLE nowhere (n BIGINT, c BIGINT, s BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO nowhere
SELECT n, COUNT(*), SUM(n)
FROM TABLE(TUMBLE(TABLE numbers, DESCRIPTOR(ts), INTERVAL '1' DAY))
GROUP BY window_start, window_end, n;
"
    )
}

/// Checkpoint and standstill of a task, from a line of a worker's log.
fn stood_still(line: &str) -> Option<(u64, u64)> {
    let number = |name: &str| -> Option<u64> {
        let (_, rest) = line.split_once(name)?;
        let digits = rest.trim_start_matches(|c: char| !c.is_ascii_digit());
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        digits[..end].parse().ok()
    };
    let sync_us = number("sync_us")?;
    Some((number("checkpoint")?, sync_us))
}

fn main() -> Result<()> {
    let mut args = Args::parse();
    if args.quick {
        args.megabytes = args.megabytes.min(20);
        args.seconds = args.seconds.min(30);
    }
    let cluster = Cluster::start(
        "checkpoint-size",
        Options {
            coordinators: 1,
            workers: 2,
            ..Options::default()
        }
        .set("env.log.level", "info,holdfast_worker::agent::snapshots=debug"),
    )?;
    let id = cluster.submit_running(&script(args.rate))?;
    let start = Instant::now();
    let mut seen: BTreeMap<u64, Checkpoint> = BTreeMap::new();
    while start.elapsed() < Duration::from_secs(args.seconds) {
        sleep(Duration::from_millis(500));
        let view = cluster.checkpoints_json(&id)?;
        for line in view["history"].as_array().into_iter().flatten() {
            let number = |name: &str| line[name].as_u64().unwrap_or(0);
            if line["status"] == "COMPLETED" && number("state_size") > 0 {
                let checkpoint = Checkpoint {
                    id: number("id"),
                    state_bytes: number("state_size"),
                    duration_ms: number("end_to_end_duration"),
                    sync_us_max: None,
                };
                seen.insert(checkpoint.id, checkpoint);
            }
        }
        if let Some(newest) = seen.values().next_back() {
            eprintln!("{} MB, {} ms", newest.state_bytes >> 20, newest.duration_ms);
            if newest.state_bytes >> 20 >= args.megabytes {
                break;
            }
        }
    }
    cluster.cancel(&id)?;
    for log in cluster.worker_logs()? {
        let text = std::fs::read_to_string(&log).with_context(|| log.display().to_string())?;
        for (id, sync_us) in text.lines().filter_map(stood_still) {
            if let Some(checkpoint) = seen.get_mut(&id) {
                checkpoint.sync_us_max = checkpoint.sync_us_max.max(Some(sync_us));
            }
        }
    }
    ensure!(!seen.is_empty(), "no checkpoint was completed");
    let report = Report {
        benchmark: "checkpoint-size",
        machine: Machine::this(),
        checkpoints: seen.into_values().collect(),
    };
    args.output.print(&report, |r| {
        let mut text = String::from("checkpoint   state MB   duration ms   longest standstill us");
        for c in &r.checkpoints {
            let megabytes = c.state_bytes as f64 / f64::from(1 << 20);
            let sync_us = c.sync_us_max.map_or_else(|| "-".to_owned(), |us| us.to_string());
            let _ = write!(
                text,
                "\n{:>10} {megabytes:>10.1} {:>13} {sync_us:>23}",
                c.id, c.duration_ms
            );
        }
        text
    })
}
