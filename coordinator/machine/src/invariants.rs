//! What always holds of the state, each with a sentence. The one registry: tests, the simulator and fault tests use it.
//!
//! [`check`] looks at one state; [`check_step`] at a state and a later one of the same log.

use crate::state::{Job, JobStatus, State};
use holdfast_common::limits::{
    CHECKPOINT_HISTORY, CHECKPOINTS_PER_JOB_MAX, ENDED_JOBS_MAX, EXCEPTIONS_PER_JOB, FAILURE_TIMES_PER_JOB,
    KV_ENTRIES_MAX, KV_VALUE_BYTES_MAX, SESSION_WINDOW, SESSIONS_MAX, WORKERS_MAX,
};
use std::fmt;

/// An invariant of one state.
#[derive(Debug, Clone, Copy)]
pub struct Invariant {
    /// Its name, stable.
    pub name: &'static str,
    /// What holds.
    pub sentence: &'static str,
    check: fn(&State) -> Option<String>,
}

/// An invariant of two states, the second of which came later.
#[derive(Debug, Clone, Copy)]
pub struct StepInvariant {
    /// Its name, stable.
    pub name: &'static str,
    /// What holds.
    pub sentence: &'static str,
    check: fn(&State, &State) -> Option<String>,
}

/// An invariant that does not hold, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub name: &'static str,
    /// What should hold.
    pub sentence: &'static str,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (found: {})", self.name, self.sentence, self.found)
    }
}

/// All violations in one state; none is expected, ever.
#[must_use]
pub fn check(state: &State) -> Vec<Violation> {
    let violation = |i: &Invariant| {
        (i.check)(state).map(|found| Violation {
            name: i.name,
            sentence: i.sentence,
            found,
        })
    };
    INVARIANTS.iter().filter_map(violation).collect()
}

/// All violations between a state and a later one.
#[must_use]
pub fn check_step(before: &State, after: &State) -> Vec<Violation> {
    let violation = |i: &StepInvariant| {
        (i.check)(before, after).map(|found| Violation {
            name: i.name,
            sentence: i.sentence,
            found,
        })
    };
    STEP_INVARIANTS.iter().filter_map(violation).collect()
}

fn find_job(state: &State, wrong: impl Fn(&Job) -> bool) -> Option<String> {
    state
        .jobs
        .values()
        .find(|job| wrong(job))
        .map(|job| format!("job {} in {:?}", job.id, job.status))
}

/// Of every state.
pub const INVARIANTS: &[Invariant] = &[
    Invariant {
        name: "numbers-from-the-log",
        sentence: "epochs, attempts, sessions and revisions are indexes of entries that have been applied",
        check: |s| {
            let attempts = s.jobs.values().filter_map(|j| j.attempt.as_ref()).map(|a| a.id.0);
            let numbers = attempts
                .chain(s.sessions.keys().copied())
                .chain(s.kv.values().map(|e| e.revision))
                .chain([s.epoch().0]);
            numbers
                .max()
                .filter(|n| *n > s.applied)
                .map(|n| format!("{n} > applied {}", s.applied))
        },
    },
    Invariant {
        name: "keys-are-identities",
        sentence: "workers and jobs stand under their own identity",
        check: |s| {
            let worker = s
                .workers
                .iter()
                .find(|(id, w)| **id != w.resource_id)
                .map(|(id, _)| id.clone());
            worker.or_else(|| {
                s.jobs
                    .iter()
                    .find(|(id, j)| **id != j.id)
                    .map(|(id, _)| id.to_string())
            })
        },
    },
    Invariant {
        name: "ended-jobs-have-an-end",
        sentence: "a job has an end time if and only if its status is final",
        check: |s| find_job(s, |j| j.status.is_terminal() != j.ended_ms.is_some()),
    },
    Invariant {
        name: "running-needs-an-attempt",
        sentence: "a RUNNING job has a current attempt whose tasks have all run",
        check: |s| {
            find_job(s, |j| {
                j.status == JobStatus::Running && j.attempt.as_ref().is_none_or(|a| a.running_ms.is_none())
            })
        },
    },
    Invariant {
        name: "attempts-are-counted",
        sentence: "the current attempt's number is the number of attempts so far, with one slot per subtask",
        check: |s| {
            find_job(s, |j| match &j.attempt {
                Some(a) => a.number != j.attempts || a.assignment.len() != j.parallelism as usize,
                None => j.attempts != 0,
            })
        },
    },
    Invariant {
        name: "finished-means-committed",
        sentence: "a FINISHED job has completed a checkpoint, and every one that is left and was needed is committed",
        check: |s| {
            find_job(s, |j| {
                j.status == JobStatus::Finished
                    && (j.checkpoint_stats.newest_completed.0 == 0
                        || j.checkpoints.values().next_back().is_some_and(|c| !c.committed))
            })
        },
    },
    Invariant {
        name: "checkpoint-numbers-are-reserved",
        sentence: "every checkpoint stands under its number, which was reserved and is no greater than the newest",
        check: |s| {
            find_job(s, |j| {
                j.checkpoints.iter().any(|(id, c)| {
                    *id != c.id || *id >= j.next_checkpoint || *id > j.checkpoint_stats.newest_completed
                })
            })
        },
    },
    Invariant {
        name: "checkpoints-have-an-attempt",
        sentence: "a checkpoint was taken by the current attempt or an earlier one, later checkpoints by later attempts",
        check: |s| {
            find_job(s, |j| {
                let current = j.attempt.as_ref().map_or(0, |a| a.id.0);
                let attempts: Vec<u64> = j.checkpoints.values().map(|c| c.attempt.0).collect();
                !attempts.is_sorted() || attempts.last().is_some_and(|a| *a > current)
            })
        },
    },
    Invariant {
        name: "restart-point-is-kept",
        sentence: "while a job lives, its newest checkpoint is not retired unless it is damaged",
        check: |s| {
            // When the newest turns out to be damaged, those before it may have been retired long ago.
            find_job(s, |j| {
                let newest = j.checkpoints.values().next_back();
                !j.status.is_terminal() && newest.is_some_and(|c| c.retired && !c.damaged)
            })
        },
    },
    Invariant {
        name: "nothing-to-commit-is-committed",
        sentence: "a checkpoint without committables counts as committed",
        check: |s| {
            find_job(s, |j| {
                j.checkpoints.values().any(|c| !c.needs_commit && !c.committed)
            })
        },
    },
    Invariant {
        name: "submissions-name-jobs",
        sentence: "idempotency keys and the jobs that were submitted with them name each other",
        check: |s| {
            let dangling = s
                .submissions
                .iter()
                .find(|(key, id)| s.jobs.get(id).and_then(|j| j.idempotency_key.as_ref()) != Some(*key));
            dangling.map(|(key, _)| key.clone()).or_else(|| {
                find_job(s, |j| {
                    j.idempotency_key
                        .as_ref()
                        .is_some_and(|k| s.submissions.get(k) != Some(&j.id))
                })
            })
        },
    },
    Invariant {
        name: "sessions-remember-a-window",
        sentence: "a session remembers a bounded number of answers, all above its acknowledged watermark",
        check: |s| {
            let wrong = s.sessions.iter().find(|(_, session)| {
                session.responses.len() > SESSION_WINDOW
                    || session
                        .responses
                        .keys()
                        .next()
                        .is_some_and(|seq| *seq <= session.acked_up_to)
            });
            wrong.map(|(id, _)| format!("session {id}"))
        },
    },
    Invariant {
        name: "everything-is-bounded",
        sentence: "sessions, workers, keys, ended jobs, and each job's lists stay within their limits",
        check: |s| {
            let ended = s.jobs.values().filter(|j| j.status.is_terminal()).count();
            let totals = s.sessions.len() > SESSIONS_MAX
                || s.workers.len() > WORKERS_MAX
                || s.kv.len() > KV_ENTRIES_MAX
                || ended > ENDED_JOBS_MAX
                || s.kv.values().any(|e| e.value.len() > KV_VALUE_BYTES_MAX);
            if totals {
                return Some("a total".to_owned());
            }
            find_job(s, |j| {
                j.exceptions.len() > EXCEPTIONS_PER_JOB
                    || j.failure_times_ms.len() > FAILURE_TIMES_PER_JOB
                    || j.checkpoint_stats.history.len() > CHECKPOINT_HISTORY
                    || j.checkpoints.len() > CHECKPOINTS_PER_JOB_MAX
            })
        },
    },
];

/// Of every pair of states of one log.
pub const STEP_INVARIANTS: &[StepInvariant] = &[
    StepInvariant {
        name: "time-and-log-go-forward",
        sentence: "the applied index, the time, the epoch and the feature level never go back",
        check: |a, b| {
            let back = b.applied < a.applied
                || b.now_ms < a.now_ms
                || b.epoch() < a.epoch()
                || b.feature_level < a.feature_level;
            back.then(|| format!("from {} to {}", a.applied, b.applied))
        },
    },
    StepInvariant {
        name: "a-cluster-keeps-its-name",
        sentence: "once named, a cluster keeps its identity",
        check: |a, b| (a.cluster.is_some() && a.cluster != b.cluster).then(|| format!("{:?}", b.cluster)),
    },
    StepInvariant {
        name: "attempts-and-checkpoints-go-forward",
        sentence: "a job's attempt, checkpoint numbers and counters never go back",
        check: |a, b| {
            let attempt = |j: &Job| j.attempt.as_ref().map(|x| x.id);
            b.jobs.values().find_map(|new| {
                let old = a.jobs.get(&new.id)?;
                let back = attempt(new) < attempt(old)
                    || new.attempts < old.attempts
                    || new.next_checkpoint < old.next_checkpoint
                    || new.checkpoint_stats.newest_completed < old.checkpoint_stats.newest_completed
                    || new.checkpoint_stats.completed < old.checkpoint_stats.completed;
                back.then(|| format!("job {}", new.id))
            })
        },
    },
    StepInvariant {
        name: "the-end-is-final",
        sentence: "a job that has ended stays as it ended",
        check: |a, b| {
            b.jobs.values().find_map(|new| {
                let old = a.jobs.get(&new.id)?;
                (old.status.is_terminal() && old.status != new.status).then(|| format!("job {}", new.id))
            })
        },
    },
    StepInvariant {
        name: "checkpoints-do-not-change",
        sentence: "a checkpoint's record keeps its content, and committed, retired and damaged stay so",
        check: |a, b| {
            b.jobs.values().find_map(|new| {
                let old = a.jobs.get(&new.id)?;
                new.checkpoints.values().find_map(|c| {
                    let o = old.checkpoints.get(&c.id)?;
                    let same = o.manifest_sha256 == c.manifest_sha256
                        && o.manifest_path == c.manifest_path
                        && o.attempt == c.attempt;
                    let forward =
                        o.committed <= c.committed && o.retired <= c.retired && o.damaged <= c.damaged;
                    (!same || !forward).then(|| format!("job {} checkpoint {}", new.id, c.id))
                })
            })
        },
    },
];
