//! The report: one HTML page without anything from elsewhere. Distributions first, then a timeline of every failure.
//! Pure.

use super::cases::Floors;
use super::result::{BUCKET_MS, CaseResult, Failure, MEASURES, MORE};
use super::stats;
use super::svg::{self, Axis, Series, escape};
use super::text::{floor_of, ms};
use std::fmt::Write;

const STYLE: &str = "body{font:14px/1.5 sans-serif;max-width:64em;margin:2em auto;padding:0 1em;color:#222}\
table{border-collapse:collapse;margin:1em 0}td,th{padding:.15em .8em;text-align:right;border-bottom:1px solid #ddd}\
td:first-child,th:first-child{text-align:left}figure{margin:1em 0;overflow-x:auto}details{margin:.5em 0}\
summary{cursor:pointer}.bad{color:#b00020;font-weight:bold}";
const WIDTH: f64 = 940.0;
const LEFT: f64 = 84.0;
const LANE: f64 = 46.0;
/// Latencies above this are drawn at the lane's top: the probes' deadline.
const LATENCY_MS_MAX: f64 = 250.0;

/// The page.
#[must_use]
pub fn page(cases: &[(&CaseResult, Floors)]) -> String {
    let mut html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Holdfast drill</title>\
         <style>{STYLE}</style></head><body><h1>Holdfast drill</h1>"
    );
    html.push_str(
        "<p>Writes and linearizable reads were sent every 10 ms, whether or not those before had been answered; a gap is \
         the longest time between two answers. The output is silent while one of the job's subtasks emits nothing. Every \
         failure is shown, none is left out. A floor is what the configured timing makes impossible to go below.</p>",
    );
    for (case, floors) in cases {
        one_case(&mut html, case, floors);
    }
    html.push_str("</body></html>\n");
    html
}

fn one_case(html: &mut String, case: &CaseResult, floors: &Floors) {
    let _ = write!(
        html,
        "<h2 id=\"{0}\">{0}</h2><p>{1}. {2} failures, {3} rows/s, election timing {4}.</p>",
        escape(&case.case),
        escape(&case.about),
        case.failures.len(),
        case.load,
        escape(&case.profile)
    );
    table(html, case, floors);
    let _ = write!(
        html,
        "<p{}>Tasks restarted {}, records replayed {}, rows lost {}, rows doubled {}.</p>",
        if case.exact() { "" } else { " class=\"bad\"" },
        case.sum(|f| f.tasks_restarted),
        case.sum(|f| f.records_replayed),
        case.sum(|f| f.rows_lost),
        case.sum(|f| f.rows_doubled)
    );
    let series: Vec<Series> = MEASURES
        .iter()
        .map(|measure| Series {
            label: measure.label.to_owned(),
            samples: case.samples(measure),
        })
        .collect();
    let limits: Vec<(String, f64)> = floors
        .service
        .map(|f| ("floor".to_owned(), f.max))
        .into_iter()
        .collect();
    let title = format!("{}: share of failures within a time (ms)", case.case);
    let _ = write!(
        html,
        "<figure>{}</figure>",
        svg::distribution(&title, &series, &limits)
    );
    for failure in &case.failures {
        let _ = write!(
            html,
            "<details{}><summary>failure {}: {}; writes {} ms, reads {} ms, output {} ms (from {} ms \
             on)</summary><figure>{}</figure></details>",
            if failure.number == 1 { " open" } else { "" },
            failure.number,
            escape(&failure.victim),
            ms(Some(failure.write_gap_ms)),
            ms(Some(failure.read_gap_ms)),
            ms(Some(failure.output_gap_ms)),
            ms(Some(failure.output_gap_from_ms)),
            timeline(failure)
        );
    }
}

fn table(html: &mut String, case: &CaseResult, floors: &Floors) {
    html.push_str(
        "<table><tr><th>ms</th><th>p50</th><th>max</th><th>p99</th><th>floor p50</th><th>floor max</th></tr>",
    );
    for measure in MEASURES.iter().chain(&MORE) {
        let samples = case.samples(measure);
        if samples.is_empty() {
            continue;
        }
        let floor = floor_of(floors, measure.key);
        let p99 = stats::p99(&samples).map_or("-".to_owned(), |(value, name)| {
            let value = ms(Some(value));
            if name == "p99" {
                value
            } else {
                format!("{value} ({name})")
            }
        });
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td>{p99}</td><td>{}</td><td>{}</td></tr>",
            escape(measure.label),
            ms(stats::p50(&samples)),
            ms(stats::max(&samples)),
            ms(floor.map(|f| f.p50)),
            ms(floor.map(|f| f.max))
        );
    }
    html.push_str("</table>");
}

/// The moments that get a line of their own, with their short names.
fn marks(failure: &Failure) -> Vec<(&'static str, f64)> {
    let m = &failure.moments;
    [
        ("detected", m.detected),
        ("elected", m.elected),
        ("claimed", m.claimed),
        ("write", m.first_write),
        ("read", m.first_read),
        ("workers", m.reattached),
        ("record", m.first_record),
        ("caught up", m.caught_up),
        ("healed", m.healed),
        ("checkpoint", m.next_checkpoint),
    ]
    .into_iter()
    .filter_map(|(name, at)| Some((name, at?)))
    .collect()
}

/// From when to when a failure is drawn: until the last thing of interest.
fn span(failure: &Failure) -> (f64, f64) {
    let m = &failure.moments;
    let interesting = [
        m.elected,
        m.first_write,
        m.first_read,
        m.reattached,
        m.first_record,
        m.caught_up,
        m.healed,
    ];
    let last = interesting.into_iter().flatten().fold(0.0, f64::max);
    (-200.0, (last * 1.25 + 100.0).max(600.0))
}

/// One failure: lanes for writes, reads, output, committed files, and the moments under them.
#[must_use]
pub fn timeline(failure: &Failure) -> String {
    let (low, high) = span(failure);
    let axis = Axis::linear(low, high, LEFT, WIDTH - LEFT - 12.0);
    let marks: Vec<(&str, f64)> = marks(failure).into_iter().filter(|(_, at)| *at <= high).collect();
    let lanes = 4.0 * LANE + 18.0;
    let rows = 3.0;
    let height = lanes + 20.0 + rows * 14.0;
    let mut svg = svg::open(WIDTH, height, &format!("failure {}", failure.number));
    if let Some(healed) = failure.moments.healed {
        band(&mut svg, &axis, (0.0, healed), lanes, "#f6d5cf");
    }
    svg::grid(&mut svg, &axis, 8.0, lanes);
    dots(
        &mut svg,
        &axis,
        0,
        "writes",
        &failure.strip.writes,
        svg::COLOURS[0],
    );
    dots(&mut svg, &axis, 1, "reads", &failure.strip.reads, svg::COLOURS[2]);
    bars(&mut svg, &axis, failure);
    label(&mut svg, 3, "committed");
    for at in failure
        .strip
        .commits
        .iter()
        .filter(|at| (low..=high).contains(*at))
    {
        let _ = write!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"2\" height=\"{:.1}\" fill=\"{}\"/>",
            axis.x(*at),
            8.0 + 3.0 * LANE + 8.0,
            LANE - 16.0,
            svg::COLOURS[4]
        );
    }
    let x = axis.x(0.0);
    let _ = write!(
        svg,
        "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"2\" y2=\"{lanes:.1}\" stroke=\"#b00020\" stroke-width=\"2\"/>"
    );
    for (index, (name, at)) in marks.iter().enumerate() {
        let x = axis.x(*at);
        let y = lanes + 26.0 + 14.0 * (index % 3) as f64;
        let _ = write!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"8\" y2=\"{:.1}\" stroke=\"#555\" stroke-dasharray=\"2 3\"/>\
             <text x=\"{:.1}\" y=\"{y:.1}\">{} {}</text>",
            y - 9.0,
            x.min(WIDTH - 90.0),
            escape(name),
            svg::number(*at)
        );
    }
    svg.push_str("</svg>");
    svg
}

fn band(svg: &mut String, axis: &Axis, (from, to): (f64, f64), bottom: f64, colour: &str) {
    let (left, right) = (axis.x(from), axis.x(to));
    let _ = write!(
        svg,
        "<rect x=\"{left:.1}\" y=\"8\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{colour}\"/>",
        right - left,
        bottom - 8.0
    );
}

fn label(svg: &mut String, lane: usize, name: &str) {
    let y = 8.0 + LANE * (lane as f64 + 0.5) + 4.0;
    let _ = write!(
        svg,
        "<text x=\"{:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{name}</text>",
        LEFT - 8.0
    );
}

/// Probes: served ones as dots that rise with their latency, others as crosses at the top.
fn dots(svg: &mut String, axis: &Axis, lane: usize, name: &str, probes: &[(f64, f64, bool)], colour: &str) {
    label(svg, lane, name);
    let bottom = 8.0 + LANE * (lane as f64 + 1.0) - 4.0;
    for (sent, latency, ok) in probes
        .iter()
        .filter(|p| (axis.low()..=axis.high()).contains(&p.0))
    {
        let x = axis.x(*sent);
        if *ok {
            let y = bottom - (latency / LATENCY_MS_MAX).min(1.0) * (LANE - 10.0);
            let _ = write!(
                svg,
                "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"1.8\" fill=\"{colour}\"/>"
            );
        } else {
            let y = bottom - (LANE - 10.0);
            let _ = write!(
                svg,
                "<path d=\"M{0:.1} {1:.1}l4 4m0 -4l-4 4\" stroke=\"#b00020\"/>",
                x - 2.0,
                y - 2.0
            );
        }
    }
}

/// Emitted rows per bucket; those that had been emitted before in another colour.
fn bars(svg: &mut String, axis: &Axis, failure: &Failure) {
    label(svg, 2, "output");
    let bottom = 8.0 + LANE * 3.0 - 4.0;
    let most = failure
        .strip
        .rows
        .iter()
        .map(|r| r.1 + r.2)
        .max()
        .unwrap_or(1)
        .max(1);
    let width = (axis.x(BUCKET_MS) - axis.x(0.0)).max(0.6);
    for (at, new, again) in failure
        .strip
        .rows
        .iter()
        .filter(|r| (axis.low()..=axis.high()).contains(&r.0))
    {
        let mut y = bottom;
        for (count, colour) in [(new, svg::COLOURS[5]), (again, svg::COLOURS[1])] {
            let height = f64::from(*count) / f64::from(most) * (LANE - 10.0);
            y -= height;
            if *count > 0 {
                let _ = write!(
                    svg,
                    "<rect x=\"{:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>",
                    axis.x(*at)
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cases::Floor;
    use super::super::result::fixture;
    use super::*;

    #[test]
    fn the_page_stands_alone_and_shows_every_failure() {
        let case = fixture::leader();
        let floors = Floors {
            service: Some(Floor {
                p50: 190.0,
                max: 202.0,
            }),
            ..Floors::default()
        };
        let html = page(&[(&case, floors)]);
        assert_eq!(html.matches("<details").count(), 2);
        assert_eq!(html.matches("<svg").count(), 3);
        let links = html.replace("http://www.w3.org/2000/svg", "");
        for foreign in ["http:", "https:", "<script", "<link", "src="] {
            assert!(!links.contains(foreign), "{foreign}");
        }
        assert!(html.contains(
            "<td>writes not served</td><td>210</td><td>222</td><td>-</td><td>190</td><td>202</td>"
        ));
    }

    #[test]
    fn a_timeline_shows_probes_output_and_moments() {
        let svg = timeline(&fixture::leader().failures[0]);
        assert_eq!(svg.matches("<circle").count(), 4);
        assert_eq!(svg.matches("l4 4m0 -4l-4 4").count(), 1);
        assert!(svg.contains("elected 200") && svg.contains("write 210"), "{svg}");
        assert!(!svg.contains("checkpoint 900"), "it lies behind what is drawn");
    }
}
