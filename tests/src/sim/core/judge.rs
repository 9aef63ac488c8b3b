//! Looks at what happens, entry by entry, message by message, file by file, and says what must not be.

use super::checks::{Completed, Record};
use super::files::{decode_file, names};
use super::log::Payload;
use super::plan::Profile;
use super::world::World;
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_machine::command::{Command, Proposal, Rejection, Response};
use holdfast_machine::invariants;
use holdfast_machine::state::{Checkpoint, JobStatus, State};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::snapshot::Manifest;
use holdfast_storage::manifest_decode;
use std::collections::BTreeSet;

impl World {
    /// An entry is committed.
    pub(super) fn judge_entry(&mut self, index: u64) {
        let entry = usize::try_from(index - 1)
            .ok()
            .and_then(|i| self.log.entries.get(i));
        let Some(Payload::Proposal(proposal)) = entry.map(|e| e.payload.clone()) else {
            return self.checks.reference.skip(index);
        };
        let before = self.checks.reference.clone();
        let response = self.checks.reference.apply(index, &proposal);
        self.note(30, index, 0, || {
            format!("entry {index}: {:?} -> {response:?}", proposal.command)
        });
        let mut wrong = invariants::check(&self.checks.reference);
        wrong.extend(invariants::check_step(&before, &self.checks.reference));
        for violation in wrong {
            self.violation("machine", format!("entry {index}: {violation}"));
        }
        if self.judge_session(&before, &proposal, &response) {
            return;
        }
        self.judge(&before, index, &proposal.command, &response);
    }

    /// True if the request was applied before.
    fn judge_session(&mut self, before: &State, proposal: &Proposal, response: &Response) -> bool {
        let Some(request) = proposal.session else {
            return false;
        };
        let key = (request.session, request.seq);
        let Some(first) = self.checks.answers.get(&key) else {
            self.checks.answers.insert(key, response.clone());
            return false;
        };
        let forgotten = matches!(response, Response::Rejected(Rejection::Forgotten { .. }));
        let changed = before.kv != self.checks.reference.kv;
        if changed || !(forgotten || first == response) {
            let detail = format!("request {key:?}: first {first:?}, again {response:?}, changed: {changed}");
            self.violation("request-is-applied-once", detail);
        }
        true
    }

    fn judge(&mut self, before: &State, index: u64, command: &Command, response: &Response) {
        self.judge_kv(index, command, response);
        let refused = matches!(response, Response::Rejected(_));
        match command {
            Command::ClaimLeader { .. } => {
                let epoch = self.checks.reference.epoch().0;
                if epoch <= self.checks.epoch {
                    self.violation(
                        "epochs-go-forward",
                        format!("{epoch} after {}", self.checks.epoch),
                    );
                }
                self.checks.epoch = epoch;
            }
            Command::SubmitJob { .. } => self.judge_submissions(),
            Command::CancelJob { job } if !refused => {
                self.checks.jobs.entry(*job).or_default().cancelled = true;
            }
            Command::StartAttempt { job, restore, .. } if !refused => {
                self.judge_attempt(*job, index, *restore)
            }
            Command::AttemptRunning { job, .. } if !refused => {
                self.checks.jobs.entry(*job).or_default().ran = true;
            }
            Command::CompleteCheckpoint { job, checkpoint, .. } if !refused => {
                let known = before
                    .jobs
                    .get(job)
                    .is_some_and(|j| j.checkpoints.contains_key(&checkpoint.id));
                if !known {
                    self.judge_completion(*job, checkpoint);
                }
            }
            Command::CommitDone { job, checkpoint, .. } if !refused => self.judge_commit(*job, *checkpoint),
            Command::RetireCheckpoints { job, checkpoints, .. } if !refused => {
                self.judge_retired(*job, checkpoints)
            }
            Command::CheckpointDamaged { job, checkpoint, .. } if !refused => {
                let record = self.checks.jobs.entry(*job).or_default();
                if let Some(c) = record.completed.get_mut(&checkpoint.0) {
                    c.damaged = true;
                }
            }
            Command::EndJob {
                job,
                status: JobStatus::Failed,
                ..
            } if !refused => {
                self.violation("jobs-do-not-fail", format!("job {job}: {command:?}"));
            }
            Command::AttemptFailed {
                job,
                terminal: true,
                failure,
                ..
            } if !refused => {
                self.violation("jobs-do-not-fail", format!("job {job}: {}", failure.message));
            }
            _ => {}
        }
        self.judge_catalogue();
    }

    fn judge_kv(&mut self, index: u64, command: &Command, response: &Response) {
        match command {
            Command::KvPut {
                key,
                value,
                if_revision,
            } => {
                let current = self.checks.kv.get(key).map_or(0, |(_, revision)| *revision);
                let holds = if_revision.is_none_or(|expected| expected == current);
                if holds != matches!(response, Response::Kv(_)) {
                    let detail =
                        format!("entry {index}: {command:?} at revision {current} gives {response:?}");
                    self.violation("kv-follows-the-log", detail);
                }
                if holds {
                    self.checks.kv.insert(key.clone(), (value.clone(), index));
                }
            }
            Command::KvDelete { key } => {
                self.checks.kv.remove(key);
            }
            _ => return,
        }
        let found = &self.checks.reference.kv;
        let same = found.len() == self.checks.kv.len()
            && found.iter().all(|(k, e)| {
                self.checks
                    .kv
                    .get(k)
                    .is_some_and(|m| (&m.0, m.1) == (&e.value, e.revision))
            });
        if !same {
            self.violation("kv-follows-the-log", format!("after entry {index}: {found:?}"));
        }
    }

    fn judge_submissions(&mut self) {
        let mut keys = BTreeSet::new();
        let doubled = self
            .checks
            .reference
            .jobs
            .values()
            .find(|j| !keys.insert(j.sql.clone()))
            .map(|j| j.sql.clone());
        if let Some(key) = doubled {
            self.violation(
                "submit-is-idempotent",
                format!("two jobs were submitted as {key}"),
            );
        }
    }

    pub(super) fn check_submitted(&mut self, job: usize, id: JobId) {
        let key = self.plan.jobs[job].key.clone();
        if self.checks.reference.jobs.get(&id).is_none_or(|j| j.sql != key) {
            self.violation("submit-is-idempotent", format!("{key} is answered with job {id}"));
        }
    }

    fn judge_attempt(&mut self, job: JobId, index: u64, restore: Option<CheckpointId>) {
        self.count("attempts");
        let newest = self.checks.newest(job);
        let profile = self.checks.profile;
        let record = self.checks.jobs.entry(job).or_default();
        let (earlier, ran, cancelled) = (record.attempt, record.ran, record.cancelled);
        record.attempt = index;
        record.ran = false;
        if index <= earlier {
            self.violation(
                "one-attempt-at-a-time",
                format!("job {job}: {index} after {earlier}"),
            );
        }
        if cancelled {
            self.violation(
                "cancelled-stays-cancelled",
                format!("job {job} starts attempt {index}"),
            );
        }
        if restore.map(|c| c.0) != newest {
            let detail =
                format!("job {job}: attempt {index} starts from {restore:?}, the newest is {newest:?}");
            self.violation("newest-checkpoint-is-restored", detail);
        }
        if ran && profile != Profile::All {
            let detail = format!("job {job}: attempt {index} replaces {earlier}, which ran");
            self.violation("leader-change-restarts-nothing", detail);
        }
        if earlier > 0 && profile == Profile::Control {
            let detail = format!("job {job}: attempt {index} replaces {earlier}");
            self.violation("smooth-without-faults", detail);
        }
    }

    fn judge_completion(&mut self, job: JobId, checkpoint: &Checkpoint) {
        self.count("checkpoints");
        let (id, attempt) = (checkpoint.id.0, checkpoint.attempt.0);
        let record = self.checks.jobs.entry(job).or_default();
        let aborted = record.aborted.contains(&id);
        let current = record.attempt;
        record.completed.insert(
            id,
            Completed {
                attempt,
                ..Completed::default()
            },
        );
        if aborted {
            self.violation("aborted-never-completes", format!("job {job} checkpoint {id}"));
        }
        if attempt != current {
            let detail = format!(
                "job {job}: checkpoint {id} of attempt {attempt} completes while {current} is current"
            );
            self.violation("one-attempt-at-a-time", detail);
        }
        if let Err(reason) = self.is_whole(job, checkpoint) {
            self.violation(
                "checkpoints-are-complete",
                format!("job {job} checkpoint {id}: {reason}"),
            );
        }
    }

    fn manifest(&self, checkpoint: &Checkpoint) -> Result<Manifest, String> {
        let path = &checkpoint.manifest_path;
        let bytes = self
            .store
            .objects
            .get(path)
            .ok_or_else(|| format!("'{path}' is missing"))?;
        manifest_decode(bytes, Some(checkpoint.manifest_sha256)).map_err(|e| e.to_string())
    }

    /// All parts of one attempt, and there.
    fn is_whole(&self, job: JobId, checkpoint: &Checkpoint) -> Result<(), String> {
        if self.checks.hurt.contains(&checkpoint.manifest_path) {
            return Ok(());
        }
        let manifest = self.manifest(checkpoint)?;
        let sql = self.checks.reference.jobs.get(&job).map(|j| j.sql.clone());
        let plan = self.plan.jobs.iter().find(|p| Some(&p.key) == sql.as_ref());
        let Some(plan) = plan else {
            return Err("of no job".to_owned());
        };
        for (vertex, wanted) in [(0, plan.sources), (1, plan.sinks)] {
            let parts = manifest
                .vertices
                .iter()
                .find(|v| v.vertex == vertex)
                .map(|v| &v.parts);
            for subtask in 0..wanted {
                let part = parts
                    .and_then(|parts| parts.iter().find(|p| p.subtask == subtask))
                    .ok_or_else(|| format!("no part of vertex {vertex} subtask {subtask}"))?;
                // A sink that has seen nothing has no state.
                let Some(object) = &part.part else { continue };
                self.is_there(checkpoint.attempt, object)?;
            }
        }
        Ok(())
    }

    fn is_there(
        &self,
        attempt: AttemptId,
        object: &holdfast_proto::snapshot::ObjectRef,
    ) -> Result<(), String> {
        if !object.path.contains(&format!("/a{attempt}/")) {
            return Err(format!("'{}' is of another attempt", object.path));
        }
        if self.checks.hurt.contains(&object.path) {
            return Ok(());
        }
        let body = self
            .store
            .objects
            .get(&object.path)
            .ok_or_else(|| format!("'{}' is missing", object.path))?;
        let found = (body.len() as u64, super::engine::checksum(body));
        if found == (object.size, object.crc32c) {
            Ok(())
        } else {
            Err(format!("'{}' has other content", object.path))
        }
    }

    fn judge_commit(&mut self, job: JobId, id: CheckpointId) {
        let Some(checkpoint) = self
            .checks
            .reference
            .jobs
            .get(&job)
            .and_then(|j| j.checkpoints.get(&id))
        else {
            return;
        };
        if checkpoint.damaged || checkpoint.retired {
            return;
        }
        let Ok(manifest) = self.manifest(checkpoint) else {
            return;
        };
        let files = manifest.sinks.iter().flat_map(|s| &s.committables);
        let hidden = files
            .filter_map(|c| decode_file(&c.data))
            .map(|file| names(&file).1)
            .find(|name| !self.directory.files.contains_key(name));
        if let Some(name) = hidden {
            self.violation(
                "commit-done-is-visible",
                format!("checkpoint {id}: '{name}' is not visible"),
            );
        }
    }

    fn judge_retired(&mut self, job: JobId, checkpoints: &[CheckpointId]) {
        let live = self
            .checks
            .reference
            .jobs
            .get(&job)
            .is_some_and(|j| !j.status.is_terminal());
        let newest = self.checks.newest(job);
        let lost = checkpoints.iter().find(|id| live && Some(id.0) == newest);
        if let Some(id) = lost {
            self.violation(
                "newest-is-never-lost",
                format!("checkpoint {id} of job {job} is retired"),
            );
        }
        let record = self.checks.jobs.entry(job).or_default();
        for id in checkpoints {
            if let Some(c) = record.completed.get_mut(&id.0) {
                c.retired = true;
            }
        }
    }

    fn judge_catalogue(&mut self) {
        let lost = self.checks.reference.jobs.values().find_map(|job| {
            let newest = self.checks.newest(job.id)?;
            let kept = job
                .checkpoints
                .get(&CheckpointId(newest))
                .is_some_and(|c| !c.retired);
            (!job.status.is_terminal() && !kept).then(|| format!("job {} checkpoint {newest}", job.id))
        });
        if let Some(detail) = lost {
            self.violation("newest-is-never-lost", detail);
        }
    }

    /// A leader says something to a worker.
    pub(super) fn check_sent(&mut self, node: usize, body: &Body) {
        let found = match body {
            Body::Commit(m) => self.check_commit(&m.job_id, m.checkpoint),
            Body::Settled(m) => self.check_settled(&m.job_id, m.checkpoint),
            Body::Deploy(m) => {
                let restored = m.restore.as_ref().map(|r| r.checkpoint);
                self.check_deploy(&m.job_id, AttemptId(m.attempt), restored)
            }
            _ => None,
        };
        if let Some((invariant, detail)) = found {
            self.violation(invariant, format!("node {node}: {detail}"));
        }
    }

    fn check_commit(&self, job: &[u8], id: u64) -> Option<(&'static str, String)> {
        let job = JobId::from_bytes(job).ok()?;
        let known = self
            .checks
            .jobs
            .get(&job)
            .is_some_and(|r| r.completed.contains_key(&id));
        (id > 0 && !known).then(|| ("commit-after-entry", format!("checkpoint {id} of job {job}")))
    }

    /// A worker obeys an abort. What a leader says that was deposed does not count: workers refuse it.
    pub(super) fn check_abort(&mut self, worker: usize, job: JobId, id: u64) {
        let record: &mut Record = self.checks.jobs.entry(job).or_default();
        record.aborted.insert(id);
        if record.completed.contains_key(&id) {
            let detail = format!("w{worker} aborts checkpoint {id} of job {job}, which is complete");
            self.violation("aborted-never-completes", detail);
        }
    }

    fn check_settled(&self, job: &[u8], id: u64) -> Option<(&'static str, String)> {
        let job = JobId::from_bytes(job).ok()?;
        let record = self
            .checks
            .reference
            .jobs
            .get(&job)?
            .checkpoints
            .get(&CheckpointId(id));
        let early = record.is_some_and(|c| !c.committed);
        let unknown = self
            .checks
            .jobs
            .get(&job)
            .is_none_or(|r| !r.completed.contains_key(&id));
        (early || unknown).then(|| ("settled-after-commit", format!("checkpoint {id} of job {job}")))
    }

    fn check_deploy(
        &self,
        job: &[u8],
        attempt: AttemptId,
        restored: Option<u64>,
    ) -> Option<(&'static str, String)> {
        let job = JobId::from_bytes(job).ok()?;
        let reference = self.checks.reference.jobs.get(&job)?;
        let current = reference.attempt.as_ref().filter(|a| a.id == attempt)?;
        let wrong = |what: &str| {
            Some((
                "deployed-after-recovery",
                format!("job {job} attempt {attempt}: {what}"),
            ))
        };
        if current.number > 1 && !self.checks.has_recovered(job, attempt) {
            return wrong("sinks have not recovered");
        }
        let uncommitted = restored.is_some_and(|id| {
            let checkpoint = reference.checkpoints.get(&CheckpointId(id));
            checkpoint.is_some_and(|c| !c.committed && !c.damaged)
        });
        if uncommitted {
            return wrong("the restored checkpoint is not committed");
        }
        None
    }
}
