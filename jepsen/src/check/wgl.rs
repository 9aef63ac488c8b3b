//! Linearizability by search: Wing and Gong's algorithm with Lowe's improvements (G. Lowe, "Testing for linearizability",
//! Concurrency and Computation: Practice and Experience 29(4), 2017): a doubly linked list of calls and returns, and a
//! cache of (set of linearised calls, state) so that no configuration is entered twice.
//!
//! Calls without a return stay open forever: they may take effect at any time after their invocation, or never.

use std::collections::HashSet;
use std::hash::Hash;

/// A sequential object.
pub trait Model {
    /// Its state.
    type State: Clone + Eq + Hash;
    /// An operation together with its answer.
    type Op;

    /// The state in the beginning.
    fn initial(&self) -> Self::State;
    /// The state after `op`; `None` if the object could not have given that answer.
    fn step(&self, state: &Self::State, op: &Self::Op) -> Option<Self::State>;
}

/// An operation in a concurrent history.
#[derive(Debug, Clone)]
pub struct Call<O> {
    /// What.
    pub op: O,
    /// When it was invoked.
    pub start: u64,
    /// When it was answered; [`u64::MAX`] if nobody knows.
    pub end: u64,
}

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// An order that explains every answer (positions in the input).
    Linearizable(Vec<usize>),
    /// There is none. The longest prefix that was found, and the call whose return could not be passed after it.
    Not {
        /// Longest explained prefix.
        prefix: Vec<usize>,
        /// The call that stood in the way.
        stuck: usize,
    },
    /// The budget was used up.
    Exhausted,
}

/// An entry of the list: a call (`is_return` false) or its return.
#[derive(Debug, Clone, Copy)]
struct Entry {
    call: usize,
    is_return: bool,
    /// Position of the return's entry; only meaningful for calls that have one.
    partner: usize,
    previous: usize,
    next: usize,
}

const NONE: usize = usize::MAX;

/// Doubly linked list over a vector; entry 0 is the head.
struct List {
    entries: Vec<Entry>,
}

impl List {
    fn new<O>(calls: &[Call<O>]) -> Self {
        // At the same instant calls stand before returns: then they overlap, which only allows more orders.
        let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(calls.len() * 2);
        for (number, call) in calls.iter().enumerate() {
            events.push((call.start, false, number));
            if call.end != u64::MAX {
                events.push((call.end.max(call.start), true, number));
            }
        }
        events.sort_unstable();
        let blank = Entry {
            call: NONE,
            is_return: false,
            partner: NONE,
            previous: NONE,
            next: NONE,
        };
        let mut entries = vec![blank];
        let mut call_at = vec![NONE; calls.len()];
        for (_, is_return, call) in events {
            let at = entries.len();
            entries.push(Entry {
                call,
                is_return,
                partner: NONE,
                previous: at - 1,
                next: NONE,
            });
            entries[at - 1].next = at;
            if is_return {
                entries[call_at[call]].partner = at;
            } else {
                call_at[call] = at;
            }
        }
        Self { entries }
    }

    fn unlink(&mut self, at: usize) {
        let Entry { previous, next, .. } = self.entries[at];
        self.entries[previous].next = next;
        if next != NONE {
            self.entries[next].previous = previous;
        }
    }

    fn relink(&mut self, at: usize) {
        let Entry { previous, next, .. } = self.entries[at];
        self.entries[previous].next = at;
        if next != NONE {
            self.entries[next].previous = at;
        }
    }

    /// Takes a call and its return out.
    fn lift(&mut self, at: usize) {
        self.unlink(at);
        if self.entries[at].partner != NONE {
            self.unlink(self.entries[at].partner);
        }
    }

    /// Puts them back; only in the reverse order of [`Self::lift`].
    fn unlift(&mut self, at: usize) {
        if self.entries[at].partner != NONE {
            self.relink(self.entries[at].partner);
        }
        self.relink(at);
    }
}

/// A set of linearised calls in short.
type Key = (usize, Box<[u64]>);

/// The set of linearised calls.
struct Bits {
    words: Vec<u64>,
}

impl Bits {
    fn new(len: usize) -> Self {
        Self {
            words: vec![0; len.div_ceil(64)],
        }
    }

    fn set(&mut self, bit: usize, on: bool) {
        let mask = 1 << (bit % 64);
        if on {
            self.words[bit / 64] |= mask;
        } else {
            self.words[bit / 64] &= !mask;
        }
    }

    /// The set in short: leading full words are counted and trailing empty ones left out. One-to-one, and small, because the
    /// set is nearly a prefix when calls are numbered by time.
    fn key(&self) -> Key {
        let full = self.words.iter().take_while(|w| **w == u64::MAX).count();
        let end = self.words.iter().rposition(|w| *w != 0).map_or(0, |at| at + 1);
        (full, self.words.get(full..end).unwrap_or_default().into())
    }
}

/// Searches for an order of `calls` that explains all answers and respects real time, in at most `budget` steps.
pub fn check<M: Model>(model: &M, calls: &[Call<M::Op>], budget: u64) -> Outcome {
    let mut list = List::new(calls);
    let mut bits = Bits::new(calls.len());
    let mut seen: HashSet<(Key, M::State)> = HashSet::new();
    let mut stack: Vec<(usize, M::State)> = Vec::new();
    let mut longest: (Vec<usize>, usize) = (Vec::new(), 0);
    let mut state = model.initial();
    let mut at = list.entries[0].next;
    for _ in 0..budget {
        if at == NONE {
            // Only calls without a return are left: they need not have happened.
            return Outcome::Linearizable(stack.iter().map(|(at, _)| list.entries[*at].call).collect());
        }
        let Entry {
            call,
            is_return,
            next,
            ..
        } = list.entries[at];
        if is_return {
            if stack.len() >= longest.0.len() {
                longest = (stack.iter().map(|(at, _)| list.entries[*at].call).collect(), call);
            }
            let Some((last, before)) = stack.pop() else {
                return Outcome::Not {
                    prefix: longest.0,
                    stuck: longest.1,
                };
            };
            bits.set(list.entries[last].call, false);
            list.unlift(last);
            state = before;
            at = list.entries[last].next;
            continue;
        }
        let stepped = model.step(&state, &calls[call].op).filter(|after| {
            bits.set(call, true);
            let is_new = seen.insert((bits.key(), after.clone()));
            if !is_new {
                bits.set(call, false);
            }
            is_new
        });
        match stepped {
            Some(after) => {
                stack.push((at, std::mem::replace(&mut state, after)));
                list.lift(at);
                at = list.entries[0].next;
            }
            None => at = next,
        }
    }
    Outcome::Exhausted
}
