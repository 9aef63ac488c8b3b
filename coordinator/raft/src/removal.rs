//! How a coordinator learns that it was removed: nobody sends it anything any more, so it asks.
//!
//! One that hears of no leader for a while asks the others whether it is a member. They answer from the membership
//! that they have applied, which is committed, with its place in the log. If that is not older than the newest
//! membership in the log here, and this coordinator is not in it, it was removed: it would ask for votes in vain for
//! ever, so it ends. A number that was removed is never given again to the same directory.

use crate::core::{Core, is_formed};
use crate::net::Lane;
use crate::types::{DirId, StoredMembership};
use holdfast_proto::raft as pb;
use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// In the refusal's metadata: the index of the membership that does not have the caller.
const REMOVED_AT: &str = "holdfast-not-a-member-at";
/// Without a leader for this long: elections take a tenth of it.
const SILENCE: Duration = Duration::from_secs(3);
/// Between two looks, and two questions.
const PERIOD: Duration = Duration::from_secs(1);
/// One question to one coordinator.
const ASK_DEADLINE: Duration = Duration::from_millis(500);

/// Refuses a caller that is not in the membership as applied here, and says as of which entry.
pub(crate) fn require_member(membership: &StoredMembership, from: u64) -> Result<(), Status> {
    if !is_formed(membership.membership()) || membership.get_node(&from).is_some() {
        return Ok(());
    }
    let index = membership.log_id().as_ref().map_or(0, |id| id.index());
    let mut status = Status::failed_precondition(format!(
        "coordinator {from} is not a member of the cluster as of entry {index}"
    ));
    status.metadata_mut().insert(REMOVED_AT, index.into());
    Err(status)
}

/// The entry as of which the caller was refused as no member.
fn removed_at(status: &Status) -> Option<u64> {
    status.metadata().get(REMOVED_AT)?.to_str().ok()?.parse().ok()
}

/// Asks while no leader is heard of; ends the coordinator if it was removed.
pub(crate) async fn run(core: Weak<Core>) {
    let started = Instant::now();
    loop {
        tokio::time::sleep(PERIOD).await;
        let Some(core) = core.upgrade() else { return };
        if core.has_failed() {
            return;
        }
        let heard = (*core.leader_contact.lock()).unwrap_or(started);
        let metrics = core.raft_metrics();
        let membership = &metrics.membership_config;
        // One that was never in a cluster waits to be added.
        if heard.elapsed() < SILENCE || metrics.state.is_leader() || !is_formed(membership.membership()) {
            continue;
        }
        let known = membership.log_id().as_ref().map_or(0, |id| id.index());
        if let Some((by, at)) = asked(&core, membership).await.filter(|(_, at)| *at >= known) {
            let id = core.id();
            core.fail(format!(
                "coordinator {id} was removed from the cluster (coordinator {by} says so, as of entry {at}). To use this \
                 machine again, clear its data directory and add it under a new id"
            ));
            return;
        }
    }
}

/// Asks everybody; the newest answer that this coordinator is no member, and whose it is.
async fn asked(core: &Core, membership: &StoredMembership) -> Option<(u64, u64)> {
    let mut others: BTreeMap<u64, (String, DirId)> = BTreeMap::new();
    for (id, addr) in &core.config.peers {
        others.insert(id.0, (addr.rpc.clone(), DirId::default()));
    }
    for (id, node) in membership.nodes() {
        others.insert(*id, (core.peers.addr(*id, &node.rpc), node.dir));
    }
    others.remove(&core.id());
    let questions = others.iter().map(async |(id, (addr, dir))| {
        let mut client = core.peers.client(addr, Lane::Append).ok()?;
        let request = pb::CompareDigestRequest {
            caller: Some(core.caller(*id, *dir)),
            digests: Vec::new(),
        };
        let answer = tokio::time::timeout(ASK_DEADLINE, client.compare_digest(request))
            .await
            .ok()?;
        Some((*id, removed_at(&answer.err()?)?))
    });
    let answers = futures::future::join_all(questions).await;
    answers.into_iter().flatten().max_by_key(|(_, at)| *at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::cluster_for_tests::{Cluster, wait_until};
    use crate::types::{LeaderId, LogId, Membership, NodeInfo};
    use std::collections::BTreeSet;

    #[test]
    fn only_a_formed_cluster_says_who_is_no_member() {
        assert!(require_member(&StoredMembership::default(), 9).is_ok());
        let nodes = BTreeMap::from([(1, NodeInfo::default())]);
        let formed = StoredMembership::new(
            Some(LogId::new(LeaderId { term: 1, node_id: 1 }, 7)),
            Membership::new(vec![BTreeSet::from([1])], nodes).unwrap(),
        );
        assert!(require_member(&formed, 1).is_ok());
        let refusal = require_member(&formed, 9).unwrap_err();
        assert_eq!(removed_at(&refusal), Some(7));
        assert_eq!(removed_at(&Status::failed_precondition("something else")), None);
    }

    #[tokio::test]
    async fn a_removed_coordinator_learns_of_it_and_ends() {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        cluster.write("a").await;
        // One that is away while it is removed, and comes back.
        let away = cluster.others(leader)[0];
        cluster.crash(away).await;
        cluster.remove(away).await;
        cluster.restart(away).await.unwrap();
        wait_until("it has learnt of it", || {
            cluster.node(away).metrics().fatal.is_some()
        })
        .await;
        let reason = cluster.node(away).metrics().fatal.unwrap();
        assert!(reason.contains("was removed"), "{reason}");
        // Those that stay are untouched.
        cluster.write("b").await;
        let stay = cluster.others(away);
        assert!(stay.iter().all(|id| cluster.node(*id).metrics().fatal.is_none()));
        cluster.stop().await;
    }

    #[tokio::test]
    async fn a_leader_that_is_removed_learns_of_it_too() {
        let cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        cluster.remove(leader).await;
        wait_until("it has learnt of it", || {
            cluster.node(leader).metrics().fatal.is_some()
        })
        .await;
        let reason = cluster.node(leader).metrics().fatal.unwrap();
        assert!(reason.contains("was removed"), "{reason}");
        cluster.stop().await;
    }
}
