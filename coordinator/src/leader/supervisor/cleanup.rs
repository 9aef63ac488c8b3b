//! Retention and collection of one job's checkpoints: retires what nobody needs any more, has its objects deleted, and
//! sweeps up what never became a checkpoint.

use super::{Ctx, Phase, Purpose, Supervisor};
use crate::leader::cleaner::{to_collect, to_retire};
use crate::leader::input::{Effect, Level};
use holdfast_common::CheckpointId;
use holdfast_machine::command::Command;
use holdfast_machine::state::Job;
use std::collections::BTreeSet;

/// Least time between two searches for orphans of one job: each lists the job's objects.
const SWEEP_PAUSE_MS: u64 = 30_000;
/// Waits before a failed collection is tried again.
const COLLECT_RETRY_MS: (u64, u64) = (1_000, 60_000);

/// What is under way of retention and collection.
#[derive(Debug, Default)]
pub(super) struct Cleanup {
    proposing: bool,
    collecting: bool,
    sweeping: bool,
    sweep_wanted: bool,
    swept_at_ms: Option<u64>,
    retry_at_ms: u64,
    tries: u32,
}

impl Cleanup {
    pub(super) fn request_sweep(&mut self) {
        self.sweep_wanted = true;
    }

    pub(super) fn is_idle(&self) -> bool {
        !self.proposing && !self.collecting
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        (self.tries > 0 && self.is_idle()).then_some(self.retry_at_ms)
    }
}

impl Supervisor {
    /// Keeps retention and collection going.
    pub(super) fn drive_cleanup(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        if !self.cleanup.is_idle() || ctx.now.mono_ms < self.cleanup.retry_at_ms {
            return;
        }
        let retire = to_retire(job, self.settings.retention);
        if !retire.is_empty() {
            self.cleanup.proposing = true;
            let command = Command::RetireCheckpoints {
                epoch: ctx.epoch,
                job: job.id,
                checkpoints: retire,
            };
            return self.propose(ctx, Purpose::Cleanup, command);
        }
        let floor = self.sweep_floor(ctx, job);
        let Some(work) = to_collect(job, floor) else {
            return;
        };
        self.cleanup.collecting = true;
        self.cleanup.sweeping = floor.is_some();
        ctx.out.push(Effect::Collect {
            job: job.id,
            work: Box::new(work),
        });
    }

    /// Below which number orphans may be collected, if it is time.
    fn sweep_floor(&self, ctx: &Ctx<'_>, job: &Job) -> Option<CheckpointId> {
        if let Phase::Ended { swept } = self.phase {
            let last_write_is_over = self.stopping.is_empty();
            return (!swept && last_write_is_over).then_some(CheckpointId(u64::MAX));
        }
        let rested = self
            .cleanup
            .swept_at_ms
            .is_none_or(|at| ctx.now.mono_ms >= at.saturating_add(SWEEP_PAUSE_MS));
        if !self.cleanup.sweep_wanted || !rested || job.attempt.is_none() {
            return None;
        }
        self.tracker.floor()
    }

    /// A collection has ended.
    pub fn collected(&mut self, ctx: &mut Ctx<'_>, result: Result<BTreeSet<CheckpointId>, String>) {
        self.cleanup.collecting = false;
        match result {
            Ok(gone) => {
                self.cleanup.tries = 0;
                self.cleanup.retry_at_ms = 0;
                if self.cleanup.sweeping {
                    self.cleanup.swept_at_ms = Some(ctx.now.mono_ms);
                    self.cleanup.sweep_wanted = false;
                    if let Phase::Ended { swept } = &mut self.phase {
                        *swept = true;
                    }
                }
                if !gone.is_empty() {
                    self.cleanup.proposing = true;
                    let command = Command::ForgetCheckpoints {
                        epoch: ctx.epoch,
                        job: self.job,
                        checkpoints: gone.into_iter().collect(),
                    };
                    self.propose(ctx, Purpose::Cleanup, command);
                }
            }
            Err(reason) => {
                let (first, most) = COLLECT_RETRY_MS;
                let wait = first.saturating_mul(1 << self.cleanup.tries.min(16)).min(most);
                self.cleanup.tries += 1;
                self.cleanup.retry_at_ms = ctx.now.mono_ms.saturating_add(wait);
                ctx.note(
                    Level::Warn,
                    self.job,
                    format!("objects of retired checkpoints could not be deleted, tried again in {wait} ms: {reason}"),
                );
            }
        }
        self.cleanup.sweeping = false;
    }

    /// A proposal to retire or forget was answered.
    pub(super) fn cleanup_answered(&mut self, ctx: &Ctx<'_>, refused: bool) {
        self.cleanup.proposing = false;
        if refused {
            self.cleanup.tries += 1;
            self.cleanup.retry_at_ms = ctx.now.mono_ms.saturating_add(COLLECT_RETRY_MS.0);
        }
    }
}
