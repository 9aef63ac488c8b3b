//! The simulator's own tests: it is deterministic, and a slice of seeds holds.
#![allow(clippy::unwrap_used)]

use super::run_seed;
use crate::sim::Options;

#[test]
fn the_same_seed_gives_the_same_life() {
    for seed in 0..6 {
        let first = run_seed(seed, &Options::default());
        let second = run_seed(seed, &Options::default());
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.counts, second.counts, "seed {seed}");
    }
}

#[test]
fn a_slice_of_seeds_holds() {
    for seed in 0..100 {
        let outcome = run_seed(seed, &Options::default());
        assert!(
            outcome.violations.is_empty(),
            "seed {seed}: {:?}",
            outcome.violations
        );
    }
}

#[test]
fn lives_are_not_dull() {
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for seed in 0..100 {
        for (what, n) in run_seed(seed, &Options::default()).counts {
            *counts.entry(what).or_default() += n;
        }
    }
    for what in [
        "faults",
        "elections",
        "leaders",
        "attempts",
        "checkpoints",
        "commits",
        "failed tasks",
    ] {
        assert!(counts.get(what).copied().unwrap_or(0) > 50, "{what}: {counts:?}");
    }
}
