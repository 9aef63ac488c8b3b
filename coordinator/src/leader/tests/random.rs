//! Random faults, then a liveness phase: after everything heals, the job runs, checkpoints complete, and a job whose
//! input ends finishes with everything committed. The world checks the named rules of every message on the way.

use super::world::World;
use holdfast_machine::state::JobStatus;
use proptest::prelude::*;
use std::collections::BTreeMap;

#[derive(Debug, Clone)]
enum Fault {
    Advance(u64),
    Kill(usize),
    Start(usize),
    Freeze(usize),
    Thaw(usize),
    BreakStream(usize),
    NewLeader,
    NoLeader,
    Storage(bool),
    Quorum(bool),
    HoldCommits(bool),
    DamageNewest,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        8 => (0u64..400).prop_map(Fault::Advance),
        2 => (0usize..3).prop_map(Fault::Kill),
        3 => (0usize..3).prop_map(Fault::Start),
        1 => (0usize..3).prop_map(Fault::Freeze),
        2 => (0usize..3).prop_map(Fault::Thaw),
        2 => (0usize..3).prop_map(Fault::BreakStream),
        2 => Just(Fault::NewLeader),
        1 => Just(Fault::NoLeader),
        1 => any::<bool>().prop_map(Fault::Storage),
        1 => any::<bool>().prop_map(Fault::Quorum),
        1 => any::<bool>().prop_map(Fault::HoldCommits),
        1 => Just(Fault::DamageNewest),
    ]
}

fn inflict(world: &mut World, fault: &Fault) {
    match *fault {
        Fault::Advance(ms) => world.advance(ms),
        Fault::Kill(i) => world.kill(i),
        Fault::Start(i) => {
            if !world.workers[i].alive {
                world.start_worker(i);
            }
        }
        Fault::Freeze(i) => world.workers[i].frozen = true,
        Fault::Thaw(i) => world.workers[i].frozen = false,
        Fault::BreakStream(i) => world.break_stream(i),
        Fault::NewLeader => world.lead(),
        Fault::NoLeader => world.depose(),
        Fault::Storage(up) => world.storage_up = up,
        Fault::Quorum(true) => world.quorum_is_back(),
        Fault::Quorum(false) => world.quorum = false,
        Fault::HoldCommits(hold) => world.hold_commits = hold,
        Fault::DamageNewest => {
            let path = world.job().latest_restorable().map(|c| c.manifest_path.clone());
            world.damaged.extend(path);
        }
    }
}

fn heal(world: &mut World) {
    world.storage_up = true;
    world.hold_commits = false;
    world.quorum_is_back();
    for i in 0..world.workers.len() {
        if world.workers[i].alive {
            // Its stream may have died with it: it finds out and comes back.
            world.workers[i].frozen = false;
            world.break_stream(i);
        } else {
            world.start_worker(i);
        }
    }
    world.lead();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn it_recovers_from_anything(
        seed in 1u64..,
        faults in prop::collection::vec(fault(), 0..40),
    ) {
        let mut world = World::new(3, 2, 3, seed);
        world.lead();
        world.submit(3, &[("execution.checkpointing.interval", "100 ms"), ("restart-strategy.exponential-delay.max-backoff", "200 ms")]);
        let mut attempts: BTreeMap<u32, u64> = BTreeMap::new();
        for fault in &faults {
            inflict(&mut world, fault);
            if let Some(attempt) = &world.job().attempt {
                // One attempt per number, and numbers and attempts grow together.
                let known = *attempts.entry(attempt.number).or_insert(attempt.id.0);
                prop_assert_eq!(known, attempt.id.0);
                prop_assert!(attempts.values().is_sorted());
            }
        }
        heal(&mut world);
        let done = world.job().checkpoint_stats.completed;
        world.until(10_000, "it runs and checkpoints complete", |w| {
            w.status() == JobStatus::Running && w.job().checkpoint_stats.completed > done + 1
        });
        let attempt = world.attempt();
        for worker in &world.workers {
            prop_assert!(worker.attempts.keys().all(|(_, a)| Some(a.0) == attempt), "only the current attempt runs");
        }
        world.ends = true;
        world.until(5_000, "it finishes", |w| w.status() == JobStatus::Finished);
        prop_assert_eq!(world.attempt(), attempt, "nothing restarts without a reason");
    }
}
