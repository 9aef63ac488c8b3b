//! Retention and collection of one job's checkpoints: retires what nobody needs any more, has its objects deleted, and
//! sweeps up what never became a checkpoint.

use super::{Ctx, Phase, Purpose, Supervisor, millis};
use crate::leader::cleaner::{to_collect, to_retire};
use crate::leader::input::{Effect, Level};
use holdfast_common::CheckpointId;
use holdfast_common::limits::LATE_SWEEP_AFTER;
use holdfast_machine::command::Command;
use holdfast_machine::state::Job;
use std::collections::BTreeSet;

/// Least time between two searches for orphans of one job: each lists the job's objects.
const SWEEP_PAUSE_MS: u64 = 30_000;
/// Waits before a failed collection is tried again.
const COLLECT_RETRY_MS: (u64, u64) = (1_000, 60_000);
/// The floor of a sweep after the job's end: no checkpoint can complete any more.
const EVERYTHING: CheckpointId = CheckpointId(u64::MAX);

/// What is under way of retention and collection.
#[derive(Debug, Default)]
pub(super) struct Cleanup {
    proposing: bool,
    collecting: bool,
    /// Manifests on their way to storage: each is an orphan if its checkpoint is given up meanwhile.
    writing: u32,
    /// Below which number the collection under way takes orphans.
    sweeping: Option<CheckpointId>,
    sweep_wanted: bool,
    swept_at_ms: Option<u64>,
    /// When everything was swept after the job's end. Whoever still wrote then has ended by the sweep that follows.
    end_swept_at_ms: Option<u64>,
    retry_at_ms: u64,
    tries: u32,
}

impl Cleanup {
    pub(super) fn request_sweep(&mut self) {
        self.sweep_wanted = true;
    }

    fn is_idle(&self) -> bool {
        !self.proposing && !self.collecting
    }

    /// Nothing is under way, and nothing has failed that would have to be done again.
    pub(super) fn is_done(&self) -> bool {
        self.is_idle() && self.tries == 0 && self.writing == 0
    }

    pub(super) fn manifest_begun(&mut self) {
        self.writing = self.writing.saturating_add(1);
    }

    pub(super) fn manifest_ended(&mut self) {
        self.writing = self.writing.saturating_sub(1);
    }

    /// Somebody may have written since the last sweep after the job's end, or the one under way, has looked.
    fn sweep_anew(&mut self) {
        self.end_swept_at_ms = None;
        self.sweeping = None;
    }

    fn late_sweep_at_ms(&self) -> Option<u64> {
        Some(self.end_swept_at_ms?.saturating_add(millis(LATE_SWEEP_AFTER)))
    }

    pub(super) fn next_deadline(&self) -> Option<u64> {
        if !self.is_idle() {
            return None;
        }
        if self.tries > 0 {
            return Some(self.retry_at_ms);
        }
        self.late_sweep_at_ms()
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
        self.cleanup.sweeping = floor;
        ctx.out.push(Effect::Collect {
            job: job.id,
            work: Box::new(work),
        });
    }

    /// Below which number orphans may be collected, if it is time.
    fn sweep_floor(&self, ctx: &Ctx<'_>, job: &Job) -> Option<CheckpointId> {
        if let Phase::Ended { swept } = self.phase {
            let quiet = self.stopping.is_empty() && self.cleanup.writing == 0;
            let due = self
                .cleanup
                .late_sweep_at_ms()
                .is_none_or(|at| ctx.now.mono_ms >= at);
            return (!swept && quiet && due).then_some(EVERYTHING);
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
                self.swept(ctx);
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
        self.cleanup.sweeping = None;
    }

    /// Orphans are gone, if the collection that has ended looked for them. One that was begun before the job's end has
    /// not seen what was written until then, and does not count as the end's.
    fn swept(&mut self, ctx: &Ctx<'_>) {
        let Some(floor) = self.cleanup.sweeping else {
            return;
        };
        self.cleanup.swept_at_ms = Some(ctx.now.mono_ms);
        self.cleanup.sweep_wanted = false;
        let Phase::Ended { swept } = &mut self.phase else {
            return;
        };
        if floor != EVERYTHING {
            return;
        }
        *swept = self.cleanup.end_swept_at_ms.is_some();
        self.cleanup.end_swept_at_ms = (!*swept).then_some(ctx.now.mono_ms);
    }

    /// A worker has stopped an attempt of this job, and begins no more uploads for it. What it had begun may have come
    /// after the last search for orphans, and ends within the storage's deadline.
    pub(super) fn writer_stopped(&mut self) {
        self.cleanup.request_sweep();
        if let Phase::Ended { swept } = &mut self.phase {
            *swept = false;
            self.cleanup.sweep_anew();
        }
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
