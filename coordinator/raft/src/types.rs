//! How openraft is parameterised, and short names for its types. The only place to switch the runtime, for instance to
//! a deterministic one in a simulator.

use holdfast_machine::Response;
use openraft::alias;
use prost::bytes::Bytes;
use std::fmt;

/// The runtime that consensus tasks are spawned on.
pub(crate) type Runtime = openraft::TokioRuntime;

openraft::declare_raft_types!(
    /// Holdfast's parameters of openraft.
    pub(crate) TypeConfig:
        D = LogCommand,
        R = Response,
        NodeId = u64,
        Node = NodeInfo,
        Term = u64,
        AsyncRuntime = Runtime,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, crate::fsm::StateMachine>;
pub(crate) type LogId = alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = alias::VoteOf<TypeConfig>;
pub(crate) type LeaderId = alias::LeaderIdOf<TypeConfig>;
pub(crate) type Entry = alias::EntryOf<TypeConfig>;
pub(crate) type Payload = alias::PayloadOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, NodeInfo>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = alias::SnapshotOf<TypeConfig, Bytes>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;

/// An encoded [`holdfast_machine::Proposal`]: decoded where it is applied, copied nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct LogCommand(pub(crate) Bytes);

impl fmt::Debug for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for LogCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A coordinator in the membership.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NodeInfo {
    pub(crate) rpc: String,
    pub(crate) rest: String,
    /// The data directory that joined under this number: another one is refused.
    pub(crate) dir: DirId,
}

/// Names a data directory: drawn at its first start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct DirId(pub(crate) u128);

impl fmt::Display for DirId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}
