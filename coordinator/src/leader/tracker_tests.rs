//! Tests of the checkpoint tracker: its named rules under random orders of events.
#![allow(clippy::unwrap_used)]

use super::*;
use holdfast_common::VertexId;
use proptest::prelude::*;

const SETTINGS: TrackerSettings = TrackerSettings {
    interval_ms: 100,
    timeout_ms: 1000,
    min_pause_ms: 20,
};
const ATTEMPT: AttemptId = AttemptId(7);

fn tasks(n: u32) -> BTreeSet<TaskKey> {
    (0..n).map(|i| (VertexId(i / 2), i % 2)).collect()
}

fn ready(n: u32) -> (Tracker, BTreeSet<TaskKey>) {
    let mut tracker = Tracker::new(SETTINGS, 0);
    assert_eq!(tracker.tick(0, 0, ATTEMPT, &tasks(n), false), vec![Step::Reserve]);
    tracker.reserved(CheckpointId(1));
    (tracker, tasks(n))
}

#[test]
fn a_checkpoint_goes_its_way() {
    let (mut tracker, tasks) = ready(2);
    assert!(tracker.tick(99, 99, ATTEMPT, &tasks, false).is_empty());
    let trigger = Step::Trigger {
        checkpoint: CheckpointId(1),
        is_final: false,
    };
    assert_eq!(tracker.tick(100, 100, ATTEMPT, &tasks, false), vec![trigger]);
    let id = CheckpointId(1);
    let all: Vec<TaskKey> = tasks.iter().copied().collect();
    assert!(tracker.ack(ATTEMPT, id, all[0], TaskAck::default()).is_empty());
    assert!(tracker.ack(ATTEMPT, id, all[0], TaskAck::default()).is_empty());
    assert!(
        tracker
            .ack(AttemptId(6), id, all[1], TaskAck::default())
            .is_empty()
    );
    assert!(
        tracker
            .ack(ATTEMPT, CheckpointId(9), all[1], TaskAck::default())
            .is_empty()
    );
    assert_eq!(
        tracker.ack(ATTEMPT, id, all[1], TaskAck::default()),
        vec![Step::Write]
    );
    assert_eq!(
        tracker.written(110, id, Ok([1; 32])),
        vec![Step::Propose([1; 32])]
    );
    assert!(
        tracker.tick(5000, 5000, ATTEMPT, &tasks, false).is_empty(),
        "no timeout after proposing"
    );
    assert!(
        tracker
            .decided(5000, id, Decided::Complete { committed: false })
            .is_empty()
    );
    assert!(tracker.tick(9000, 9000, ATTEMPT, &tasks, false).is_empty());
    assert_eq!(
        tracker.committed(9000, id),
        vec![Step::Settled { checkpoint: id }]
    );
}

#[test]
fn the_interval_keeps_its_phase_and_the_pause_is_kept() {
    let (mut tracker, tasks) = ready(1);
    let task = *tasks.first().unwrap();
    let mut starts = Vec::new();
    let mut now = 0;
    while starts.len() < 4 {
        now += 1;
        for step in tracker.tick(now, now, ATTEMPT, &tasks, false) {
            if let Step::Trigger { checkpoint, .. } = step {
                starts.push(now);
                let long = if starts.len() == 1 { 150 } else { 5 };
                tracker.ack(ATTEMPT, checkpoint, task, TaskAck::default());
                now += long;
                tracker.written(now, checkpoint, Ok([0; 32]));
                tracker.decided(now, checkpoint, Decided::Complete { committed: true });
            }
        }
    }
    // The first takes until 250, the second follows after the pause, then the grid of 100 goes on.
    assert_eq!(starts, vec![100, 270, 300, 400]);
}

#[test]
fn a_timeout_a_decline_and_a_failed_write_fail_it() {
    let (mut tracker, tasks) = ready(2);
    tracker.tick(100, 100, ATTEMPT, &tasks, false);
    let steps = tracker.tick(1100, 1100, ATTEMPT, &tasks, false);
    assert!(matches!(&steps[..], [Step::Fail { reason, .. }] if reason.contains("0 of 2")));
    tracker.tick(1200, 1200, ATTEMPT, &tasks, false);
    assert!(
        tracker
            .declined(1201, ATTEMPT, CheckpointId(1), "late".into())
            .is_empty()
    );
    assert_eq!(
        tracker
            .declined(1201, ATTEMPT, CheckpointId(2), "disk".into())
            .len(),
        1
    );
    assert_eq!(tracker.failures_in_a_row(), 2);
    tracker.tick(1300, 1300, ATTEMPT, &tasks, false);
    for task in &tasks {
        tracker.ack(ATTEMPT, CheckpointId(3), *task, TaskAck::default());
    }
    assert_eq!(
        tracker
            .written(1301, CheckpointId(3), Err("storage".into()))
            .len(),
        1
    );
    assert_eq!(tracker.failures_in_a_row(), 3);
}

#[test]
fn the_final_checkpoint_comes_at_once_even_without_an_interval() {
    let settings = TrackerSettings {
        interval_ms: 0,
        ..SETTINGS
    };
    let mut tracker = Tracker::new(settings, 0);
    let tasks = tasks(1);
    tracker.tick(0, 0, ATTEMPT, &tasks, false);
    tracker.reserved(CheckpointId(1));
    assert!(tracker.tick(100_000, 0, ATTEMPT, &tasks, false).is_empty());
    assert!(matches!(
        tracker.tick(100_000, 0, ATTEMPT, &tasks, true)[..],
        [Step::Trigger { is_final: true, .. }]
    ));
    tracker.declined(100_001, ATTEMPT, CheckpointId(1), "storage".into());
    assert!(tracker.tick(100_002, 0, ATTEMPT, &tasks, true).is_empty());
    assert_eq!(tracker.tick(100_201, 0, ATTEMPT, &tasks, true).len(), 1);
}

#[derive(Debug, Clone)]
enum Event {
    Tick(u64, bool),
    Ack(u64, u64, u32),
    Decline(u64, u64),
    Written(u64, bool),
    Decided(u64, u8),
    Committed(u64),
    AttemptOver,
    Resume(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u64..400, prop::bool::weighted(0.1)).prop_map(|(ms, f)| Event::Tick(ms, f)),
        8 => (6u64..8, 0u64..3, 0u32..4).prop_map(|(a, back, t)| Event::Ack(a, back, t)),
        1 => (6u64..8, 0u64..3).prop_map(|(a, back)| Event::Decline(a, back)),
        4 => (0u64..2, prop::bool::weighted(0.8)).prop_map(|(back, ok)| Event::Written(back, ok)),
        4 => (0u64..2, 0u8..3).prop_map(|(back, how)| Event::Decided(back, how)),
        4 => (0u64..2).prop_map(Event::Committed),
        1 => Just(Event::AttemptOver),
        1 => (0u64..2).prop_map(Event::Resume),
    ]
}

proptest! {
    /// Any order of events: never aborted after proposing (but by the log's refusal), one at a time, increasing
    /// numbers, complete only with every acknowledgement of its own attempt, settled only after the log.
    #[test]
    fn named_rules_hold(events in prop::collection::vec(event(), 0..200)) {
        let (mut tracker, tasks) = ready(3);
        let all: Vec<TaskKey> = tasks.iter().copied().collect();
        let mut now = 0;
        let mut newest = 0u64;
        let mut acked: BTreeMap<u64, BTreeSet<TaskKey>> = BTreeMap::new();
        let mut proposed: BTreeSet<u64> = BTreeSet::new();
        let mut in_log: BTreeSet<u64> = BTreeSet::new();
        let mut over: BTreeSet<u64> = BTreeSet::new();
        for event in events {
            let before = tracker.in_flight().cloned();
            let mut log_refused = false;
            let steps = match event {
                Event::Tick(ms, f) => { now += ms; tracker.tick(now, now, ATTEMPT, &tasks, f) }
                Event::Ack(attempt, back, t) => {
                    let id = newest.saturating_sub(back);
                    if let Some(task) = all.get(t as usize) {
                        if attempt == ATTEMPT.0 {
                            acked.entry(id).or_default().insert(*task);
                        }
                        tracker.ack(AttemptId(attempt), CheckpointId(id), *task, TaskAck::default())
                    } else {
                        tracker.ack(AttemptId(attempt), CheckpointId(id), (VertexId(99), t), TaskAck::default())
                    }
                }
                Event::Decline(attempt, back) => tracker.declined(now, AttemptId(attempt), CheckpointId(newest.saturating_sub(back)), "x".into()),
                Event::Written(back, ok) => tracker.written(now, CheckpointId(newest.saturating_sub(back)), if ok { Ok([0; 32]) } else { Err("x".into()) }),
                Event::Decided(back, how) => {
                    let id = newest.saturating_sub(back);
                    log_refused = how == 0;
                    if !log_refused && proposed.contains(&id) && !over.contains(&id) {
                        in_log.insert(id);
                    }
                    let decided = match how { 0 => Decided::Refused("x".into()), 1 => Decided::Complete { committed: true }, _ => Decided::Complete { committed: false } };
                    tracker.decided(now, CheckpointId(id), decided)
                }
                Event::Committed(back) => tracker.committed(now, CheckpointId(newest.saturating_sub(back))),
                Event::AttemptOver => tracker.attempt_over().into_iter().collect(),
                Event::Resume(back) => {
                    let id = newest.saturating_sub(back);
                    if in_log.contains(&id) && tracker.in_flight().is_none() {
                        over.remove(&id);
                        tracker.resume_committing(CheckpointId(id), ATTEMPT, now);
                    }
                    Vec::new()
                }
            };
            for step in steps {
                match step {
                    Step::Trigger { checkpoint, .. } => {
                        prop_assert!(before.is_none(), "one at a time");
                        prop_assert!(checkpoint.0 > newest, "numbers increase");
                        newest = checkpoint.0;
                        acked.entry(newest).or_default().clear();
                    }
                    Step::Write => {
                        prop_assert_eq!(acked.get(&newest).map(BTreeSet::len), Some(all.len()), "all of one attempt");
                    }
                    Step::Propose(_) => { proposed.insert(newest); }
                    Step::Fail { checkpoint, .. } => {
                        prop_assert!(!proposed.contains(&checkpoint.0) || log_refused, "abort before proposing only");
                        prop_assert!(over.insert(checkpoint.0), "fails once");
                    }
                    Step::Settled { checkpoint } => {
                        prop_assert!(in_log.contains(&checkpoint.0), "settled after the log");
                        over.insert(checkpoint.0);
                    }
                    Step::Reserve => {}
                }
            }
        }
    }
}
