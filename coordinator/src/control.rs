//! The service that workers attach to. It checks who comes, and hops to the leader's services by channel; on a
//! coordinator that does not lead it says who does. Knows nothing of jobs.

use crate::leader::input::{Hello, Input, SessionId};
use crate::leader::log::ReplicatedLog;
use crate::leader::wire;
use futures::Stream;
use holdfast_common::ClusterId;
use holdfast_common::limits::{RPC_DEADLINE, RPC_MESSAGE_BYTES_MAX, WORKER_QUEUE_MAX};
use holdfast_proto::control::control_server::{Control, ControlServer};
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::worker_message::Body as WorkerBody;
use holdfast_proto::control::{CoordinatorMessage, NotLeader, Refused, Register, WorkerMessage};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// This build. Workers of another one are refused: both sides plan the same SQL and must reach the same plan.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The leader's end of a worker's stream; dropping it ends the stream after what was sent.
pub type Outgoing = mpsc::Sender<Result<CoordinatorMessage, Status>>;

/// What reaches the leader's services from outside.
#[derive(Debug)]
pub enum Event {
    /// A worker has registered.
    Attached {
        /// Who.
        hello: Box<Hello>,
        /// To it.
        outgoing: Outgoing,
    },
    /// Anything else.
    Input(Input),
}

/// The services that run now.
#[derive(Debug, Clone)]
pub struct Active {
    /// The cluster.
    pub cluster: ClusterId,
    /// Where events go.
    pub events: mpsc::Sender<Event>,
}

/// Between the service and whoever leads: set while this coordinator leads and has claimed its epoch.
#[derive(Clone)]
pub struct Hub {
    active: Arc<watch::Sender<Option<Active>>>,
    next_session: Arc<AtomicU64>,
    cluster_name: Arc<str>,
    log: Arc<OnceLock<Arc<dyn ReplicatedLog>>>,
}

impl Hub {
    /// Nobody leads here yet.
    #[must_use]
    pub fn new(cluster_name: &str) -> Self {
        Self {
            active: Arc::new(watch::Sender::new(None)),
            next_session: Arc::new(AtomicU64::new(1)),
            cluster_name: cluster_name.into(),
            log: Arc::new(OnceLock::new()),
        }
    }

    /// From now on the log tells who leads.
    pub fn set_log(&self, log: Arc<dyn ReplicatedLog>) {
        let _ = self.log.set(log);
    }

    /// Services begin or end.
    pub fn set_active(&self, active: Option<Active>) {
        self.active.send_replace(active);
    }

    /// The gRPC service.
    #[must_use]
    pub fn service(&self) -> ControlServer<ControlService> {
        ControlServer::new(ControlService { hub: self.clone() })
            .max_decoding_message_size(RPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(RPC_MESSAGE_BYTES_MAX)
    }

    fn not_leader(&self) -> NotLeader {
        let Some(log) = self.log.get() else {
            return NotLeader::default();
        };
        let leadership = log.watch_leadership().borrow().clone();
        // A leader that has not claimed its epoch yet sends nobody elsewhere: the worker tries again shortly.
        match leadership.leader.filter(|_| !leadership.is_leader) {
            Some(leader) => NotLeader {
                leader_id: leader.0,
                leader_rpc: log.rpc_of(leader).unwrap_or_default(),
            },
            None => NotLeader::default(),
        }
    }

    /// Why a worker must not come back as it is.
    fn refusal(&self, register: &Register, cluster: ClusterId) -> Option<String> {
        if register.cluster_name != *self.cluster_name {
            return Some(format!(
                "this is cluster '{}', the worker belongs to '{}' (high-availability.cluster-id)",
                self.cluster_name, register.cluster_name
            ));
        }
        if !register.cluster_id.is_empty() && register.cluster_id[..] != cluster.to_bytes() {
            return Some(format!(
                "this cluster '{}' has another identity than the one that the worker was attached to",
                self.cluster_name
            ));
        }
        if register.version != VERSION {
            return Some(format!(
                "the coordinators are of version {VERSION}, the worker of version {}",
                register.version
            ));
        }
        None
    }
}

/// The gRPC side of [`Hub`].
#[derive(Clone)]
pub struct ControlService {
    hub: Hub,
}

type Messages = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

#[tonic::async_trait]
impl Control for ControlService {
    type AttachStream = Messages;

    async fn attach(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let mut stream = request.into_inner();
        let first = tokio::time::timeout(RPC_DEADLINE, stream.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no registration came"))??;
        let Some(WorkerBody::Register(register)) = first.and_then(|m| m.body) else {
            return Err(Status::invalid_argument(
                "the first message must be a registration",
            ));
        };
        let active = self.hub.active.borrow().clone();
        let Some(active) = active else {
            return Ok(one(Body::NotLeader(self.hub.not_leader())));
        };
        if let Some(reason) = self.hub.refusal(&register, active.cluster) {
            tracing::warn!(worker = register.resource_id, reason, "worker is refused");
            return Ok(one(Body::Refused(Refused { reason })));
        }
        let session = self.hub.next_session.fetch_add(1, Ordering::Relaxed);
        let hello =
            wire::hello(session, register).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let (outgoing, messages) = mpsc::channel(WORKER_QUEUE_MAX);
        let event = Event::Attached {
            hello: Box::new(hello),
            outgoing,
        };
        if active.events.send_timeout(event, RPC_DEADLINE).await.is_err() {
            return Ok(one(Body::NotLeader(self.hub.not_leader())));
        }
        tokio::spawn(forward(session, stream, active.events));
        Ok(Response::new(Box::pin(ReceiverStream::new(messages))))
    }
}

fn one(body: Body) -> Response<Messages> {
    let message = CoordinatorMessage { body: Some(body) };
    Response::new(Box::pin(tokio_stream::iter([Ok(message)])))
}

/// Hands a worker's messages on until its stream or the services end.
async fn forward(session: SessionId, mut stream: Streaming<WorkerMessage>, events: mpsc::Sender<Event>) {
    loop {
        let message = tokio::select! {
            message = stream.message() => message,
            () = events.closed() => return,
        };
        let message = match message {
            Ok(Some(message)) => message,
            Ok(None) => break,
            Err(status) => {
                tracing::debug!(session, %status, "a worker's stream broke");
                break;
            }
        };
        match wire::message(message) {
            Ok(message) => {
                let input = Input::Message {
                    session,
                    message: Box::new(message),
                };
                if events.send(Event::Input(input)).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(session, %error, "a worker's stream is ended");
                break;
            }
        }
    }
    let _ = events.send(Event::Input(Input::Closed { session })).await;
}
