//! What a log stream does before it is open.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::api::{LogStoreKind, MemberAddr, TimingProfile};
use crate::types::{DirId, LeaderId};
use holdfast_common::{Incarnation, NodeId};
use std::collections::BTreeMap;

fn network(dir: &std::path::Path, rpc: &str) -> Network {
    let addr = MemberAddr {
        rpc: rpc.to_owned(),
        rest: String::new(),
    };
    let config = Arc::new(RaftConfig {
        id: NodeId(1),
        cluster_name: "test".to_owned(),
        peers: BTreeMap::from([(NodeId(2), addr)]),
        data_dir: dir.to_owned(),
        profile: TimingProfile::Standard,
        log_store: LogStoreKind::RaftLog,
        snapshot_after_logs: 100,
        incarnation: Incarnation(1),
    });
    let factory = NetworkFactory {
        identity: Arc::new(Identity::open(&config, DirId(1)).unwrap()),
        peers: Arc::new(Peers::new(config.peers.clone())),
        asked_for: Arc::default(),
        config,
    };
    factory.network(2, &NodeInfo::default(), Lane::Append)
}

/// openraft waits inside the stream of requests after a failure. A peer that refuses connections was dialled without
/// asking for a request, and so without a pause: some thousand times a second. Found by the simulator.
#[tokio::test]
async fn nobody_is_dialled_before_there_is_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let refusing = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let mut network = network(dir.path(), &refusing);
    let option = || RPCOption::new(Duration::from_millis(100));
    let pausing = futures::stream::pending::<AppendEntriesRequest<TypeConfig>>();
    let opening = network.stream_append(pausing, option());
    let waited = tokio::time::timeout(Duration::from_millis(500), opening)
        .await
        .is_err();
    assert!(waited, "the peer was dialled during the pause");
    let request = AppendEntriesRequest::<TypeConfig> {
        vote: Vote {
            leader_id: LeaderId { term: 1, node_id: 1 },
            committed: true,
        },
        prev_log_id: None,
        entries: Vec::new(),
        leader_commit: None,
    };
    let failed = network
        .stream_append(futures::stream::iter([request]), option())
        .await;
    assert!(matches!(failed, Err(RPCError::Unreachable(_))));
}
