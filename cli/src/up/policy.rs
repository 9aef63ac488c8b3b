//! When a dead child is started again: a pure function of how it died and how long it had lived.

use crate::exit::Exit;
use std::time::Duration;

/// First pause before a restart.
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// Longest pause.
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// A child that has lived this long was well; its next death starts from the first pause again.
const HEALTHY: Duration = Duration::from_secs(10);
/// Deaths at once with a permanent error after which a child is given up.
const GIVE_UP_AFTER: u32 = 5;

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// By itself.
    Code(i32),
    /// By a signal.
    Signal(i32),
}

impl Death {
    /// From the operating system's answer.
    #[must_use]
    pub fn of(status: std::process::ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt;
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

impl std::fmt::Display for Death {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => match nix::sys::signal::Signal::try_from(*signal) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {signal}"),
            },
        }
    }
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start it again after this pause.
    Restart(Duration),
    /// It would fail the same way for ever.
    GiveUp,
    /// Restarts are turned off.
    Leave,
    /// It has nothing to do any more: it was removed from the cluster.
    Removed,
}

/// A child's recent past.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    quick_deaths: u32,
    permanent: u32,
}

impl History {
    /// The decision, and the past as it is from now on.
    #[must_use]
    pub fn decide(self, death: Death, lived: Duration, restarts: bool) -> (Self, Decision) {
        if death == Death::Code(i32::from(Exit::Removed.code())) {
            return (self, Decision::Removed);
        }
        if !restarts {
            return (self, Decision::Leave);
        }
        let well = lived >= HEALTHY;
        let permanent = matches!(death, Death::Code(code) if Exit::is_permanent(code));
        let next = Self {
            quick_deaths: if well {
                1
            } else {
                self.quick_deaths.saturating_add(1)
            },
            permanent: match (permanent, well) {
                (false, _) => 0,
                (true, true) => 1,
                (true, false) => self.permanent.saturating_add(1),
            },
        };
        if next.permanent >= GIVE_UP_AFTER {
            return (next, Decision::GiveUp);
        }
        let doublings = next.quick_deaths.saturating_sub(1).min(16);
        let pause = BACKOFF_FIRST.saturating_mul(1 << doublings).min(BACKOFF_MAX);
        (next, Decision::Restart(pause))
    }
}

/// In which order processes are stopped: workers, then followers, then the leader. Returns stages of indexes.
#[must_use]
pub fn stop_order(processes: &[(&str, u64)], leader: Option<u64>) -> Vec<Vec<usize>> {
    let stage = |wanted: &dyn Fn(&str, u64) -> bool| -> Vec<usize> {
        let indexes = 0..processes.len();
        indexes
            .filter(|i| processes.get(*i).is_some_and(|(role, id)| wanted(role, *id)))
            .collect()
    };
    let stages = [
        stage(&|role, _| role != "coordinator"),
        stage(&|role, id| role == "coordinator" && Some(id) != leader),
        stage(&|role, id| role == "coordinator" && Some(id) == leader),
    ];
    stages.into_iter().filter(|s| !s.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_ONCE: Duration = Duration::from_millis(50);

    fn pauses(death: Death, lived: Duration, times: usize) -> Vec<Decision> {
        let mut history = History::default();
        let mut decisions = Vec::new();
        for _ in 0..times {
            let (next, decision) = history.decide(death, lived, true);
            history = next;
            decisions.push(decision);
        }
        decisions
    }

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        let millis: Vec<u64> = pauses(Death::Signal(9), AT_ONCE, 8)
            .into_iter()
            .map(|d| match d {
                Decision::Restart(pause) => u64::try_from(pause.as_millis()).unwrap_or(0),
                _ => 0,
            })
            .collect();
        assert_eq!(millis, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    }

    #[test]
    fn a_child_that_was_well_starts_from_the_first_pause() {
        let decisions = pauses(Death::Signal(9), HEALTHY, 3);
        assert!(decisions.iter().all(|d| *d == Decision::Restart(BACKOFF_FIRST)));
    }

    #[test]
    fn permanent_errors_in_a_row_are_given_up_and_others_are_not() {
        assert_eq!(pauses(Death::Code(2), AT_ONCE, 5).last(), Some(&Decision::GiveUp));
        assert_eq!(pauses(Death::Code(3), AT_ONCE, 5).last(), Some(&Decision::GiveUp));
        assert!(!pauses(Death::Code(1), AT_ONCE, 20).contains(&Decision::GiveUp));
        assert!(!pauses(Death::Signal(9), AT_ONCE, 20).contains(&Decision::GiveUp));
        let mut history = History::default();
        for code in [2, 2, 2, 2, 1, 2, 2, 2, 2] {
            let (next, decision) = history.decide(Death::Code(code), AT_ONCE, true);
            assert_ne!(decision, Decision::GiveUp);
            history = next;
        }
    }

    #[test]
    fn without_restarts_the_dead_stay_dead() {
        assert_eq!(
            History::default().decide(Death::Code(1), AT_ONCE, false).1,
            Decision::Leave
        );
    }

    #[test]
    fn a_removed_coordinator_is_not_started_again() {
        let death = Death::Code(i32::from(Exit::Removed.code()));
        for lived in [AT_ONCE, HEALTHY] {
            assert_eq!(History::default().decide(death, lived, true).1, Decision::Removed);
        }
    }

    #[test]
    fn workers_stop_first_and_the_leader_last() {
        let processes = [
            ("coordinator", 1),
            ("coordinator", 2),
            ("coordinator", 3),
            ("worker", 1),
            ("worker", 2),
        ];
        assert_eq!(
            stop_order(&processes, Some(2)),
            vec![vec![3, 4], vec![0, 2], vec![1]]
        );
        assert_eq!(stop_order(&processes, None), vec![vec![3, 4], vec![0, 1, 2]]);
        assert_eq!(stop_order(&[], None), Vec::<Vec<usize>>::new());
    }
}
