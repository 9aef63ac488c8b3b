//! The leader's commands: what the agent does about each, after the ledger has found it not to be stale.

use super::actor::{Agent, Done};
use super::commits::{CommitWork, commit};
use super::deploy;
use holdfast_common::inject::{self, points};
use holdfast_common::{AttemptId, CheckpointId, JobId, LeaderEpoch};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::worker_message::Body as Said;
use holdfast_proto::control::{Commit, CommitDone, CommitFailed, Deploy};
use std::sync::Arc;

impl Agent {
    /// Carries out a command. `Some` if this worker is not wanted any more.
    pub(super) fn obey(&mut self, body: Body) -> Option<String> {
        let outcome = match body {
            Body::Welcome(_) | Body::HeartbeatReply(_) | Body::NotLeader(_) => Ok(()),
            Body::Refused(refused) => return Some(refused.reason),
            Body::Deploy(deploy) => self.deploy(deploy),
            Body::Commit(commit) => self.commit(commit),
            Body::Start(m) => {
                self.with_current(m.leader_epoch, &m.job_id, m.attempt, |agent, job, attempt| {
                    tracing::info!(%job, %attempt, "attempt starts");
                    inject::pass(points::WORKER_RUNNING);
                    agent.ledger.started(job, attempt);
                    agent.engine.start_attempt(job, attempt);
                })
            }
            Body::Trigger(m) => {
                self.with_current(m.leader_epoch, &m.job_id, m.attempt, |agent, job, attempt| {
                    let checkpoint = CheckpointId(m.checkpoint);
                    inject::pass(points::WORKER_TRIGGER);
                    let last = agent.triggered.insert((job, attempt), checkpoint);
                    if last.is_some_and(|last| last >= checkpoint) {
                        agent.triggered.extend(last.map(|last| ((job, attempt), last)));
                        return;
                    }
                    agent.ledger.checkpoints_decided(job, attempt, checkpoint);
                    agent.engine.trigger(job, attempt, checkpoint, m.r#final);
                })
            }
            Body::AbortCheckpoint(m) => {
                self.with_current(m.leader_epoch, &m.job_id, m.attempt, |agent, job, attempt| {
                    let checkpoint = CheckpointId(m.checkpoint);
                    agent
                        .ledger
                        .checkpoints_decided(job, attempt, CheckpointId(m.checkpoint + 1));
                    agent.engine.abort_checkpoint(job, attempt, checkpoint);
                })
            }
            Body::Settled(m) => {
                self.with_current(m.leader_epoch, &m.job_id, m.attempt, |agent, job, attempt| {
                    let checkpoint = CheckpointId(m.checkpoint);
                    agent
                        .ledger
                        .checkpoints_decided(job, attempt, CheckpointId(m.checkpoint + 1));
                    agent.engine.settled(job, attempt, checkpoint);
                })
            }
            Body::Cancel(m) => self.cancel(m.leader_epoch, &m.job_id, AttemptId(m.attempt)),
        };
        if let Err(reason) = outcome {
            tracing::warn!(reason, "a command is not obeyed");
        }
        None
    }

    fn with_current(
        &mut self,
        epoch: u64,
        job: &[u8],
        attempt: u64,
        act: impl FnOnce(&mut Self, JobId, AttemptId),
    ) -> Result<(), String> {
        self.ledger.obey(LeaderEpoch(epoch)).map_err(|e| e.to_string())?;
        let job = JobId::from_bytes(job).map_err(|e| e.to_string())?;
        let attempt = AttemptId(attempt);
        self.ledger
            .require_current(job, attempt)
            .map_err(|e| e.to_string())?;
        act(self, job, attempt);
        Ok(())
    }

    fn deploy(&mut self, command: Deploy) -> Result<(), String> {
        self.ledger
            .obey(LeaderEpoch(command.leader_epoch))
            .map_err(|e| e.to_string())?;
        let job = JobId::from_bytes(&command.job_id).map_err(|e| e.to_string())?;
        let attempt = AttemptId(command.attempt);
        let old = self.ledger.deploy(job, attempt).map_err(|e| e.to_string())?;
        tracing::info!(%job, %attempt, "attempt is being deployed");
        self.triggered.retain(|(j, _), _| *j != job);
        self.uploads.end(job, old.unwrap_or_default());
        self.deploying.insert((job, attempt));
        let work = deploy::DeployWork {
            engine: self.engine.clone(),
            plans: self.plans.clone(),
            store: self.store.clone(),
            config: Arc::clone(&self.config),
            old,
            command,
        };
        self.tasks.spawn(async move {
            let result = deploy::deploy(work, job, attempt).await;
            Done::Deployed(job, attempt, result)
        });
        Ok(())
    }

    fn commit(&mut self, command: Commit) -> Result<(), String> {
        self.ledger
            .obey(LeaderEpoch(command.leader_epoch))
            .map_err(|e| e.to_string())?;
        let job = JobId::from_bytes(&command.job_id).map_err(|e| e.to_string())?;
        let attempt = AttemptId(command.attempt);
        self.ledger
            .require_not_over(job, attempt)
            .map_err(|e| e.to_string())?;
        let checkpoint = CheckpointId(command.checkpoint);
        let (slice, slices, recover) = (command.slice, command.slices, command.recover);
        let key = (job, attempt, checkpoint, (slice, slices, recover));
        if !self.committing.insert(key) {
            return Ok(());
        }
        let (plans, registry) = (self.plans.clone(), Arc::clone(&self.registry));
        self.tasks.spawn(async move {
            let planned = plans
                .get(&command.sql, &command.config, &command.plan_fingerprint)
                .await;
            let result = match planned {
                Ok(graph) => {
                    let work = CommitWork {
                        job,
                        attempt,
                        checkpoint: (checkpoint.0 > 0).then_some(checkpoint),
                        sinks: command.sinks,
                        recover,
                    };
                    match commit(graph, registry, work).await {
                        Err(e) if e.sync_failed => return Done::SyncFailed(e.reason),
                        result => result.map_err(|e| (e.reason, e.retryable)),
                    }
                }
                Err(reason) => Err((reason, true)),
            };
            let job_id = job.to_bytes().to_vec().into();
            let said = match result {
                Ok(()) => Said::CommitDone(CommitDone {
                    job_id,
                    attempt: attempt.0,
                    checkpoint: checkpoint.0,
                    slice,
                    slices,
                    recover,
                }),
                Err((reason, retryable)) => Said::CommitFailed(CommitFailed {
                    job_id,
                    attempt: attempt.0,
                    checkpoint: checkpoint.0,
                    reason,
                    retryable,
                    slice,
                    slices,
                    recover,
                }),
            };
            Done::Committed(key, Box::new(said))
        });
        Ok(())
    }

    fn cancel(&mut self, epoch: u64, job: &[u8], attempt: AttemptId) -> Result<(), String> {
        self.ledger.obey(LeaderEpoch(epoch)).map_err(|e| e.to_string())?;
        let job = JobId::from_bytes(job).map_err(|e| e.to_string())?;
        tracing::info!(%job, %attempt, "attempt is being stopped");
        inject::pass(points::WORKER_CANCEL);
        let older = self.ledger.cancel(job, attempt);
        self.triggered.retain(|(j, a), _| *j != job || *a > attempt);
        self.uploads.end(job, attempt);
        for over in older.into_iter().chain([attempt]) {
            // One that is being deployed is stopped when that has ended; there is nothing to stop before.
            if !self.deploying.contains(&(job, over)) {
                self.spawn_cancel(job, over);
            }
        }
        Ok(())
    }

    pub(super) fn spawn_cancel(&mut self, job: JobId, attempt: AttemptId) {
        let engine = self.engine.clone();
        self.tasks.spawn(async move {
            engine.cancel(job, attempt).await;
            Done::Cancelled(job, attempt)
        });
    }
}
