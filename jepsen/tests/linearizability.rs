//! The search for a linearization against brute force, and golden histories.
#![allow(clippy::unwrap_used)]

use jepsen::check::wgl::{Call, Model, Outcome, check};
use jepsen::model::register::{Register, RegisterOp};
use proptest::prelude::*;

/// Tries every order of every subset that holds all answered calls.
fn brute_force(calls: &[Call<RegisterOp>]) -> bool {
    fn go(calls: &[Call<RegisterOp>], done: u32, state: u32) -> bool {
        let left = |i: usize| done & (1 << i) == 0;
        if (0..calls.len()).all(|i| !left(i) || calls[i].end == u64::MAX) {
            return true;
        }
        (0..calls.len()).filter(|i| left(*i)).any(|i| {
            // Nothing that is left may have ended before this one began.
            let free = (0..calls.len())
                .filter(|j| left(*j) && *j != i)
                .all(|j| calls[j].end >= calls[i].start);
            let next = Register.step(&state, &calls[i].op).filter(|_| free);
            next.is_some_and(|next| go(calls, done | (1 << i), next))
        })
    }
    go(calls, 0, 0)
}

fn op() -> impl Strategy<Value = RegisterOp> {
    prop_oneof![
        (0..4_u32).prop_map(RegisterOp::Read),
        (1..4_u32).prop_map(RegisterOp::Write),
        (0..4_u32, 1..4_u32).prop_map(|(expected, new)| RegisterOp::Cas { expected, new }),
        (0..4_u32).prop_map(|expected| RegisterOp::Mismatch { expected }),
    ]
}

fn calls() -> impl Strategy<Value = Vec<Call<RegisterOp>>> {
    let call = (op(), 0..30_u64, 0..12_u64, 0..6_u8).prop_map(|(op, start, length, fate)| {
        let end = if fate == 0 { u64::MAX } else { start + length };
        Call { op, start, end }
    });
    prop::collection::vec(call, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]
    #[test]
    fn the_search_agrees_with_brute_force(calls in calls()) {
        let outcome = check(&Register, &calls, 1_000_000);
        prop_assert_ne!(&outcome, &Outcome::Exhausted);
        prop_assert_eq!(matches!(outcome, Outcome::Linearizable(_)), brute_force(&calls));
    }

    #[test]
    fn a_found_order_is_one(calls in calls()) {
        if let Outcome::Linearizable(order) = check(&Register, &calls, 1_000_000) {
            let mut state = 0;
            for (position, call) in order.iter().enumerate() {
                state = Register.step(&state, &calls[*call].op).unwrap();
                for later in &order[position + 1..] {
                    prop_assert!(calls[*later].end >= calls[*call].start);
                }
            }
            prop_assert!((0..calls.len()).all(|c| calls[c].end == u64::MAX || order.contains(&c)));
        }
    }
}

fn call(op: RegisterOp, start: u64, end: u64) -> Call<RegisterOp> {
    Call { op, start, end }
}

#[test]
fn golden_histories() {
    use RegisterOp::{Cas, Mismatch, Read, Write};
    let good =
        |calls: &[Call<RegisterOp>]| matches!(check(&Register, calls, 10_000), Outcome::Linearizable(_));
    // A write of unknown outcome may take effect late, or never, but not before it was sent and not twice.
    assert!(good(&[
        call(Write(1), 0, u64::MAX),
        call(Read(0), 5, 6),
        call(Read(1), 7, 8)
    ]));
    assert!(good(&[call(Write(1), 0, u64::MAX), call(Read(0), 5, 6)]));
    assert!(!good(&[call(Read(1), 1, 2), call(Write(1), 3, u64::MAX)]));
    let twice = [
        call(Write(1), 0, u64::MAX),
        call(Write(2), 3, 4),
        call(Read(1), 1, 2),
        call(Read(2), 5, 6),
        call(Read(1), 7, 8),
    ];
    assert!(!good(&twice));
    // A stale read, a lost update by two compares, a compare that failed although it had to succeed.
    assert!(!good(&[
        call(Write(1), 0, 1),
        call(Write(2), 2, 3),
        call(Read(1), 4, 5)
    ]));
    assert!(!good(&[
        call(Cas { expected: 0, new: 1 }, 0, 5),
        call(Cas { expected: 0, new: 2 }, 1, 6)
    ]));
    assert!(!good(&[
        call(Write(1), 0, 1),
        call(Mismatch { expected: 1 }, 2, 3)
    ]));
    assert!(good(&[
        call(Write(1), 0, 1),
        call(Write(2), 2, u64::MAX),
        call(Mismatch { expected: 1 }, 3, 4)
    ]));
}

#[test]
fn a_long_history_with_much_overlap_is_decided_in_few_steps() {
    // Eight clients, each operation overlapping about seven others.
    let mut calls = Vec::new();
    let mut state = 0;
    for n in 0..4000_u64 {
        let op = if n % 3 == 0 {
            state = u32::try_from(n).unwrap() + 1;
            RegisterOp::Write(state)
        } else {
            RegisterOp::Read(state)
        };
        calls.push(call(op, (n * 10).saturating_sub(35), n * 10 + 35));
    }
    assert!(matches!(
        check(&Register, &calls, 5_000_000),
        Outcome::Linearizable(_)
    ));
    calls[3900].op = RegisterOp::Read(77_777);
    assert!(matches!(check(&Register, &calls, 5_000_000), Outcome::Not { .. }));
}

#[test]
fn a_budget_that_is_too_small_says_so() {
    let calls: Vec<_> = (0..20).map(|n| call(RegisterOp::Write(n), 0, 100)).collect();
    assert_eq!(check(&Register, &calls, 5), Outcome::Exhausted);
}
