//! Wall-clock time and randomness as arguments, so that the same code runs under a simulator.

use std::sync::Arc;

/// Milliseconds since the Unix epoch, UTC.
pub type UnixMillis = u64;

/// A source of wall-clock time. Waiting is done with tokio's timers; this is for stamps only.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> UnixMillis;

    /// Microseconds since the Unix epoch, as finely as the source knows them.
    fn now_us(&self) -> u64 {
        self.now_ms().saturating_mul(1000)
    }
}

/// A source of random bits. Implementations are seeded in simulation.
pub trait Random: Send + Sync + 'static {
    /// The next 64 random bits.
    fn next_u64(&self) -> u64;

    /// The next 128 random bits.
    fn next_u128(&self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }
}

/// Shared handle to a clock.
pub type SharedClock = Arc<dyn Clock>;
/// Shared handle to a source of randomness.
pub type SharedRandom = Arc<dyn Random>;

/// The machine's clock. Only a process's entry point constructs it.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> UnixMillis {
        self.now_us() / 1000
    }

    fn now_us(&self) -> u64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map(|d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
            .unwrap_or(0)
    }
}
