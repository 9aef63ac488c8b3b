//! Panes: the state of a window aggregation. A pane holds the keys that had rows in one slice of event time, with
//! their accumulators. Must not know when windows fire.

use super::OperatorError;
use super::accumulator::{Accumulator, Plan};
use crate::state::StateError;
use crate::state::bytes::{Reader, Writer};
use crate::state::interner::Interner;
use holdfast_common::keygroup::{key_group, key_hash};
use holdfast_proto::snapshot::KeyGroupState;
use std::collections::BTreeMap;
use std::ops::Range;

/// Name of the only table of a window aggregation.
const TABLE: &str = "windows";
/// Version of a key group's bytes.
const VERSION: u8 = 1;

/// Keys and their accumulators.
#[derive(Debug, Clone, Default)]
pub struct Pane {
    /// The keys.
    pub keys: Interner,
    /// One per aggregate, indexed by key number.
    pub accumulators: Vec<Accumulator>,
}

impl Pane {
    /// No keys.
    #[must_use]
    pub fn new(plans: &[Plan]) -> Self {
        Self {
            keys: Interner::default(),
            accumulators: plans.iter().map(Plan::accumulator).collect(),
        }
    }

    /// Makes room for every interned key.
    pub fn fit(&mut self) {
        for accumulator in &mut self.accumulators {
            accumulator.resize(self.keys.len());
        }
    }

    /// Adds all of another pane.
    ///
    /// # Errors
    /// If a sum overflows.
    pub fn merge(&mut self, other: &Pane, plans: &[Plan]) -> Result<(), OperatorError> {
        let numbers: Vec<u32> = (0..other.keys.len() as u32)
            .map(|n| self.keys.intern(other.keys.hash(n), other.keys.get(n)).0)
            .collect();
        self.fit();
        for ((plan, mine), theirs) in plans.iter().zip(&mut self.accumulators).zip(&other.accumulators) {
            plan.merge(mine, theirs, &numbers)?;
        }
        Ok(())
    }
}

/// All panes as bytes, one entry per key group that has keys.
#[must_use]
pub fn encode(panes: &BTreeMap<i64, Pane>, plans: &[Plan], max_parallelism: u32) -> Vec<KeyGroupState> {
    // By group: panes with their keys of that group. Groups and panes in order, so that equal state has equal bytes
    // up to the order in which keys came.
    let mut groups: BTreeMap<u32, Vec<(i64, Vec<u32>)>> = BTreeMap::new();
    for (&start, pane) in panes {
        for number in 0..pane.keys.len() as u32 {
            let group = key_group(pane.keys.hash(number), max_parallelism);
            let list = groups.entry(group).or_default();
            match list.last_mut() {
                Some((last, numbers)) if *last == start => numbers.push(number),
                _ => list.push((start, vec![number])),
            }
        }
    }
    groups
        .into_iter()
        .map(|(group, list)| {
            let mut out = Writer::default();
            out.u8(VERSION);
            out.bytes(&plans.iter().map(Plan::code).collect::<Vec<_>>());
            out.u32(list.len() as u32);
            for (start, numbers) in list {
                out.i64(start);
                out.u32(numbers.len() as u32);
                let Some(pane) = panes.get(&start) else { continue };
                for &number in &numbers {
                    out.bytes(pane.keys.get(number));
                }
                for accumulator in &pane.accumulators {
                    numbers
                        .iter()
                        .for_each(|n| accumulator.encode(*n as usize, &mut out));
                }
            }
            KeyGroupState {
                table: TABLE.to_owned(),
                key_group: group,
                data: out.out.into(),
            }
        })
        .collect()
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
            let (number, new) = pane.keys.intern(hash, key);
            if !new {
                return Err(StateError("a key stands there twice".to_owned()));
            }
            numbers.push(number as usize);
        }
        pane.fit();
        for accumulator in &mut pane.accumulators {
            for &number in &numbers {
                accumulator.decode(number, &mut from)?;
            }
        }
    }
    from.finish()
}
