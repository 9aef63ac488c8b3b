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

/// When a leader that has lost its quorum sends no heartbeats: in every other stretch of two patiences.
///
/// With five voters or more it may still reach one of the others, which, hearing it, would never vote for another leader
/// that a quorum without this one could elect. It keeps trying in between, since nobody else may have been elected.
///
/// openraft has this too (`quorum_loss_probe_interval`), counted from its lease instead of from followers' patience: a
/// leader that was held up for a quarter of a second, or whose followers were, then fell silent for longer than they
/// wait, and was replaced without need.
struct Quiet {
    patience: Duration,
    /// Since when this one leads, in the term.
    led: Option<(u64, tokio::time::Instant)>,
}

impl Quiet {
    fn new(patience: Duration) -> Self {
        Self { patience, led: None }
    }

    /// Whether to send nothing now. `answered` is how long ago the message was sent that a quorum has answered last.
    fn holds(
        &mut self,
        leadership: &Leadership,
        answered: Option<Duration>,
        now: tokio::time::Instant,
    ) -> bool {
        if !leadership.is_leader || leadership.quorum_ok {
            self.led = None;
            return false;
        }
        let (_, since) = *match &mut self.led {
            Some(led) if led.0 == leadership.term => led,
            led => led.insert((leadership.term, now)),
        };
        let silent = answered.unwrap_or(now - since).saturating_sub(self.patience);
        let stretch = (self.patience * 2).as_nanos().max(1);
        !silent.is_zero() && (silent.as_nanos() / stretch).is_multiple_of(2)
    }
}

/// Publishes leadership whenever it changes, and notices in time when the quorum falls silent.
pub(crate) async fn run(core: Weak<Core>) {
    let (mut metrics, mut leaders, lease) = {
        let Some(core) = core.upgrade() else { return };
        (core.raft.watch(), core.raft.watch_leader(), lease(&core))
    };
    let mut quiet = Quiet::new(lease);
    loop {
        let settled = {
            let Some(core) = core.upgrade() else { return };
            let seen = metrics.borrow_watched().clone();
            if core.fatal().is_some() {
                return;
            }
            let now = leadership_of(&core, &seen);
            let answered = seen.last_quorum_acked.map(|at| at.elapsed());
            core.peers
                .be_quiet(quiet.holds(&now, answered, tokio::time::Instant::now()));
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tokio::time::Instant;

    const PATIENCE: Duration = Duration::from_millis(800);

    fn leading(quorum_ok: bool) -> Leadership {
        Leadership {
            leader: Some(NodeId(1)),
            is_leader: true,
            term: 1,
            quorum_ok,
        }
    }

    /// At which tenths of a second, up to eight, heartbeats are held back.
    fn held_back(answered: impl Fn(Duration) -> Option<Duration>) -> Vec<u64> {
        let (mut quiet, start) = (Quiet::new(PATIENCE), Instant::now());
        (0..80)
            .filter(|tenth| {
                let silent = Duration::from_millis(tenth * 100);
                quiet.holds(&leading(silent <= PATIENCE), answered(silent), start + silent)
            })
            .collect()
    }

    #[test]
    fn a_leader_is_quiet_only_after_the_patience_and_not_for_ever() {
        let expected: Vec<u64> = (9..24).chain(40..56).chain(72..80).collect();
        assert_eq!(held_back(Some), expected);
    }

    #[test]
    fn one_that_never_had_an_answer_counts_from_when_its_quorum_was_missed() {
        let held = held_back(|_| None);
        assert_eq!(held.first(), Some(&18));
        assert!(!held.contains(&40) && held.contains(&60), "{held:?}");
    }

    #[test]
    fn with_a_quorum_and_without_leadership_nothing_is_held_back() {
        let mut quiet = Quiet::new(PATIENCE);
        let now = Instant::now();
        let long = Some(PATIENCE * 2);
        assert!(quiet.holds(&leading(false), long, now));
        assert!(!quiet.holds(&leading(true), long, now));
        let follower = Leadership {
            is_leader: false,
            ..leading(false)
        };
        assert!(!quiet.holds(&follower, long, now));
    }
}
