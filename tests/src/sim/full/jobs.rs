//! The job that the cluster runs: submitted through whoever leads, again and again until the log has it, with one key.

use super::checks::Observer;
use super::determinism::Dice;
use super::trace;
use crate::script::Numbers;
use holdfast_common::config::Configuration;
use holdfast_common::{JobId, NodeId};
use holdfast_machine::command::{Command, Proposal, Response};
use holdfast_machine::state::JobStatus;
use holdfast_raft::{Applied, ProposeError, testing};
use std::path::Path;
use std::time::Duration;
use tokio::sync::oneshot;

type Answer = oneshot::Receiver<Result<Applied, ProposeError>>;

/// A job and how far its submission is.
pub struct Submission {
    /// What it computes.
    pub numbers: Numbers,
    command: Command,
    job: JobId,
    waiting: Option<Answer>,
    submitted: bool,
    next_try_ms: u64,
    tries: u64,
}

impl Submission {
    /// Plans the job, as the REST interface does.
    ///
    /// # Errors
    /// If it cannot be planned.
    pub fn new(seed: u64, dir: &Path, seconds: u64) -> Result<Self, String> {
        let mut dice = Dice::new(seed, "job");
        let rate = 400;
        let numbers = Numbers {
            rows: seconds * rate,
            rate,
            parallelism: 2,
            checkpoint: Duration::from_millis(*dice.choose(&[100, 250, 700])),
            settings: Vec::new(),
            printed: false,
            raw: dir.join("raw"),
            windows: dir.join("windows"),
        };
        let numbers = numbers
            .set("restart-strategy.type", "fixed-delay")
            .set("restart-strategy.fixed-delay.attempts", "1000000")
            .set("restart-strategy.fixed-delay.delay", "50 ms")
            .set("execution.checkpointing.timeout", "3 s");
        let sql = numbers.sql();
        let registry = holdfast_connectors::registry();
        let graph = holdfast_sql::plan(&sql, &Configuration::new(), registry.as_ref())
            .map_err(|error| error.to_string())?;
        let job = JobId((u128::from(dice.roll()) << 64) | u128::from(dice.roll()));
        let command = Command::SubmitJob {
            job,
            name: graph.name.clone(),
            sql,
            settings: graph.settings.clone(),
            fingerprint: graph.fingerprint(),
            parallelism: graph.parallelism,
            max_parallelism: graph.max_parallelism,
            idempotency_key: Some("the job".to_owned()),
        };
        Ok(Self {
            numbers,
            command,
            job,
            waiting: None,
            submitted: false,
            next_try_ms: 0,
            tries: 0,
        })
    }

    /// Goes on submitting.
    pub fn act(&mut self, now_ms: u64, ids: &[NodeId], observer: &mut Observer) {
        if self.submitted {
            return;
        }
        if let Some(waiting) = &mut self.waiting {
            match waiting.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => return,
                Ok(Ok(applied)) => match applied.response {
                    Response::Submitted { job, existing } => {
                        trace::event(&format!(
                            "job submitted at {}, existing: {existing}",
                            applied.index
                        ));
                        if job != self.job {
                            observer.violate("submitted-once", format!("{job} instead of {}", self.job));
                        }
                        self.submitted = true;
                    }
                    other => observer.violate("submitted-once", format!("{other:?}")),
                },
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
            self.waiting = None;
            self.next_try_ms = now_ms + 50;
            return;
        }
        if now_ms < self.next_try_ms {
            return;
        }
        let leads = |id: &&NodeId| {
            let metrics = testing::node(**id).and_then(|node| node.metrics());
            metrics.is_some_and(|m| m.leadership.is_leader)
        };
        let Some(node) = ids.iter().find(leads).and_then(|id| testing::node(*id)) else {
            return;
        };
        self.tries += 1;
        self.waiting = Some(node.propose(Proposal {
            proposed_ms: super::determinism::EPOCH_MS + now_ms,
            session: None,
            command: self.command.clone(),
        }));
    }

    /// The job's status, as the newest state has it.
    #[must_use]
    pub fn status(&self, observer: &Observer) -> Option<JobStatus> {
        observer.newest()?.jobs.get(&self.job).map(|job| job.status)
    }
}
