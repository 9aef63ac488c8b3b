//! The checkers themselves: histories that keep every promise are valid, and each way of breaking one is noticed.
#![allow(clippy::unwrap_used)]

mod support;

use jepsen::check::mutate::MUTATORS;
use jepsen::check::{self, by_name};
use jepsen::history::Verdict;
use std::collections::BTreeMap;
use support::{Random, valid};

#[test]
fn histories_that_keep_every_promise_are_valid() {
    for seed in 0..10 {
        for restarts in [false, true] {
            let history = valid(seed, restarts);
            for name in check::NAMES.iter().filter(|name| **name != "control") {
                let finding = by_name(name).unwrap().check(&history);
                assert_eq!(
                    finding.verdict,
                    Verdict::Valid,
                    "seed {seed}: {name}: {} {:#?}",
                    finding.summary,
                    finding.evidence
                );
            }
        }
    }
}

#[test]
fn every_mutation_is_noticed() {
    let mut missed: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for mutator in MUTATORS {
        let mut applied = 0;
        for seed in 0..16 {
            // Only a history without restarts lets an extra attempt be wrong.
            let restarts = mutator.checkers != ["undisturbed"] && seed % 2 == 0;
            let mut history = valid(seed, restarts);
            let mut random = Random(seed ^ 0xabcd);
            if !(mutator.apply)(&mut history, &mut |n| random.below(n)) {
                continue;
            }
            history.sort_by_key(|e| e.t);
            applied += 1;
            for name in mutator.checkers {
                if by_name(name).unwrap().check(&history).verdict != Verdict::Invalid {
                    missed
                        .entry(format!("{} by {name}", mutator.name))
                        .or_default()
                        .push(seed);
                }
            }
        }
        assert!(
            applied >= 7,
            "'{}' was applicable only {applied} times",
            mutator.name
        );
    }
    let total: usize = missed.values().map(Vec::len).sum();
    assert_eq!(total, 0, "missed: {missed:#?}");
}
