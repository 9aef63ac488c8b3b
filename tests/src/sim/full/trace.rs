//! What happened, in order: a hash of all of it, the last events for people, and counts. One per thread, since a seed is
//! run by one thread; hosts and the harness write to the same one.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Events kept for people.
const TAIL: usize = 200;

/// See the module.
#[derive(Debug, Default)]
pub struct Trace {
    hash: u64,
    tail: VecDeque<String>,
    counts: BTreeMap<&'static str, u64>,
    print: bool,
}

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Milliseconds of virtual time.
#[must_use]
pub fn now_ms() -> u64 {
    u64::try_from(virtual_time().as_millis()).unwrap_or(u64::MAX)
}

/// Virtual time, as a host sees it or as the harness last set it.
fn virtual_time() -> Duration {
    turmoil::sim_elapsed().unwrap_or_else(|| {
        let (wall, _) = super::determinism::clocks_ns();
        Duration::from_nanos(wall.saturating_sub(super::determinism::EPOCH_MS * 1_000_000))
    })
}

/// Begins a new trace.
pub fn begin(print: bool) {
    TRACE.with_borrow_mut(|trace| {
        *trace = Trace {
            print,
            ..Trace::default()
        };
    });
}

/// Notes an event that people want to read.
pub fn event(text: &str) {
    let at = now_ms();
    TRACE.with_borrow_mut(|trace| {
        trace.hash = xxh3_64_with_seed(text.as_bytes(), trace.hash ^ at);
        let line = format!("{at:>6} ms  {text}");
        if trace.print {
            eprintln!("{line}");
        }
        if trace.tail.len() == TAIL {
            trace.tail.pop_front();
        }
        trace.tail.push_back(line);
    });
}

/// Notes bytes on the network: of them only the hash is kept.
pub fn bytes(what: &'static str, from: u64, to: u64, bytes: &[u8]) {
    let at = now_ms();
    TRACE.with_borrow_mut(|trace| {
        let head = [at, from, to, bytes.len() as u64, xxh3_64(bytes)];
        let mut encoded = [0; 40];
        for (chunk, number) in encoded.chunks_mut(8).zip(head) {
            chunk.copy_from_slice(&number.to_le_bytes());
        }
        trace.hash = xxh3_64_with_seed(&encoded, trace.hash);
        *trace.counts.entry(what).or_default() += 1;
    });
}

/// Adds to a count; part of the outcome, not of the hash.
pub fn count(what: &'static str, by: u64) {
    TRACE.with_borrow_mut(|trace| *trace.counts.entry(what).or_default() += by);
}

/// Hash, last events and counts so far.
#[must_use]
pub fn result() -> (u64, Vec<String>, BTreeMap<&'static str, u64>) {
    TRACE.with_borrow(|trace| {
        (
            trace.hash,
            trace.tail.iter().cloned().collect(),
            trace.counts.clone(),
        )
    })
}
