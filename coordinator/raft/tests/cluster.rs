//! Whole coordinators in one process, over loopback: election, proposing, reading, crashes, restarts, membership.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, put, wait_until};
use holdfast_common::NodeId;
use holdfast_machine::{Command, Proposal, Response, SessionSeq};
use holdfast_raft::{MemberAddr, MembershipError, ProposeError, StartError};
use std::time::{Duration, Instant};

#[tokio::test]
async fn three_coordinators_elect_agree_and_survive_the_leader() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for n in 0..50 {
        let applied = cluster
            .node(leader)
            .propose(put(&format!("k{n}"), n))
            .await
            .unwrap();
        assert!(matches!(applied.response, Response::Kv(entry) if entry.revision == applied.index));
    }
    let follower = cluster.others(leader)[0];
    assert!(matches!(
        cluster.node(follower).propose(put("x", 0)).await,
        Err(ProposeError::NotLeader { leader: Some(l) }) if l == leader
    ));
    assert!(matches!(
        cluster.node(follower).read_index().await,
        Err(ProposeError::NotLeader { .. })
    ));

    let killed = Instant::now();
    cluster.crash(leader).await;
    let next = cluster.leader().await;
    assert_ne!(next, leader);
    assert!(
        killed.elapsed() < Duration::from_secs(3),
        "{:?}",
        killed.elapsed()
    );
    let index = cluster.node(next).read_index().await.unwrap();
    let state = cluster.node(next).state();
    assert!(state.applied >= index);
    assert_eq!(state.kv.len(), 50);
    cluster.node(next).propose(put("after", 1)).await.unwrap();

    // The dead one comes back from its disk and catches up; all three have the same state.
    cluster.restart(leader).await.unwrap();
    cluster.wait_equal().await;
    let states: Vec<_> = cluster.ids().iter().map(|id| cluster.node(*id).state()).collect();
    assert!(
        states
            .iter()
            .all(|s| s.kv.contains_key("after") && s.digest() == states[0].digest())
    );
    let name = states[0].cluster.as_ref().unwrap().id;
    wait_until("the identity names the cluster", || {
        cluster
            .ids()
            .iter()
            .all(|id| cluster.node(*id).data_dir_identity().cluster_id == Some(name))
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_request_is_applied_once_however_often_it_is_sent() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.node(cluster.leader().await);
    let open = Proposal {
        proposed_ms: 1,
        session: None,
        command: Command::OpenSession { client: "t".into() },
    };
    let Response::Session(session) = leader.propose(open).await.unwrap().response else {
        panic!("no session")
    };
    let request = Proposal {
        session: Some(SessionSeq {
            session,
            seq: 1,
            acked_up_to: 0,
        }),
        ..put("k", 1)
    };
    let first = leader.propose(request.clone()).await.unwrap().response;
    let again = leader.propose(request).await.unwrap().response;
    assert_eq!(first, again);
    cluster.stop().await;
}

#[tokio::test]
async fn everything_survives_a_crash_of_all() {
    let mut cluster = Cluster::start(3).await;
    // Beyond a snapshot, so that the restart reads one and replays the rest.
    for n in 0..130 {
        cluster.write(&format!("k{n}")).await;
    }
    wait_until("a snapshot is taken", || {
        cluster
            .ids()
            .iter()
            .all(|id| cluster.node(*id).metrics().snapshot > 0)
    })
    .await;
    for id in cluster.ids() {
        cluster.crash(id).await;
    }
    for id in cluster.all() {
        cluster.restart(id).await.unwrap();
    }
    let leader = cluster.leader().await;
    cluster.node(leader).read_index().await.unwrap();
    assert_eq!(cluster.node(leader).state().kv.len(), 130);
    cluster.wait_equal().await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_follower_that_missed_a_purged_log_gets_a_snapshot() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let away = cluster.others(leader)[0];
    cluster.crash(away).await;
    for n in 0..400 {
        cluster.write(&format!("k{n}")).await;
    }
    wait_until("the log is purged", || {
        cluster
            .ids()
            .iter()
            .all(|id| cluster.node(*id).metrics().purged > 200)
    })
    .await;
    cluster.restart(away).await.unwrap();
    cluster.wait_equal().await;
    assert!(cluster.node(away).metrics().snapshot > 0);
    assert_eq!(cluster.node(away).state().kv.len(), 400);
    cluster.stop().await;
}

#[tokio::test]
async fn leadership_is_handed_over_on_request_and_on_shutdown() {
    let mut cluster = Cluster::start(3).await;
    let first = cluster.leader().await;
    let wanted = cluster.others(first)[1];
    cluster.node(first).propose(put("a", 1)).await.unwrap();
    let second = cluster.transfer(first, Some(wanted)).await;
    assert_eq!(second, wanted);
    wait_until("it leads", || cluster.node(wanted).metrics().leadership.is_leader).await;
    cluster.node(wanted).propose(put("b", 2)).await.unwrap();

    let stopped = Instant::now();
    cluster.shutdown(wanted).await;
    let third = cluster.leader().await;
    assert_ne!(third, wanted);
    cluster.node(third).propose(put("c", 3)).await.unwrap();
    assert!(
        stopped.elapsed() < Duration::from_secs(2),
        "{:?}",
        stopped.elapsed()
    );
    cluster.stop().await;
}

#[tokio::test]
async fn members_are_added_and_removed() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.node(leader).propose(put("a", 1)).await.unwrap();

    // Not there yet.
    let addr = cluster.addr(NodeId(4));
    let error = cluster
        .node(leader)
        .add_member(NodeId(4), addr.clone())
        .await
        .unwrap_err();
    assert!(matches!(error, MembershipError::Later(_)), "{error}");

    cluster.start_node(NodeId(4)).await.unwrap();
    cluster
        .node(leader)
        .add_member(NodeId(4), addr.clone())
        .await
        .unwrap();
    cluster.node(leader).add_member(NodeId(4), addr).await.unwrap();
    cluster.wait_equal().await;
    let members = cluster.node(leader).metrics().members;
    assert_eq!(members.iter().filter(|m| m.voter).count(), 4);

    // One that is down is removed; then this one.
    let gone = cluster.others(leader)[0];
    cluster.crash(gone).await;
    cluster.remove(gone).await;
    cluster.remove(leader).await;
    wait_until("another one leads", || {
        cluster
            .ids()
            .iter()
            .any(|id| *id != leader && cluster.node(*id).metrics().leadership.is_leader)
    })
    .await;
    cluster.crash(leader).await;
    cluster.write("b").await;
    let next = cluster.leader().await;
    assert_eq!(cluster.node(next).metrics().members.len(), 2);
    let error = cluster.node(next).remove_member(NodeId(77)).await.unwrap_err();
    assert!(matches!(error, MembershipError::Invalid(_)), "{error}");
    cluster.stop().await;
}

/// Found by a campaign (seed 1795406196): the list of peers still names the coordinator that was replaced.
#[tokio::test]
async fn a_member_starts_again_beside_one_that_was_replaced() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (replaced, other) = (cluster.others(leader)[0], cluster.others(leader)[1]);
    cluster.crash(replaced).await;
    cluster.remove(replaced).await;
    cluster.give_address(replaced, NodeId(4));
    cluster.start_node(NodeId(4)).await.unwrap();
    cluster.add(NodeId(4)).await;
    for turn in 0..5 {
        cluster.crash(other).await;
        cluster.restart(other).await.unwrap();
        cluster.write(&format!("turn {turn}")).await;
        cluster.wait_equal().await;
        assert_eq!(cluster.node(other).metrics().fatal, None);
    }
    cluster.stop().await;
}

#[tokio::test]
async fn a_wiped_voter_is_refused_under_its_old_id() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.node(leader).propose(put("a", 1)).await.unwrap();
    let wiped = cluster.others(leader)[0];
    cluster.crash(wiped).await;
    cluster.wipe(wiped);
    let error = cluster.restart(wiped).await.unwrap_err();
    assert!(
        matches!(&error, StartError::Identity(text) if text.contains("wiped")),
        "{error}"
    );
    // Its log alone gone is found without asking anyone.
    let other = cluster
        .others(leader)
        .into_iter()
        .find(|id| *id != wiped)
        .unwrap();
    cluster.crash(other).await;
    cluster.wipe_log(other);
    let error = cluster.restart(other).await.unwrap_err();
    assert!(
        matches!(&error, StartError::Identity(text) if text.contains("empty")),
        "{error}"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn a_second_coordinator_on_the_same_directory_is_refused() {
    let mut cluster = Cluster::start(1).await;
    cluster.leader().await;
    let error = cluster.start_on_dir_of(NodeId(1)).await.unwrap_err();
    assert!(matches!(error, StartError::Locked { .. }), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    cluster.stop().await;
}

#[tokio::test]
async fn addresses_may_change_between_starts() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    cluster.node(leader).propose(put("a", 1)).await.unwrap();
    for id in cluster.ids() {
        cluster.crash(id).await;
    }
    cluster.new_addresses();
    for id in cluster.all() {
        cluster.restart(id).await.unwrap();
    }
    let leader = cluster.leader().await;
    cluster.node(leader).propose(put("b", 2)).await.unwrap();
    cluster.wait_equal().await;
    let shown: Vec<MemberAddr> = cluster
        .node(leader)
        .metrics()
        .members
        .into_iter()
        .map(|m| m.addr)
        .collect();
    assert!(cluster.all().iter().all(|id| shown.contains(&cluster.addr(*id))));
    cluster.stop().await;
}

#[tokio::test]
async fn without_a_quorum_nothing_is_acknowledged_and_leadership_says_so() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    for id in cluster.others(leader) {
        cluster.crash(id).await;
    }
    wait_until("the quorum is missed", || {
        !cluster.node(leader).metrics().leadership.quorum_ok
    })
    .await;
    let error = cluster.node(leader).propose(put("lost", 1)).await.unwrap_err();
    assert!(
        matches!(error, ProposeError::NotLeader { .. } | ProposeError::Unknown(_)),
        "{error}"
    );
    cluster.stop().await;
}
