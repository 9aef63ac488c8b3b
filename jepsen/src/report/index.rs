//! The index over runs. Every number in it is counted from the runs' stored summaries, which are counted from their histories.

use super::html::escape;
use super::page::word;
use crate::check::faults::bands;
use crate::history::{Event, Finding, Kind, Verdict};
use crate::runner::RunInfo;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

/// A run in numbers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RunSummary {
    /// Its seed.
    pub seed: u64,
    /// Its verdict.
    pub verdict: Verdict,
    /// Whether the harness failed; then the verdict says nothing of the product.
    pub harness_failed: bool,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// Seeded bug, if one was on.
    pub bug: Option<String>,
    /// Its workloads.
    pub workloads: Vec<String>,
    /// Operations by outcome: `ok`, `fail`, `info`.
    pub operations: BTreeMap<String, u64>,
    /// Faults by outcome.
    pub faults: BTreeMap<String, u64>,
    /// Installed faults by name.
    pub installed: BTreeMap<String, u64>,
    /// Rows that readers saw become visible.
    pub rows: u64,
    /// Verdict by checker.
    pub checkers: BTreeMap<String, Verdict>,
}

/// Counts a history.
#[must_use]
pub fn summarise(run: &RunInfo, history: &[Event], findings: &[Finding]) -> RunSummary {
    let mut operations: BTreeMap<String, u64> = BTreeMap::new();
    for event in history {
        let name = match event.kind {
            Kind::Ok => "ok",
            Kind::Fail => "fail",
            Kind::Info => "info",
            Kind::Invoke | Kind::Note => continue,
        };
        *operations.entry(name.to_owned()).or_default() += 1;
    }
    let (mut faults, mut installed) = (BTreeMap::new(), BTreeMap::new());
    for band in bands(history) {
        if band.installed() {
            *installed.entry(band.name.clone()).or_default() += 1;
        }
        *faults.entry(band.outcome).or_default() += 1;
    }
    let rows = findings
        .iter()
        .filter(|f| f.checker == "eos" || f.checker == "bank")
        .filter_map(|f| f.counts.get("rows"))
        .sum();
    RunSummary {
        seed: run.seed,
        verdict: run.verdict,
        harness_failed: run.harness_error.is_some(),
        duration_ms: run.duration_ms,
        bug: run.plan.environment.get("HOLDFAST_BUG").cloned(),
        workloads: run.plan.workloads.clone(),
        operations,
        faults,
        installed,
        rows,
        checkers: findings.iter().map(|f| (f.checker.clone(), f.verdict)).collect(),
    }
}

/// The summaries below a directory of runs, by the name of the run's directory.
fn read(runs: &Path) -> Result<BTreeMap<String, RunSummary>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(runs).with_context(|| runs.display().to_string())? {
        let path = entry?.path();
        let Ok(text) = std::fs::read_to_string(path.join("summary.json")) else {
            continue;
        };
        let summary = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        found.insert(
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            summary,
        );
    }
    Ok(found)
}

fn add(to: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>) {
    for (name, n) in from {
        *to.entry(name.clone()).or_default() += n;
    }
}

/// Sums over runs.
#[derive(Default)]
struct Totals {
    runs: BTreeMap<String, u64>,
    operations: BTreeMap<String, u64>,
    faults: BTreeMap<String, u64>,
    installed: BTreeMap<String, u64>,
    checkers: BTreeMap<String, BTreeMap<String, u64>>,
    rows: u64,
    duration_ms: u64,
}

impl Totals {
    fn new<'s>(runs: impl Iterator<Item = &'s RunSummary>) -> Self {
        let mut totals = Self::default();
        for run in runs {
            let verdict = if run.harness_failed {
                "harness failed"
            } else {
                word(run.verdict)
            };
            *totals.runs.entry(verdict.to_owned()).or_default() += 1;
            add(&mut totals.operations, &run.operations);
            add(&mut totals.faults, &run.faults);
            add(&mut totals.installed, &run.installed);
            for (checker, verdict) in &run.checkers {
                let counts = totals.checkers.entry(checker.clone()).or_default();
                *counts.entry(word(*verdict).to_owned()).or_default() += 1;
            }
            totals.rows += run.rows;
            totals.duration_ms += run.duration_ms;
        }
        totals
    }

    fn markdown(&self) -> String {
        let mut out = String::from("| what | count |\n|---|---|\n");
        let mut row = |name: &str, value: String| {
            let _ = writeln!(out, "| {name} | {value} |");
        };
        for (verdict, n) in &self.runs {
            row(&format!("runs: {verdict}"), n.to_string());
        }
        row(
            "minutes",
            format!("{:.1}", super::axis::float(self.duration_ms) / 60_000.0),
        );
        for (outcome, n) in &self.operations {
            row(&format!("operations: {outcome}"), n.to_string());
        }
        for (outcome, n) in &self.faults {
            row(&format!("faults: {outcome}"), n.to_string());
        }
        row("rows seen by readers", self.rows.to_string());
        out.push_str("\n| fault | installed |\n|---|---|\n");
        for (name, n) in &self.installed {
            let _ = writeln!(out, "| {name} | {n} |");
        }
        out.push_str("\n| checker | valid | unknown | invalid |\n|---|---|---|---|\n");
        for (name, counts) in &self.checkers {
            let n = |verdict: &str| counts.get(verdict).copied().unwrap_or(0);
            let _ = writeln!(
                out,
                "| {name} | {} | {} | {} |",
                n("valid"),
                n("unknown"),
                n("invalid")
            );
        }
        out
    }
}

fn listed(counts: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = counts.iter().map(|(name, n)| format!("{n} {name}")).collect();
    parts.join(", ")
}

/// Writes `index.html` and `summary.md` over all runs below a directory. Runs with a seeded bug are listed apart: their
/// verdicts say something of the checkers, not of the product.
///
/// # Errors
/// If the directory cannot be read or a file not be written.
pub fn write_index(runs: &Path) -> Result<()> {
    let all = read(runs)?;
    let (seeded, real): (BTreeMap<_, _>, BTreeMap<_, _>) =
        all.into_iter().partition(|(_, run)| run.bug.is_some());
    let mut summary = String::from("# Runs\n\nGenerated from the stored histories.\n\n");
    summary.push_str(&Totals::new(real.values()).markdown());
    if !seeded.is_empty() {
        let _ = write!(
            summary,
            "\n## Runs with a seeded bug\n\n{}",
            Totals::new(seeded.values()).markdown()
        );
    }
    let path = runs.join("summary.md");
    std::fs::write(&path, &summary).with_context(|| path.display().to_string())?;
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Runs</title><style>\
         body{font:14px/1.45 system-ui,sans-serif;margin:24px auto;max-width:1240px;padding:0 16px}\
         table{border-collapse:collapse;font-size:13px}\
         th,td{padding:3px 10px;border-bottom:1px solid #e3e7ec;text-align:left;vertical-align:top}\
         .valid{color:#2c8a4b}.unknown{color:#a06800}.invalid{color:#c5302c}</style></head><body><h1>Runs</h1>",
    );
    for (title, runs) in [("Runs", &real), ("Runs with a seeded bug", &seeded)] {
        if !runs.is_empty() {
            section(&mut page, title, runs);
        }
    }
    page.push_str("</body></html>");
    let path = runs.join("index.html");
    std::fs::write(&path, page).with_context(|| path.display().to_string())
}

fn section(out: &mut String, title: &str, runs: &BTreeMap<String, RunSummary>) {
    let totals = Totals::new(runs.values());
    let _ = write!(
        out,
        "<h2>{title}</h2><p>{}; {:.1} minutes; operations: {}; faults: {}; {} rows seen by readers.</p>\
         <table><tr><th>run</th><th>verdict</th><th>workloads</th><th>bug</th>\
         <th>operations</th><th>faults</th><th>not valid</th></tr>",
        escape(&listed(&totals.runs)),
        super::axis::float(totals.duration_ms) / 60_000.0,
        escape(&listed(&totals.operations)),
        escape(&listed(&totals.faults)),
        totals.rows
    );
    for (name, run) in runs {
        let not_valid: Vec<String> = run
            .checkers
            .iter()
            .filter(|(_, verdict)| **verdict != Verdict::Valid)
            .map(|(checker, verdict)| format!("{checker} {}", word(*verdict)))
            .collect();
        let verdict = if run.harness_failed {
            "unknown"
        } else {
            word(run.verdict)
        };
        let told = if run.harness_failed {
            "harness failed"
        } else {
            verdict
        };
        let _ = write!(
            out,
            "<tr><td><a href=\"{0}/report.html\">{0}</a></td><td class=\"{verdict}\">{told}</td>\
             <td>{1}</td><td>{2}</td><td>{3}</td><td>{4}</td><td>{5}</td></tr>",
            escape(name),
            escape(&run.workloads.join(", ")),
            escape(run.bug.as_deref().unwrap_or_default()),
            escape(&listed(&run.operations)),
            escape(&listed(&run.installed)),
            escape(&not_valid.join(", "))
        );
    }
    out.push_str("</table>");
}
