//! After everything is healed the cluster serves again within a budget: writes and linearizable reads, a leader, and
//! every job runs on:
//! it completes a new checkpoint or has ended as it should.

use super::Case;
use super::catalogue::by_job;
use super::faults::healed_at;
use super::ops::{Op, ms, ops};
use super::visible::watches;
use crate::history::{Checker, Event, Finding, Nanos, Verdict};

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

fn first_ok(ops: &[Op<'_>], healed: Nanos, what: &[&str]) -> Option<Nanos> {
    let served = ops
        .iter()
        .filter(|op| op.is_ok() && op.start >= healed && what.contains(&op.f));
    served.map(|op| op.end).min()
}

/// Jobs that a workload watches: either ended or with a new checkpoint after healing.
fn judge_jobs(this: &Liveness, case: &mut Case, history: &[Event], healed: Nanos, last: Nanos) {
    let all = ops(history, "catalogue");
    let polls = by_job(&all, "checkpoints");
    let mut seen = std::collections::BTreeSet::new();
    for watch in ["eos", "bank"]
        .iter()
        .flat_map(|workload| watches(history, workload))
    {
        if !seen.insert(watch.job) {
            continue;
        }
        if let Some((state, at, reason)) = watch.ended {
            if state != "FINISHED" {
                case.violation(format!(
                    "job {} ended {state}: {}",
                    watch.job,
                    reason.unwrap_or_default()
                ));
            } else {
                this.judge(
                    case,
                    &format!("job {} finished", watch.job),
                    healed,
                    last,
                    Some(at.max(healed)),
                );
            }
            continue;
        }
        let empty = Vec::new();
        let polls = polls.get(watch.job).unwrap_or(&empty);
        let before = polls
            .iter()
            .filter(|p| p.end <= healed)
            .filter_map(|p| p.number("latest"))
            .max();
        let newer = polls
            .iter()
            .filter(|p| p.start >= healed && p.number("latest") > before.or(Some(0)))
            .map(|p| p.end)
            .min();
        this.judge(
            case,
            &format!("a new checkpoint of job {}", watch.job),
            healed,
            last,
            newer,
        );
    }
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
