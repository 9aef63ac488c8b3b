//! The rules of single commands, one by one.
#![allow(clippy::unwrap_used)]

use holdfast_common::limits::{ENDED_JOBS_MAX, SESSION_WINDOW, SESSIONS_MAX};
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId};
use holdfast_machine::state::{Checkpoint, Failure, JobStatus, SlotAssignment};
use holdfast_machine::{Command, Proposal, Rejection, Response, SessionSeq, State};

const JOB: JobId = JobId(5);

#[derive(Default)]
struct Log {
    state: State,
}

impl Log {
    fn put(&mut self, command: Command) -> Response {
        let proposal = Proposal {
            proposed_ms: self.state.applied * 10,
            session: None,
            command,
        };
        self.state.apply(self.state.applied + 1, &proposal)
    }

    fn in_session(&mut self, session: u64, seq: u64, acked_up_to: u64, command: Command) -> Response {
        let session = Some(SessionSeq {
            session,
            seq,
            acked_up_to,
        });
        self.state.apply(
            self.state.applied + 1,
            &Proposal {
                proposed_ms: 0,
                session,
                command,
            },
        )
    }

    fn epoch(&self) -> LeaderEpoch {
        self.state.epoch()
    }

    fn claim(&mut self) {
        self.put(Command::ClaimLeader {
            node: NodeId(1),
            incarnation: Incarnation(1),
        });
    }

    fn submit(&mut self, job: JobId, key: Option<&str>) -> Response {
        self.put(Command::SubmitJob {
            job,
            name: "n".into(),
            sql: "s".into(),
            settings: [].into(),
            fingerprint: "f".into(),
            parallelism: 1,
            max_parallelism: 128,
            idempotency_key: key.map(str::to_owned),
        })
    }

    fn start(&mut self, replaces: Option<AttemptId>, restore: Option<u64>) -> Response {
        let slot = SlotAssignment {
            resource_id: "w".into(),
            incarnation: Incarnation(1),
            data_addr: "a:1".into(),
        };
        self.put(Command::StartAttempt {
            epoch: self.epoch(),
            job: JOB,
            replaces,
            assignment: vec![slot],
            restore: restore.map(CheckpointId),
        })
    }

    fn attempt(&self) -> AttemptId {
        self.state.jobs[&JOB].attempt.as_ref().unwrap().id
    }

    /// A running job with reserved checkpoint numbers.
    fn running() -> Self {
        let mut log = Self::default();
        log.claim();
        log.submit(JOB, None);
        log.start(None, None);
        let (epoch, attempt) = (log.epoch(), log.attempt());
        assert_eq!(
            log.put(Command::AttemptRunning {
                epoch,
                job: JOB,
                attempt
            }),
            Response::Done
        );
        let reserve = Command::ReserveCheckpoints {
            epoch,
            job: JOB,
            count: 1000,
        };
        assert_eq!(log.put(reserve), Response::Checkpoints(CheckpointId(1)));
        log
    }

    fn complete(&mut self, id: u64, attempt: AttemptId, needs_commit: bool, is_final: bool) -> Response {
        let checkpoint = Checkpoint {
            id: CheckpointId(id),
            attempt,
            manifest_path: format!("m{id}"),
            manifest_sha256: [1; 32],
            state_bytes: 1,
            triggered_ms: 0,
            completed_ms: 0,
            needs_commit,
            committed: true,
            is_final,
            retired: true,
            damaged: true,
        };
        self.put(Command::CompleteCheckpoint {
            epoch: self.epoch(),
            job: JOB,
            attempt,
            checkpoint,
        })
    }

    fn fail(&mut self, terminal: bool) -> Response {
        let failure = Failure {
            at_ms: self.state.applied,
            attempt_number: self.state.jobs[&JOB].attempts,
            task: "t".into(),
            worker: "w".into(),
            message: "m".into(),
        };
        let (epoch, attempt) = (self.epoch(), Some(self.attempt()));
        self.put(Command::AttemptFailed {
            epoch,
            job: JOB,
            attempt,
            failure,
            terminal,
            restart_at_ms: 9,
            last_reports: prost::bytes::Bytes::new(),
        })
    }

    fn end(&mut self, status: JobStatus) -> Response {
        self.put(Command::EndJob {
            epoch: self.epoch(),
            job: JOB,
            status,
            reason: String::new(),
            last_reports: prost::bytes::Bytes::new(),
        })
    }

    fn status(&self) -> JobStatus {
        self.state.jobs[&JOB].status
    }
}

fn conflict(response: &Response) -> bool {
    matches!(response, Response::Rejected(Rejection::Conflict(_)))
}

#[test]
fn the_first_name_of_a_cluster_stays() {
    let mut log = Log::default();
    let name = |n| Command::InitCluster {
        cluster_id: ClusterId(n),
        name: "c".into(),
    };
    assert_eq!(log.put(name(1)), Response::Cluster(ClusterId(1)));
    assert_eq!(log.put(name(2)), Response::Cluster(ClusterId(1)));
}

#[test]
fn an_older_leader_commands_nothing() {
    let mut log = Log::running();
    let old = log.epoch();
    log.claim();
    let late = Command::ReserveCheckpoints {
        epoch: old,
        job: JOB,
        count: 1,
    };
    let current = log.epoch();
    assert_eq!(
        log.put(late),
        Response::Rejected(Rejection::StaleEpoch { given: old, current })
    );
    // Nor does anybody before the first claim.
    let early = Command::SetFeatureLevel {
        epoch: LeaderEpoch(0),
        level: 1,
    };
    assert!(matches!(
        Log::default().put(early),
        Response::Rejected(Rejection::StaleEpoch { .. })
    ));
}

#[test]
fn an_older_attempt_completes_nothing() {
    let mut log = Log::running();
    let old = log.attempt();
    log.fail(false);
    assert_eq!(log.status(), JobStatus::Restarting);
    assert!(matches!(log.start(Some(old), None), Response::Attempt(_)));
    assert!(matches!(
        log.complete(1, old, false, false),
        Response::Rejected(Rejection::StaleAttempt { .. })
    ));
    assert!(matches!(
        log.start(Some(old), None),
        Response::Rejected(Rejection::StaleAttempt { .. })
    ));
    let new = log.attempt();
    assert_eq!(log.complete(1, new, false, false), Response::Done);
}

#[test]
fn checkpoints_complete_in_order_and_once() {
    let mut log = Log::running();
    let attempt = log.attempt();
    assert_eq!(log.complete(3, attempt, true, false), Response::Done);
    let record = &log.state.jobs[&JOB].checkpoints[&CheckpointId(3)];
    assert!(
        !record.committed && !record.retired && !record.damaged,
        "decided here, not by the proposer"
    );
    assert_eq!(
        log.complete(3, attempt, true, false),
        Response::Done,
        "the same again"
    );
    assert_eq!(log.state.jobs[&JOB].checkpoint_stats.completed, 1);
    assert!(conflict(&log.complete(2, attempt, true, false)));
    assert!(
        conflict(&log.complete(5000, attempt, true, false)),
        "never reserved"
    );
    let done = Command::CommitDone {
        epoch: log.epoch(),
        job: JOB,
        checkpoint: CheckpointId(3),
    };
    assert_eq!(log.put(done.clone()), Response::Done);
    assert_eq!(log.put(done), Response::Done);
    assert!(log.state.jobs[&JOB].checkpoints[&CheckpointId(3)].committed);
}

#[test]
fn a_restart_uses_the_newest_checkpoint_that_is_whole() {
    let mut log = Log::running();
    let attempt = log.attempt();
    log.complete(1, attempt, false, false);
    log.complete(2, attempt, false, false);
    log.fail(false);
    assert!(conflict(&log.start(Some(attempt), Some(1))));
    assert!(conflict(&log.start(Some(attempt), None)));
    let epoch = log.epoch();
    let damaged = Command::CheckpointDamaged {
        epoch,
        job: JOB,
        checkpoint: CheckpointId(2),
        reason: "crc".into(),
    };
    assert_eq!(log.put(damaged), Response::Done);
    assert!(
        log.state.jobs[&JOB]
            .exceptions
            .back()
            .unwrap()
            .message
            .contains("passed over")
    );
    assert!(matches!(log.start(Some(attempt), Some(1)), Response::Attempt(_)));
    assert_eq!(log.state.jobs[&JOB].checkpoint_stats.restored, 1);
}

#[test]
fn what_a_restart_or_a_commit_needs_is_not_retired() {
    let mut log = Log::running();
    let attempt = log.attempt();
    let epoch = log.epoch();
    log.complete(1, attempt, true, false);
    log.complete(2, attempt, false, false);
    let retire = |id| Command::RetireCheckpoints {
        epoch,
        job: JOB,
        checkpoints: vec![CheckpointId(id)],
    };
    let forget = |id| Command::ForgetCheckpoints {
        epoch,
        job: JOB,
        checkpoints: vec![CheckpointId(id)],
    };
    assert!(conflict(&log.put(retire(2))), "the restart point");
    assert!(conflict(&log.put(retire(1))), "not committed");
    log.put(Command::CommitDone {
        epoch,
        job: JOB,
        checkpoint: CheckpointId(1),
    });
    assert!(conflict(&log.put(forget(1))), "not retired");
    assert_eq!(log.put(retire(1)), Response::Done);
    assert_eq!(log.put(forget(1)), Response::Done);
    assert_eq!(log.put(forget(1)), Response::Done);
}

#[test]
fn a_job_finishes_only_after_its_final_commit() {
    let mut log = Log::running();
    let attempt = log.attempt();
    assert!(conflict(&log.end(JobStatus::Finished)));
    log.complete(1, attempt, true, true);
    assert!(conflict(&log.end(JobStatus::Finished)));
    log.put(Command::CommitDone {
        epoch: log.epoch(),
        job: JOB,
        checkpoint: CheckpointId(1),
    });
    assert_eq!(log.end(JobStatus::Finished), Response::Done);
    assert_eq!(log.end(JobStatus::Finished), Response::Done);
    assert!(conflict(&log.end(JobStatus::Failed)));
    assert!(conflict(&log.put(Command::CancelJob { job: JOB })));
    assert!(conflict(&log.complete(2, attempt, false, false)));
}

#[test]
fn cancelling_goes_through_the_leader() {
    let mut log = Log::running();
    assert!(conflict(&log.end(JobStatus::Canceled)), "nobody asked for it");
    assert_eq!(log.put(Command::CancelJob { job: JOB }), Response::Done);
    assert_eq!(log.put(Command::CancelJob { job: JOB }), Response::Done);
    let attempt = log.attempt();
    assert!(conflict(&log.start(Some(attempt), None)));
    log.fail(false);
    assert_eq!(log.status(), JobStatus::Cancelling);
    assert_eq!(log.end(JobStatus::Canceled), Response::Done);
    assert!(log.state.jobs[&JOB].ended_ms.is_some());
}

#[test]
fn a_failure_reported_twice_counts_once() {
    let mut log = Log::running();
    let failure = Failure {
        at_ms: 1,
        attempt_number: 1,
        task: "t".into(),
        worker: "w".into(),
        message: "m".repeat(100_000),
    };
    let (epoch, attempt) = (log.epoch(), Some(log.attempt()));
    let failed = Command::AttemptFailed {
        epoch,
        job: JOB,
        attempt,
        failure,
        terminal: false,
        restart_at_ms: 77,
        last_reports: prost::bytes::Bytes::new(),
    };
    assert_eq!(log.put(failed.clone()), Response::Done);
    assert_eq!(log.put(failed), Response::Done);
    let job = &log.state.jobs[&JOB];
    assert_eq!(
        (
            job.failure_times_ms.len(),
            job.exceptions.len(),
            job.restart_at_ms
        ),
        (1, 1, 77)
    );
    assert!(job.exceptions[0].message.len() < 20_000, "bounded");
    // The failed attempt does not come to run any more.
    let late = Command::AttemptRunning {
        epoch,
        job: JOB,
        attempt: attempt.unwrap(),
    };
    assert!(conflict(&log.put(late)));
    log.fail(true);
    assert_eq!(log.status(), JobStatus::Failed);
}

#[test]
fn a_key_names_one_submission_for_as_long_as_its_job_is_known() {
    let mut log = Log::default();
    assert_eq!(
        log.submit(JOB, Some("k")),
        Response::Submitted {
            job: JOB,
            existing: false
        }
    );
    assert_eq!(
        log.submit(JobId(6), Some("k")),
        Response::Submitted {
            job: JOB,
            existing: true
        }
    );
    assert_eq!(
        log.submit(JOB, None),
        Response::Submitted {
            job: JOB,
            existing: true
        }
    );
    assert_eq!(log.state.jobs.len(), 1);
}

#[test]
fn ended_jobs_are_dropped_oldest_first() {
    let mut log = Log::default();
    log.claim();
    for n in 0..ENDED_JOBS_MAX as u128 + 3 {
        log.submit(JobId(n), Some(&format!("k{n}")));
        log.put(Command::CancelJob { job: JobId(n) });
        let epoch = log.epoch();
        let end = Command::EndJob {
            epoch,
            job: JobId(n),
            status: JobStatus::Canceled,
            reason: String::new(),
            last_reports: prost::bytes::Bytes::new(),
        };
        assert_eq!(log.put(end), Response::Done);
    }
    assert_eq!(log.state.jobs.len(), ENDED_JOBS_MAX);
    assert_eq!(log.state.submissions.len(), ENDED_JOBS_MAX);
    assert!(!log.state.jobs.contains_key(&JobId(2)) && log.state.jobs.contains_key(&JobId(3)));
}

#[test]
fn sessions_remember_what_is_not_acknowledged() {
    let mut log = Log::default();
    let Response::Session(id) = log.put(Command::OpenSession { client: "c".into() }) else {
        panic!()
    };
    let put = |v: u8| Command::KvPut {
        key: "k".into(),
        value: vec![v].into(),
        if_revision: None,
    };
    let first = log.in_session(id, 1, 0, put(1));
    assert!(matches!(&first, Response::Kv(e) if e.value[..] == [1]));
    assert_eq!(
        log.in_session(id, 1, 0, put(1)),
        first,
        "the same answer, the value included"
    );
    assert_eq!(log.state.kv["k"].revision, 2, "and no second write");
    log.in_session(id, 3, 1, put(3));
    assert_eq!(
        log.in_session(id, 1, 0, put(1)),
        Response::Rejected(Rejection::Forgotten { session: id, seq: 1 })
    );
    assert!(conflict(&log.in_session(id, 4, 4, put(4))));
    let unknown = log.in_session(999, 1, 0, put(1));
    assert!(matches!(unknown, Response::Rejected(Rejection::NotFound(_))));
    // A client that never acknowledges is stopped; one that does goes on, and a number in between is not lost.
    for seq in 4..4 + SESSION_WINDOW as u64 - 1 {
        assert!(matches!(log.in_session(id, seq, 1, put(0)), Response::Kv(_)));
    }
    let full = log.in_session(id, 5000, 1, put(0));
    assert!(
        matches!(full, Response::Rejected(Rejection::Limit(_))),
        "{full:?}"
    );
    assert!(matches!(log.in_session(id, 5000, 3, put(0)), Response::Kv(_)));
}

#[test]
fn the_session_unused_for_longest_makes_room() {
    let mut log = Log::default();
    let open = || Command::OpenSession {
        client: String::new(),
    };
    for _ in 0..SESSIONS_MAX {
        log.put(open());
    }
    let put = Command::KvPut {
        key: "k".into(),
        value: vec![].into(),
        if_revision: None,
    };
    assert!(matches!(log.in_session(1, 1, 0, put), Response::Kv(_)));
    log.put(open());
    assert_eq!(log.state.sessions.len(), SESSIONS_MAX);
    assert!(log.state.sessions.contains_key(&1) && !log.state.sessions.contains_key(&2));
}

#[test]
fn values_are_compared_by_revision() {
    let mut log = Log::default();
    let put = |r| Command::KvPut {
        key: "k".into(),
        value: vec![1].into(),
        if_revision: r,
    };
    let Response::Kv(entry) = log.put(put(Some(0))) else {
        panic!()
    };
    let wrong = Rejection::Revision {
        expected: 0,
        current: entry.revision,
    };
    assert_eq!(log.put(put(Some(0))), Response::Rejected(wrong));
    assert!(matches!(log.put(put(Some(entry.revision))), Response::Kv(_)));
    assert_eq!(log.put(Command::KvDelete { key: "k".into() }), Response::Done);
    assert!(log.state.kv.is_empty());
}

#[test]
fn time_never_runs_backwards() {
    let mut state = State::default();
    let at = |ms| Proposal {
        proposed_ms: ms,
        session: None,
        command: Command::KvDelete { key: "k".into() },
    };
    state.apply(1, &at(100));
    state.apply(2, &at(50));
    assert_eq!(state.now_ms, 100);
    assert!(
        conflict(&state.apply(2, &at(900))),
        "an old entry changes nothing"
    );
    assert_eq!(state.now_ms, 100);
}

#[test]
fn an_unknown_command_is_an_error() {
    // Field 99 of a newer version, instead of a command that we know.
    assert!(Proposal::decode(&[0x08, 0x01, 0x9a, 0x06, 0x00]).is_err());
    assert!(Proposal::decode(&[]).is_err());
}
