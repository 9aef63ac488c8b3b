//! A copy of the state costs next to nothing, however much there is: snapshots and digests are made of copies that the
//! apply task takes between two entries. Counted in bytes allocated, not in time.
#![allow(clippy::unwrap_used)]

use allocation_counter::measure;
use holdfast_common::limits::SESSIONS_MAX;
use holdfast_common::{Incarnation, JobId, LeaderEpoch, NodeId};
use holdfast_machine::{Command, Proposal, Response, SessionSeq, State};

/// What a copy may allocate with one job and no worker: the vectors' and small maps' own nodes.
const COPY_BYTES_MAX: u64 = 4 << 10;
/// What one write may allocate while a copy is held: the way from the map's root to the entry, for the key-value space
/// and for the session.
const WRITE_BYTES_MAX: u64 = 64 << 10;
const KEYS: u32 = 20_000;

fn put(state: &mut State, session: Option<SessionSeq>, command: Command) -> Response {
    let proposal = Proposal {
        proposed_ms: 0,
        session,
        command,
    };
    state.apply(state.applied + 1, &proposal)
}

fn write(key: u32) -> Command {
    Command::KvPut {
        key: format!("key-{key}"),
        value: vec![7; 256].into(),
        if_revision: None,
    }
}

/// Much of everything that grows with use: keys, sessions with a remembered answer each, and the text of a job.
fn large() -> State {
    let mut state = State::default();
    let claim = Command::ClaimLeader {
        node: NodeId(1),
        incarnation: Incarnation(1),
    };
    put(&mut state, None, claim);
    assert_ne!(state.epoch(), LeaderEpoch(0));
    let submit = Command::SubmitJob {
        job: JobId(1),
        name: "large".into(),
        sql: "-".repeat(100_000),
        settings: [].into(),
        fingerprint: "f".into(),
        parallelism: 1,
        max_parallelism: 128,
        idempotency_key: None,
    };
    put(&mut state, None, submit);
    for client in 0..SESSIONS_MAX {
        let Response::Session(session) = put(
            &mut state,
            None,
            Command::OpenSession {
                client: format!("{client}"),
            },
        ) else {
            panic!("no session");
        };
        let request = SessionSeq {
            session,
            seq: 1,
            acked_up_to: 0,
        };
        put(
            &mut state,
            Some(request),
            write(u32::try_from(client).unwrap() % KEYS),
        );
    }
    for key in 0..KEYS {
        put(&mut state, None, write(key));
    }
    assert_eq!(state.kv.len(), KEYS as usize);
    assert_eq!(state.sessions.len(), SESSIONS_MAX);
    assert_eq!(state.jobs.len(), 1);
    state
}

#[test]
fn a_copy_and_the_writes_beside_it_allocate_little() {
    let mut state = large();
    let mut copy = None;
    let copied = measure(|| copy = Some(state.clone()));
    println!(
        "a copy: {} bytes in {} allocations",
        copied.bytes_total, copied.count_total
    );
    assert!(
        copied.bytes_total <= COPY_BYTES_MAX,
        "a copy allocated {copied:?}"
    );

    let session = *state.sessions.keys().nth(SESSIONS_MAX / 2).unwrap();
    let request = SessionSeq {
        session,
        seq: 2,
        acked_up_to: 1,
    };
    let written = measure(|| {
        put(&mut state, Some(request), write(KEYS / 2));
    });
    println!(
        "a write: {} bytes in {} allocations",
        written.bytes_total, written.count_total
    );
    assert!(
        written.bytes_total <= WRITE_BYTES_MAX,
        "a write beside a copy allocated {written:?}"
    );
    assert_ne!(copy.unwrap(), state);
}
