//! openraft's types as our own protobuf, both ways: what crosses a wire or a disk never depends on how openraft
//! happens to lay its types out.

use crate::types::{
    DirId, Entry, LeaderId, LogCommand, LogId, Membership, NodeInfo, Payload, SnapshotMeta, StoredMembership,
    TypeConfig, Vote,
};
use holdfast_proto::raft as pb;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use prost::bytes::Bytes;
use std::collections::BTreeMap;

/// A message that lacks a part, or has one that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("consensus message is damaged or from a newer version: {0}")]
pub(crate) struct WireError(pub(crate) &'static str);

type Result<T> = std::result::Result<T, WireError>;

pub(crate) fn dir_to(dir: DirId) -> Bytes {
    Bytes::copy_from_slice(&dir.0.to_be_bytes())
}

/// Empty stands for none.
pub(crate) fn dir_from(bytes: &[u8]) -> Result<DirId> {
    if bytes.is_empty() {
        return Ok(DirId::default());
    }
    let array = bytes.try_into().map_err(|_| WireError("directory id"))?;
    Ok(DirId(u128::from_be_bytes(array)))
}

fn leader_to(leader: &LeaderId) -> pb::LeaderId {
    pb::LeaderId {
        term: leader.term,
        node: leader.node_id,
    }
}

fn leader_from(leader: Option<pb::LeaderId>) -> Result<LeaderId> {
    let leader = leader.ok_or(WireError("leader"))?;
    Ok(LeaderId {
        term: leader.term,
        node_id: leader.node,
    })
}

pub(crate) fn log_id_to(id: &LogId) -> pb::LogId {
    pb::LogId {
        leader: Some(leader_to(id.committed_leader_id())),
        index: id.index(),
    }
}

pub(crate) fn log_id_from(id: pb::LogId) -> Result<LogId> {
    Ok(LogId::new(leader_from(id.leader)?, id.index))
}

fn log_id_opt_to(id: Option<&LogId>) -> Option<pb::LogId> {
    id.map(log_id_to)
}

pub(crate) fn log_id_opt_from(id: Option<pb::LogId>) -> Result<Option<LogId>> {
    id.map(log_id_from).transpose()
}

pub(crate) fn vote_to(vote: &Vote) -> pb::Vote {
    pb::Vote {
        leader: Some(leader_to(&vote.leader_id)),
        committed: vote.committed,
    }
}

pub(crate) fn vote_from(vote: Option<pb::Vote>) -> Result<Vote> {
    let vote = vote.ok_or(WireError("vote"))?;
    Ok(Vote {
        leader_id: leader_from(vote.leader)?,
        committed: vote.committed,
    })
}

pub(crate) fn membership_to(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configs: membership
            .get_joint_config()
            .iter()
            .map(|ids| pb::NodeSet {
                ids: ids.iter().copied().collect(),
            })
            .collect(),
        nodes: membership
            .nodes()
            .map(|(id, node)| (*id, node_to(node)))
            .collect(),
    }
}

fn node_to(node: &NodeInfo) -> pb::Node {
    pb::Node {
        rpc: node.rpc.clone(),
        rest: node.rest.clone(),
        dir: dir_to(node.dir),
    }
}

pub(crate) fn membership_from(wire: pb::Membership) -> Result<Membership> {
    let nodes = wire
        .nodes
        .into_iter()
        .map(|(id, node)| {
            let dir = dir_from(&node.dir)?;
            Ok((
                id,
                NodeInfo {
                    rpc: node.rpc,
                    rest: node.rest,
                    dir,
                },
            ))
        })
        .collect::<Result<BTreeMap<u64, NodeInfo>>>()?;
    if wire.configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    let configs = wire
        .configs
        .into_iter()
        .map(|set| set.ids.into_iter().collect())
        .collect();
    Membership::new(configs, nodes).map_err(|_| WireError("membership"))
}

pub(crate) fn stored_membership_to(stored: &StoredMembership) -> pb::StoredMembership {
    pb::StoredMembership {
        log_id: log_id_opt_to(stored.log_id().as_ref()),
        membership: Some(membership_to(stored.membership())),
    }
}

pub(crate) fn stored_membership_from(wire: pb::StoredMembership) -> Result<StoredMembership> {
    let membership = membership_from(wire.membership.ok_or(WireError("membership"))?)?;
    Ok(StoredMembership::new(log_id_opt_from(wire.log_id)?, membership))
}

pub(crate) fn meta_to(meta: &SnapshotMeta) -> pb::SnapshotMeta {
    pb::SnapshotMeta {
        last_log_id: log_id_opt_to(meta.last_log_id.as_ref()),
        last_membership: Some(stored_membership_to(&meta.last_membership)),
    }
}

pub(crate) fn meta_from(wire: Option<pb::SnapshotMeta>) -> Result<SnapshotMeta> {
    let wire = wire.ok_or(WireError("snapshot meta"))?;
    Ok(SnapshotMeta {
        last_log_id: log_id_opt_from(wire.last_log_id)?,
        last_membership: stored_membership_from(
            wire.last_membership.ok_or(WireError("snapshot membership"))?,
        )?,
    })
}

/// What follows an entry's identifier on disk.
pub(crate) fn payload_to(payload: &Payload) -> pb::Payload {
    use pb::payload::Payload as Wire;
    let wire = match payload {
        Payload::Blank => Wire::Blank(pb::Blank {}),
        Payload::Normal(LogCommand(bytes)) => Wire::Normal(bytes.clone()),
        Payload::Membership(membership) => Wire::Membership(membership_to(membership)),
    };
    pb::Payload { payload: Some(wire) }
}

pub(crate) fn payload_from(wire: pb::Payload) -> Result<Payload> {
    use pb::payload::Payload as Wire;
    match wire.payload {
        Some(Wire::Blank(pb::Blank {})) => Ok(Payload::Blank),
        Some(Wire::Normal(bytes)) => Ok(Payload::Normal(LogCommand(bytes))),
        Some(Wire::Membership(membership)) => Ok(Payload::Membership(membership_from(membership)?)),
        None => Err(WireError("entry payload")),
    }
}

pub(crate) fn entry_to(entry: &Entry) -> pb::Entry {
    use pb::entry::Payload as Wire;
    let wire = match &entry.payload {
        Payload::Blank => Wire::Blank(pb::Blank {}),
        Payload::Normal(LogCommand(bytes)) => Wire::Normal(bytes.clone()),
        Payload::Membership(membership) => Wire::Membership(membership_to(membership)),
    };
    pb::Entry {
        log_id: Some(log_id_to(&entry.log_id)),
        payload: Some(wire),
    }
}

pub(crate) fn entry_from(wire: pb::Entry) -> Result<Entry> {
    use pb::entry::Payload as Wire;
    let payload = match wire.payload {
        Some(Wire::Blank(pb::Blank {})) => Payload::Blank,
        Some(Wire::Normal(bytes)) => Payload::Normal(LogCommand(bytes)),
        Some(Wire::Membership(membership)) => Payload::Membership(membership_from(membership)?),
        None => return Err(WireError("entry payload")),
    };
    Ok(Entry {
        log_id: log_id_from(wire.log_id.ok_or(WireError("entry identifier"))?)?,
        payload,
    })
}

pub(crate) fn vote_request_to(caller: pb::Caller, request: &VoteRequest<TypeConfig>) -> pb::VoteRequest {
    pb::VoteRequest {
        caller: Some(caller),
        vote: Some(vote_to(&request.vote)),
        last_log_id: log_id_opt_to(request.last_log_id.as_ref()),
        leadership_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from(wire: pb::VoteRequest) -> Result<VoteRequest<TypeConfig>> {
    let mut request = VoteRequest::new(vote_from(wire.vote)?, log_id_opt_from(wire.last_log_id)?);
    request.leadership_transfer = wire.leadership_transfer;
    Ok(request)
}

pub(crate) fn vote_response_to(response: &VoteResponse<TypeConfig>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(vote_to(&response.vote)),
        vote_granted: response.vote_granted,
        last_log_id: log_id_opt_to(response.last_log_id.as_ref()),
    }
}

pub(crate) fn vote_response_from(wire: pb::VoteResponse) -> Result<VoteResponse<TypeConfig>> {
    Ok(VoteResponse {
        vote: vote_from(wire.vote)?,
        vote_granted: wire.vote_granted,
        last_log_id: log_id_opt_from(wire.last_log_id)?,
    })
}

pub(crate) fn transfer_to(
    caller: pb::Caller,
    request: &TransferLeaderRequest<TypeConfig>,
) -> pb::TransferLeaderRequest {
    pb::TransferLeaderRequest {
        caller: Some(caller),
        from_leader: Some(vote_to(request.from_leader())),
        to_node_id: *request.to_node_id(),
        last_log_id: log_id_opt_to(request.last_log_id()),
    }
}

pub(crate) fn transfer_from(wire: pb::TransferLeaderRequest) -> Result<TransferLeaderRequest<TypeConfig>> {
    Ok(TransferLeaderRequest::new(
        vote_from(wire.from_leader)?,
        wire.to_node_id,
        log_id_opt_from(wire.last_log_id)?,
    ))
}

pub(crate) fn append_to(request: &AppendEntriesRequest<TypeConfig>) -> pb::AppendRequest {
    pb::AppendRequest {
        caller: None,
        vote: Some(vote_to(&request.vote)),
        prev_log_id: log_id_opt_to(request.prev_log_id.as_ref()),
        entries: request.entries.iter().map(entry_to).collect(),
        leader_commit: log_id_opt_to(request.leader_commit.as_ref()),
        heartbeat: false,
    }
}

pub(crate) fn append_from(wire: pb::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>> {
    Ok(AppendEntriesRequest {
        vote: vote_from(wire.vote)?,
        prev_log_id: log_id_opt_from(wire.prev_log_id)?,
        entries: wire.entries.into_iter().map(entry_from).collect::<Result<_>>()?,
        leader_commit: log_id_opt_from(wire.leader_commit)?,
    })
}

pub(crate) fn append_result_to(result: &StreamAppendResult<TypeConfig>) -> pb::AppendResponse {
    use pb::append_response::Result as Wire;
    let wire = match result {
        Ok(matched) => Wire::Ok(pb::Matched {
            log_id: log_id_opt_to(matched.as_ref()),
        }),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict(pb::Conflict {
            log_id: Some(log_id_to(id)),
        }),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVote(vote_to(vote)),
    };
    pb::AppendResponse { result: Some(wire) }
}

pub(crate) fn append_result_from(wire: pb::AppendResponse) -> Result<StreamAppendResult<TypeConfig>> {
    use pb::append_response::Result as Wire;
    match wire.result.ok_or(WireError("append response"))? {
        Wire::Ok(matched) => Ok(Ok(log_id_opt_from(matched.log_id)?)),
        Wire::Conflict(conflict) => {
            let id = log_id_from(conflict.log_id.ok_or(WireError("conflicting identifier"))?)?;
            Ok(Err(StreamAppendError::Conflict(id)))
        }
        Wire::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote_from(Some(vote))?))),
    }
}
