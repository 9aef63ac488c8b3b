//! The handle on consensus that the rest of the coordinator holds: proposing, reading, watching, changing members.

use crate::api::{
    Applied, DirIdentity, Leadership, MemberAddr, MemberInfo, MembershipError, ProposeError, RaftMetrics,
};
use crate::core::{Core, stopped};
use crate::start::RuntimeGuard;
use crate::types::{LogCommand, Metrics, TypeConfig};
use holdfast_common::NodeId;
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::{LOG_ENTRY_BYTES_MAX, RPC_DEADLINE};
use holdfast_machine::{Proposal, State};
use openraft::ReadPolicy;
use openraft::errors::{ClientWriteError, ForwardReason, ForwardToLeader, LinearizableReadError, RaftError};
use openraft::raft::ClientWriteResponse;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long consensus may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// Between two tries of a write that came before the quorum's first acknowledgement.
const LEASE_POLL: Duration = Duration::from_millis(2);

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// A handle on consensus. Cheap to clone. When the last one is dropped, consensus on this coordinator ends.
#[derive(Clone)]
pub struct RaftHandle {
    pub(crate) core: Arc<Core>,
    pub(crate) runtime: Arc<RuntimeGuard>,
}

impl fmt::Debug for RaftHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RaftHandle")
            .field("id", &self.core.id())
            .finish_non_exhaustive()
    }
}

impl RaftHandle {
    /// Proposes an entry and waits until it is applied. Only on the leader.
    ///
    /// # Errors
    /// See [`ProposeError`]; after [`ProposeError::Unknown`] the entry may still be applied.
    pub async fn propose(&self, proposal: Proposal) -> Result<Applied, ProposeError> {
        self.core.propose(proposal).await
    }

    /// Makes sure that this coordinator leads, and waits until everything that was committed when it was asked is
    /// applied: then [`Self::state`] is linearizable. Answers that index.
    ///
    /// # Errors
    /// See [`ProposeError`]; reading has no effect.
    pub async fn read_index(&self) -> Result<u64, ProposeError> {
        self.core.read_index().await
    }

    /// The state as of its field `applied`, as far as this coordinator knows. Do not keep it for long.
    #[must_use]
    pub fn state(&self) -> Arc<State> {
        self.core.view.state.load_full()
    }

    /// The last entry applied; changes after [`Self::state`] shows it.
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<u64> {
        self.core.view.applied.subscribe()
    }

    /// Who leads. Also changes when consensus stops: look at [`RaftMetrics::fatal`] then.
    #[must_use]
    pub fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        self.core.leadership.subscribe()
    }

    /// A look at consensus.
    #[must_use]
    pub fn metrics(&self) -> RaftMetrics {
        self.core.metrics()
    }

    /// Where a coordinator is reached, by configuration or membership.
    #[must_use]
    pub fn member_addr(&self, id: NodeId) -> Option<MemberAddr> {
        self.core.addr_of(id.0)
    }

    /// Adds a coordinator that runs and waits: first as a learner, then, caught up, as a voter. Can be repeated.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn add_member(&self, id: NodeId, addr: MemberAddr) -> Result<(), MembershipError> {
        self.core.add_member(id, addr).await
    }

    /// Removes a coordinator, which may be down.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn remove_member(&self, id: NodeId) -> Result<(), MembershipError> {
        self.core.remove_member(id).await
    }

    /// Hands leadership over, to the follower that is nearest if none is named; answers who leads then.
    ///
    /// # Errors
    /// See [`MembershipError`].
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, MembershipError> {
        self.core.transfer_leader(to).await
    }

    /// Stops consensus here: leadership is handed over first, and the data directory is free afterwards.
    pub async fn shutdown(&self) {
        self.core.stopping.store(true, Ordering::Relaxed);
        if self.core.leadership.borrow().is_leader {
            match self.core.hand_over().await {
                Ok(leader) => tracing::info!(leader = leader.0, "leadership is handed over"),
                Err(error) => tracing::info!(%error, "leadership was not handed over"),
            }
        }
        if tokio::time::timeout(STOP_DEADLINE, self.core.raft.stop())
            .await
            .is_err()
        {
            tracing::warn!("consensus did not stop in time");
        }
        self.runtime.stop(STOP_DEADLINE).await;
    }

    /// Stops everything at once, as a crash would: nothing is handed over, nothing more is written. For tests.
    #[doc(hidden)]
    pub async fn crash(&self) {
        self.core.stopping.store(true, Ordering::Relaxed);
        self.runtime.stop(STOP_DEADLINE).await;
    }

    /// What the data directory says about itself.
    #[must_use]
    pub fn data_dir_identity(&self) -> DirIdentity {
        self.core.identity.public()
    }
}

impl Core {
    pub(crate) async fn propose(&self, proposal: Proposal) -> Result<Applied, ProposeError> {
        if let Some(reason) = self.fatal() {
            return Err(ProposeError::Stopped(reason));
        }
        let bytes = proposal.encode();
        if bytes.len() > LOG_ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                bytes: bytes.len(),
                limit: LOG_ENTRY_BYTES_MAX,
            });
        }
        let _pending = self.proposals.try_acquire().map_err(|_| ProposeError::Busy)?;
        match tokio::time::timeout(RPC_DEADLINE, self.write(LogCommand(bytes.into()))).await {
            Ok(Ok(written)) => Ok(Applied {
                index: written.log_id.index(),
                response: written.data,
            }),
            Ok(Err(error)) => Err(self.write_error(error)),
            Err(_) => Err(ProposeError::Unknown(format!(
                "no quorum has agreed within {RPC_DEADLINE:?}"
            ))),
        }
    }

    /// A leader takes no writes before a quorum has acknowledged it, which is a matter of one round trip when it is new
    /// and of a busy machine's pause later: wait for that instead of sending everybody away, for as long as nobody else
    /// would be elected. What is refused so was certainly not written.
    async fn write(&self, command: LogCommand) -> Result<ClientWriteResponse<TypeConfig>, WriteError> {
        let started = Instant::now();
        loop {
            let written = self.raft.ask(|raft| raft.client_write(command.clone())).await;
            let too_early = matches!(
                &written,
                Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))
                    if forward.reason == ForwardReason::LeaseExpired
            );
            if !too_early || started.elapsed() > self.config.profile.patience() {
                return written;
            }
            tokio::time::sleep(LEASE_POLL).await;
        }
    }

    fn write_error(&self, error: WriteError) -> ProposeError {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => self.not_leader(&forward),
            RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => {
                ProposeError::Unknown("the leader changed while the entry was on its way".to_owned())
            }
            RaftError::APIError(other) => ProposeError::Unknown(other.to_string()),
            // It may have been written, and replicated, before consensus stopped here: the next leader may apply it.
            RaftError::Fatal(fatal) => ProposeError::Unknown(format!(
                "consensus has stopped while the entry was on its way: {}",
                crate::core::describe(&fatal)
            )),
        }
    }

    fn not_leader(&self, forward: &ForwardToLeader<TypeConfig>) -> ProposeError {
        match forward.reason {
            // Whoever it is handed to leads in a moment: callers wait for that, as when nobody is known to lead.
            ForwardReason::LeadershipTransfer => ProposeError::NotLeader { leader: None },
            ForwardReason::NotLeader | ForwardReason::LeaseExpired => ProposeError::NotLeader {
                leader: forward
                    .leader_id
                    .filter(|leader| *leader != self.id())
                    .map(NodeId),
            },
        }
    }

    pub(crate) async fn read_index(&self) -> Result<u64, ProposeError> {
        if let Some(reason) = self.fatal() {
            return Err(ProposeError::Stopped(reason));
        }
        if inject::bug(bugs::STALE_READ) {
            return Ok(self.view.state.load().applied);
        }
        let began = self.peers.confirmations.moment();
        let read = self
            .raft
            .ask(|raft| raft.ensure_linearizable(ReadPolicy::ReadIndex));
        let read = match tokio::time::timeout(RPC_DEADLINE, read).await {
            Ok(Ok(read)) => *read.log_id(),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                return Err(self.not_leader(&forward));
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                return Err(ProposeError::NotLeader { leader: None });
            }
            Ok(Err(RaftError::Fatal(fatal))) => return Err(stopped(&fatal)),
        };
        // What openraft has counted may have been sent before the read began. The entry is at least the leader's first
        // one, so its term is the leader's.
        let metrics = self.raft_metrics();
        let voters = metrics.membership_config.membership().get_joint_config();
        let (term, confirmations) = (read.committed_leader_id().term, &self.peers.confirmations);
        let confirmed = confirmations.quorum(self.id(), voters, term, began);
        // Whoever hears nothing from its followers for longer has been replaced by then.
        let patience = self.config.profile.patience();
        if tokio::time::timeout(patience, confirmed).await.is_err() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        let index = read.index();
        let mut applied = self.view.applied.subscribe();
        match tokio::time::timeout(RPC_DEADLINE, applied.wait_for(|applied| *applied >= index)).await {
            Ok(Ok(_)) => Ok(index),
            Ok(Err(_)) | Err(_) => Err(ProposeError::NotLeader { leader: None }),
        }
    }

    pub(crate) fn metrics(&self) -> RaftMetrics {
        // Before the rest: whoever sees that consensus has stopped must not see that it leads.
        let fatal = self.fatal();
        let metrics = self.raft_metrics();
        let leadership = crate::leadership::leadership_of(self, &metrics);
        let index = |log_id: Option<crate::types::LogId>| log_id.map_or(0, |id| id.index());
        RaftMetrics {
            id: self.config.id,
            leadership,
            last_log: metrics.last_log_index.unwrap_or(0),
            applied: self.view.state.load().applied,
            snapshot: index(metrics.snapshot),
            purged: index(metrics.purged),
            members: self.members(&metrics),
            fatal,
            digest_mismatch: self.digest_mismatch.lock().clone(),
        }
    }

    fn members(&self, metrics: &Metrics) -> Vec<MemberInfo> {
        let membership = metrics.membership_config.membership();
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        let member = |(id, node): (&u64, &crate::types::NodeInfo)| {
            let replicated = metrics
                .replication
                .as_ref()
                .and_then(|all| all.get(id).cloned().flatten())
                .map(|l| l.index());
            let (last_log, applied) = if *id == self.id() {
                (metrics.last_log_index, Some(self.view.state.load().applied))
            } else {
                (replicated, replicated)
            };
            let voter = voters.contains(id);
            let role = match (metrics.current_leader == Some(*id), voter) {
                (true, _) => "leader",
                (false, true) => "follower",
                (false, false) => "learner",
            };
            let in_log = || MemberAddr {
                rpc: node.rpc.clone(),
                rest: node.rest.clone(),
            };
            let addr = self
                .config
                .peers
                .get(&NodeId(*id))
                .cloned()
                .unwrap_or_else(in_log);
            MemberInfo {
                id: NodeId(*id),
                addr,
                voter,
                role,
                last_log,
                applied,
            }
        };
        membership.nodes().map(member).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster_for_tests::Cluster;

    #[tokio::test]
    async fn what_became_of_a_write_is_said_as_it_is() {
        let cluster = Cluster::start(1).await;
        let core = &cluster.node(cluster.leader().await).core;
        // While leadership is handed over, nobody leads: callers wait for the next leader.
        let forward = ForwardToLeader {
            leader_id: Some(1),
            leader_node: None,
            reason: ForwardReason::LeadershipTransfer,
        };
        let transfer = RaftError::APIError(ClientWriteError::ForwardToLeader(forward));
        assert_eq!(
            core.write_error(transfer),
            ProposeError::NotLeader { leader: None }
        );
        // It may have been replicated.
        let stopped = RaftError::Fatal(openraft::errors::Fatal::Stopped);
        assert!(matches!(core.write_error(stopped), ProposeError::Unknown(_)));
        cluster.stop().await;
    }
}
