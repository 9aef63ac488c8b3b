//! Finds the leader through any coordinator and attaches to it. All known coordinators are asked at the same time, each
//! at its own pace, so that one that does not answer holds up nobody.

use holdfast_common::LeaderEpoch;
use holdfast_common::clock::SharedRandom;
use holdfast_common::inject::{self, points};
use holdfast_common::limits::{CONNECT_DEADLINE, RPC_DEADLINE, RPC_MESSAGE_BYTES_MAX, WORKER_QUEUE_MAX};
use holdfast_proto::control::control_client::ControlClient;
use holdfast_proto::control::coordinator_message::Body;
use holdfast_proto::control::worker_message::Body as WorkerBody;
use holdfast_proto::control::{CoordinatorMessage, Register, Welcome, WorkerMessage};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// Shortest and longest wait before a coordinator is asked again.
const RETRY_MS: (u64, u64) = (20, 50);
/// After so many tries in vain the waits are ten times as long.
const PATIENT_AFTER: u32 = 200;
/// Coordinators that hints may add to those configured.
const COORDINATORS_MAX: usize = 32;

/// Makes the registration that fits the moment.
pub type MakeRegister = Arc<dyn Fn() -> Register + Send + Sync>;

/// An open stream to the leader.
pub struct Session {
    /// Its greeting.
    pub welcome: Welcome,
    /// Which coordinator.
    pub addr: String,
    /// To the leader.
    pub outgoing: mpsc::Sender<WorkerMessage>,
    /// From the leader.
    pub incoming: Streaming<CoordinatorMessage>,
}

/// How a search ended.
pub enum Found {
    /// With the leader.
    Leader(Box<Session>),
    /// With a coordinator that does not want this worker.
    Refused(String),
}

/// What one question to one coordinator brought.
enum Answer {
    Leader(Box<Session>),
    Refused(String),
    /// It does not lead; perhaps it knows who does.
    Elsewhere(Option<String>),
    /// It did not answer.
    Silent(String),
}

/// What a coordinator's own search reports.
enum Report {
    Found(Found),
    Hint(String),
}

/// Searches until there is a leader that is not older than `seen`.
pub async fn seek(
    coordinators: Vec<String>,
    register: MakeRegister,
    seen: LeaderEpoch,
    random: SharedRandom,
) -> Found {
    let (reports, mut inbox) = mpsc::channel(COORDINATORS_MAX);
    let mut known: BTreeSet<String> = BTreeSet::new();
    let mut tasks = JoinSet::new();
    for addr in coordinators {
        if known.insert(addr.clone()) {
            tasks.spawn(ask_for_ever(
                addr,
                register.clone(),
                seen,
                random.clone(),
                reports.clone(),
            ));
        }
    }
    // This function holds a sender, so the inbox never ends; dropping `tasks` ends all searches.
    loop {
        match inbox.recv().await {
            Some(Report::Found(found)) => return found,
            Some(Report::Hint(addr)) => {
                if known.len() < COORDINATORS_MAX && known.insert(addr.clone()) {
                    tasks.spawn(ask_for_ever(
                        addr,
                        register.clone(),
                        seen,
                        random.clone(),
                        reports.clone(),
                    ));
                }
            }
            None => tokio::time::sleep(Duration::from_millis(RETRY_MS.1)).await,
        }
    }
}

async fn ask_for_ever(
    addr: String,
    register: MakeRegister,
    seen: LeaderEpoch,
    random: SharedRandom,
    reports: mpsc::Sender<Report>,
) {
    let Some(channel) = channel(&addr) else {
        tracing::error!(addr, "this is no address of a coordinator; expected host:port");
        return;
    };
    let mut tries: u32 = 0;
    let mut trouble = String::new();
    loop {
        let report = match ask(&addr, channel.clone(), register(), seen).await {
            Answer::Leader(session) => Some(Report::Found(Found::Leader(session))),
            Answer::Refused(reason) => Some(Report::Found(Found::Refused(reason))),
            Answer::Elsewhere(hint) => hint.filter(|h| *h != addr).map(Report::Hint),
            Answer::Silent(reason) => {
                if reason != trouble {
                    tracing::debug!(addr, reason, "coordinator does not answer");
                    trouble = reason;
                }
                None
            }
        };
        let is_end = matches!(report, Some(Report::Found(_)));
        if let Some(report) = report
            && reports.send(report).await.is_err()
        {
            return;
        }
        if is_end {
            return;
        }
        tries = tries.saturating_add(1);
        let (least, most) = RETRY_MS;
        let factor = if tries > PATIENT_AFTER { 10 } else { 1 };
        let wait_ms = (least + random.next_u64() % (most - least + 1)) * factor;
        tokio::time::sleep(Duration::from_millis(wait_ms)).await;
    }
}

async fn ask(addr: &str, channel: Channel, register: Register, seen: LeaderEpoch) -> Answer {
    inject::pass(points::WORKER_REGISTER);
    let (outgoing, messages) = mpsc::channel(WORKER_QUEUE_MAX);
    let first = WorkerMessage {
        body: Some(WorkerBody::Register(register)),
    };
    if outgoing.try_send(first).is_err() {
        return Answer::Silent("its queue is closed".to_owned());
    }
    let mut client = ControlClient::new(channel)
        .max_decoding_message_size(RPC_MESSAGE_BYTES_MAX)
        .max_encoding_message_size(RPC_MESSAGE_BYTES_MAX);
    let greeting = async {
        let mut incoming = client.attach(ReceiverStream::new(messages)).await?.into_inner();
        let first = incoming.message().await?;
        Ok::<_, tonic::Status>((incoming, first))
    };
    let (incoming, first) = match tokio::time::timeout(RPC_DEADLINE, greeting).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(status)) => return Answer::Silent(status.to_string()),
        Err(_) => return Answer::Silent(format!("no answer within {} s", RPC_DEADLINE.as_secs())),
    };
    match first.and_then(|m| m.body) {
        Some(Body::Welcome(welcome)) if welcome.leader_epoch >= seen.0 => Answer::Leader(Box::new(Session {
            welcome,
            addr: addr.to_owned(),
            outgoing,
            incoming,
        })),
        Some(Body::Welcome(old)) => Answer::Silent(format!(
            "it leads by epoch {}, and {seen} was obeyed before",
            old.leader_epoch
        )),
        Some(Body::NotLeader(hint)) => {
            Answer::Elsewhere(Some(hint.leader_rpc).filter(|addr| !addr.is_empty()))
        }
        Some(Body::Refused(refused)) => Answer::Refused(refused.reason),
        Some(_) | None => Answer::Silent("it did not greet".to_owned()),
    }
}

fn channel(addr: &str) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).ok()?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true)
        .keep_alive_while_idle(true)
        .http2_keep_alive_interval(RPC_DEADLINE)
        .keep_alive_timeout(RPC_DEADLINE);
    Some(holdfast_runtime::channel(&endpoint))
}
