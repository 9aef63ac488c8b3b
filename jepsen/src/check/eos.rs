//! Exactly once, end to end and at every moment: what a reader of the sink's directory sees is a part of the closed form,
//! no row twice; of every source split a prefix, once a commit is whole; nothing vanishes, except what a damaged checkpoint had
//! committed (ADR 0004); and in the end exactly the closed form.

use super::Case;
use super::catalogue::{by_job, completed};
use super::ops::{ms, ops};
use super::visible::{Change, Sight, Watch, parse_name, watches};
use crate::history::{Checker, Event, Finding, Verdict};
use crate::model::oracle;
use crate::model::part::Run;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The checker.
pub struct ExactlyOnce;

/// Completed and damaged checkpoints of a job, as the catalogue's answers had them.
#[derive(Default)]
struct Known {
    completed: BTreeSet<u64>,
    damaged: bool,
}

impl Known {
    fn all(history: &[Event]) -> BTreeMap<String, Known> {
        let polls = ops(history, "catalogue");
        let mut known: BTreeMap<String, Known> = BTreeMap::new();
        for (job, polls) in by_job(&polls, "checkpoints") {
            let entry = known.entry(job.to_owned()).or_default();
            for checkpoint in polls.iter().flat_map(|poll| completed(poll)) {
                entry.completed.insert(checkpoint.id);
                entry.damaged |= checkpoint.damaged;
            }
        }
        known
    }

    /// The checkpoint whose commit made a file visible: files of an aborted checkpoint ride with the next complete one.
    fn group(&self, file: &str) -> u64 {
        let checkpoint = parse_name(file).map_or(0, |name| name.checkpoint);
        let group = self.completed.range(checkpoint..).next();
        group.copied().unwrap_or(checkpoint)
    }
}

/// The numbers of one split that are visible, as runs that do not overlap, by their first number.
type Split = BTreeMap<u64, (Run, String)>;

/// What a reader sees of a sink of numbers.
struct Numbers {
    rows: u64,
    splits: u64,
    filtered: bool,
    visible: BTreeMap<u64, Split>,
    files: HashMap<String, Vec<Run>>,
    /// Files that appeared and whose commit may still go on.
    newest: u64,
    waiting: Vec<(String, u64)>,
    /// Per split: numbers below this are known to be there, in files of finished commits.
    verified: BTreeMap<u64, u64>,
    settled: BTreeMap<u64, Split>,
}

impl Numbers {
    fn new(watch: &Watch<'_>) -> Self {
        Self {
            rows: watch.expect.number("rows").unwrap_or(0),
            splits: watch.expect.number("splits").unwrap_or(1).max(1),
            filtered: watch.expect.text("oracle") == Some("filtered"),
            visible: BTreeMap::new(),
            files: HashMap::new(),
            newest: 0,
            waiting: Vec::new(),
            verified: BTreeMap::new(),
            settled: BTreeMap::new(),
        }
    }

    fn expected(&self, n: u64) -> bool {
        n < self.rows && (!self.filtered || oracle::passes(n))
    }

    fn total(&self) -> u64 {
        if self.filtered {
            oracle::filtered_count(self.rows)
        } else {
            self.rows
        }
    }

    fn appear(&mut self, case: &mut Case, job: &str, sight: &Sight<'_>, runs: &[Run]) {
        for run in runs {
            case.add("rows", run.count);
            if let Some(foreign) = run.numbers().find(|n| !self.expected(*n)) {
                case.violation(format!(
                    "job {job}: {} holds {foreign}, which never comes",
                    sight.file
                ));
            }
            let split = self.visible.entry(run.first % self.splits).or_default();
            let last = run.first + (run.count - 1) * run.step;
            let before = split.range(..=last).next_back();
            if let Some((_, (other, file))) =
                before.filter(|(_, (r, _))| r.first + (r.count - 1) * r.step >= run.first)
            {
                case.violation(format!(
                    "job {job} at {:.1} ms: rows of {run:?} in {} are visible twice: {other:?} in {file}",
                    ms(sight.t),
                    sight.file
                ));
                continue;
            }
            split.insert(run.first, (*run, sight.file.to_owned()));
        }
        self.files.insert(sight.file.to_owned(), runs.to_vec());
    }

    fn vanish(&mut self, file: &str) {
        self.files.remove(file);
        self.waiting.retain(|(name, _)| name != file);
        for split in self.visible.values_mut().chain(self.settled.values_mut()) {
            split.retain(|_, (_, name)| name != file);
        }
        self.verified.clear();
    }

    /// A file of a later commit is there: the commits before it are over, and what they show must be a prefix of every split.
    fn settle(&mut self, case: &mut Case, job: &str, known: &Known, sight: &Sight<'_>) {
        let group = known.group(sight.file);
        self.waiting.push((sight.file.to_owned(), group));
        if group <= self.newest {
            return;
        }
        self.newest = group;
        let over = |(_, g): &(String, u64)| *g < group;
        let settled: Vec<String> = self
            .waiting
            .iter()
            .filter(|w| over(w))
            .map(|(name, _)| name.clone())
            .collect();
        self.waiting.retain(|w| !over(w));
        for file in settled {
            for run in self.files.get(&file).into_iter().flatten() {
                let split = self.settled.entry(run.first % self.splits).or_default();
                split.insert(run.first, (*run, file.clone()));
            }
        }
        case.count("prefix checks");
        for number in 0..self.splits.min(self.rows) {
            if let Some((hole, beyond)) = self.hole(number) {
                case.violation(format!(
                    "job {job} at {:.1} ms: {beyond} is visible and {hole} of the same split is not, a commit later",
                    ms(sight.t)
                ));
                return;
            }
        }
    }

    /// The first number that is missing although a later one of its split is there.
    fn hole(&mut self, number: u64) -> Option<(u64, u64)> {
        let split = self.settled.get(&number)?;
        let mut next = self.verified.get(&number).copied().unwrap_or(number);
        for (first, (run, _)) in split.range(next..) {
            while next < *first && !(next < self.rows && (!self.filtered || oracle::passes(next))) {
                next += self.splits;
            }
            if next < *first {
                return Some((next, *first));
            }
            next = run.first.saturating_add(run.count * self.splits);
        }
        self.verified.insert(number, next);
        None
    }

    fn finish(&self, case: &mut Case, job: &str) {
        let visible: u64 = self
            .visible
            .values()
            .flat_map(BTreeMap::values)
            .map(|(run, _)| run.count)
            .sum();
        if visible != self.total() {
            let seen: BTreeSet<u64> = self
                .visible
                .values()
                .flat_map(BTreeMap::values)
                .flat_map(|(r, _)| r.numbers())
                .collect();
            let lost: Vec<u64> = (0..self.rows)
                .filter(|n| self.expected(*n) && !seen.contains(n))
                .take(5)
                .collect();
            case.violation(format!(
                "job {job} has ended with {visible} of {} rows; the first that are lost: {lost:?}",
                self.total()
            ));
        }
    }
}

/// What a reader sees of a sink of aggregates.
pub(super) struct Lines {
    expected: BTreeSet<String>,
    owner: HashMap<String, String>,
}

impl Lines {
    pub(super) fn new(oracle: &str, rows: u64) -> Self {
        Self {
            expected: oracle::lines(oracle, rows).unwrap_or_default(),
            owner: HashMap::new(),
        }
    }

    pub(super) fn appear(&mut self, case: &mut Case, job: &str, sight: &Sight<'_>, lines: &[&str]) {
        for line in lines {
            case.count("rows");
            if !self.expected.contains(*line) {
                case.violation(format!(
                    "job {job}: {} holds '{line}', which is wrong",
                    sight.file
                ));
            }
            if let Some(other) = self.owner.insert((*line).to_owned(), sight.file.to_owned()) {
                case.violation(format!(
                    "job {job} at {:.1} ms: '{line}' is visible twice, in {other} and {}",
                    ms(sight.t),
                    sight.file
                ));
            }
        }
    }

    pub(super) fn vanish(&mut self, file: &str) {
        self.owner.retain(|_, owner| owner != file);
    }

    pub(super) fn finish(&self, case: &mut Case, job: &str) {
        let lost: Vec<&String> = self
            .expected
            .iter()
            .filter(|line| !self.owner.contains_key(*line))
            .collect();
        if !lost.is_empty() {
            let some: Vec<_> = lost.iter().take(5).collect();
            case.violation(format!(
                "job {job} has ended without {} rows, among them {some:?}",
                lost.len()
            ));
        }
    }
}

/// Judges what is the same for every sink: nothing torn, changed or gone; then the end.
pub(super) fn judge_watch(
    case: &mut Case,
    watch: &Watch<'_>,
    may_vanish: bool,
    mut apply: impl FnMut(&mut Case, &Sight<'_>),
) -> bool {
    for sight in &watch.sights {
        let at = ms(sight.t);
        match &sight.change {
            Change::Gone if !may_vanish => {
                case.violation(format!(
                    "job {}, {at:.1} ms: {} was visible and is gone",
                    watch.job, sight.file
                ));
            }
            Change::Changed => case.violation(format!(
                "job {}, {at:.1} ms: {} has changed",
                watch.job, sight.file
            )),
            Change::Torn => case.violation(format!(
                "job {}, {at:.1} ms: {} ends in the middle of a row",
                watch.job, sight.file
            )),
            Change::Gone => case.count("files taken back"),
            Change::Unsynced => case.count("files hidden by a power loss"),
            Change::Visible { .. } => case.count("files"),
        }
        apply(case, sight);
    }
    match watch.ended {
        Some(("FINISHED", ..)) => {
            case.count("finished sinks");
            true
        }
        Some((state, _, reason)) => {
            case.violation(format!(
                "job {} ended {state}: {}",
                watch.job,
                reason.unwrap_or_default()
            ));
            false
        }
        None => {
            case.count("unfinished sinks");
            false
        }
    }
}

/// Whether any answer called a checkpoint of the job damaged: then its sinks may take files back.
pub(super) fn may_vanish(history: &[Event], job: &str) -> bool {
    Known::all(history).get(job).is_some_and(|known| known.damaged)
}

fn judge_numbers(case: &mut Case, watch: &Watch<'_>, known: &Known) {
    let mut numbers = Numbers::new(watch);
    let ended = judge_watch(case, watch, known.damaged, |case, sight| match &sight.change {
        Change::Visible { runs, .. } => {
            numbers.appear(case, watch.job, sight, runs);
            numbers.settle(case, watch.job, known, sight);
        }
        Change::Gone => numbers.vanish(sight.file),
        Change::Changed | Change::Torn | Change::Unsynced => {}
    });
    if ended {
        numbers.finish(case, watch.job);
    }
}

fn judge_lines(case: &mut Case, watch: &Watch<'_>, known: &Known) {
    let mut lines = Lines::new(
        watch.expect.text("oracle").unwrap_or_default(),
        watch.expect.number("rows").unwrap_or(0),
    );
    let ended = judge_watch(case, watch, known.damaged, |case, sight| match &sight.change {
        Change::Visible { lines: new, .. } => lines.appear(case, watch.job, sight, new),
        Change::Gone => lines.vanish(sight.file),
        Change::Changed | Change::Torn | Change::Unsynced => {}
    });
    if ended {
        lines.finish(case, watch.job);
    }
}

impl Checker for ExactlyOnce {
    fn name(&self) -> &'static str {
        "eos"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        let known = Known::all(history);
        let unknown = Known::default();
        for watch in watches(history, "eos") {
            let known = known.get(watch.job).unwrap_or(&unknown);
            match watch.expect.text("oracle") {
                Some("numbers" | "filtered") => judge_numbers(&mut case, &watch, known),
                _ => judge_lines(&mut case, &watch, known),
            }
        }
        if case.violations() == 0 && case.counted("finished sinks") == 0 {
            return case.finish_as(
                self.name(),
                Verdict::Unknown,
                "no job ended: nothing can be said of completeness",
            );
        }
        case.finish(self.name(), "every row exactly once, at every moment", &["rows"])
    }
}
