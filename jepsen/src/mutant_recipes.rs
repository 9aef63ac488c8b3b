//! For each seeded bug: under which workloads and faults it shows, and which checker has to notice.
//!
//! A recipe that runs without its bug must be valid; with it, the named checker must say invalid within the runs.

/// How one seeded bug is caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Workloads of each run.
    pub workloads: &'static [&'static str],
    /// Faults of each run, by their names in plans.
    pub faults: &'static [&'static str],
    /// The checker that has to say invalid.
    pub checker: &'static str,
    /// Runs at most, each with another seed.
    pub runs: u32,
    /// Length of each run's fault phase.
    pub seconds: u32,
    /// Coordinators of the beginning.
    pub voters: u32,
    /// What happens at a crash point of every worker's first life, as `HOLDFAST_INJECT` reads it.
    pub workers_inject: Option<&'static str>,
}

impl Recipe {
    /// With one coordinator only: what it loses, nobody has.
    const fn alone(mut self) -> Self {
        self.voters = 1;
        self
    }

    /// With a crash point in every worker's first life: what no fault from outside hits.
    const fn workers_inject(mut self, inject: &'static str) -> Self {
        self.workers_inject = Some(inject);
        self
    }
}

const fn recipe_of(
    workloads: &'static [&'static str],
    faults: &'static [&'static str],
    checker: &'static str,
    runs: u32,
    seconds: u32,
) -> Recipe {
    Recipe {
        workloads,
        faults,
        checker,
        runs,
        seconds,
        voters: 3,
        workers_inject: None,
    }
}

/// Recipes by the names of `holdfast_common::inject::bugs`.
pub const RECIPES: &[(&str, Recipe)] = &[
    // Consensus, its disk, the state machine.
    (
        "ack-before-fsync",
        recipe_of(&["register"], &["power-loss-all"], "register-versioned", 6, 12),
    ),
    (
        "vote-not-saved",
        recipe_of(
            &["register", "catalogue"],
            &["kill-leader", "kill-all", "partition-leader"],
            "fencing",
            6,
            15,
        ),
    ),
    (
        "fsync-error-ignored",
        recipe_of(
            &["register"],
            &["fsync-error", "power-loss-all"],
            "register-versioned",
            8,
            15,
        ),
    ),
    (
        "stale-read",
        recipe_of(
            &["register"],
            &["partition-leader", "pause-leader"],
            "register-versioned",
            6,
            15,
        ),
    ),
    (
        "no-dedup",
        recipe_of(&["register"], &["kill-leader"], "register-versioned", 2, 10),
    ),
    (
        "dedup-not-in-snapshot",
        recipe_of(
            &["register"],
            &["kill-all", "rolling-restart"],
            "register-versioned",
            6,
            15,
        ),
    ),
    (
        "cas-ignores-version",
        recipe_of(&["register"], &["kill-leader"], "register-versioned", 2, 10),
    ),
    (
        "apply-twice",
        recipe_of(&["register"], &["kill-follower", "kill-all"], "digests", 6, 15),
    ),
    (
        "lost-tail-accepted",
        recipe_of(&["register"], &["bit-flip-leader"], "register-versioned", 8, 15).alone(),
    ),
    // The leader's services.
    (
        "complete-before-all-acks",
        recipe_of(&["eos", "catalogue"], &["kill-worker"], "eos", 6, 15),
    ),
    (
        "no-commit-replay",
        recipe_of(
            &["eos"],
            &["kill-all", "kill-worker", "kill-leader"],
            "eos",
            8,
            15,
        ),
    ),
    (
        "stale-abort",
        recipe_of(
            &["eos", "catalogue"],
            &["pause-leader", "partition-leader"],
            "catalogue",
            8,
            15,
        ),
    ),
    (
        "collect-by-age",
        recipe_of(&["catalogue"], &["kill-worker"], "catalogue", 3, 12),
    ),
    (
        "delete-on-step-down",
        recipe_of(
            &["catalogue"],
            &["pause-leader", "partition-leader", "transfer-leader"],
            "catalogue",
            4,
            15,
        ),
    ),
    (
        "restart-on-leader-change",
        recipe_of(&["catalogue"], &["kill-leader"], "undisturbed", 3, 12),
    ),
    (
        "resurrect-cancelled",
        recipe_of(&["jobs"], &["kill-leader", "term-leader"], "jobs", 6, 15),
    ),
    (
        "submit-twice",
        recipe_of(&["jobs"], &["kill-leader"], "jobs", 3, 12),
    ),
    (
        "wrong-checkpoint",
        recipe_of(&["eos"], &["kill-worker"], "eos", 4, 15),
    ),
    // Workers and connectors.
    (
        "skip-alignment",
        recipe_of(&["eos", "bank"], &["kill-worker", "kill-workers"], "eos", 6, 15),
    ),
    (
        "source-offset-ahead",
        recipe_of(&["eos"], &["kill-worker"], "eos", 3, 12),
    ),
    (
        "source-offset-behind",
        recipe_of(&["eos"], &["kill-worker"], "eos", 3, 12),
    ),
    (
        "visible-on-prepare",
        recipe_of(&["eos"], &["kill-worker", "storage-slow"], "commits", 4, 12),
    ),
    (
        "prepare-not-synced",
        recipe_of(&["eos"], &["power-loss-all"], "eos", 8, 15),
    ),
    (
        // The files are visible, and whoever gave them their names dies before it can say so.
        "commit-not-idempotent",
        recipe_of(&["eos"], &["kill-leader"], "eos", 4, 15)
            .workers_inject("point=worker.commit.after,hit=3,action=abort"),
    ),
    (
        "state-lost-on-restore",
        recipe_of(&["eos"], &["kill-worker"], "eos", 3, 12),
    ),
    (
        "timer-lost-on-restore",
        recipe_of(&["eos"], &["kill-worker"], "eos", 3, 12),
    ),
    (
        "barrier-overtakes",
        recipe_of(&["eos", "bank"], &["kill-worker"], "eos", 4, 15),
    ),
    (
        "pending-dropped",
        recipe_of(
            &["eos"],
            &["storage-errors", "storage-outage", "kill-leader"],
            "eos",
            8,
            15,
        ),
    ),
];

/// Bugs that show only in moments too short for real processes to be met there: they were reached, or could not be, in
/// eight runs each, and no checker noticed. The core simulator catches them (`sim --core --mutants`).
pub const SIMULATED: &[&str] = &[
    "commit-before-entry",
    "commit-after-start",
    "two-attempts",
    "stale-attempt-accepted",
];

/// The recipe of a seeded bug.
#[must_use]
pub fn recipe(name: &str) -> Option<Recipe> {
    RECIPES
        .iter()
        .find(|(bug, _)| *bug == name)
        .map(|(_, recipe)| *recipe)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{check, plan, workload};
    use holdfast_common::inject::bugs::BUGS;

    #[test]
    fn every_bug_has_a_recipe_of_things_that_exist() {
        assert_eq!(RECIPES.len() + SIMULATED.len(), BUGS.len());
        let faults: Vec<&str> = plan::FAULTS
            .iter()
            .flat_map(|(_, members)| members.iter().copied())
            .collect();
        for bug in BUGS.iter().filter(|bug| !SIMULATED.contains(&bug.name)) {
            let recipe = recipe(bug.name).unwrap_or_else(|| panic!("no recipe for {}", bug.name));
            assert!(check::by_name(recipe.checker).is_some(), "{}", bug.name);
            assert!(
                recipe.workloads.iter().all(|w| workload::NAMES.contains(w)),
                "{}",
                bug.name
            );
            assert!(
                recipe.faults.iter().all(|f| faults.contains(f)),
                "{}: {:?}",
                bug.name,
                recipe.faults
            );
            // The checker is one that a workload of the recipe brings along, or one that judges every run.
            let mut checkers: Vec<&str> = check::general().iter().map(|c| c.name()).collect();
            for name in recipe.workloads {
                checkers.extend(
                    workload::by_name(name, 1)
                        .unwrap()
                        .checkers()
                        .iter()
                        .map(|c| c.name()),
                );
            }
            assert!(checkers.contains(&recipe.checker), "{}", bug.name);
        }
    }
}
