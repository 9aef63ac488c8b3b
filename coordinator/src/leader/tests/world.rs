//! A small world for the leader's core: a log in memory, workers that do what they are told, and faults. Virtual time,
//! no IO, one seed decides everything.

use crate::leader::core::{Core, CoreConfig};
use crate::leader::input::{
    CollectWork, CommitPart, Effect, FromWorker, Hello, Input, Now, ReadFailure, Report, SessionId, TaskAck,
    TaskKey,
};
use crate::leader::shape::{Shape, VertexShape};
use holdfast_common::{
    AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId, VertexId,
};
use holdfast_machine::command::{Command, Proposal, Response};
use holdfast_machine::state::{Job, JobStatus, State};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::{TaskReport, TaskStatus};
use holdfast_proto::snapshot::{Committable, Manifest, ObjectRef, SinkCommittables};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const JOB: JobId = JobId(77);
pub const FINGERPRINT: &str = "f";

/// A worker process.
#[derive(Debug, Clone, Default)]
pub struct FakeWorker {
    pub name: String,
    pub incarnation: Incarnation,
    pub slots: u32,
    pub alive: bool,
    /// Stopped, but not dead: says and does nothing.
    pub frozen: bool,
    pub session: Option<SessionId>,
    pub attempts: BTreeMap<(JobId, AttemptId), FakeAttempt>,
    pub inbox: VecDeque<Body>,
    pub outbox: VecDeque<FromWorker>,
    pub epoch: u64,
    pub next_heartbeat_ms: u64,
}

#[derive(Debug, Clone, Default)]
pub struct FakeAttempt {
    pub tasks: BTreeSet<TaskKey>,
    pub started: bool,
    pub finished: bool,
    pub seen: u64,
}

pub struct World {
    pub state: State,
    pub core: Option<Core>,
    pub epoch: u64,
    pub now_ms: u64,
    pub workers: Vec<FakeWorker>,
    pub inputs: VecDeque<Input>,
    pub storage_up: bool,
    /// What storage has done is told later, with [`World::release`].
    pub storage_slow: bool,
    held: Vec<Input>,
    /// When storage was searched for orphans, and below which number.
    pub sweeps: Vec<(u64, CheckpointId)>,
    pub manifests: BTreeMap<String, Manifest>,
    pub damaged: BTreeSet<String>,
    pub ends: bool,
    pub shape: Shape,
    /// Checkpoints whose sinks some worker has committed.
    pub committed: BTreeSet<u64>,
    pub recovered: BTreeSet<u64>,
    pub deployed: Vec<u64>,
    pub notes: Vec<String>,
    /// Proposals wait here while the log has no quorum.
    pub quorum: bool,
    pub stalled: Vec<(u64, Command)>,
    pub hold_commits: bool,
    /// Commits of this slice and later ones are not answered.
    pub slices_until: u32,
    /// How many committables every task prepares per checkpoint, and what each holds.
    pub prepared: (usize, bytes::Bytes),
    /// Slices of commits that some worker has done.
    pub commit_parts: BTreeMap<u64, BTreeSet<u32>>,
    seed: u64,
    next_session: SessionId,
    next_incarnation: u128,
}

impl World {
    pub fn new(workers: usize, slots: u32, parallelism: u32, seed: u64) -> Self {
        let shape = Shape {
            fingerprint: FINGERPRINT.to_owned(),
            max_parallelism: 128,
            vertices: (0..2)
                .map(|v| VertexShape {
                    id: VertexId(v),
                    name: format!("v{v}"),
                    parallelism: if v == 0 { parallelism } else { 1 },
                    operator_uids: vec![format!("op{v}")],
                })
                .collect(),
        };
        let mut world = Self {
            state: State::default(),
            core: None,
            epoch: 0,
            now_ms: 1_000_000,
            workers: Vec::new(),
            inputs: VecDeque::new(),
            storage_up: true,
            storage_slow: false,
            held: Vec::new(),
            sweeps: Vec::new(),
            manifests: BTreeMap::new(),
            damaged: BTreeSet::new(),
            ends: false,
            shape,
            committed: BTreeSet::new(),
            recovered: BTreeSet::new(),
            deployed: Vec::new(),
            notes: Vec::new(),
            quorum: true,
            stalled: Vec::new(),
            hold_commits: false,
            slices_until: u32::MAX,
            prepared: (1, bytes::Bytes::new()),
            commit_parts: BTreeMap::new(),
            seed,
            next_session: 0,
            next_incarnation: 0,
        };
        world.apply(Command::InitCluster {
            cluster_id: ClusterId(1),
            name: "test".into(),
        });
        for i in 0..workers {
            world.workers.push(FakeWorker {
                name: format!("w{i}"),
                slots,
                ..FakeWorker::default()
            });
            world.start_worker(i);
        }
        world
    }

    pub fn submit(&mut self, parallelism: u32, settings: &[(&str, &str)]) {
        self.apply(Command::SubmitJob {
            job: JOB,
            name: "job".into(),
            sql: "select".into(),
            settings: settings
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect(),
            fingerprint: FINGERPRINT.into(),
            parallelism,
            max_parallelism: 128,
            idempotency_key: None,
        });
        self.inputs.push_back(Input::Applied);
    }

    pub fn random(&mut self) -> u64 {
        self.seed ^= self.seed << 13;
        self.seed ^= self.seed >> 7;
        self.seed ^= self.seed << 17;
        self.seed
    }

    pub fn apply(&mut self, command: Command) -> Response {
        let index = self.state.applied + 1;
        let proposal = Proposal {
            proposed_ms: self.now_ms,
            session: None,
            command,
        };
        self.state.apply(index, &proposal)
    }

    pub fn job(&self) -> &Job {
        &self.state.jobs[&JOB]
    }

    pub fn attempt(&self) -> Option<u64> {
        self.job().attempt.as_ref().map(|a| a.id.0)
    }

    pub fn status(&self) -> JobStatus {
        self.job().status
    }

    /// A (new) leader: streams of the old one end.
    pub fn lead(&mut self) {
        self.depose();
        let Response::Epoch(LeaderEpoch(epoch)) = self.apply(Command::ClaimLeader {
            node: NodeId(1),
            incarnation: Incarnation(9),
        }) else {
            panic!("a claim is never refused");
        };
        self.epoch = epoch;
        let config = CoreConfig {
            node: NodeId(1),
            epoch: LeaderEpoch(epoch),
            cluster: ClusterId(1),
            heartbeat_interval_ms: 200,
            heartbeat_timeout_ms: 2000,
        };
        let (core, effects) = Core::new(config, self.now(), &self.state);
        self.core = Some(core);
        self.carry_out(effects);
    }

    pub fn depose(&mut self) {
        self.core = None;
        self.inputs.clear();
        self.stalled.clear();
        for worker in &mut self.workers {
            worker.session = None;
            worker.inbox.clear();
        }
    }

    pub fn now(&mut self) -> Now {
        let bits = self.random();
        Now {
            mono_ms: self.now_ms,
            wall_ms: self.now_ms,
            bits,
        }
    }

    pub fn start_worker(&mut self, i: usize) {
        self.next_incarnation += 1;
        let worker = &mut self.workers[i];
        worker.incarnation = Incarnation(self.next_incarnation);
        worker.alive = true;
        worker.frozen = false;
        worker.session = None;
        worker.attempts.clear();
        worker.inbox.clear();
        worker.outbox.clear();
        worker.epoch = 0;
    }

    pub fn kill(&mut self, i: usize) {
        self.workers[i].alive = false;
        self.break_stream(i);
        // Tasks that talked to it fail.
        self.fail_peers(i);
    }

    fn fail_peers(&mut self, i: usize) {
        for (j, worker) in self.workers.iter_mut().enumerate() {
            if i == j || !worker.alive {
                continue;
            }
            let failed: Vec<(JobId, AttemptId)> = worker.attempts.keys().copied().collect();
            for (job, attempt) in failed {
                if let Some(task) = worker.attempts[&(job, attempt)].tasks.first().copied() {
                    worker.outbox.push_back(FromWorker::TaskState {
                        job,
                        attempt,
                        task,
                        status: TaskStatus::Failed,
                        error: "connection reset by peer".into(),
                    });
                }
            }
        }
    }

    pub fn break_stream(&mut self, i: usize) {
        if let Some(session) = self.workers[i].session.take() {
            self.inputs.push_back(Input::Closed { session });
        }
        self.workers[i].inbox.clear();
    }

    /// Until nothing happens at this instant.
    pub fn settle(&mut self) {
        for _ in 0..10_000 {
            self.attach_workers();
            let mut busy = false;
            while let Some(input) = self.inputs.pop_front() {
                busy = true;
                self.step(input);
            }
            for i in 0..self.workers.len() {
                busy |= self.run_worker(i);
            }
            if !busy {
                return;
            }
        }
        panic!(
            "the world does not come to rest: {:#?}",
            self.notes.iter().rev().take(20).collect::<Vec<_>>()
        );
    }

    pub fn advance(&mut self, ms: u64) {
        let until = self.now_ms + ms;
        while self.now_ms < until {
            self.settle();
            let now = self.now();
            let due = self
                .core
                .as_ref()
                .and_then(|core| core.next_deadline(now, &self.state))
                .unwrap_or(until);
            let next = due.max(self.now_ms + 1).min(until).min(self.now_ms + 20);
            self.now_ms = next;
            if self.core.is_some() {
                self.inputs.push_back(Input::Tick);
            }
        }
        self.settle();
    }

    pub fn until(&mut self, ms: u64, what: &str, done: impl Fn(&Self) -> bool) {
        let end = self.now_ms + ms;
        while !done(self) {
            assert!(
                self.now_ms < end,
                "not within {ms} ms: {what}; notes {:#?}",
                self.notes
            );
            self.advance(5);
        }
    }

    fn attach_workers(&mut self) {
        if self.core.is_none() {
            return;
        }
        for i in 0..self.workers.len() {
            let epoch = self.epoch;
            let worker = &mut self.workers[i];
            if !worker.alive || worker.frozen || worker.session.is_some() || worker.epoch > epoch {
                continue;
            }
            self.next_session += 1;
            worker.session = Some(self.next_session);
            worker.epoch = epoch;
            let hello = Hello {
                session: self.next_session,
                resource_id: worker.name.clone(),
                incarnation: worker.incarnation,
                data_addr: format!("127.0.0.1:{}", worker.incarnation.0),
                slots: worker.slots,
                version: "test".into(),
                pid: 1,
                reports: worker.reports(),
            };
            self.inputs.push_back(Input::Attached(Box::new(hello)));
        }
    }

    fn step(&mut self, input: Input) {
        let now = self.now();
        let Some(core) = self.core.as_mut() else {
            return;
        };
        let effects = core.step(now, &self.state, input);
        assert!(!core.is_deposed(), "nobody else claimed");
        self.carry_out(effects);
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Send { session, body } => self.check_and_send(session, *body),
                Effect::Close { session } => {
                    for worker in &mut self.workers {
                        if worker.session == Some(session) {
                            worker.session = None;
                            worker.inbox.clear();
                        }
                    }
                    self.inputs.push_back(Input::Closed { session });
                }
                Effect::Redial { incarnation, .. } => {
                    let listens = self
                        .workers
                        .iter()
                        .any(|w| w.incarnation == incarnation && w.alive);
                    self.inputs.push_back(Input::Redialed {
                        incarnation,
                        refused: !listens,
                    });
                }
                Effect::Propose { ticket, command } => {
                    if self.quorum {
                        self.answer(ticket, *command);
                    } else {
                        self.stalled.push((ticket, *command));
                    }
                }
                Effect::Plan { job } => self.inputs.push_back(Input::Planned {
                    job,
                    result: Ok(self.shape.clone()),
                }),
                Effect::WriteManifest {
                    job,
                    checkpoint,
                    path,
                    manifest,
                } => {
                    let result = if self.storage_up {
                        self.manifests.insert(path, *manifest);
                        Ok([1; 32])
                    } else {
                        Err("no route to storage".to_owned())
                    };
                    self.storage_says(Input::ManifestWritten {
                        job,
                        checkpoint,
                        result,
                    });
                }
                Effect::ReadManifest {
                    job,
                    checkpoint,
                    path,
                    ..
                } => {
                    let result = if !self.storage_up {
                        Err(ReadFailure::Unavailable("no route to storage".into()))
                    } else if self.damaged.contains(&path) {
                        Err(ReadFailure::Damaged("checksum".into()))
                    } else {
                        Ok(self.manifests[&path].sinks.clone())
                    };
                    self.inputs.push_back(Input::ManifestRead {
                        job,
                        checkpoint,
                        result,
                    });
                }
                Effect::Collect { job, work } => self.collect(job, &work),
                Effect::Note { message, .. } => self.notes.push(format!("{} {message}", self.now_ms)),
            }
        }
    }

    pub fn answer(&mut self, ticket: u64, command: Command) {
        let response = self.apply(command);
        self.inputs.push_back(Input::Answered { ticket, response });
    }

    pub fn quorum_is_back(&mut self) {
        self.quorum = true;
        for (ticket, command) in std::mem::take(&mut self.stalled) {
            self.answer(ticket, command);
        }
    }

    fn collect(&mut self, job: JobId, work: &CollectWork) {
        let result = if self.storage_up {
            for checkpoint in &work.retired {
                assert!(self.state.jobs[&job].checkpoints[&checkpoint.id].retired);
                self.manifests.remove(&checkpoint.manifest_path);
            }
            self.sweep(work);
            Ok(work.retired.iter().map(|c| c.id).collect())
        } else {
            Err("no route to storage".to_owned())
        };
        self.storage_says(Input::Collected { job, result });
    }

    fn sweep(&mut self, work: &CollectWork) {
        let Some(floor) = work.orphans_below else {
            return;
        };
        self.sweeps.push((self.now_ms, floor));
        let owned: BTreeSet<&String> = work
            .kept
            .iter()
            .chain(&work.retired)
            .map(|c| &c.manifest_path)
            .collect();
        self.manifests
            .retain(|path, m| m.checkpoint >= floor.0 || owned.contains(path));
    }

    fn storage_says(&mut self, input: Input) {
        if self.storage_slow {
            self.held.push(input);
        } else {
            self.inputs.push_back(input);
        }
    }

    /// Storage is fast again: what it has done becomes known.
    pub fn release(&mut self) {
        self.storage_slow = false;
        self.inputs.extend(std::mem::take(&mut self.held));
    }

    /// Named rules that every message of a leader keeps.
    fn check_and_send(&mut self, session: SessionId, body: Body) {
        let job = self.state.jobs.get(&JOB);
        let in_log = |c: u64| job.is_some_and(|j| j.checkpoints.contains_key(&CheckpointId(c)));
        let current = job.and_then(|j| j.attempt.as_ref()).map_or(0, |a| a.id.0);
        match &body {
            Body::AbortCheckpoint(m) => assert!(!in_log(m.checkpoint), "a complete checkpoint is aborted"),
            Body::Settled(m) => {
                let checkpoint = job.and_then(|j| j.checkpoints.get(&CheckpointId(m.checkpoint)));
                assert!(
                    checkpoint.is_none_or(|c| c.committed),
                    "settled before its sinks have committed"
                );
            }
            Body::Commit(m) => {
                assert!(
                    m.checkpoint == 0 || in_log(m.checkpoint),
                    "commit of what is not in the log"
                );
            }
            Body::Deploy(m) => {
                assert_eq!(m.attempt, current, "an attempt that is not current is deployed");
                if let Some(restore) = &m.restore {
                    let restored = &job.unwrap().checkpoints[&CheckpointId(restore.checkpoint)];
                    assert!(
                        restored.committed,
                        "deployed before the restored checkpoint's sinks have committed"
                    );
                }
                let number = job.unwrap().attempt.as_ref().unwrap().number;
                assert!(
                    number == 1 || self.recovered.contains(&m.attempt),
                    "deployed before sinks recovered"
                );
                self.deployed.push(m.attempt);
            }
            Body::Trigger(m) => assert_eq!(m.attempt, current, "an attempt that is not current is triggered"),
            _ => {}
        }
        if let Some(worker) = self.workers.iter_mut().find(|w| w.session == Some(session)) {
            worker.inbox.push_back(body);
        }
    }

    fn run_worker(&mut self, i: usize) -> bool {
        let now_ms = self.now_ms;
        if !self.workers[i].alive || self.workers[i].frozen {
            return false;
        }
        let mut busy = false;
        while let Some(body) = self.workers[i].inbox.pop_front() {
            busy = true;
            self.obey(i, body);
        }
        let ends = self.ends;
        let worker = &mut self.workers[i];
        if ends {
            worker.finish_tasks();
        }
        if worker.session.is_some() && now_ms >= worker.next_heartbeat_ms {
            worker.next_heartbeat_ms = now_ms + 200;
            let heartbeat = FromWorker::Heartbeat {
                reports: worker.reports(),
                sequence: now_ms / 200,
            };
            worker.outbox.push_back(heartbeat);
        }
        if let Some(session) = worker.session {
            for message in std::mem::take(&mut worker.outbox) {
                busy = true;
                self.inputs.push_back(Input::Message {
                    session,
                    message: Box::new(message),
                });
            }
        }
        busy
    }

    fn obey(&mut self, i: usize, body: Body) {
        let storage_up = self.storage_up;
        let worker = &mut self.workers[i];
        match body {
            Body::Deploy(m) => {
                let (job, attempt) = (JOB, AttemptId(m.attempt));
                let restored_path = m.restore.as_ref().map(|r| r.manifest_path.clone());
                if let Some(path) = restored_path.filter(|p| self.damaged.contains(p)) {
                    worker.outbox.push_back(FromWorker::DeployFailed {
                        job,
                        attempt,
                        reason: format!("{path} is damaged"),
                        damaged: true,
                    });
                    return;
                }
                let own = worker.incarnation.to_bytes();
                let tasks = self
                    .shape
                    .tasks()
                    .into_iter()
                    .filter(|(_, s)| m.slots.get(*s as usize).is_some_and(|p| p.incarnation[..] == own))
                    .collect();
                worker.attempts.retain(|(j, a), _| *j != job || *a > attempt);
                worker.attempts.insert(
                    (job, attempt),
                    FakeAttempt {
                        tasks,
                        ..FakeAttempt::default()
                    },
                );
                worker.outbox.push_back(FromWorker::Deployed { job, attempt });
            }
            Body::Start(m) => {
                if let Some(a) = worker.attempts.get_mut(&(JOB, AttemptId(m.attempt))) {
                    a.started = true;
                }
            }
            Body::Trigger(m) => {
                let attempt = AttemptId(m.attempt);
                let Some(a) = worker.attempts.get_mut(&(JOB, attempt)) else {
                    return;
                };
                if a.seen >= m.checkpoint {
                    return;
                }
                a.seen = m.checkpoint;
                let said: Vec<FromWorker> = a
                    .tasks
                    .iter()
                    .map(|t| answer_trigger(attempt, m.checkpoint, *t, storage_up, &self.prepared))
                    .collect();
                worker.outbox.extend(said);
            }
            Body::Cancel(m) => {
                let attempt = AttemptId(m.attempt);
                worker.attempts.retain(|(_, a), _| *a > attempt);
                worker
                    .outbox
                    .push_back(FromWorker::Cancelled { job: JOB, attempt });
            }
            Body::Commit(m) => {
                if self.hold_commits || m.slice >= self.slices_until {
                    return;
                }
                if m.recover {
                    self.recovered.insert(m.attempt);
                }
                let parts = self.commit_parts.entry(m.checkpoint).or_default();
                parts.insert(m.slice);
                if parts.len() == m.slices as usize {
                    self.committed.insert(m.checkpoint);
                }
                worker.outbox.push_back(FromWorker::CommitDone {
                    job: JOB,
                    attempt: AttemptId(m.attempt),
                    checkpoint: CheckpointId(m.checkpoint),
                    part: CommitPart {
                        slice: m.slice,
                        slices: m.slices,
                        recover: m.recover,
                    },
                });
            }
            _ => {}
        }
    }
}

fn answer_trigger(
    attempt: AttemptId,
    checkpoint: u64,
    task: TaskKey,
    storage_up: bool,
    prepared: &(usize, bytes::Bytes),
) -> FromWorker {
    let checkpoint_id = CheckpointId(checkpoint);
    if !storage_up {
        return FromWorker::Declined {
            job: JOB,
            attempt,
            checkpoint: checkpoint_id,
            task,
            reason: "no route to storage".into(),
        };
    }
    FromWorker::Ack {
        job: JOB,
        attempt,
        checkpoint: checkpoint_id,
        task,
        ack: TaskAck {
            part: Some(ObjectRef {
                path: format!("{}-{}-{checkpoint}", task.0, task.1),
                size: 1,
                crc32c: 0,
            }),
            committables: vec![SinkCommittables {
                uid: "sink".into(),
                committables: vec![
                    Committable {
                        checkpoint,
                        subtask: task.1,
                        data: prepared.1.clone(),
                    };
                    prepared.0
                ],
            }],
            state_bytes: 1,
        },
    }
}

impl FakeWorker {
    pub fn reports(&self) -> Vec<Report> {
        self.attempts
            .iter()
            .map(|((job, attempt), a)| Report {
                job: *job,
                attempt: *attempt,
                checkpoint_seen: CheckpointId(a.seen),
                started: a.started,
                tasks: a
                    .tasks
                    .iter()
                    .map(|task| {
                        let status = match (a.started, a.finished) {
                            (false, _) => TaskStatus::Initializing,
                            (true, false) => TaskStatus::Running,
                            (true, true) => TaskStatus::Finished,
                        };
                        let report = TaskReport {
                            vertex: task.0.0,
                            subtask: task.1,
                            status: status.into(),
                            ..TaskReport::default()
                        };
                        (*task, report)
                    })
                    .collect(),
            })
            .collect()
    }

    fn finish_tasks(&mut self) {
        for ((job, attempt), a) in &mut self.attempts {
            if a.started && !a.finished {
                a.finished = true;
                for task in &a.tasks {
                    self.outbox.push_back(FromWorker::TaskState {
                        job: *job,
                        attempt: *attempt,
                        task: *task,
                        status: TaskStatus::Finished,
                        error: String::new(),
                    });
                }
            }
        }
    }
}
