//! Pseudo-random numbers that are a function of a seed and a position. Pure.

/// SplitMix64's increment: the golden ratio in 64 bits.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[inline]
pub(super) fn mix(value: u64) -> u64 {
    let mut z = value;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A stream of numbers that begins at a position.
#[derive(Debug, Clone)]
pub(super) struct Draws {
    state: u64,
}

impl Draws {
    /// The stream of one cell: `stream` tells columns apart, `row` rows.
    #[inline]
    pub(super) fn new(seed: u64, stream: u64, row: u64) -> Self {
        let base = mix(seed.wrapping_add(stream.wrapping_mul(0xd6e8_feb8_6659_fd93)));
        Self {
            state: mix(base ^ row.wrapping_mul(GAMMA)),
        }
    }

    #[inline]
    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }

    /// A number below `bound`, which is not 0.
    #[inline]
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product; its bias is below bound / 2^64.
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or(0)
    }

    /// A number in [0, 1).
    #[inline]
    pub(super) fn unit(&mut self) -> f64 {
        const SCALE: f64 = 1.0 / (1u64 << 53) as f64;
        (self.next() >> 11) as f64 * SCALE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_never_change_between_releases() {
        let mut draws = Draws::new(0, 1, 2);
        let first: Vec<u64> = (0..3).map(|_| draws.below(1000)).collect();
        let mut again = Draws::new(0, 1, 2);
        assert_eq!(first, (0..3).map(|_| again.below(1000)).collect::<Vec<_>>());
        assert_eq!(mix(GAMMA), 0xe220_a839_7b1d_cdaf);
        assert!((0..1000).all(|row| Draws::new(1, 1, row).below(7) < 7));
        assert!((0..1000).all(|row| (0.0..1.0).contains(&Draws::new(1, 1, row).unit())));
    }
}
