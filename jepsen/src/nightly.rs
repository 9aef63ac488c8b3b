//! Hours of runs, one line of results each time, appended to a page.

use crate::cli::{Total, tell, word};
use crate::history::Verdict;
use crate::plan::generate::{self, Wishes, every_fault};
use crate::report;
use crate::runner::Runner;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Length of a run's fault phase in milliseconds.
const PHASE_MS: u64 = 60_000;
/// Every so manyeth run is a control without faults.
const CONTROL: u64 = 20;
/// Free space below which no further run is begun: each leaves some megabytes.
const SPACE: u64 = 2 << 30;

/// Runs until the time is over, and appends what came of it.
///
/// # Errors
/// If a run or the page cannot be written.
pub fn nightly(runner: &Runner, time: Duration, page: &Path) -> Result<Verdict> {
    let end = Instant::now() + time;
    // In milliseconds, so that the runs of another process, begun a moment later, are other runs.
    let first = u64::try_from(crate::world::unix_time().as_millis()).unwrap_or(u64::MAX);
    let mut total = Total::default();
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let mut bad = Vec::new();
    let mut n = 0;
    while Instant::now() < end && !runner.interrupted.load(Ordering::SeqCst) && has_space(&runner.runs) {
        let control = n % CONTROL == 0;
        let workloads: &[&str] = match n % 3 {
            _ if control => &["register", "jobs", "eos", "catalogue", "attempts", "control"],
            0 => &["register", "jobs", "eos", "catalogue"],
            1 => &["register", "bank", "catalogue", "attempts"],
            _ => &["register", "jobs", "eos", "bank", "attempts"],
        };
        let wishes = Wishes {
            faults: if control { Vec::new() } else { every_fault() },
            swarm: true,
            workloads: workloads.iter().map(|name| (*name).to_owned()).collect(),
            fault_phase_ms: PHASE_MS,
            mode: runner.preflight.mode(),
            object_storage: runner.object_storage,
        };
        let outcome = runner.run(&generate::draw(first + n, &wishes))?;
        tell(&outcome);
        total.add(&outcome);
        for event in outcome
            .history
            .iter()
            .filter(|e| e.workload == "nemesis" && e.text("phase").is_none())
        {
            if event.text("outcome") == Some("installed") {
                *kinds.entry(event.f.clone()).or_default() += 1;
            }
        }
        if outcome.info.verdict != Verdict::Valid {
            let reason = outcome.info.harness_error.clone().unwrap_or_else(|| {
                let bad = outcome.findings.iter().filter(|f| f.verdict != Verdict::Valid);
                bad.map(|f| f.checker.clone()).collect::<Vec<_>>().join(", ")
            });
            let verdict = word(outcome.info.verdict);
            bad.push(format!("- seed {}: {verdict}: {reason}", outcome.info.seed));
        } else {
            // What is valid is counted; its logs would fill the disk.
            let _ = std::fs::remove_dir_all(outcome.dir.join("logs"));
        }
        n += 1;
    }
    report::write_index(&runner.runs)?;
    append(page, &section(first, time, &total, &kinds, &bad))?;
    println!("{}", total.line());
    Ok(total.verdict())
}

fn has_space(dir: &Path) -> bool {
    nix::sys::statvfs::statvfs(dir).is_ok_and(|s| s.blocks_available() * s.fragment_size() > SPACE)
}

fn section(
    first: u64,
    time: Duration,
    total: &Total,
    kinds: &BTreeMap<String, u64>,
    bad: &[String],
) -> String {
    let mut text = format!(
        "\n## Seeds from {first}, {:.1} hours\n\n{}\n\n",
        time.as_secs_f64() / 3600.0,
        total.line()
    );
    text.push_str("| fault | installed |\n|---|---|\n");
    for (name, count) in kinds {
        let _ = writeln!(text, "| {name} | {count} |");
    }
    if !bad.is_empty() {
        let _ = writeln!(text, "\nNot valid:\n\n{}", bad.join("\n"));
    }
    text
}

fn append(page: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::File::options()
        .create(true)
        .append(true)
        .open(page)
        .with_context(|| page.display().to_string())?;
    Ok(file.write_all(text.as_bytes())?)
}
