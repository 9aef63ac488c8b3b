//! From a job that waits to an attempt that runs: plan, place, stop the old, commit and undo, deploy, start.

use super::{Ctx, FailureNote, Phase, Plan, Purpose, RETRY_MS, Supervisor, millis, worker_name, workers_of};
use crate::leader::commit::Want;
use crate::leader::input::{Effect, Level};
use crate::leader::placement::{Candidate, place};
use crate::leader::restart::Decision;
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::{CANCEL_WAIT, DEPLOY_DEADLINE};
use holdfast_common::{AttemptId, CheckpointId, Incarnation};
use holdfast_machine::command::{Command, Response};
use holdfast_machine::state::{Attempt, Failure, Job, SlotAssignment};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::{Cancel, Deploy, Restore, SlotPlace, Start};
use prost::bytes::Bytes;
use std::collections::BTreeMap;

/// Wait before a script that could not be planned is planned again.
const PLAN_RETRY_MS: u64 = 2_000;

impl Supervisor {
    pub(super) fn ensure_plan(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        if matches!(self.plan, Plan::Unknown { retry_at_ms, .. } if ctx.now.mono_ms >= retry_at_ms) {
            self.plan = Plan::Asked;
            ctx.out.push(Effect::Plan { job: job.id });
        }
    }

    /// The plan has come. A job that cannot be planned runs on if it runs, and fails if it does not.
    pub fn planned(&mut self, ctx: &mut Ctx<'_>, result: Result<super::Shape, String>) {
        let Some(job) = ctx.state.jobs.get(&self.job) else {
            return;
        };
        let trouble = match result {
            Ok(shape) if shape.fingerprint == job.fingerprint => {
                self.plan = Plan::Known(shape);
                return;
            }
            Ok(shape) => format!(
                "this version plans the script differently (fingerprint {} instead of {}); submit the job anew",
                shape.fingerprint, job.fingerprint
            ),
            Err(reason) => format!("the script cannot be planned: {reason}"),
        };
        ctx.note(Level::Error, job.id, trouble.clone());
        if matches!(self.phase, Phase::Waiting) {
            self.fail(FailureNote {
                task: String::new(),
                worker: String::new(),
                message: trouble.clone(),
                ..FailureNote::default()
            });
        }
        self.plan = Plan::Unknown {
            retry_at_ms: ctx.now.mono_ms.saturating_add(PLAN_RETRY_MS),
            trouble: Some(trouble),
        };
    }

    /// Records a damaged checkpoint, if there is one. True if something was proposed, or has to wait.
    pub(super) fn record_damage(&mut self, ctx: &mut Ctx<'_>, job: &Job) -> bool {
        // A proposed checkpoint is decided first: the attempt that replaces this one must know whether to restore it.
        if self.damage.is_none() || self.tracker.is_undecided() {
            return self.damage.is_some();
        }
        let Some((checkpoint, reason)) = self.damage.take() else {
            return false;
        };
        ctx.note(
            Level::Error,
            job.id,
            format!("checkpoint {checkpoint} cannot be restored and is passed over: {reason}"),
        );
        let command = Command::CheckpointDamaged {
            epoch: ctx.epoch,
            job: job.id,
            checkpoint,
            reason,
        };
        self.propose(ctx, Purpose::Damaged, command);
        true
    }

    /// Records a failure, if there is one. True if something was proposed, or has to wait.
    pub(super) fn record_trouble(&mut self, ctx: &mut Ctx<'_>, job: &Job) -> bool {
        let early = |note: &FailureNote| ctx.now.mono_ms < note.not_before_ms;
        if self.failure.as_ref().is_none_or(early) || self.tracker.is_undecided() {
            return self.failure.is_some();
        }
        let Some(note) = self.failure.take() else {
            return false;
        };
        self.propose_failed(ctx, job, note);
        true
    }

    fn propose_failed(&mut self, ctx: &mut Ctx<'_>, job: &Job, note: FailureNote) {
        let now_ms = ctx.now.wall_ms;
        let earlier: Vec<u64> = job.failure_times_ms.iter().copied().collect();
        let failures = earlier.len() as u64 + 1;
        let decision = if note.immediate {
            Decision::RestartAt(now_ms)
        } else {
            self.settings
                .restart
                .decide(&earlier, failures, now_ms, ctx.now.bits)
        };
        let decision = match decision {
            Decision::RestartAt(at) if is_blameless(ctx, job, &note) => {
                Decision::RestartAt(at.min(now_ms.saturating_add(self.settings.restart.first_delay_ms())))
            }
            other => other,
        };
        let (terminal, restart_at_ms, mut message) = match decision {
            _ if note.terminal => (true, 0, note.message),
            Decision::RestartAt(at) => (false, at, note.message),
            Decision::GiveUp(why) => (true, 0, format!("{} (no restart: {why})", note.message)),
        };
        message.truncate(floor_char_boundary(&message, 8 << 10));
        ctx.note(
            if terminal { Level::Error } else { Level::Warn },
            job.id,
            format!(
                "attempt failed: {message}; task '{}', worker '{}'",
                note.task, note.worker
            ),
        );
        let command = Command::AttemptFailed {
            epoch: ctx.epoch,
            job: job.id,
            attempt: job.attempt.as_ref().map(|a| a.id),
            failure: Failure {
                at_ms: now_ms,
                attempt_number: job.attempt.as_ref().map_or(0, |a| a.number),
                task: note.task,
                worker: note.worker,
                message,
            },
            terminal,
            restart_at_ms,
            last_reports: match terminal {
                true => self.last_reports(ctx),
                false => Bytes::new(),
            },
        };
        self.propose(ctx, Purpose::AttemptFailed, command);
    }

    /// The log has recorded the failure: what is left of the attempt is stopped, and the job waits for the next one.
    pub(super) fn attempt_failed(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        if let Some(step) = self.tracker.attempt_over() {
            self.apply_steps(ctx, job, vec![step]);
        }
        self.commit = None;
        self.committed = None;
        self.failed_task_since_ms = None;
        if let Some(attempt) = &job.attempt {
            self.cancel_attempt(ctx, attempt, millis(CANCEL_WAIT));
        }
        self.phase = Phase::Waiting;
        self.waiting_since_ms = ctx.now.mono_ms;
    }

    /// Tells every attached worker of an attempt to stop its tasks, and remembers whom to wait for.
    pub(super) fn cancel_attempt(&mut self, ctx: &mut Ctx<'_>, attempt: &Attempt, wait_ms: u64) {
        for worker in workers_of(&attempt.assignment) {
            if ctx.registry.session(worker).is_none() {
                continue;
            }
            if inject::bug(bugs::TWO_ATTEMPTS) {
                continue;
            }
            self.stopping.insert(worker, attempt.id);
            let body = Body::Cancel(Cancel {
                leader_epoch: ctx.epoch.0,
                job_id: self.job.to_bytes().to_vec().into(),
                attempt: attempt.id.0,
            });
            ctx.send(worker, body);
        }
        self.stop_until_ms = ctx.now.mono_ms.saturating_add(wait_ms);
    }

    /// Whether the old tasks are gone, as far as anybody waits for them.
    pub(super) fn is_stopped(&mut self, ctx: &Ctx<'_>) -> bool {
        let registry = &ctx.registry;
        self.stopping
            .retain(|worker, _| registry.session(*worker).is_some());
        if ctx.now.mono_ms >= self.stop_until_ms {
            self.stopping.clear();
        }
        self.stopping.is_empty()
    }

    pub(super) fn drive_waiting(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let delayed = self.restart_delay_ms(job, ctx.now) > 0;
        if delayed || self.shape().is_none() || self.tracker.is_undecided() || ctx.registry.awaits_any() {
            return;
        }
        let candidates = candidates(ctx, job);
        let previous = job.attempt.as_ref().map_or(&[][..], |a| &a.assignment);
        match place(job.parallelism, &candidates, previous) {
            Err(shortage) => {
                let text = shortage.to_string();
                if self.shortage.as_ref() != Some(&text) {
                    ctx.note(Level::Warn, job.id, format!("the job waits for slots: {text}"));
                    self.shortage = Some(text);
                }
            }
            Ok(assignment) => {
                self.shortage = None;
                let replaces = job.attempt.as_ref().map(|a| a.id);
                let command = Command::StartAttempt {
                    epoch: ctx.epoch,
                    job: job.id,
                    replaces,
                    assignment: assignment.clone(),
                    restore: job.latest_restorable().map(|c| c.id),
                };
                self.phase = Phase::Starting(assignment);
                self.propose(ctx, Purpose::StartAttempt(replaces), command);
            }
        }
    }

    /// The log has answered StartAttempt. A retried proposal may be refused because its first copy was applied: the
    /// state tells.
    pub(super) fn attempt_started(
        &mut self,
        ctx: &mut Ctx<'_>,
        job: &Job,
        replaced: Option<AttemptId>,
        response: &Response,
    ) {
        let current = job.attempt.as_ref().filter(|a| Some(a.id) != replaced);
        let Some(attempt) = current else {
            ctx.note(Level::Warn, job.id, format!("no new attempt: {response:?}"));
            self.phase = Phase::Waiting;
            self.backoff_until_ms = ctx.now.mono_ms + RETRY_MS;
            return;
        };
        let workers: Vec<&str> = attempt
            .assignment
            .iter()
            .map(|s| s.resource_id.as_str())
            .collect();
        let from = attempt
            .restored
            .map_or_else(|| "nothing".to_owned(), |c| format!("checkpoint {c}"));
        ctx.note(
            Level::Info,
            job.id,
            format!(
                "attempt {} (number {}) starts from {from} on {}",
                attempt.id,
                attempt.number,
                workers.join(", ")
            ),
        );
        self.committed = None;
        self.commit = None;
        self.failure = None;
        self.tracker.restart(ctx.now.mono_ms);
        self.phase = Phase::Stopping;
    }

    /// Every worker of the attempt is still there; otherwise the attempt has failed.
    pub(super) fn check_workers(&mut self, ctx: &Ctx<'_>, attempt: &Attempt) -> bool {
        let lost = attempt
            .assignment
            .iter()
            .find(|slot| ctx.registry.get(slot.incarnation).is_none());
        if let Some(slot) = lost {
            self.fail(FailureNote {
                task: String::new(),
                worker: slot.resource_id.clone(),
                message: format!("worker '{}' is lost", slot.resource_id),
                worker_lost: true,
                ..FailureNote::default()
            });
        }
        lost.is_none()
    }

    pub(super) fn drive_stopping(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let Some(attempt) = job.attempt.as_ref() else {
            return;
        };
        if !self.check_workers(ctx, attempt) {
            self.record_trouble(ctx, job);
            return;
        }
        if !self.is_stopped(ctx) {
            return;
        }
        // The very first attempt has nothing to commit and nobody's remains to remove.
        let nothing = attempt.number <= 1 && attempt.restored.is_none();
        if nothing || inject::bug(bugs::COMMIT_AFTER_START) {
            return self.begin_deploy(ctx, job, attempt);
        }
        self.phase = Phase::Recovering;
        self.drive_commit(ctx, job);
    }

    pub(super) fn drive_recovering(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let Some(attempt) = job.attempt.as_ref() else {
            return;
        };
        if !self.check_workers(ctx, attempt) {
            self.record_trouble(ctx, job);
            return;
        }
        let want = Want {
            checkpoint: attempt.restored,
            attempt: attempt.id,
            recover: true,
        };
        let recorded = attempt
            .restored
            .and_then(|id| job.checkpoints.get(&id))
            .is_none_or(|c| c.committed);
        if self.committed == Some(want) && recorded {
            self.begin_deploy(ctx, job, attempt);
        }
    }

    fn begin_deploy(&mut self, ctx: &mut Ctx<'_>, job: &Job, attempt: &Attempt) {
        let waiting = workers_of(&attempt.assignment);
        for worker in &waiting {
            self.send_deploy(ctx, job, attempt, *worker);
        }
        self.phase = Phase::Deploying {
            waiting,
            until_ms: ctx.now.mono_ms.saturating_add(millis(DEPLOY_DEADLINE)),
        };
    }

    pub(super) fn send_deploy(&self, ctx: &mut Ctx<'_>, job: &Job, attempt: &Attempt, worker: Incarnation) {
        let mut restored = attempt.restored;
        if inject::bug(bugs::WRONG_CHECKPOINT) {
            restored = restored.map(|id| before(job, id));
        }
        let restore = restored.and_then(|id| job.checkpoints.get(&id)).map(|c| Restore {
            checkpoint: c.id.0,
            attempt: c.attempt.0,
            manifest_path: c.manifest_path.clone(),
            manifest_sha256: c.manifest_sha256.to_vec().into(),
        });
        let slots = attempt
            .assignment
            .iter()
            .map(|slot| SlotPlace {
                resource_id: slot.resource_id.clone(),
                incarnation: slot.incarnation.to_bytes().to_vec().into(),
                data_addr: slot.data_addr.clone(),
            })
            .collect();
        let body = Body::Deploy(Deploy {
            leader_epoch: ctx.epoch.0,
            job_id: job.id.to_bytes().to_vec().into(),
            attempt: attempt.id.0,
            sql: job.sql.clone(),
            config: job.settings.clone(),
            plan_fingerprint: job.fingerprint.clone(),
            slots,
            restore,
        });
        ctx.send(worker, body);
    }

    /// A worker's share could run.
    pub(super) fn deployed(&mut self, worker: Incarnation) {
        if let Phase::Deploying { waiting, .. } = &mut self.phase {
            waiting.remove(&worker);
        }
    }

    pub(super) fn drive_deploying(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let Some(attempt) = job.attempt.as_ref() else {
            return;
        };
        let Phase::Deploying { waiting, until_ms } = &self.phase else {
            return;
        };
        let (first_missing, until_ms) = (waiting.first().copied(), *until_ms);
        if !self.check_workers(ctx, attempt) {
            self.record_trouble(ctx, job);
            return;
        }
        if let Some(worker) = first_missing {
            if ctx.now.mono_ms >= until_ms {
                let name = worker_name(&attempt.assignment, worker);
                self.fail(FailureNote {
                    task: String::new(),
                    message: format!(
                        "worker '{name}' did not deploy its tasks within {} s",
                        DEPLOY_DEADLINE.as_secs()
                    ),
                    worker: name,
                    ..FailureNote::default()
                });
                self.record_trouble(ctx, job);
            }
            return;
        }
        for worker in workers_of(&attempt.assignment) {
            self.send_start(ctx, attempt.id, worker);
        }
        self.phase = Phase::Running;
        self.record_running(ctx, job, attempt.id);
    }

    pub(super) fn send_start(&self, ctx: &mut Ctx<'_>, attempt: AttemptId, worker: Incarnation) {
        let body = Body::Start(Start {
            leader_epoch: ctx.epoch.0,
            job_id: self.job.to_bytes().to_vec().into(),
            attempt: attempt.0,
        });
        ctx.send(worker, body);
    }

    pub(super) fn record_running(&mut self, ctx: &mut Ctx<'_>, job: &Job, attempt: AttemptId) {
        let command = Command::AttemptRunning {
            epoch: ctx.epoch,
            job: job.id,
            attempt,
        };
        self.propose(ctx, Purpose::AttemptRunning, command);
    }
}

/// The restorable checkpoint before another, or that one; for the seeded bug `wrong-checkpoint`.
fn before(job: &Job, id: CheckpointId) -> CheckpointId {
    let older = job.checkpoints.range(..id).rev();
    older
        .map(|(_, c)| c)
        .find(|c| !c.damaged && !c.retired)
        .map_or(id, |c| c.id)
}

/// A worker went although the attempt had completed a checkpoint: the job makes progress, so the delay need not grow as
/// if it ran in circles. An attempt that dies with its worker before its first checkpoint may be what kills workers.
fn is_blameless(ctx: &Ctx<'_>, job: &Job, note: &FailureNote) -> bool {
    let Some(attempt) = &job.attempt else {
        return false;
    };
    let is_gone = |slot: &SlotAssignment| ctx.registry.session(slot.incarnation).is_none();
    let progressed = job.checkpoints.values().any(|c| c.attempt == attempt.id);
    progressed && (note.worker_lost || attempt.assignment.iter().any(is_gone))
}

/// Workers that may take slots of a job, with the slots that no other job holds.
fn candidates(ctx: &Ctx<'_>, job: &Job) -> Vec<Candidate> {
    let mut used: BTreeMap<Incarnation, u32> = BTreeMap::new();
    for (_, workers) in ctx.held.iter().filter(|(id, _)| **id != job.id) {
        for worker in workers {
            *used.entry(*worker).or_default() += 1;
        }
    }
    ctx.registry
        .iter()
        .filter(|entry| ctx.registry.is_fit(entry, ctx.now.mono_ms))
        .filter(|entry| {
            let logged = ctx.state.workers.get(&entry.resource_id);
            logged.is_some_and(|w| w.incarnation == entry.incarnation)
        })
        .map(|entry| Candidate {
            resource_id: entry.resource_id.clone(),
            incarnation: entry.incarnation,
            data_addr: entry.data_addr.clone(),
            free_slots: entry
                .slots
                .saturating_sub(used.get(&entry.incarnation).copied().unwrap_or(0)),
        })
        .collect()
}

fn floor_char_boundary(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}
