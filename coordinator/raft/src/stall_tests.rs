//! Disks that hold every sync up for long, by which nobody may lose leadership; and one that fails in the end.
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

    fn holds(&self) -> bool {
        self.0.lock().as_ref().is_some_and(|held| !held.is_empty())
    }

    /// What was written in the meantime is lost.
    fn fail(&self) {
        for (flushed, _) in self.0.lock().take().unwrap_or_default() {
            flushed.done(Err(io::Error::other("the disk is broken")));
        }
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

async fn start(count: u64, dir: &std::path::Path) -> Vec<(RaftHandle, Stall)> {
    let listeners: BTreeMap<u64, std::net::TcpListener> = (1..=count)
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
    let nodes = start(3, dir.path()).await;
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

/// The last thing that openraft's core lets go of. Until it is told to, it does not go: the core has closed its channels
/// by then, and its task has not ended.
#[derive(Debug)]
struct LastBreath {
    begins: std::sync::mpsc::SyncSender<()>,
    ends: Mutex<std::sync::mpsc::Receiver<()>>,
}

impl Drop for LastBreath {
    fn drop(&mut self) {
        let _ = self.begins.send(());
        let _ = self.ends.lock().recv();
    }
}

impl openraft::metrics::MetricsRecorder for LastBreath {
    fn record_apply_batch(&self, _: u64) {}
    fn record_append_batch(&self, _: u64) {}
    fn record_write_batch(&self, _: u64) {}
    fn set_current_term(&self, _: u64) {}
    fn set_last_log_index(&self, _: u64) {}
    fn set_committed_index(&self, _: u64) {}
    fn set_applied_index(&self, _: u64) {}
    fn set_snapshot_index(&self, _: u64) {}
    fn set_purged_index(&self, _: u64) {}
    fn set_server_state(&self, _: u8) {}
    fn increment_vote(&self) {}
    fn increment_heartbeat(&self) {}
    fn increment_append(&self) {}
}

/// jepsen's seed 1795440171: after a failed sync, one call was dropped while it waited for consensus to end, and the
/// next one panicked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_may_be_dropped_while_consensus_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (handle, disk) = start(1, dir.path()).await.remove(0);
    wait_until("it leads", || handle.metrics().leadership.quorum_ok).await;
    handle.propose(put("a", 1)).await.unwrap();
    let (begins, begun) = std::sync::mpsc::sync_channel(1);
    let (end, ends) = std::sync::mpsc::sync_channel(1);
    let last = LastBreath {
        begins,
        ends: Mutex::new(ends),
    };
    let consensus = &handle.core.raft;
    consensus
        .ask(|raft| raft.set_metrics_recorder(Some(Arc::new(last))))
        .await
        .unwrap();

    disk.begin();
    let mut first = Box::pin(handle.propose(put("b", 2)));
    assert!(futures::poll!(&mut first).is_pending());
    wait_until("it is on its way to the disk", || disk.holds()).await;
    disk.fail();
    let begun = tokio::task::spawn_blocking(move || begun.recv_timeout(Duration::from_secs(60)));
    begun.await.unwrap().unwrap();
    // It is answered or not; then nobody waits for it any more.
    let _ = futures::poll!(&mut first);
    drop(first);

    let second = consensus.ask(|raft| raft.with_raft_state(|state| state.local_committed().copied()));
    let stopped = second.await.unwrap_err();
    assert!(
        matches!(stopped, openraft::errors::Fatal::StorageError(_)),
        "{stopped}"
    );
    let requests = futures::stream::pending();
    let answers = consensus.append(requests);
    let answers: Vec<_> = futures::StreamExt::collect(answers).await;
    assert!(matches!(answers[..], [Err(_)]), "{answers:?}");
    end.send(()).unwrap();
    handle.shutdown().await;
}
