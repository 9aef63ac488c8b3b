//! What the agent remembers of leaders and attempts: which commands are stale, and which messages must be said again to
//! the next leader because the last one may not have heard them. Pure; no IO, no clock.

use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::{ACTIVE_JOBS_MAX, AGENT_LEDGER_MAX};
use holdfast_common::{AttemptId, CheckpointId, JobId, LeaderEpoch, VertexId};
use holdfast_proto::control::worker_message::Body;
use std::collections::BTreeMap;

/// Why a command is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Stale {
    /// Another leader was obeyed since.
    #[error("leader epoch {given} is over, {seen} was obeyed since")]
    Epoch {
        /// The command's.
        given: LeaderEpoch,
        /// The newest obeyed.
        seen: LeaderEpoch,
    },
    /// Another attempt of the job was deployed since, or this one was cancelled.
    #[error("attempt {given} is over, the current one is {current:?}")]
    Attempt {
        /// The command's.
        given: AttemptId,
        /// The one that runs here.
        current: Option<AttemptId>,
    },
}

impl Stale {
    /// The refusal of a command.
    fn refuse(self) -> Result<(), Self> {
        if inject::bug(bugs::STALE_ATTEMPT_ACCEPTED) {
            return Ok(());
        }
        Err(self)
    }
}

/// What a message is about; one message is kept of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Topic {
    Deployed,
    Task(VertexId, u32),
    Checkpoint(CheckpointId, VertexId, u32),
    Commit(CheckpointId),
}

/// The attempts of one job, as this worker knows them.
#[derive(Debug, Clone, Default)]
struct Attempts {
    /// The newest one that was deployed here.
    current: Option<AttemptId>,
    /// Every attempt up to this one is over here.
    over: AttemptId,
}

/// See the module.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    epoch: LeaderEpoch,
    jobs: BTreeMap<JobId, Attempts>,
    kept: BTreeMap<(JobId, AttemptId, Topic), Body>,
}

impl Ledger {
    /// The newest leader epoch that was obeyed.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.epoch
    }

    /// A leader speaks.
    ///
    /// # Errors
    /// If a newer one was obeyed before.
    pub fn obey(&mut self, epoch: LeaderEpoch) -> Result<(), Stale> {
        if epoch < self.epoch {
            let seen = self.epoch;
            Stale::Epoch { given: epoch, seen }.refuse()?;
        }
        self.epoch = self.epoch.max(epoch);
        Ok(())
    }

    /// An attempt is to be deployed. Returns the older attempt that runs here, to be stopped first; `None` twice the
    /// same attempt.
    ///
    /// # Errors
    /// If it is over, or deployed already.
    pub fn deploy(&mut self, job: JobId, attempt: AttemptId) -> Result<Option<AttemptId>, Stale> {
        let attempts = self.jobs.entry(job).or_default();
        if attempt <= attempts.over || attempts.current.is_some_and(|current| attempt <= current) {
            let current = attempts.current;
            Stale::Attempt {
                given: attempt,
                current,
            }
            .refuse()?;
        }
        let old = attempts.current.replace(attempt);
        if let Some(old) = old {
            attempts.over = attempts.over.max(old);
            self.forget_up_to(job, old);
        }
        Ok(old)
    }

    /// A command for a running attempt.
    ///
    /// # Errors
    /// If another one runs here.
    pub fn require_current(&self, job: JobId, attempt: AttemptId) -> Result<(), Stale> {
        let current = self.jobs.get(&job).and_then(|a| a.current);
        if current == Some(attempt) {
            return Ok(());
        }
        let given = attempt;
        Stale::Attempt { given, current }.refuse()
    }

    /// A commit on behalf of an attempt, which need not run here.
    ///
    /// # Errors
    /// If a newer attempt is known.
    pub fn require_not_over(&self, job: JobId, attempt: AttemptId) -> Result<(), Stale> {
        let current = self.jobs.get(&job).and_then(|a| a.current);
        if current.is_some_and(|current| attempt < current) {
            let given = attempt;
            return Stale::Attempt { given, current }.refuse();
        }
        Ok(())
    }

    /// An attempt, and every older one, is over. Returns the older attempt that was the current one here, which has to be
    /// stopped as well: the one that is named may never have been deployed here.
    pub fn cancel(&mut self, job: JobId, attempt: AttemptId) -> Option<AttemptId> {
        let attempts = self.jobs.entry(job).or_default();
        attempts.over = attempts.over.max(attempt);
        let ended = attempts.current.take_if(|current| *current <= attempt);
        self.forget_up_to(job, attempt);
        if self.jobs.len() > ACTIVE_JOBS_MAX {
            // Of a job that is long over nobody sends commands any more.
            let idle = self
                .jobs
                .iter()
                .find(|(id, a)| **id != job && a.current.is_none());
            if let Some(idle) = idle.map(|(id, _)| *id) {
                self.jobs.remove(&idle);
            }
        }
        ended.filter(|ended| *ended < attempt)
    }

    /// Attempts that run here.
    #[must_use]
    pub fn running(&self) -> Vec<(JobId, AttemptId)> {
        self.jobs
            .iter()
            .filter_map(|(job, a)| Some((*job, a.current?)))
            .collect()
    }

    /// The leader has started the attempt: it knows that it is deployed.
    pub fn started(&mut self, job: JobId, attempt: AttemptId) {
        self.kept.remove(&(job, attempt, Topic::Deployed));
    }

    /// A checkpoint is decided, or a later one was triggered: nobody asks for the older ones any more.
    pub fn checkpoints_decided(&mut self, job: JobId, attempt: AttemptId, below: CheckpointId) {
        self.kept.retain(|(j, a, topic), _| {
            let decided = match topic {
                Topic::Checkpoint(c, _, _) | Topic::Commit(c) => *c < below,
                Topic::Deployed | Topic::Task(_, _) => false,
            };
            !(*j == job && *a == attempt && decided)
        });
    }

    /// Keeps a message that the next leader must hear if this one does not. Messages of attempts that are over are not
    /// kept.
    pub fn keep(&mut self, body: &Body) {
        let Some((job, attempt, topic)) = topic_of(body) else {
            return;
        };
        let over = self.jobs.get(&job).is_some_and(|a| attempt <= a.over);
        if over {
            return;
        }
        if self.kept.len() >= AGENT_LEDGER_MAX {
            self.kept.pop_first();
        }
        self.kept.insert((job, attempt, topic), body.clone());
    }

    /// What has to be said to a leader that is new, or was out of reach.
    pub fn to_repeat(&self) -> impl Iterator<Item = &Body> {
        self.kept.values()
    }

    fn forget_up_to(&mut self, job: JobId, attempt: AttemptId) {
        self.kept.retain(|(j, a, topic), _| {
            // A commit is on behalf of an attempt, not part of it.
            *j != job || *a > attempt || matches!(topic, Topic::Commit(_))
        });
        let attempts = self.jobs.get(&job);
        let newest = attempts.and_then(|a| a.current).unwrap_or_default();
        self.kept
            .retain(|(j, a, topic), _| *j != job || *a >= newest || !matches!(topic, Topic::Commit(_)));
    }
}

fn topic_of(body: &Body) -> Option<(JobId, AttemptId, Topic)> {
    let job = |bytes: &[u8]| JobId::from_bytes(bytes).ok();
    Some(match body {
        Body::Deployed(m) => (job(&m.job_id)?, AttemptId(m.attempt), Topic::Deployed),
        Body::DeployFailed(m) => (job(&m.job_id)?, AttemptId(m.attempt), Topic::Deployed),
        Body::TaskState(m) => (
            job(&m.job_id)?,
            AttemptId(m.attempt),
            Topic::Task(VertexId(m.vertex), m.subtask),
        ),
        Body::Ack(m) => (
            job(&m.job_id)?,
            AttemptId(m.attempt),
            Topic::Checkpoint(CheckpointId(m.checkpoint), VertexId(m.vertex), m.subtask),
        ),
        Body::Declined(m) => (
            job(&m.job_id)?,
            AttemptId(m.attempt),
            Topic::Checkpoint(CheckpointId(m.checkpoint), VertexId(m.vertex), m.subtask),
        ),
        Body::CommitDone(m) => (
            job(&m.job_id)?,
            AttemptId(m.attempt),
            Topic::Commit(CheckpointId(m.checkpoint)),
        ),
        Body::CommitFailed(m) => (
            job(&m.job_id)?,
            AttemptId(m.attempt),
            Topic::Commit(CheckpointId(m.checkpoint)),
        ),
        Body::Register(_) | Body::Heartbeat(_) | Body::Cancelled(_) | Body::Leaving(_) => return None,
    })
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
