//! The cluster's feature level: what every coordinator understands. The leader raises it once all of them run a build
//! that does, so that during a rolling upgrade nothing is written that an older one could not read.

use crate::leader::log::ReplicatedLog;
use async_trait::async_trait;
use holdfast_common::clock::SharedClock;
use holdfast_common::{Incarnation, LeaderEpoch, NodeId};
use holdfast_machine::command::{Command, Proposal};
use holdfast_machine::state::State;
use std::sync::Arc;
use std::time::Duration;

/// The level of this build. Raised by one whenever a build writes what its predecessor does not understand.
pub const FEATURE_LEVEL: u32 = 1;

/// How often a leader looks whether the level can be raised. There is no hurry: it is raised once per upgrade.
const LOOK: Duration = Duration::from_secs(1);

/// Asks the members for the level of their builds.
#[async_trait]
pub trait Survey: Send + Sync + 'static {
    /// One answer per member, learners and this coordinator among them; `None` of those that gave none.
    async fn levels(&self) -> Vec<Option<u32>>;
}

/// Who this coordinator is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Own {
    /// Its number.
    pub node: NodeId,
    /// Its process.
    pub incarnation: Incarnation,
}

/// Raises the level whenever this coordinator leads and all members allow it. Runs until it is dropped.
pub async fn keep_raising(
    log: Arc<dyn ReplicatedLog>,
    own: Own,
    clock: SharedClock,
    survey: Arc<dyn Survey>,
) {
    loop {
        tokio::time::sleep(LOOK).await;
        let leads = log.watch_leadership().borrow().is_leader;
        let Some(epoch) = epoch_to_raise(&log.state(), own).filter(|_| leads) else {
            continue;
        };
        let Some(level) = common_level(&survey.levels().await, log.state().feature_level) else {
            continue;
        };
        let proposal = Proposal {
            proposed_ms: clock.now_ms(),
            session: None,
            command: Command::SetFeatureLevel { epoch, level },
        };
        match log.propose(proposal).await {
            Ok(_) => tracing::info!(
                level,
                "every coordinator supports this feature level: it is in force"
            ),
            Err(error) => {
                tracing::debug!(%error, level, "the feature level was not raised, it is tried again")
            }
        }
    }
}

/// The epoch under which this process may raise the level; `None` if it has not claimed one, or the level is as high as
/// this build knows.
fn epoch_to_raise(state: &State, own: Own) -> Option<LeaderEpoch> {
    let claim = state.leader.as_ref()?;
    let is_ours = (claim.node, claim.incarnation) == (own.node, own.incarnation);
    (is_ours && state.feature_level < FEATURE_LEVEL).then_some(claim.epoch)
}

/// The level that every member supports, if that is news. One silent member holds it back: it may be an old build.
fn common_level(answers: &[Option<u32>], in_force: u32) -> Option<u32> {
    let least = answers
        .iter()
        .copied()
        .collect::<Option<Vec<u32>>>()?
        .into_iter()
        .min()?;
    Some(least.min(FEATURE_LEVEL)).filter(|level| *level > in_force)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const OWN: Own = Own {
        node: NodeId(1),
        incarnation: Incarnation(7),
    };

    fn claimed(by: Own, level: u32) -> State {
        let mut state = State::default();
        let claim = Command::ClaimLeader {
            node: by.node,
            incarnation: by.incarnation,
        };
        for (index, command) in [
            claim,
            Command::SetFeatureLevel {
                epoch: LeaderEpoch(1),
                level,
            },
        ]
        .into_iter()
        .enumerate()
        {
            let proposal = Proposal {
                proposed_ms: 1,
                session: None,
                command,
            };
            state.apply(index as u64 + 1, &proposal);
        }
        state
    }

    #[test]
    fn only_the_process_that_claimed_the_role_raises_and_only_upwards() {
        assert_eq!(epoch_to_raise(&State::default(), OWN), None);
        assert_eq!(epoch_to_raise(&claimed(OWN, 0), OWN), Some(LeaderEpoch(1)));
        assert_eq!(epoch_to_raise(&claimed(OWN, FEATURE_LEVEL), OWN), None);
        let restarted = Own {
            incarnation: Incarnation(8),
            ..OWN
        };
        assert_eq!(epoch_to_raise(&claimed(restarted, 0), OWN), None);
    }

    #[test]
    fn one_old_or_silent_member_holds_the_level_back() {
        assert_eq!(common_level(&[Some(1), Some(1), Some(1)], 0), Some(1));
        assert_eq!(
            common_level(&[Some(1), Some(9)], 0),
            Some(1),
            "no more than this build knows"
        );
        assert_eq!(common_level(&[Some(1), Some(0)], 0), None);
        assert_eq!(common_level(&[Some(1), None], 0), None);
        assert_eq!(common_level(&[Some(1)], 1), None);
        assert_eq!(common_level(&[], 0), None);
    }

    struct Fixed(Vec<Option<u32>>);

    #[async_trait]
    impl Survey for Fixed {
        async fn levels(&self) -> Vec<Option<u32>> {
            self.0.clone()
        }
    }

    #[tokio::test]
    async fn the_level_reaches_the_log() {
        use crate::leader::tests::fakes::MemLog;
        let log = MemLog::new();
        log.lead(true);
        let clock: SharedClock = Arc::new(holdfast_common::clock::SystemClock);
        let propose = |command| Proposal {
            proposed_ms: 1,
            session: None,
            command,
        };
        let claim = Command::ClaimLeader {
            node: OWN.node,
            incarnation: OWN.incarnation,
        };
        log.propose(propose(claim)).await.unwrap();
        let survey = Arc::new(Fixed(vec![Some(1), Some(1)]));
        let raising = tokio::spawn(keep_raising(log.clone(), OWN, clock, survey));
        let mut applied = log.watch_applied();
        while log.state().feature_level < 1 {
            applied.changed().await.unwrap();
        }
        raising.abort();
    }
}
