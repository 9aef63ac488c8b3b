//! Linearizability of the registers by search, per key (linearizability is local, Herlihy and Wing 1990). Trusts values
//! only, never the revisions that the product reports; [`super::versioned`] does the opposite.

use super::Case;
use super::ops::{Op, ops};
use super::wgl::{Call, Outcome, check};
use crate::history::{Checker, Event, Finding, Kind, Nanos, Verdict};
use crate::model::register::{Register, RegisterOp, Value};
use std::collections::{BTreeMap, HashMap, HashSet};

/// The checker.
pub struct Linearizable {
    /// Steps of the search per key; then the key's verdict is unknown.
    pub budget: u64,
}

impl Default for Linearizable {
    fn default() -> Self {
        // About 10 s of search in a debug build; histories that are linearizable take a few steps per operation.
        Self { budget: 5_000_000 }
    }
}

/// Numbers for values: 0 is absence.
#[derive(Default)]
struct Values<'h> {
    numbers: HashMap<&'h str, Value>,
}

impl<'h> Values<'h> {
    fn number(&mut self, op: &Op<'h>, field: &str) -> Value {
        let Some(text) = op.text(field) else { return 0 };
        let next = Value::try_from(self.numbers.len() + 1).unwrap_or(Value::MAX);
        *self.numbers.entry(text).or_insert(next)
    }
}

/// The operations of one key as calls, each with its place in `ops`.
fn calls<'h>(ops: &[&Op<'h>]) -> Vec<(Call<RegisterOp>, usize)> {
    let mut values = Values::default();
    let mut calls = Vec::new();
    for (place, op) in ops.iter().enumerate() {
        let mismatch = op.kind == Kind::Fail && op.number("mismatch").is_some();
        let what = match (op.f, op.kind) {
            ("read", Kind::Ok) => RegisterOp::Read(values.number(op, "value")),
            ("write", Kind::Ok | Kind::Info) => RegisterOp::Write(values.number(op, "value")),
            ("cas", Kind::Ok | Kind::Info) => RegisterOp::Cas {
                expected: values.number(op, "expected"),
                new: values.number(op, "value"),
            },
            ("cas", Kind::Fail) if mismatch => RegisterOp::Mismatch {
                expected: values.number(op, "expected"),
            },
            _ => continue,
        };
        let call = Call {
            op: what,
            start: op.start,
            end: op.end,
        };
        calls.push((call, place));
    }
    bound_open_calls(&mut calls);
    calls
}

/// Every value is written once. So an open write whose value somebody has certainly observed took effect before that
/// observation's
/// answer, and one whose value nobody observed matters only to a compare that failed. Neither step changes the verdict.
fn bound_open_calls(calls: &mut Vec<(Call<RegisterOp>, usize)>) {
    let mut observed: HashMap<Value, Nanos> = HashMap::new();
    let mut expected_by_open: HashSet<Value> = HashSet::new();
    let mut mismatches = false;
    for (call, _) in calls.iter() {
        mismatches |= matches!(call.op, RegisterOp::Mismatch { .. });
        let Some(value) = call.op.observes() else { continue };
        if call.end == Nanos::MAX {
            expected_by_open.insert(value);
            continue;
        }
        let first = observed.entry(value).or_insert(call.end);
        *first = call.end.min(*first);
    }
    for (call, _) in calls.iter_mut().filter(|(call, _)| call.end == Nanos::MAX) {
        let seen = call.op.leaves().and_then(|value| observed.get(&value));
        if let Some(at) = seen.filter(|at| **at >= call.start) {
            call.end = *at;
        }
    }
    if !mismatches {
        calls.retain(|(call, _)| {
            call.end != Nanos::MAX
                || call
                    .op
                    .leaves()
                    .is_some_and(|v| observed.contains_key(&v) || expected_by_open.contains(&v))
        });
    }
}

impl Checker for Linearizable {
    fn name(&self) -> &'static str {
        "register-wgl"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let all = ops(history, "register");
        let mut keys: BTreeMap<&str, Vec<&Op<'_>>> = BTreeMap::new();
        for op in &all {
            if let Some(key) = op.text("key") {
                keys.entry(key).or_default().push(op);
            }
        }
        let mut case = Case::default();
        for (key, ops) in &keys {
            let found = calls(ops);
            let only: Vec<Call<RegisterOp>> = found.iter().map(|(call, _)| call.clone()).collect();
            case.count("keys");
            case.add("operations", only.len() as u64);
            case.add("open", only.iter().filter(|c| c.end == Nanos::MAX).count() as u64);
            match check(&Register, &only, self.budget) {
                Outcome::Linearizable(_) => case.count("linearizable keys"),
                Outcome::Exhausted => {
                    case.count("undecided keys");
                    case.remark(format!("key {key}: {} steps did not decide it", self.budget));
                }
                Outcome::Not { prefix, stuck } => explain(&mut case, key, ops, &found, &prefix, stuck),
            }
        }
        let undecided = case.counted("undecided keys") > 0;
        if case.violations() == 0 && undecided {
            return case.finish_as(
                self.name(),
                Verdict::Unknown,
                "registers are linearizable: undecided",
            );
        }
        case.finish(self.name(), "registers are linearizable", &["operations"])
    }
}

/// The end of the longest explained prefix and the operations around the one that could not be explained.
fn explain(
    case: &mut Case,
    key: &str,
    ops: &[&Op<'_>],
    found: &[(Call<RegisterOp>, usize)],
    prefix: &[usize],
    stuck: usize,
) {
    let place = |call: &usize| found.get(*call).and_then(|(_, place)| ops.get(*place));
    let told = place(&stuck).map(|op| op.told()).unwrap_or_default();
    case.violation(format!(
        "key {key}: no order explains {} operations; {} were ordered, then none allows the answer of {told}",
        found.len(),
        prefix.len()
    ));
    for op in prefix.iter().rev().take(8).rev().filter_map(place) {
        case.remark(format!("key {key}: ordered {}", op.told()));
    }
}
