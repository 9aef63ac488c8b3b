//! Proof of the proof: with each seeded bug switched on, a named checker must say invalid within a bounded number of runs;
//! with the bug off, the same plan must be valid.

use crate::cli::tell;
use crate::history::Verdict;
use crate::mutant_recipes::{Recipe, SIMULATED, recipe};
use crate::plan::generate::{self, Wishes};
use crate::plan::{self, Plan};
use crate::runner::{Outcome, Runner};
use anyhow::{Context, Result, ensure};
use holdfast_common::inject::bugs::{BUGS, Bug};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

/// What came of one bug.
struct Row {
    bug: &'static Bug,
    checker: String,
    /// Runs until it was caught; `None`: it was not.
    caught_after: Option<u32>,
    /// Runs in which the wrong code was reached.
    reached: u32,
    runs: u32,
    /// Whether the plan that caught it is valid without it.
    control: Option<Verdict>,
    seed: u64,
    others: Vec<String>,
}

/// Runs the recipes of the named bugs (all without a name) and writes the table.
///
/// # Errors
/// For a name that there is not, a bug without a recipe, or a run that cannot be written.
pub fn mutants(
    runner: &Runner,
    names: &[String],
    every: usize,
    offset: usize,
    table: &Path,
) -> Result<Verdict> {
    for name in names {
        ensure!(
            BUGS.iter().any(|bug| bug.name == name),
            "there is no seeded bug '{name}'"
        );
    }
    let wanted = BUGS.iter().filter(|bug| match names.is_empty() {
        true => !SIMULATED.contains(&bug.name),
        false => names.iter().any(|name| name == bug.name),
    });
    let mut rows = Vec::new();
    for bug in wanted.skip(offset).step_by(every.max(1)) {
        if runner.interrupted.load(Ordering::SeqCst) {
            break;
        }
        let recipe = recipe(bug.name)
            .with_context(|| format!("{} has no recipe here: see `sim --core --mutants {0}`", bug.name))?;
        let row = hunt(runner, bug, &recipe)?;
        println!("{}", line(&row));
        rows.push(row);
        std::fs::write(table, markdown(&rows)).with_context(|| table.display().to_string())?;
    }
    let caught = rows.iter().filter(|row| row.caught_after.is_some()).count();
    let sound = rows
        .iter()
        .filter(|row| row.control == Some(Verdict::Valid))
        .count();
    let accused = rows
        .iter()
        .filter(|row| row.control == Some(Verdict::Invalid))
        .count();
    let verdict = match (caught == rows.len() && !rows.is_empty(), accused) {
        (_, 1..) => Verdict::Invalid,
        (false, _) => Verdict::Invalid,
        (true, _) if sound == rows.len() => Verdict::Valid,
        _ => Verdict::Unknown,
    };
    println!(
        "{}: {caught} of {} seeded bugs caught by their checkers, {sound} plans valid without the bug, {accused} invalid",
        crate::cli::word(verdict),
        rows.len()
    );
    Ok(verdict)
}

fn draw(runner: &Runner, recipe: &Recipe, seed: u64) -> Result<Plan> {
    let faults: Vec<String> = recipe.faults.iter().map(|name| (*name).to_owned()).collect();
    let wishes = Wishes {
        faults: plan::expand(&faults)?,
        swarm: false,
        workloads: recipe.workloads.iter().map(|name| (*name).to_owned()).collect(),
        fault_phase_ms: u64::from(recipe.seconds) * 1000,
        mode: runner.preflight.mode(),
        object_storage: runner.object_storage,
    };
    let mut plan = generate::draw(seed, &wishes);
    // Many checkpoints and snapshots: a bug in them is met more often.
    plan.swarm.voters = recipe.voters;
    plan.swarm.checkpoint_ms = plan.swarm.checkpoint_ms.min(500);
    plan.swarm.snapshot_after_logs = 50;
    if let Some(inject) = recipe.workers_inject {
        for number in 1..=plan.swarm.workers {
            let environment = BTreeMap::from([("HOLDFAST_INJECT".to_owned(), inject.to_owned())]);
            plan.first_start.insert(format!("w{number}"), environment);
        }
    }
    Ok(plan)
}

fn hunt(runner: &Runner, bug: &'static Bug, recipe: &Recipe) -> Result<Row> {
    let mut row = Row {
        bug,
        checker: recipe.checker.to_owned(),
        caught_after: None,
        reached: 0,
        runs: 0,
        control: None,
        seed: 0,
        others: Vec::new(),
    };
    let first = xxhash_rust::xxh3::xxh3_64(bug.name.as_bytes()) % 1_000_000;
    for n in 0..recipe.runs {
        if runner.interrupted.load(Ordering::SeqCst) {
            break;
        }
        row.seed = first + u64::from(n);
        let healthy = draw(runner, recipe, row.seed)?;
        let mut mutant = healthy.clone();
        mutant.environment.insert("HOLDFAST_BUG".into(), bug.name.into());
        let outcome = runner.run(&mutant)?;
        println!("{} with the bug:", bug.name);
        tell(&outcome);
        row.runs += 1;
        row.reached += u32::from(reached(&outcome, bug.name));
        if caught(&outcome, recipe.checker) {
            row.caught_after = Some(row.runs);
            row.others = outcome
                .findings
                .iter()
                .filter(|f| f.verdict == Verdict::Invalid && f.checker != recipe.checker)
                .map(|f| f.checker.clone())
                .collect();
            let outcome = runner.run(&healthy)?;
            println!("{} without the bug:", bug.name);
            tell(&outcome);
            row.control = Some(outcome.info.verdict);
            break;
        }
    }
    Ok(row)
}

/// A checker's finding counts even if the harness could not end the run: some bugs leave nothing to end in order.
fn caught(outcome: &Outcome, checker: &str) -> bool {
    outcome.invalid_by(Some(checker))
}

fn reached(outcome: &Outcome, name: &str) -> bool {
    let entries = std::fs::read_dir(outcome.dir.join("logs"))
        .into_iter()
        .flatten()
        .flatten();
    let logs = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "inject"));
    let wanted = format!("reached bug={name}");
    logs.into_iter().any(|entry| {
        std::fs::read_to_string(entry.path())
            .unwrap_or_default()
            .lines()
            .any(|line| line == wanted)
    })
}

fn line(row: &Row) -> String {
    let caught = row.caught_after.map_or_else(
        || format!("not caught in {} runs", row.runs),
        |n| format!("caught in run {n}"),
    );
    let control = row.control.map_or("-", crate::cli::word);
    format!(
        "{}: {caught} by {}, reached in {}, without the bug {control}",
        row.bug.name, row.checker, row.reached
    )
}

fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| seeded bug | what is wrong | checker | caught in run | also by | reached in | seed | same plan without the bug |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let caught = row
            .caught_after
            .map_or_else(|| format!("**no** ({} runs)", row.runs), |n| n.to_string());
        let others = if row.others.is_empty() {
            "-".to_owned()
        } else {
            row.others.join(", ")
        };
        let control = row.control.map_or("-", crate::cli::word);
        let _ = writeln!(
            text,
            "| `{}` | {} | `{}` | {caught} | {others} | {} of {} | {} | {control} |",
            row.bug.name, row.bug.what, row.checker, row.reached, row.runs, row.seed
        );
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_seeded_bug_has_a_recipe_that_can_be_carried_out() {
        for bug in BUGS.iter().filter(|bug| !SIMULATED.contains(&bug.name)) {
            let recipe = recipe(bug.name).unwrap_or_else(|| panic!("{} has no recipe", bug.name));
            let faults: Vec<String> = recipe.faults.iter().map(|name| (*name).to_owned()).collect();
            plan::expand(&faults).unwrap();
            for workload in recipe.workloads {
                assert!(
                    crate::workload::NAMES.contains(workload),
                    "{}: {workload}",
                    bug.name
                );
            }
            assert!(recipe.runs > 0 && recipe.seconds > 0, "{}", bug.name);
        }
    }
}
