//! What must happen in named situations.

use super::world::{FakeWorker, World};
use crate::leader::input::FromWorker;
use holdfast_common::CheckpointId;
use holdfast_machine::command::Command;
use holdfast_machine::state::JobStatus;

const FAST: &[(&str, &str)] = &[("execution.checkpointing.interval", "100 ms")];

fn running(workers: usize, slots: u32, parallelism: u32) -> World {
    let mut world = World::new(workers, slots, parallelism, 0x5eed);
    world.lead();
    world.submit(parallelism, FAST);
    world.until(100, "the job runs", |w| w.status() == JobStatus::Running);
    world
}

fn completed(world: &World) -> u64 {
    world.job().checkpoint_stats.completed
}

#[test]
fn a_job_runs_takes_checkpoints_and_finishes() {
    let mut world = running(3, 2, 3);
    let attempt = world.job().attempt.clone().unwrap();
    let names: std::collections::BTreeSet<_> = attempt.assignment.iter().map(|s| &s.resource_id).collect();
    assert_eq!(names.len(), 3, "spread evenly");
    world.advance(1_050);
    assert!(completed(&world) >= 10, "{}", completed(&world));
    assert!(
        world.job().checkpoints.len() <= 4,
        "old ones are retired and forgotten"
    );
    world.ends = true;
    world.until(500, "the job finishes", |w| w.status() == JobStatus::Finished);
    assert_eq!(world.attempt(), Some(attempt.id.0));
    let job = world.job();
    assert!(job.checkpoint_stats.failed == 0 && job.exceptions.is_empty());
    world.advance(200);
    assert!(
        world.job().checkpoints.is_empty(),
        "a finished job's checkpoints are collected"
    );
    assert!(
        world.workers.iter().all(|w| w.attempts.is_empty()),
        "its tasks are stopped"
    );
    assert!(world.manifests.is_empty());
}

#[test]
fn a_killed_worker_is_replaced_within_a_few_steps() {
    let mut world = running(3, 2, 2);
    world.until(500, "a checkpoint", |w| completed(w) > 0);
    let before = world.attempt();
    let victim = world.job().attempt.as_ref().unwrap().assignment[0]
        .resource_id
        .clone();
    let i = world.workers.iter().position(|w| w.name == victim).unwrap();
    world.kill(i);
    let killed_ms = world.now_ms;
    world.until(200, "a new attempt runs", |w| {
        w.attempt() != before && w.status() == JobStatus::Running
    });
    assert!(
        world.now_ms - killed_ms <= 40,
        "took {} ms",
        world.now_ms - killed_ms
    );
    let attempt = world.job().attempt.clone().unwrap();
    assert!(attempt.restored.is_some());
    assert!(attempt.assignment.iter().all(|s| s.resource_id != victim));
    let cause = &world.job().exceptions.back().unwrap();
    assert!(
        cause.message.contains("lost") || cause.message.contains("reset"),
        "{cause:?}"
    );
    let done = completed(&world);
    world.until(500, "checkpoints go on", |w| completed(w) > done);
}

#[test]
fn a_frozen_worker_is_lost_after_the_timeout_and_rejoins_clean() {
    let mut world = running(3, 1, 2);
    let before = world.attempt();
    let victim = world.job().attempt.as_ref().unwrap().assignment[0]
        .resource_id
        .clone();
    let i = world.workers.iter().position(|w| w.name == victim).unwrap();
    world.workers[i].frozen = true;
    world.advance(1_500);
    assert_eq!(world.attempt(), before, "not before the timeout");
    world.until(1_500, "a new attempt runs", |w| {
        w.attempt() != before && w.status() == JobStatus::Running
    });
    assert!(
        !world.workers[i].attempts.is_empty(),
        "the zombie still thinks that it runs"
    );
    world.workers[i].frozen = false;
    world.workers[i].session = None;
    world.advance(100);
    assert!(world.workers[i].attempts.is_empty(), "it was told to stop");
    assert!(
        world.state.workers.contains_key(&victim),
        "and is registered again"
    );
}

#[test]
fn a_new_leader_adopts_and_restarts_nothing() {
    let mut world = running(3, 2, 3);
    world.until(500, "a checkpoint", |w| completed(w) > 0);
    let (before, done) = (world.attempt(), completed(&world));
    for _ in 0..5 {
        world.lead();
        world.advance(150);
        assert_eq!(world.attempt(), before);
        assert_eq!(world.status(), JobStatus::Running);
    }
    assert!(completed(&world) > done, "checkpoints go on");
    assert_eq!(world.job().attempts, 1);
    assert!(world.job().exceptions.is_empty());
}

#[test]
fn a_new_leader_commits_what_the_log_calls_complete() {
    let mut world = running(2, 1, 2);
    world.hold_commits = true;
    world.until(500, "a checkpoint is complete", |w| completed(w) > 0);
    let (before, id) = (
        world.attempt(),
        *world.job().checkpoints.keys().next_back().unwrap(),
    );
    assert!(!world.job().checkpoints[&id].committed);
    world.advance(300);
    assert_eq!(completed(&world), 1, "nothing is triggered before the commit");
    world.lead();
    world.hold_commits = false;
    world.until(200, "it is committed", |w| {
        w.job().checkpoints.get(&id).is_none_or(|c| c.committed)
    });
    assert_eq!(world.attempt(), before);
    world.until(500, "checkpoints go on", |w| completed(w) > 2);
}

#[test]
fn a_worker_lost_between_two_leaders_costs_one_attempt() {
    let mut world = running(3, 2, 3);
    let before = world.attempt();
    world.depose();
    world.workers[1].alive = false;
    world.lead();
    world.until(500, "a new attempt runs", |w| {
        w.attempt() != before && w.status() == JobStatus::Running
    });
    assert_eq!(world.job().attempts, 2);
}

#[test]
fn everything_dies_and_comes_back() {
    let mut world = running(3, 1, 3);
    world.until(500, "a checkpoint", |w| completed(w) > 0);
    let newest = world.job().latest_restorable().unwrap().id;
    world.depose();
    for i in 0..3 {
        world.kill(i);
    }
    world.advance(1_000);
    for i in 0..3 {
        world.start_worker(i);
    }
    world.lead();
    world.until(300, "it runs again", |w| {
        w.status() == JobStatus::Running && w.job().attempts == 2
    });
    assert!(world.job().attempt.as_ref().unwrap().restored >= Some(newest));
}

#[test]
fn a_damaged_checkpoint_is_passed_over() {
    let mut world = running(2, 2, 2);
    world.until(1000, "three checkpoints", |w| w.job().checkpoints.len() >= 3);
    let mut kept: Vec<_> = world.job().checkpoints.values().cloned().collect();
    let newest = kept.pop().unwrap();
    let second = kept.pop().unwrap();
    world.damaged.insert(newest.manifest_path.clone());
    world.storage_up = false; // No newer one may complete meanwhile.
    let before = world.job().attempts;
    let victim = world.job().attempt.as_ref().unwrap().assignment[0]
        .resource_id
        .clone();
    let i = world.workers.iter().position(|w| w.name == victim).unwrap();
    world.kill(i);
    world.until(1_000, "it runs again", |w| {
        w.status() == JobStatus::Running && w.job().attempts > before
    });
    assert_eq!(world.job().attempt.as_ref().unwrap().restored, Some(second.id));
    assert!(world.job().checkpoints[&newest.id].damaged);
    assert!(
        world
            .job()
            .exceptions
            .iter()
            .any(|e| e.message.contains("damaged"))
    );
    assert_eq!(world.job().attempts, before + 2, "one attempt found the damage");
}

#[test]
fn storage_outage_fails_checkpoints_and_not_the_job() {
    let mut world = running(2, 1, 2);
    world.until(500, "a checkpoint", |w| completed(w) > 0);
    let before = world.attempt();
    world.storage_up = false;
    world.advance(5_000);
    assert_eq!(world.attempt(), before);
    assert_eq!(world.status(), JobStatus::Running);
    assert!(world.job().checkpoint_stats.failed > 10);
    let done = completed(&world);
    world.storage_up = true;
    world.until(300, "checkpoints resume", |w| completed(w) > done);
}

#[test]
fn tolerable_failed_checkpoints_restart_the_job_if_so_configured() {
    let mut world = World::new(2, 1, 2, 3);
    world.lead();
    let settings = [
        ("execution.checkpointing.interval", "100 ms"),
        ("execution.checkpointing.tolerable-failed-checkpoints", "2"),
    ];
    world.submit(2, &settings);
    world.until(100, "the job runs", |w| w.status() == JobStatus::Running);
    world.storage_up = false;
    world.until(2_000, "it is restarted", |w| w.job().attempts > 1);
    assert!(
        world
            .job()
            .exceptions
            .iter()
            .any(|e| e.message.contains("tolerable"))
    );
}

#[test]
fn a_broken_stream_alone_costs_nothing() {
    let mut world = running(2, 1, 2);
    let before = world.attempt();
    for _ in 0..20 {
        world.break_stream(0);
        world.advance(70);
    }
    assert_eq!(world.attempt(), before);
    assert_eq!(world.job().attempts, 1);
    let done = completed(&world);
    world.until(500, "checkpoints go on", |w| completed(w) > done);
}

#[test]
fn a_job_waits_for_slots_and_says_so() {
    let mut world = World::new(1, 1, 2, 9);
    world.lead();
    world.submit(2, FAST);
    world.advance(500);
    assert_eq!(world.status(), JobStatus::Created);
    assert!(world.notes.iter().any(|n| n.contains("waits for slots")));
    world.workers.push(FakeWorker {
        name: "late".into(),
        slots: 1,
        ..FakeWorker::default()
    });
    world.start_worker(1);
    world.until(50, "it runs", |w| w.status() == JobStatus::Running);
}

#[test]
fn cancel_commits_what_is_owed_and_collects() {
    let mut world = running(2, 1, 2);
    world.until(500, "a checkpoint", |w| completed(w) > 0);
    world.hold_commits = true;
    let done = completed(&world);
    world.until(500, "one owes its commit", |w| completed(w) > done);
    let newest = *world.job().checkpoints.keys().next_back().unwrap();
    world.apply(Command::CancelJob {
        job: super::world::JOB,
    });
    world.inputs.push_back(crate::leader::input::Input::Applied);
    world.advance(100);
    assert_eq!(world.status(), JobStatus::Cancelling);
    assert!(
        world.workers.iter().all(|w| w.attempts.is_empty()),
        "tasks stop at once"
    );
    world.hold_commits = false;
    for i in 0..2 {
        world.break_stream(i);
    }
    world.until(1_000, "it ends", |w| w.status() == JobStatus::Canceled);
    assert!(world.committed.contains(&newest.0));
    world.advance(200);
    assert!(world.job().checkpoints.is_empty());
}

#[test]
fn cancelled_with_retention_keeps_its_checkpoints() {
    let mut world = World::new(1, 1, 1, 4);
    world.lead();
    let settings = [
        ("execution.checkpointing.interval", "100 ms"),
        (
            "execution.checkpointing.externalized-checkpoint-retention",
            "RETAIN_ON_CANCELLATION",
        ),
    ];
    world.submit(1, &settings);
    world.until(1_000, "a checkpoint", |w| {
        w.state.jobs.contains_key(&super::world::JOB) && completed(w) > 0
    });
    world.apply(Command::CancelJob {
        job: super::world::JOB,
    });
    world.inputs.push_back(crate::leader::input::Input::Applied);
    world.until(500, "it ends", |w| w.status() == JobStatus::Canceled);
    world.advance(500);
    assert!(!world.job().checkpoints.is_empty());
}

#[test]
fn restart_strategy_none_fails_the_job_and_keeps_its_checkpoints() {
    let mut world = World::new(2, 1, 1, 4);
    world.lead();
    let settings = [
        ("execution.checkpointing.interval", "100 ms"),
        ("restart-strategy.type", "none"),
    ];
    world.submit(1, &settings);
    world.until(1_000, "a checkpoint", |w| {
        w.state.jobs.contains_key(&super::world::JOB) && completed(w) > 0
    });
    let victim = world.job().attempt.as_ref().unwrap().assignment[0]
        .resource_id
        .clone();
    let i = world.workers.iter().position(|w| w.name == victim).unwrap();
    world.kill(i);
    world.until(500, "it fails", |w| w.status() == JobStatus::Failed);
    assert!(
        world
            .job()
            .exceptions
            .back()
            .unwrap()
            .message
            .contains("restart-strategy.type is none")
    );
    world.advance(500);
    assert!(!world.job().checkpoints.is_empty());
}

#[test]
fn a_lost_quorum_stops_checkpoints_and_nothing_else() {
    let mut world = running(2, 1, 2);
    world.until(500, "a checkpoint", |w| completed(w) > 0);
    let before = world.attempt();
    world.quorum = false;
    world.advance(3_000);
    let done = completed(&world);
    world.quorum_is_back();
    world.until(500, "checkpoints resume", |w| completed(w) > done + 1);
    assert_eq!(world.attempt(), before);
}

#[test]
fn the_final_checkpoint_survives_its_leader_and_its_workers() {
    let mut world = running(2, 1, 2);
    world.hold_commits = true;
    world.ends = true;
    let is_final = |w: &World| w.job().checkpoints.values().any(|c| c.is_final);
    // Commits of earlier checkpoints are held too, so let them pass until the last one is complete.
    for _ in 0..50 {
        if is_final(&world) {
            break;
        }
        world.hold_commits = false;
        world.advance(5);
        world.hold_commits = true;
        world.advance(5);
        world.lead();
    }
    assert!(is_final(&world) || world.status() == JobStatus::Finished);
    world.kill(0);
    world.hold_commits = false;
    world.lead();
    world.until(3_000, "it finishes", |w| w.status() == JobStatus::Finished);
    assert_eq!(world.job().attempts, 1, "a complete job is not run again");
}

#[test]
fn leaders_in_mid_deployment_start_anew_without_counting_a_failure() {
    let mut world = World::new(2, 1, 2, 11);
    world.lead();
    world.submit(2, FAST);
    world.workers[0].frozen = true; // It takes no Deploy.
    world.advance(50);
    assert!(world.attempt().is_none(), "a frozen worker never attached");
    world.workers[0].frozen = false;
    world.advance(1);
    world.until(200, "it runs", |w| w.status() == JobStatus::Running);
    world.lead();
    world.advance(300);
    assert!(world.job().exceptions.is_empty());
    let _ = CheckpointId(0);
}

#[test]
fn a_worker_that_leaves_in_order_is_no_failure_of_the_job() {
    let mut world = World::new(3, 1, 2, 21);
    world.lead();
    world.submit(2, &[("restart-strategy.type", "none")]);
    world.until(100, "the job runs", |w| w.status() == JobStatus::Running);
    let victim = world.job().attempt.as_ref().unwrap().assignment[0]
        .resource_id
        .clone();
    let i = world.workers.iter().position(|w| w.name == victim).unwrap();
    world.workers[i].outbox.push_back(FromWorker::Leaving {
        reason: "told to stop".into(),
    });
    world.settle();
    world.workers[i].alive = false;
    world.until(500, "it runs elsewhere", |w| {
        w.job().attempts == 2 && w.status() == JobStatus::Running
    });
    // The same when nobody led while workers died.
    world.depose();
    for i in 0..3 {
        world.workers[i].alive = false;
        world.start_worker(i);
    }
    world.lead();
    world.until(500, "it runs again", |w| {
        w.job().attempts == 3 && w.status() == JobStatus::Running
    });
}

#[test]
fn a_worker_that_missed_its_cancel_is_told_again() {
    let mut world = running(3, 1, 2);
    let assigned: Vec<String> = world
        .job()
        .attempt
        .as_ref()
        .unwrap()
        .assignment
        .iter()
        .map(|s| s.resource_id.clone())
        .collect();
    let index = |world: &World, name: &String| world.workers.iter().position(|w| w.name == *name).unwrap();
    let (cut_off, killed) = (index(&world, &assigned[0]), index(&world, &assigned[1]));
    world.workers[cut_off].frozen = true;
    world.break_stream(cut_off);
    world.settle();
    world.kill(killed);
    world.settle();
    world.workers[cut_off].frozen = false;
    world.advance(3_000);
    let attempt = world.attempt();
    let alive = world.workers.iter().filter(|w| w.alive);
    let mut running = alive.flat_map(|w| w.attempts.keys().map(|(_, a)| Some(a.0)));
    assert!(running.all(|a| a == attempt));
    assert_eq!(world.status(), JobStatus::Running);
}

#[test]
fn many_killed_workers_do_not_make_the_delay_grow_while_the_job_gets_on() {
    let mut world = running(3, 2, 2);
    for round in 0..12 {
        let (done, attempts) = (completed(&world), world.job().attempts);
        world.until(1_000, "a checkpoint of this attempt", |w| completed(w) > done);
        let victim = world.job().attempt.as_ref().unwrap().assignment[0]
            .resource_id
            .clone();
        let i = world.workers.iter().position(|w| w.name == victim).unwrap();
        world.kill(i);
        let killed_ms = world.now_ms;
        world.until(1_000, "it runs again", |w| {
            w.job().attempts > attempts && w.status() == JobStatus::Running
        });
        assert!(
            world.now_ms - killed_ms <= 50,
            "round {round}: {} ms",
            world.now_ms - killed_ms
        );
        world.start_worker(i);
        world.advance(20);
    }
    let causes = world.job().exceptions.iter();
    assert!(
        causes.clone().all(|e| e.message.contains("is lost")),
        "{causes:?}"
    );
}

#[test]
fn a_commit_too_large_for_one_message_goes_in_slices() {
    let mut world = running(3, 2, 2);
    world.prepared = (300, bytes::Bytes::from_static(b"a file"));
    let before = world.committed.len();
    world.until(500, "such a commit is done", |w| {
        w.commit_parts.values().any(|parts| parts.len() > 2)
    });
    world.until(500, "and the next ones", |w| w.committed.len() > before + 2);
    assert_eq!(world.job().attempts, 1);
}

#[test]
fn a_commit_in_slices_outlives_its_worker_and_its_leader() {
    let mut world = running(3, 2, 2);
    world.prepared = (300, bytes::Bytes::from_static(b"a file"));
    world.slices_until = 1;
    world.until(500, "a slice is done", |w| {
        w.commit_parts.values().any(|parts| parts.len() == 1)
    });
    let checkpoint = *world
        .commit_parts
        .iter()
        .find(|(_, parts)| parts.len() == 1)
        .unwrap()
        .0;
    world.kill(0);
    world.depose();
    world.lead();
    world.slices_until = u32::MAX;
    world.until(5_000, "the commit is done", |w| w.committed.contains(&checkpoint));
    let before = completed(&world);
    world.until(10_000, "checkpoints go on", |w| completed(w) > before);
}

#[test]
fn output_that_piles_up_beyond_the_limit_fails_the_attempt_by_name() {
    let mut world = running(3, 2, 2);
    let half = holdfast_common::limits::COMMITTABLES_JOB_BYTES_MAX / 2;
    world.prepared = (1, bytes::Bytes::from(vec![0; half]));
    world.until(1_000, "the attempt fails", |w| !w.job().exceptions.is_empty());
    let message = world.job().exceptions.iter().next_back().unwrap().message.clone();
    assert!(message.contains("unfinished output"), "{message}");
    assert!(world.job().checkpoint_stats.failed > 0);
    world.prepared = (1, bytes::Bytes::new());
    let before = completed(&world);
    world.until(20_000, "the job goes on", |w| completed(w) > before);
}
