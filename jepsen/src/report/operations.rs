//! The timeline: one lane per process, one stroke per operation, coloured by its outcome.

use super::axis::{Axis, class, label};
use super::html::escape;
use crate::check::faults::Band;
use crate::check::ops::{Op, ms, ops};
use crate::history::{Event, Nanos};
use std::collections::BTreeMap;
use std::fmt::Write;

/// Strokes per page: beyond that ordinary successes are left out, evenly, and the page says so.
const STROKES_MAX: usize = 20_000;
const LANE: f64 = 11.0;

/// The lane that an operation belongs to: its process without the counter of unknown outcomes.
fn lane<'h>(op: &Op<'h>) -> &'h str {
    op.process.split('.').next().unwrap_or(op.process)
}

/// All workloads' operations in lanes; faults in lanes of their own above.
pub(super) fn timeline(axis: &Axis, history: &[Event], bands: &[Band]) -> String {
    let mut all: Vec<Op<'_>> = Vec::new();
    for workload in ["register", "jobs", "catalogue"] {
        all.extend(ops(history, workload));
    }
    let boring = all.iter().filter(|op| op.is_ok()).count();
    let keep = if all.len() > STROKES_MAX {
        boring.div_ceil(STROKES_MAX)
    } else {
        1
    };
    let mut lanes: BTreeMap<&str, Vec<&Op<'_>>> = BTreeMap::new();
    for (number, op) in all.iter().enumerate() {
        let lane = lanes.entry(lane(op)).or_default();
        if !op.is_ok() || number % keep == 0 {
            lane.push(op);
        }
    }
    let top = 12.0 + LANE * super::axis::float(bands.len() as u64);
    let height = top + LANE * super::axis::float(lanes.len() as u64) + 20.0;
    let mut out = axis.open(height, bands);
    for (number, band) in bands.iter().enumerate() {
        fault_lane(
            &mut out,
            axis,
            band,
            8.0 + LANE * super::axis::float(number as u64),
        );
    }
    for (number, (name, ops)) in lanes.iter().enumerate() {
        let y = top + LANE * super::axis::float(number as u64);
        label(&mut out, y + 4.0, name);
        for op in ops {
            stroke(&mut out, axis, op, y);
        }
    }
    out.push_str("</svg>");
    if keep > 1 {
        let _ = write!(
            out,
            "<p class=\"small\">One of {keep} successful operations is drawn; every other one is.</p>"
        );
    }
    out
}

fn fault_lane(out: &mut String, axis: &Axis, band: &Band, y: f64) {
    label(out, y + 4.0, &band.name);
    let class = if band.installed() { "fault" } else { "skipped" };
    let (from, to) = (axis.x(band.start), axis.x(band.end));
    let _ = write!(
        out,
        "<rect x=\"{from:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"7\" class=\"{class}\"><title>{}</title></rect>",
        y - 3.0,
        (to - from).max(2.0),
        escape(&format!(
            "{} {} on {} {:.0}..{:.0} ms",
            band.name,
            band.outcome,
            band.targets.join(" "),
            ms(band.start),
            ms(band.end)
        ))
    );
}

fn stroke(out: &mut String, axis: &Axis, op: &Op<'_>, y: f64) {
    let end = if op.end == Nanos::MAX {
        op.done.map_or(axis.end, |d| d.t)
    } else {
        op.end
    };
    let (from, to) = (axis.x(op.start), axis.x(end));
    // A tooltip for what went wrong only: it would be most of the page's size.
    let _ = write!(
        out,
        "<path d=\"M{from:.1} {y:.1}H{:.1}\" class=\"{}\"",
        to.max(from + 0.6),
        class(op.kind)
    );
    if op.is_ok() {
        out.push_str("/>");
    } else {
        let error = op.done.and_then(|d| d.error.as_deref()).unwrap_or_default();
        let told: String = format!("{} {error}", op.told()).chars().take(300).collect();
        let _ = write!(out, "><title>{}</title></path>", escape(&told));
    }
}
