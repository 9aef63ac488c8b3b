//! What this coordinator knows about who leads, for everyone who waits for it; and the first leader's first command.

use crate::api::Leadership;
use crate::core::Core;
use crate::types::Metrics;
use holdfast_common::{ClusterId, NodeId};
use holdfast_machine::{Command, Proposal};
use openraft::Instant as _;
use openraft::async_runtime::WatchReceiver;
use std::sync::Weak;
use std::time::Duration;

/// Between two tries to name the cluster.
const NAMING_RETRY: Duration = Duration::from_millis(50);

/// Leadership as openraft's metrics show it.
pub(crate) fn leadership_of(core: &Core, metrics: &Metrics) -> Leadership {
    let me = core.id();
    let is_leader = metrics.state.is_leader() && metrics.current_leader == Some(me) && core.fatal().is_none();
    let alone = metrics
        .membership_config
        .membership()
        .voter_ids()
        .all(|id| id == me);
    let recent = metrics
        .last_quorum_acked
        .is_some_and(|at| at.elapsed() <= lease(core));
    Leadership {
        leader: metrics.current_leader.map(NodeId),
        is_leader,
        term: metrics.current_term,
        quorum_ok: is_leader && (alone || recent),
    }
}

/// As long as nobody else asks to be elected while this one is silent.
fn lease(core: &Core) -> Duration {
    core.config.profile.patience()
}

/// Publishes leadership whenever it changes, and notices in time when the quorum falls silent.
pub(crate) async fn run(core: Weak<Core>) {
    let (mut metrics, mut leaders, lease) = {
        let Some(core) = core.upgrade() else { return };
        (core.raft.metrics(), core.raft.server_metrics(), lease(&core))
    };
    loop {
        let settled = {
            let Some(core) = core.upgrade() else { return };
            let seen = metrics.borrow_watched().clone();
            if core.fatal().is_some() {
                return;
            }
            let now = leadership_of(&core, &seen);
            core.leadership.send_if_modified(|was| {
                // It may have failed since: what it says then is the last word.
                let changed = *was != now && !core.has_failed();
                if changed {
                    if (was.leader, was.is_leader, was.term) != (now.leader, now.is_leader, now.term) {
                        tracing::info!(leader = ?now.leader.map(|l| l.0), term = now.term, mine = now.is_leader, "leadership");
                    }
                    *was = now;
                }
                changed
            });
            let leads_or_follows = !seen.state.is_leader() || core.leadership.borrow().quorum_ok;
            // The two are not published at one moment.
            let server = leaders.borrow_watched();
            let agree = server.state == seen.state && server.current_leader == seen.current_leader;
            agree && seen.current_leader.is_some() && leads_or_follows
        };
        // All metrics change with every batch of entries: looking at each would cost as much as working some off.
        let changed = async {
            match settled {
                true => leaders.changed().await.is_ok(),
                false => metrics.changed().await.is_ok(),
            }
        };
        // The time matters too: a quorum that says nothing changes no metric.
        if !tokio::time::timeout(lease / 8, changed).await.unwrap_or(true) {
            // Why it ended, if that is known, is noted by asking.
            if let Some(core) = core.upgrade()
                && core.fatal().is_none()
            {
                core.fail("it was shut down".to_owned());
            }
            return;
        }
    }
}

/// The first leader names the cluster; everyone writes the name beside its log.
pub(crate) async fn name_cluster(core: Weak<Core>) {
    let (mut applied, mut leadership) = {
        let Some(core) = core.upgrade() else { return };
        (core.view.applied.subscribe(), core.leadership.subscribe())
    };
    loop {
        {
            let Some(core) = core.upgrade() else { return };
            let named = core.view.state.load().cluster.as_ref().map(|cluster| cluster.id);
            if let Some(id) = named {
                if let Err(reason) = core.identity.set_cluster_id(id) {
                    core.fail(reason);
                }
                return;
            }
            if core.leadership.borrow().is_leader {
                let command = Command::InitCluster {
                    cluster_id: ClusterId(core.random.next_u128()),
                    name: core.config.cluster_name.clone(),
                };
                let proposal = Proposal {
                    proposed_ms: core.clock.now_ms(),
                    session: None,
                    command,
                };
                // Whatever comes of it shows in the state; a second name changes nothing.
                if core.propose(proposal).await.is_err() {
                    tokio::time::sleep(NAMING_RETRY).await;
                }
                continue;
            }
        }
        tokio::select! {
            changed = applied.changed() => if changed.is_err() { return },
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}
