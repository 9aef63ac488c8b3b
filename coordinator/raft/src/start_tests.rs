//! A disk that fails under a running coordinator, and a configuration that contradicts itself.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::api::{LogStoreKind, MemberAddr, ProposeError, TimingProfile};
use crate::cluster_for_tests::{put, random, wait_until};
use crate::store::{Bounds, Flushed, LogBackend};
use crate::types::{Entry, LogId, Vote};
use holdfast_common::clock::SystemClock;
use holdfast_common::{Incarnation, NodeId};
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// From when it is told, no append is made durable any more.
struct FailingDisk {
    below: Arc<dyn LogBackend>,
    failing: Arc<AtomicBool>,
}

impl LogBackend for FailingDisk {
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
        if !self.failing.load(Ordering::Relaxed) {
            return self.below.append(entries, flushed);
        }
        // Written, readable, and never synced.
        self.below.append(entries, Flushed::new(|_| {}))?;
        flushed.done(Err(io::Error::from(io::ErrorKind::StorageFull)));
        Ok(())
    }

    fn save_vote(&self, vote: Vote, flushed: Flushed) -> io::Result<()> {
        self.below.save_vote(vote, flushed)
    }

    fn save_committed(&self, committed: LogId) -> io::Result<()> {
        self.below.save_committed(committed)
    }

    fn truncate_after(&self, last: Option<LogId>, flushed: Flushed) -> io::Result<()> {
        self.below.truncate_after(last, flushed)
    }

    fn purge(&self, upto: LogId) -> io::Result<()> {
        self.below.purge(upto)
    }
}

fn alone(dir: &Path) -> (RaftConfig, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = MemberAddr {
        rpc: listener.local_addr().unwrap().to_string(),
        rest: String::new(),
    };
    let config = RaftConfig {
        id: NodeId(1),
        cluster_name: "test".to_owned(),
        peers: BTreeMap::from([(NodeId(1), addr)]),
        data_dir: dir.to_owned(),
        profile: TimingProfile::Fast,
        log_store: LogStoreKind::RaftLog,
        snapshot_after_logs: 100,
        incarnation: Incarnation(1),
    };
    (config, listener)
}

#[tokio::test]
async fn a_disk_that_fails_stops_the_coordinator_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let (config, listener) = alone(dir.path());
    let failing = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&failing);
    let between = move |log: LogStore| {
        LogStore::new(FailingDisk {
            below: log.backend(),
            failing: told,
        })
    };
    let routes = tonic::service::Routes::default();
    let node = RaftNode::start_with(
        config,
        listener.into(),
        routes,
        Arc::new(SystemClock),
        random(),
        between,
    )
    .await
    .unwrap();
    let handle = node.handle;
    wait_until("it leads", || handle.metrics().leadership.quorum_ok).await;
    handle.propose(put("a", 1)).await.unwrap();

    // Looks without a pause from the side: once it has failed, nobody ever sees again that it leads.
    let watched = handle.clone();
    let watching = std::thread::spawn(move || {
        while watched.metrics().fatal.is_none() {
            std::thread::yield_now();
        }
        (0..1000).all(|_| {
            !watched.watch_leadership().borrow().is_leader && !watched.metrics().leadership.is_leader
        })
    });
    failing.store(true, Ordering::Relaxed);
    // It was written: in a larger cluster it might be on other disks.
    let error = handle.propose(put("b", 2)).await.unwrap_err();
    assert!(matches!(error, ProposeError::Unknown(_)), "{error}");
    wait_until("the process is told to end", || handle.metrics().fatal.is_some()).await;
    assert!(!handle.watch_leadership().borrow().is_leader);
    let error = handle.propose(put("c", 3)).await.unwrap_err();
    assert!(matches!(error, ProposeError::Stopped(_)), "{error}");
    assert!(
        watching.join().unwrap(),
        "it was seen to lead after it had failed"
    );
    assert!(!handle.state().kv.contains_key("b"));
    handle.shutdown().await;
}

#[tokio::test]
async fn a_configuration_that_contradicts_itself_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let wrong: [fn(&mut RaftConfig); 3] = [
        |c| c.peers.clear(),
        |c| c.cluster_name.clear(),
        |c| c.snapshot_after_logs = 0,
    ];
    for spoil in wrong {
        let (mut config, listener) = alone(dir.path());
        spoil(&mut config);
        let routes = tonic::service::Routes::default();
        let error = RaftNode::start(config, listener, routes, Arc::new(SystemClock), random())
            .await
            .unwrap_err();
        assert!(matches!(error, StartError::Config(_)), "{error}");
    }
}
