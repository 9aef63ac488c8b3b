//! The table that people see. Pure.

use super::cases::Floor;
use super::cases::Floors;
use super::result::{CaseResult, MEASURES, MORE, Measure};
use super::stats;
use crate::output::Table;
use std::fmt::Write;

/// The floor of a measure.
#[must_use]
pub fn floor_of(floors: &Floors, key: &str) -> Option<Floor> {
    match key {
        "detect_ms" => floors.detect,
        "elect_ms" => floors.elect,
        "write_gap_ms" | "read_gap_ms" => floors.service,
        "output_gap_ms" => floors.output,
        _ => None,
    }
}

/// A time for people: milliseconds with a tenth below a hundred.
#[must_use]
pub fn ms(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value < 99.95 => format!("{value:.1}"),
        Some(value) => format!("{value:.0}"),
    }
}

/// A case's table, with what it did and what it cost.
#[must_use]
pub fn case(result: &CaseResult, floors: &Floors, colours: bool) -> String {
    let mut table = Table::new(&["ms", "p50", "max", "p99", "floor p50", "floor max"]);
    let mut note = None;
    for measure in MEASURES.iter().chain(&MORE) {
        let samples = result.samples(measure);
        if samples.is_empty() {
            continue;
        }
        let p99 = stats::p99(&samples);
        if let Some((_, name)) = p99.as_ref().filter(|(_, name)| name != "p99") {
            note = Some(name.clone());
        }
        let floor = floor_of(floors, measure.key);
        table.row([
            label(measure),
            ms(stats::p50(&samples)),
            ms(stats::max(&samples)),
            ms(p99.map(|(value, _)| value)),
            ms(floor.map(|f| f.p50)),
            ms(floor.map(|f| f.max)),
        ]);
    }
    let mut text = format!(
        "{}: {}; {} failures, {} rows/s, election timing '{}'\n{}",
        result.case,
        result.about,
        result.failures.len(),
        result.load,
        result.profile,
        table.render(colours)
    );
    if let Some(name) = note {
        let _ = writeln!(
            text,
            "p99 is the {name}: only 299 failures bound a p99 with 95 % confidence"
        );
    }
    let _ = writeln!(
        text,
        "tasks restarted {}, records replayed {}, rows lost {}, rows doubled {}\n",
        result.sum(|f| f.tasks_restarted),
        result.sum(|f| f.records_replayed),
        result.sum(|f| f.rows_lost),
        result.sum(|f| f.rows_doubled)
    );
    text
}

fn label(measure: &Measure) -> String {
    measure.label.to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::result::fixture;
    use super::*;

    #[test]
    fn the_table_aligns_and_leaves_out_what_was_not_measured() {
        let floors = Floors {
            service: Some(Floor {
                p50: 189.5,
                max: 202.0,
            }),
            ..Floors::default()
        };
        let text = case(&fixture::leader(), &floors, false);
        let line = |name: &str| {
            let line = text
                .lines()
                .find(|l| l.trim_start().starts_with(name))
                .unwrap_or_default();
            line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            line("writes not served"),
            ["writes", "not", "served", "210", "222", "-", "190", "202"]
        );
        assert_eq!(
            line("output silent"),
            ["output", "silent", "18.0", "18.0", "-", "-", "-"]
        );
        assert!(text.contains("rows lost 0, rows doubled 0"), "{text}");
        assert!(
            text.starts_with("leader: kill -9 of the leading coordinator; 2 failures"),
            "{text}"
        );
    }
}
