//! What is left in snapshot storage when a job has ended: nothing, whatever failed or came late meanwhile.

use super::world::{JOB, World};
use crate::leader::input::Input;
use holdfast_common::CheckpointId;
use holdfast_common::limits::LATE_SWEEP_AFTER;
use holdfast_machine::command::Command;
use holdfast_machine::state::JobStatus;

const EVERYTHING: CheckpointId = CheckpointId(u64::MAX);

fn running() -> World {
    let mut world = World::new(2, 1, 2, 0x5eed);
    world.lead();
    let settings = [
        ("execution.checkpointing.interval", "100 ms"),
        ("execution.checkpointing.timeout", "400 ms"),
    ];
    world.submit(2, &settings);
    world.until(100, "the job runs", |w| w.status() == JobStatus::Running);
    world.until(500, "two checkpoints", |w| {
        w.job().checkpoint_stats.completed >= 2
    });
    world
}

fn cancel(world: &mut World) {
    world.apply(Command::CancelJob { job: JOB });
    world.inputs.push_back(Input::Applied);
    world.until(8_000, "it is cancelled", |w| w.status() == JobStatus::Canceled);
}

fn late_ms() -> u64 {
    u64::try_from(LATE_SWEEP_AFTER.as_millis()).unwrap()
}

/// Times at which everything was swept.
fn last_sweeps(world: &World) -> Vec<u64> {
    let last = world.sweeps.iter().filter(|(_, floor)| *floor == EVERYTHING);
    last.map(|(at, _)| *at).collect()
}

/// Once: a search for orphans that had begun before the end counted as the end's, and the leader forgot the job when the
/// collection that followed failed.
#[test]
fn a_collection_that_fails_after_the_end_is_made_again_by_the_same_leader() {
    let mut world = running();
    world.storage_up = false;
    world.until(1_000, "a checkpoint fails", |w| {
        w.job().checkpoint_stats.failed > 0
    });
    world.storage_up = true;
    world.storage_slow = true;
    world.until(35_000, "a search for orphans begins", |w| !w.sweeps.is_empty());
    cancel(&mut world);
    world.storage_up = false;
    world.release();
    world.advance(3_000);
    assert!(!world.job().checkpoints.is_empty());
    assert!(last_sweeps(&world).is_empty());
    world.storage_up = true;
    world.until(10_000, "everything is collected", |w| {
        w.job().checkpoints.is_empty() && w.manifests.is_empty()
    });
}

#[test]
fn a_manifest_on_its_way_when_the_job_ends_is_swept_too() {
    let mut world = running();
    world.storage_slow = true;
    world.until(1_000, "a manifest is on its way", |w| {
        w.manifests
            .values()
            .any(|m| !w.job().checkpoints.contains_key(&CheckpointId(m.checkpoint)))
    });
    cancel(&mut world);
    world.advance(3_000);
    assert!(last_sweeps(&world).is_empty(), "it may come at any moment");
    world.release();
    world.until(100, "everything is collected", |w| {
        w.job().checkpoints.is_empty() && w.manifests.is_empty()
    });
}

#[test]
fn everything_is_swept_again_once_uploads_that_were_under_way_have_ended() {
    let mut world = running();
    cancel(&mut world);
    world.advance(late_ms() * 3);
    let at = last_sweeps(&world);
    assert_eq!(at.len(), 2, "{at:?}");
    assert!(at[1] - at[0] >= late_ms(), "{at:?}");
}

#[test]
fn a_worker_that_stops_long_after_the_end_has_its_job_swept_again() {
    let mut world = running();
    world.workers[0].frozen = true;
    cancel(&mut world);
    world.advance(late_ms() * 2);
    let before = last_sweeps(&world).len();
    assert!(!world.workers[0].attempts.is_empty(), "it knows of nothing");
    world.workers[0].frozen = false;
    world.workers[0].session = None;
    world.advance(1_000);
    assert!(world.workers[0].attempts.is_empty(), "it was told to stop");
    assert_eq!(last_sweeps(&world).len(), before + 1);
    world.advance(late_ms());
    assert_eq!(last_sweeps(&world).len(), before + 2);
    world.advance(late_ms());
    assert_eq!(last_sweeps(&world).len(), before + 2, "and then it is done");
}
