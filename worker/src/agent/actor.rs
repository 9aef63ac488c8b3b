//! The agent's loop: obeys the leader, hands the engine's events on, reports, and stays with its tasks while it looks
//! for the next leader.

use super::ledger::Ledger;
use super::link::{Found, MakeRegister, Session, seek};
use super::plans::Plans;
use super::snapshots::{Captured, Origin, declined, make_durable};
use super::uploads::Uploads;
use super::{deploy, run::RunError};
use crate::engine::{Engine, EngineEvent, EngineEvents};
use holdfast_common::clock::{SharedClock, SharedRandom};
use holdfast_common::inject::{self, points};
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, VertexId};
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::worker_message::Body as Said;
use holdfast_proto::control::{
    Cancelled, Heartbeat, Leaving, Register, TaskState, TaskStatus, WorkerMessage,
};
use holdfast_storage::SnapshotStore;
use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// How long a worker that leaves waits for the leader to take note.
const LEAVE_WAIT: Duration = Duration::from_millis(500);

/// A commit's slice, told apart from others that may be under way: with its number, their count, and whether sinks
/// recover.
pub(super) type CommitKey = (JobId, AttemptId, CheckpointId, (u32, u32, bool));

/// What a side task brings back.
pub(super) enum Done {
    /// To be said to the leader, and again to the next one.
    Say(Box<Said>),
    /// A deployment has ended.
    Deployed(JobId, AttemptId, Result<(), deploy::DeployError>),
    /// A commit has ended.
    Committed(CommitKey, Box<Said>),
    /// A sync failed: this process must not say that anything it covered is durable.
    SyncFailed(String),
    /// An attempt's tasks are gone.
    Cancelled(JobId, AttemptId),
}

/// The connection to the leader.
enum Link {
    Seeking(Pin<Box<dyn Future<Output = Found> + Send>>),
    Attached(Box<Attached>),
}

struct Attached {
    session: Session,
    heard: Instant,
    sequence: u64,
    interval: Duration,
    timeout: Duration,
    next_heartbeat: Instant,
}

/// What the registration says and the loop changes.
#[derive(Debug, Default)]
struct Identity {
    cluster: Option<ClusterId>,
    epoch: LeaderEpoch,
}

/// What an agent is made of.
pub struct AgentConfig {
    /// RPC addresses of coordinators.
    pub coordinators: Vec<String>,
    /// The configured name of the cluster.
    pub cluster_name: String,
    /// This worker's stable name.
    pub resource_id: String,
    /// This process.
    pub incarnation: Incarnation,
    /// Slots.
    pub slots: u32,
    /// The worker's own settings; a job's lie on top.
    pub settings: holdfast_common::config::Configuration,
}

/// See the module.
pub struct Agent {
    pub(super) config: Arc<AgentConfig>,
    pub(super) engine: Engine,
    events: EngineEvents,
    pub(super) store: SnapshotStore,
    pub(super) registry: Arc<dyn ConnectorRegistry>,
    pub(super) plans: Plans,
    clock: SharedClock,
    random: SharedRandom,
    pub(super) ledger: Ledger,
    identity: Arc<Mutex<Identity>>,
    link: Link,
    pub(super) tasks: JoinSet<Done>,
    pub(super) deploying: BTreeSet<(JobId, AttemptId)>,
    pub(super) committing: BTreeSet<CommitKey>,
    pub(super) triggered: BTreeMap<(JobId, AttemptId), CheckpointId>,
    pub(super) uploads: Uploads,
}

impl Agent {
    /// An agent over a running engine.
    #[must_use]
    pub fn new(
        config: AgentConfig,
        engine: (Engine, EngineEvents),
        store: SnapshotStore,
        registry: Arc<dyn ConnectorRegistry>,
        plans: Plans,
        clock: SharedClock,
        random: SharedRandom,
    ) -> Self {
        let (engine, events) = engine;
        let mut agent = Self {
            config: Arc::new(config),
            engine,
            events,
            store,
            registry,
            plans,
            clock,
            random,
            ledger: Ledger::default(),
            identity: Arc::default(),
            link: Link::Seeking(Box::pin(pending())),
            tasks: JoinSet::new(),
            deploying: BTreeSet::new(),
            committing: BTreeSet::new(),
            triggered: BTreeMap::new(),
            uploads: Uploads::default(),
        };
        agent.seek();
        agent
    }

    /// Runs until told to stop or refused.
    ///
    /// # Errors
    /// If the cluster does not want this worker, or the engine has stopped.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        tokio::pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => {
                    self.leave().await;
                    return Ok(());
                }
                heard = next_message(&mut self.link) => match heard {
                    Heard::Found(Found::Leader(session)) => self.attach(*session),
                    Heard::Found(Found::Refused(reason)) => {
                        self.stop_all().await;
                        return Err(RunError::Refused(reason));
                    }
                    Heard::Message(body) => {
                        if let Some(reason) = self.obey(*body) {
                            self.stop_all().await;
                            return Err(RunError::Refused(reason));
                        }
                    }
                    Heard::Lost(reason) => self.detach(&reason),
                    Heard::HeartbeatDue => self.heartbeat(),
                },
                event = self.events.recv() => match event {
                    Some(event) => self.on_engine(event),
                    None => return Err(RunError::Engine("its threads have stopped".to_owned())),
                },
                Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                    Ok(Done::SyncFailed(reason)) => {
                        tracing::error!(reason, "a sync failed; the process ends");
                        return Err(RunError::Sync(reason));
                    }
                    Ok(done) => self.on_done(done),
                    Err(error) => return Err(RunError::Engine(format!("a task of the agent broke: {error}"))),
                },
            }
        }
    }

    fn seek(&mut self) {
        let register = self.make_register();
        let seen = self.ledger.epoch();
        let coordinators = self.config.coordinators.clone();
        self.link = Link::Seeking(Box::pin(seek(coordinators, register, seen, self.random.clone())));
    }

    fn make_register(&self) -> MakeRegister {
        let (config, engine) = (Arc::clone(&self.config), self.engine.clone());
        let identity = Arc::clone(&self.identity);
        Arc::new(move || {
            let (cluster, epoch) = {
                let identity = identity.lock().unwrap_or_else(PoisonError::into_inner);
                (identity.cluster, identity.epoch)
            };
            Register {
                cluster_name: config.cluster_name.clone(),
                cluster_id: cluster.map(|c| c.to_bytes().to_vec()).unwrap_or_default().into(),
                resource_id: config.resource_id.clone(),
                incarnation: config.incarnation.to_bytes().to_vec().into(),
                data_addr: engine.data_addr(),
                slots: config.slots,
                version: super::run::VERSION.to_owned(),
                pid: std::process::id(),
                attempts: engine.report(),
                leader_epoch_seen: epoch.0,
            }
        })
    }

    fn attach(&mut self, session: Session) {
        let welcome = &session.welcome;
        let epoch = LeaderEpoch(welcome.leader_epoch);
        let cluster = ClusterId::from_bytes(&welcome.cluster_id).ok();
        if self.ledger.obey(epoch).is_err() || cluster.is_none() {
            return self.detach("its greeting makes no sense");
        }
        {
            let mut identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
            identity.cluster = cluster;
            identity.epoch = epoch;
        }
        tracing::info!(
            leader = welcome.leader_id,
            addr = session.addr,
            %epoch,
            "attached to the leader"
        );
        let interval = Duration::from_millis(welcome.heartbeat_interval_ms.clamp(10, 60_000));
        let timeout = Duration::from_millis(welcome.heartbeat_timeout_ms.clamp(20, 600_000));
        let now = Instant::now();
        self.link = Link::Attached(Box::new(Attached {
            session,
            heard: now,
            sequence: 0,
            interval,
            timeout,
            next_heartbeat: now + interval,
        }));
        let again: Vec<Said> = self.ledger.to_repeat().cloned().collect();
        for body in again {
            self.send(body);
        }
    }

    fn detach(&mut self, reason: &str) {
        if let Link::Attached(attached) = &self.link {
            inject::pass(points::WORKER_REATTACH);
            tracing::warn!(
                addr = attached.session.addr,
                reason,
                "the leader is lost; tasks run on"
            );
        }
        self.seek();
    }

    /// Says something to the leader, if there is one.
    fn send(&mut self, body: Said) {
        let Link::Attached(attached) = &mut self.link else {
            return;
        };
        let message = WorkerMessage { body: Some(body) };
        if attached.session.outgoing.try_send(message).is_err() {
            self.detach("it does not take messages");
        }
    }

    /// Says something that the next leader has to hear if this one does not.
    fn say(&mut self, body: Said) {
        self.ledger.keep(&body);
        self.send(body);
    }

    fn heartbeat(&mut self) {
        let now = Instant::now();
        let sent_ms = self.clock.now_ms();
        let attempts = self.engine.report();
        let Link::Attached(attached) = &mut self.link else {
            return;
        };
        if now.duration_since(attached.heard) >= attached.timeout {
            let reason = format!("nothing was heard of it for {} ms", attached.timeout.as_millis());
            return self.detach(&reason);
        }
        attached.sequence += 1;
        attached.next_heartbeat = now + attached.interval;
        let body = Said::Heartbeat(Heartbeat {
            incarnation: self.config.incarnation.to_bytes().to_vec().into(),
            attempts,
            sent_ms,
            sequence: attached.sequence,
        });
        self.send(body);
    }

    fn on_engine(&mut self, event: EngineEvent) {
        match event {
            EngineEvent::TaskStatus {
                job,
                attempt,
                vertex,
                subtask,
                status,
                error,
            } => self.task_changed((job, attempt, vertex, subtask), status, error.unwrap_or_default()),
            EngineEvent::Snapshot {
                job,
                attempt,
                checkpoint,
                vertex,
                subtask,
                state,
                prepares,
                pending,
                sync_us,
                alignment_ms,
            } => {
                let origin = Origin {
                    job,
                    attempt,
                    checkpoint,
                    vertex,
                    subtask,
                };
                self.make_durable(Captured {
                    origin,
                    state,
                    prepares,
                    pending,
                    sync_us,
                    alignment_ms,
                });
            }
            EngineEvent::Declined {
                job,
                attempt,
                checkpoint,
                vertex,
                subtask,
                reason,
            } => {
                let origin = Origin {
                    job,
                    attempt,
                    checkpoint,
                    vertex,
                    subtask,
                };
                self.say(declined(origin, reason));
            }
        }
    }

    /// Failures are said until somebody has heard them; the rest the next heartbeat tells too.
    fn task_changed(
        &mut self,
        (job, attempt, vertex, subtask): (JobId, AttemptId, VertexId, u32),
        status: TaskStatus,
        error: String,
    ) {
        let failed = status == TaskStatus::Failed;
        if failed {
            tracing::warn!(%job, %attempt, %vertex, subtask, error, "task has failed");
        } else {
            tracing::debug!(%job, %attempt, %vertex, subtask, status = status.as_str_name(), "task");
        }
        let body = Said::TaskState(TaskState {
            job_id: job.to_bytes().to_vec().into(),
            attempt: attempt.0,
            vertex: vertex.0,
            subtask,
            status: status.into(),
            permanent: false,
            error,
        });
        if status == TaskStatus::Finished {
            // The last counters of a short job would otherwise never be heard.
            self.heartbeat();
        }
        if failed { self.say(body) } else { self.send(body) }
    }

    fn make_durable(&mut self, captured: Captured) {
        let cluster = {
            let identity = self.identity.lock().unwrap_or_else(PoisonError::into_inner);
            identity.cluster
        };
        // A task runs only after a leader has named the cluster.
        let Some(cluster) = cluster else {
            return self.say(declined(
                captured.origin,
                "the cluster's identity is not known".to_owned(),
            ));
        };
        let (engine, store) = (self.engine.clone(), self.store.clone());
        let Origin { job, attempt, .. } = captured.origin;
        let over = self.uploads.token(&self.ledger, job, attempt);
        self.tasks.spawn(async move {
            let body = make_durable(engine, store, cluster, captured, over).await;
            Done::Say(Box::new(body))
        });
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Say(body) => self.say(*body),
            // The loop has ended on it.
            Done::SyncFailed(_) => {}
            Done::Committed(key, body) => {
                self.committing.remove(&key);
                self.say(*body);
            }
            Done::Cancelled(job, attempt) => self.send(Said::Cancelled(Cancelled {
                job_id: job.to_bytes().to_vec().into(),
                attempt: attempt.0,
            })),
            Done::Deployed(job, attempt, result) => {
                self.deploying.remove(&(job, attempt));
                if self.ledger.require_current(job, attempt).is_err() {
                    return self.spawn_cancel(job, attempt);
                }
                if let Err(error) = &result {
                    tracing::warn!(%job, %attempt, reason = error.reason, "deployment has failed");
                }
                self.say(deploy::answer(job, attempt, result));
            }
        }
    }

    /// Stops in order: the leader learns at once that the tasks are gone.
    async fn leave(&mut self) {
        tracing::info!("worker is leaving");
        self.send(Said::Leaving(Leaving {
            reason: "the process was told to stop".to_owned(),
        }));
        if let Link::Attached(attached) = &mut self.link {
            let closed = async { while let Ok(Some(_)) = attached.session.incoming.message().await {} };
            let _ = tokio::time::timeout(LEAVE_WAIT, closed).await;
        }
        self.stop_all().await;
    }

    async fn stop_all(&mut self) {
        let mut stopping = JoinSet::new();
        for (job, attempt) in self.ledger.running() {
            let engine = self.engine.clone();
            stopping.spawn(async move { engine.cancel(job, attempt).await });
        }
        while stopping.join_next().await.is_some() {}
        self.tasks.abort_all();
    }
}

/// What the link brings.
enum Heard {
    Found(Found),
    Message(Box<Body>),
    Lost(String),
    HeartbeatDue,
}

async fn next_message(link: &mut Link) -> Heard {
    match link {
        Link::Seeking(search) => Heard::Found(search.await),
        Link::Attached(attached) => {
            tokio::select! {
                biased;
                message = attached.session.incoming.message() => {
                    attached.heard = Instant::now();
                    match message {
                        Ok(Some(message)) => match message.body {
                            Some(body) => Heard::Message(Box::new(body)),
                            None => Heard::Lost("a message without a body".to_owned()),
                        },
                        Ok(None) => Heard::Lost("it has ended the stream".to_owned()),
                        Err(status) => Heard::Lost(status.to_string()),
                    }
                }
                () = tokio::time::sleep_until(attached.next_heartbeat) => Heard::HeartbeatDue,
            }
        }
    }
}
