//! What the gRPC port answers: the key-value service, and the refusals between coordinators.
#![allow(clippy::unwrap_used)]

mod common;

use common::{Cluster, put, wait_until};
use holdfast_common::NodeId;
use holdfast_proto::client::client_client::ClientClient;
use holdfast_proto::client::{
    Consistency, ExecuteRequest, KvPut, OpenSessionRequest, ReadRequest, Rejected, Value, execute_request,
    execute_response, open_session_response, read_response, rejected,
};
use holdfast_proto::raft::raft_client::RaftClient;
use holdfast_proto::raft::{Caller, CompareDigestRequest, IndexDigest, ProbeRequest};
use std::time::{Duration, Instant};
use tonic::Code;
use tonic::transport::Channel;

async fn channel(cluster: &Cluster, id: NodeId) -> Channel {
    let uri = format!("http://{}", cluster.addr(id).rpc);
    Channel::from_shared(uri).unwrap().connect().await.unwrap()
}

fn put_request(session: u64, seq: u64, value: &[u8], if_revision: Option<u64>) -> ExecuteRequest {
    let put = KvPut {
        key: "k".to_owned(),
        value: value.to_vec().into(),
        if_revision,
    };
    ExecuteRequest {
        session,
        seq,
        acked_up_to: 0,
        command: Some(execute_request::Command::KvPut(put)),
    }
}

async fn read(client: &mut ClientClient<Channel>, consistency: Consistency) -> read_response::Result {
    let request = ReadRequest {
        key: "k".to_owned(),
        consistency: consistency.into(),
    };
    client.read(request).await.unwrap().into_inner().result.unwrap()
}

#[tokio::test]
async fn the_key_value_service_answers_once_and_linearizably() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let mut client = ClientClient::new(channel(&cluster, leader).await);
    let opened = client
        .open_session(OpenSessionRequest {
            client: "t".to_owned(),
        })
        .await
        .unwrap()
        .into_inner();
    let Some(open_session_response::Result::Session(session)) = opened.result else {
        panic!("{opened:?}")
    };

    let first = client
        .execute(put_request(session, 1, b"v", Some(0)))
        .await
        .unwrap()
        .into_inner();
    let again = client
        .execute(put_request(session, 1, b"v", Some(0)))
        .await
        .unwrap()
        .into_inner();
    let (Some(execute_response::Result::Applied(first)), Some(execute_response::Result::Applied(again))) =
        (first.result, again.result)
    else {
        panic!("not applied")
    };
    assert_eq!(first.revision, again.revision);
    assert!(again.index > first.index, "an entry, but no second write");

    let refused = client
        .execute(put_request(session, 2, b"w", Some(0)))
        .await
        .unwrap()
        .into_inner();
    let Some(execute_response::Result::Rejected(Rejected { kind, revision, .. })) = refused.result else {
        panic!("not refused")
    };
    assert_eq!(
        (kind, revision),
        (rejected::Kind::Revision.into(), first.revision)
    );

    let found = read(&mut client, Consistency::Linearizable).await;
    assert!(
        matches!(&found, read_response::Result::Value(Value { found: true, value, .. }) if value.as_ref() == b"v"),
        "{found:?}"
    );

    // A follower names the leader; what it has itself is only given to those who say that it may be old.
    cluster.wait_equal().await;
    let mut follower = ClientClient::new(channel(&cluster, cluster.others(leader)[0]).await);
    let elsewhere = follower
        .execute(put_request(session, 3, b"x", None))
        .await
        .unwrap()
        .into_inner();
    let Some(execute_response::Result::NotLeader(not_leader)) = elsewhere.result else {
        panic!("not refused")
    };
    assert_eq!(
        (not_leader.leader, not_leader.leader_rpc),
        (Some(leader.0), cluster.addr(leader).rpc)
    );
    assert!(matches!(
        read(&mut follower, Consistency::Linearizable).await,
        read_response::Result::NotLeader(_)
    ));
    assert!(matches!(
        read(&mut follower, Consistency::Stale).await,
        read_response::Result::Value(Value { found: true, .. })
    ));
    cluster.stop().await;
}

#[tokio::test]
async fn messages_that_are_not_meant_for_a_coordinator_are_refused() {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let to = cluster.others(leader)[0];
    let mut client = RaftClient::new(channel(&cluster, to).await);
    wait_until("it knows its cluster", || {
        cluster.node(to).data_dir_identity().cluster_id.is_some()
    })
    .await;
    let dir = |id: NodeId| {
        cluster
            .node(id)
            .data_dir_identity()
            .first_incarnation
            .to_bytes()
            .to_vec()
            .into()
    };
    let good = Caller {
        cluster_name: "test".to_owned(),
        cluster_id: Vec::new().into(),
        from: leader.0,
        to: to.0,
        from_dir: dir(leader),
        to_dir: dir(to),
    };
    let other: prost::bytes::Bytes = vec![9; 16].into();
    let wrong = [
        (
            "belongs to cluster",
            Caller {
                cluster_name: "other".to_owned(),
                ..good.clone()
            },
        ),
        (
            "belongs to cluster",
            Caller {
                cluster_id: other.clone(),
                ..good.clone()
            },
        ),
        (
            "this is coordinator",
            Caller {
                to: leader.0,
                ..good.clone()
            },
        ),
        (
            "lost its data directory",
            Caller {
                to_dir: other.clone(),
                ..good.clone()
            },
        ),
        (
            "another data directory",
            Caller {
                from_dir: other,
                ..good.clone()
            },
        ),
    ];
    for (text, caller) in wrong {
        let request = CompareDigestRequest {
            caller: Some(caller),
            digests: vec![],
        };
        let status = client.compare_digest(request).await.unwrap_err();
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains(text), "{status}");
    }
    let request = ProbeRequest {
        cluster_name: "other".to_owned(),
        from: 9,
    };
    assert_eq!(
        client.probe(request).await.unwrap_err().code(),
        Code::FailedPrecondition
    );

    // One that is meant for it, and differs, is shouted about. The naming of the cluster took a digest.
    let index = 1..20;
    let digests = index
        .map(|index| IndexDigest {
            index,
            digest: vec![0; 16].into(),
        })
        .collect();
    let request = CompareDigestRequest {
        caller: Some(good),
        digests,
    };
    let answer = client.compare_digest(request).await.unwrap().into_inner();
    assert!(
        answer.compared > 0 && answer.different.len() == answer.compared as usize,
        "{answer:?}"
    );
    let mismatch = cluster.node(to).metrics().digest_mismatch.unwrap();
    assert!(mismatch.contains("has state"), "{mismatch}");
    cluster.stop().await;
}

/// Not a benchmark: it shows in the test's output how long a failover takes, and fails only if the hint does nothing.
#[tokio::test]
async fn a_dead_leader_is_replaced_about_a_lease_later() {
    let mut times = Vec::new();
    for _ in 0..3 {
        let mut cluster = Cluster::start(3).await;
        let leader = cluster.leader().await;
        cluster.node(leader).propose(put("a", 1)).await.unwrap();
        cluster.wait_equal().await;
        // Connections for the hint are made a moment after the leader is known.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let killed = Instant::now();
        cluster.crash(leader).await;
        wait_until("another leader", || {
            cluster
                .ids()
                .iter()
                .any(|id| cluster.node(*id).metrics().leadership.is_leader)
        })
        .await;
        times.push(killed.elapsed());
        let next = cluster.leader().await;
        cluster.node(next).propose(put("b", 2)).await.unwrap();
        cluster.stop().await;
    }
    times.sort();
    println!("failover: {times:?}");
    assert!(times[0] < Duration::from_millis(800), "{times:?}");
}
