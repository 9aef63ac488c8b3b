//! Stand-ins for what the services reach outside: a log in memory, storage that can be switched off, a worker that
//! attaches over gRPC and does what it is told.

use crate::leader::log::ReplicatedLog;
use crate::leader::ports::{Planner, Snapshots};
use crate::leader::shape::{Shape, VertexShape};
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_common::{JobId, NodeId, VertexId};
use holdfast_machine::command::Proposal;
use holdfast_machine::state::{Job, State};
use holdfast_proto::control::control_client::ControlClient;
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::worker_message::Body as Said;
use holdfast_proto::control::{
    Ack, AttemptReport, Cancelled, CommitDone, DeployFailed, Deployed, Heartbeat, Register, TaskReport,
    TaskStatus, WorkerMessage,
};
use holdfast_proto::snapshot::{Committable, SinkCommittables};
use holdfast_raft::{Applied, Leadership, ProposeError};
use holdfast_storage::StorageError;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

/// A log of one.
pub struct MemLog {
    state: Mutex<Arc<State>>,
    applied: watch::Sender<u64>,
    leadership: watch::Sender<Leadership>,
}

impl MemLog {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            applied: watch::Sender::new(0),
            leadership: watch::Sender::new(Leadership::default()),
        })
    }

    pub fn lead(&self, quorum_ok: bool) {
        self.leadership.send_modify(|l| {
            l.term += u64::from(!l.is_leader);
            l.is_leader = true;
            l.leader = Some(NodeId(1));
            l.quorum_ok = quorum_ok;
        });
    }
}

#[async_trait]
impl ReplicatedLog for MemLog {
    async fn propose(&self, proposal: Proposal) -> Result<Applied, ProposeError> {
        if !self.leadership.borrow().quorum_ok {
            return Err(ProposeError::Unknown("no quorum".into()));
        }
        let (index, response) = {
            let mut state = self.state.lock().unwrap();
            let mut next = State::clone(&state);
            let index = next.applied + 1;
            let response = next.apply(index, &proposal);
            *state = Arc::new(next);
            (index, response)
        };
        self.applied.send_replace(index);
        Ok(Applied { index, response })
    }

    async fn read_index(&self) -> Result<u64, ProposeError> {
        Ok(self.state().applied)
    }

    fn state(&self) -> Arc<State> {
        Arc::clone(&self.state.lock().unwrap())
    }

    fn watch_applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn rpc_of(&self, _: NodeId) -> Option<String> {
        Some("127.0.0.1:1".into())
    }
}

/// Objects in memory.
#[derive(Default)]
pub struct MemStore {
    pub objects: Mutex<BTreeMap<String, Bytes>>,
    pub down: AtomicBool,
}

impl MemStore {
    fn check(&self) -> Result<(), StorageError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(StorageError::Unavailable("switched off".into()));
        }
        Ok(())
    }
}

#[async_trait]
impl Snapshots for MemStore {
    async fn put_new(&self, path: &str, body: Bytes) -> Result<(), StorageError> {
        self.check()?;
        self.objects.lock().unwrap().insert(path.to_owned(), body);
        Ok(())
    }

    async fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.check()?;
        let objects = self.objects.lock().unwrap();
        objects
            .get(path)
            .cloned()
            .ok_or_else(|| StorageError::NotFound(path.to_owned()))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        self.check()?;
        let objects = self.objects.lock().unwrap();
        Ok(objects
            .keys()
            .filter(|k| k.starts_with(prefix))
            .cloned()
            .collect())
    }

    async fn delete(&self, paths: Vec<String>) -> Result<(), StorageError> {
        self.check()?;
        let mut objects = self.objects.lock().unwrap();
        for path in paths {
            objects.remove(&path);
        }
        Ok(())
    }
}

/// Two vertices, one as wide as the job.
pub struct FixedPlan;

impl Planner for FixedPlan {
    fn shape(&self, job: &Job) -> Result<Shape, String> {
        Ok(Shape {
            fingerprint: job.fingerprint.clone(),
            max_parallelism: job.max_parallelism,
            vertices: (0..2)
                .map(|v| VertexShape {
                    id: VertexId(v),
                    name: format!("v{v}"),
                    parallelism: if v == 0 { job.parallelism } else { 1 },
                    operator_uids: vec![format!("op{v}")],
                })
                .collect(),
        })
    }
}

/// A worker's share of an attempt: its tasks, and whether they were started.
type Share = (BTreeSet<(u32, u32)>, bool);

/// What a remote worker runs, shared with the test.
#[derive(Default)]
pub struct Running {
    pub attempts: BTreeMap<(JobId, u64), Share>,
    /// Attempts whose restored checkpoint this worker calls damaged.
    pub damaged_checkpoints: BTreeSet<u64>,
    pub commits: BTreeSet<u64>,
    pub refused: Option<String>,
    pub not_leader: u32,
}

/// Rows that a finished task reports; before its end it reports one.
pub const LAST_COUNT: u64 = 1000;

/// A worker that attaches over gRPC.
pub struct RemoteWorker {
    pub running: Arc<Mutex<Running>>,
    pub ends: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
    /// Stands for the data port: closed when the process dies.
    listener: Option<tokio::net::TcpListener>,
}

impl RemoteWorker {
    pub async fn start(coordinator: String, register: Register, store: Arc<MemStore>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let register = Register {
            data_addr: listener.local_addr().unwrap().to_string(),
            ..register
        };
        let running = Arc::<Mutex<Running>>::default();
        let ends = Arc::<AtomicBool>::default();
        let task = tokio::spawn(follow(
            coordinator,
            register,
            running.clone(),
            ends.clone(),
            store,
        ));
        Self {
            running,
            ends,
            task,
            listener: Some(listener),
        }
    }

    pub fn kill(&mut self) {
        self.listener = None;
        self.task.abort();
    }
}

async fn follow(
    coordinator: String,
    register: Register,
    running: Arc<Mutex<Running>>,
    ends: Arc<AtomicBool>,
    store: Arc<MemStore>,
) {
    loop {
        let attached = attach(&coordinator, &register, &running, &ends, &store).await;
        if attached.is_none() && running.lock().unwrap().refused.is_some() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn attach(
    coordinator: &str,
    register: &Register,
    running: &Mutex<Running>,
    ends: &AtomicBool,
    store: &MemStore,
) -> Option<()> {
    let mut client = ControlClient::connect(format!("http://{coordinator}"))
        .await
        .ok()?;
    let (say, messages) = mpsc::channel(1000);
    let hello = Register {
        attempts: reports(running, ends),
        ..register.clone()
    };
    send(&say, Said::Register(hello)).await;
    let mut heard = client
        .attach(ReceiverStream::new(messages))
        .await
        .ok()?
        .into_inner();
    let mut beat = tokio::time::interval(Duration::from_millis(50));
    loop {
        let body = tokio::select! {
            message = heard.message() => message.ok()??.body?,
            _ = beat.tick() => {
                let body = Said::Heartbeat(Heartbeat { attempts: reports(running, ends), ..Heartbeat::default() });
                send(&say, body).await;
                continue;
            }
        };
        for said in obey(body, &register.incarnation, running, store) {
            send(&say, said).await;
        }
    }
}

async fn send(say: &mpsc::Sender<WorkerMessage>, body: Said) {
    let _ = say.send(WorkerMessage { body: Some(body) }).await;
}

fn reports(running: &Mutex<Running>, ends: &AtomicBool) -> Vec<AttemptReport> {
    let status = |started: bool| match (started, ends.load(Ordering::SeqCst)) {
        (false, _) => TaskStatus::Initializing,
        (true, false) => TaskStatus::Running,
        (true, true) => TaskStatus::Finished,
    };
    let running = running.lock().unwrap();
    let attempts = running.attempts.iter();
    attempts
        .map(|((job, attempt), (tasks, started))| AttemptReport {
            job_id: job.to_bytes().to_vec().into(),
            attempt: *attempt,
            started: *started,
            tasks: tasks
                .iter()
                .map(|(vertex, subtask)| TaskReport {
                    vertex: *vertex,
                    subtask: *subtask,
                    status: status(*started).into(),
                    records_in: if ends.load(Ordering::SeqCst) {
                        LAST_COUNT
                    } else {
                        1
                    },
                    ..TaskReport::default()
                })
                .collect(),
            ..AttemptReport::default()
        })
        .collect()
}

fn obey(body: Body, own: &Bytes, running: &Mutex<Running>, store: &MemStore) -> Vec<Said> {
    let mut running = running.lock().unwrap();
    match body {
        Body::Refused(m) => {
            running.refused = Some(m.reason);
            Vec::new()
        }
        Body::NotLeader(_) => {
            running.not_leader += 1;
            Vec::new()
        }
        Body::Deploy(m) => {
            let restored = m.restore.as_ref().map_or(0, |r| r.checkpoint);
            if running.damaged_checkpoints.contains(&restored) {
                return vec![Said::DeployFailed(DeployFailed {
                    job_id: m.job_id,
                    attempt: m.attempt,
                    reason: "checksum".into(),
                    checkpoint_damaged: true,
                })];
            }
            let mut tasks = BTreeSet::new();
            for (i, slot) in (0u32..).zip(&m.slots) {
                if slot.incarnation == *own {
                    tasks.insert((0, i));
                    if i == 0 {
                        tasks.insert((1, 0));
                    }
                }
            }
            let job = JobId::from_bytes(&m.job_id).unwrap();
            running.attempts.insert((job, m.attempt), (tasks, false));
            vec![Said::Deployed(Deployed {
                job_id: m.job_id,
                attempt: m.attempt,
            })]
        }
        Body::Start(m) => {
            let job = JobId::from_bytes(&m.job_id).unwrap();
            if let Some(attempt) = running.attempts.get_mut(&(job, m.attempt)) {
                attempt.1 = true;
            }
            Vec::new()
        }
        Body::Trigger(m) => {
            let job = JobId::from_bytes(&m.job_id).unwrap();
            let Some((tasks, _)) = running.attempts.get(&(job, m.attempt)) else {
                return Vec::new();
            };
            if store.down.load(Ordering::SeqCst) {
                return tasks
                    .iter()
                    .map(|(vertex, subtask)| {
                        Said::Declined(holdfast_proto::control::Declined {
                            job_id: m.job_id.clone(),
                            attempt: m.attempt,
                            checkpoint: m.checkpoint,
                            vertex: *vertex,
                            subtask: *subtask,
                            reason: "storage".into(),
                        })
                    })
                    .collect();
            }
            tasks
                .iter()
                .map(|(vertex, subtask)| {
                    Said::Ack(Ack {
                        job_id: m.job_id.clone(),
                        attempt: m.attempt,
                        checkpoint: m.checkpoint,
                        vertex: *vertex,
                        subtask: *subtask,
                        committables: vec![SinkCommittables {
                            uid: "sink".into(),
                            committables: vec![Committable::default()],
                        }],
                        ..Ack::default()
                    })
                })
                .collect()
        }
        Body::Cancel(m) => {
            let job = JobId::from_bytes(&m.job_id).unwrap();
            running.attempts.remove(&(job, m.attempt));
            vec![Said::Cancelled(Cancelled {
                job_id: m.job_id,
                attempt: m.attempt,
            })]
        }
        Body::Commit(m) => {
            running.commits.insert(m.checkpoint);
            vec![Said::CommitDone(CommitDone {
                job_id: m.job_id,
                attempt: m.attempt,
                checkpoint: m.checkpoint,
                slice: m.slice,
                slices: m.slices,
                recover: m.recover,
            })]
        }
        _ => Vec::new(),
    }
}
