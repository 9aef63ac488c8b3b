//! Consensus: the replicated log under the state machine. All contact with openraft ends in this crate, and none of
//! its types leaves it.
//!
//! - [`RaftNode::start`] opens the data directory, forms or joins the cluster and serves the coordinator's gRPC port.
//! - [`RaftHandle`] proposes, reads, watches and changes members.

mod api;
mod bootstrap;
mod client_service;
mod codec;
mod consensus;
mod core;
mod digests;
mod disk;
mod fsm;
mod growth;
mod handle;
mod hint;
mod identity;
mod leadership;
#[cfg(test)]
mod links_tests;
#[doc(hidden)]
pub mod log_bench;
mod membership;
mod net;
mod removal;
mod replica;
mod silence;
mod snapshots;
#[cfg(test)]
mod stall_tests;
mod start;
mod store;
#[doc(hidden)]
pub mod testing;
mod types;

#[cfg(test)]
extern crate self as holdfast_raft;
#[cfg(test)]
#[path = "../tests/common/mod.rs"]
mod cluster_for_tests;

pub use api::{
    Applied, DirIdentity, Leadership, LogStoreKind, MemberAddr, MemberInfo, MembershipError, ProposeError,
    RaftConfig, RaftMetrics, StartError, TimingProfile, UnknownName,
};
pub use handle::RaftHandle;
pub use start::RaftNode;
