//! Coordinators in one process, each with its own directory and port, for the tests of the crate.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

use holdfast_common::clock::{Random, SharedClock, SharedRandom, SystemClock};
use holdfast_common::{Incarnation, NodeId};
use holdfast_machine::{Command, Proposal};
use holdfast_raft::{LogStoreKind, MemberAddr, RaftConfig, RaftHandle, RaftNode, StartError, TimingProfile};
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Longer than anything takes, so that only a defect meets it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Counting(AtomicU64);

impl Random for Counting {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed)
    }
}

/// Different in every process and directory.
pub fn random() -> SharedRandom {
    use std::hash::{BuildHasher, Hasher};
    let seed = std::collections::hash_map::RandomState::new()
        .build_hasher()
        .finish();
    Arc::new(Counting(AtomicU64::new(seed)))
}

pub fn put(key: &str, n: u64) -> Proposal {
    let clock: SharedClock = Arc::new(SystemClock);
    Proposal {
        proposed_ms: clock.now_ms(),
        session: None,
        command: Command::KvPut {
            key: key.to_owned(),
            value: n.to_be_bytes().to_vec().into(),
            if_revision: None,
        },
    }
}

pub async fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub struct Cluster {
    root: tempfile::TempDir,
    nodes: BTreeMap<NodeId, RaftHandle>,
    /// Ports stay the same over restarts, so they are bound anew.
    addrs: BTreeMap<NodeId, MemberAddr>,
    listeners: BTreeMap<NodeId, TcpListener>,
    initial: u64,
    store: LogStoreKind,
}

fn bind() -> (TcpListener, MemberAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let rpc = listener.local_addr().unwrap().to_string();
    (
        listener,
        MemberAddr {
            rest: format!("rest-of-{rpc}"),
            rpc,
        },
    )
}

impl Cluster {
    pub async fn start(initial: u64) -> Self {
        let store =
            std::env::var("HOLDFAST_TEST_LOG_STORE").map_or(LogStoreKind::RaftLog, |s| s.parse().unwrap());
        let mut cluster = Self {
            root: tempfile::tempdir().unwrap(),
            nodes: BTreeMap::new(),
            addrs: BTreeMap::new(),
            listeners: BTreeMap::new(),
            initial,
            store,
        };
        // One more address than members, for one that joins.
        for id in 1..=initial + 1 {
            let (listener, addr) = bind();
            cluster.listeners.insert(NodeId(id), listener);
            cluster.addrs.insert(NodeId(id), addr);
        }
        cluster.listeners.remove(&NodeId(initial + 1));
        let configs: Vec<RaftConfig> = (1..=initial).map(|id| cluster.config(NodeId(id))).collect();
        let starts = configs.into_iter().map(|config| {
            let listener = cluster.listeners.remove(&config.id).unwrap();
            async move { (config.id, start(config, listener).await.unwrap()) }
        });
        let started = futures::future::join_all(starts.collect::<Vec<_>>()).await;
        cluster.nodes = started.into_iter().collect();
        cluster
    }

    fn config(&self, id: NodeId) -> RaftConfig {
        let mut peers: BTreeMap<NodeId, MemberAddr> = (1..=self.initial)
            .map(|id| (NodeId(id), self.addrs[&NodeId(id)].clone()))
            .collect();
        peers.insert(id, self.addrs[&id].clone());
        // Whoever takes the place of another one is not told of it: the two have one address.
        peers.retain(|other, addr| *other == id || addr.rpc != self.addrs[&id].rpc);
        RaftConfig {
            id,
            cluster_name: "test".to_owned(),
            peers,
            data_dir: self.dir(id),
            profile: TimingProfile::Standard,
            log_store: self.store,
            snapshot_after_logs: 50,
            incarnation: Incarnation(u128::from(id.0)),
        }
    }

    pub fn dir(&self, id: NodeId) -> PathBuf {
        self.root.path().join(id.to_string())
    }

    pub fn addr(&self, id: NodeId) -> MemberAddr {
        self.addrs[&id].clone()
    }

    pub fn new_addresses(&mut self) {
        for id in self.all() {
            self.addrs.insert(id, bind().1);
        }
    }

    pub fn node(&self, id: NodeId) -> &RaftHandle {
        &self.nodes[&id]
    }

    /// Those that run.
    pub fn ids(&self) -> Vec<NodeId> {
        self.nodes.keys().copied().collect()
    }

    /// The initial ones, running or not.
    pub fn all(&self) -> Vec<NodeId> {
        (1..=self.initial).map(NodeId).collect()
    }

    pub fn others(&self, id: NodeId) -> Vec<NodeId> {
        self.ids().into_iter().filter(|other| *other != id).collect()
    }

    /// Waits until one of those that run leads with a quorum, and answers which.
    pub async fn leader(&self) -> NodeId {
        let mut found = None;
        wait_until("a leader", || {
            found = self.ids().into_iter().find(|id| {
                let leadership = self.node(*id).metrics().leadership;
                leadership.is_leader && leadership.quorum_ok
            });
            found.is_some()
        })
        .await;
        let leader = found.unwrap();
        wait_until("the cluster is named", || {
            self.node(leader).state().cluster.is_some()
        })
        .await;
        leader
    }

    /// Waits until all that run have applied the same.
    pub async fn wait_equal(&self) {
        wait_until("all have applied the same", || {
            let applied: Vec<u64> = self
                .ids()
                .iter()
                .map(|id| self.node(*id).state().applied)
                .collect();
            applied.windows(2).all(|w| w[0] == w[1])
        })
        .await;
        for id in self.ids() {
            assert_eq!(self.node(id).metrics().digest_mismatch, None);
        }
    }

    /// Writes at whoever leads, again if that changes meanwhile: a busy machine may depose a leader at any time.
    pub async fn write(&self, key: &str) {
        let start = Instant::now();
        loop {
            let leader = self.leader().await;
            match self.node(leader).propose(put(key, 1)).await {
                Ok(_) => return,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    /// Adds a member at whoever leads, in the same way.
    pub async fn add(&self, id: NodeId) {
        let start = Instant::now();
        loop {
            let leader = self.leader().await;
            match self.node(leader).add_member(id, self.addr(id)).await {
                Ok(()) => return,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    /// Gives a coordinator the address of one that is gone.
    pub fn give_address(&mut self, from: NodeId, to: NodeId) {
        let addr = self.addr(from);
        self.addrs.insert(to, addr);
    }

    /// Removes a member at whoever leads, in the same way.
    pub async fn remove(&self, id: NodeId) {
        let start = Instant::now();
        loop {
            let leader = self.leader().await;
            let member = self
                .node(leader)
                .metrics()
                .members
                .iter()
                .any(|member| member.id == id);
            match self.node(leader).remove_member(id).await {
                Ok(()) => return,
                Err(_) if !member => return,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
        }
    }

    /// Transfers are refused while followers have only just appeared.
    pub async fn transfer(&self, from: NodeId, to: Option<NodeId>) -> NodeId {
        let start = Instant::now();
        loop {
            match self.node(from).transfer_leader(to).await {
                Ok(leader) => return leader,
                Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn crash(&mut self, id: NodeId) {
        self.nodes.remove(&id).unwrap().crash().await;
    }

    pub async fn shutdown(&mut self, id: NodeId) {
        self.nodes.remove(&id).unwrap().shutdown().await;
    }

    pub fn wipe(&self, id: NodeId) {
        std::fs::remove_dir_all(self.dir(id)).unwrap();
    }

    pub fn wipe_log(&self, id: NodeId) {
        std::fs::remove_dir_all(self.dir(id).join(format!("log-{}", self.store))).unwrap();
    }

    pub async fn start_node(&mut self, id: NodeId) -> Result<(), StartError> {
        self.restart(id).await
    }

    pub async fn restart(&mut self, id: NodeId) -> Result<(), StartError> {
        let listener = TcpListener::bind(&self.addrs[&id].rpc).unwrap();
        let handle = start(self.config(id), listener).await?;
        self.nodes.insert(id, handle);
        Ok(())
    }

    pub async fn start_on_dir_of(&mut self, id: NodeId) -> Result<(), StartError> {
        let (listener, _) = bind();
        start(self.config(id), listener).await.map(|_| ())
    }

    pub async fn stop(mut self) {
        while let Some((_, node)) = self.nodes.pop_first() {
            node.crash().await;
        }
    }
}

async fn start(config: RaftConfig, listener: TcpListener) -> Result<RaftHandle, StartError> {
    let routes = tonic::service::Routes::default();
    let node = RaftNode::start(config, listener, routes, Arc::new(SystemClock), random()).await?;
    Ok(node.handle)
}
