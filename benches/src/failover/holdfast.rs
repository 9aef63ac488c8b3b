//! Holdfast's side: `holdfast drill` as users run it.

use super::Entry;
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// After the deadline, for the drill to stop its cluster and to print what it has.
const STOPPING: Duration = Duration::from_secs(90);

/// Runs one case.
///
/// # Errors
/// If it measured nothing.
pub fn run(system: &str, case: &str, runs: usize, load: u64, deadline: Duration) -> Result<Entry> {
    let binary = ::tests::binary::holdfast()?;
    let mut command = Command::new(&binary);
    command.args(["drill", case, "--output", "json"]);
    command.args(["--runs", &runs.to_string(), "--load", &load.to_string()]);
    if system == "holdfast-fast" {
        command.args(["--set", "high-availability.raft.profile=fast"]);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .env_remove("HOLDFAST_REST");
    let mut child = command.spawn().context("cannot start `holdfast drill`")?;
    let mut stdout = child.stdout.take().context("the drill has no output")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let started = Instant::now();
    let mut trouble = None;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() > deadline && trouble.is_none() {
            trouble = Some(format!("ended after {} s", deadline.as_secs()));
            kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGINT)?;
        }
        if started.elapsed() > deadline + STOPPING {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let text = reader
        .join()
        .map_err(|_| anyhow::anyhow!("the reader panicked"))??;
    if !status.success() && trouble.is_none() {
        trouble = Some(format!("`holdfast drill {case}` ended with {status}"));
    }
    if text.trim().is_empty() {
        bail!("`holdfast drill {case}` measured nothing: {status}");
    }
    let json: Value = serde_json::from_str(&text).context("the drill's answer is no JSON")?;
    let version = Command::new(&binary).arg("version").output()?;
    let what = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    Ok(Entry {
        what,
        trouble,
        ..entry(system, case, &json)
    })
}

/// The drill's object as an entry.
fn entry(system: &str, case: &str, json: &Value) -> Entry {
    let samples = |key: &str| {
        let list = json[key]["samples"].as_array();
        list.into_iter().flatten().filter_map(Value::as_f64).collect()
    };
    Entry {
        system: system.to_owned(),
        case: case.to_owned(),
        runs: json["runs"]
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .unwrap_or(0),
        write_gap_ms: samples("write_gap_ms"),
        read_gap_ms: samples("read_gap_ms"),
        output_gap_ms: samples("output_gap_ms"),
        detect_ms: samples("detect_ms"),
        elect_ms: samples("elect_ms"),
        reattach_ms: samples("reattach_ms"),
        caught_up_ms: samples("caught_up_ms"),
        tasks_restarted: json["tasks_restarted"].as_u64(),
        records_replayed: json["records_replayed"].as_u64(),
        rows_lost: json["rows_lost"].as_u64(),
        rows_doubled: json["rows_doubled"].as_u64(),
        ..Entry::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drills_object_is_read() {
        let json = serde_json::json!({
            "case": "leader", "runs": 2,
            "write_gap_ms": {"p50": 1.0, "max": 2.0, "samples": [1.0, 2.0]},
            "detect_ms": {"p50": null, "max": null, "samples": []},
            "rows_lost": 0
        });
        let entry = entry("holdfast", "leader", &json);
        assert_eq!(
            (entry.runs, entry.write_gap_ms.len(), entry.detect_ms.len()),
            (2, 2, 0)
        );
        assert_eq!((entry.rows_lost, entry.rows_doubled), (Some(0), None));
    }
}
