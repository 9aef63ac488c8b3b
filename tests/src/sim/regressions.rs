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
    (
        7630,
        "a worker that had stood still committed a checkpoint that had been found damaged and undone meanwhile: no row is \
         lost, and the leader ignores its answer",
    ),
    (
        2875,
        "a leader forgot a cancelled job whose collection had failed: a search for orphans from before the end counted as \
         the end's",
    ),
    (20754, "the same, and a manifest came after the last search"),
    (
        56,
        "a part was uploaded after its worker had said that the attempt is cancelled",
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
