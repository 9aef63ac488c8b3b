//! The log stores beside each other: appends that wait for the disk, and opening again. Run with
//! `cargo bench -p holdfast-raft --features rocksdb,sled --bench log-stores -- [--output json] [--dir DIR] [--appends N]`.
//! With `--disk` instead what the disk takes for three files at one moment, growing or allocated beforehand.
//! The directory must lie on the disk that is meant: a file system in memory makes syncing free.

use holdfast_raft::LogStoreKind;
use holdfast_raft::log_bench::{Load, Measured, measure, quorum_syncs};
use std::path::{Path, PathBuf};

const ENTRY_BYTES: usize = 256;
const BATCHES: [u64; 3] = [1, 16, 256];
const IN_FLIGHT: [usize; 2] = [1, 16];

struct Options {
    json: bool,
    dir: PathBuf,
    appends: u64,
    disk: bool,
}

/// Turns of growing and allocated files.
const TURNS: usize = 5;

fn options() -> Result<Options, String> {
    let mut options = Options {
        json: false,
        dir: PathBuf::from("."),
        appends: 1000,
        disk: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            // Cargo's own.
            "--bench" => {}
            "--disk" => options.disk = true,
            "--output" => options.json = value()? == "json",
            "--dir" => options.dir = value()?.into(),
            "--appends" => {
                options.appends = value()?.parse().map_err(|error| format!("--appends: {error}"))?
            }
            other => return Err(format!("unknown argument '{other}'")),
        }
    }
    Ok(options)
}

fn kinds() -> Vec<LogStoreKind> {
    let mut kinds = vec![LogStoreKind::RaftLog];
    if cfg!(feature = "rocksdb") {
        kinds.push(LogStoreKind::RocksDb);
    }
    if cfg!(feature = "sled") {
        kinds.push(LogStoreKind::Sled);
    }
    kinds
}

fn json(kind: LogStoreKind, load: Load, m: Measured) -> String {
    format!(
        "{{\"store\":\"{kind}\",\"batch\":{},\"entry_bytes\":{},\"in_flight\":{},\"appends\":{},\"entries_per_s\":{:.1},\
         \"p50_us\":{},\"p99_us\":{},\"reopen_ms\":{:.2},\"bytes_on_disk\":{}}}",
        load.batch,
        load.entry_bytes,
        load.in_flight,
        load.appends,
        m.entries_per_s,
        m.p50_us,
        m.p99_us,
        m.reopen_ms,
        m.bytes_on_disk
    )
}

fn row(kind: LogStoreKind, load: Load, m: Measured) -> String {
    format!(
        "{:<9} {:>5} {:>9} {:>12.0} {:>8} {:>8} {:>9.1} {:>9.1}",
        kind.to_string(),
        load.batch,
        load.in_flight,
        m.entries_per_s,
        m.p50_us,
        m.p99_us,
        m.reopen_ms,
        m.bytes_on_disk as f64 / f64::from(1 << 20)
    )
}

/// One line per turn: the median and the slowest hundredth, in microseconds.
fn disk(dir: &Path, rounds: usize, as_json: bool) -> Result<(), Box<dyn std::error::Error>> {
    if !as_json {
        println!("files          rounds   p50 us   p99 us");
    }
    let mut results = Vec::new();
    for allocated in [false, true].repeat(TURNS) {
        let files = if allocated { "allocated" } else { "growing" };
        let own = dir.join(format!("disk-{files}"));
        std::fs::create_dir(&own)?;
        let times = quorum_syncs(&own, allocated, rounds);
        std::fs::remove_dir_all(&own)?;
        let times = times?;
        let at = |hundredth: usize| {
            times
                .get(times.len() * hundredth / 100)
                .map_or(0, |t| t.as_micros())
        };
        if as_json {
            results.push(format!(
                "{{\"files\":\"{files}\",\"rounds\":{rounds},\"p50_us\":{},\"p99_us\":{}}}",
                at(50),
                at(99)
            ));
        } else {
            println!("{files:<14} {rounds:>6} {:>8} {:>8}", at(50), at(99));
        }
    }
    if as_json {
        println!("[{}]", results.join(",\n"));
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
    if options.disk {
        return disk(&options.dir, usize::try_from(options.appends)?, options.json);
    }
    if !options.json {
        println!("store     batch in flight    entries/s   p50 us   p99 us reopen ms  disk MiB");
    }
    let mut results = Vec::new();
    for kind in kinds() {
        for (batch, in_flight) in BATCHES
            .iter()
            .flat_map(|b| IN_FLIGHT.iter().map(move |n| (*b, *n)))
        {
            let load = Load {
                batch,
                entry_bytes: ENTRY_BYTES,
                in_flight,
                appends: options.appends,
            };
            let dir = options.dir.join(format!("log-stores-{kind}-{batch}-{in_flight}"));
            std::fs::create_dir(&dir)?;
            let measured = measure(kind, &dir, load);
            std::fs::remove_dir_all(&dir)?;
            let measured = measured?;
            if options.json {
                results.push(json(kind, load, measured));
            } else {
                println!("{}", row(kind, load, measured));
            }
        }
    }
    if options.json {
        println!("[{}]", results.join(",\n"));
    }
    Ok(())
}
