//! What each case does, what it needs, and the time below which no implementation with the same timing can be. Pure.

use crate::args::DrillCase as Case;
use holdfast_common::config::{ConfigError, Configuration, options};
use holdfast_raft::TimingProfile;
use std::time::Duration;

/// All cases, in the order in which `all` runs them: those that need a cluster with cuttable links last.
pub const ALL: [Case; 9] = [
    Case::Leader,
    Case::LeaderGraceful,
    Case::PauseLeader,
    Case::Follower,
    Case::Worker,
    Case::WorkerSilent,
    Case::StorageOutage,
    Case::PartitionLeader,
    Case::Blip,
];

/// The case's name on the command line.
#[must_use]
pub fn name(case: Case) -> &'static str {
    match case {
        Case::Leader => "leader",
        Case::LeaderGraceful => "leader-graceful",
        Case::Follower => "follower",
        Case::Worker => "worker",
        Case::WorkerSilent => "worker-silent",
        Case::PartitionLeader => "partition-leader",
        Case::PauseLeader => "pause-leader",
        Case::All => "all",
        Case::StorageOutage => "storage-outage",
        Case::Blip => "blip",
    }
}

/// What it does, for people.
#[must_use]
pub fn about(case: Case) -> &'static str {
    match case {
        Case::Leader => "kill -9 of the leading coordinator",
        Case::LeaderGraceful => "SIGTERM to the leading coordinator",
        Case::Follower => "kill -9 of a coordinator that follows",
        Case::Worker => "kill -9 of a worker that has tasks",
        Case::WorkerSilent => "a worker that has tasks stands still (SIGSTOP), its connections stay open",
        Case::PartitionLeader => "the leader is cut off from all coordinators and workers for 3 s",
        Case::PauseLeader => "the leader stands still (SIGSTOP) for 3 s",
        Case::All => "all cases",
        Case::StorageOutage => "snapshot storage fails for 5 s",
        Case::Blip => "one link is cut for 1 s: from the leader to a follower or to a worker, in turn",
    }
}

/// Whether links must be cut.
#[must_use]
pub fn needs_relays(case: Case) -> bool {
    matches!(case, Case::PartitionLeader | Case::Blip)
}

/// Whether a cluster that somebody else started can be used: its processes can be hurt, its links and storage are not
/// ours.
#[must_use]
pub fn runs_against_others(case: Case) -> bool {
    !needs_relays(case) && case != Case::StorageOutage
}

/// Whether it is the leader that fails.
#[must_use]
pub fn hits_leader(case: Case) -> bool {
    matches!(
        case,
        Case::Leader | Case::LeaderGraceful | Case::PartitionLeader | Case::PauseLeader
    )
}

/// How long the fault lasts; `None` for one that is over at once.
#[must_use]
pub fn hold(case: Case, timing: &Timing) -> Option<Duration> {
    match case {
        Case::PartitionLeader | Case::PauseLeader => Some(Duration::from_secs(3)),
        // Longer than its heartbeat timeout, so that it is replaced before it wakes.
        Case::WorkerSilent => Some(Duration::from_secs_f64(timing.worker_timeout / 1e3 + 3.0)),
        Case::StorageOutage => Some(Duration::from_secs(5)),
        Case::Blip => Some(Duration::from_secs(1)),
        _ => None,
    }
}

/// The settings that bound a failover from below, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Timing {
    heartbeat: f64,
    election_min: f64,
    election_max: f64,
    patience: f64,
    worker_interval: f64,
    worker_timeout: f64,
    restart_delay: f64,
}

impl Timing {
    /// From a cluster's settings.
    ///
    /// # Errors
    /// If one is wrong.
    pub fn of(config: &Configuration) -> Result<Self, ConfigError> {
        let profile: TimingProfile = config.get(&options::RAFT_PROFILE)?.parse().unwrap_or_default();
        let millis = |time: Duration| time.as_secs_f64() * 1e3;
        Ok(Self {
            heartbeat: millis(profile.heartbeat()),
            election_min: millis(profile.election_min()),
            election_max: millis(profile.election_max()),
            patience: millis(profile.patience()),
            worker_interval: millis(config.get(&options::HEARTBEAT_INTERVAL)?),
            worker_timeout: millis(config.get(&options::HEARTBEAT_TIMEOUT)?),
            restart_delay: millis(config.get(&options::RESTART_EXP_INITIAL)?),
        })
    }
}

/// A bound from below for the median and the largest sample of one measure, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Floor {
    /// Of the median.
    pub p50: f64,
    /// What no sample needs to exceed, on a machine that does nothing else.
    pub max: f64,
}

/// The bounds of a case.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Floors {
    /// Of `detect_ms`.
    pub detect: Option<Floor>,
    /// Of `elect_ms`.
    pub elect: Option<Floor>,
    /// Of `write_gap_ms` and `read_gap_ms`.
    pub service: Option<Floor>,
    /// Of `output_gap_ms`.
    pub output: Option<Floor>,
}

/// The bounds: `write_ms` is the median of an undisturbed write, that is, a round trip and a flush on a majority.
///
/// A follower grants its vote only when the lease (`election_max`) is over since it heard from the leader, which was up
/// to a heartbeat before the fault. A leader whose connection was reset and whose port refuses is succeeded right then;
/// otherwise followers bear its silence for the profile's patience, each adds a share of `election_min`, and the least of
/// two draws counts. Then come a round of votes and the leader's first entry.
#[must_use]
pub fn floors(case: Case, timing: Timing, write_ms: f64) -> Floors {
    let lease = Floor {
        p50: timing.election_max - timing.heartbeat / 2.0,
        max: timing.election_max,
    };
    let plus = |floor: Floor, p50: f64, max: f64| Floor {
        p50: floor.p50 + p50,
        max: floor.max + max,
    };
    // The median of the least of two uniform draws lies where (1 - x)^2 is one half.
    let least_of_two = 1.0 - 0.5_f64.sqrt();
    let draw = timing.election_min * least_of_two;
    let silence = Floor {
        p50: timing.patience - timing.heartbeat / 2.0,
        max: timing.patience,
    };
    match case {
        Case::Leader => Floors {
            detect: Some(Floor { p50: 0.0, max: 0.0 }),
            elect: Some(plus(lease, write_ms, write_ms)),
            service: Some(plus(lease, 2.0 * write_ms, 2.0 * write_ms)),
            output: Some(Floor { p50: 0.0, max: 0.0 }),
        },
        Case::PauseLeader | Case::PartitionLeader => Floors {
            detect: Some(plus(silence, draw, timing.election_min)),
            elect: Some(Floor {
                p50: write_ms,
                max: write_ms,
            }),
            service: Some(plus(
                silence,
                draw + 2.0 * write_ms,
                timing.election_min + 2.0 * write_ms,
            )),
            output: Some(Floor { p50: 0.0, max: 0.0 }),
        },
        Case::LeaderGraceful => Floors {
            service: Some(Floor {
                p50: 2.0 * write_ms,
                max: 2.0 * write_ms,
            }),
            output: Some(Floor { p50: 0.0, max: 0.0 }),
            ..Floors::default()
        },
        Case::Worker => Floors {
            detect: Some(Floor { p50: 0.0, max: 0.0 }),
            output: Some(Floor {
                p50: timing.restart_delay,
                max: timing.restart_delay,
            }),
            ..Floors::default()
        },
        Case::WorkerSilent => {
            let detect = Floor {
                p50: timing.worker_timeout - timing.worker_interval / 2.0,
                max: timing.worker_timeout,
            };
            Floors {
                detect: Some(detect),
                output: Some(plus(detect, timing.restart_delay, timing.restart_delay)),
                ..Floors::default()
            }
        }
        Case::Follower | Case::StorageOutage | Case::Blip | Case::All => Floors {
            output: Some(Floor { p50: 0.0, max: 0.0 }),
            ..Floors::default()
        },
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn floors_follow_the_timing() {
        let timing = Timing::of(&Configuration::new()).unwrap();
        let leader = floors(Case::Leader, timing, 1.0);
        assert_eq!(
            leader.service,
            Some(Floor {
                p50: 189.5,
                max: 202.0
            })
        );
        let paused = floors(Case::PauseLeader, timing, 1.0).service.unwrap();
        assert!((paused.p50 - 818.8).abs() < 0.1, "{paused:?}");
        assert!((paused.max - 902.0).abs() < 0.1, "{paused:?}");
        let silent = floors(Case::WorkerSilent, timing, 1.0).detect.unwrap();
        assert_eq!((silent.p50, silent.max), (1900.0, 2000.0));
        let fast = Configuration::from_pairs([("high-availability.raft.profile", "fast")]).unwrap();
        let fast = floors(Case::Leader, Timing::of(&fast).unwrap(), 1.0);
        assert_eq!(fast.service.unwrap().p50, 94.5);
    }

    #[test]
    fn cuttable_links_come_last_and_every_case_once() {
        let first = ALL.iter().position(|c| needs_relays(*c)).unwrap();
        assert!(ALL[first..].iter().all(|c| needs_relays(*c)));
        let mut sorted = ALL.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 9);
    }
}
