//! openraft's messages on their way out.

use super::piggyback::Piggyback;
use super::{Lane, Peers};
use crate::api::RaftConfig;
use crate::codec::{
    WireError, append_result_from, append_to, meta_to, transfer_to, vote_from, vote_request_to,
    vote_response_from, vote_to,
};
use crate::core::caller;
use crate::identity::Identity;
use crate::types::{NodeInfo, Snapshot, TypeConfig, Vote};
use futures::{Stream, StreamExt};
use holdfast_proto::raft as pb;
use holdfast_proto::raft::raft_client::RaftClient;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use openraft::{OptionalSend, OptionalSync};
use prost::bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

/// A log stream on which a request has no answer for this long is dead. Twice this at most passes before it is seen.
const STREAM_IDLE: Duration = Duration::from_millis(1000);
/// A whole snapshot, on a slow network.
const SNAPSHOT_DEADLINE: Duration = Duration::from_secs(120);
/// One message of a snapshot.
const CHUNK_BYTES: usize = 1 << 20;

/// Makes the clients that openraft asks for.
#[derive(Clone)]
pub(crate) struct NetworkFactory {
    pub(crate) config: Arc<RaftConfig>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) peers: Arc<Peers>,
    /// The newest term for which this coordinator has asked to be elected.
    pub(crate) asked_for: Arc<AtomicU64>,
}

impl NetworkFactory {
    /// Stamps the beginning of a candidacy, once per term: the moment at which the leader is taken for dead.
    fn note_candidacy(&self, term: u64) {
        if self.asked_for.fetch_max(term, Ordering::Relaxed) < term {
            tracing::info!(term, "asks for votes");
        }
    }

    fn network(&self, target: u64, node: &NodeInfo, lane: Lane) -> Network {
        let addr = self.peers.addr(target, &node.rpc);
        Network {
            factory: self.clone(),
            target,
            node: node.clone(),
            addr,
            lane,
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for NetworkFactory {
    type Network = Network;

    async fn new_client(&mut self, target: u64, node: &NodeInfo) -> Network {
        self.network(target, node, Lane::Append)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &NodeInfo) -> Network {
        self.network(target, node, Lane::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &NodeInfo) -> Network {
        self.network(target, node, Lane::Snapshot)
    }
}

/// A way to one coordinator.
pub(crate) struct Network {
    factory: NetworkFactory,
    target: u64,
    node: NodeInfo,
    addr: String,
    lane: Lane,
}

type Rpc<T> = Result<T, RPCError<TypeConfig>>;

impl Network {
    fn client(&self) -> Rpc<RaftClient<Channel>> {
        #[cfg(test)]
        if self.factory.peers.cut.lock().contains(&self.target) {
            return Err(RPCError::Network(NetworkError::from_string("this link is cut")));
        }
        self.factory
            .peers
            .client(&self.addr, self.lane)
            .map_err(|text| RPCError::Unreachable(Unreachable::from_string(text)))
    }

    fn caller(&self) -> pb::Caller {
        caller(
            &self.factory.config,
            &self.factory.identity,
            self.target,
            self.node.dir,
        )
    }

    /// One call with a deadline; a connection on which it passes is thrown away.
    async fn call<T>(
        &self,
        action: RPCTypes,
        deadline: Duration,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Rpc<T> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(rpc_error(self.target, &status)),
            Err(_) => {
                self.factory.peers.discard(&self.addr, self.lane);
                Err(RPCError::Timeout(self.timeout(action, deadline)))
            }
        }
    }

    fn timeout(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout {
            action,
            id: self.factory.config.id.0,
            target: self.target,
            timeout,
        }
    }
}

/// Not reached, or refused: pause before the next try. Anything else: try again at once.
fn rpc_error(target: u64, status: &Status) -> RPCError<TypeConfig> {
    let text = format!("coordinator {target}: {}", status.message());
    match status.code() {
        Code::FailedPrecondition => {
            tracing::warn!(
                target_node = target,
                reason = status.message(),
                "a coordinator refuses this one"
            );
            RPCError::Unreachable(Unreachable::from_string(text))
        }
        Code::Unavailable => RPCError::Unreachable(Unreachable::from_string(text)),
        _ => RPCError::Network(NetworkError::from_string(text)),
    }
}

fn wire_error(error: &WireError) -> RPCError<TypeConfig> {
    RPCError::Network(NetworkError::new(error))
}

impl RaftNetworkV2<TypeConfig> for Network {
    type SnapshotData = Bytes;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<AppendEntriesResponse<TypeConfig>> {
        let deadline = option.hard_ttl();
        let timeout = self.timeout(RPCTypes::AppendEntries, deadline);
        let mut results = self.stream_append(futures::stream::iter([rpc]), option).await?;
        match tokio::time::timeout(deadline, results.next()).await {
            Ok(Some(result)) => result.map(AppendEntriesResponse::from),
            Ok(None) => Err(RPCError::Network(NetworkError::from_string(
                "the stream ended without an answer",
            ))),
            Err(_) => Err(RPCError::Timeout(timeout)),
        }
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Rpc<BoxStream<'s, Rpc<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        Box::pin(async move {
            // openraft pauses after a failure where it hands out the first request. Dialling before that would try a
            // peer whose port refuses again at once, as fast as it can.
            let mut input = input;
            let Some(first) = input.next().await else {
                return Ok(Box::pin(futures::stream::empty()) as BoxStream<'s, _>);
            };
            if self.factory.peers.is_held_back(self.lane) {
                return Err(RPCError::Network(NetworkError::from_string(
                    "held back, as no quorum answers",
                )));
            }
            let heartbeat = (self.lane == Lane::Heartbeat).then(|| Heartbeat {
                term: first.vote.leader_id.term,
                sent: self.factory.peers.confirmations.moment(),
            });
            let input = futures::stream::iter([first]).chain(Piggyback::new(input));
            let mut client = self.client()?;
            let sent = Arc::new(AtomicU64::new(0));
            let requests = outgoing(input, self.caller(), self.lane, Arc::clone(&sent));
            // The server answers the stream when it has seen the first request.
            let opening = client.append(requests);
            let opened = match tokio::time::timeout(STREAM_IDLE.max(option.hard_ttl()), opening).await {
                Ok(Ok(response)) => response.into_inner(),
                Ok(Err(status)) => return Err(rpc_error(self.target, &status)),
                Err(_) => {
                    self.factory.peers.discard(&self.addr, self.lane);
                    return Err(RPCError::Timeout(
                        self.timeout(RPCTypes::AppendEntries, STREAM_IDLE),
                    ));
                }
            };
            let answers = Answers {
                stream: opened,
                sent,
                received: 0,
                target: self.target,
                peers: Arc::clone(&self.factory.peers),
                addr: self.addr.clone(),
                lane: self.lane,
                heartbeat,
            };
            let stream = futures::stream::unfold(Some(answers), |state| async move {
                let mut answers = state?;
                match answers.next().await? {
                    Ok(result) => Some((Ok(result), Some(answers))),
                    Err(error) => Some((Err(error), None)),
                }
            });
            Ok(Box::pin(stream) as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        let mut client = self.client()?;
        let request = vote_request_to(self.caller(), &rpc);
        let answer = self
            .call(RPCTypes::Vote, option.soft_ttl(), client.vote(request))
            .await?;
        vote_response_from(answer).map_err(|e| wire_error(&e))
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<VoteResponse<TypeConfig>> {
        self.factory.note_candidacy(rpc.vote.leader_id.term);
        let mut client = self.client()?;
        let request = vote_request_to(self.caller(), &rpc);
        let answer = self
            .call(RPCTypes::Vote, option.soft_ttl(), client.pre_vote(request))
            .await?;
        vote_response_from(answer).map_err(|e| wire_error(&e))
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let mut client = self.client().map_err(StreamingError::from)?;
        let chunks = futures::stream::iter(snapshot_chunks(self.caller(), &vote, &snapshot));
        let sending = self.call(
            RPCTypes::InstallSnapshot,
            SNAPSHOT_DEADLINE,
            client.snapshot(chunks),
        );
        let answer = tokio::select! {
            closed = cancel => return Err(StreamingError::Closed(closed)),
            answer = sending => answer?,
        };
        let vote = vote_from(answer.vote).map_err(|e| wire_error(&e))?;
        Ok(SnapshotResponse::new(vote))
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Rpc<TransferLeaderResponse<TypeConfig>> {
        let mut client = self.client()?;
        let message = transfer_to(self.caller(), &request);
        let deadline = option.hard_ttl().max(self.factory.config.profile.election_min());
        let answer = self
            .call(
                RPCTypes::TransferLeader,
                deadline,
                client.transfer_leader(message),
            )
            .await?;
        transfer_answer(answer, &request).map_err(|e| wire_error(&e))
    }
}

fn transfer_answer(
    answer: pb::TransferLeaderResponse,
    request: &TransferLeaderRequest<TypeConfig>,
) -> Result<TransferLeaderResponse<TypeConfig>, WireError> {
    use openraft::raft::TransferLeaderError;
    match answer.result.ok_or(WireError("transfer response"))? {
        pb::transfer_leader_response::Result::Accepted(_) => Ok(Ok(())),
        pb::transfer_leader_response::Result::VoteChanged(vote) => {
            Ok(Err(TransferLeaderError::VoteChanged {
                expected: *request.from_leader(),
                actual: vote_from(Some(vote))?,
            }))
        }
        pb::transfer_leader_response::Result::LogNotFlushed(flushed) => {
            Ok(Err(TransferLeaderError::LogNotFlushed {
                expected: request.last_log_id().copied(),
                actual: crate::codec::log_id_opt_from(flushed.log_id)?,
            }))
        }
    }
}

/// Requests as messages; the first one says who calls.
fn outgoing<S>(
    input: S,
    caller: pb::Caller,
    lane: Lane,
    sent: Arc<AtomicU64>,
) -> impl Stream<Item = pb::AppendRequest> + OptionalSend + OptionalSync + 'static
where
    S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
{
    let mut caller = Some(caller);
    // tonic wants streams that can be shared; a mutex that is never contended gives that.
    SyncStream(parking_lot::Mutex::new(input.map(move |request| {
        sent.fetch_add(1, Ordering::Relaxed);
        pb::AppendRequest {
            caller: caller.take(),
            heartbeat: lane == Lane::Heartbeat,
            ..append_to(&request)
        }
    })))
}

/// Makes a stream shareable between threads, though only one ever polls it.
struct SyncStream<S>(parking_lot::Mutex<S>);

impl<S: Stream + Unpin> Stream for SyncStream<S> {
    type Item = S::Item;

    fn poll_next(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<S::Item>> {
        self.get_mut().0.get_mut().poll_next_unpin(cx)
    }
}

/// Answers on a log stream.
struct Answers {
    stream: tonic::Streaming<pb::AppendResponse>,
    sent: Arc<AtomicU64>,
    received: u64,
    target: u64,
    peers: Arc<Peers>,
    addr: String,
    lane: Lane,
    heartbeat: Option<Heartbeat>,
}

/// What an answer to a heartbeat confirms.
#[derive(Clone, Copy)]
struct Heartbeat {
    term: u64,
    /// When it was sent, or before.
    sent: u64,
}

impl Answers {
    /// The next answer; `None` at the stream's end. Requests without an answer for a whole idle period end it.
    async fn next(&mut self) -> Option<Rpc<StreamAppendResult<TypeConfig>>> {
        let mut unanswered = None;
        loop {
            match tokio::time::timeout(STREAM_IDLE, self.stream.message()).await {
                Ok(Ok(Some(answer))) => {
                    self.received += 1;
                    let result = append_result_from(answer).map_err(|e| wire_error(&e));
                    self.note(&result).await;
                    return Some(result);
                }
                Ok(Ok(None)) => return None,
                Ok(Err(status)) => return Some(Err(rpc_error(self.target, &status))),
                Err(_) => {
                    let waiting = self.sent.load(Ordering::Relaxed) > self.received;
                    if waiting && unanswered == Some(self.received) {
                        self.peers.discard(&self.addr, self.lane);
                        let text = format!("coordinator {} does not answer", self.target);
                        return Some(Err(RPCError::Unreachable(Unreachable::from_string(text))));
                    }
                    unanswered = waiting.then_some(self.received);
                }
            }
        }
    }
}

impl Answers {
    /// Notes what an answer confirms.
    async fn note(&self, result: &Rpc<StreamAppendResult<TypeConfig>>) {
        #[cfg(test)]
        if self.lane == Lane::Append {
            let mut late = self.peers.late.subscribe();
            let _ = late.wait_for(|late| !late.contains(&self.target)).await;
        }
        let promised = matches!(result, Ok(Ok(_) | Err(StreamAppendError::Conflict(_))));
        if let Some(Heartbeat { term, sent }) = self.heartbeat.filter(|_| promised) {
            self.peers.confirmations.answered(self.target, term, sent);
        }
    }
}

fn snapshot_chunks(caller: pb::Caller, vote: &Vote, snapshot: &Snapshot) -> Vec<pb::SnapshotChunk> {
    let body = &snapshot.snapshot;
    let mut chunks = vec![pb::SnapshotChunk {
        caller: Some(caller),
        vote: Some(vote_to(vote)),
        meta: Some(meta_to(&snapshot.meta)),
        total_bytes: body.len() as u64,
        data: Bytes::new(),
    }];
    // Slices share the body: nothing is copied.
    let starts = (0..body.len()).step_by(CHUNK_BYTES);
    chunks.extend(starts.map(|start| pb::SnapshotChunk {
        data: body.slice(start..body.len().min(start + CHUNK_BYTES)),
        ..pb::SnapshotChunk::default()
    }));
    chunks
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
