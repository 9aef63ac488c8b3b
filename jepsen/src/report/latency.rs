//! Latency of every operation over time with quantiles, and availability: whether anything succeeded in each tenth of a
//! second.

use super::axis::{Axis, WIDTH, class, float, label};
use super::html::table;
use crate::check::faults::Band;
use crate::check::ops::{Op, ms, ops};
use crate::history::{Event, Nanos};
use std::collections::BTreeMap;
use std::fmt::Write;

const DOTS_MAX: usize = 8_000;
const HEIGHT: f64 = 220.0;
/// Least and greatest latency that is drawn, in ms, on a logarithmic axis.
const SPAN_MS: (f64, f64) = (0.1, 10_000.0);
/// Width of a bucket of availability.
pub(super) const BUCKET: Nanos = 100_000_000;

fn y(latency_ms: f64) -> f64 {
    let (low, high) = SPAN_MS;
    let part = (latency_ms.clamp(low, high) / low).log10() / (high / low).log10();
    (HEIGHT - 24.0) * (1.0 - part) + 6.0
}

fn latency(op: &Op<'_>) -> Option<f64> {
    op.done.map(|d| ms(d.t.saturating_sub(op.start)))
}

/// A dot per operation of the register workload.
pub(super) fn scatter(axis: &Axis, history: &[Event], bands: &[Band]) -> String {
    let all = ops(history, "register");
    let keep = all.len().div_ceil(DOTS_MAX).max(1);
    let mut out = axis.open(HEIGHT, bands);
    for ms in [0.1, 1.0, 10.0, 100.0, 1000.0, 10_000.0] {
        let y = y(ms);
        let _ = write!(
            out,
            "<line x1=\"120\" y1=\"{y:.1}\" x2=\"{WIDTH}\" y2=\"{y:.1}\" class=\"grid\"/>"
        );
        label(&mut out, y + 3.0, &format!("{ms} ms"));
    }
    for op in all
        .iter()
        .enumerate()
        .filter(|(n, op)| !op.is_ok() || n % keep == 0)
        .map(|(_, op)| op)
    {
        if let Some(latency) = latency(op) {
            let (x, y) = (axis.x(op.start), y(latency));
            let _ = write!(
                out,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.5\" class=\"d{}\"/>",
                class(op.kind)
            );
        }
    }
    out.push_str("</svg>");
    out
}

/// Quantiles by operation and outcome. Nearest rank; p99.9 only where there are enough operations for it.
pub(super) fn quantiles(history: &[Event]) -> String {
    let mut groups: BTreeMap<(String, String), Vec<f64>> = BTreeMap::new();
    for workload in ["register", "jobs", "catalogue"] {
        for op in ops(history, workload) {
            if let Some(latency) = latency(&op) {
                let key = (format!("{workload} {}", op.f), class(op.kind).to_owned());
                groups.entry(key).or_default().push(latency);
            }
        }
    }
    let head = [
        "operation",
        "outcome",
        "count",
        "p50 ms",
        "p90 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for ((f, outcome), mut values) in groups {
        values.sort_by(f64::total_cmp);
        let rank = |per_mille: usize, least: usize| {
            let at = (values.len() * per_mille).div_ceil(1000).max(1) - 1;
            let value = values.get(at).filter(|_| values.len() >= least);
            value.map_or_else(|| "–".to_owned(), |v| format!("{v:.1}"))
        };
        let max = rank(1000, 1);
        rows.push(vec![
            f,
            outcome,
            values.len().to_string(),
            rank(500, 1),
            rank(900, 10),
            rank(990, 100),
            rank(999, 1000),
            max,
        ]);
    }
    table(&rows)
}

/// Successes per bucket of what began in it, and whether anything was tried.
pub(super) fn availability(all: &[Op<'_>], end: Nanos) -> Vec<(u64, u64)> {
    let buckets = usize::try_from(end / BUCKET).unwrap_or(0) + 1;
    let mut counts = vec![(0, 0); buckets];
    for op in all {
        let at = usize::try_from(op.start / BUCKET).unwrap_or(usize::MAX);
        if let Some((tried, served)) = counts.get_mut(at) {
            *tried += 1;
            *served += u64::from(op.is_ok());
        }
    }
    counts
}

/// A strip each for writes and reads: green where something succeeded, red where everything that was tried failed.
pub(super) fn strips(axis: &Axis, history: &[Event], bands: &[Band]) -> String {
    let all = ops(history, "register");
    let kinds: [(&str, &[&str]); 2] = [("writes", &["write", "cas"]), ("reads", &["read"])];
    let mut out = axis.open(56.0, bands);
    let mut rows = vec![
        [
            "service",
            "tenths of a second tried",
            "without success",
            "longest outage ms",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (number, (name, fs)) in kinds.iter().enumerate() {
        let top = 6.0 + 16.0 * float(number as u64);
        label(&mut out, top + 9.0, name);
        let mine: Vec<Op<'_>> = all.iter().filter(|op| fs.contains(&op.f)).cloned().collect();
        let counts = availability(&mine, axis.end);
        let (mut longest, mut present) = (0, 0);
        for (at, (_, served)) in counts.iter().enumerate().filter(|(_, (tried, _))| *tried > 0) {
            let from = at as u64 * BUCKET;
            let class = if *served > 0 { "up" } else { "down" };
            let (left, right) = (axis.x(from), axis.x(from + BUCKET));
            let _ = write!(
                out,
                "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"11\" class=\"{class}\"/>",
                (right - left).max(0.5)
            );
            present = if *served > 0 { 0 } else { present + 1 };
            longest = longest.max(present);
        }
        let tried = counts.iter().filter(|c| c.0 > 0).count();
        let down = counts.iter().filter(|c| c.0 > 0 && c.1 == 0).count();
        rows.push(vec![
            (*name).to_owned(),
            tried.to_string(),
            down.to_string(),
            (longest * 100).to_string(),
        ]);
    }
    out.push_str("</svg>");
    out + &table(&rows)
}
