//! openraft's messages on their way in: who calls is checked first, then openraft is asked, and what it has promised
//! is noted in the identity file before the answer goes out.

use crate::codec::{
    WireError, append_from, append_result_to, dir_from, dir_to, log_id_to, meta_from, transfer_from,
    vote_from, vote_request_from, vote_response_to, vote_to,
};
use crate::core::{Core, describe, is_formed};
use crate::types::{DirId, LogId, Snapshot, TypeConfig};
use futures::{Stream, StreamExt};
use holdfast_common::inject::{self, points};
use holdfast_common::limits::RPC_DEADLINE;
use holdfast_proto::raft as pb;
use holdfast_proto::raft::raft_server::Raft as RaftService;
use openraft::errors::{Fatal, RaftError};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError};
use prost::bytes::{Bytes, BytesMut};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// Longest pause between two messages of a snapshot.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);
/// A snapshot beyond this is refused rather than allowed to exhaust memory.
const SNAPSHOT_BYTES_MAX: u64 = 8 << 30;

type Answer<T> = Result<Response<T>, Status>;

/// The service.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) core: Arc<Core>,
}

fn invalid(error: &WireError) -> Status {
    Status::invalid_argument(error.to_string())
}

fn fatal(error: &Fatal<TypeConfig>) -> Status {
    Status::unavailable(format!("consensus has stopped here: {}", describe(error)))
}

fn raft_fatal(error: RaftError<TypeConfig>) -> Status {
    match error {
        RaftError::Fatal(error) => fatal(&error),
        RaftError::APIError(never) => match never {},
    }
}

impl Server {
    /// Refuses requests from another cluster, for another coordinator, or between directories that are not the ones
    /// which joined.
    fn admit(&self, caller: Option<&pb::Caller>) -> Result<(), Status> {
        let refuse = |text: String| Err(Status::failed_precondition(text));
        let Some(caller) = caller else {
            return Err(Status::invalid_argument("the request does not say who calls"));
        };
        let core = &self.core;
        let me = core.id();
        if caller.cluster_name != core.config.cluster_name {
            return refuse(format!(
                "this coordinator belongs to cluster '{}', not to '{}'",
                core.config.cluster_name, caller.cluster_name
            ));
        }
        if caller.to != me {
            return refuse(format!("this is coordinator {me}, not {}", caller.to));
        }
        if let Some(known) = core.identity.cluster_id()
            && !caller.cluster_id.is_empty()
            && caller.cluster_id.as_ref() != known.to_bytes()
        {
            return refuse(format!(
                "this coordinator belongs to cluster {known}, the caller to another one"
            ));
        }
        let to_dir = dir_from(&caller.to_dir).map_err(|e| invalid(&e))?;
        if to_dir != DirId::default() && to_dir != core.identity.dir() {
            return refuse(format!(
                "coordinator {me} has lost its data directory: remove it from the cluster and add it under a new id"
            ));
        }
        let from_dir = dir_from(&caller.from_dir).map_err(|e| invalid(&e))?;
        let membership = core.view.membership.load();
        let known = membership.get_node(&caller.from).map(|node| node.dir);
        if let Some(known) = known
            && known != DirId::default()
            && known != from_dir
        {
            let from = caller.from;
            return refuse(format!(
                "coordinator {from} has another data directory than the one that joined"
            ));
        }
        Ok(())
    }

    /// What was just answered is in the log; from now on an empty log means a lost one.
    fn note_joined(&self) -> Result<(), Status> {
        if self.core.identity.joined() {
            return Ok(());
        }
        self.core.identity.set_joined().map_err(|error| {
            self.core.fail(format!("cannot write the identity file: {error}"));
            Status::unavailable("the identity file cannot be written")
        })
    }

    fn note_leader(&self) {
        self.core.heard_leader();
    }

    /// Answers a heartbeat.
    ///
    /// openraft answers it when everything before it is on disk, so that a slow disk would look like a dead follower,
    /// and the leader would lose its lease. But what the leader does with the answer (its lease, linearizable reads)
    /// only needs that this coordinator has not promised itself to a newer leader, which needs no disk: what it had
    /// promised before is on disk since it was. So the answer goes out as soon as consensus has accepted the message.
    async fn heartbeat(
        &self,
        request: AppendEntriesRequest<TypeConfig>,
    ) -> Result<pb::AppendResponse, Status> {
        if request.vote.committed {
            self.note_leader();
        }
        let (vote, prev) = (request.vote, request.prev_log_id);
        let (sender, accepted) = tokio::sync::oneshot::channel();
        let look = async {
            let look = move |state: &openraft::RaftState<TypeConfig>| {
                let follows = *state.vote_ref() == vote && state.log_ids.last().copied() >= prev;
                // Nobody listens any more if openraft has answered.
                let _ = sender.send(follows);
            };
            self.core
                .raft
                .ask(|raft| raft.external_request(look))
                .await
                .map_err(|e| fatal(&e))?;
            accepted
                .await
                .map_err(|_| Status::unavailable("consensus has stopped here"))
        };
        let appending = self.core.raft.ask(|raft| raft.append_entries(request));
        tokio::pin!(appending);
        // The first promise to a cluster is noted in the identity file, which must not come before the log.
        if self.core.identity.joined() {
            // In this order: what is asked second is looked at second.
            tokio::select! {
                biased;
                answer = &mut appending => return self.heartbeat_answer(prev, answer),
                follows = look => if follows? {
                    return Ok(append_result_to(&Ok(None)));
                },
            }
        }
        self.heartbeat_answer(prev, appending.await)
    }

    fn heartbeat_answer(
        &self,
        prev: Option<LogId>,
        answer: Result<AppendEntriesResponse<TypeConfig>, RaftError<TypeConfig>>,
    ) -> Result<pb::AppendResponse, Status> {
        let result = answer.map_err(raft_fatal)?.into_stream_result(prev, None);
        self.note_joined()?;
        Ok(append_result_to(&result))
    }
}

#[tonic::async_trait]
impl RaftService for Server {
    type AppendStream = Pin<Box<dyn Stream<Item = Result<pb::AppendResponse, Status>> + Send>>;

    async fn vote(&self, request: Request<pb::VoteRequest>) -> Answer<pb::VoteResponse> {
        let request = request.into_inner();
        self.admit(request.caller.as_ref())?;
        let request = vote_request_from(request).map_err(|e| invalid(&e))?;
        let answer = self
            .core
            .raft
            .ask(|raft| raft.vote(request))
            .await
            .map_err(raft_fatal)?;
        self.note_joined()?;
        inject::pass(points::RAFT_VOTE_ANSWER);
        Ok(Response::new(vote_response_to(&answer)))
    }

    async fn pre_vote(&self, request: Request<pb::VoteRequest>) -> Answer<pb::VoteResponse> {
        let request = request.into_inner();
        self.admit(request.caller.as_ref())?;
        let request = vote_request_from(request).map_err(|e| invalid(&e))?;
        let answer = self
            .core
            .raft
            .ask(|raft| raft.pre_vote(request))
            .await
            .map_err(raft_fatal)?;
        Ok(Response::new(vote_response_to(&answer)))
    }

    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Answer<pb::TransferLeaderResponse> {
        use pb::transfer_leader_response::Result as Wire;
        let request = request.into_inner();
        self.admit(request.caller.as_ref())?;
        let request = transfer_from(request).map_err(|e| invalid(&e))?;
        let answer = self
            .core
            .raft
            .ask(|raft| raft.handle_transfer_leader(request))
            .await
            .map_err(|e| fatal(&e))?;
        let result = match answer {
            Ok(()) => Wire::Accepted(pb::Blank {}),
            Err(TransferLeaderError::VoteChanged { actual, .. }) => Wire::VoteChanged(vote_to(&actual)),
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => Wire::LogNotFlushed(pb::Matched {
                log_id: actual.as_ref().map(log_id_to),
            }),
        };
        Ok(Response::new(pb::TransferLeaderResponse { result: Some(result) }))
    }

    async fn append(&self, request: Request<Streaming<pb::AppendRequest>>) -> Answer<Self::AppendStream> {
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(RPC_DEADLINE, incoming.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no first message"))??
            .ok_or_else(|| Status::invalid_argument("an empty stream"))?;
        self.admit(first.caller.as_ref())?;
        let heartbeat = first.heartbeat;
        let first = append_from(first).map_err(|e| invalid(&e))?;
        if heartbeat {
            let answer = futures::stream::iter([self.heartbeat(first).await]);
            return Ok(Response::new(Box::pin(answer)));
        }
        let contact = self.clone();
        // Whether the answer that comes next is one to entries, and not to a heartbeat: for the crash point alone.
        let carried = Arc::new(AtomicBool::new(false));
        let noted = Arc::clone(&carried);
        // A message that does not decode ends the stream: the caller opens another one.
        let rest = incoming.scan((), |(), message| {
            std::future::ready(message.ok().and_then(|m| append_from(m).ok()))
        });
        let requests = futures::stream::once(async move { first })
            .chain(rest)
            .inspect(move |request| {
                if request.vote.committed {
                    contact.note_leader();
                }
                if !request.entries.is_empty() {
                    noted.store(true, Ordering::Relaxed);
                }
            });
        let server = self.clone();
        let answers = self.core.raft.append(requests).map(move |result| {
            let result = result.map_err(|e| fatal(&e))?;
            server.note_joined()?;
            if carried.swap(false, Ordering::Relaxed) {
                inject::pass(points::RAFT_REPLICATED);
            }
            Ok(append_result_to(&result))
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn snapshot(&self, request: Request<Streaming<pb::SnapshotChunk>>) -> Answer<pb::SnapshotResponse> {
        let mut incoming = request.into_inner();
        let first = next_chunk(&mut incoming)
            .await?
            .ok_or_else(|| Status::invalid_argument("no snapshot"))?;
        self.admit(first.caller.as_ref())?;
        self.note_leader();
        let vote = vote_from(first.vote).map_err(|e| invalid(&e))?;
        let meta = meta_from(first.meta).map_err(|e| invalid(&e))?;
        if first.total_bytes > SNAPSHOT_BYTES_MAX {
            return Err(Status::resource_exhausted(format!(
                "a snapshot of {} bytes",
                first.total_bytes
            )));
        }
        let body = self.collect(&mut incoming, first.total_bytes).await?;
        let snapshot = Snapshot { meta, snapshot: body };
        let answer = self
            .core
            .raft
            .ask(|raft| raft.install_full_snapshot(vote, snapshot))
            .await
            .map_err(|e| fatal(&e))?;
        self.note_joined()?;
        Ok(Response::new(pb::SnapshotResponse {
            vote: Some(vote_to(&answer.vote)),
        }))
    }

    async fn probe(&self, request: Request<pb::ProbeRequest>) -> Answer<pb::ProbeResponse> {
        let request = request.into_inner();
        let core = &self.core;
        if request.cluster_name != core.config.cluster_name {
            let text = format!(
                "coordinator {} at this address belongs to cluster '{}', not to '{}'",
                core.id(),
                core.config.cluster_name,
                request.cluster_name
            );
            return Err(Status::failed_precondition(text));
        }
        let metrics = core.raft_metrics();
        let membership = metrics.membership_config.membership();
        let prober = membership.get_node(&request.from);
        let initialized = is_formed(membership);
        let cluster_id = core.identity.cluster_id();
        Ok(Response::new(pb::ProbeResponse {
            cluster_name: core.config.cluster_name.clone(),
            cluster_id: cluster_id.map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_bytes())),
            node_id: core.id(),
            peers_hash: crate::identity::peers_hash(&core.config.peers),
            pristine: !initialized && !core.identity.joined(),
            initialized,
            knows_prober: prober.is_some(),
            prober_dir: prober.map_or_else(Bytes::new, |node| dir_to(node.dir)),
            leader: metrics.current_leader.unwrap_or(0),
            dir: dir_to(core.identity.dir()),
        }))
    }

    async fn compare_digest(
        &self,
        request: Request<pb::CompareDigestRequest>,
    ) -> Answer<pb::CompareDigestResponse> {
        let request = request.into_inner();
        self.admit(request.caller.as_ref())?;
        let from = request.caller.map_or(0, |caller| caller.from);
        crate::removal::require_member(&self.core.view.membership.load(), from)?;
        Ok(Response::new(crate::digests::compare(
            &self.core,
            from,
            &request.digests,
        )))
    }
}

impl Server {
    async fn collect(
        &self,
        incoming: &mut Streaming<pb::SnapshotChunk>,
        total: u64,
    ) -> Result<Bytes, Status> {
        let mut body = BytesMut::new();
        while let Some(chunk) = next_chunk(incoming).await? {
            self.note_leader();
            if (body.len() + chunk.data.len()) as u64 > total {
                return Err(Status::invalid_argument("the snapshot is longer than it said"));
            }
            body.extend_from_slice(&chunk.data);
        }
        if (body.len() as u64) < total {
            return Err(Status::invalid_argument("the snapshot is shorter than it said"));
        }
        Ok(body.freeze())
    }
}

async fn next_chunk(
    incoming: &mut Streaming<pb::SnapshotChunk>,
) -> Result<Option<pb::SnapshotChunk>, Status> {
    tokio::time::timeout(CHUNK_DEADLINE, incoming.message())
        .await
        .map_err(|_| Status::deadline_exceeded("the next part of the snapshot did not come"))?
}
