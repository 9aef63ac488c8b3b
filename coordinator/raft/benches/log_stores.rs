//! The log stores beside each other: appends that wait for the disk, and opening again. Run with
//! `cargo bench -p holdfast-raft --features rocksdb,sled --bench log-stores -- [--output json] [--dir DIR] [--appends N]`.
//! The directory must lie on the disk that is meant: a file system in memory makes syncing free.

use holdfast_raft::LogStoreKind;
use holdfast_raft::log_bench::{Load, Measured, measure};
use std::path::PathBuf;

const ENTRY_BYTES: usize = 256;
const BATCHES: [u64; 3] = [1, 16, 256];
const IN_FLIGHT: [usize; 2] = [1, 16];

struct Options {
    json: bool,
    dir: PathBuf,
    appends: u64,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        json: false,
        dir: PathBuf::from("."),
        appends: 1000,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        match arg.as_str() {
            // Cargo's own.
            "--bench" => {}
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let options = options()?;
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
