//! Seeds that once found a fault. They are run with every test run, for ever.

/// A seed of the fast simulator, and what it found.
pub const CORE: &[(u64, &str)] = &[
    (
        46,
        "a new leader that adopts an attempt right after its restore aborts the restored checkpoint",
    ),
    (50, "the same, when a worker's stream is new"),
    (
        53,
        "restart-point-is-kept was violated when the newest checkpoint was damaged and the one before it retired",
    ),
    (
        6436,
        "a new leader gave up on workers just before they could notice that the old one had gone silent",
    ),
];

#[cfg(test)]
mod tests {
    use super::CORE;
    use crate::sim::Options;

    #[test]
    fn what_was_found_once_does_not_come_back() {
        for (seed, found) in CORE {
            let outcome = crate::sim::core::run_seed(*seed, &Options::default());
            assert!(
                outcome.violations.is_empty(),
                "seed {seed} ({found}): {:?}",
                outcome.violations
            );
        }
    }
}
