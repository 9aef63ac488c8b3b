//! History mutators: each breaks one promise in a history that kept it. A checker that does not notice is worth nothing.
//!
//! Every mutator answers whether it found a place where its change certainly breaks the promise; the self-tests then
//! demand that the named checkers say invalid.
#![allow(clippy::ptr_arg, reason = "one signature for all: some add and remove events")]

mod clusters;
mod registers;
mod sinks;

use clusters::*;
use registers::*;
use sinks::*;

use crate::history::{Event, Kind};
use serde_json::Value;

/// Draws a number below another.
pub type Draw<'d> = &'d mut dyn FnMut(u64) -> u64;

/// A way to break a history.
pub struct Mutator {
    /// What it does.
    pub name: &'static str,
    /// Who must notice, each.
    pub checkers: &'static [&'static str],
    /// Does it, if the history has a place for it.
    pub apply: fn(&mut Vec<Event>, Draw<'_>) -> bool,
}

/// All of them.
pub const MUTATORS: &[Mutator] = &[
    Mutator {
        name: "swap two reads",
        checkers: &["register-wgl", "register-versioned"],
        apply: swap_reads,
    },
    Mutator {
        name: "read a value that nobody wrote",
        checkers: &["register-wgl", "register-versioned"],
        apply: phantom_read,
    },
    Mutator {
        name: "fail a write that was seen",
        checkers: &["register-wgl", "register-versioned"],
        apply: fail_seen_write,
    },
    Mutator {
        name: "lose an acknowledged write",
        checkers: &["register-wgl", "register-versioned"],
        apply: stale_read,
    },
    Mutator {
        name: "let a write take effect twice",
        checkers: &["register-wgl", "register-versioned"],
        apply: double_write,
    },
    Mutator {
        name: "give two writes one index",
        checkers: &["register-versioned"],
        apply: shared_index,
    },
    Mutator {
        name: "read an old state",
        checkers: &["register-versioned"],
        apply: old_state,
    },
    Mutator {
        name: "apply a repeated request again",
        checkers: &["register-versioned"],
        apply: repeat_applied,
    },
    Mutator {
        name: "let one coordinator differ",
        checkers: &["digests"],
        apply: differ,
    },
    Mutator {
        name: "forget a submitted job",
        checkers: &["jobs"],
        apply: forget_job,
    },
    Mutator {
        name: "submit a job twice",
        checkers: &["jobs"],
        apply: second_job,
    },
    Mutator {
        name: "run a cancelled job again",
        checkers: &["jobs"],
        apply: resurrect,
    },
    Mutator {
        name: "list a job from nowhere",
        checkers: &["jobs"],
        apply: foreign_job,
    },
    Mutator {
        name: "move the newest checkpoint back",
        checkers: &["catalogue"],
        apply: checkpoint_back,
    },
    Mutator {
        name: "lose an object",
        checkers: &["catalogue"],
        apply: lose_object,
    },
    Mutator {
        name: "restore an older checkpoint",
        checkers: &["catalogue"],
        apply: old_restore,
    },
    Mutator {
        name: "move an epoch back",
        checkers: &["catalogue", "fencing"],
        apply: epoch_back,
    },
    Mutator {
        name: "move a term back",
        checkers: &["fencing"],
        apply: term_back,
    },
    Mutator {
        name: "let two leaders claim one epoch",
        checkers: &["fencing"],
        apply: two_leaders,
    },
    Mutator {
        name: "move an attempt back",
        checkers: &["attempts"],
        apply: attempt_back,
    },
    Mutator {
        name: "let two attempts write one checkpoint",
        checkers: &["attempts"],
        apply: two_writers,
    },
    Mutator {
        name: "commit before the entry",
        checkers: &["commits"],
        apply: early_commit,
    },
    Mutator {
        name: "lose a file",
        checkers: &["eos"],
        apply: lose_file,
    },
    Mutator {
        name: "lose a row",
        checkers: &["eos"],
        apply: lose_row,
    },
    Mutator {
        name: "duplicate a commit",
        checkers: &["eos"],
        apply: duplicate_commit,
    },
    Mutator {
        name: "let a file vanish",
        checkers: &["eos"],
        apply: vanish,
    },
    Mutator {
        name: "add a foreign row",
        checkers: &["eos"],
        apply: foreign_row,
    },
    Mutator {
        name: "show half a file",
        checkers: &["eos"],
        apply: torn,
    },
    Mutator {
        name: "make money",
        checkers: &["bank"],
        apply: make_money,
    },
    Mutator {
        name: "end a process",
        checkers: &["crash"],
        apply: end_process,
    },
    Mutator {
        name: "serve nobody after healing",
        checkers: &["liveness"],
        apply: serve_nobody,
    },
    Mutator {
        name: "restart a job for a coordinator",
        checkers: &["undisturbed"],
        apply: restart_job,
    },
];

/// Picks one of some places.
fn pick<T: Copy>(places: &[T], draw: Draw<'_>) -> Option<T> {
    let at = draw(places.len().max(1) as u64);
    places.get(usize::try_from(at).ok()?).copied()
}

/// Positions of events that fit.
fn places(history: &[Event], fits: impl Fn(&Event) -> bool) -> Vec<usize> {
    history
        .iter()
        .enumerate()
        .filter(|(_, e)| fits(e))
        .map(|(at, _)| at)
        .collect()
}

/// The answer of an operation.
fn answer(history: &mut [Event], op: u64) -> Option<&mut Event> {
    history
        .iter_mut()
        .find(|e| e.op == op && !matches!(e.kind, Kind::Invoke | Kind::Note))
}

fn set(history: &mut [Event], op: u64, values: &[(&str, Value)]) -> bool {
    let Some(event) = answer(history, op) else {
        return false;
    };
    for (name, value) in values {
        event.value.insert((*name).to_owned(), value.clone());
    }
    true
}
