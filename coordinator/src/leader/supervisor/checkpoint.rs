//! Checkpoints of a job: carries out the tracker's steps, keeps it in step with the log, and has sinks commit.

use super::adopt::broadcast;
use super::{Ctx, FailureNote, Phase, Purpose, Supervisor, final_checkpoint};
use crate::leader::commit::{CommitStep, CommitTask, Want};
use crate::leader::input::{Effect, Level};
use crate::leader::tracker::{InFlight, Phase as CheckpointPhase, Step};
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::{CHECKPOINT_ID_BLOCK, COMMITTABLES_JOB_BYTES_MAX};
use holdfast_common::{CheckpointId, Incarnation, VertexId, keygroup, keys, layout};
use holdfast_machine::command::Command;
use holdfast_machine::state::{Attempt, Checkpoint, Job, JobStatus};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::{Commit, Trigger};
use holdfast_proto::snapshot::{Committable, Manifest, SinkCommittables, SubtaskPart, VertexState};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

impl Supervisor {
    /// What the log says of the checkpoint in flight, if it waits for its commit.
    pub(super) fn sync_tracker(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let waiting = self
            .tracker
            .in_flight()
            .filter(|c| c.phase == CheckpointPhase::Committing)
            .map(|c| c.id);
        if let Some(id) = waiting
            && job.checkpoints.get(&id).is_none_or(|c| c.committed)
        {
            let steps = self.tracker.committed(ctx.now.mono_ms, id);
            self.apply_steps(ctx, job, steps);
        }
    }

    pub(super) fn drive_tracker(&mut self, ctx: &mut Ctx<'_>, job: &Job, attempt: &Attempt) {
        if self.tracker.failures_in_a_row() > self.settings.tolerable {
            self.fail(FailureNote {
                task: String::new(),
                worker: String::new(),
                message: format!(
                    "{} checkpoints in a row have failed; execution.checkpointing.tolerable-failed-checkpoints is {}",
                    self.tracker.failures_in_a_row(),
                    self.settings.tolerable
                ),
                ..FailureNote::default()
            });
            self.record_trouble(ctx, job);
            return;
        }
        let tasks = match self.shape() {
            Some(shape) => shape.tasks(),
            None => return,
        };
        let steps = self.tracker.tick(
            ctx.now.mono_ms,
            ctx.now.wall_ms,
            attempt.id,
            &tasks,
            self.all_finished,
        );
        self.apply_steps(ctx, job, steps);
    }

    pub(super) fn apply_steps(&mut self, ctx: &mut Ctx<'_>, job: &Job, steps: Vec<Step>) {
        for step in steps {
            self.apply_step(ctx, job, step);
        }
    }

    fn apply_step(&mut self, ctx: &mut Ctx<'_>, job: &Job, step: Step) {
        match step {
            Step::Reserve => {
                let command = Command::ReserveCheckpoints {
                    epoch: ctx.epoch,
                    job: job.id,
                    count: CHECKPOINT_ID_BLOCK,
                };
                self.propose(ctx, Purpose::Reserve, command);
            }
            Step::Trigger { checkpoint, is_final } => {
                let body = Body::Trigger(Trigger {
                    leader_epoch: ctx.epoch.0,
                    job_id: job.id.to_bytes().to_vec().into(),
                    attempt: job.attempt.as_ref().map_or(0, |a| a.id.0),
                    checkpoint: checkpoint.0,
                    r#final: is_final,
                });
                broadcast(ctx, job, &body);
            }
            Step::Write => self.write_manifest(ctx, job),
            Step::Propose(sha256) => self.propose_complete(ctx, job, sha256),
            Step::Fail {
                checkpoint,
                triggered_ms,
                reason,
            } => {
                ctx.note(
                    Level::Warn,
                    job.id,
                    format!("checkpoint {checkpoint} failed: {reason}"),
                );
                self.abort(ctx, job, checkpoint, &reason);
                self.cleanup.request_sweep();
                let command = Command::CheckpointFailed {
                    epoch: ctx.epoch,
                    job: job.id,
                    checkpoint,
                    triggered_ms,
                    reason,
                };
                self.propose(ctx, Purpose::CheckpointFailed, command);
            }
            Step::Settled { checkpoint } => {
                ctx.note(
                    Level::Debug,
                    job.id,
                    format!("checkpoint {checkpoint} is settled"),
                );
                self.settle(ctx, job, checkpoint);
            }
        }
    }

    fn write_manifest(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let Some((c, shape)) = self.tracker.in_flight().zip(self.shape()) else {
            return;
        };
        let sinks = merge_sinks(c);
        let bytes: usize = sinks.iter().map(Message::encoded_len).sum();
        if bytes > COMMITTABLES_JOB_BYTES_MAX {
            return self.too_much_output(ctx, job, bytes);
        }
        let vertices = shape
            .vertices
            .iter()
            .map(|vertex| VertexState {
                vertex: vertex.id.0,
                operator_uids: vertex.operator_uids.clone(),
                parallelism: vertex.parallelism,
                parts: parts_of(c, vertex.id),
            })
            .collect();
        let manifest = Manifest {
            cluster_id: ctx.cluster.to_bytes().to_vec().into(),
            job_id: job.id.to_bytes().to_vec().into(),
            checkpoint: c.id.0,
            attempt: c.attempt.0,
            leader_epoch: ctx.epoch.0,
            triggered_ms: c.triggered_ms,
            max_parallelism: shape.max_parallelism,
            key_codec_version: keys::KEY_CODEC_VERSION,
            hash_id: keygroup::HASH_ID.to_owned(),
            plan_fingerprint: job.fingerprint.clone(),
            engine_version: env!("CARGO_PKG_VERSION").to_owned(),
            vertices,
            sinks: sinks.clone(),
            r#final: c.is_final,
        };
        self.cleanup.manifest_begun();
        ctx.out.push(Effect::WriteManifest {
            job: job.id,
            checkpoint: c.id,
            path: layout::manifest(ctx.cluster, job.id, c.id, c.attempt),
            manifest: Box::new(manifest),
        });
        self.committables = Some((c.id, sinks));
    }

    /// Sinks have prepared more for checkpoints that never completed than a manifest may hold. The attempt fails rather
    /// than stopping its checkpoints: without any, its output and what a restart repeats would grow without a bound.
    fn too_much_output(&mut self, ctx: &mut Ctx<'_>, job: &Job, bytes: usize) {
        let Some(id) = self.tracker.in_flight().map(|c| c.id) else {
            return;
        };
        let reason = format!(
            "its sinks' unfinished output is described by {bytes} bytes, more than the {COMMITTABLES_JOB_BYTES_MAX} that a \
             checkpoint may hold: too many checkpoints have failed since the last complete one"
        );
        let steps = self.tracker.written(ctx.now.mono_ms, id, Err(reason.clone()));
        self.apply_steps(ctx, job, steps);
        self.fail(FailureNote {
            message: format!("checkpoint {id} cannot be taken: {reason}"),
            ..FailureNote::default()
        });
    }

    fn propose_complete(&mut self, ctx: &mut Ctx<'_>, job: &Job, sha256: [u8; 32]) {
        let Some(c) = self.tracker.in_flight() else {
            return;
        };
        let needs_commit = self
            .committables
            .as_ref()
            .is_some_and(|(id, sinks)| *id == c.id && !sinks.is_empty());
        let checkpoint = Checkpoint {
            id: c.id,
            attempt: c.attempt,
            manifest_path: layout::manifest(ctx.cluster, job.id, c.id, c.attempt),
            manifest_sha256: sha256,
            state_bytes: c.acks.values().map(|ack| ack.state_bytes).sum(),
            triggered_ms: c.triggered_ms,
            completed_ms: ctx.now.wall_ms,
            needs_commit,
            committed: !needs_commit,
            is_final: c.is_final,
            retired: false,
            damaged: false,
        };
        let (id, attempt) = (c.id, c.attempt);
        if inject::bug(bugs::COMMIT_BEFORE_ENTRY) {
            self.commit_early(ctx, job, id);
        }
        let command = Command::CompleteCheckpoint {
            epoch: ctx.epoch,
            job: job.id,
            attempt,
            checkpoint,
        };
        self.propose(ctx, Purpose::Complete(id), command);
    }

    /// What the seeded bug `commit-before-entry` does.
    fn commit_early(&self, ctx: &mut Ctx<'_>, job: &Job, id: CheckpointId) {
        let sinks = self.committables.as_ref().map(|(_, sinks)| sinks.clone());
        let attempt = job.attempt.as_ref().map(|a| a.id).unwrap_or_default();
        let want = Want {
            checkpoint: Some(id),
            attempt,
            recover: false,
        };
        let task = CommitTask::new(want, sinks);
        if let Some(worker) = commit_workers(ctx, job).first() {
            let body = self.commit_body(ctx, job, &task);
            ctx.send(*worker, body);
        }
    }

    /// What has to be committed now, if anything.
    fn commit_wanted(&self, job: &Job) -> Option<Want> {
        let attempt = job.attempt.as_ref()?;
        let newest = job.latest_restorable();
        let uncommitted = newest.filter(|c| !c.committed).map(|c| Want {
            checkpoint: Some(c.id),
            attempt: attempt.id,
            recover: false,
        });
        match &self.phase {
            Phase::Recovering => Some(Want {
                checkpoint: attempt.restored,
                attempt: attempt.id,
                recover: true,
            }),
            Phase::Cancelling { .. } if self.stopping.is_empty() => Some(Want {
                checkpoint: newest.map(|c| c.id),
                attempt: attempt.id,
                recover: true,
            }),
            Phase::Running if inject::bug(bugs::COMMIT_AFTER_START) => {
                uncommitted.filter(|_| newest.is_some_and(|c| c.attempt == attempt.id))
            }
            Phase::Running => uncommitted,
            // The checkpoint is in the log, so its output belongs to the result whatever became of the job.
            Phase::Ended { .. } if job.status == JobStatus::Failed && !self.commit_given_up => uncommitted,
            Phase::Ended { .. } => None,
            _ if final_checkpoint(job).is_some() => uncommitted,
            _ => None,
        }
    }

    pub(super) fn drive_commit(&mut self, ctx: &mut Ctx<'_>, job: &Job) {
        let wanted = self.commit_wanted(job).filter(|_| self.damage.is_none());
        let Some(want) = wanted else {
            self.commit = None;
            return;
        };
        if self.committed == Some(want) {
            return self.record_commit(ctx, job, want);
        }
        if self.commit.as_ref().is_none_or(|task| task.want != want) {
            let checkpoint = want.checkpoint.and_then(|id| job.checkpoints.get(&id));
            let sinks = match checkpoint {
                Some(c) if !c.committed => self
                    .committables
                    .as_ref()
                    .filter(|(id, _)| *id == c.id)
                    .map(|(_, sinks)| sinks.clone()),
                _ => Some(Vec::new()),
            };
            self.commit = Some(CommitTask::new(want, sinks));
        }
        let workers = commit_workers(ctx, job);
        let step = self
            .commit
            .as_mut()
            .and_then(|task| task.poll(ctx.now.mono_ms, &workers));
        match step {
            Some(CommitStep::Ask(worker)) => self.send_commit(ctx, job, worker),
            Some(CommitStep::Read) => {
                if let Some(c) = want.checkpoint.and_then(|id| job.checkpoints.get(&id)) {
                    ctx.out.push(Effect::ReadManifest {
                        job: job.id,
                        checkpoint: c.id,
                        path: c.manifest_path.clone(),
                        sha256: c.manifest_sha256,
                    });
                }
            }
            None => {}
        }
    }

    fn send_commit(&self, ctx: &mut Ctx<'_>, job: &Job, worker: Incarnation) {
        let Some(task) = &self.commit else {
            return;
        };
        let body = self.commit_body(ctx, job, task);
        ctx.send(worker, body);
    }

    fn commit_body(&self, ctx: &Ctx<'_>, job: &Job, task: &CommitTask) -> Body {
        let (part, mut sinks) = task.slice();
        if self.phase == Phase::Recovering && inject::bug(bugs::NO_COMMIT_REPLAY) {
            sinks = &[];
        }
        Body::Commit(Commit {
            leader_epoch: ctx.epoch.0,
            job_id: job.id.to_bytes().to_vec().into(),
            attempt: task.want.attempt.0,
            checkpoint: task.want.checkpoint.unwrap_or_default().0,
            sql: job.sql.clone(),
            config: job.settings.clone(),
            plan_fingerprint: job.fingerprint.clone(),
            sinks: sinks.to_vec(),
            recover: part.recover,
            slice: part.slice,
            slices: part.slices,
        })
    }

    /// A commit is done; if its checkpoint's record does not say so yet, it is proposed.
    pub(super) fn record_commit(&mut self, ctx: &mut Ctx<'_>, job: &Job, want: Want) {
        self.commit = None;
        let open = want
            .checkpoint
            .filter(|id| job.checkpoints.get(id).is_some_and(|c| !c.committed));
        let Some(checkpoint) = open else {
            return;
        };
        if self.commit_recording == Some(checkpoint) {
            return;
        }
        self.commit_recording = Some(checkpoint);
        let command = Command::CommitDone {
            epoch: ctx.epoch,
            job: job.id,
            checkpoint,
        };
        self.propose(ctx, Purpose::CommitDone(checkpoint), command);
    }
}

/// Workers that can be asked to commit: those of the attempt first.
fn commit_workers(ctx: &Ctx<'_>, job: &Job) -> Vec<Incarnation> {
    let assigned: BTreeSet<Incarnation> = job
        .attempt
        .iter()
        .flat_map(|a| a.assignment.iter().map(|slot| slot.incarnation))
        .collect();
    let (mut first, rest): (Vec<Incarnation>, Vec<Incarnation>) = ctx
        .registry
        .iter()
        .filter(|entry| ctx.registry.is_fit(entry, ctx.now.mono_ms))
        .map(|entry| entry.incarnation)
        .partition(|worker| assigned.contains(worker));
    first.extend(rest);
    first
}

fn parts_of(c: &InFlight, vertex: VertexId) -> Vec<SubtaskPart> {
    c.acks
        .iter()
        .filter(|((v, _), _)| *v == vertex)
        .filter_map(|((_, subtask), ack)| {
            Some(SubtaskPart {
                subtask: *subtask,
                part: Some(ack.part.clone()?),
            })
        })
        .collect()
}

/// Committables of all subtasks by sink; sinks with nothing to commit are left out.
fn merge_sinks(c: &InFlight) -> Vec<SinkCommittables> {
    let mut by_uid: BTreeMap<&str, Vec<Committable>> = BTreeMap::new();
    for sink in c.acks.values().flat_map(|ack| &ack.committables) {
        by_uid
            .entry(&sink.uid)
            .or_default()
            .extend(sink.committables.iter().cloned());
    }
    by_uid
        .into_iter()
        .filter(|(_, committables)| !committables.is_empty())
        .map(|(uid, committables)| SinkCommittables {
            uid: uid.to_owned(),
            committables,
        })
        .collect()
}
