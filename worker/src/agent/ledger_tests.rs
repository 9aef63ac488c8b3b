//! Tests of the agent's ledger.
#![allow(clippy::unwrap_used)]

use super::*;
use holdfast_proto::control::{Ack, CommitDone, Deployed, TaskState};
use proptest::prelude::*;

const JOB: JobId = JobId(5);

fn id() -> bytes::Bytes {
    JOB.to_bytes().to_vec().into()
}

fn ack(attempt: u64, checkpoint: u64, subtask: u32) -> Body {
    Body::Ack(Ack {
        job_id: id(),
        attempt,
        checkpoint,
        subtask,
        ..Ack::default()
    })
}

#[test]
fn older_leaders_and_attempts_are_not_obeyed() {
    let mut ledger = Ledger::default();
    ledger.obey(LeaderEpoch(10)).unwrap();
    assert!(ledger.obey(LeaderEpoch(9)).is_err());
    ledger.obey(LeaderEpoch(10)).unwrap();
    assert_eq!(ledger.deploy(JOB, AttemptId(11)), Ok(None));
    assert!(ledger.deploy(JOB, AttemptId(11)).is_err(), "twice");
    assert_eq!(ledger.deploy(JOB, AttemptId(15)), Ok(Some(AttemptId(11))));
    assert!(ledger.require_current(JOB, AttemptId(11)).is_err());
    ledger.require_current(JOB, AttemptId(15)).unwrap();
    assert!(ledger.require_not_over(JOB, AttemptId(11)).is_err());
    ledger.require_not_over(JOB, AttemptId(20)).unwrap();
    ledger.cancel(JOB, AttemptId(15));
    assert!(
        ledger.deploy(JOB, AttemptId(15)).is_err(),
        "a cancelled attempt never comes back"
    );
    assert!(ledger.running().is_empty());
}

#[test]
fn what_a_leader_may_not_have_heard_is_repeated_until_it_is_settled() {
    let mut ledger = Ledger::default();
    ledger.deploy(JOB, AttemptId(3)).unwrap();
    ledger.keep(&Body::Deployed(Deployed {
        job_id: id(),
        attempt: 3,
    }));
    ledger.keep(&Body::TaskState(TaskState {
        job_id: id(),
        attempt: 3,
        ..TaskState::default()
    }));
    ledger.keep(&ack(3, 1, 0));
    ledger.keep(&ack(3, 1, 0));
    ledger.keep(&ack(3, 1, 1));
    ledger.keep(&Body::CommitDone(CommitDone {
        job_id: id(),
        attempt: 3,
        checkpoint: 1,
        ..CommitDone::default()
    }));
    assert_eq!(ledger.to_repeat().count(), 5);
    ledger.started(JOB, AttemptId(3));
    assert_eq!(ledger.to_repeat().count(), 4);
    ledger.checkpoints_decided(JOB, AttemptId(3), CheckpointId(2));
    assert_eq!(ledger.to_repeat().count(), 1);
    ledger.cancel(JOB, AttemptId(3));
    assert_eq!(ledger.to_repeat().count(), 0);
    ledger.keep(&ack(3, 2, 0));
    assert_eq!(ledger.to_repeat().count(), 0, "of an attempt that is over");
}

proptest! {
    /// At most one attempt of a job runs, it only grows, and nothing of an attempt that is over is repeated.
    #[test]
    fn attempts_only_grow(commands in prop::collection::vec((0u8..3, 1u64..10), 0..60)) {
        let mut ledger = Ledger::default();
        let mut newest = 0;
        let mut over = 0;
        for (kind, n) in commands {
            match kind {
                0 => {
                    if ledger.deploy(JOB, AttemptId(n)).is_ok() {
                        prop_assert!(n > newest.max(over));
                        over = over.max(newest);
                        newest = n;
                    }
                }
                1 => {
                    ledger.cancel(JOB, AttemptId(n));
                    over = over.max(n);
                }
                _ => ledger.keep(&ack(n, 1, 0)),
            }
            for body in ledger.to_repeat() {
                if let Body::Ack(m) = body {
                    prop_assert!(m.attempt > over);
                }
            }
            let running = ledger.running();
            prop_assert!(running.len() <= 1);
            prop_assert!(running.iter().all(|(_, a)| a.0 == newest && newest > over));
        }
    }
}

#[test]
fn the_end_of_an_attempt_names_the_older_one_that_runs_here() {
    let (job, mut ledger) = (JobId(1), Ledger::default());
    ledger.deploy(job, AttemptId(31)).unwrap();
    // The next attempt never reached this worker; its end does.
    assert_eq!(ledger.cancel(job, AttemptId(40)), Some(AttemptId(31)));
    assert_eq!(ledger.cancel(job, AttemptId(40)), None);
    assert_eq!(ledger.deploy(job, AttemptId(41)), Ok(None));
    assert_eq!(
        ledger.cancel(job, AttemptId(41)),
        None,
        "it is named by the command itself"
    );
}
