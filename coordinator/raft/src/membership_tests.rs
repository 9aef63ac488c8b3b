//! Changes that are left half done, that cannot be finished, and members that die on the way.
#![allow(clippy::unwrap_used)]
use super::has_majority;
use crate::api::MembershipError;
use crate::cluster_for_tests::{Cluster, put, wait_until};
use crate::types::{Membership, NodeInfo, Payload};
use holdfast_common::NodeId;
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn a_majority_is_of_those_that_vote() {
    let has = |voters: &[u64], silent: &[u64]| {
        has_majority(
            &voters.iter().copied().collect(),
            &silent.iter().copied().collect(),
        )
    };
    assert!(has(&[1], &[]) && has(&[1, 2, 3], &[3]) && has(&[1, 2, 3, 4], &[9]));
    assert!(!has(&[1, 2], &[2]) && !has(&[1, 2, 3], &[2, 3]) && !has(&[1, 2, 3, 4], &[3, 4]));
}

#[tokio::test]
async fn a_removal_that_could_never_commit_is_refused() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let dead = cluster.others(leader)[1];
    cluster.write("a").await;
    cluster.crash(dead).await;
    // Whoever leads now refuses to remove the other one.
    let (error, live) = loop {
        let leader = cluster.leader().await;
        let live = cluster.others(leader)[0];
        let core = &cluster.node(leader).core;
        if super::recently_acked(core, &core.raft_metrics(), dead.0) {
            tokio::time::sleep(super::POLL).await;
            continue;
        }
        let before = core.raft_metrics().membership_config;
        let error = cluster.node(leader).remove_member(live).await.unwrap_err();
        assert_eq!(
            core.raft_metrics().membership_config,
            before,
            "nothing was appended"
        );
        // A busy machine may have deposed it.
        if !matches!(error, MembershipError::NotLeader { .. }) {
            break (error, live);
        }
    };
    assert!(matches!(error, MembershipError::Later(_)), "{error}");
    assert!(error.to_string().contains(&cluster.addr(dead).rpc), "{error}");
    cluster.write("b").await;
    // The dead one goes, and then there are two: the live one may go too.
    cluster.remove(dead).await;
    cluster.remove(live).await;
    cluster.write("c").await;
    cluster.stop().await;
}

/// It joined as a learner and died: waiting for it to catch up would be in vain.
#[tokio::test]
async fn a_new_member_that_dies_is_named_soon() {
    let mut cluster = Cluster::start(1).await;
    let leader = cluster.leader().await;
    let new = NodeId(2);
    cluster.start_node(new).await.unwrap();
    let core = &cluster.node(leader).core;
    let node = NodeInfo {
        rpc: cluster.addr(new).rpc,
        dir: cluster.node(new).core.identity.dir(),
        ..NodeInfo::default()
    };
    core.raft
        .ask(|raft| raft.add_learner(new.0, node, false))
        .await
        .unwrap();
    cluster.crash(new).await;
    let core = &cluster.node(leader).core;
    let started = super::Instant::now();
    let error = core.promote(new.0).await.unwrap_err();
    assert!(
        started.elapsed() < super::CATCH_UP_DEADLINE / 2,
        "{:?}",
        started.elapsed()
    );
    assert!(error.to_string().contains(&cluster.addr(new).rpc), "{error}");
    cluster.stop().await;
}

/// A membership of two sets is what a leader leaves that dies between the two entries of a change.
#[tokio::test]
async fn a_change_left_half_done_is_finished() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let raft = &cluster.node(leader).core.raft;
    let membership = cluster.node(leader).core.raft_metrics().membership_config;
    let nodes: BTreeMap<u64, NodeInfo> = membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
    let wanted = BTreeSet::from([leader.0, cluster.others(leader)[0].0]);
    let joint = Membership::new(vec![BTreeSet::from([1, 2, 3]), wanted.clone()], nodes).unwrap();
    raft.ask(|raft| raft.append_membership(joint.clone(), Payload::Membership(joint), []))
        .await
        .unwrap();
    wait_until("the second set alone votes", || {
        let core = &cluster.node(leader).core;
        core.raft_metrics()
            .membership_config
            .membership()
            .get_joint_config()
            == &vec![wanted.clone()]
    })
    .await;
    cluster.node(leader).propose(put("a", 1)).await.unwrap();
    cluster.stop().await;
}
