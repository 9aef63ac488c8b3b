//! The replicated log as the leader's services use it: a trait, so that the services also run over a log in memory.

use async_trait::async_trait;
use holdfast_common::NodeId;
use holdfast_common::clock::SharedClock;
use holdfast_machine::command::{Command, Proposal, Rejection, Response};
use holdfast_machine::state::State;
use holdfast_raft::{Applied, Leadership, ProposeError, RaftHandle};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Wait before a proposal without a definite answer is made again.
const PROPOSE_RETRY: Duration = Duration::from_millis(20);

/// What the services need of consensus.
#[async_trait]
pub trait ReplicatedLog: Send + Sync + 'static {
    /// Proposes; answers when the entry is applied here.
    ///
    /// # Errors
    /// If it is not applied, or nobody knows.
    async fn propose(&self, proposal: Proposal) -> Result<Applied, ProposeError>;
    /// Waits until the local state holds everything that was committed when this was called.
    ///
    /// # Errors
    /// If this coordinator cannot show that it leads.
    async fn read_index(&self) -> Result<u64, ProposeError>;
    /// The local state.
    fn state(&self) -> Arc<State>;
    /// Changes when the state does.
    fn watch_applied(&self) -> watch::Receiver<u64>;
    /// Changes when leadership does.
    fn watch_leadership(&self) -> watch::Receiver<Leadership>;
    /// Where a coordinator's RPC is reached.
    fn rpc_of(&self, node: NodeId) -> Option<String>;
}

#[async_trait]
impl ReplicatedLog for RaftHandle {
    async fn propose(&self, proposal: Proposal) -> Result<Applied, ProposeError> {
        Self::propose(self, proposal).await
    }

    async fn read_index(&self) -> Result<u64, ProposeError> {
        Self::read_index(self).await
    }

    fn state(&self) -> Arc<State> {
        Self::state(self)
    }

    fn watch_applied(&self) -> watch::Receiver<u64> {
        Self::watch_applied(self)
    }

    fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        Self::watch_leadership(self)
    }

    fn rpc_of(&self, node: NodeId) -> Option<String> {
        self.member_addr(node)
            .map(|addr| addr.rpc)
            .filter(|rpc| !rpc.is_empty())
    }
}

/// Proposes until the log gives a definite answer, and until the local state shows it. Proposing again is safe: entries
/// of one leader keep their order, so when the second copy is answered, the first was applied before or never will be;
/// the caller looks at the state. Goes on until it is dropped if this coordinator no longer leads.
///
/// # Errors
/// If consensus has stopped on this coordinator.
pub async fn propose_until_answered(
    log: &dyn ReplicatedLog,
    clock: &SharedClock,
    command: Command,
) -> Result<Applied, String> {
    loop {
        let proposal = Proposal {
            proposed_ms: clock.now_ms(),
            session: None,
            command: command.clone(),
        };
        match log.propose(proposal).await {
            Ok(applied) => {
                show(log, applied.index).await;
                return Ok(applied);
            }
            Err(ProposeError::TooLarge { bytes, limit }) => {
                let text = format!("the entry has {bytes} bytes, the log takes at most {limit}");
                return Ok(Applied {
                    index: log.state().applied,
                    response: Response::Rejected(Rejection::Limit(text)),
                });
            }
            Err(ProposeError::Stopped(reason)) => return Err(reason),
            Err(error) => {
                tracing::debug!(%error, "proposal is made again");
                tokio::time::sleep(PROPOSE_RETRY).await;
            }
        }
    }
}

async fn show(log: &dyn ReplicatedLog, index: u64) {
    let mut applied = log.watch_applied();
    while log.state().applied < index {
        if applied.changed().await.is_err() {
            return;
        }
    }
}
