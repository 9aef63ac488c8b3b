//! Judges histories that are stored, with the checkers as they are now: whoever changes a checker sees what becomes of
//! the runs that there are.

use crate::cli::word;
use crate::history::{Checker, Event, Finding, Verdict};
use crate::plan::Plan;
use crate::{check, workload};
use anyhow::{Context, Result};
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Judges the runs in these directories and prints what has changed.
///
/// # Errors
/// If one of them is not a run's.
pub fn judge(dirs: &[PathBuf]) -> Result<Verdict> {
    let (mut verdicts, mut changed) = (Vec::new(), 0);
    for dir in dirs {
        let (was, now) = judge_one(dir)?;
        changed += usize::from(was != now);
        verdicts.push(now);
    }
    let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count();
    let [valid, invalid, unknown] = [Verdict::Valid, Verdict::Invalid, Verdict::Unknown].map(count);
    let overall = match (invalid, unknown) {
        (1.., _) => Verdict::Invalid,
        (0, 1..) => Verdict::Unknown,
        (0, 0) => Verdict::Valid,
    };
    println!(
        "{}: {valid} runs valid, {invalid} invalid, {unknown} unknown; {changed} judged otherwise than before",
        word(overall)
    );
    Ok(overall)
}

/// The verdict that is stored and the one of now.
fn judge_one(dir: &Path) -> Result<(Verdict, Verdict)> {
    let plan = Plan::read(&dir.join("plan.json"))?;
    let info = dir.join("run.json");
    let text = std::fs::read(&info).with_context(|| info.display().to_string())?;
    let info: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| info.display().to_string())?;
    let was: Verdict = serde_json::from_value(info["verdict"].clone()).context("the stored verdict")?;
    let history = read(&dir.join("history.jsonl"))?;
    let mut checkers = Vec::new();
    for name in &plan.workloads {
        let workload = workload::by_name(name, plan.seed).with_context(|| format!("no workload '{name}'"))?;
        checkers.extend(workload.checkers());
    }
    let findings = findings(&plan, &history, checkers);
    let now = match info["harness_error"].is_null() {
        true => check::overall(&findings),
        false => Verdict::Unknown,
    };
    println!(
        "run {}: {}, was {}, {}",
        plan.seed,
        word(now),
        word(was),
        dir.display()
    );
    for finding in findings.iter().filter(|f| f.verdict == Verdict::Invalid) {
        println!("  invalid {}: {}", finding.checker, finding.summary);
        for line in finding.evidence.iter().take(5) {
            println!("    {line}");
        }
    }
    Ok((was, now))
}

fn read(path: &Path) -> Result<Vec<Event>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut events = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| path.display().to_string())?;
        let event =
            serde_json::from_str(&line).with_context(|| format!("{}:{}", path.display(), number + 1))?;
        events.push(event);
    }
    events.sort_by_key(|event: &Event| event.t);
    Ok(events)
}

/// What all checkers find in a history: those of its workloads, the general ones, and whether faults had effects.
pub(crate) fn findings(plan: &Plan, history: &[Event], of_workloads: Vec<Box<dyn Checker>>) -> Vec<Finding> {
    let mut checkers = check::general();
    checkers.extend(of_workloads);
    let mut findings = check::run(&checkers, history);
    findings.push(effects(plan, history));
    findings
}

/// A run is vacuous if none of its faults had an effect that could be seen.
fn effects(plan: &Plan, history: &[Event]) -> Finding {
    let mut finding = Finding {
        checker: "effects".into(),
        verdict: Verdict::Valid,
        summary: String::new(),
        counts: std::collections::BTreeMap::new(),
        evidence: Vec::new(),
    };
    let mut add = |name: &str| *finding.counts.entry(name.to_owned()).or_default() += 1;
    for event in history.iter().filter(|e| e.workload == "nemesis") {
        match (event.text("phase"), event.text("outcome")) {
            (Some("heal"), _) => match event.value.get("effect").and_then(serde_json::Value::as_bool) {
                Some(true) => add("with effect"),
                Some(false) => {
                    add("without effect");
                    finding.evidence.push(format!("{} had no effect", event.f));
                }
                None => add("effect not visible"),
            },
            (None, Some(outcome)) => {
                add(outcome);
                if outcome != "installed" {
                    let reason = event.error.clone().unwrap_or_default();
                    finding
                        .evidence
                        .push(format!("{} was {outcome}: {reason}", event.f));
                }
            }
            _ => {}
        }
    }
    let count = |name: &str| finding.counts.get(name).copied().unwrap_or(0);
    let bit = count("with effect") + count("effect not visible");
    if !plan.steps.is_empty() && bit == 0 {
        finding.verdict = Verdict::Unknown;
    }
    let (installed, skipped) = (count("installed"), count("skipped"));
    finding.summary = format!(
        "{installed} faults installed, {bit} of them with effect or none to be seen, {skipped} skipped"
    );
    finding
}
