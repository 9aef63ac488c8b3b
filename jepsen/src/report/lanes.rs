//! Lanes per node (role and term, starts and ends) and per job (checkpoints, attempts, visible files).

use super::axis::{Axis, float, label};
use super::html::escape;
use crate::check::catalogue::{by_job, completed, numbers};
use crate::check::faults::Band;
use crate::check::ops::ops;
use crate::history::{Event, Nanos};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

const LANE: f64 = 16.0;

/// Who led when and in which term, and when processes started and ended.
pub(super) fn nodes(axis: &Axis, history: &[Event], bands: &[Band]) -> String {
    let mine = || history.iter().filter(|e| e.workload == "cluster");
    let names: BTreeSet<&str> = mine().map(|e| e.process.as_str()).collect();
    let mut out = axis.open(LANE * float(names.len() as u64) + 26.0, bands);
    for (number, name) in names.iter().enumerate() {
        let y = 6.0 + LANE * float(number as u64);
        label(&mut out, y + 9.0, name);
        let events: Vec<&Event> = mine().filter(|e| e.process == *name).collect();
        let changes: Vec<&&Event> = events.iter().filter(|e| e.f == "role" || e.f == "exit").collect();
        for (at, event) in changes.iter().enumerate().filter(|(_, e)| e.f == "role") {
            let until = changes.get(at + 1).map_or(axis.end, |next| next.t);
            role(&mut out, axis, event, until, y);
        }
        for event in events.iter().filter(|e| e.f == "start" || e.f == "exit") {
            let x = axis.x(event.t);
            let told = format!(
                "{} {} {}",
                event.process,
                event.f,
                event.error.as_deref().unwrap_or_default()
            );
            let _ = write!(
                out,
                "<path d=\"M{x:.1} {:.1}v13\" class=\"{}\"><title>{}</title></path>",
                y - 1.0,
                event.f,
                escape(&told)
            );
        }
    }
    out.push_str("</svg>");
    out
}

fn role(out: &mut String, axis: &Axis, event: &Event, until: Nanos, y: f64) {
    let leads = event.text("role") == Some("leader");
    let term = event.number("term").unwrap_or(0);
    let (from, to) = (axis.x(event.t), axis.x(until));
    let _ = write!(
        out,
        "<rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"11\" class=\"{}\"><title>{} term {term}</title></rect>",
        (to - from).max(0.5),
        if leads { "leader" } else { "follower" },
        escape(event.text("role").unwrap_or_default())
    );
    if leads && to - from > 18.0 {
        let _ = write!(
            out,
            "<text x=\"{:.1}\" y=\"{:.1}\" class=\"term\">{term}</text>",
            from + 2.0,
            y + 9.0
        );
    }
}

/// When each checkpoint was first seen complete or failed, each attempt, and each visible file.
pub(super) fn jobs(axis: &Axis, history: &[Event], bands: &[Band]) -> String {
    let all = ops(history, "catalogue");
    let (polls, details) = (by_job(&all, "checkpoints"), by_job(&all, "job"));
    let mut out = axis.open(LANE * 2.0 * float(polls.len() as u64) + 26.0, bands);
    for (number, (job, polls)) in polls.iter().enumerate() {
        let y = 6.0 + LANE * 2.0 * float(number as u64);
        label(&mut out, y + 9.0, &format!("job {}", job.get(..8).unwrap_or(job)));
        let mut seen = BTreeSet::new();
        for poll in polls {
            let done = completed(poll).into_iter().map(|c| (c.id, "done"));
            let failed = numbers(poll, "failed").into_iter().map(|id| (id, "undone"));
            for (id, class) in done.chain(failed) {
                if seen.insert((id, class)) {
                    let x = axis.x(poll.end);
                    let _ = write!(
                        out,
                        "<circle cx=\"{x:.1}\" cy=\"{:.1}\" r=\"3\" class=\"{class}\">\
                         <title>checkpoint {id} {class}</title></circle>",
                        y + 5.0
                    );
                }
            }
        }
        attempts(
            &mut out,
            axis,
            details.get(job).map_or(&[], Vec::as_slice),
            y + 5.0,
        );
        label(&mut out, y + LANE + 9.0, "  visible rows");
        for event in history
            .iter()
            .filter(|e| e.f == "visible" && e.text("job") == Some(job))
        {
            let x = axis.x(event.t);
            let _ = write!(out, "<path d=\"M{x:.1} {:.1}v9\" class=\"file\"/>", y + LANE);
        }
    }
    out.push_str("</svg>");
    out
}

fn attempts(out: &mut String, axis: &Axis, details: &[&crate::check::ops::Op<'_>], y: f64) {
    let mut first: BTreeMap<u64, Nanos> = BTreeMap::new();
    for op in details {
        if let Some(attempt) = op.number("attempt") {
            let at = first.entry(attempt).or_insert(op.end);
            *at = op.end.min(*at);
        }
    }
    for (attempt, at) in first {
        let x = axis.x(at);
        let _ = write!(
            out,
            "<path d=\"M{x:.1} {:.1}v16\" class=\"attempt\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" class=\"tick\">attempt {attempt}</text>",
            y - 8.0,
            x + 2.0,
            y - 1.0
        );
    }
}
