//! Changing the set of coordinators, and handing leadership over. All of it runs on the leader; what a leader leaves
//! unfinished, the next one finishes.

use crate::api::{MemberAddr, MembershipError};
use crate::bootstrap::{Reply, probe};
use crate::core::{Core, describe, node_info};
use crate::types::{Metrics, TypeConfig};
use holdfast_common::NodeId;
use holdfast_common::inject::{self, points};
use openraft::ChangeMembers;
use openraft::Instant as _;
use openraft::errors::{ChangeMembershipError, ClientWriteError, RaftError};
use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Weak;
use std::time::Duration;
use tokio::time::Instant;

/// A new member that acknowledges nothing for this long is taken for dead: it is some hundred heartbeats, and a
/// snapshot on its way does not delay them.
const NEW_MEMBER_SILENCE: Duration = Duration::from_secs(3);
/// A majority that is missed for a moment, after an election or in a stall, is waited for.
const REMOVAL_PATIENCE: Duration = Duration::from_secs(1);
/// A new member must have the log within this time before it may vote.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(30);
/// Entries that a member may lack and still count as caught up.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// One entry of a membership change.
const CHANGE_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at progress.
/// Between two tries to hand leadership over.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(2);
const POLL: Duration = Duration::from_millis(10);
/// Between two looks for a membership change that a crash left half done.
const RECONCILE: Duration = Duration::from_millis(500);
/// A change is taken for abandoned only when it has stood for this many looks.
const ABANDONED_LOOKS: u32 = 2;

type WriteError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

impl Core {
    fn require_leader(&self) -> Result<(), MembershipError> {
        if let Some(reason) = self.fatal() {
            return Err(MembershipError::Stopped(reason));
        }
        let metrics = self.raft_metrics();
        if metrics.state.is_leader() {
            return Ok(());
        }
        Err(MembershipError::NotLeader {
            leader: metrics.current_leader.map(NodeId),
        })
    }

    /// Adds a coordinator: first it only listens; once it has the log, it votes.
    pub(crate) async fn add_member(&self, id: NodeId, addr: MemberAddr) -> Result<(), MembershipError> {
        self.require_leader()?;
        let _one_at_a_time = self.changing.lock().await;
        let dir = match probe(self, Some(id.0), &addr.rpc).await {
            Reply::Pristine { dir, .. } => dir,
            Reply::Formed { our_dir: Some(_) } | Reply::Between => {
                return self.promote_known(id, &addr).await;
            }
            Reply::Formed { our_dir: None } => {
                return Err(MembershipError::Invalid(format!(
                    "coordinator {id} at {} belongs to a cluster that does not know this one",
                    addr.rpc
                )));
            }
            Reply::Silent => {
                return Err(MembershipError::Later(format!(
                    "coordinator {id} does not answer at {}: start it first",
                    addr.rpc
                )));
            }
            Reply::Refused(why) => return Err(MembershipError::Invalid(why)),
            Reply::Mistaken(other) => {
                return Err(MembershipError::Invalid(format!(
                    "at {} answers coordinator {other}, not {id}",
                    addr.rpc
                )));
            }
        };
        let node = node_info(&addr, dir);
        let membership = self.raft_metrics().membership_config;
        if let Some(known) = membership.get_node(&id.0)
            && known.dir != dir
        {
            return Err(MembershipError::Invalid(format!(
                "coordinator {id} is a member already, with another data directory: remove it and use a new id"
            )));
        }
        if membership.get_node(&id.0).is_none() {
            crash_point()?;
            bounded(self.raft.ask(|raft| raft.add_learner(id.0, node, false))).await?;
        }
        self.promote(id.0).await
    }

    /// The coordinator has entries already: it is one of ours that stopped half way, or a stranger.
    async fn promote_known(&self, id: NodeId, addr: &MemberAddr) -> Result<(), MembershipError> {
        if self.raft_metrics().membership_config.get_node(&id.0).is_none() {
            return Err(MembershipError::Invalid(format!(
                "coordinator {id} at {} has been a member before: clear its data directory and use a new id",
                addr.rpc
            )));
        }
        self.promote(id.0).await
    }

    async fn promote(&self, id: u64) -> Result<(), MembershipError> {
        if self
            .raft_metrics()
            .membership_config
            .voter_ids()
            .any(|voter| voter == id)
        {
            return Ok(());
        }
        let mut answered = Instant::now();
        let caught_up = async {
            loop {
                self.require_leader()?;
                let metrics = self.raft_metrics();
                if recently_acked(self, &metrics, id) {
                    answered = Instant::now();
                } else if answered.elapsed() > NEW_MEMBER_SILENCE {
                    return Err(self.does_not_answer(id));
                }
                let behind = metrics
                    .last_log_index
                    .unwrap_or(0)
                    .saturating_sub(CAUGHT_UP_ENTRIES);
                if matched(&metrics, id).is_some_and(|index| index >= behind) {
                    return Ok::<(), MembershipError>(());
                }
                tokio::time::sleep(POLL).await;
            }
        };
        tokio::time::timeout(CATCH_UP_DEADLINE, caught_up)
            .await
            .map_err(|_| {
                MembershipError::Later(format!(
                    "coordinator {id} listens now, but does not keep up with the log yet"
                ))
            })??;
        crash_point()?;
        let change = ChangeMembers::AddVoterIds(BTreeSet::from([id]));
        bounded(self.raft.ask(|raft| raft.change_membership(change, true))).await
    }

    fn does_not_answer(&self, id: u64) -> MembershipError {
        let addr = self.addr_of(id).map_or_else(String::new, |addr| addr.rpc);
        MembershipError::Later(format!(
            "coordinator {id} has stopped answering at {addr}: it listens to the log and does not vote. Start it, and \
             add it again; or remove it"
        ))
    }

    /// Removes a coordinator, which may be down, and may be this one.
    pub(crate) async fn remove_member(&self, id: NodeId) -> Result<(), MembershipError> {
        self.require_leader()?;
        let _one_at_a_time = self.changing.lock().await;
        let membership = self.raft_metrics().membership_config;
        if membership.get_node(&id.0).is_none() {
            return Err(MembershipError::Invalid(format!(
                "coordinator {id} is not a member"
            )));
        }
        let voters: BTreeSet<u64> = membership.voter_ids().collect();
        let ids = BTreeSet::from([id.0]);
        if voters != ids {
            self.require_majorities(&voters, id.0).await?;
        }
        crash_point()?;
        if !voters.contains(&id.0) {
            let change = ChangeMembers::RemoveNodes(ids);
            return bounded(self.raft.ask(|raft| raft.change_membership(change, false))).await;
        }
        if voters.len() == 1 {
            return Err(MembershipError::Invalid(format!(
                "coordinator {id} is the last one that votes"
            )));
        }
        let change = ChangeMembers::RemoveVoters(ids);
        bounded(self.raft.ask(|raft| raft.change_membership(change, false))).await
    }

    /// A change needs a majority of those that vote now and of those that vote then, and there is no way back from one
    /// that is appended: until it commits, nothing else does.
    async fn require_majorities(&self, voters: &BTreeSet<u64>, leaving: u64) -> Result<(), MembershipError> {
        let remaining: BTreeSet<u64> = voters.iter().copied().filter(|id| *id != leaving).collect();
        let patience = Instant::now() + REMOVAL_PATIENCE;
        let silent = loop {
            self.require_leader()?;
            let metrics = self.raft_metrics();
            let silent: BTreeSet<u64> = voters
                .iter()
                .copied()
                .filter(|id| *id != self.id() && !recently_acked(self, &metrics, *id))
                .collect();
            if has_majority(voters, &silent) && has_majority(&remaining, &silent) {
                return Ok(());
            }
            if Instant::now() > patience {
                break silent;
            }
            tokio::time::sleep(POLL).await;
        };
        let named = |id: &u64| {
            let addr = self.addr_of(*id).map_or_else(String::new, |addr| addr.rpc);
            format!("coordinator {id} at {addr}")
        };
        let named: Vec<String> = silent.iter().map(named).collect();
        Err(MembershipError::Later(format!(
            "without coordinator {leaving} there would be no majority: not heard of within {:?}: {}. Nothing was \
             changed. Start it, or remove it first",
            self.config.profile.election_max(),
            named.join(", ")
        )))
    }

    /// Hands leadership over before this coordinator stops. For a moment nobody may be near enough to take it, while
    /// something large is on its way: it is asked again for as long as an election would take.
    pub(crate) async fn hand_over(&self) -> Result<NodeId, MembershipError> {
        let until = Instant::now() + self.config.profile.election_max();
        let alone = self.raft_metrics().membership_config.voter_ids().count() <= 1;
        loop {
            match self.transfer_leader(None).await {
                Err(MembershipError::Later(_)) if !alone && Instant::now() < until => {
                    tokio::time::sleep(HAND_OVER_PAUSE).await;
                }
                done => return done,
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn nobody_is_near(&self) -> bool {
        best_target(self, &self.raft_metrics()).is_none()
    }

    /// Hands leadership over and waits for it to happen. Without a target, to the follower that is nearest.
    pub(crate) async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, MembershipError> {
        self.require_leader()?;
        let metrics = self.raft_metrics();
        let target = match to {
            Some(NodeId(id)) if id == self.id() => return Ok(NodeId(id)),
            Some(NodeId(id)) => check_target(self, &metrics, id)?,
            None => best_target(self, &metrics).ok_or_else(|| {
                MembershipError::Later("no other coordinator is caught up and heard of recently".to_owned())
            })?,
        };
        self.raft
            .ask(async |raft| raft.trigger().transfer_leader(target).await)
            .await
            .map_err(|fatal| MembershipError::Stopped(describe(&fatal)))?;
        let me = self.id();
        let handed_over = async {
            loop {
                if let Some(leader) = self.raft_metrics().current_leader.filter(|leader| *leader != me) {
                    return leader;
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        // There is no way back: until somebody leads, this one takes no writes. The others elect in any case.
        let deadline = self.config.profile.election_max() * 8;
        let leader = tokio::time::timeout(deadline, handed_over).await.map_err(|_| {
            MembershipError::Unknown(format!(
                "coordinator {target} has not taken over within {deadline:?}"
            ))
        })?;
        Ok(NodeId(leader))
    }
}

fn has_majority(voters: &BTreeSet<u64>, silent: &BTreeSet<u64>) -> bool {
    voters.difference(silent).count() > voters.len() / 2
}

fn crash_point() -> Result<(), MembershipError> {
    inject::point(points::RAFT_MEMBERSHIP).map_err(|error| MembershipError::Later(error.to_string()))
}

fn matched(metrics: &Metrics, id: u64) -> Option<u64> {
    metrics
        .replication
        .as_ref()?
        .get(&id)?
        .as_ref()
        .map(|log_id| log_id.index())
}

fn recently_acked(core: &Core, metrics: &Metrics, id: u64) -> bool {
    let acked = metrics
        .heartbeat
        .as_ref()
        .and_then(|all| all.get(&id).copied().flatten());
    acked.is_some_and(|at| at.elapsed() <= core.config.profile.election_max())
}

fn lag(metrics: &Metrics, id: u64) -> Option<u64> {
    Some(
        metrics
            .last_log_index
            .unwrap_or(0)
            .saturating_sub(matched(metrics, id)?),
    )
}

fn check_target(core: &Core, metrics: &Metrics, id: u64) -> Result<u64, MembershipError> {
    if !metrics.membership_config.voter_ids().any(|voter| voter == id) {
        return Err(MembershipError::Invalid(format!(
            "coordinator {id} does not vote"
        )));
    }
    let near = lag(metrics, id).is_some_and(|lag| lag <= CAUGHT_UP_ENTRIES);
    if !near || !recently_acked(core, metrics, id) {
        return Err(MembershipError::Later(format!(
            "coordinator {id} is not caught up or not heard of recently"
        )));
    }
    Ok(id)
}

/// A transfer to one that lags or is gone would leave the cluster without a leader: none is better.
fn best_target(core: &Core, metrics: &Metrics) -> Option<u64> {
    let voters = metrics
        .membership_config
        .voter_ids()
        .filter(|id| *id != core.id());
    voters
        .filter(|id| recently_acked(core, metrics, *id))
        .filter_map(|id| Some((lag(metrics, id)?, id)))
        .filter(|(lag, _)| *lag <= CAUGHT_UP_ENTRIES)
        .min()
        .map(|(_, id)| id)
}

async fn bounded<T>(change: impl Future<Output = Result<T, WriteError>>) -> Result<(), MembershipError> {
    match tokio::time::timeout(CHANGE_DEADLINE, change).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(membership_error(error)),
        Err(_) => Err(MembershipError::Unknown(format!(
            "no quorum has agreed within {CHANGE_DEADLINE:?}"
        ))),
    }
}

fn membership_error(error: WriteError) -> MembershipError {
    let api = match error {
        RaftError::Fatal(fatal) => return MembershipError::Stopped(describe(&fatal)),
        RaftError::APIError(api) => api,
    };
    match api {
        ClientWriteError::ForwardToLeader(forward) => MembershipError::NotLeader {
            leader: forward.leader_id.map(NodeId),
        },
        ClientWriteError::LogEntryDiscarded(_) => {
            MembershipError::Unknown("the leader has changed".to_owned())
        }
        ClientWriteError::ChangeMembershipError(
            error @ (ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_)),
        ) => MembershipError::Later(error.to_string()),
        ClientWriteError::ChangeMembershipError(error) => MembershipError::Invalid(error.to_string()),
        ClientWriteError::PreconditionFailed(error) => MembershipError::Later(error.to_string()),
    }
}

/// Finishes what a leader that died left half done: a membership of two sets becomes that of the second.
pub(crate) async fn reconcile(core: Weak<Core>) {
    let mut standing: Option<(Vec<BTreeSet<u64>>, u32)> = None;
    loop {
        tokio::time::sleep(RECONCILE).await;
        let Some(core) = core.upgrade() else { return };
        let metrics = core.raft_metrics();
        let configs = metrics.membership_config.membership().get_joint_config().clone();
        if !metrics.state.is_leader() || configs.len() < 2 {
            standing = None;
            continue;
        }
        // A change that is under way on this leader holds the lock.
        let Ok(_one_at_a_time) = core.changing.try_lock() else {
            continue;
        };
        let looks = match standing.take() {
            Some((seen, looks)) if seen == configs => looks + 1,
            _ => 1,
        };
        standing = Some((configs.clone(), looks));
        let Some(wanted) = configs.last().filter(|_| looks >= ABANDONED_LOOKS) else {
            continue;
        };
        tracing::warn!(voters = ?wanted, "finishing a membership change that was left half done");
        // Whoever leaves the voters stays as a learner: removing it altogether is an operator's word, given again.
        let change = ChangeMembers::ReplaceAllVoters(wanted.clone());
        if let Err(error) = bounded(core.raft.ask(|raft| raft.change_membership(change, true))).await {
            tracing::warn!(%error, "the membership change is not finished yet");
        }
    }
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
