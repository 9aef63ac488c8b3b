//! Breaking registers.

use super::{Draw, answer, pick, places, set};
use crate::check::ops::{Op, ops};
use crate::history::{Event, Kind, Nanos};
use serde_json::Value;

/// A successful read or write of a register, owned.
#[derive(Clone, Copy)]
struct Known {
    op: u64,
    key: u64,
    start: Nanos,
    end: Nanos,
    revision: u64,
    write: bool,
    blind: bool,
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn known(history: &[Event]) -> Vec<Known> {
    let of = |op: &Op<'_>| {
        Some(Known {
            op: op.id,
            key: hash(op.text("key")?),
            start: op.start,
            end: op.end,
            revision: op.done?.number("revision")?,
            write: op.f != "read",
            blind: op.f == "write",
        })
    };
    let mine = ops(history, "register");
    let data = mine
        .iter()
        .filter(|op| op.is_ok() && ["read", "write", "cas"].contains(&op.f));
    data.filter_map(of).collect()
}

fn result(history: &[Event], op: u64) -> Option<(Value, Value)> {
    let event = history.iter().find(|e| e.op == op && e.kind == Kind::Ok)?;
    Some((
        event.value.get("value").cloned().unwrap_or(Value::Null),
        event.value.get("revision")?.clone(),
    ))
}

/// Reads of one key, the first over before the second began, of two values whose writes were over before both.
pub(super) fn swap_reads(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let all = known(history);
    let settled = |r: &Known, by: Nanos| {
        all.iter()
            .any(|w| w.write && w.key == r.key && w.revision == r.revision && w.end < by)
    };
    let mut pairs = Vec::new();
    for first in all
        .iter()
        .filter(|k| !k.write && k.revision > 0)
        .filter(|k| settled(k, k.start))
    {
        for second in all
            .iter()
            .filter(|k| !k.write && k.key == first.key && k.revision > first.revision)
        {
            if first.end < second.start {
                pairs.push((first.op, second.op));
            }
        }
    }
    let Some((first, second)) = pick(&pairs, draw) else {
        return false;
    };
    let (Some(one), Some(two)) = (result(history, first), result(history, second)) else {
        return false;
    };
    set(history, first, &[("value", two.0), ("revision", two.1)])
        && set(history, second, &[("value", one.0), ("revision", one.1)])
}

pub(super) fn phantom_read(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let reads: Vec<u64> = known(history).iter().filter(|k| !k.write).map(|k| k.op).collect();
    let Some(op) = pick(&reads, draw) else {
        return false;
    };
    set(
        history,
        op,
        &[("value", "from nowhere".into()), ("revision", 999_999.into())],
    )
}

pub(super) fn fail_seen_write(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let all = known(history);
    let seen = |w: &&Known| {
        all.iter()
            .any(|r| !r.write && r.key == w.key && r.revision == w.revision)
    };
    let writes: Vec<u64> = all
        .iter()
        .filter(|k| k.write)
        .filter(seen)
        .map(|k| k.op)
        .collect();
    let Some(op) = pick(&writes, draw) else {
        return false;
    };
    if let Some(event) = answer(history, op) {
        event.kind = Kind::Fail;
        event.value.clear();
    }
    true
}

/// A read sees the value before an acknowledged one; both writes were over, one after the other, before it began.
pub(super) fn stale_read(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let all = known(history);
    let mut found = Vec::new();
    for read in all.iter().filter(|k| !k.write) {
        let writes = || {
            all.iter()
                .filter(|w| w.blind && w.key == read.key && w.end < read.start)
        };
        for newer in writes() {
            if let Some(older) = writes()
                .filter(|o| o.end < newer.start)
                .max_by_key(|o| o.revision)
            {
                found.push((read.op, older.op));
            }
        }
    }
    let Some((read, write)) = pick(&found, draw) else {
        return false;
    };
    let value = history
        .iter()
        .find(|e| e.op == write && e.kind == Kind::Invoke)
        .and_then(|e| e.value.get("value"))
        .cloned();
    let revision = result(history, write).map(|r| r.1);
    let (Some(value), Some(revision)) = (value, revision) else {
        return false;
    };
    set(history, read, &[("value", value), ("revision", revision)])
}

/// Reads in a row see a value, another one, and the first again under a new revision.
pub(super) fn double_write(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let all = known(history);
    let reads: Vec<&Known> = all.iter().filter(|k| !k.write && k.revision > 0).collect();
    let mut found = Vec::new();
    for first in &reads {
        for second in reads
            .iter()
            .filter(|s| s.key == first.key && s.start > first.end && s.revision > first.revision)
        {
            if let Some(third) = reads.iter().find(|t| t.key == first.key && t.start > second.end) {
                found.push((first.op, third.op, second.revision.max(third.revision)));
            }
        }
    }
    let Some((first, third, revision)) = pick(&found, draw) else {
        return false;
    };
    let Some((value, _)) = result(history, first) else {
        return false;
    };
    set(
        history,
        third,
        &[("value", value), ("revision", (revision + 1).into())],
    )
}

pub(super) fn shared_index(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let writes: Vec<Known> = known(history).into_iter().filter(|k| k.write).collect();
    let (Some(one), Some(other)) = (pick(&writes, draw), pick(&writes, draw)) else {
        return false;
    };
    one.op != other.op && set(history, one.op, &[("revision", other.revision.into())])
}

pub(super) fn old_state(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let all = known(history);
    let after = |r: &&Known| all.iter().any(|w| w.write && w.end < r.start);
    let reads: Vec<u64> = all
        .iter()
        .filter(|k| !k.write)
        .filter(after)
        .map(|k| k.op)
        .collect();
    let Some(op) = pick(&reads, draw) else {
        return false;
    };
    set(history, op, &[("applied", 0.into())])
}

pub(super) fn repeat_applied(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let repeats = places(history, |e| e.f == "repeat" && e.kind == Kind::Ok);
    let Some(at) = pick(&repeats, draw) else {
        return false;
    };
    let again = history[at].number("revision").unwrap_or(0) + 1_000_000;
    history[at].value.insert("revision".into(), again.into());
    true
}

pub(super) fn differ(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let finals = places(history, |e| {
        e.f == "final" && e.kind == Kind::Ok && e.number("revision").unwrap_or(0) > 0
    });
    let Some(at) = pick(&finals, draw) else {
        return false;
    };
    history[at].value.insert("value".into(), "something else".into());
    true
}
