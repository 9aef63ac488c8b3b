//! Histories that keep every promise, made by a model cluster without any product: what checkers must accept.
#![allow(clippy::unwrap_used, clippy::too_many_arguments, dead_code)]

use jepsen::check::words::{event, note};
use jepsen::history::{Event, Kind, Nanos};
use jepsen::model::oracle;
use jepsen::model::part::runs;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub const MS: Nanos = 1_000_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
}

#[derive(Default)]
pub struct Tape {
    pub events: Vec<Event>,
    ops: u64,
}

impl Tape {
    pub fn op(
        &mut self,
        who: &str,
        workload: &str,
        f: &str,
        span: (Nanos, Nanos),
        kind: Kind,
        ask: Value,
        answer: Value,
    ) -> u64 {
        self.ops += 1;
        let mut invoke = event(span.0, who, Kind::Invoke, workload, f, self.ops);
        invoke.value = ask.as_object().unwrap().clone().into_iter().collect();
        let mut done = event(span.1, who, kind, workload, f, self.ops);
        done.value = answer.as_object().unwrap().clone().into_iter().collect();
        self.events.extend([invoke, done]);
        self.ops
    }

    pub fn done(mut self) -> Vec<Event> {
        self.events.sort_by_key(|e| e.t);
        self.events
    }
}

struct Planned {
    who: String,
    f: &'static str,
    key: String,
    span: (Nanos, Nanos),
    at: Nanos,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq)]
enum Fate {
    Ok,
    Fail,
    Unknown { applied: bool },
}

fn plan(random: &mut Random, healed: Nanos, end: Nanos) -> Vec<Planned> {
    let mut planned = Vec::new();
    for process in 0..3_u64 {
        let (mut t, mut generation) = (1 + random.below(5) * MS, 0);
        while t < end {
            let f = ["read", "read", "write", "write", "cas"][random.below(5) as usize];
            let at = t + 1 + random.below(4 * MS);
            let span = (t, at + 1 + random.below(4 * MS));
            let fate = match random.below(12) {
                0 if t < healed => Fate::Fail,
                1 if f != "read" && t < healed => Fate::Unknown {
                    applied: random.below(2) == 0,
                },
                _ => Fate::Ok,
            };
            planned.push(Planned {
                who: format!("kv-{process}.{generation}"),
                f,
                key: format!("k{}", random.below(3)),
                span,
                at: if matches!(fate, Fate::Unknown { .. }) {
                    at + random.below(30 * MS)
                } else {
                    at
                },
                fate,
            });
            generation += u64::from(matches!(fate, Fate::Unknown { .. }));
            t = span.1 + 1 + random.below(3 * MS);
        }
    }
    planned.sort_by_key(|p| p.at);
    planned
}

/// Registers: answers computed at each operation's own moment of effect.
pub fn registers(tape: &mut Tape, random: &mut Random, healed: Nanos, end: Nanos) {
    let mut state: BTreeMap<String, (String, u64)> = BTreeMap::new();
    let mut index = 100;
    for (number, op) in plan(random, healed, end).into_iter().enumerate() {
        let value = format!("v{number}");
        let now = state.get(&op.key).cloned();
        let ask = json!({ "key": op.key, "value": value, "node": "c1" });
        let effective = !matches!(op.fate, Fate::Fail | Fate::Unknown { applied: false });
        let (kind, f) = (
            if op.fate == Fate::Ok {
                Kind::Ok
            } else if op.fate == Fate::Fail {
                Kind::Fail
            } else {
                Kind::Info
            },
            op.f,
        );
        match f {
            "read" => {
                let (value, revision) = now.map_or((Value::Null, 0), |(v, r)| (v.into(), r));
                let answer = if op.fate == Fate::Ok {
                    json!({ "value": value, "revision": revision, "applied": index })
                } else {
                    json!({})
                };
                let ask = json!({ "key": op.key, "node": "c1" });
                tape.op(&op.who, "register", f, op.span, kind, ask, answer);
            }
            "write" => {
                if effective {
                    index += 1;
                    state.insert(op.key.clone(), (value.clone(), index));
                }
                let answer = if kind == Kind::Ok {
                    json!({ "revision": index, "index": index })
                } else {
                    json!({})
                };
                tape.op(&op.who, "register", f, op.span, kind, ask, answer);
            }
            _ => {
                // Half of the compares expect what is there, the others what is not.
                let right = random.below(2) == 0;
                let (expected, revision) = match (&now, right) {
                    (Some((v, r)), true) => (Value::from(v.clone()), *r),
                    (None, true) => (Value::Null, 0),
                    (Some(_), false) => (Value::Null, 0),
                    (None, false) => (Value::from("never"), 7),
                };
                let ask = json!({ "key": op.key, "value": value, "expected": expected, "expected_revision": revision });
                if effective {
                    index += 1;
                }
                if effective && right {
                    state.insert(op.key.clone(), (value.clone(), index));
                }
                let (kind, answer) = match (kind, right) {
                    (Kind::Ok, true) => (Kind::Ok, json!({ "revision": index, "index": index })),
                    (Kind::Ok, false) => (
                        Kind::Fail,
                        json!({ "mismatch": 1, "revision": now.map_or(0, |n| n.1) }),
                    ),
                    (other, _) => (other, json!({})),
                };
                tape.op(&op.who, "register", f, op.span, kind, ask, answer);
            }
        }
    }
    let after = end + 40 * MS;
    for (at, (key, (value, revision))) in (0_u64..).zip(&state) {
        for (node, t) in ["c1", "c2", "c3"].iter().zip(0_u64..) {
            let span = (after + (at * 9 + t) * MS, after + (at * 9 + t) * MS + 1);
            let answer = json!({ "value": value, "revision": revision, "applied": index });
            tape.op(
                "kv-9.0",
                "register",
                "final",
                span,
                Kind::Ok,
                json!({ "key": key, "node": node }),
                answer,
            );
        }
        let span = (after + (at * 9 + 4) * MS, after + (at * 9 + 4) * MS + 1);
        let ask = json!({ "session": 5, "seq": at, "first": revision, "key": key });
        tape.op(
            "kvs-9.0",
            "register",
            "repeat",
            span,
            Kind::Ok,
            ask,
            json!({ "revision": revision }),
        );
    }
}

/// Jobs: one runs on, one is cancelled.
pub fn jobs(tape: &mut Tape, random: &mut Random, healed: Nanos) {
    let submit = |tape: &mut Tape, t: Nanos, n: u64, job: &str| {
        let ask = json!({ "key": format!("key-{n}"), "name": format!("jx1c0-{n}") });
        tape.op(
            "jobs-0.0",
            "jobs",
            "submit",
            (t, t + MS),
            Kind::Ok,
            ask,
            json!({ "job": job, "existing": false }),
        );
    };
    submit(tape, 5 * MS, 1, "aaaa");
    submit(tape, 10 * MS, 2, "bbbb");
    submit(tape, 15 * MS, 1, "aaaa");
    tape.op(
        "jobs-0.0",
        "jobs",
        "cancel",
        (300 * MS, 310 * MS),
        Kind::Ok,
        json!({ "job": "bbbb" }),
        json!({}),
    );
    for turn in 0..40_u64 {
        let t = (20 + turn * 25 + random.below(5)) * MS;
        let state = |job: &str| match (job, t / MS) {
            ("bbbb", 330..) => "CANCELED",
            ("bbbb", 305..) => "CANCELLING",
            (_, ..30) => "CREATED",
            (_, t) if (100..140).contains(&t) => "RESTARTING",
            _ => "RUNNING",
        };
        let list = json!({ "jobs": {
            "aaaa": { "name": "jx1c0-1", "state": state("aaaa") },
            "bbbb": { "name": "jx1c0-2", "state": state("bbbb") } } });
        tape.op(
            "jobs-1.0",
            "jobs",
            "list",
            (t, t + MS),
            Kind::Ok,
            json!({ "node": "c2" }),
            list,
        );
        let attempt = if t < 140 * MS { 1 } else { 2 };
        for job in ["aaaa", "bbbb"] {
            let answer = json!({ "state": state(job), "attempt": attempt, "attempt_id": 100 * attempt, "restarts": attempt - 1 });
            tape.op(
                "jobs-1.0",
                "jobs",
                "get",
                (t + 2 * MS, t + 3 * MS),
                Kind::Ok,
                json!({ "job": job }),
                answer,
            );
        }
    }
    assert!(healed > 0);
}

const JOB: &str = "0123456789abcdef0123456789abcdef";

/// One streaming job with two sinks, its checkpoints every 50 ms, and one restart if `restarts`.
pub fn stream(tape: &mut Tape, random: &mut Random, restarts: bool) {
    let (rows, splits) = (4_037_u64, 16_u64);
    let expect = |sink: &str, workload: &str, oracle: &str| {
        note(MS, "reader", workload, "expect")
            .with("job", JOB)
            .with("sink", sink)
            .with("oracle", oracle)
            .with("rows", rows)
            .with("splits", splits)
    };
    tape.events.push(expect("filtered", "eos", "filtered"));
    tape.events.push(expect("windows", "eos", "windows"));
    tape.events.push(expect("totals", "bank", "totals"));
    tape.events.push(expect("balances", "bank", "balances"));
    let commits = 20_u64;
    let text = |set: std::collections::BTreeSet<String>| set.into_iter().collect::<Vec<_>>();
    let lines = [
        text(oracle::windows(rows)),
        text(oracle::totals(rows)),
        text(oracle::balances(rows)),
    ];
    let attempt_at = |c: u64| if restarts && c > 8 { 200_u64 } else { 100 };
    for c in 1..=commits {
        let t = c * 50 * MS;
        let (checkpoint, attempt) = (c * 2, attempt_at(c));
        let (from, to) = (rows * (c - 1) / commits, rows * c / commits);
        for subtask in 0..2_u64 {
            let mine = |n: &u64| oracle::passes(*n) && n % splits % 2 == subtask;
            let numbers: Vec<u64> = (from..to).filter(mine).collect();
            let list: Vec<Value> = runs(numbers, splits).into_iter().map(|r| r.to_json()).collect();
            let file = format!("part-01234567-0000000a-{checkpoint:08}-{attempt}-{subtask}-0.csv");
            let at = t + 10 * MS + subtask * random.below(3) * MS;
            let seen = note(at, "reader", "eos", "visible")
                .with("job", JOB)
                .with("sink", "filtered")
                .with("file", file);
            tape.events.push(seen.with("runs", list));
        }
        for (sink, (workload, lines)) in ["windows", "totals", "balances"]
            .iter()
            .zip(["eos", "bank", "bank"].iter().zip(&lines))
        {
            let len = lines.len() as u64;
            let part = &lines[(len * (c - 1) / commits) as usize..(len * c / commits) as usize];
            if !part.is_empty() {
                let file = format!(
                    "part-01234567-{:08x}-{checkpoint:08}-{attempt}-0-0.csv",
                    sink.len()
                );
                let seen = note(t + 12 * MS, "reader", workload, "visible")
                    .with("job", JOB)
                    .with("sink", *sink);
                tape.events
                    .push(seen.with("file", file).with("lines", part.to_vec()));
            }
        }
        let retained: Vec<Value> = (1..=c)
            .rev()
            .take(6)
            .map(|n| {
                let held = c - n < 3;
                let attempt = if held { json!(attempt_at(n)) } else { Value::Null };
                let path = if held {
                    json!(format!("cluster/jobs/{JOB}/chk/{n}"))
                } else {
                    Value::Null
                };
                json!({ "id": n * 2, "attempt": attempt, "path": path, "discarded": !held, "damaged": false })
            })
            .collect();
        let poll = (t + 20 * MS, t + 21 * MS);
        let restored = if attempt == 200 { json!(16) } else { Value::Null };
        let answer = json!({ "completed": retained, "failed": [1, 3], "latest": checkpoint, "done": c, "restored": restored });
        tape.op(
            "catalogue-3",
            "catalogue",
            "checkpoints",
            poll,
            Kind::Ok,
            json!({ "job": JOB, "node": "c1" }),
            answer,
        );
        let answer = json!({ "state": "RUNNING", "attempt": attempt / 100, "attempt_id": attempt, "restored": restored });
        tape.op(
            "catalogue-3",
            "catalogue",
            "job",
            (t + 22 * MS, t + 23 * MS),
            Kind::Ok,
            json!({ "job": JOB, "node": "c1" }),
            answer,
        );
        let ask = json!({ "job": JOB, "id": checkpoint, "attempt": attempt, "path": "p" });
        let answer =
            json!({ "outcome": "ok", "epoch": 50 + c / 7, "manifest_attempt": attempt, "objects": 2 });
        tape.op(
            "catalogue-3",
            "catalogue",
            "fetch",
            (t + 24 * MS, t + 25 * MS),
            Kind::Ok,
            ask,
            answer,
        );
        for node in ["c1", "c2", "c3"] {
            let answer =
                json!({ "leader": 1 + c / 7, "term": 3 + c / 7, "epoch": 50 + c / 7, "epoch_by": 1 + c / 7 });
            let span = (t + 26 * MS, t + 27 * MS);
            tape.op(
                &format!("catalogue-{node}"),
                "catalogue",
                "cluster",
                span,
                Kind::Ok,
                json!({ "node": node }),
                answer,
            );
        }
    }
    for workload in ["eos", "bank"] {
        let ended = note((commits + 2) * 50 * MS, "reader", workload, "ended");
        tape.events.push(ended.with("job", JOB).with("state", "FINISHED"));
    }
}

/// A whole run: a leader is killed in the middle.
pub fn valid(seed: u64, restarts: bool) -> Vec<Event> {
    let mut random = Random(seed);
    let mut tape = Tape::default();
    let (healed, end) = (600 * MS, 800 * MS);
    for node in ["c1", "c2", "c3", "w1"] {
        tape.events
            .push(note(0, &format!("node:{node}"), "cluster", "start"));
    }
    let fault = |t: Nanos| {
        let name = if restarts { "kill-worker" } else { "kill-leader" };
        let target = if restarts { "w1" } else { "c1" };
        note(t, "nemesis", "nemesis", name)
            .with("step", 1)
            .with("outcome", "installed")
            .with("targets", vec![target])
    };
    tape.events.push(fault(300 * MS));
    let dead = if restarts { "node:w1" } else { "node:c1" };
    tape.events
        .push(note(301 * MS, dead, "cluster", "exit").with("expected", true));
    tape.events
        .push(fault(400 * MS).with("phase", "heal").with("effect", true));
    tape.events.push(note(healed, "nemesis", "nemesis", "healed"));
    registers(&mut tape, &mut random, healed, end);
    jobs(&mut tape, &mut random, healed);
    stream(&mut tape, &mut random, restarts);
    // The run goes on for long enough to judge liveness.
    tape.events
        .push(note(healed + 31_000 * MS, "harness", "cluster", "end"));
    tape.done()
}
