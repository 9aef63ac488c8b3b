//! What the crate's tasks and services share: everything but the runtime they run on, so that none of them keeps it
//! alive.

use crate::api::{Leadership, MemberAddr, ProposeError, RaftConfig};
use crate::codec::dir_to;
use crate::consensus::Consensus;
use crate::fsm::View;
use crate::identity::Identity;
use crate::net::Peers;
use crate::types::{DirId, Membership, Metrics, NodeInfo, TypeConfig};
use holdfast_common::NodeId;
use holdfast_common::clock::{SharedClock, SharedRandom};
use holdfast_common::limits::PROPOSALS_PENDING_MAX;
use holdfast_proto::raft::Caller;
use openraft::errors::Fatal;
use parking_lot::Mutex;
use prost::bytes::Bytes;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

/// Shared by handles, tasks and services.
pub(crate) struct Core {
    pub(crate) config: Arc<RaftConfig>,
    pub(crate) raft: Consensus,
    pub(crate) view: View,
    pub(crate) identity: Arc<Identity>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) clock: SharedClock,
    pub(crate) random: SharedRandom,
    pub(crate) leadership: watch::Sender<Leadership>,
    /// One permit per proposal that may be pending.
    pub(crate) proposals: Semaphore,
    /// Held while members are changed.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// When a leader was last heard of.
    pub(crate) leader_contact: Mutex<Option<Instant>>,
    /// The leader whose process is known to be gone, its term, and since when: nothing is to be waited for.
    pub(crate) gone: Mutex<Option<(u64, u64, Instant)>>,
    pub(crate) digest_mismatch: Mutex<Option<String>>,
    /// It is being stopped on purpose.
    pub(crate) stopping: AtomicBool,
    fatal: OnceLock<String>,
}

impl Core {
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn new(
        config: Arc<RaftConfig>,
        raft: Consensus,
        view: View,
        identity: Arc<Identity>,
        peers: Arc<Peers>,
        clock: SharedClock,
        random: SharedRandom,
    ) -> Self {
        Self {
            config,
            raft,
            view,
            identity,
            peers,
            clock,
            random,
            leadership: watch::Sender::new(Leadership::default()),
            proposals: Semaphore::new(PROPOSALS_PENDING_MAX),
            changing: tokio::sync::Mutex::new(()),
            leader_contact: Mutex::new(None),
            gone: Mutex::new(None),
            digest_mismatch: Mutex::new(None),
            stopping: AtomicBool::new(false),
            fatal: OnceLock::new(),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.config.id.0
    }

    /// Notes that a leader was heard of, where the network hands its message over: not even a disk that holds consensus
    /// up makes it look silent.
    pub(crate) fn heard_leader(&self) {
        let now = Instant::now();
        let before = self.leader_contact.lock().replace(now);
        let silent = before.map_or(Duration::ZERO, |at| now - at);
        if silent > self.config.profile.election_max() / 2 && silent < self.config.profile.patience() {
            tracing::warn!(silent_ms = silent.as_millis(), "the leader was silent for long");
        }
    }

    /// openraft's view.
    pub(crate) fn raft_metrics(&self) -> Metrics {
        self.raft.metrics()
    }

    /// Notes the first reason why the process must end. Whoever finds it finds that this coordinator does not lead.
    pub(crate) fn fail(&self, reason: String) {
        if self.has_failed() {
            return;
        }
        if self.stopping.load(Ordering::Relaxed) {
            tracing::debug!(reason, "consensus has stopped");
        } else {
            tracing::error!(reason, "consensus has stopped, this coordinator must end");
        }
        // Both under the lock of the leadership that is watched: who wakes up finds the reason, and who has seen the
        // reason waits here for the leadership.
        self.leadership.send_modify(|leadership| {
            let _ = self.fatal.set(reason);
            leadership.is_leader = false;
            leadership.quorum_ok = false;
        });
    }

    /// Whether [`Self::fail`] was called. Takes no lock.
    pub(crate) fn has_failed(&self) -> bool {
        self.fatal.get().is_some()
    }

    /// Why consensus has stopped here, if it has. Never seen before [`crate::RaftHandle::watch_leadership`] says that
    /// this coordinator does not lead: a stop that openraft alone knows of is published there first.
    pub(crate) fn fatal(&self) -> Option<String> {
        if let Some(reason) = self.fatal.get() {
            return Some(reason.clone());
        }
        let reason = describe(&self.raft.stopped()?);
        self.fail(reason.clone());
        Some(self.fatal.get().cloned().unwrap_or(reason))
    }

    /// Where a member is reached. The configuration goes before the log: it is newer, and a wrong address cannot do
    /// harm, since both ends prove who they are.
    pub(crate) fn addr_of(&self, id: u64) -> Option<MemberAddr> {
        if let Some(addr) = self.config.peers.get(&NodeId(id)) {
            return Some(addr.clone());
        }
        let membership = self.raft_metrics().membership_config;
        membership.get_node(&id).map(|node| MemberAddr {
            rpc: node.rpc.clone(),
            rest: node.rest.clone(),
        })
    }

    /// What stands in every request to a coordinator.
    pub(crate) fn caller(&self, to: u64, to_dir: DirId) -> Caller {
        caller(&self.config, &self.identity, to, to_dir)
    }
}

/// What stands in every request to a coordinator.
pub(crate) fn caller(config: &RaftConfig, identity: &Identity, to: u64, to_dir: DirId) -> Caller {
    Caller {
        cluster_name: config.cluster_name.clone(),
        cluster_id: identity
            .cluster_id()
            .map_or_else(Bytes::new, |id| Bytes::copy_from_slice(&id.to_bytes())),
        from: config.id.0,
        to,
        from_dir: dir_to(identity.dir()),
        to_dir: dir_to(to_dir),
    }
}

/// Why consensus stopped, for people.
pub(crate) fn describe(fatal: &Fatal<TypeConfig>) -> String {
    match fatal {
        Fatal::Stopped => "it was shut down".to_owned(),
        Fatal::Panicked => "it panicked; see the log above".to_owned(),
        Fatal::StorageError(error) => format!("storage failed: {error}"),
    }
}

pub(crate) fn stopped(fatal: &Fatal<TypeConfig>) -> ProposeError {
    ProposeError::Stopped(describe(fatal))
}

/// Whether a membership has voters, that is, whether a cluster was ever formed.
pub(crate) fn is_formed(membership: &Membership) -> bool {
    membership.voter_ids().next().is_some()
}

/// A coordinator's record in the membership.
pub(crate) fn node_info(addr: &MemberAddr, dir: DirId) -> NodeInfo {
    NodeInfo {
        rpc: addr.rpc.clone(),
        rest: addr.rest.clone(),
        dir,
    }
}
