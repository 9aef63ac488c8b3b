//! The time axis that all drawings of a page share, fault bands, and colours.

use crate::check::faults::Band;
use crate::history::{Kind, Nanos};
use std::fmt::Write;

/// Width of the names on the left, in SVG units.
pub(super) const LEFT: f64 = 120.0;
/// Width of the drawing.
pub(super) const WIDTH: f64 = 1180.0;

/// From time to place.
pub(super) struct Axis {
    /// End of the history.
    pub(super) end: Nanos,
}

#[expect(clippy::cast_precision_loss, reason = "a drawing")]
pub(super) fn float(n: u64) -> f64 {
    n as f64
}

impl Axis {
    pub(super) fn x(&self, t: Nanos) -> f64 {
        LEFT + float(t.min(self.end)) / float(self.end.max(1)) * (WIDTH - LEFT - 10.0)
    }

    /// Opens an SVG of a height, with bands and a scale of seconds.
    pub(super) fn open(&self, height: f64, bands: &[Band]) -> String {
        let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"100%\" class=\"plot\">");
        for band in bands.iter().filter(|b| b.outcome != "skipped") {
            let (from, to) = (self.x(band.start), self.x(band.end));
            let _ = write!(
                out,
                "<rect x=\"{from:.1}\" y=\"0\" width=\"{:.1}\" height=\"{:.0}\" class=\"band\"><title>{} {}</title></rect>",
                (to - from).max(1.0),
                height - 14.0,
                super::html::escape(&band.name),
                super::html::escape(&band.targets.join(" "))
            );
        }
        let seconds = float(self.end) / 1e9;
        let step = [1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];
        let step = step.into_iter().find(|s| seconds / s <= 24.0).unwrap_or(7200.0);
        let mut at = 0.0;
        while at <= seconds {
            let x = LEFT + at / seconds.max(1e-9) * (WIDTH - LEFT - 10.0);
            let _ = write!(
                out,
                "<line x1=\"{x:.1}\" y1=\"0\" x2=\"{x:.1}\" y2=\"{:.0}\" class=\"grid\"/>\
                 <text x=\"{x:.1}\" y=\"{:.0}\" class=\"tick\">{at:.0} s</text>",
                height - 14.0,
                height - 3.0
            );
            at += step;
        }
        out
    }
}

/// A lane's name on the left.
pub(super) fn label(out: &mut String, y: f64, text: &str) {
    let short: String = text.chars().take(20).collect();
    let _ = write!(
        out,
        "<text x=\"4\" y=\"{y:.1}\" class=\"name\">{}</text>",
        super::html::escape(&short)
    );
}

/// The class of an outcome.
pub(super) fn class(kind: Kind) -> &'static str {
    match kind {
        Kind::Ok => "ok",
        Kind::Fail => "fail",
        _ => "info",
    }
}
