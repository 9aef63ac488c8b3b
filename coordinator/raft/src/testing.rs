//! What a simulator sees of the coordinators that run in its process, and does to their disks. Nothing here exists
//! for a process that is not simulated.

use crate::api::{Applied, ProposeError, RaftMetrics};
use crate::core::Core;
use crate::handle::RaftHandle;
use crate::store::simulated::disk;
use holdfast_common::NodeId;
use holdfast_machine::{Proposal, State};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// A coordinator that was started in this process; it may have died since.
#[derive(Clone)]
pub struct Node {
    core: Weak<Core>,
    host: Handle,
}

static NODES: Mutex<BTreeMap<NodeId, Node>> = Mutex::new(BTreeMap::new());

/// Called by a coordinator that has started in a simulator.
pub(crate) fn register(handle: &RaftHandle) {
    let node = Node {
        core: Arc::downgrade(&handle.core),
        host: Handle::current(),
    };
    NODES.lock().insert(handle.core.config.id, node);
}

/// The coordinator that was last started under this number, if it lives.
#[must_use]
pub fn node(id: NodeId) -> Option<Node> {
    let node = NODES.lock().get(&id).cloned();
    node.filter(|node| node.core.strong_count() > 0)
}

impl Node {
    /// Its metrics.
    #[must_use]
    pub fn metrics(&self) -> Option<RaftMetrics> {
        self.core.upgrade().map(|core| core.metrics())
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> Option<Arc<State>> {
        self.core.upgrade().map(|core| core.view.state.load_full())
    }

    /// Proposes on its own runtime. The receiver ends without an answer if it dies.
    #[must_use]
    pub fn propose(&self, proposal: Proposal) -> oneshot::Receiver<Result<Applied, ProposeError>> {
        let (sender, receiver) = oneshot::channel();
        if let Some(core) = self.core.upgrade() {
            self.host.spawn(async move {
                let _ = sender.send(core.propose(proposal).await);
            });
        }
        receiver
    }
}

fn log_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("log-simulated")
}

/// The machine under a data directory loses its power: of the unsynced writes of its log, `keep` chooses how many of the
/// first survive. Answers how many are lost.
pub fn lose_power(data_dir: &Path, keep: impl FnOnce(usize) -> usize) -> usize {
    disk(&log_dir(data_dir)).lock().lose_power(keep)
}

/// How long syncs of the log take from now on, in turn; at least one.
pub fn set_sync_times(data_dir: &Path, times: Vec<Duration>) {
    if !times.is_empty() {
        disk(&log_dir(data_dir)).lock().sync_takes = times;
    }
}

/// From now on syncs of the log fail, until [`lose_power`] stands for a new disk controller.
pub fn fail_syncs(data_dir: &Path) {
    disk(&log_dir(data_dir)).lock().sync_fails = true;
}

/// Syncs of the log so far.
#[must_use]
pub fn syncs(data_dir: &Path) -> u64 {
    disk(&log_dir(data_dir)).lock().syncs
}
