//! The machine's randomness. Only a process's entry point constructs it; everything else is handed a source.

use holdfast_common::clock::Random;

/// The operating system's randomness, through a generator of the thread.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        assert_ne!(SystemRandom.next_u128(), SystemRandom.next_u128());
    }
}
