//! Waiting with a deadline and a reason. The only place of the harness that sleeps to poll.

use anyhow::{Result, anyhow};
use std::fmt::Display;
use std::time::{Duration, Instant};

/// Pause between two looks at the world.
pub const POLL: Duration = Duration::from_millis(20);

/// Deadline for what a healthy cluster does in a second: ten times generous for a busy two-core machine.
pub const SOON: Duration = Duration::from_secs(30);

/// Deadline for what takes a while: starting a cluster, finishing a job.
pub const LATER: Duration = Duration::from_secs(120);

/// Asks `look` until it answers `Ok(Some(_))`. `Ok(None)` and `Err` both mean "not yet".
///
/// # Errors
/// When the deadline has passed: names `what` was waited for and the last error of `look`, if it gave one.
pub fn until<T>(
    what: impl Display,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let start = Instant::now();
    loop {
        let last = match look() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if start.elapsed() >= deadline {
            let last = last.map_or_else(String::new, |e| format!("; last answer: {e:#}"));
            return Err(anyhow!("not within {deadline:?}: {what}{last}"));
        }
        std::thread::sleep(POLL);
    }
}

/// Asks `holds` until it is true.
///
/// # Errors
/// As [`until`].
pub fn until_true(
    what: impl Display,
    deadline: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    until(what, deadline, || Ok(holds()?.then_some(())))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_deadline_names_what_was_awaited_and_the_last_error() {
        let error = until_true("the moon", Duration::ZERO, || Err(anyhow!("clouds"))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("the moon") && text.contains("clouds"), "{text}");
    }

    #[test]
    fn the_first_value_is_answered() {
        let mut left = 2;
        let value = until("a value", SOON, || {
            left -= 1;
            Ok((left == 0).then_some(7))
        });
        assert_eq!(value.unwrap(), 7);
    }
}
