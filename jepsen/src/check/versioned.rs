//! The registers judged by log index: every answer names the revision (the index of the entry that wrote the value),
//! which gives the
//! order of writes without a search. Independent of [`super::register`]: it sees every operation of every length of run.

use super::Case;
use super::ops::{Op, Timed, ops, sweep};
use crate::history::{Checker, Event, Finding, Kind, Nanos};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The checker.
pub struct Versioned;

/// An operation that tells something of one key's order.
struct Point<'h> {
    op: &'h Op<'h>,
    /// Index of the write that it made or saw; 0: it saw absence.
    revision: u64,
    /// Whether it is that write.
    wrote: bool,
    /// For a compare-and-set: the revision that it replaced.
    replaced: Option<u64>,
}

impl Timed for Point<'_> {
    fn start(&self) -> Nanos {
        self.op.start
    }

    fn end(&self) -> Nanos {
        self.op.end
    }
}

fn points<'h>(ops: &[&'h Op<'h>]) -> Vec<Point<'h>> {
    let known = ops.iter().filter(|op| op.is_ok());
    let point = |op: &&'h Op<'h>| {
        Some(Point {
            op,
            revision: op.done?.number("revision")?,
            wrote: op.f != "read",
            replaced: (op.f == "cas").then(|| op.number("expected_revision")).flatten(),
        })
    };
    known.filter_map(point).collect()
}

/// What is known of the writes of one key.
#[derive(Default)]
struct Writes<'h> {
    /// Every value that somebody tried to write, with the operation.
    tried: HashMap<&'h str, &'h Op<'h>>,
    /// Value by revision.
    by_revision: BTreeMap<u64, &'h str>,
}

impl<'h> Writes<'h> {
    fn new(ops: &[&'h Op<'h>]) -> Self {
        let writes = ops.iter().filter(|op| op.f == "write" || op.f == "cas");
        Self {
            tried: writes.filter_map(|op| Some((op.text("value")?, *op))).collect(),
            by_revision: BTreeMap::new(),
        }
    }

    fn learn(&mut self, case: &mut Case, point: &Point<'h>) {
        let op = point.op;
        let Some(value) = op.text("value") else {
            if point.revision != 0 {
                case.violation(format!("a revision without a value: {}", op.told()));
            }
            return;
        };
        match self.tried.get(value) {
            None => case.violation(format!("nobody wrote this value: {}", op.told())),
            Some(write) if !point.wrote && write.kind == Kind::Fail => {
                case.violation(format!("{} failed, yet was seen by {}", write.told(), op.told()));
            }
            Some(write) if write.start > op.end => {
                case.violation(format!("{} saw {} before it was sent", op.told(), write.told()));
            }
            Some(_) => {}
        }
        match self.by_revision.insert(point.revision, value) {
            Some(other) if other != value => case.violation(format!(
                "revision {} is '{other}' and '{value}': {}",
                point.revision,
                op.told()
            )),
            _ => {}
        }
    }

    fn judge_values(&self, case: &mut Case, key: &str) {
        let mut revision_of: HashMap<&str, u64> = HashMap::new();
        for (revision, value) in &self.by_revision {
            if let Some(earlier) = revision_of.insert(value, *revision) {
                case.violation(format!(
                    "key {key}: '{value}' was written once and took effect twice, at {earlier} and {revision}"
                ));
            }
        }
    }

    /// A compare-and-set must have replaced the newest write before it.
    fn judge_cas(&self, case: &mut Case, point: &Point<'_>) {
        let Some(replaced) = point.replaced else { return };
        case.count("compares");
        let before = self.by_revision.range(..point.revision).next_back();
        let newest = before.map_or(0, |(revision, _)| *revision);
        if newest > replaced || replaced >= point.revision {
            case.violation(format!(
                "a compare with revision {replaced} passed over revision {newest}: {}",
                point.op.told()
            ));
        }
    }
}

fn judge_key<'h>(case: &mut Case, key: &str, ops: &[&'h Op<'h>]) {
    let points = points(ops);
    let mut writes = Writes::new(ops);
    for point in &points {
        writes.learn(case, point);
    }
    writes.judge_values(case, key);
    for point in points.iter().filter(|p| p.wrote) {
        writes.judge_cas(case, point);
    }
    sweep(
        &points,
        |floor: &mut (u64, u64), p| {
            if p.revision > floor.0 {
                *floor = (p.revision, p.op.id);
            }
        },
        |p, floor| {
            let behind = p.revision < floor.0 || (p.wrote && p.revision == floor.0);
            if behind {
                case.violation(format!(
                    "key {key}: operation #{} had ended with revision {}, and then {}",
                    floor.1,
                    floor.0,
                    p.op.told()
                ));
            }
        },
    );
}

/// A linearizable read names the index of the state that it read: never older than any entry that had been answered
/// before it began, of whichever key.
fn judge_applied(case: &mut Case, all: &[Op<'_>]) {
    sweep(
        all,
        |floor: &mut (u64, u64), op| {
            let seen = op.done.filter(|_| op.is_ok());
            let index = seen.and_then(|d| {
                let names = ["index", "applied", "revision"];
                names.iter().filter_map(|name| d.number(name)).max()
            });
            if index.is_some_and(|index| index > floor.0) {
                *floor = (index.unwrap_or(0), op.id);
            }
        },
        |op, floor| {
            let applied = op
                .done
                .filter(|_| op.is_ok() && op.f == "read")
                .and_then(|d| d.number("applied"));
            let Some(applied) = applied else { return };
            case.count("reads");
            if applied < floor.0 {
                case.violation(format!(
                    "a read of state {applied} after operation #{} had been answered at {}: {}",
                    floor.1,
                    floor.0,
                    op.told()
                ));
            }
        },
    );
}

/// No two writes share a log index, and a repeated request keeps its first answer.
fn judge_indexes(case: &mut Case, all: &[Op<'_>]) {
    let mut owner: HashMap<u64, u64> = HashMap::new();
    for op in all.iter().filter(|op| op.is_ok()) {
        let Some(revision) = op.done.and_then(|d| d.number("revision")) else {
            continue;
        };
        match op.f {
            "write" | "cas" => {
                case.count("writes");
                if let Some(other) = owner.insert(revision, op.id) {
                    case.violation(format!("operation #{other} has the same revision: {}", op.told()));
                }
            }
            "repeat" => {
                case.count("repeats");
                if op.number("first") != Some(revision) {
                    case.violation(format!("a repeated request was applied again: {}", op.told()));
                }
            }
            _ => {}
        }
    }
    for op in all.iter().filter(|op| op.f == "repeat" && op.kind == Kind::Fail) {
        case.violation(format!(
            "a live session's request is no longer known: {}",
            op.told()
        ));
    }
}

impl Checker for Versioned {
    fn name(&self) -> &'static str {
        "register-versioned"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let all = ops(history, "register");
        let mut case = Case::default();
        let mut keys: BTreeMap<&str, Vec<&Op<'_>>> = BTreeMap::new();
        let data: BTreeSet<&str> = ["read", "write", "cas"].into();
        for op in all.iter().filter(|op| data.contains(op.f)) {
            if let Some(key) = op.text("key") {
                keys.entry(key).or_default().push(op);
            }
        }
        case.add("keys", keys.len() as u64);
        for (key, ops) in &keys {
            judge_key(&mut case, key, ops);
        }
        judge_applied(&mut case, &all);
        judge_indexes(&mut case, &all);
        case.finish(self.name(), "registers follow the log", &["reads", "writes"])
    }
}
