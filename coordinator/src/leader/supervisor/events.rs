//! Events of one job: messages of workers, answers of the log, results of IO. They record what has changed; the
//! reconciliation that follows decides.

use super::{Ctx, EXPLANATION_WAIT_MS, FailureNote, Purpose, RETRY_MS, Supervisor, worker_name};
use crate::leader::commit::CommitTask;
use crate::leader::input::{CommitPart, FromWorker, Level, ReadFailure};
use crate::leader::registry::LostWorker;
use crate::leader::registry::Registry;
use crate::leader::tracker::Decided;
use crate::live::{LiveJob, LiveTask, PendingCheckpoint, tasks_to_log};
use holdfast_common::inject::{self, bugs};
use holdfast_common::{AttemptId, CheckpointId, Incarnation};
use holdfast_machine::command::{Rejection, Response};
use holdfast_machine::state::Job;
use holdfast_proto::control::TaskStatus;
use holdfast_proto::snapshot::SinkCommittables;
use prost::bytes::Bytes;
use std::collections::BTreeMap;

/// Which commit a worker speaks of.
type Commit = (AttemptId, CheckpointId, CommitPart);

impl Supervisor {
    /// A worker says something about this job.
    pub fn heard(&mut self, ctx: &mut Ctx<'_>, worker: Incarnation, message: FromWorker) {
        let Some(job) = ctx.state.jobs.get(&self.job) else {
            return;
        };
        let now_ms = ctx.now.mono_ms;
        match message {
            FromWorker::Deployed { attempt, .. } if self.is_active(job, attempt) => self.deployed(worker),
            FromWorker::DeployFailed {
                attempt,
                reason,
                damaged,
                ..
            } if self.is_active(job, attempt) => self.deploy_failed(job, worker, &reason, damaged),
            FromWorker::TaskState {
                attempt,
                task,
                status: TaskStatus::Failed,
                error,
                ..
            } if self.is_active(job, attempt) => {
                let note = FailureNote {
                    task: self.task_name(task),
                    worker: name_in(job, worker),
                    message: error,
                    not_before_ms: now_ms.saturating_add(EXPLANATION_WAIT_MS),
                    ..FailureNote::default()
                };
                self.fail(note);
            }
            FromWorker::Ack {
                attempt,
                checkpoint,
                task,
                ack,
                ..
            } => {
                let steps = self.tracker.ack(attempt, checkpoint, task, ack);
                self.apply_steps(ctx, job, steps);
            }
            FromWorker::Declined {
                attempt,
                checkpoint,
                task,
                reason,
                ..
            } => {
                let reason = format!("{}: {reason}", self.task_name(task));
                let steps = self.tracker.declined(now_ms, attempt, checkpoint, reason);
                self.apply_steps(ctx, job, steps);
            }
            FromWorker::CommitDone {
                attempt,
                checkpoint,
                part,
                ..
            } => self.commit_done(ctx, job, (attempt, checkpoint, part)),
            FromWorker::CommitFailed {
                attempt,
                checkpoint,
                part,
                reason,
                retryable,
                ..
            } => self.commit_failed(ctx, job, (attempt, checkpoint, part), reason, retryable),
            FromWorker::Cancelled { attempt, .. } => {
                if self.stopping.get(&worker) == Some(&attempt) {
                    self.stopping.remove(&worker);
                }
                self.writer_stopped();
            }
            _ => {}
        }
    }

    fn is_active(&self, job: &Job, attempt: AttemptId) -> bool {
        self.active_attempt(job)
            .is_some_and(|a| a.id == attempt || inject::bug(bugs::TWO_ATTEMPTS))
    }

    fn deploy_failed(&mut self, job: &Job, worker: Incarnation, reason: &str, damaged: bool) {
        let restored = job.attempt.as_ref().and_then(|a| a.restored);
        if damaged && let Some(checkpoint) = restored {
            self.damage.get_or_insert((checkpoint, reason.to_owned()));
        }
        self.fail(FailureNote {
            task: String::new(),
            worker: name_in(job, worker),
            message: match restored.filter(|_| damaged) {
                Some(checkpoint) => {
                    format!("checkpoint {checkpoint} is damaged, the one before it is restored: {reason}")
                }
                None => format!("deployment failed: {reason}"),
            },
            immediate: damaged,
            ..FailureNote::default()
        });
    }

    fn commit_done(&mut self, ctx: &mut Ctx<'_>, job: &Job, of: Commit) {
        let task = self.commit.as_mut().filter(|task| is_about(task, of));
        if let Some(task) = task
            && task.committed(of.2)
        {
            let want = task.want;
            self.committed = Some(want);
            self.record_commit(ctx, job, want);
        }
    }

    fn commit_failed(&mut self, ctx: &mut Ctx<'_>, job: &Job, of: Commit, reason: String, retryable: bool) {
        let Some(task) = self
            .commit
            .as_mut()
            .filter(|task| is_about(task, of) && task.slice().0 == of.2)
        else {
            return;
        };
        task.failed(ctx.now.mono_ms, reason.clone());
        let tries = task.trouble().map_or(0, |(tries, _)| tries);
        let again = if retryable {
            "tried again"
        } else {
            "trying again cannot help"
        };
        ctx.note(
            Level::Error,
            job.id,
            format!(
                "commit of checkpoint {} failed {tries} times, {again}: {reason}",
                of.1
            ),
        );
        if !retryable && job.status.is_terminal() {
            self.commit_given_up = true;
        }
        if !retryable && self.active_attempt(job).is_some() {
            self.fail(FailureNote {
                task: String::new(),
                worker: String::new(),
                message: format!("a sink cannot commit checkpoint {}: {reason}", of.1),
                terminal: true,
                ..FailureNote::default()
            });
        }
    }

    /// A worker is lost.
    pub fn lost(&mut self, ctx: &mut Ctx<'_>, lost: &LostWorker) {
        let worker = lost.incarnation;
        self.stopping.remove(&worker);
        if let Some(commit) = &mut self.commit {
            commit.ask_again(worker);
        }
        let Some(job) = ctx.state.jobs.get(&self.job) else {
            return;
        };
        let concerned = self
            .active_attempt(job)
            .is_some_and(|a| a.assignment.iter().any(|slot| slot.incarnation == worker));
        if concerned {
            self.fail(FailureNote {
                task: String::new(),
                worker: lost.resource_id.clone(),
                message: format!("worker '{}' is lost: {}", lost.resource_id, lost.reason),
                immediate: lost.excused,
                worker_lost: true,
                ..FailureNote::default()
            });
        }
    }

    /// The log has answered one of this job's proposals.
    pub fn answered(&mut self, ctx: &mut Ctx<'_>, purpose: Purpose, response: &Response) {
        let refused = match response {
            Response::Rejected(rejection) => Some(rejection),
            _ => None,
        };
        if purpose.is_lifecycle() {
            self.pending = false;
            if refused.is_some() {
                self.backoff_until_ms = ctx.now.mono_ms + RETRY_MS;
            }
        }
        if let Some(rejection) = refused {
            ctx.note(
                Level::Warn,
                self.job,
                format!("the log refused {purpose:?}: {rejection}"),
            );
        }
        let Some(job) = ctx.state.jobs.get(&self.job) else {
            return;
        };
        match purpose {
            Purpose::StartAttempt(replaced) => self.attempt_started(ctx, job, replaced, response),
            Purpose::AttemptRunning => {
                if refused.is_none() && job.attempts > 1 {
                    self.cleanup.request_sweep();
                }
            }
            Purpose::AttemptFailed => self.attempt_failed(ctx, job),
            Purpose::Reserve => match response {
                Response::Checkpoints(first) => self.tracker.reserved(*first),
                _ => self.tracker.not_reserved(),
            },
            Purpose::Complete(id) => self.completion_decided(ctx, job, id, refused),
            Purpose::CommitDone(id) => {
                if self.commit_recording == Some(id) {
                    self.commit_recording = None;
                }
            }
            Purpose::Cleanup => self.cleanup_answered(ctx, refused.is_some()),
            Purpose::Worker | Purpose::Damaged | Purpose::EndJob | Purpose::CheckpointFailed => {}
        }
    }

    /// The state, not the answer, tells whether a checkpoint is in the log: a retried proposal may be refused although
    /// its first copy was applied.
    fn completion_decided(
        &mut self,
        ctx: &mut Ctx<'_>,
        job: &Job,
        id: CheckpointId,
        refused: Option<&Rejection>,
    ) {
        let decided = match job.checkpoints.get(&id) {
            Some(c) => Decided::Complete {
                committed: c.committed,
            },
            None => Decided::Refused(
                refused.map_or_else(|| "the log does not have it".to_owned(), ToString::to_string),
            ),
        };
        if matches!(decided, Decided::Complete { .. }) {
            ctx.note(Level::Debug, job.id, format!("checkpoint {id} is complete"));
        }
        let steps = self.tracker.decided(ctx.now.mono_ms, id, decided);
        self.apply_steps(ctx, job, steps);
    }

    /// A manifest was written, or not.
    pub fn manifest_written(
        &mut self,
        ctx: &mut Ctx<'_>,
        checkpoint: CheckpointId,
        result: Result<[u8; 32], String>,
    ) {
        self.cleanup.manifest_ended();
        let Some(job) = ctx.state.jobs.get(&self.job) else {
            return;
        };
        let steps = self.tracker.written(ctx.now.mono_ms, checkpoint, result);
        self.apply_steps(ctx, job, steps);
    }

    /// A manifest was read for its committables.
    pub fn manifest_read(
        &mut self,
        ctx: &mut Ctx<'_>,
        checkpoint: CheckpointId,
        result: Result<Vec<SinkCommittables>, ReadFailure>,
    ) {
        let Some(task) = self
            .commit
            .as_mut()
            .filter(|task| task.want.checkpoint == Some(checkpoint))
        else {
            return;
        };
        if let Err(ReadFailure::Unavailable(reason)) = &result {
            let message =
                format!("manifest of checkpoint {checkpoint} cannot be read now, tried again: {reason}");
            ctx.note(Level::Warn, self.job, message);
        }
        if let Err(reason) = task.read(ctx.now.mono_ms, result) {
            self.commit = None;
            self.damage.get_or_insert((checkpoint, reason.clone()));
            self.fail(FailureNote {
                task: String::new(),
                worker: String::new(),
                message: format!(
                    "checkpoint {checkpoint} is damaged, the one before it is restored: {reason}"
                ),
                immediate: true,
                ..FailureNote::default()
            });
        }
    }

    /// What the job's tasks have counted so far, for the log to keep.
    pub(super) fn last_reports(&self, ctx: &Ctx<'_>) -> Bytes {
        let job = ctx.state.jobs.get(&self.job);
        let view = job.and_then(|job| self.live(ctx.registry, job));
        view.map(|view| tasks_to_log(&view.tasks)).unwrap_or_default()
    }

    /// The job as its workers report it. Of one that has ended the log says what they last reported.
    #[must_use]
    pub fn live(&self, registry: &Registry, job: &Job) -> Option<LiveJob> {
        if job.status.is_terminal() {
            return None;
        }
        let attempt = job.attempt.as_ref()?;
        let mut tasks = BTreeMap::new();
        for worker in super::workers_of(&attempt.assignment) {
            let Some(report) = registry.report(worker, job.id, attempt.id) else {
                continue;
            };
            let name = worker_name(&attempt.assignment, worker);
            for (task, report) in &report.tasks {
                let live = LiveTask {
                    worker: name.clone(),
                    report: *report,
                };
                tasks.insert(*task, live);
            }
        }
        let pending = self.tracker.in_flight().map(|c| PendingCheckpoint {
            id: c.id,
            triggered_ms: c.triggered_ms,
            acked: u32::try_from(c.acks.len()).unwrap_or(u32::MAX),
            expected: u32::try_from(c.expected.len()).unwrap_or(u32::MAX),
            phase: c.phase.as_str(),
        });
        Some(LiveJob {
            attempt: attempt.id,
            tasks,
            pending,
        })
    }
}

fn is_about(task: &CommitTask, of: Commit) -> bool {
    task.want.attempt == of.0 && task.want.checkpoint.unwrap_or_default() == of.1
}

fn name_in(job: &Job, worker: Incarnation) -> String {
    job.attempt
        .as_ref()
        .map_or_else(|| worker.to_string(), |a| worker_name(&a.assignment, worker))
}
