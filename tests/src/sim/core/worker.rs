//! A worker's agent: what `worker/src/agent` does with tokio and the engine, done with the simulator's queue and
//! simulated tasks. The ledger, which decides what is stale and what must be said again, is the real one.

use super::coordinator::{HEARTBEAT_MS, TIMEOUT_MS};
use super::streams::Link;
use super::tasks::Local;
use super::world::{Event, Proc, Queued, World};
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::worker_message;
use holdfast_proto::control::{
    AttemptReport, Cancelled, Commit, Deploy, DeployFailed, Deployed, Heartbeat, Register, TaskReport,
    Welcome,
};
use holdfast_worker::agent::ledger::Ledger;
use std::collections::{BTreeMap, BTreeSet};

pub(super) type Said = worker_message::Body;
pub(super) type AttemptKey = (JobId, AttemptId);
/// Job, attempt, checkpoint; slice, slices, recover.
pub(super) type CommitKey = (JobId, AttemptId, CheckpointId, (u32, u32, bool));

/// Waits between two questions to one coordinator, in microseconds.
const SEEK_US: (u64, u64) = (20_000, 50_000);
/// A coordinator that does not answer is asked anew.
const ASK_US: u64 = 5_000_000;

/// What a side task brings back.
pub(super) enum WorkerDone {
    Deployed(AttemptKey, Result<Box<Local>, (String, bool)>),
    Committed(CommitKey, Result<(), (String, bool)>),
    Prepared(
        Box<super::tasks::Captured>,
        Result<Vec<holdfast_dataflow::connector::Committable>, String>,
    ),
    Uploaded(
        Box<super::tasks::Captured>,
        Result<Option<holdfast_proto::snapshot::ObjectRef>, String>,
    ),
}

/// See the module.
pub(super) struct Worker {
    pub(super) name: String,
    pub(super) generation: u32,
    pub(super) incarnation: Incarnation,
    pub(super) slots: u32,
    pub(super) alive: bool,
    pub(super) frozen: bool,
    pub(super) held: Vec<Queued>,
    pub(super) link: Link,
    asks: BTreeMap<usize, (u64, u64)>,
    pub(super) ledger: Ledger,
    pub(super) cluster: Option<ClusterId>,
    pub(super) engine: BTreeMap<AttemptKey, Local>,
    deploying: BTreeSet<AttemptKey>,
    committing: BTreeSet<CommitKey>,
    triggered: BTreeMap<AttemptKey, CheckpointId>,
    /// For the checks: the newest epoch, and the newest attempt of each job, that were obeyed here.
    obeyed: u64,
    newest: BTreeMap<JobId, AttemptId>,
}

impl Worker {
    pub(super) fn new(i: usize, slots: u32) -> Self {
        Self {
            name: format!("w{i}"),
            generation: 0,
            incarnation: Incarnation(0),
            slots,
            alive: false,
            frozen: false,
            held: Vec::new(),
            link: Link::Seeking,
            asks: BTreeMap::new(),
            ledger: Ledger::default(),
            cluster: None,
            engine: BTreeMap::new(),
            deploying: BTreeSet::new(),
            committing: BTreeSet::new(),
            triggered: BTreeMap::new(),
            obeyed: 0,
            newest: BTreeMap::new(),
        }
    }

    /// A new process under the same name.
    pub(super) fn reset(&mut self, incarnation: Incarnation) {
        let generation = self.generation;
        let index = usize::try_from(incarnation.0 & 0xffff).unwrap_or(0);
        *self = Self {
            generation,
            incarnation,
            alive: true,
            ..Self::new(index, self.slots)
        };
    }

    pub(super) fn forget_ask(&mut self, node: usize, stream: u64) {
        if self.asks.get(&node).is_some_and(|(s, _)| *s == stream) {
            self.asks.remove(&node);
        }
    }
}

impl World {
    /// A worker without a leader asks every coordinator.
    pub(super) fn seek(&mut self, worker: usize) {
        let wait = self.rng.range(SEEK_US);
        self.after(wait, Some(Proc::Worker(worker)), Event::Seek { worker });
        if self.workers[worker].link != Link::Seeking {
            return;
        }
        for node in 0..self.nodes.len() {
            let overdue = |(_, at): &(u64, u64)| self.now_us >= at + ASK_US;
            if self.workers[worker]
                .asks
                .get(&node)
                .is_some_and(|ask| !overdue(ask))
            {
                continue;
            }
            if let Some((old, _)) = self.workers[worker].asks.remove(&node) {
                self.close_up(old);
            }
            let cut = self.is_cut(Proc::Worker(worker), Proc::Node(node));
            if cut || !self.nodes[node].alive {
                continue;
            }
            let register = self.registration(worker);
            let stream = self.open_stream(worker, node, register);
            let now_us = self.now_us;
            self.workers[worker].asks.insert(node, (stream, now_us));
        }
    }

    fn registration(&self, worker: usize) -> Register {
        let w = &self.workers[worker];
        Register {
            cluster_name: "simulated".to_owned(),
            cluster_id: w
                .cluster
                .map(|c| c.to_bytes().to_vec())
                .unwrap_or_default()
                .into(),
            resource_id: w.name.clone(),
            incarnation: w.incarnation.to_bytes().to_vec().into(),
            data_addr: format!("{}:{}", w.name, w.incarnation.0),
            slots: w.slots,
            version: "simulated".to_owned(),
            pid: w.generation,
            attempts: self.reports(worker),
            leader_epoch_seen: w.ledger.epoch().0,
        }
    }

    fn reports(&self, worker: usize) -> Vec<AttemptReport> {
        self.workers[worker]
            .engine
            .iter()
            .map(|((job, attempt), local)| AttemptReport {
                job_id: job.to_bytes().to_vec().into(),
                attempt: attempt.0,
                tasks: local
                    .tasks
                    .iter()
                    .map(|((vertex, subtask), task)| TaskReport {
                        vertex: vertex.0,
                        subtask: *subtask,
                        status: task.status.into(),
                        ..TaskReport::default()
                    })
                    .collect(),
                checkpoint_seen: local.seen.0,
                started: local.started,
            })
            .collect()
    }

    /// A message has come out of a stream.
    pub(super) fn hear(&mut self, worker: usize, node: usize, stream: u64, body: Body) {
        let now_us = self.now_us;
        if let Link::Attached {
            stream: s, heard_us, ..
        } = &mut self.workers[worker].link
            && *s == stream
        {
            *heard_us = now_us;
            return self.obey(worker, body);
        }
        // The first message of a stream that was asked for.
        let asked = self.workers[worker].asks.get(&node).map(|(s, _)| *s) == Some(stream);
        self.workers[worker].forget_ask(node, stream);
        match body {
            Body::Welcome(welcome) if asked && self.workers[worker].link == Link::Seeking => {
                self.welcomed(worker, stream, &welcome);
            }
            Body::Refused(_) if asked => {
                self.count("refused workers");
                self.kill(Proc::Worker(worker));
                self.after(300_000, None, Event::Start(Proc::Worker(worker)));
            }
            _ => self.close_up(stream),
        }
    }

    fn welcomed(&mut self, worker: usize, stream: u64, welcome: &Welcome) {
        let epoch = LeaderEpoch(welcome.leader_epoch);
        let now_us = self.now_us;
        let w = &mut self.workers[worker];
        let cluster = ClusterId::from_bytes(&welcome.cluster_id).ok();
        if epoch < w.ledger.epoch() || w.ledger.obey(epoch).is_err() || cluster.is_none() {
            return self.close_up(stream);
        }
        w.cluster = cluster;
        w.link = Link::Attached {
            stream,
            heard_us: now_us,
            sequence: 0,
        };
        self.check_epoch(worker, epoch.0);
        self.note(10, worker as u64, epoch.0, || {
            format!("w{worker} is attached to the leader of epoch {epoch}")
        });
        let others: Vec<u64> = std::mem::take(&mut self.workers[worker].asks)
            .into_values()
            .map(|(s, _)| s)
            .collect();
        for other in others {
            self.close_up(other);
        }
        self.after(
            HEARTBEAT_MS * 1000,
            Some(Proc::Worker(worker)),
            Event::Beat { worker, stream },
        );
        let again: Vec<Said> = self.workers[worker].ledger.to_repeat().cloned().collect();
        for said in again {
            self.send_up(stream, said);
        }
    }

    pub(super) fn detach(&mut self, worker: usize) {
        if let Some(stream) = self.workers[worker].link.stream() {
            self.note(11, worker as u64, 0, || format!("w{worker} has lost its leader"));
            self.workers[worker].link = Link::Seeking;
            self.close_up(stream);
        }
    }

    fn send(&mut self, worker: usize, said: Said) {
        if let Some(stream) = self.workers[worker].link.stream() {
            self.send_up(stream, said);
        }
    }

    /// Says something that the next leader has to hear if this one does not.
    pub(super) fn say(&mut self, worker: usize, said: Said) {
        self.workers[worker].ledger.keep(&said);
        self.send(worker, said);
    }

    pub(super) fn tell(&mut self, worker: usize, said: Said) {
        self.send(worker, said);
    }

    pub(super) fn beat(&mut self, worker: usize, stream: u64) {
        if self.workers[worker].link.stream() != Some(stream) {
            return;
        }
        self.heartbeat(worker);
        self.after(
            HEARTBEAT_MS * 1000,
            Some(Proc::Worker(worker)),
            Event::Beat { worker, stream },
        );
    }

    pub(super) fn heartbeat(&mut self, worker: usize) {
        let now_us = self.now_us;
        let attempts = self.reports(worker);
        let w = &mut self.workers[worker];
        let incarnation = w.incarnation.to_bytes().to_vec().into();
        let Link::Attached {
            heard_us, sequence, ..
        } = &mut w.link
        else {
            return;
        };
        if now_us >= *heard_us + TIMEOUT_MS * 1000 {
            return self.detach(worker);
        }
        *sequence += 1;
        let said = Said::Heartbeat(Heartbeat {
            incarnation,
            attempts,
            sent_ms: now_us / 1000,
            sequence: *sequence,
        });
        self.send(worker, said);
    }

    fn check_epoch(&mut self, worker: usize, epoch: u64) {
        let seen = self.workers[worker].obeyed;
        if epoch < seen {
            let detail = format!("w{worker} obeys epoch {epoch} after {seen}");
            self.violation("no-older-leader-is-obeyed", detail);
        }
        self.workers[worker].obeyed = seen.max(epoch);
    }

    fn check_attempt(&mut self, worker: usize, job: JobId, attempt: AttemptId) {
        let newest = self.workers[worker].newest.entry(job).or_default();
        let seen = *newest;
        *newest = seen.max(attempt);
        if attempt < seen {
            let detail = format!("w{worker} obeys a command for attempt {attempt} of {job} after {seen}");
            self.violation("no-older-attempt-is-obeyed", detail);
        }
    }

    fn obey(&mut self, worker: usize, body: Body) {
        if !matches!(body, Body::HeartbeatReply(_)) {
            self.note(12, worker as u64, 0, || format!("w{worker} hears {body:?}"));
        }
        match body {
            Body::Welcome(_) | Body::HeartbeatReply(_) | Body::NotLeader(_) => {}
            Body::Refused(_) => {
                self.kill(Proc::Worker(worker));
                self.after(300_000, None, Event::Start(Proc::Worker(worker)));
            }
            Body::Deploy(m) => self.deploy(worker, m),
            Body::Commit(m) => self.commit_sinks(worker, m),
            Body::Start(m) => {
                if let Some(key) = self.current(worker, m.leader_epoch, &m.job_id, m.attempt) {
                    self.workers[worker].ledger.started(key.0, key.1);
                    self.start_tasks(worker, key);
                }
            }
            Body::Trigger(m) => {
                if let Some(key) = self.current(worker, m.leader_epoch, &m.job_id, m.attempt) {
                    let checkpoint = CheckpointId(m.checkpoint);
                    let w = &mut self.workers[worker];
                    if w.triggered.get(&key).is_some_and(|last| *last >= checkpoint) {
                        return;
                    }
                    w.triggered.insert(key, checkpoint);
                    w.ledger.checkpoints_decided(key.0, key.1, checkpoint);
                    self.trigger(worker, key, checkpoint);
                }
            }
            Body::AbortCheckpoint(m) => {
                if let Some(key) = self.current(worker, m.leader_epoch, &m.job_id, m.attempt) {
                    let next = CheckpointId(m.checkpoint + 1);
                    self.workers[worker]
                        .ledger
                        .checkpoints_decided(key.0, key.1, next);
                    self.check_abort(worker, key.0, m.checkpoint);
                    self.abort_checkpoint(worker, key, CheckpointId(m.checkpoint));
                }
            }
            Body::Settled(m) => {
                if let Some(key) = self.current(worker, m.leader_epoch, &m.job_id, m.attempt) {
                    let next = CheckpointId(m.checkpoint + 1);
                    self.workers[worker]
                        .ledger
                        .checkpoints_decided(key.0, key.1, next);
                    self.settle_tasks(worker, key, CheckpointId(m.checkpoint));
                }
            }
            Body::Cancel(m) => {
                let w = &mut self.workers[worker];
                let Ok(job) = JobId::from_bytes(&m.job_id) else {
                    return;
                };
                if w.ledger.obey(LeaderEpoch(m.leader_epoch)).is_err() {
                    return;
                }
                let key = (job, AttemptId(m.attempt));
                let older = w.ledger.cancel(key.0, key.1);
                w.triggered.retain(|(j, a), _| *j != key.0 || *a > key.1);
                self.check_epoch(worker, m.leader_epoch);
                for over in older.into_iter().chain([key.1]) {
                    if !self.workers[worker].deploying.contains(&(key.0, over)) {
                        self.cancel_tasks(worker, (key.0, over));
                    }
                }
            }
        }
    }

    /// The attempt that a command is for, unless it is stale.
    fn current(&mut self, worker: usize, epoch: u64, job: &[u8], attempt: u64) -> Option<AttemptKey> {
        let job = JobId::from_bytes(job).ok()?;
        let key = (job, AttemptId(attempt));
        let w = &mut self.workers[worker];
        w.ledger.obey(LeaderEpoch(epoch)).ok()?;
        w.ledger.require_current(key.0, key.1).ok()?;
        self.check_epoch(worker, epoch);
        self.check_attempt(worker, key.0, key.1);
        Some(key)
    }

    fn deploy(&mut self, worker: usize, command: Deploy) {
        let Ok(job) = JobId::from_bytes(&command.job_id) else {
            return;
        };
        let key = (job, AttemptId(command.attempt));
        let w = &mut self.workers[worker];
        if w.ledger.obey(LeaderEpoch(command.leader_epoch)).is_err() {
            return;
        }
        let Ok(old) = w.ledger.deploy(job, key.1) else {
            return;
        };
        w.triggered.retain(|(j, _), _| *j != job);
        w.deploying.insert(key);
        self.check_epoch(worker, command.leader_epoch);
        self.check_attempt(worker, job, key.1);
        self.count("deployments");
        self.deploy_tasks(worker, key, old, command);
    }

    fn commit_sinks(&mut self, worker: usize, command: Commit) {
        let Ok(job) = JobId::from_bytes(&command.job_id) else {
            return;
        };
        let attempt = AttemptId(command.attempt);
        let w = &mut self.workers[worker];
        if w.ledger.obey(LeaderEpoch(command.leader_epoch)).is_err()
            || w.ledger.require_not_over(job, attempt).is_err()
        {
            return;
        }
        let part = (command.slice, command.slices, command.recover);
        let key = (job, attempt, CheckpointId(command.checkpoint), part);
        if w.committing.insert(key) {
            self.check_epoch(worker, command.leader_epoch);
            self.count("commits");
            self.spawn_commit(worker, key, &command);
        }
    }

    pub(super) fn deployed(
        &mut self,
        worker: usize,
        key: AttemptKey,
        result: Result<Box<Local>, (String, bool)>,
    ) {
        let result = result.map(|local| {
            self.workers[worker].engine.insert(key, *local);
        });
        self.note(13, worker as u64, key.1.0, || {
            format!("w{worker} has built attempt {} of {}", key.1, key.0)
        });
        let w = &mut self.workers[worker];
        w.deploying.remove(&key);
        if w.ledger.require_current(key.0, key.1).is_err() {
            return self.cancel_tasks(worker, key);
        }
        let job_id = key.0.to_bytes().to_vec().into();
        let attempt = key.1.0;
        let said = match result {
            Ok(()) => Said::Deployed(Deployed { job_id, attempt }),
            Err((reason, checkpoint_damaged)) => {
                self.count("failed deployments");
                Said::DeployFailed(DeployFailed {
                    job_id,
                    attempt,
                    reason,
                    checkpoint_damaged,
                })
            }
        };
        self.say(worker, said);
    }

    pub(super) fn committed_sinks(&mut self, worker: usize, key: CommitKey) {
        self.workers[worker].committing.remove(&key);
    }

    pub(super) fn gone(&mut self, worker: usize, job: JobId, attempt: AttemptId) {
        self.note(14, worker as u64, attempt.0, || {
            format!("w{worker} has stopped attempt {attempt} of {job}")
        });
        self.remove_tasks(worker, (job, attempt));
        let said = Said::Cancelled(Cancelled {
            job_id: job.to_bytes().to_vec().into(),
            attempt: attempt.0,
        });
        self.send(worker, said);
    }
}
