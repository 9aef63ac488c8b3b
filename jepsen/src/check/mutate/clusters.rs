//! Breaking jobs, the catalogue and leadership.

use super::{Draw, pick, places, set};
use crate::check::catalogue::completed;
use crate::check::ops::{Op, ops};
use crate::history::{Event, Kind, Nanos};
use serde_json::{Value, json};

/// Lists after the first acknowledged submission.
pub(super) fn later_lists(history: &[Event]) -> Vec<usize> {
    let acked = history
        .iter()
        .filter(|e| e.f == "submit" && e.kind == Kind::Ok)
        .map(|e| e.t)
        .min();
    let sent = |op: u64| {
        history
            .iter()
            .find(|e| e.op == op && e.kind == Kind::Invoke)
            .map_or(0, |e| e.t)
    };
    places(history, |e| {
        e.workload == "jobs" && e.f == "list" && e.kind == Kind::Ok && acked.is_some_and(|t| sent(e.op) > t)
    })
}

pub(super) fn jobs_of(event: &mut Event) -> Option<&mut serde_json::Map<String, Value>> {
    event.value.get_mut("jobs").and_then(Value::as_object_mut)
}

pub(super) fn forget_job(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let ended: Vec<String> = history
        .iter()
        .filter(|e| e.workload == "jobs")
        .flat_map(|e| {
            e.value
                .get("jobs")
                .and_then(Value::as_object)
                .into_iter()
                .flatten()
        })
        .filter(|(_, job)| {
            ["CANCELED", "FINISHED", "FAILED"].contains(&job["state"].as_str().unwrap_or_default())
        })
        .map(|(id, _)| id.clone())
        .collect();
    let acked: Vec<(String, Nanos)> = history
        .iter()
        .filter(|e| e.f == "submit" && e.kind == Kind::Ok)
        .filter_map(|e| Some((e.text("job")?.to_owned(), e.t)))
        .filter(|(job, _)| !ended.contains(job))
        .collect();
    let lists = later_lists(history);
    let Some(at) = pick(&lists, draw) else {
        return false;
    };
    let sent = history
        .iter()
        .find(|e| e.op == history[at].op && e.kind == Kind::Invoke)
        .map_or(0, |e| e.t);
    let Some((job, _)) = acked.into_iter().find(|(_, t)| *t < sent) else {
        return false;
    };
    jobs_of(&mut history[at])
        .and_then(|jobs| jobs.remove(&job))
        .is_some()
}

pub(super) fn second_job(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let lists = later_lists(history);
    let Some(at) = pick(&lists, draw) else {
        return false;
    };
    let Some(jobs) = jobs_of(&mut history[at]) else {
        return false;
    };
    let Some(job) = jobs.values().next().cloned() else {
        return false;
    };
    jobs.insert("second".into(), job);
    true
}

pub(super) fn foreign_job(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let lists = later_lists(history);
    let Some(at) = pick(&lists, draw) else {
        return false;
    };
    let Some(jobs) = jobs_of(&mut history[at]) else {
        return false;
    };
    let name = jobs
        .values()
        .filter_map(|j| j["name"].as_str())
        .filter_map(|n| n.rsplit_once('-'))
        .next();
    let Some(name) = name.map(|(prefix, _)| format!("{prefix}-777777")) else {
        return false;
    };
    jobs.insert("foreign".into(), json!({ "name": name, "state": "RUNNING" }));
    true
}

pub(super) fn resurrect(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let all = ops(history, "jobs");
    let cancels: Vec<(&str, Nanos)> = all
        .iter()
        .filter(|o| o.f == "cancel" && o.is_ok())
        .filter_map(|o| Some((o.text("job")?, o.end)))
        .collect();
    let gets: Vec<u64> = all
        .iter()
        .filter(|o| o.f == "get" && o.is_ok())
        .filter(|o| {
            cancels
                .iter()
                .any(|(job, at)| Some(*job) == o.text("job") && *at < o.start)
        })
        .map(|o| o.id)
        .collect();
    let Some(op) = pick(&gets, draw) else { return false };
    set(history, op, &[("state", "RUNNING".into())])
}

pub(super) fn later_of(history: &[Event], f: &str, name: &str) -> Vec<u64> {
    let all = ops(history, "catalogue");
    let mine: Vec<&Op<'_>> = all.iter().filter(|o| o.f == f && o.is_ok()).collect();
    let before = |o: &Op<'_>| {
        let subject = |o: &Op<'_>| {
            (
                o.text("job").map(str::to_owned),
                (f == "cluster").then(|| o.text("node").map(str::to_owned)),
            )
        };
        mine.iter()
            .any(|p| p.end < o.start && subject(p) == subject(o) && p.number(name).unwrap_or(0) > 0)
    };
    mine.iter().filter(|o| before(o)).map(|o| o.id).collect()
}

pub(super) fn checkpoint_back(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(op) = pick(&later_of(history, "checkpoints", "latest"), draw) else {
        return false;
    };
    set(history, op, &[("latest", 0.into())])
}

pub(super) fn term_back(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(op) = pick(&later_of(history, "cluster", "term"), draw) else {
        return false;
    };
    set(history, op, &[("term", 1.into())])
}

pub(super) fn attempt_back(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let Some(op) = pick(&later_of(history, "job", "attempt_id"), draw) else {
        return false;
    };
    set(history, op, &[("attempt_id", 0.into())])
}

pub(super) fn two_leaders(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let mut led = std::collections::BTreeMap::<u64, Vec<usize>>::new();
    for (at, event) in history
        .iter()
        .enumerate()
        .filter(|(_, e)| e.f == "cluster" && e.number("epoch_by").is_some())
    {
        led.entry(event.number("epoch").unwrap_or(0))
            .or_default()
            .push(at);
    }
    let twice: Vec<usize> = led
        .values()
        .filter(|places| places.len() > 1)
        .flatten()
        .copied()
        .collect();
    let Some(at) = pick(&twice, draw) else {
        return false;
    };
    history[at].value.insert("epoch_by".into(), 77.into());
    true
}

pub(super) fn lose_object(history: &mut Vec<Event>, draw: Draw<'_>) -> bool {
    let all = ops(history, "catalogue");
    let listed_later = |fetch: &&Op<'_>| {
        let polls = all
            .iter()
            .filter(|p| p.f == "checkpoints" && p.is_ok() && p.text("job") == fetch.text("job"));
        let next = polls.filter(|p| p.start > fetch.end).min_by_key(|p| p.start);
        let id = fetch.number("id");
        next.is_some_and(|p| completed(p).iter().any(|c| Some(c.id) == id && !c.discarded))
    };
    let fetches: Vec<u64> = all
        .iter()
        .filter(|o| o.f == "fetch" && o.is_ok())
        .filter(listed_later)
        .map(|o| o.id)
        .collect();
    let Some(op) = pick(&fetches, draw) else {
        return false;
    };
    set(history, op, &[("outcome", "missing".into())])
}

pub(super) fn old_restore(history: &mut Vec<Event>, _draw: Draw<'_>) -> bool {
    let all = ops(history, "catalogue");
    let details: Vec<&Op<'_>> = all
        .iter()
        .filter(|o| o.f == "job" && o.is_ok() && o.number("restored").unwrap_or(0) > 0)
        .collect();
    let first = details.iter().filter_map(|o| o.number("attempt_id")).max();
    let changed: Vec<u64> = details
        .iter()
        .filter(|o| o.number("attempt_id") == first)
        .map(|o| o.id)
        .collect();
    changed
        .iter()
        .all(|op| set(history, *op, &[("restored", 0.into())]))
        && !changed.is_empty()
}

pub(super) fn epoch_back(history: &mut Vec<Event>, _draw: Draw<'_>) -> bool {
    let all = ops(history, "catalogue");
    let mut fetches: Vec<(u64, u64)> = all
        .iter()
        .filter(|o| o.f == "fetch" && o.number("epoch").is_some())
        .filter_map(|o| Some((o.number("id")?, o.id)))
        .collect();
    fetches.sort_unstable();
    let (Some(first), Some(last)) = (fetches.first().copied(), fetches.last().copied()) else {
        return false;
    };
    let same: Vec<u64> = fetches
        .iter()
        .filter(|(id, _)| *id == last.0)
        .map(|(_, op)| *op)
        .collect();
    first.0 < last.0 && same.iter().all(|op| set(history, *op, &[("epoch", 0.into())]))
}
