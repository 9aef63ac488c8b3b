//! Panes: the state of a window aggregation. A pane holds the keys that had rows in one slice of event time, with
//! their accumulators. Must not know when windows fire.
//!
//! Capturing shares the panes' columns instead of copying or writing them: whoever makes them durable writes the bytes
//! on a thread of its own, and a pane that gets rows meanwhile copies its columns first (one plain copy of memory, and
//! none of the keys as long as no new one comes).

use super::OperatorError;
use super::accumulator::{Accumulator, Plan};
use crate::state::StateError;
use crate::state::bytes::{Reader, Writer};
use crate::state::interner::Interner;
use crate::state::keys::KeyBatch;
use holdfast_common::keygroup::{key_group, key_hash};
use holdfast_proto::snapshot::KeyGroupState;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// Name of the only table of a window aggregation.
const TABLE: &str = "windows";
/// Version of a key group's bytes.
const VERSION: u8 = 1;

/// Keys and their accumulators. Cheap to clone: clones share columns until one of them changes.
#[derive(Debug, Clone, Default)]
pub struct Pane {
    keys: Arc<Interner>,
    /// One per aggregate, indexed by key number.
    accumulators: Arc<Vec<Accumulator>>,
}

impl Pane {
    /// No keys.
    #[must_use]
    pub fn new(plans: &[Plan]) -> Self {
        Self {
            keys: Arc::default(),
            accumulators: Arc::new(plans.iter().map(Plan::accumulator).collect()),
        }
    }

    /// The keys.
    #[must_use]
    pub fn keys(&self) -> &Interner {
        &self.keys
    }

    /// The accumulators, one per aggregate.
    #[must_use]
    pub fn accumulators(&self) -> &[Accumulator] {
        &self.accumulators
    }

    /// The accumulators, with room for every key.
    pub fn accumulators_mut(&mut self) -> &mut [Accumulator] {
        let len = self.keys.len();
        let accumulators = Arc::make_mut(&mut self.accumulators);
        accumulators.iter_mut().for_each(|a| a.resize(len));
        accumulators
    }

    /// Numbers of the keys of some rows of a batch, in their order.
    pub fn intern_rows(&mut self, keys: &KeyBatch, rows: &[u32], numbers: &mut Vec<u32>) {
        numbers.clear();
        numbers.reserve(rows.len());
        if Arc::get_mut(&mut self.keys).is_none() {
            // Shared with a capture: known keys are only looked up, so that nothing is copied before a new one comes.
            let known = rows.iter().map_while(|r| {
                let row = *r as usize;
                self.keys.find(keys.hashes[row], keys.key(row))
            });
            numbers.extend(known);
        }
        let rest = &rows[numbers.len()..];
        if !rest.is_empty() {
            let interner = Arc::make_mut(&mut self.keys);
            numbers.extend(rest.iter().map(|r| {
                let row = *r as usize;
                interner.intern(keys.hashes[row], keys.key(row)).0
            }));
        }
    }

    fn intern(&mut self, hash: u64, key: &[u8]) -> (u32, bool) {
        Arc::make_mut(&mut self.keys).intern(hash, key)
    }

    /// Adds the keys `part` of another pane.
    ///
    /// # Errors
    /// If a sum overflows.
    pub fn merge(&mut self, other: &Pane, part: Range<u32>, plans: &[Plan]) -> Result<(), OperatorError> {
        let first = part.start as usize;
        let interner = Arc::make_mut(&mut self.keys);
        let numbers: Vec<u32> = part
            .map(|n| interner.intern(other.keys.hash(n), other.keys.get(n)).0)
            .collect();
        let theirs = other.accumulators.iter();
        for ((plan, mine), theirs) in plans.iter().zip(self.accumulators_mut()).zip(theirs) {
            plan.merge(mine, theirs, first, &numbers)?;
        }
        Ok(())
    }
}

/// Panes at one moment, shared with the operator they belong to.
#[derive(Debug)]
pub struct CapturedPanes {
    panes: Vec<(i64, Pane)>,
    codes: Vec<u8>,
    max_parallelism: u32,
}

/// Captures all panes, in a time that depends on the number of panes alone.
#[must_use]
pub fn capture(panes: &BTreeMap<i64, Pane>, plans: &[Plan], max_parallelism: u32) -> CapturedPanes {
    CapturedPanes {
        panes: panes.iter().map(|(start, pane)| (*start, pane.clone())).collect(),
        codes: plans.iter().map(Plan::code).collect(),
        max_parallelism,
    }
}

/// The key numbers of a pane, sorted by key group, and where each group begins.
struct ByGroup {
    numbers: Vec<u32>,
    begins: Vec<u32>,
}

impl ByGroup {
    fn new(pane: &Pane, groups: u32) -> Self {
        let count = pane.keys.len() as u32;
        let group_of = |n: u32| key_group(pane.keys.hash(n), groups) as usize;
        let mut begins = vec![0u32; groups as usize + 1];
        (0..count).for_each(|n| begins[group_of(n) + 1] += 1);
        for group in 1..begins.len() {
            begins[group] += begins[group - 1];
        }
        let mut next = begins.clone();
        let mut numbers = vec![0; count as usize];
        for n in 0..count {
            let place = &mut next[group_of(n)];
            numbers[*place as usize] = n;
            *place += 1;
        }
        Self { numbers, begins }
    }

    fn group(&self, group: u32) -> &[u32] {
        let group = group as usize;
        &self.numbers[self.begins[group] as usize..self.begins[group + 1] as usize]
    }
}

impl CapturedPanes {
    /// All panes as bytes, one entry per key group that has keys: equal state has equal bytes up to the order in which
    /// keys came. Takes time in proportion to the state: not for a slot thread.
    #[must_use]
    pub fn serialize(self) -> Vec<KeyGroupState> {
        let groups = self.max_parallelism;
        let by_group: Vec<ByGroup> = self.panes.iter().map(|(_, p)| ByGroup::new(p, groups)).collect();
        let states = (0..groups).filter_map(|group| {
            let present: Vec<(&(i64, Pane), &[u32])> = self
                .panes
                .iter()
                .zip(by_group.iter().map(|b| b.group(group)))
                .filter(|(_, numbers)| !numbers.is_empty())
                .collect();
            if present.is_empty() {
                return None;
            }
            let mut out = Writer::default();
            out.u8(VERSION);
            out.bytes(&self.codes);
            out.u32(present.len() as u32);
            for ((start, pane), numbers) in present {
                out.i64(*start);
                out.u32(numbers.len() as u32);
                numbers.iter().for_each(|n| out.bytes(pane.keys.get(*n)));
                for accumulator in pane.accumulators() {
                    numbers
                        .iter()
                        .for_each(|n| accumulator.encode(*n as usize, &mut out));
                }
            }
            Some(KeyGroupState {
                table: TABLE.to_owned(),
                key_group: group,
                data: out.out.into(),
            })
        });
        states.collect()
    }
}

/// Reads one key group into the panes, if it lies in `range`.
///
/// # Errors
/// If the bytes are damaged, of another version or of other aggregates.
pub fn decode(
    state: &KeyGroupState,
    panes: &mut BTreeMap<i64, Pane>,
    plans: &[Plan],
    range: &Range<u32>,
    max_parallelism: u32,
) -> Result<(), StateError> {
    let at = |e: StateError| {
        StateError(format!(
            "key group {} of table '{}': {e}",
            state.key_group, state.table
        ))
    };
    if state.table != TABLE {
        return Err(at(StateError("this operator has no such table".to_owned())));
    }
    if state.key_group >= max_parallelism {
        return Err(at(StateError(format!(
            "the job has only {max_parallelism} key groups"
        ))));
    }
    if !range.contains(&state.key_group) {
        return Ok(());
    }
    read_group(state, panes, plans, max_parallelism).map_err(at)
}

fn read_group(
    state: &KeyGroupState,
    panes: &mut BTreeMap<i64, Pane>,
    plans: &[Plan],
    max_parallelism: u32,
) -> Result<(), StateError> {
    let mut from = Reader::new(&state.data);
    let version = from.u8()?;
    if version != VERSION {
        return Err(StateError(format!(
            "state version {version}; this program reads {VERSION}"
        )));
    }
    let codes: Vec<u8> = plans.iter().map(Plan::code).collect();
    if from.bytes()? != codes {
        return Err(StateError("the state belongs to other aggregates".to_owned()));
    }
    for _ in 0..from.u32()? {
        let start = from.i64()?;
        let pane = panes.entry(start).or_insert_with(|| Pane::new(plans));
        let count = from.u32()?;
        let mut numbers = Vec::new();
        for _ in 0..count {
            let key = from.bytes()?;
            let hash = key_hash(key);
            if key_group(hash, max_parallelism) != state.key_group {
                return Err(StateError("a key belongs to another key group".to_owned()));
            }
            let (number, new) = pane.intern(hash, key);
            if !new {
                return Err(StateError("a key stands there twice".to_owned()));
            }
            numbers.push(number as usize);
        }
        for accumulator in pane.accumulators_mut() {
            for &number in &numbers {
                accumulator.decode(number, &mut from)?;
            }
        }
    }
    from.finish()
}
