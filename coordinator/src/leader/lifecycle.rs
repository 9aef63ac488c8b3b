//! When the leader's services run: after this coordinator has come to lead, has seen every committed entry, and has
//! claimed its epoch in the log; until it loses leadership or contact with a quorum, or another claim is in the log.

use super::core::CoreConfig;
use super::io::{Io, ManifestCache, ShapeCache};
use super::log::{ReplicatedLog, propose_until_answered};
use super::ports::{Dialer, Planner, Snapshots};
use super::services::{Ended, Services};
use crate::control::{Active, Hub};
use crate::live::LivePublisher;
use holdfast_common::clock::{SharedClock, SharedRandom};
use holdfast_common::inject::{self, points};
use holdfast_common::limits::LEADER_QUEUE_MAX;
use holdfast_common::{ClusterId, Incarnation, LeaderEpoch, NodeId};
use holdfast_machine::command::{Command, Response};
use holdfast_raft::Leadership;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Wait before a lost claim is made again by a coordinator that still leads.
const RECLAIM_PAUSE: Duration = Duration::from_millis(20);

/// What leading takes.
#[derive(Clone)]
pub struct LeaderDeps {
    /// Consensus.
    pub log: Arc<dyn ReplicatedLog>,
    /// Workers' streams.
    pub hub: Hub,
    /// Snapshot storage.
    pub snapshots: Arc<dyn Snapshots>,
    /// Plans of jobs.
    pub planner: Arc<dyn Planner>,
    /// Redials.
    pub dialer: Arc<dyn Dialer>,
    /// Stamps.
    pub clock: SharedClock,
    /// Identities and jitter.
    pub random: SharedRandom,
    /// This coordinator.
    pub node: NodeId,
    /// This process.
    pub incarnation: Incarnation,
    /// The configured name.
    pub cluster_name: String,
    /// `heartbeat.interval`.
    pub heartbeat_interval: Duration,
    /// `heartbeat.timeout`.
    pub heartbeat_timeout: Duration,
    /// For REST and metrics.
    pub live: LivePublisher,
}

/// Leads whenever this coordinator may, until `stop`.
pub async fn lead(deps: LeaderDeps, stop: CancellationToken) {
    let manifests = Arc::new(ManifestCache::default());
    let shapes = Arc::new(ShapeCache::default());
    let mut leadership = deps.log.watch_leadership();
    loop {
        if !wait_to_lead(&mut leadership, &stop).await {
            return;
        }
        let term = leadership.borrow().term;
        let claimed = tokio::select! {
            () = stop.cancelled() => return,
            () = lost(deps.log.watch_leadership(), term) => None,
            claimed = claim(&deps) => claimed,
        };
        let Some((epoch, cluster)) = claimed else {
            tokio::time::sleep(RECLAIM_PAUSE).await;
            continue;
        };
        tracing::info!(node = %deps.node, %epoch, term, "this coordinator leads");
        let ended = serve(&deps, (epoch, term), cluster, &manifests, &shapes, stop.clone()).await;
        tracing::info!(node = %deps.node, %epoch, reason = ?ended, "leading has ended");
        if ended == Ended::Stopped {
            return;
        }
        tokio::time::sleep(RECLAIM_PAUSE).await;
    }
}

async fn serve(
    deps: &LeaderDeps,
    (epoch, term): (LeaderEpoch, u64),
    cluster: ClusterId,
    manifests: &Arc<ManifestCache>,
    shapes: &Arc<ShapeCache>,
    stop: CancellationToken,
) -> Ended {
    let io = Io {
        log: Arc::clone(&deps.log),
        snapshots: Arc::clone(&deps.snapshots),
        planner: Arc::clone(&deps.planner),
        dialer: Arc::clone(&deps.dialer),
        clock: Arc::clone(&deps.clock),
        cluster,
        manifests: Arc::clone(manifests),
        shapes: Arc::clone(shapes),
    };
    let config = CoreConfig {
        node: deps.node,
        epoch,
        cluster,
        heartbeat_interval_ms: millis(deps.heartbeat_interval),
        heartbeat_timeout_ms: millis(deps.heartbeat_timeout),
    };
    let (events, inbox) = mpsc::channel(LEADER_QUEUE_MAX);
    let services = Services::new(config, io, Arc::clone(&deps.random), inbox, deps.live.clone());
    deps.hub.set_active(Some(Active { cluster, events }));
    let ended = services.run(deps.log.watch_leadership(), term, stop).await;
    deps.hub.set_active(None);
    ended
}

/// Reads everything that is committed, names the cluster if nobody has, and claims the role. `None` if that fails.
async fn claim(deps: &LeaderDeps) -> Option<(LeaderEpoch, ClusterId)> {
    if let Err(error) = deps.log.read_index().await {
        tracing::debug!(%error, "cannot lead yet");
        return None;
    }
    let log = deps.log.as_ref();
    if deps.log.state().cluster.is_none() {
        let command = Command::InitCluster {
            cluster_id: ClusterId(deps.random.next_u128()),
            name: deps.cluster_name.clone(),
        };
        propose_until_answered(log, &deps.clock, command).await.ok()?;
    }
    inject::pass(points::LEADER_CLAIM);
    let command = Command::ClaimLeader {
        node: deps.node,
        incarnation: deps.incarnation,
    };
    let applied = propose_until_answered(log, &deps.clock, command).await.ok()?;
    let Response::Epoch(epoch) = applied.response else {
        tracing::error!(response = ?applied.response, "the log refused a claim of leadership");
        return None;
    };
    inject::pass(points::LEADER_CLAIMED);
    let cluster = deps.log.state().cluster.as_ref()?.id;
    Some((epoch, cluster))
}

/// False if told to stop.
async fn wait_to_lead(leadership: &mut watch::Receiver<Leadership>, stop: &CancellationToken) -> bool {
    loop {
        let may_lead = {
            let l = leadership.borrow_and_update();
            l.is_leader && l.quorum_ok
        };
        if may_lead {
            return !stop.is_cancelled();
        }
        tokio::select! {
            () = stop.cancelled() => return false,
            changed = leadership.changed() => if changed.is_err() { return false },
        }
    }
}

async fn lost(mut leadership: watch::Receiver<Leadership>, term: u64) {
    loop {
        {
            let l = leadership.borrow_and_update();
            if !l.is_leader || !l.quorum_ok || l.term != term {
                return;
            }
        }
        if leadership.changed().await.is_err() {
            return;
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
