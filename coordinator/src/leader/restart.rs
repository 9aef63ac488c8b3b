//! Restart strategies: what happens after a failure, as a pure function of the settings, the failures so far, the time
//! and some random bits. Knows nothing of jobs, tasks or the log.

use holdfast_common::clock::UnixMillis;
use holdfast_common::config::{ConfigError, Configuration, options};

/// How a job is restarted; Flink's strategies with Flink's keys.
#[derive(Debug, Clone, PartialEq)]
pub enum RestartStrategy {
    /// The first failure ends the job.
    None,
    /// So many restarts, each after the same delay.
    FixedDelay {
        /// Restarts before the job fails.
        attempts: u32,
        /// Delay before each.
        delay_ms: u64,
    },
    /// As long as failures are rare.
    FailureRate {
        /// Failures in an interval that are borne.
        max_failures: u32,
        /// The interval.
        interval_ms: u64,
        /// Delay before each restart.
        delay_ms: u64,
    },
    /// Delays grow from failure to failure and start anew after a healthy time.
    ExponentialDelay {
        /// First delay.
        initial_ms: u64,
        /// Growth.
        multiplier: f64,
        /// Longest delay.
        max_ms: u64,
        /// Random share added to or taken from a delay.
        jitter: f64,
        /// Healthy time that resets the delay.
        reset_ms: u64,
        /// Restarts without a reset before the job fails.
        attempts: u64,
    },
}

/// What to do about a failure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Next attempt not before this time.
    RestartAt(UnixMillis),
    /// The job fails; why, for people.
    GiveUp(String),
}

impl RestartStrategy {
    /// Reads a job's settings.
    ///
    /// # Errors
    /// If the type is unknown.
    pub fn from_config(config: &Configuration) -> Result<Self, ConfigError> {
        let kind = config.get(&options::RESTART_TYPE)?;
        Ok(match kind.to_ascii_lowercase().as_str() {
            "none" | "off" | "disable" => Self::None,
            "fixed-delay" | "fixeddelay" => Self::FixedDelay {
                attempts: config.get(&options::RESTART_FIXED_ATTEMPTS)?,
                delay_ms: millis(config.get(&options::RESTART_FIXED_DELAY)?),
            },
            "failure-rate" | "failurerate" => Self::FailureRate {
                max_failures: config.get(&options::RESTART_RATE_MAX)?,
                interval_ms: millis(config.get(&options::RESTART_RATE_INTERVAL)?),
                delay_ms: millis(config.get(&options::RESTART_RATE_DELAY)?),
            },
            "exponential-delay" | "exponentialdelay" => Self::ExponentialDelay {
                initial_ms: millis(config.get(&options::RESTART_EXP_INITIAL)?),
                multiplier: config.get(&options::RESTART_EXP_MULTIPLIER)?.max(1.0),
                max_ms: millis(config.get(&options::RESTART_EXP_MAX)?),
                jitter: config.get(&options::RESTART_EXP_JITTER)?.clamp(0.0, 1.0),
                reset_ms: millis(config.get(&options::RESTART_EXP_RESET)?),
                attempts: config.get(&options::RESTART_EXP_ATTEMPTS)?,
            },
            _ => {
                return Err(ConfigError::BadValue {
                    key: options::RESTART_TYPE.info.key.to_owned(),
                    value: kind,
                    type_name: "restart strategy",
                    reason: "expected none, fixed-delay, failure-rate or exponential-delay".to_owned(),
                });
            }
        })
    }

    /// The delay after a first failure, without jitter.
    #[must_use]
    pub fn first_delay_ms(&self) -> u64 {
        match *self {
            Self::None => 0,
            Self::FixedDelay { delay_ms, .. } | Self::FailureRate { delay_ms, .. } => delay_ms,
            Self::ExponentialDelay { initial_ms, .. } => initial_ms,
        }
    }

    /// Decides about a failure at `now_ms`. `earlier` holds the times of the failures before it, oldest first (the
    /// oldest may have been forgotten), `failures` how many there were, this one included.
    #[must_use]
    pub fn decide(
        &self,
        earlier: &[UnixMillis],
        failures: u64,
        now_ms: UnixMillis,
        random_bits: u64,
    ) -> Decision {
        match *self {
            Self::None => Decision::GiveUp("restart-strategy.type is none".to_owned()),
            Self::FixedDelay { attempts, delay_ms } => {
                if failures > u64::from(attempts) {
                    return Decision::GiveUp(format!(
                        "restart-strategy.fixed-delay.attempts is {attempts}, and this was failure {failures}"
                    ));
                }
                Decision::RestartAt(now_ms.saturating_add(delay_ms))
            }
            Self::FailureRate {
                max_failures,
                interval_ms,
                delay_ms,
            } => {
                let since = now_ms.saturating_sub(interval_ms);
                let recent = 1 + earlier.iter().filter(|at| **at > since).count() as u64;
                if recent > u64::from(max_failures) {
                    return Decision::GiveUp(format!(
                        "{recent} failures within {interval_ms} ms; restart-strategy.failure-rate.max-failures-per-interval is {max_failures}"
                    ));
                }
                Decision::RestartAt(now_ms.saturating_add(delay_ms))
            }
            Self::ExponentialDelay {
                initial_ms,
                multiplier,
                max_ms,
                jitter,
                reset_ms,
                attempts,
            } => {
                let (delay_ms, in_a_row) = backoff(initial_ms, multiplier, max_ms, reset_ms, earlier, now_ms);
                let forgotten = failures.saturating_sub(earlier.len() as u64 + 1);
                let never_reset = in_a_row == earlier.len() as u64 + 1;
                let in_a_row = if never_reset {
                    in_a_row + forgotten
                } else {
                    in_a_row
                };
                if in_a_row > attempts {
                    return Decision::GiveUp(format!(
                        "{in_a_row} failures without {reset_ms} ms of health; restart-strategy.exponential-delay.attempts-before-reset-backoff is {attempts}"
                    ));
                }
                Decision::RestartAt(now_ms.saturating_add(jittered(delay_ms, jitter, random_bits)))
            }
        }
    }
}

/// The delay after the newest failure and the number of failures since the last reset.
fn backoff(
    initial_ms: u64,
    multiplier: f64,
    max_ms: u64,
    reset_ms: u64,
    earlier: &[UnixMillis],
    now_ms: UnixMillis,
) -> (u64, u64) {
    let max = max_ms.max(initial_ms) as f64;
    let mut delay = initial_ms as f64;
    let mut in_a_row = 1;
    let mut last: Option<UnixMillis> = None;
    for at in earlier.iter().copied().chain([now_ms]) {
        if let Some(before) = last {
            let healthy_ms = at.saturating_sub(before).saturating_sub(delay as u64);
            if healthy_ms >= reset_ms {
                delay = initial_ms as f64;
                in_a_row = 1;
            } else {
                delay = (delay * multiplier).min(max);
                in_a_row += 1;
            }
        }
        last = Some(at);
    }
    (delay as u64, in_a_row)
}

fn jittered(delay_ms: u64, jitter: f64, random_bits: u64) -> u64 {
    // 53 bits fill a double's mantissa: a share in [-1, 1).
    let share = (random_bits >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
    (delay_ms as f64 * (1.0 + jitter * share)).max(0.0) as u64
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const EXPONENTIAL: RestartStrategy = RestartStrategy::ExponentialDelay {
        initial_ms: 100,
        multiplier: 2.0,
        max_ms: 1000,
        jitter: 0.0,
        reset_ms: 10_000,
        attempts: 6,
    };

    #[test]
    fn defaults_are_exponential_and_a_typo_is_refused() {
        let mut config = Configuration::new();
        assert!(matches!(
            RestartStrategy::from_config(&config).unwrap(),
            RestartStrategy::ExponentialDelay { initial_ms: 20, .. }
        ));
        config.set("restart-strategy.type", "fixed").unwrap();
        assert!(RestartStrategy::from_config(&config).is_err());
        config.set("restart-strategy.type", "none").unwrap();
        let strategy = RestartStrategy::from_config(&config).unwrap();
        assert!(matches!(strategy.decide(&[], 1, 5, 0), Decision::GiveUp(_)));
    }

    #[test]
    fn fixed_delay_counts_restarts() {
        let strategy = RestartStrategy::FixedDelay {
            attempts: 2,
            delay_ms: 50,
        };
        assert_eq!(strategy.decide(&[], 1, 1000, 0), Decision::RestartAt(1050));
        assert_eq!(strategy.decide(&[1000], 2, 2000, 0), Decision::RestartAt(2050));
        assert!(matches!(
            strategy.decide(&[1000, 2000], 3, 3000, 0),
            Decision::GiveUp(_)
        ));
    }

    #[test]
    fn failure_rate_forgets_old_failures() {
        let strategy = RestartStrategy::FailureRate {
            max_failures: 2,
            interval_ms: 100,
            delay_ms: 7,
        };
        assert_eq!(strategy.decide(&[1000], 2, 1050, 0), Decision::RestartAt(1057));
        assert!(matches!(
            strategy.decide(&[1000, 1050], 3, 1090, 0),
            Decision::GiveUp(_)
        ));
        assert_eq!(
            strategy.decide(&[1000, 1050], 3, 1120, 0),
            Decision::RestartAt(1127)
        );
    }

    #[test]
    fn exponential_grows_is_capped_and_resets() {
        let times: Vec<u64> = (0..5).map(|i| 1_000 + i * 1_500).collect();
        let delays: Vec<Decision> = (0..times.len())
            .map(|i| EXPONENTIAL.decide(&times[..i], i as u64 + 1, times[i], 0))
            .collect();
        let expected = [100, 200, 400, 800, 1000];
        for ((decision, at), delay) in delays.iter().zip(&times).zip(expected) {
            assert_eq!(*decision, Decision::RestartAt(at + delay));
        }
        assert_eq!(
            EXPONENTIAL.decide(&times, 6, 100_000, 0),
            Decision::RestartAt(100_100)
        );
        let close: Vec<u64> = (0..6).map(|i| 1_000 + i).collect();
        assert!(matches!(
            EXPONENTIAL.decide(&close, 7, 1_010, 0),
            Decision::GiveUp(_)
        ));
    }

    proptest! {
        #[test]
        fn jitter_stays_within_its_share(delay in 0u64..100_000, bits in any::<u64>(), jitter in 0.0f64..1.0) {
            let got = jittered(delay, jitter, bits) as f64;
            prop_assert!(got >= delay as f64 * (1.0 - jitter) - 1.0);
            prop_assert!(got <= delay as f64 * (1.0 + jitter) + 1.0);
        }
    }
}
