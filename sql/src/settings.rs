//! `SET`: job settings of a script over those of the cluster. Keys and types live in `holdfast_common::config`.

use crate::error::{PlanError, Pos, Result};
use holdfast_common::config::{Configuration, Scope, options};
use std::collections::BTreeMap;

/// Keys whose values are words, with the words that exist.
const WORDS: &[(&str, &[&str])] = &[
    ("execution.runtime-mode", &["STREAMING"]),
    ("execution.checkpointing.mode", &["EXACTLY_ONCE"]),
    ("state.backend.type", &["hashmap", "rocksdb"]),
    (
        "restart-strategy.type",
        &[
            "none",
            "off",
            "disable",
            "fixed-delay",
            "fixeddelay",
            "failure-rate",
            "failurerate",
            "exponential-delay",
            "exponentialdelay",
        ],
    ),
    (
        "execution.checkpointing.externalized-checkpoint-retention",
        &["RETAIN_ON_CANCELLATION", "DELETE_ON_CANCELLATION"],
    ),
];

/// The largest parallelism, as in Flink.
const PARALLELISM_MAX: u32 = 1 << 15;

/// Applies one SET.
pub(crate) fn apply(config: &mut Configuration, key: &str, value: &str, pos: Pos) -> Result<()> {
    config
        .set(key, value)
        .map_err(|e| PlanError::new(pos, e.to_string()))?;
    if options::lookup(key).is_some_and(|info| info.scope != Scope::Job) {
        return Err(PlanError::new(
            pos,
            format!("'{key}' is read when a process starts: put it into holdfast.yaml instead of SET"),
        ));
    }
    let words = WORDS.iter().find(|(known, _)| *known == key);
    if let Some((_, words)) = words
        && !words.iter().any(|word| word.eq_ignore_ascii_case(value.trim()))
    {
        return Err(PlanError::new(
            pos,
            format!("'{key}' is {}, not '{}'", words.join(", "), value.trim()),
        ));
    }
    let parallelism = ["parallelism.default", "pipeline.max-parallelism"].contains(&key);
    let in_range = |n: u32| (1..=PARALLELISM_MAX).contains(&n);
    if parallelism && !value.trim().parse().is_ok_and(in_range) {
        return Err(PlanError::new(
            pos,
            format!("'{key}' is 1 to {PARALLELISM_MAX}, not '{}'", value.trim()),
        ));
    }
    Ok(())
}

/// Every explicit setting of a job: the graph's `settings`.
pub(crate) fn job_settings(config: &Configuration) -> BTreeMap<String, String> {
    config
        .iter()
        .filter(|(key, _)| options::lookup(key).is_some_and(|info| info.scope == Scope::Job))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}
