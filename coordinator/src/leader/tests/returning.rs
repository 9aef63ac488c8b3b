//! Workers that were given up and come back.

use super::world::World;

/// Found by the full-stack simulator (seeds 186 and 281): the worker attached while the log still knew it, so that it was
/// not registered, and then its removal was applied.
#[test]
fn a_worker_that_attaches_while_its_removal_is_being_logged_is_registered_again() {
    let mut world = World::new(3, 1, 2, 0x5eed);
    world.lead();
    world.advance(500);
    let name = world.workers[2].name.clone();
    assert!(world.state.workers.contains_key(&name));

    world.quorum = false;
    world.workers[2].frozen = true;
    world.advance(3_000);
    let removal = |w: &World| {
        w.stalled
            .iter()
            .any(|(_, command)| format!("{command:?}").starts_with("RemoveWorker"))
    };
    assert!(removal(&world), "it was given up, and that waits for a quorum");
    world.workers[2].frozen = false;
    world.workers[2].session = None;
    world.until(500, "it attaches", |w| w.workers[2].session.is_some());
    assert!(
        world.state.workers.contains_key(&name),
        "its removal is not applied yet"
    );

    world.quorum_is_back();
    assert!(!world.state.workers.contains_key(&name), "now it is");
    world.until(3_000, "it is registered again", |w| {
        w.state.workers.contains_key(&name)
    });
    let incarnation = world.workers[2].incarnation;
    assert_eq!(world.state.workers[&name].incarnation, incarnation);
    assert!(world.workers[2].session.is_some(), "on the session that it has");
}
