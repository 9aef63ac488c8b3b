//! The drill's time: microseconds since it began, comparable with the stamps in the processes' logs.

use holdfast_common::clock::{Clock, SystemClock};
use std::time::{Duration, Instant};

/// The beginning in both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Timebase {
    start: Instant,
    unix_us: i64,
}

impl Timebase {
    /// Begins now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            unix_us: i64::try_from(SystemClock.now_us()).unwrap_or(0),
        }
    }

    /// Microseconds since the beginning, by the monotonic clock.
    #[must_use]
    pub fn now(&self) -> i64 {
        i64::try_from(self.start.elapsed().as_micros()).unwrap_or(i64::MAX)
    }

    /// A log's stamp on this scale.
    #[must_use]
    pub fn of_unix(&self, unix_us: i64) -> i64 {
        unix_us - self.unix_us
    }

    /// A moment of this scale as a stamp.
    #[must_use]
    pub fn to_unix(self, at: i64) -> i64 {
        at + self.unix_us
    }

    /// The instant of a moment, for timers.
    #[must_use]
    pub fn instant(&self, at: i64) -> Instant {
        self.start + Duration::from_micros(u64::try_from(at).unwrap_or(0))
    }
}

/// Microseconds as milliseconds.
#[must_use]
pub fn millis(us: i64) -> f64 {
    us as f64 / 1e3
}
