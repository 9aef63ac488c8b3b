//! A worker's engine: builds, starts, stops and checkpoints the tasks of attempts, and commits what sinks have prepared.

use super::files::{decode_file, names};
use super::ops::{Op, OpResult, OutputFile, Outside};
use super::tasks::{Captured, Kind, Local, SINK, SOURCE, Task, TaskId, TaskKey, Wish, prepare};
use super::worker::{AttemptKey, CommitKey, Said, WorkerDone};
use super::world::{Completion, Event, Proc, World};
use bytes::Bytes;
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId, layout};
use holdfast_coordinator::leader::ports::Snapshots;
use holdfast_proto::control::{
    Ack, Commit, CommitDone, CommitFailed, Declined, Deploy, Restore, TaskState, TaskStatus,
};
use holdfast_proto::snapshot::{self, Manifest, ObjectRef, SinkCommittables};
use holdfast_storage::{StorageError, manifest_decode};
use holdfast_worker::operators::Operator;
use std::collections::BTreeMap;

/// The sink's uid in manifests.
const UID: &str = "sink-operator";

/// A checksum for simulated objects.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    (xxhash_rust::xxh3::xxh3_64(bytes) >> 32) as u32
}

impl World {
    pub(super) fn deploy_tasks(
        &mut self,
        worker: usize,
        key: AttemptKey,
        old: Option<AttemptId>,
        command: Deploy,
    ) {
        if let Some(old) = old {
            self.remove_tasks(worker, (key.0, old));
        }
        let Some(plan) = self.plan.jobs.iter().position(|p| p.key == command.sql) else {
            return;
        };
        let own = self.workers[worker].incarnation;
        let slots: Vec<Incarnation> = command
            .slots
            .iter()
            .filter_map(|s| Incarnation::from_bytes(&s.incarnation).ok())
            .collect();
        let mut tasks: Vec<(TaskKey, Vec<u32>)> = Vec::new();
        for (slot, _) in (0u32..).zip(&slots).filter(|(_, s)| **s == own) {
            let job = &self.plan.jobs[plan];
            tasks.push(((SOURCE, slot), vec![slot]));
            if slot < job.sinks {
                tasks.push(((SINK, slot), job.splits_of(slot)));
            }
        }
        let outside = self.outside.clone();
        let wait = self.rng.range((1_000, 60_000));
        let restore = command.restore;
        let work = async move {
            outside.pause(wait).await;
            let built = build(&outside, key, plan, slots, tasks, restore).await;
            Completion::Worker(worker, Box::new(WorkerDone::Deployed(key, built)))
        };
        self.spawn(Proc::Worker(worker), Box::pin(work));
    }

    pub(super) fn start_tasks(&mut self, worker: usize, key: AttemptKey) {
        let Some(local) = self.workers[worker].engine.get_mut(&key) else {
            return;
        };
        if std::mem::replace(&mut local.started, true) {
            return;
        }
        let mut sources = Vec::new();
        for (task, t) in &mut local.tasks {
            if t.status == TaskStatus::Initializing {
                t.status = TaskStatus::Running;
            }
            if task.0 == SOURCE {
                sources.push((key, *task));
            }
        }
        for task in sources {
            let wait = self.rng.below(5_000);
            self.after(wait, Some(Proc::Worker(worker)), Event::Emit { worker, task });
        }
        // What has come before the start was kept.
        self.each_task(worker, key, |_| {});
    }

    /// Changes every task, then lets it work.
    fn each_task(&mut self, worker: usize, key: AttemptKey, change: impl Fn(&mut Task)) {
        let Some(local) = self.workers[worker].engine.get_mut(&key) else {
            return;
        };
        let ids: Vec<TaskKey> = local.tasks.keys().copied().collect();
        local.tasks.values_mut().for_each(change);
        for id in ids {
            self.work(worker, (key, id));
        }
    }

    pub(super) fn trigger(&mut self, worker: usize, key: AttemptKey, checkpoint: CheckpointId) {
        if let Some(local) = self.workers[worker].engine.get_mut(&key) {
            local.seen = local.seen.max(checkpoint);
        }
        self.each_task(worker, key, |t| t.triggered = t.triggered.max(Some(checkpoint)));
    }

    pub(super) fn abort_checkpoint(&mut self, worker: usize, key: AttemptKey, checkpoint: CheckpointId) {
        self.each_task(worker, key, |t| t.abort(checkpoint));
    }

    pub(super) fn settle_tasks(&mut self, worker: usize, key: AttemptKey, checkpoint: CheckpointId) {
        self.each_task(worker, key, |t| t.settle(checkpoint));
    }

    /// Stops an attempt's tasks; they take their time.
    pub(super) fn cancel_tasks(&mut self, worker: usize, (job, attempt): AttemptKey) {
        let wait = self.rng.below(40_000);
        self.after(
            wait,
            Some(Proc::Worker(worker)),
            Event::Gone { worker, job, attempt },
        );
    }

    /// Tasks are gone: those that talked to them fail.
    pub(super) fn remove_tasks(&mut self, worker: usize, key: AttemptKey) {
        let Some(local) = self.workers[worker].engine.remove(&key) else {
            return;
        };
        self.break_peers(worker, key, &local.slots);
    }

    pub(super) fn break_peers(&mut self, worker: usize, key: AttemptKey, slots: &[Incarnation]) {
        for peer in 0..self.workers.len() {
            let w = &self.workers[peer];
            if peer == worker || !slots.contains(&w.incarnation) {
                continue;
            }
            let first = w.engine.get(&key).and_then(|l| l.tasks.keys().next().copied());
            if let Some(task) = first {
                let wait = self.rng.range((500, 30_000));
                let event = Event::Broken {
                    worker: peer,
                    task: (key, task),
                };
                self.after(wait, Some(Proc::Worker(peer)), event);
            }
        }
    }

    pub(super) fn fail_task(&mut self, worker: usize, id: TaskId, error: String) {
        let Some(task) = self.task_mut(worker, id) else {
            return;
        };
        if task.status == TaskStatus::Failed {
            return;
        }
        task.status = TaskStatus::Failed;
        self.count("failed tasks");
        let said = task_state(id, TaskStatus::Failed, error);
        self.say(worker, said);
    }

    /// What a task wants.
    pub(super) fn wish(&mut self, worker: usize, id: TaskId, wish: Wish) {
        match wish {
            Wish::Capture(captured, settled) => {
                if let Some(Task {
                    kind: Kind::Source { .. },
                    status,
                    ..
                }) = self.task_mut(worker, id)
                    && *status != TaskStatus::Finished
                {
                    let barrier = super::tasks::Item::Barrier(captured.checkpoint, settled);
                    self.send_item(worker, id, barrier);
                }
                self.make_durable(worker, captured);
            }
            Wish::Declined(checkpoint, reason) => self.decline(worker, id, checkpoint, reason),
            Wish::Finished => {
                // As the agent: the last counters first.
                self.heartbeat(worker);
                self.tell(worker, task_state(id, TaskStatus::Finished, String::new()));
            }
            Wish::Failed(reason) => self.fail_task(worker, id, reason),
            Wish::Wrong(detail) => self.violation("streams-have-no-gaps", detail),
        }
    }

    fn decline(&mut self, worker: usize, id: TaskId, checkpoint: CheckpointId, reason: String) {
        self.count("declined");
        let said = Said::Declined(Declined {
            job_id: id.0.0.to_bytes().to_vec().into(),
            attempt: id.0.1.0,
            checkpoint: checkpoint.0,
            vertex: id.1.0.0,
            subtask: id.1.1,
            reason,
        });
        self.say(worker, said);
    }

    fn make_durable(&mut self, worker: usize, mut captured: Captured) {
        let outside = self.outside.clone();
        let work = async move {
            let job = captured.prepare.take();
            let prepared = prepare(&outside, job).await;
            Completion::Worker(
                worker,
                Box::new(WorkerDone::Prepared(Box::new(captured), prepared)),
            )
        };
        self.spawn(Proc::Worker(worker), Box::pin(work));
    }

    pub(super) fn worker_done(&mut self, worker: usize, done: WorkerDone) {
        match done {
            WorkerDone::Deployed(key, result) => self.deployed(worker, key, result),
            WorkerDone::Prepared(captured, Ok(committables)) => {
                self.prepared(worker, *captured, committables)
            }
            WorkerDone::Prepared(captured, Err(reason)) => {
                self.fail_task(worker, captured.id, reason.clone());
                self.decline(worker, captured.id, captured.checkpoint, reason);
            }
            WorkerDone::Uploaded(captured, result) => self.uploaded(worker, *captured, result),
            WorkerDone::Committed(key, result) => self.committed_here(worker, key, result),
        }
    }

    fn prepared(
        &mut self,
        worker: usize,
        mut captured: Captured,
        committables: Vec<holdfast_dataflow::connector::Committable>,
    ) {
        let checkpoint = captured.checkpoint;
        if let Some(task) = self.task_mut(worker, captured.id)
            && let Kind::Sink(sink) = &mut task.kind
        {
            sink.operator.prepared(checkpoint, committables.clone());
        }
        captured.committables.extend(committables);
        let Some(cluster) = self.workers[worker].cluster else {
            return;
        };
        let ((job, attempt), (vertex, subtask)) = captured.id;
        if self.workers[worker].ledger.require_current(job, attempt).is_err() {
            let reason = "its attempt is over".to_owned();
            return self.decline(worker, captured.id, checkpoint, reason);
        }
        let path = layout::part(cluster, job, checkpoint, attempt, vertex, subtask);
        let outside = self.outside.clone();
        let work = async move {
            let body = Bytes::from(captured.state.clone());
            let object = ObjectRef {
                path: path.clone(),
                size: body.len() as u64,
                crc32c: checksum(&body),
            };
            let result = if body.is_empty() {
                Ok(None)
            } else {
                let stored = outside.put_new(&path, body).await;
                stored.map(|()| Some(object)).map_err(|e| e.to_string())
            };
            Completion::Worker(worker, Box::new(WorkerDone::Uploaded(Box::new(captured), result)))
        };
        self.spawn(Proc::Worker(worker), Box::pin(work));
    }

    fn uploaded(&mut self, worker: usize, captured: Captured, result: Result<Option<ObjectRef>, String>) {
        let part = match result {
            Ok(part) => part,
            Err(reason) => return self.decline(worker, captured.id, captured.checkpoint, reason),
        };
        let ((job, attempt), (vertex, subtask)) = captured.id;
        let record = |c: &holdfast_dataflow::connector::Committable| snapshot::Committable {
            checkpoint: c.checkpoint.0,
            subtask: c.subtask,
            data: c.data.clone().into(),
        };
        let sinks = SinkCommittables {
            uid: UID.to_owned(),
            committables: captured.committables.iter().map(record).collect(),
        };
        let said = Said::Ack(Ack {
            job_id: job.to_bytes().to_vec().into(),
            attempt: attempt.0,
            checkpoint: captured.checkpoint.0,
            vertex: vertex.0,
            subtask,
            state_bytes: part.as_ref().map_or(0, |p| p.size),
            part,
            committables: if sinks.committables.is_empty() {
                Vec::new()
            } else {
                vec![sinks]
            },
            ..Ack::default()
        });
        self.say(worker, said);
    }

    pub(super) fn spawn_commit(&mut self, worker: usize, key: CommitKey, command: &Commit) {
        let outside = self.outside.clone();
        let committables: Vec<Bytes> = command
            .sinks
            .iter()
            .flat_map(|s| s.committables.iter().map(|c| c.data.clone()))
            .collect();
        let wait = self.rng.below(3_000);
        let work = async move {
            outside.pause(wait).await;
            let result = commit(&outside, key, &committables).await;
            Completion::Worker(worker, Box::new(WorkerDone::Committed(key, result)))
        };
        self.spawn(Proc::Worker(worker), Box::pin(work));
    }

    /// A checkpoint was found damaged after it had completed: an older one was restored, and sinks took its output back.
    fn is_undone(&self, job: JobId, checkpoint: CheckpointId) -> bool {
        let completed = self.checks.jobs.get(&job).map(|record| &record.completed);
        completed.is_some_and(|c| c.get(&checkpoint.0).is_some_and(|c| c.damaged))
    }

    fn committed_here(&mut self, worker: usize, key: CommitKey, result: Result<(), (String, bool)>) {
        self.committed_sinks(worker, key);
        let (job, attempt, checkpoint, (slice, slices, recover)) = key;
        let job_id = job.to_bytes().to_vec().into();
        let (attempt, checkpoint) = (attempt.0, checkpoint.0);
        let said = match result {
            Ok(()) => {
                if recover {
                    self.checks.recovered(job, AttemptId(attempt));
                }
                Said::CommitDone(CommitDone {
                    job_id,
                    attempt,
                    checkpoint,
                    slice,
                    slices,
                    recover,
                })
            }
            Err((reason, retryable)) => {
                if !retryable && self.is_undone(job, key.2) {
                    // A worker that stood still, or another's deadline, came to it after sinks had taken it back.
                    self.count("stale commits");
                } else if !retryable {
                    self.violation("committed-output-can-be-committed", reason.clone());
                }
                Said::CommitFailed(CommitFailed {
                    job_id,
                    attempt,
                    checkpoint,
                    slice,
                    slices,
                    recover,
                    reason,
                    retryable,
                })
            }
        };
        self.say(worker, said);
    }
}

fn task_state(id: TaskId, status: TaskStatus, error: String) -> Said {
    Said::TaskState(TaskState {
        job_id: id.0.0.to_bytes().to_vec().into(),
        attempt: id.0.1.0,
        vertex: id.1.0.0,
        subtask: id.1.1,
        status: status.into(),
        permanent: false,
        error,
    })
}

/// Reads the state back and builds the tasks.
async fn build(
    outside: &Outside,
    key: AttemptKey,
    plan: usize,
    slots: Vec<Incarnation>,
    tasks: Vec<(TaskKey, Vec<u32>)>,
    restore: Option<Restore>,
) -> Result<Box<Local>, (String, bool)> {
    let manifest = match &restore {
        Some(restore) => Some(read_manifest(outside, restore).await.map_err(damage)?),
        None => None,
    };
    let restored = CheckpointId(restore.map_or(0, |r| r.checkpoint));
    let mut local = Local {
        plan,
        started: false,
        seen: restored,
        slots,
        tasks: BTreeMap::new(),
    };
    for (task, splits) in tasks {
        let state = match &manifest {
            Some(manifest) => read_part(outside, manifest, task).await.map_err(damage)?,
            None => Bytes::new(),
        };
        local
            .tasks
            .insert(task, Task::new((key, task), splits, restored, &state));
    }
    Ok(Box::new(local))
}

fn damage(error: StorageError) -> (String, bool) {
    let damaged = matches!(
        error,
        StorageError::NotFound(_) | StorageError::Damaged { .. } | StorageError::Conflict(_)
    );
    (error.to_string(), damaged)
}

async fn read_manifest(outside: &Outside, restore: &Restore) -> Result<Manifest, StorageError> {
    let bytes = outside.get(&restore.manifest_path).await?;
    let sha256 = restore.manifest_sha256.as_ref().try_into().ok();
    manifest_decode(&bytes, sha256)
}

async fn read_part(outside: &Outside, manifest: &Manifest, task: TaskKey) -> Result<Bytes, StorageError> {
    let vertex = manifest.vertices.iter().find(|v| v.vertex == task.0.0);
    let part = vertex.and_then(|v| v.parts.iter().find(|p| p.subtask == task.1));
    let Some(object) = part.and_then(|p| p.part.as_ref()) else {
        return Ok(Bytes::new());
    };
    let bytes = outside.get(&object.path).await?;
    if (bytes.len() as u64, checksum(&bytes)) != (object.size, object.crc32c) {
        return Err(StorageError::Conflict(format!(
            "object '{}' is damaged",
            object.path
        )));
    }
    Ok(bytes)
}

/// Publishes every file, then removes what abandoned attempts left, as the file sink does.
async fn commit(outside: &Outside, key: CommitKey, committables: &[Bytes]) -> Result<(), (String, bool)> {
    let (job, attempt, checkpoint, (_, _, recover)) = key;
    for data in committables {
        let file = decode_file(data).ok_or(("a sink's record does not parse".to_owned(), false))?;
        let (pending, visible) = names(&file);
        if let OpResult::Conflict(reason) = outside
            .run(Op::Publish {
                pending,
                visible,
                file,
            })
            .await
        {
            return Err((reason, false));
        }
    }
    if !recover {
        return Ok(());
    }
    let restored = Some(checkpoint).filter(|c| c.0 > 0);
    // Listed again until there is nothing left: a commit that comes late may rename a file between list and removal.
    loop {
        let OpResult::Files(files) = outside.run(Op::Files { job }).await else {
            return Err(("the output directory cannot be read".to_owned(), true));
        };
        let unknown = |file: &OutputFile| restored.is_none_or(|r| file.checkpoint > r);
        let mut abandoned = files
            .into_iter()
            .filter(|(_, file)| file.attempt < attempt && unknown(file))
            .peekable();
        if abandoned.peek().is_none() {
            return Ok(());
        }
        for (name, _) in abandoned {
            outside.run(Op::Remove { name }).await;
        }
    }
}
