//! Drawings as SVG text: distributions, and marks on a time axis. Pure; no colour, font or script from elsewhere.

use std::fmt::Write;

/// Colours that differ for most eyes (Okabe and Ito), in the order in which series take them.
pub const COLOURS: [&str; 8] = [
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d31", "#555555",
];
const WIDTH: f64 = 760.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const PLOT_HEIGHT: f64 = 180.0;
const STRIP_HEIGHT: f64 = 16.0;

/// Samples of one thing.
#[derive(Debug, Clone)]
pub struct Series {
    /// Its name.
    pub label: String,
    /// Its samples.
    pub samples: Vec<f64>,
}

/// Text as it may stand in HTML and SVG.
#[must_use]
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// An axis from `low` to `high` over a width in pixels.
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    low: f64,
    high: f64,
    log: bool,
    left: f64,
    width: f64,
}

impl Axis {
    /// A linear axis between two values, from `left` pixels on.
    #[must_use]
    pub fn linear(low: f64, high: f64, left: f64, width: f64) -> Self {
        let high = if high > low { high } else { low + 1.0 };
        Self {
            low,
            high,
            log: false,
            left,
            width,
        }
    }

    /// One that holds all samples: from 0, or logarithmic where they span more than a factor of 30.
    #[must_use]
    pub fn fitting(samples: impl Iterator<Item = f64> + Clone, left: f64, width: f64) -> Self {
        let high = samples.clone().fold(0.0, f64::max);
        let low = samples.filter(|s| *s > 0.0).fold(f64::INFINITY, f64::min);
        if high > low * 30.0 && low.is_finite() {
            return Self {
                low: low.max(0.1) / 1.2,
                high: high * 1.2,
                log: true,
                left,
                width,
            };
        }
        Self::linear(0.0, if high > 0.0 { high * 1.08 } else { 1.0 }, left, width)
    }

    /// Its least value.
    #[must_use]
    pub fn low(&self) -> f64 {
        self.low
    }

    /// Its greatest value.
    #[must_use]
    pub fn high(&self) -> f64 {
        self.high
    }

    /// Where a value lies, in pixels; outside of the axis, at its end.
    #[must_use]
    pub fn x(&self, value: f64) -> f64 {
        let value = value.clamp(self.low, self.high);
        let share = if self.log {
            (value / self.low).ln() / (self.high / self.low).ln()
        } else {
            (value - self.low) / (self.high - self.low)
        };
        self.left + share * self.width
    }

    /// Round values to write at the axis.
    #[must_use]
    pub fn ticks(&self) -> Vec<f64> {
        if self.log {
            let mut ticks = Vec::new();
            let mut decade = 10.0_f64.powf(self.low.log10().floor());
            while decade <= self.high {
                ticks.extend([1.0, 2.0, 5.0].map(|step| step * decade));
                decade *= 10.0;
            }
            ticks.retain(|t| (self.low..=self.high).contains(t));
            return ticks;
        }
        let rough = (self.high - self.low) / 8.0;
        let power = 10.0_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0]
            .map(|s| s * power)
            .into_iter()
            .find(|s| *s >= rough)
            .unwrap_or(power * 10.0);
        let first = (self.low / step).ceil();
        let count = ((self.high / step).floor() - first) as usize + 1;
        (0..count.min(20)).map(|i| (first + i as f64) * step).collect()
    }
}

/// A number for an axis or a label.
#[must_use]
pub fn number(value: f64) -> String {
    let text = if value.abs() >= 10.0 || value == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    };
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

/// Vertical lines at the axis' round values between two heights, with their values below.
pub fn grid(svg: &mut String, axis: &Axis, top: f64, bottom: f64) {
    for tick in axis.ticks() {
        let x = axis.x(tick);
        let _ = write!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"#ddd\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 13.0,
            number(tick)
        );
    }
}

/// The beginning of a drawing.
#[must_use]
pub fn open(width: f64, height: f64, title: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         height=\"{height:.0}\" font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\" role=\"img\">\
         <title>{0}</title><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>",
        escape(title)
    )
}

/// The share of failures that were over within a time, one step per sample, and under it every sample as a dot.
/// `limits` are drawn as dashed lines with their names.
#[must_use]
pub fn distribution(title: &str, series: &[Series], limits: &[(String, f64)]) -> String {
    let series: Vec<&Series> = series.iter().filter(|s| !s.samples.is_empty()).collect();
    let top = 24.0;
    let bottom = top + PLOT_HEIGHT;
    let strips = bottom + 22.0;
    let height = strips + STRIP_HEIGHT * series.len() as f64 + 8.0;
    let all = || {
        let samples = series.iter().flat_map(|s| s.samples.iter().copied());
        samples.chain(limits.iter().map(|l| l.1))
    };
    let axis = Axis::fitting(
        all().collect::<Vec<_>>().into_iter(),
        LEFT + 90.0,
        WIDTH - LEFT - RIGHT - 90.0,
    );
    let mut svg = open(WIDTH, height, title);
    let _ = write!(
        svg,
        "<text x=\"8\" y=\"15\" font-weight=\"bold\">{}</text>",
        escape(title)
    );
    grid(&mut svg, &axis, top, bottom);
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let y = bottom - share * PLOT_HEIGHT;
        let _ = write!(
            svg,
            "<line x1=\"{0:.1}\" x2=\"{1:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#eee\"/>\
             <text x=\"{2:.1}\" y=\"{3:.1}\" text-anchor=\"end\">{4:.0} %</text>",
            LEFT + 90.0,
            WIDTH - RIGHT,
            LEFT + 84.0,
            y + 4.0,
            share * 100.0
        );
    }
    for (name, limit) in limits {
        let x = axis.x(*limit);
        let _ = write!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{top:.1}\" y2=\"{bottom:.1}\" stroke=\"#888\" stroke-dasharray=\"4 3\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#666\">{}</text>",
            x + 3.0,
            top + 10.0,
            escape(name)
        );
    }
    for (index, one) in series.iter().enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        steps(&mut svg, &axis, &one.samples, colour, bottom);
        let y = strips + STRIP_HEIGHT * (index as f64 + 0.5);
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"{colour}\">{}</text>",
            LEFT + 84.0,
            y + 4.0,
            escape(&one.label)
        );
        for sample in &one.samples {
            let _ = write!(
                svg,
                "<circle cx=\"{:.1}\" cy=\"{y:.1}\" r=\"3\" fill=\"{colour}\" fill-opacity=\"0.45\"/>",
                axis.x(*sample)
            );
        }
    }
    svg.push_str("</svg>\n");
    svg
}

fn steps(svg: &mut String, axis: &Axis, samples: &[f64], colour: &str, bottom: f64) {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let mut path = format!("M{:.1} {bottom:.1}", axis.x(axis.low));
    for (rank, value) in sorted.iter().enumerate() {
        let share = (rank + 1) as f64 / sorted.len() as f64;
        let _ = write!(path, "H{:.1}V{:.1}", axis.x(*value), bottom - share * PLOT_HEIGHT);
    }
    let _ = write!(path, "H{:.1}", axis.x(axis.high));
    let _ = write!(
        svg,
        "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"/>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_fit_and_round() {
        let axis = Axis::fitting([10.0, 200.0, 230.0].into_iter(), 0.0, 100.0);
        assert_eq!(axis.ticks(), [0.0, 50.0, 100.0, 150.0, 200.0]);
        let log = Axis::fitting([10.0, 40_000.0].into_iter(), 0.0, 100.0);
        assert!(
            log.ticks().contains(&1000.0) && log.ticks().len() < 15,
            "{:?}",
            log.ticks()
        );
        assert!(log.x(10.0) < log.x(1000.0) && log.x(1e9) <= 100.0);
        assert_eq!(
            Axis::fitting(std::iter::empty(), 0.0, 1.0).ticks().first(),
            Some(&0.0)
        );
    }

    #[test]
    fn a_distribution_draws_every_sample_and_escapes() {
        let series = [
            Series {
                label: "a <b>".into(),
                samples: vec![3.0, 1.0, 2.0],
            },
            Series {
                label: "empty".into(),
                samples: vec![],
            },
        ];
        let svg = distribution("gaps & silences", &series, &[("floor".into(), 1.5)]);
        assert_eq!(svg.matches("<circle").count(), 3);
        assert_eq!(svg.matches("<path").count(), 1);
        assert!(svg.contains("a &lt;b&gt;") && svg.contains("gaps &amp; silences") && svg.contains("floor"));
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!([0.0, 0.5, 5.0, 123.4].map(number), ["0", "0.5", "5", "123"]);
    }
}
