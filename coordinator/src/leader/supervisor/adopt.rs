//! Watching tasks: whether those of an attempt that an earlier leader started are healthy and can be adopted, and
//! whether those of a running attempt still are.

use super::{Ctx, FailureNote, Phase, Plan, Purpose, Supervisor, worker_name, workers_of};
use crate::leader::input::{Level, Report, TaskKey};
use crate::leader::tracker::Phase as CheckpointPhase;
use crate::leader::wire::is_live;
use holdfast_common::inject::{self, bugs};
use holdfast_common::{CheckpointId, Incarnation};
use holdfast_machine::command::Command;
use holdfast_machine::state::{Attempt, Job, JobStatus};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::{AbortCheckpoint, Settled, TaskStatus, Trigger};
use std::collections::BTreeSet;

/// A task that a heartbeat calls failed is given this long to say why.
pub(super) const FAILED_TASK_GRACE_MS: u64 = 300;

/// Whether an attempt can be adopted.
enum Verdict {
    Healthy,
    NotYet,
    Broken { worker: String, message: String },
}

impl Supervisor {
    pub(super) fn drive_adoption(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let Some(attempt) = job.attempt.as_ref() else {
            self.phase = Phase::Waiting;
            return;
        };
        match self.verdict(ctx, attempt) {
            Verdict::NotYet => {}
            Verdict::Healthy if inject::bug(bugs::RESTART_ON_LEADER_CHANGE) => {
                self.fail(FailureNote {
                    message: "the leader changed".to_owned(),
                    immediate: true,
                    ..FailureNote::default()
                });
                self.record_trouble(ctx, job);
            }
            Verdict::Healthy => self.adopt(ctx, job, attempt),
            Verdict::Broken { worker, message } if job.status == JobStatus::Running => {
                self.fail(FailureNote {
                    task: String::new(),
                    worker,
                    message,
                    // What happened while nobody led is not held against the job.
                    immediate: true,
                    ..FailureNote::default()
                });
                self.record_trouble(ctx, job);
            }
            Verdict::Broken { worker, message } => {
                ctx.note(
                    Level::Info,
                    job.id,
                    format!(
                        "attempt {} was being deployed and is replaced: worker '{worker}': {message}",
                        attempt.id
                    ),
                );
                self.attempt_failed(ctx, job);
                self.drive_waiting(ctx, job);
            }
        }
    }

    fn verdict(&self, ctx: &Ctx<'_>, attempt: &Attempt) -> Verdict {
        let shape = match &self.plan {
            Plan::Known(shape) => Some(shape),
            Plan::Unknown { trouble: Some(_), .. } => None,
            Plan::Unknown { .. } | Plan::Asked => return Verdict::NotYet,
        };
        let mut waits = false;
        for worker in workers_of(&attempt.assignment) {
            let name = || worker_name(&attempt.assignment, worker);
            if ctx.registry.get(worker).is_none() {
                return Verdict::Broken {
                    worker: name(),
                    message: format!("worker '{}' is lost", name()),
                };
            }
            if ctx.registry.session(worker).is_none() {
                waits = true;
                continue;
            }
            let expected = shape.map(|s| s.tasks_on(&attempt.assignment, worker));
            let report = ctx.registry.report(worker, self.job, attempt.id);
            if let Err(message) = is_healthy(report, expected.as_ref()) {
                return Verdict::Broken {
                    worker: name(),
                    message,
                };
            }
        }
        if waits { Verdict::NotYet } else { Verdict::Healthy }
    }

    /// The tasks run on as if nothing had happened.
    fn adopt(&mut self, ctx: &mut Ctx<'_>, job: &Job, attempt: &Attempt) {
        ctx.note(
            Level::Info,
            job.id,
            format!("attempt {} is adopted: all its tasks run", attempt.id),
        );
        self.phase = Phase::Running;
        self.tracker.restart(ctx.now.mono_ms);
        self.cleanup.request_sweep();
        let newest = job.checkpoints.values().rev().find(|c| c.attempt == attempt.id);
        let seen = workers_of(&attempt.assignment)
            .into_iter()
            .filter_map(|w| ctx.registry.report(w, job.id, attempt.id))
            .map(|r| r.checkpoint_seen)
            .max()
            .unwrap_or_default();
        // Right after a restore workers have seen the restored checkpoint and none of this attempt.
        let known = newest.map(|c| c.id).max(attempt.restored).unwrap_or_default();
        if seen > known {
            // Of an earlier leader, and not in the log: with this leader's claim in the log it can never come.
            self.abort(ctx, job, seen, "the leader changed");
        }
        if let Some(c) = newest {
            if inject::bug(bugs::STALE_ABORT) {
                let command = Command::CheckpointFailed {
                    epoch: ctx.epoch,
                    job: job.id,
                    checkpoint: c.id,
                    triggered_ms: c.triggered_ms,
                    reason: "the leader changed".to_owned(),
                };
                self.propose(ctx, Purpose::CheckpointFailed, command);
            }
            if c.committed {
                self.settle(ctx, job, c.id);
            } else if !c.damaged && !c.retired {
                self.tracker.resume_committing(c.id, c.attempt, c.triggered_ms);
            }
        }
        if job.status != JobStatus::Running {
            self.record_running(ctx, job, attempt.id);
        }
    }

    /// Looks after a running attempt.
    pub(super) fn drive_running(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let Some(attempt) = job.attempt.as_ref() else {
            return;
        };
        let healthy = self.check_workers(ctx, attempt) && self.check_tasks(ctx, attempt);
        if !healthy || self.failure.is_some() {
            self.record_trouble(ctx, job);
            return;
        }
        if job.status != JobStatus::Running {
            // Refused or not recorded for another reason; the log decides, so say it again.
            self.record_running(ctx, job, attempt.id);
            return;
        }
        self.drive_tracker(ctx, job, attempt);
    }

    /// Every attached worker of the attempt reports its tasks, and none has failed.
    fn check_tasks(&mut self, ctx: &Ctx<'_>, attempt: &Attempt) -> bool {
        let expected_tasks = self.shape().map(super::Shape::tasks).unwrap_or_default();
        let mut finished = 0;
        let mut failed: Option<(Incarnation, TaskKey)> = None;
        for worker in workers_of(&attempt.assignment) {
            if ctx.registry.session(worker).is_none() {
                continue;
            }
            let Some(report) = ctx.registry.report(worker, self.job, attempt.id) else {
                let name = worker_name(&attempt.assignment, worker);
                self.fail(FailureNote {
                    task: String::new(),
                    message: format!("worker '{name}' no longer runs the attempt's tasks"),
                    worker: name,
                    ..FailureNote::default()
                });
                return false;
            };
            finished += report
                .tasks
                .values()
                .filter(|t| t.status() == TaskStatus::Finished)
                .count();
            failed = failed.or_else(|| {
                let task = report.tasks.iter().find(|(_, t)| has_failed(t.status()))?;
                Some((worker, *task.0))
            });
        }
        self.all_finished = !expected_tasks.is_empty() && finished >= expected_tasks.len();
        let Some((worker, task)) = failed else {
            self.failed_task_since_ms = None;
            return true;
        };
        let since_ms = *self.failed_task_since_ms.get_or_insert(ctx.now.mono_ms);
        if ctx.now.mono_ms >= since_ms + FAILED_TASK_GRACE_MS {
            self.fail(FailureNote {
                task: self.task_name(task),
                worker: worker_name(&attempt.assignment, worker),
                message: "the task has failed; its worker's log says why".to_owned(),
                ..FailureNote::default()
            });
        }
        self.failure.is_none()
    }

    /// A worker's stream is new: whatever may have been lost with the old one is said again.
    pub fn attached(&mut self, ctx: &mut Ctx<'_>, worker: Incarnation) {
        if let Some(commit) = &mut self.commit {
            commit.ask_again(worker);
        }
        let Some(job) = ctx.state.jobs.get(&self.job) else {
            return;
        };
        let Some(attempt) = self.active_attempt(job) else {
            return;
        };
        if !attempt.assignment.iter().any(|slot| slot.incarnation == worker) {
            return;
        }
        let report = ctx.registry.report(worker, job.id, attempt.id).cloned();
        match (&self.phase, report) {
            (Phase::Deploying { waiting, .. }, None) if waiting.contains(&worker) => {
                self.send_deploy(ctx, job, attempt, worker);
            }
            (Phase::Running, Some(report)) => {
                if !report.started {
                    self.send_start(ctx, attempt.id, worker);
                }
                self.repeat_checkpoint(ctx, job, worker, report.checkpoint_seen);
            }
            _ => {}
        }
    }

    fn repeat_checkpoint(&mut self, ctx: &mut Ctx<'_>, job: &Job, worker: Incarnation, seen: CheckpointId) {
        let Some(attempt) = job.attempt.as_ref() else {
            return;
        };
        let newest = job.checkpoints.values().rev().find(|c| c.attempt == attempt.id);
        if let Some(c) = newest.filter(|c| c.committed) {
            let body = settled_body(ctx, job, c.id);
            ctx.send(worker, body);
        }
        let Some(c) = self.tracker.in_flight() else {
            let known = newest.map(|c| c.id).max(attempt.restored).unwrap_or_default();
            if seen > known {
                let body = abort_body(ctx, job, seen, "it was aborted while the worker was away");
                ctx.send(worker, body);
            }
            return;
        };
        if c.phase == CheckpointPhase::Triggered && seen < c.id {
            let body = Body::Trigger(Trigger {
                leader_epoch: ctx.epoch.0,
                job_id: job.id.to_bytes().to_vec().into(),
                attempt: c.attempt.0,
                checkpoint: c.id.0,
                r#final: c.is_final,
            });
            ctx.send(worker, body);
        }
    }

    pub(super) fn abort(&self, ctx: &mut Ctx<'_>, job: &Job, checkpoint: CheckpointId, reason: &str) {
        let body = abort_body(ctx, job, checkpoint, reason);
        broadcast(ctx, job, &body);
    }

    pub(super) fn settle(&self, ctx: &mut Ctx<'_>, job: &Job, checkpoint: CheckpointId) {
        let body = settled_body(ctx, job, checkpoint);
        broadcast(ctx, job, &body);
    }
}

/// To every attached worker of the job's current attempt.
pub(super) fn broadcast(ctx: &mut Ctx<'_>, job: &Job, body: &Body) {
    let workers: BTreeSet<Incarnation> = job
        .attempt
        .as_ref()
        .map(|a| workers_of(&a.assignment))
        .unwrap_or_default();
    for worker in workers {
        ctx.send(worker, body.clone());
    }
}

fn abort_body(ctx: &Ctx<'_>, job: &Job, checkpoint: CheckpointId, reason: &str) -> Body {
    Body::AbortCheckpoint(AbortCheckpoint {
        leader_epoch: ctx.epoch.0,
        job_id: job.id.to_bytes().to_vec().into(),
        attempt: job.attempt.as_ref().map_or(0, |a| a.id.0),
        checkpoint: checkpoint.0,
        reason: reason.to_owned(),
    })
}

fn settled_body(ctx: &Ctx<'_>, job: &Job, checkpoint: CheckpointId) -> Body {
    Body::Settled(Settled {
        leader_epoch: ctx.epoch.0,
        job_id: job.id.to_bytes().to_vec().into(),
        attempt: job.attempt.as_ref().map_or(0, |a| a.id.0),
        checkpoint: checkpoint.0,
    })
}

fn has_failed(status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Failed | TaskStatus::Canceled)
}

/// A worker's share of an attempt runs.
fn is_healthy(report: Option<&Report>, expected: Option<&BTreeSet<TaskKey>>) -> Result<(), String> {
    let Some(report) = report else {
        return Err("it does not run the attempt".to_owned());
    };
    if !report.started {
        return Err("its tasks were not started yet".to_owned());
    }
    if let Some((task, found)) = report.tasks.iter().find(|(_, t)| !is_live(t.status())) {
        return Err(format!(
            "vertex {} subtask {} is {}",
            task.0,
            task.1,
            found.status().as_str_name()
        ));
    }
    let missing = expected.and_then(|tasks| tasks.iter().find(|t| !report.tasks.contains_key(t)));
    match missing {
        Some(task) => Err(format!("vertex {} subtask {} is missing", task.0, task.1)),
        None => Ok(()),
    }
}
