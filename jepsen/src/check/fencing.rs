//! One leader per epoch, and neither term nor epoch ever goes back on any coordinator, restarts included. A coordinator
//! that comes back with an empty disk and another id is another one.
//!
//! A term may have two leaders, one after the other: openraft orders leaders by term and id. Commands are fenced by epoch.

use super::Case;
use super::ops::{Op, ops, sweep};
use crate::history::{Checker, Event, Finding, Nanos};
use std::collections::{BTreeMap, BTreeSet};

/// The checker.
pub struct Fencing;

/// A coordinator that has just been started answers 0 until it has read its own vote.
fn is_known(term: u64) -> bool {
    term > 0
}

fn judge_node(case: &mut Case, node: &str, sights: &[Op<'_>]) {
    sweep(
        sights,
        |floor: &mut (u64, u64, u64), op| {
            let (term, epoch) = (op.number("term").unwrap_or(0), op.number("epoch").unwrap_or(0));
            *floor = (term.max(floor.0), epoch.max(floor.1), op.id);
        },
        |op, floor| {
            case.count("sights");
            let term = op.number("term").unwrap_or(0);
            if is_known(term) && term < floor.0 {
                case.violation(format!(
                    "{node} had seen term {}, and then {}",
                    floor.0,
                    op.told()
                ));
            }
        },
    );
}

/// An epoch is the place of a leader's claim in the log: nobody else can have it.
fn judge_epochs(case: &mut Case, sights: &[Op<'_>]) {
    let mut leaders: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    let mut terms = BTreeSet::new();
    for op in sights {
        terms.extend(op.number("term"));
        if let (Some(epoch), Some(leader)) = (op.number("epoch"), op.number("epoch_by")) {
            leaders.entry(epoch).or_default().insert(leader);
        }
    }
    case.add("terms", terms.len() as u64);
    case.add("epochs", leaders.len() as u64);
    for (epoch, who) in leaders.iter().filter(|(_, who)| who.len() > 1) {
        case.violation(format!("epoch {epoch} was claimed by {who:?}"));
    }
}

/// What the harness's own watch heard of each coordinator, in the order in which it heard it.
fn judge_roles(case: &mut Case, history: &[Event]) {
    let mut terms: BTreeMap<&str, u64> = BTreeMap::new();
    for event in history.iter().filter(|e| e.workload == "cluster") {
        match event.f.as_str() {
            "renew" => {
                terms.remove(event.process.as_str());
            }
            "role" => {
                case.count("roles");
                let term = event.number("term").unwrap_or(0);
                let known = terms.entry(&event.process).or_default();
                if is_known(term) && term < *known {
                    case.violation(format!(
                        "{:.1} ms: {} is in term {term} and was in term {known}",
                        super::ops::ms(event.t),
                        event.process
                    ));
                }
                *known = term.max(*known);
            }
            _ => {}
        }
    }
}

/// The moments at which a coordinator got an empty disk and another id.
fn renewals(history: &[Event], node: &str) -> Vec<Nanos> {
    let process = format!("node:{node}");
    let renewals = history
        .iter()
        .filter(|e| e.workload == "cluster" && e.f == "renew");
    renewals.filter(|e| e.process == process).map(|e| e.t).collect()
}

/// What was asked of a node, by its identities. A request that was under way at a renewal may have met either.
fn by_identity<'h>(sights: &[Op<'h>], renewals: &[Nanos]) -> Vec<Vec<Op<'h>>> {
    let mut identities = vec![Vec::new(); renewals.len() + 1];
    for op in sights {
        let before = renewals.iter().filter(|at| **at <= op.start).count();
        if renewals.iter().all(|at| *at <= op.start || *at > op.end) {
            identities[before].push(op.clone());
        }
    }
    identities
}

/// Manifests of one job carry epochs that never go back as checkpoints go up.
fn judge_manifests(case: &mut Case, history: &[Event]) {
    let all = ops(history, "catalogue");
    for (job, fetches) in super::catalogue::by_job(&all, "fetch") {
        let mut of: BTreeMap<(u64, u64), (u64, u64)> = BTreeMap::new();
        for fetch in fetches.iter().filter(|f| f.text("outcome") == Some("ok")) {
            if let (Some(id), Some(epoch), Some(attempt)) =
                (fetch.number("id"), fetch.number("epoch"), fetch.number("attempt"))
            {
                of.insert((id, attempt), (epoch, fetch.id));
            }
        }
        case.add("manifests", of.len() as u64);
        let mut floor = (0, 0);
        for ((id, _), (epoch, by)) in of {
            if epoch < floor.0 {
                case.violation(format!(
                    "job {job}: epoch {epoch} completed checkpoint {id} (#{by}) after epoch {}",
                    floor.0
                ));
            }
            floor = floor.max((epoch, id));
        }
    }
}

impl Checker for Fencing {
    fn name(&self) -> &'static str {
        "fencing"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut all = ops(history, "catalogue");
        all.retain(|op| op.f == "cluster" && op.is_ok());
        let mut case = Case::default();
        let nodes: BTreeSet<&str> = all.iter().filter_map(|op| op.text("node")).collect();
        for node in nodes {
            let sights: Vec<Op<'_>> = all
                .iter()
                .filter(|op| op.text("node") == Some(node))
                .cloned()
                .collect();
            for sights in by_identity(&sights, &renewals(history, node)) {
                judge_node(&mut case, node, &sights);
            }
        }
        judge_epochs(&mut case, &all);
        judge_roles(&mut case, history);
        judge_manifests(&mut case, history);
        case.finish(
            self.name(),
            "leaders and epochs are fenced",
            &["sights", "roles", "manifests"],
        )
    }
}
