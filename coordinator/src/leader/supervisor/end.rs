//! The end of a job: finished, cancelled or failed. Tasks are stopped, what the log calls complete is committed, and
//! objects that nobody will read are collected.

use super::{Ctx, Phase, Purpose, Supervisor, millis};
use crate::leader::commit::Want;
use crate::leader::input::Level;
use holdfast_common::limits::{CANCEL_COMMIT_WAIT, END_WAIT};
use holdfast_machine::command::Command;
use holdfast_machine::state::{Job, JobStatus};

impl Supervisor {
    pub(super) fn propose_end(&mut self, ctx: &mut Ctx<'_>, status: JobStatus) {
        ctx.note(
            Level::Info,
            self.job,
            format!("the job ends: {}", status.as_str()),
        );
        let command = Command::EndJob {
            epoch: ctx.epoch,
            job: self.job,
            status,
            reason: String::new(),
            last_reports: self.last_reports(ctx),
        };
        self.propose(ctx, Purpose::EndJob, command);
    }

    /// A user has cancelled the job: its tasks stop, its newest checkpoint is committed, what it left unfinished goes.
    pub(super) fn drive_cancel(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        if self.tracker.is_undecided() {
            return;
        }
        let Phase::Cancelling { since_ms } = self.phase else {
            // Workers that have yet to come to this leader must hear of it too.
            if ctx.registry.awaits_any() {
                return;
            }
            if let Some(step) = self.tracker.attempt_over() {
                self.apply_steps(ctx, job, vec![step]);
            }
            self.failure = None;
            self.damage = None;
            if let Some(attempt) = &job.attempt {
                self.cancel_attempt(ctx, attempt, millis(END_WAIT));
            }
            self.phase = Phase::Cancelling {
                since_ms: ctx.now.mono_ms,
            };
            return self.drive_cancel(ctx, job);
        };
        let Some(attempt) = &job.attempt else {
            return self.propose_end(ctx, JobStatus::Canceled);
        };
        if !self.is_stopped(ctx) {
            return;
        }
        self.drive_commit(ctx, job);
        let newest = job.latest_restorable();
        let want = Want {
            checkpoint: newest.map(|c| c.id),
            attempt: attempt.id,
            recover: true,
        };
        let owed = newest.is_some_and(|c| !c.committed);
        let patience_ms = millis(if owed { CANCEL_COMMIT_WAIT } else { END_WAIT });
        let waited_ms = ctx.now.mono_ms.saturating_sub(since_ms);
        if self.committed == Some(want) && !owed {
            return self.propose_end(ctx, JobStatus::Canceled);
        }
        if waited_ms >= patience_ms {
            ctx.note(
                Level::Error,
                job.id,
                format!("the cancelled job's sinks did not settle within {patience_ms} ms; unfinished output may remain"),
            );
            self.propose_end(ctx, JobStatus::Canceled);
        }
    }

    /// The log says that the job is over.
    pub(super) fn wind_up(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        if !matches!(self.phase, Phase::Ended { .. }) {
            self.failure = None;
            self.damage = None;
            let _ = self.tracker.attempt_over();
            if let Some(attempt) = &job.attempt {
                self.cancel_attempt(ctx, attempt, millis(END_WAIT));
            }
            self.phase = Phase::Ended { swept: false };
        }
        self.is_stopped(ctx);
        if self.damage.take().is_some() {
            self.commit_given_up = true;
        }
        self.drive_commit(ctx, job);
        self.drive_cleanup(ctx, job);
    }
}
