//! The crash-point sweep: a process ends, loses power, stalls or fails at every named point, in a short run each.

use crate::cli::{Total, tell, word};
use crate::history::Verdict;
use crate::plan::generate::{self, Wishes};
use crate::plan::{Fault, Plan, Plane, Shape, SnapshotStorage, Step, Target};
use crate::report;
use crate::runner::Runner;
use crate::seed::Stream;
use anyhow::{Context, Result, ensure};
use holdfast_common::inject::points::{POINTS, Point, Role};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// What a point does to its process.
const ACTIONS: [&str; 4] = ["abort", "power", "delay", "error"];
/// How long a point stalls its process, in milliseconds: longer than any lease.
const DELAY_MS: u64 = 3_000;
/// Which passage fires.
const HITS: [u64; 3] = [1, 2, 5];
/// Parts of the names of points that a process passes once, or a few times in a run: they fire at the first passage.
const RARE: [&str; 11] = [
    "bootstrap",
    "register",
    "claim",
    "submit",
    "membership",
    "truncate",
    "snapshot.install",
    "vote.answer",
    "welcome",
    "restore",
    "reattach",
];

/// A point and what happens there.
#[derive(Debug, Clone)]
pub struct Combination {
    /// The point.
    pub point: &'static Point,
    /// The action.
    pub action: &'static str,
    /// The passage.
    pub hit: u64,
}

/// The combinations that are asked for. A point at which nothing can fail has no `error`.
///
/// # Errors
/// For a name that there is not.
pub fn choose(
    points: &[String],
    actions: &[String],
    every: usize,
    offset: usize,
) -> Result<Vec<Combination>> {
    for name in points {
        ensure!(
            POINTS.iter().any(|point| point.name == name),
            "there is no crash point '{name}'"
        );
    }
    for name in actions {
        ensure!(
            ACTIONS.contains(&name.as_str()),
            "there is no action '{name}': {ACTIONS:?}"
        );
    }
    let mut chosen = Vec::new();
    for (number, point) in POINTS.iter().enumerate() {
        if !points.is_empty() && !points.iter().any(|name| name == point.name) {
            continue;
        }
        for (turn, action) in ACTIONS.into_iter().enumerate() {
            let wanted = actions.iter().any(|name| name == action) && (action != "error" || point.can_fail);
            let hit = match RARE.iter().any(|word| point.name.contains(word)) {
                true => 1,
                false => HITS[(number + turn) % HITS.len()],
            };
            if wanted {
                chosen.push(Combination { point, action, hit });
            }
        }
    }
    let kept = chosen.into_iter().skip(offset).step_by(every.max(1));
    Ok(kept.collect())
}

/// The plan of one combination: the point is armed on every node of its role from its first start, and faults see to it
/// that elections, recoveries, cancellations and changes of membership happen at all.
fn plan(runner: &Runner, combination: &Combination, time: Duration) -> Plan {
    let seed =
        xxhash_rust::xxh3::xxh3_64(format!("{}{}", combination.point.name, combination.action).as_bytes());
    let wishes = Wishes {
        faults: Vec::new(),
        swarm: false,
        workloads: ["register", "jobs", "eos", "catalogue"]
            .map(str::to_owned)
            .to_vec(),
        fault_phase_ms: time.as_millis() as u64,
        mode: runner.preflight.mode(),
        object_storage: false,
    };
    let mut plan = generate::draw(seed, &wishes);
    plan.swarm.voters = 3;
    plan.swarm.workers = 2;
    plan.swarm.storage = SnapshotStorage::File;
    // A short log: whoever lags gets a snapshot. It would take the place of cutting entries off.
    plan.swarm.snapshot_after_logs = match combination.point.name.contains("truncate") {
        true => 8192,
        false => 50,
    };
    plan.swarm.checkpoint_ms = 200;
    "standard".clone_into(&mut plan.swarm.profile);
    let action = match combination.action {
        "delay" => format!("delay:{DELAY_MS}"),
        other => other.to_owned(),
    };
    let inject = format!(
        "point={},hit={},action={action}",
        combination.point.name, combination.hit
    );
    for name in armed(combination.point) {
        let environment = BTreeMap::from([("HOLDFAST_INJECT".to_owned(), inject.clone())]);
        plan.first_start.insert((*name).to_owned(), environment);
    }
    plan.steps = stir(combination, &mut Stream::new(seed, "stir"));
    plan
}

/// Whose first start is armed: one node, so that a majority goes on, unless nobody can say who will pass the point.
fn armed(point: &Point) -> &'static [&'static str] {
    let any = |parts: &[&str]| parts.iter().any(|part| point.name.contains(part));
    match point.role {
        Role::Worker => &["w1"],
        Role::Coordinator if any(&["leader.", "membership", "truncate", "snapshot.install"]) => {
            &["c1", "c2", "c3"]
        }
        // The first coordinator is the first leader.
        Role::Coordinator if any(&["replicated", "vote.answer"]) => &["c2"],
        Role::Coordinator => &["c1"],
    }
}

/// What makes the point be passed.
fn stir(combination: &Combination, random: &mut Stream) -> Vec<Step> {
    let step = |id: u32, name: &str, at_ms: u64, for_ms: u64, fault: Fault| Step {
        id,
        name: name.to_owned(),
        at_ms,
        for_ms,
        fault,
    };
    let at = 1_500 + random.below(500);
    let worker = Fault::Kill {
        target: Target::Node("w2".into()),
        again_after_ms: None,
    };
    let name = combination.point.name;
    let cut = |target| Fault::Partition {
        shape: Shape::AmongCoordinators(target),
        plane: Plane::Any,
        flap_ms: None,
    };
    // Clients still reach a leader that is cut off: it logs what nobody else has. A follower that is cut off lags behind.
    // Neither starts anew, or it would not be armed any more.
    if name.contains("truncate") {
        return vec![step(1, "partition-leader", at, 3_000, cut(Target::Leader))];
    }
    if name.contains("snapshot.install") {
        return vec![step(1, "partition-follower", at, 4_000, cut(Target::Follower(0)))];
    }
    let mut steps = vec![step(1, "transfer-leader", at, 300, Fault::Transfer)];
    if name.contains("membership") {
        let target = Target::Follower(0);
        steps.push(step(
            2,
            "member-remove-follower",
            at + 1_000,
            1_000,
            Fault::MemberRemove { target },
        ));
    } else {
        steps.push(step(2, "kill-worker", at + 1_500, 300, worker));
    }
    steps.push(step(3, "transfer-leader", at + 3_500, 300, Fault::Transfer));
    steps
}

/// What the nodes' own logs say has fired: point and action.
fn fired(dir: &std::path::Path) -> Vec<String> {
    let mut lines = Vec::new();
    for entry in std::fs::read_dir(dir.join("logs"))
        .into_iter()
        .flatten()
        .flatten()
    {
        if entry.path().extension().is_some_and(|e| e == "inject") {
            let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
            lines.extend(
                text.lines()
                    .filter(|line| line.starts_with("fired "))
                    .map(str::to_owned),
            );
        }
    }
    lines
}

/// Runs every combination and writes `sweep.md` beside the runs.
///
/// # Errors
/// If a run cannot be written.
pub fn sweep(runner: &Runner, chosen: &[Combination], time: Duration) -> Result<Verdict> {
    let mut total = Total::default();
    let mut table =
        String::from("| point | action | passage | fired | verdict | run |\n|---|---|---|---|---|---|\n");
    let mut did_fire = 0;
    for (number, combination) in chosen.iter().enumerate() {
        if runner.interrupted.load(Ordering::SeqCst) {
            break;
        }
        let name = combination.point.name;
        println!(
            "{} of {}: {name} {} at passage {}",
            number + 1,
            chosen.len(),
            combination.action,
            combination.hit
        );
        let outcome = runner.run(&plan(runner, combination, time))?;
        let fires = fired(&outcome.dir);
        did_fire += usize::from(!fires.is_empty());
        tell(&outcome);
        if fires.is_empty() {
            println!("  it did not fire");
        }
        total.add(&outcome);
        let run = outcome
            .dir
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let yes = if fires.is_empty() { "no" } else { "yes" };
        let _ = writeln!(
            table,
            "| {name} | {} | {} | {yes} | {} | {run} |",
            combination.action,
            combination.hit,
            word(outcome.info.verdict)
        );
    }
    let path = runner.runs.parent().context("no directory")?.join("sweep.md");
    std::fs::write(&path, table).with_context(|| path.display().to_string())?;
    report::write_index(&runner.runs)?;
    println!("{}; {did_fire} of {} points fired", total.line(), chosen.len());
    Ok(total.verdict())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all() -> Vec<String> {
        ACTIONS.map(str::to_owned).to_vec()
    }

    #[test]
    fn every_point_is_there_and_errors_only_where_they_can_be_answered() {
        let chosen = choose(&[], &all(), 1, 0).unwrap();
        assert!(
            POINTS
                .iter()
                .all(|p| chosen.iter().filter(|c| c.point.name == p.name).count() >= 3)
        );
        assert!(chosen.iter().all(|c| c.action != "error" || c.point.can_fail));
        let parts: usize = (0..7)
            .map(|offset| choose(&[], &all(), 7, offset).unwrap().len())
            .sum();
        assert_eq!(parts, chosen.len());
        assert!(choose(&["nowhere".into()], &all(), 1, 0).is_err());
        assert!(choose(&[], &["melt".into()], 1, 0).is_err());
    }
}
