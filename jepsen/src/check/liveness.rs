//! After everything is healed the cluster serves again within a budget: writes and linearizable reads, a leader, and
//! every job makes progress: it completes a checkpoint, commits output, or finishes.

use super::Case;
use super::catalogue::by_job;
use super::faults::healed_at;
use super::ops::{Op, ms, ops};
use super::visible::watches;
use crate::history::{Checker, Event, Finding, Nanos, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// A job that nobody asked for longer than this after its submission has only just begun, in nanoseconds.
const JUST_BEGUN: Nanos = 5_000_000_000;

/// The checker.
pub struct Liveness {
    /// Time from healing to service, in nanoseconds.
    pub budget: Nanos,
}

impl Default for Liveness {
    fn default() -> Self {
        // Election, re-registration of workers, a restart with back-off and one checkpoint, on a busy machine.
        Self {
            budget: 30_000_000_000,
        }
    }
}

impl Liveness {
    /// Judges one service: the first success that began after healing.
    fn judge(&self, case: &mut Case, what: &str, healed: Nanos, last: Nanos, first: Option<Nanos>) {
        match first {
            Some(at) if at <= healed + self.budget => {
                case.count("services back");
                case.remark(format!("{what}: {:.0} ms after healing", ms(at - healed)));
            }
            Some(at) => case.violation(format!("{what}: only {:.0} ms after healing", ms(at - healed))),
            None if last >= healed + self.budget => case.violation(format!(
                "{what}: not within {:.0} ms after healing",
                ms(last - healed)
            )),
            // Nobody looked for long enough.
            None => case.count("services not looked at"),
        }
    }
}

/// Whether a job was first seen after healing, and asked for during a moment only: a workload that is told to stop may
/// just have submitted its next job, and nobody looks at that any more.
fn begun_at_the_end(polls: &[&Op<'_>], healed: Nanos) -> bool {
    let first = polls.iter().map(|poll| poll.start).min().unwrap_or(0);
    let last = polls.iter().map(|poll| poll.end).max().unwrap_or(0);
    first > healed && last < first + JUST_BEGUN
}

fn first_ok(ops: &[Op<'_>], healed: Nanos, what: &[&str]) -> Option<Nanos> {
    let served = ops
        .iter()
        .filter(|op| op.is_ok() && op.start >= healed && what.contains(&op.f));
    served.map(|op| op.end).min()
}

/// Jobs that a workload watches: after healing, and after its submission, each makes progress within the budget: it
/// completes a checkpoint, commits output or finishes. How long its remaining input takes is its own affair.
fn judge_jobs(this: &Liveness, case: &mut Case, history: &[Event], healed: Nanos, last: Nanos) {
    let all = ops(history, "catalogue");
    let polls = by_job(&all, "checkpoints");
    let mut signs: BTreeMap<&str, (Nanos, Option<Nanos>)> = BTreeMap::new();
    let mut failed = BTreeSet::new();
    for watch in ["eos", "bank"]
        .iter()
        .flat_map(|workload| watches(history, workload))
    {
        let since = healed.max(watch.expect.t);
        let sign = signs.entry(watch.job).or_insert((since, None));
        let end = match watch.ended {
            Some(("FINISHED", at, _)) => Some(at.max(since)),
            Some((state, _, reason)) => {
                if failed.insert(watch.job) {
                    let reason = reason.unwrap_or_default();
                    case.violation(format!("job {} ended {state}: {reason}", watch.job));
                }
                continue;
            }
            None => None,
        };
        let output = watch
            .sights
            .iter()
            .map(|sight| sight.t)
            .filter(|t| *t >= since)
            .min();
        let none = Vec::new();
        let checkpoint = newer_checkpoint(polls.get(watch.job).unwrap_or(&none), since);
        sign.1 = [sign.1, end, output, checkpoint].into_iter().flatten().min();
    }
    // Jobs without sinks that are read: their checkpoints are what is known of them.
    for (job, polls) in &polls {
        let asked_later = polls.iter().any(|poll| poll.start >= healed);
        if !asked_later || signs.contains_key(job) {
            continue;
        }
        let sign = newer_checkpoint(polls, healed);
        if sign.is_none() && begun_at_the_end(polls, healed) {
            case.count("jobs begun at the end");
        } else {
            signs.insert(job, (healed, sign));
        }
    }
    for (job, (since, sign)) in signs.into_iter().filter(|(job, _)| !failed.contains(job)) {
        this.judge(case, &format!("progress of job {job}"), since, last, sign);
    }
}

/// When a checkpoint was first seen that is newer than those before a moment.
fn newer_checkpoint(polls: &[&Op<'_>], since: Nanos) -> Option<Nanos> {
    let latest = |poll: &&&Op<'_>| poll.number("latest");
    let before = polls
        .iter()
        .filter(|p| p.end <= since)
        .filter_map(|p| latest(&p))
        .max();
    let newer = polls
        .iter()
        .filter(|p| p.start >= since && latest(p) > before.or(Some(0)));
    newer.map(|p| p.end).min()
}

impl Checker for Liveness {
    fn name(&self) -> &'static str {
        "liveness"
    }

    fn check(&self, history: &[Event]) -> Finding {
        let mut case = Case::default();
        // Without faults everything must be served from the beginning.
        let healed = healed_at(history).unwrap_or(0);
        let last = history.iter().map(|e| e.t).max().unwrap_or(0);
        let register = ops(history, "register");
        if !register.is_empty() {
            self.judge(
                &mut case,
                "a write",
                healed,
                last,
                first_ok(&register, healed, &["write", "cas"]),
            );
            self.judge(
                &mut case,
                "a read",
                healed,
                last,
                first_ok(&register, healed, &["read"]),
            );
        }
        let jobs = ops(history, "jobs");
        if !jobs.is_empty() {
            self.judge(
                &mut case,
                "a list of jobs",
                healed,
                last,
                first_ok(&jobs, healed, &["list"]),
            );
        }
        judge_jobs(self, &mut case, history, healed, last);
        if case.violations() == 0 && case.counted("services not looked at") > 0 {
            return case.finish_as(
                self.name(),
                Verdict::Unknown,
                "service after healing: not looked at for long enough",
            );
        }
        case.finish(self.name(), "service returns after healing", &["services back"])
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::check::words::{event, note};
    use crate::history::Kind;

    const SECOND: Nanos = 1_000_000_000;

    /// A job that never completes a checkpoint, asked for from a second to a second; healed in the tenth.
    fn without_progress(from: Nanos, to: Nanos) -> Finding {
        let mut history = vec![note(10 * SECOND, "nemesis", "nemesis", "healed")];
        let asked = [(3, "old", Some(5)), (11, "old", Some(6))].into_iter();
        let asked = asked.chain((from..=to).map(|second| (second, "new", None)));
        for (op, (second, job, latest)) in asked.enumerate() {
            let t = second * SECOND;
            let ask = event(t, "poll", Kind::Invoke, "catalogue", "checkpoints", op as u64);
            history.push(ask.with("job", job));
            let answer = event(t + 1, "poll", Kind::Ok, "catalogue", "checkpoints", op as u64);
            history.push(answer.with("job", job).with("latest", latest));
        }
        history.push(note(50 * SECOND, "harness", "cluster", "end"));
        history.sort_by_key(|event| event.t);
        Liveness::default().check(&history)
    }

    #[test]
    fn a_job_that_was_begun_at_the_end_owes_nothing_yet() {
        let begun_at_the_end = without_progress(12, 15);
        assert_eq!(begun_at_the_end.verdict, Verdict::Valid, "{begun_at_the_end:?}");
        assert_eq!(begun_at_the_end.counts["jobs begun at the end"], 1);
    }

    #[test]
    fn a_job_that_stands_still_is_found() {
        for (from, to) in [(12, 45), (12, 18), (9, 12)] {
            let still = without_progress(from, to);
            assert_eq!(still.verdict, Verdict::Invalid, "{still:?}");
        }
    }
}
