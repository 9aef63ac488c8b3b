//! Money is neither made nor lost: each transfer is two rows whose amounts cancel, so every total that becomes visible is
//! zero over an even number of rows, and all balances of a window together are zero as soon as its accounts are complete.

use super::Case;
use super::eos::{Lines, judge_watch, may_vanish};
use super::ops::ms;
use super::visible::{Change, Watch, watches};
use crate::history::{Checker, Event, Finding, Verdict};
use crate::model::oracle::WINDOW;
use std::collections::BTreeMap;

/// The checker.
pub struct Bank;

fn numbers(line: &str) -> Option<Vec<i64>> {
    line.split(',').map(|part| part.trim().parse().ok()).collect()
}

fn judge_total(case: &mut Case, job: &str, t: u64, line: &str) {
    case.count("totals");
    let Some(&[first, count, sum]) = numbers(line).as_deref() else {
        return case.violation(format!("job {job}: '{line}' is no total"));
    };
    if sum != 0 || count % 2 != 0 {
        case.violation(format!(
            "job {job} at {:.1} ms: the window from {first} has {count} rows and the total {sum}",
            ms(t)
        ));
    }
}

/// Sums of the visible balances per window: rows and money.
#[derive(Default)]
struct Balances(BTreeMap<u64, (u64, i64)>);

impl Balances {
    fn add(&mut self, line: &str) {
        if let Some(&[_, first, count, sum]) = numbers(line).as_deref() {
            let window = u64::try_from(first).unwrap_or(0) / WINDOW;
            let (rows, money) = self.0.entry(window).or_default();
            *rows += u64::try_from(count).unwrap_or(0);
            *money += sum;
        }
    }

    fn judge(&self, case: &mut Case, job: &str, rows: u64) {
        for (window, (seen, money)) in &self.0 {
            let size = 2 * ((window + 1) * WINDOW).min(rows).saturating_sub(window * WINDOW);
            if *seen >= size && *money != 0 {
                case.violation(format!(
                    "job {job}: all accounts of window {window} together hold {money}"
                ));
            }
        }
    }
}

fn judge(case: &mut Case, watch: &Watch<'_>, may_vanish: bool) {
    let oracle = watch.expect.text("oracle").unwrap_or_default();
    let rows = watch.expect.number("rows").unwrap_or(0);
    let mut lines = Lines::new(oracle, rows);
    let mut balances = Balances::default();
    let ended = judge_watch(case, watch, may_vanish, |case, sight| match &sight.change {
        Change::Visible { lines: new, .. } => {
            lines.appear(case, watch.job, sight, new);
            for line in new {
                if oracle == "totals" {
                    judge_total(case, watch.job, sight.t, line);
                } else {
                    balances.add(line);
                }
            }
        }
        Change::Gone => lines.vanish(sight.file),
        Change::Changed | Change::Torn | Change::Unsynced => {}
    });
    if !may_vanish {
        balances.judge(case, watch.job, rows);
    }
    if ended {
        lines.finish(case, watch.job);
    }
}

impl Checker for Bank {
    fn name(&self) -> &'static str {
        "bank"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        for watch in watches(history, "bank") {
            judge(&mut case, &watch, may_vanish(history, watch.job));
        }
        if case.violations() == 0 && case.counted("finished sinks") == 0 {
            return case.finish_as(
                self.name(),
                Verdict::Unknown,
                "no job ended: nothing can be said of completeness",
            );
        }
        case.finish(self.name(), "the total is constant", &["totals"])
    }
}
