//! What makes a process repeat itself: its randomness and its clock come from the seed. The `sim` binary puts functions
//! of its own before the system's and asks here; nobody else does, and until [`enable`] they pass everything through.
//!
//! It works for a fresh process with one thread only. Hash keys, generators and caches are drawn once per thread and
//! process, so the process that runs a seed does nothing else.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

static ON: AtomicBool = AtomicBool::new(false);
static STATE: AtomicU64 = AtomicU64::new(0);
static NOW_NS: AtomicU64 = AtomicU64::new(0);

/// The virtual clock's zero: 2026-01-01 UTC, in milliseconds since the Unix epoch.
pub const EPOCH_MS: u64 = 1_767_225_600_000;
/// What the monotonic clock shows then; zero would be a strange uptime.
const UPTIME_NS: u64 = 1_000_000_000_000;

/// From now on, this process's randomness comes from the seed and its clocks stand still until [`set_elapsed`].
pub fn enable(seed: u64) {
    STATE.store(seed ^ 0x5851_f42d_4c95_7f2d, Ordering::SeqCst);
    NOW_NS.store(0, Ordering::SeqCst);
    ON.store(true, Ordering::SeqCst);
}

/// Whether [`enable`] was called.
#[must_use]
pub fn is_enabled() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Moves the clocks.
pub fn set_elapsed(elapsed: Duration) {
    NOW_NS.store(
        u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX),
        Ordering::SeqCst,
    );
}

/// Nanoseconds since the Unix epoch, and since the machine's start.
#[must_use]
pub fn clocks_ns() -> (u64, u64) {
    let now = NOW_NS.load(Ordering::Relaxed);
    (EPOCH_MS * 1_000_000 + now, UPTIME_NS + now)
}

/// The next bytes of the seed's stream.
pub fn fill(bytes: &mut [u8]) {
    for chunk in bytes.chunks_mut(8) {
        let state = STATE
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst)
            .wrapping_add(0x9e37_79b9_7f4a_7c15);
        chunk.copy_from_slice(&mix(state).to_le_bytes()[..chunk.len()]);
    }
}

/// The output function of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014).
#[must_use]
pub fn mix(state: u64) -> u64 {
    let mut z = state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Numbers from a seed, for whoever needs a stream of their own.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The stream `name` of a seed.
    #[must_use]
    pub fn new(seed: u64, name: &str) -> Self {
        Self(xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound.max(1)
    }

    /// From `least` to `most`, both possible.
    pub fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True in so many of a hundred cases.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of several.
    pub fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        let at = usize::try_from(self.below(from.len() as u64)).unwrap_or(0);
        &from[at]
    }
}
