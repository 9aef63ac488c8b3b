//! What the leader's IO asks for and the simulator does otherwise: a clock that stands still, a log and a planner that
//! are never asked, a dialer that never dials.

use async_trait::async_trait;
use holdfast_common::clock::Clock;
use holdfast_common::{ClusterId, NodeId};
use holdfast_coordinator::leader::io::{Io, ManifestCache};
use holdfast_coordinator::leader::log::ReplicatedLog;
use holdfast_coordinator::leader::ports::{Dialer, Planner};
use holdfast_coordinator::leader::shape::Shape;
use holdfast_machine::command::Proposal;
use holdfast_machine::state::{Job, State};
use holdfast_raft::{Applied, Leadership, ProposeError};
use std::sync::Arc;
use tokio::sync::watch;

use super::ops::Outside;

struct Still;

impl Clock for Still {
    fn now_ms(&self) -> u64 {
        0
    }
}

struct Absent;

#[async_trait]
impl ReplicatedLog for Absent {
    async fn propose(&self, _: Proposal) -> Result<Applied, ProposeError> {
        Err(ProposeError::Stopped("the simulator has its own log".to_owned()))
    }

    async fn read_index(&self) -> Result<u64, ProposeError> {
        Err(ProposeError::Stopped("the simulator has its own log".to_owned()))
    }

    fn state(&self) -> Arc<State> {
        Arc::default()
    }

    fn watch_applied(&self) -> watch::Receiver<u64> {
        watch::channel(0).1
    }

    fn watch_leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::default()).1
    }

    fn rpc_of(&self, _: NodeId) -> Option<String> {
        None
    }
}

impl Planner for Absent {
    fn shape(&self, _: &Job) -> Result<Shape, String> {
        Err("the simulator plans itself".to_owned())
    }
}

#[async_trait]
impl Dialer for Absent {
    async fn is_refused(&self, _: &str) -> bool {
        false
    }
}

/// The leader's real IO over simulated storage.
pub(super) fn leader_io(outside: &Outside, cluster: ClusterId, manifests: &Arc<ManifestCache>) -> Io {
    Io {
        log: Arc::new(Absent),
        snapshots: Arc::new(outside.clone()),
        planner: Arc::new(Absent),
        dialer: Arc::new(Absent),
        clock: Arc::new(Still),
        cluster,
        manifests: Arc::clone(manifests),
        shapes: Arc::default(),
    }
}
