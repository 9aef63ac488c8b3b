//! Disks that hold every sync up for long: nobody may lose leadership by that.
#![allow(clippy::unwrap_used)]

use crate::api::{LogStoreKind, MemberAddr, RaftConfig, TimingProfile};
use crate::cluster_for_tests::{put, random, wait_until};
use crate::handle::RaftHandle;
use crate::start::RaftNode;
use crate::store::{Bounds, Flushed, LogBackend, LogStore};
use crate::types::{Entry, LogId, Vote};
use holdfast_common::clock::SystemClock;
use holdfast_common::{Incarnation, NodeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

type Held = Vec<(Flushed, io::Result<()>)>;

/// While it is stalled, what became durable is not told.
#[derive(Clone, Default)]
struct Stall(Arc<Mutex<Option<Held>>>);

impl Stall {
    fn begin(&self) {
        self.0.lock().get_or_insert_default();
    }

    fn end(&self) {
        for (flushed, result) in self.0.lock().take().unwrap_or_default() {
            flushed.done(result);
        }
    }

    fn behind(&self, flushed: Flushed) -> Flushed {
        let stall = self.clone();
        Flushed::new(move |result| {
            let mut held = stall.0.lock();
            match held.as_mut() {
                Some(held) => held.push((flushed, result)),
                None => {
                    drop(held);
                    flushed.done(result);
                }
            }
        })
    }
}

struct StallingDisk {
    below: Arc<dyn LogBackend>,
    stall: Stall,
}

impl LogBackend for StallingDisk {
    fn bounds(&self) -> io::Result<Bounds> {
        self.below.bounds()
    }

    fn vote(&self) -> io::Result<Option<Vote>> {
        self.below.vote()
    }

    fn committed(&self) -> io::Result<Option<LogId>> {
        self.below.committed()
    }

    fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        self.below.read(range, bytes_max)
    }

    fn append(&self, entries: Vec<Entry>, flushed: Flushed) -> io::Result<()> {
        self.below.append(entries, self.stall.behind(flushed))
    }

    fn save_vote(&self, vote: Vote, flushed: Flushed) -> io::Result<()> {
        self.below.save_vote(vote, self.stall.behind(flushed))
    }

    fn save_committed(&self, committed: LogId) -> io::Result<()> {
        self.below.save_committed(committed)
    }

    fn truncate_after(&self, last: Option<LogId>, flushed: Flushed) -> io::Result<()> {
        self.below.truncate_after(last, self.stall.behind(flushed))
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        self.below.purge(upto)
    }
}

async fn three(dir: &std::path::Path) -> Vec<(RaftHandle, Stall)> {
    let listeners: BTreeMap<u64, std::net::TcpListener> = (1..=3)
        .map(|id| (id, std::net::TcpListener::bind("127.0.0.1:0").unwrap()))
        .collect();
    let peers: BTreeMap<NodeId, MemberAddr> = listeners
        .iter()
        .map(|(id, listener)| {
            let addr = MemberAddr {
                rpc: listener.local_addr().unwrap().to_string(),
                rest: String::new(),
            };
            (NodeId(*id), addr)
        })
        .collect();
    let mut nodes = Vec::new();
    for (id, listener) in listeners {
        let config = RaftConfig {
            id: NodeId(id),
            cluster_name: "test".to_owned(),
            peers: peers.clone(),
            data_dir: dir.join(id.to_string()),
            profile: TimingProfile::Standard,
            log_store: LogStoreKind::RaftLog,
            snapshot_after_logs: 100,
            incarnation: Incarnation(u128::from(id)),
        };
        let stall = Stall::default();
        let told = stall.clone();
        let between = move |log: LogStore| {
            LogStore::new(StallingDisk {
                below: log.backend(),
                stall: told,
            })
        };
        let routes = tonic::service::Routes::default();
        let clock = Arc::new(SystemClock);
        let node = RaftNode::start_with(config, listener.into(), routes, clock, random(), between)
            .await
            .unwrap();
        nodes.push((node.handle, stall));
    }
    nodes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_keeps_its_quorum_while_every_disk_is_held_up() {
    let dir = tempfile::tempdir().unwrap();
    let nodes = three(dir.path()).await;
    let leads = || nodes.iter().find(|(h, _)| h.metrics().leadership.quorum_ok);
    wait_until("somebody leads", || leads().is_some()).await;
    let leader = leads().unwrap().0.clone();
    leader.propose(put("a", 1)).await.unwrap();
    let term = leader.metrics().leadership.term;

    nodes.iter().for_each(|(_, stall)| stall.begin());
    let writer = leader.clone();
    let writing = tokio::spawn(async move { writer.propose(put("b", 2)).await });
    let start = Instant::now();
    // Longer than the lease and the patience of followers together.
    while start.elapsed() < TimingProfile::Standard.patience() * 2 {
        let now = leader.metrics().leadership;
        assert!(
            now.quorum_ok && now.term == term,
            "{now:?} after {:?}",
            start.elapsed()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(!writing.is_finished(), "acknowledged without a disk");
    nodes.iter().for_each(|(_, stall)| stall.end());
    writing.await.unwrap().unwrap();
    assert_eq!(leader.metrics().leadership.term, term);
    for (handle, _) in nodes {
        handle.shutdown().await;
    }
}
