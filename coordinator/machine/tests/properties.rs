//! Properties of the state machine over arbitrary command sequences.
#![allow(clippy::unwrap_used)]

use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId};
use holdfast_machine::invariants::{check, check_step};
use holdfast_machine::state::{Checkpoint, Failure, JobStatus, SlotAssignment, Worker};
use holdfast_machine::{Command, Proposal, Rejection, Response, SessionSeq, State};
use proptest::prelude::*;

/// A command in the small: numbers are resolved against the state that it is proposed to, so that most sequences get
/// somewhere, and some are stale.
#[derive(Debug, Clone)]
enum Step {
    Init(u8),
    Claim(u8),
    Feature(u32),
    Register(u8, u8),
    Remove(u8, u8),
    OpenSession,
    Submit {
        job: u8,
        key: Option<u8>,
        parallelism: u32,
    },
    Cancel(u8),
    Start {
        job: u8,
        stale: bool,
        blind: bool,
    },
    Running(u8, bool),
    Fail {
        job: u8,
        stale: bool,
        terminal: bool,
        at: u64,
    },
    Reserve(u8, u64),
    Complete {
        job: u8,
        id: u64,
        stale: bool,
        needs_commit: bool,
        last: bool,
        sha: u8,
    },
    CommitDone(u8, u64),
    CheckpointFailed(u8, u64),
    Retire(u8, Vec<u64>),
    Forget(u8, Vec<u64>),
    Damage(u8, u64),
    End(u8, u8),
    Put(u8, Option<u64>),
    Delete(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let job = || 0_u8..4;
    let id = || 0_u64..12;
    let ids = || prop::collection::vec(0_u64..12, 0..4);
    prop_oneof![
        1 => any::<u8>().prop_map(Step::Init),
        2 => (0_u8..3).prop_map(Step::Claim),
        1 => (0_u32..5).prop_map(Step::Feature),
        2 => (0_u8..3, 0_u8..3).prop_map(|(w, i)| Step::Register(w, i)),
        1 => (0_u8..3, 0_u8..3).prop_map(|(w, i)| Step::Remove(w, i)),
        1 => Just(Step::OpenSession),
        4 => (job(), prop::option::of(0_u8..4), 1_u32..3)
            .prop_map(|(job, key, parallelism)| Step::Submit { job, key, parallelism }),
        1 => job().prop_map(Step::Cancel),
        6 => (job(), prop::bool::weighted(0.1), prop::bool::weighted(0.1))
            .prop_map(|(job, stale, blind)| Step::Start { job, stale, blind }),
        5 => (job(), prop::bool::weighted(0.1)).prop_map(|(j, s)| Step::Running(j, s)),
        3 => (job(), prop::bool::weighted(0.1), prop::bool::weighted(0.1), 0_u64..99)
            .prop_map(|(job, stale, terminal, at)| Step::Fail { job, stale, terminal, at }),
        3 => (job(), 0_u64..8).prop_map(|(j, n)| Step::Reserve(j, n)),
        9 => (job(), id(), prop::bool::weighted(0.1), any::<bool>(), any::<bool>(), 0_u8..2).prop_map(
            |(job, id, stale, needs_commit, last, sha)| Step::Complete { job, id, stale, needs_commit, last, sha }
        ),
        4 => (job(), id()).prop_map(|(j, c)| Step::CommitDone(j, c)),
        2 => (job(), id()).prop_map(|(j, c)| Step::CheckpointFailed(j, c)),
        3 => (job(), ids()).prop_map(|(j, c)| Step::Retire(j, c)),
        3 => (job(), ids()).prop_map(|(j, c)| Step::Forget(j, c)),
        2 => (job(), id()).prop_map(|(j, c)| Step::Damage(j, c)),
        3 => (job(), 0_u8..7).prop_map(|(j, s)| Step::End(j, s)),
        3 => (0_u8..5, prop::option::of(0_u64..40)).prop_map(|(k, r)| Step::Put(k, r)),
        1 => (0_u8..5).prop_map(Step::Delete),
    ]
}

fn job_id(n: u8) -> JobId {
    JobId(u128::from(n) + 1)
}

fn ids(numbers: &[u64]) -> Vec<CheckpointId> {
    numbers.iter().copied().map(CheckpointId).collect()
}

fn command(state: &State, step: &Step) -> Command {
    let epoch = state.leader.as_ref().map_or(LeaderEpoch(0), |l| l.epoch);
    let attempt = |job: u8, stale: bool| {
        let current = state
            .jobs
            .get(&job_id(job))
            .and_then(|j| j.attempt.as_ref())
            .map(|a| a.id);
        if stale { Some(AttemptId(1)) } else { current }
    };
    match step.clone() {
        Step::Init(n) => Command::InitCluster {
            cluster_id: ClusterId(u128::from(n)),
            name: "c".to_owned(),
        },
        Step::Claim(n) => Command::ClaimLeader {
            node: NodeId(u64::from(n)),
            incarnation: Incarnation(u128::from(n)),
        },
        Step::Feature(level) => Command::SetFeatureLevel { epoch, level },
        Step::Register(w, i) => Command::RegisterWorker {
            epoch,
            worker: Worker {
                resource_id: format!("w{w}"),
                incarnation: Incarnation(u128::from(i)),
                data_addr: "a:1".to_owned(),
                slots: 2,
                version: "v".to_owned(),
                pid: 7,
                registered_ms: 0,
            },
        },
        Step::Remove(w, i) => Command::RemoveWorker {
            epoch,
            resource_id: format!("w{w}"),
            incarnation: Incarnation(u128::from(i)),
            reason: "r".to_owned(),
        },
        Step::OpenSession => Command::OpenSession {
            client: "t".to_owned(),
        },
        Step::Submit {
            job,
            key,
            parallelism,
        } => Command::SubmitJob {
            job: job_id(job),
            name: "n".to_owned(),
            sql: "SELECT 1".to_owned(),
            settings: [("a".to_owned(), "b".to_owned())].into(),
            fingerprint: "f".to_owned(),
            parallelism,
            max_parallelism: 128,
            idempotency_key: key.map(|k| format!("key{k}")),
        },
        Step::Cancel(job) => Command::CancelJob { job: job_id(job) },
        Step::Start { job, stale, blind } => {
            let known = state.jobs.get(&job_id(job));
            let slot = SlotAssignment {
                resource_id: "w0".to_owned(),
                incarnation: Incarnation(1),
                data_addr: "a:1".to_owned(),
            };
            Command::StartAttempt {
                epoch,
                job: job_id(job),
                replaces: attempt(job, stale),
                assignment: vec![slot; known.map_or(1, |j| j.parallelism as usize)],
                restore: known
                    .filter(|_| !blind)
                    .and_then(|j| j.latest_restorable())
                    .map(|c| c.id),
            }
        }
        Step::Running(job, stale) => Command::AttemptRunning {
            epoch,
            job: job_id(job),
            attempt: attempt(job, stale).unwrap_or_default(),
        },
        Step::Fail {
            job,
            stale,
            terminal,
            at,
        } => Command::AttemptFailed {
            epoch,
            job: job_id(job),
            attempt: attempt(job, stale),
            failure: Failure {
                at_ms: at,
                attempt_number: 1,
                task: "t".to_owned(),
                worker: "w".to_owned(),
                message: "m".to_owned(),
            },
            terminal,
            restart_at_ms: at,
            last_reports: prost::bytes::Bytes::new(),
        },
        Step::Reserve(job, count) => Command::ReserveCheckpoints {
            epoch,
            job: job_id(job),
            count,
        },
        Step::Complete {
            job,
            id,
            stale,
            needs_commit,
            last,
            sha,
        } => {
            let attempt = attempt(job, stale).unwrap_or_default();
            Command::CompleteCheckpoint {
                epoch,
                job: job_id(job),
                attempt,
                checkpoint: Checkpoint {
                    id: CheckpointId(id),
                    attempt,
                    manifest_path: format!("m/{id}"),
                    manifest_sha256: [sha; 32],
                    state_bytes: 5,
                    triggered_ms: 1,
                    completed_ms: 0,
                    needs_commit,
                    committed: false,
                    is_final: last,
                    retired: false,
                    damaged: false,
                },
            }
        }
        Step::CommitDone(job, id) => Command::CommitDone {
            epoch,
            job: job_id(job),
            checkpoint: CheckpointId(id),
        },
        Step::CheckpointFailed(job, id) => Command::CheckpointFailed {
            epoch,
            job: job_id(job),
            checkpoint: CheckpointId(id),
            triggered_ms: 1,
            reason: "late".to_owned(),
        },
        Step::Retire(job, c) => Command::RetireCheckpoints {
            epoch,
            job: job_id(job),
            checkpoints: ids(&c),
        },
        Step::Forget(job, c) => Command::ForgetCheckpoints {
            epoch,
            job: job_id(job),
            checkpoints: ids(&c),
        },
        Step::Damage(job, id) => Command::CheckpointDamaged {
            epoch,
            job: job_id(job),
            checkpoint: CheckpointId(id),
            reason: "bad".to_owned(),
        },
        Step::End(job, status) => {
            use JobStatus as S;
            let all = [
                S::Created,
                S::Running,
                S::Restarting,
                S::Cancelling,
                S::Finished,
                S::Canceled,
                S::Failed,
            ];
            let status = all[usize::from(status)];
            Command::EndJob {
                epoch,
                job: job_id(job),
                status,
                reason: "why".to_owned(),
                last_reports: prost::bytes::Bytes::new(),
            }
        }
        Step::Put(key, if_revision) => Command::KvPut {
            key: format!("k{key}"),
            value: vec![key; 3].into(),
            if_revision,
        },
        Step::Delete(key) => Command::KvDelete {
            key: format!("k{key}"),
        },
    }
}

#[derive(Debug, Clone)]
struct Sent {
    step: Step,
    time: u64,
    /// Which session of those that are there, which number relative to its watermark, what is acknowledged.
    session: Option<(usize, u64, u64)>,
}

fn sequence() -> impl Strategy<Value = Vec<Sent>> {
    let session = prop::option::weighted(0.3, (0_usize..3, 0_u64..6, 0_u64..3));
    let sent = (step(), 0_u64..1000, session).prop_map(|(step, time, session)| Sent { step, time, session });
    prop::collection::vec(sent, 1..120)
}

/// A start that gets most sequences to a running job.
fn prologue() -> Vec<Sent> {
    let steps = [
        Step::Claim(1),
        Step::OpenSession,
        Step::Submit {
            job: 0,
            key: Some(0),
            parallelism: 1,
        },
    ]
    .into_iter()
    .chain([
        Step::Start {
            job: 0,
            stale: false,
            blind: false,
        },
        Step::Running(0, false),
        Step::Reserve(0, 7),
    ]);
    steps
        .map(|step| Sent {
            step,
            time: 0,
            session: None,
        })
        .collect()
}

fn proposal(state: &State, sent: &Sent) -> Proposal {
    let session = sent.session.and_then(|(which, ahead, acked)| {
        let (id, session) = state.sessions.iter().nth(which)?;
        let seq = session.acked_up_to + ahead;
        Some(SessionSeq {
            session: *id,
            seq,
            acked_up_to: (session.acked_up_to + acked).min(seq),
        })
    });
    Proposal {
        proposed_ms: sent.time,
        session,
        command: command(state, &sent.step),
    }
}

/// Applies the steps from index 1 and gives every entry with its answer.
fn run(state: &mut State, sent: &[Sent]) -> Vec<(u64, Proposal, Response)> {
    let mut entries = Vec::new();
    for sent in prologue().iter().chain(sent) {
        let proposal = proposal(state, sent);
        let index = state.applied + 1;
        let response = state.apply(index, &proposal);
        entries.push((index, proposal, response));
    }
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn invariants_hold_after_every_entry(sent in sequence()) {
        let mut state = State::default();
        for sent in prologue().iter().chain(&sent) {
            let before = state.clone();
            let proposal = proposal(&state, sent);
            let response = state.apply(state.applied + 1, &proposal);
            prop_assert_eq!(check(&state), vec![], "after {:?} -> {:?}", proposal, response);
            prop_assert_eq!(check_step(&before, &state), vec![], "after {:?} -> {:?}", proposal, response);
        }
    }

    #[test]
    fn a_refused_command_changes_nothing_but_time(sent in sequence()) {
        let mut state = State::default();
        for sent in prologue().iter().chain(&sent) {
            let before = state.clone();
            let proposal = Proposal { session: None, ..proposal(&state, sent) };
            let response = state.apply(state.applied + 1, &proposal);
            if matches!(response, Response::Rejected(_)) {
                let unchanged = State { applied: state.applied, now_ms: state.now_ms, ..before };
                prop_assert_eq!(&unchanged, &state, "{:?} -> {:?}", proposal, response);
            }
        }
    }

    #[test]
    fn a_snapshot_and_the_rest_of_the_log_give_the_whole(sent in sequence(), cut in 0_usize..130) {
        let mut whole = State::default();
        let entries = run(&mut whole, &sent);
        let cut = cut.min(entries.len());
        let mut first = State::default();
        for (index, proposal, response) in &entries[..cut] {
            prop_assert_eq!(&first.apply(*index, proposal), response);
        }
        let mut second = State::from_snapshot_bytes(&first.snapshot_bytes()).unwrap();
        prop_assert_eq!(&second, &first);
        prop_assert_eq!(second.digest(), first.digest());
        for (index, proposal, response) in &entries[cut..] {
            let read_back = Proposal::decode(&proposal.encode()).unwrap();
            prop_assert_eq!(&read_back, proposal);
            prop_assert_eq!(&second.apply(*index, &read_back), response);
        }
        prop_assert_eq!(&second, &whole);
        prop_assert_eq!(second.snapshot_bytes(), whole.snapshot_bytes());
    }

    #[test]
    fn a_request_in_a_session_is_applied_once(
        sent in sequence(),
        again in prop::collection::vec(any::<prop::sample::Index>(), 1..10),
    ) {
        let mut state = State::default();
        let entries = run(&mut state, &sent);
        for which in again {
            let (_, proposal, first) = which.get(&entries);
            let Some(request) = proposal.session else { continue };
            let before = state.clone();
            let answer = state.apply(state.applied + 1, proposal);
            // Refused the first time for the number alone: that is no application, and may change.
            let never_applied = request.acked_up_to >= request.seq
                || !before.sessions.get(&request.session).is_some_and(|s| s.responses.contains_key(&request.seq));
            if never_applied {
                continue;
            }
            // A number may have been used twice in the sequence: then the first use counts, for all.
            let remembered = &before.sessions[&request.session].responses[&request.seq];
            let same = match (&answer, remembered) {
                (Response::Kv(a), Response::Kv(b)) => a.revision == b.revision,
                (a, b) => a == b || matches!(a, Response::Rejected(Rejection::Forgotten { .. })),
            };
            prop_assert!(same, "{answer:?} is not {remembered:?}, first was {first:?}");
            prop_assert_eq!(&before.jobs, &state.jobs);
            prop_assert_eq!(&before.kv, &state.kv);
            prop_assert_eq!(&before.workers, &state.workers);
            prop_assert_eq!(before.sessions.len(), state.sessions.len());
        }
    }

    #[test]
    fn flipped_bits_in_a_snapshot_are_found(sent in sequence(), at in any::<prop::sample::Index>(), bit in 0_u8..8) {
        let mut state = State::default();
        run(&mut state, &sent);
        let mut bytes = state.snapshot_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert!(State::from_snapshot_bytes(&bytes).is_err());
        prop_assert!(State::from_snapshot_bytes(&state.snapshot_bytes()[..at]).is_err());
    }

    #[test]
    fn decoding_arbitrary_bytes_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = Proposal::decode(&bytes);
        let _ = State::from_snapshot_bytes(&bytes);
    }
}
