//! Restoring window aggregations at another parallelism when their subtasks had reached different event times, as they do
//! when an input has fallen silent: no window fires twice, and none is lost.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{Input, result_schema, window_spec};
use arrow::array::AsArray;
use arrow::datatypes::{Int64Type, TimestampMillisecondType};
use holdfast_common::keygroup::{key_group, key_hash, range_of, subtask_of};
use holdfast_common::keys::put_bytes;
use proptest::prelude::*;
use std::collections::BTreeMap;

const GROUPS: u32 = 16;

/// One operator's snapshot and the event time of its subtask.
struct Part {
    keyed: Vec<KeyGroupState>,
    ahead: Vec<u8>,
    watermark_ms: i64,
}

struct World {
    parts: Vec<(WindowAggregate, i64)>,
    windows: (i64, i64),
    out: Vec<arrow::record_batch::RecordBatch>,
    late: u64,
}

fn group_of(key: &str) -> u32 {
    let mut bytes = Vec::new();
    put_bytes(&mut bytes, key.as_bytes());
    key_group(key_hash(&bytes), GROUPS)
}

fn operator((slide, size): (i64, i64)) -> WindowAggregate {
    WindowAggregate::new(
        &window_spec(slide, size),
        &Input::schema(),
        result_schema(),
        GROUPS,
    )
    .unwrap()
}

impl World {
    fn new(parallelism: u32, windows: (i64, i64)) -> Self {
        Self {
            parts: (0..parallelism)
                .map(|_| (operator(windows), NO_WATERMARK))
                .collect(),
            windows,
            out: Vec::new(),
            late: 0,
        }
    }

    fn row(&mut self, key: &str, ts: i64) {
        let owner = subtask_of(group_of(key), GROUPS, self.parts.len() as u32) as usize;
        let row = (Some(key.to_owned()), Some(1), "x".to_owned(), ts);
        let (operator, _) = &mut self.parts[owner];
        operator.on_batch(Input::batch(&[row]), &mut self.out).unwrap();
        self.late += operator.take_late_rows();
    }

    fn advance(&mut self, part: usize, to_ms: i64) {
        let (operator, watermark_ms) = &mut self.parts[part];
        *watermark_ms = to_ms.max(*watermark_ms);
        operator.on_watermark(*watermark_ms).unwrap();
        while operator.has_more() {
            operator.drain(&mut self.out).unwrap();
        }
    }

    fn end(&mut self) {
        (0..self.parts.len()).for_each(|part| self.advance(part, END_WATERMARK));
    }

    /// As the engine does it: see `engine::restore`.
    fn rescale(&mut self, parallelism: u32) {
        let former = self.parts.len() as u32;
        let saved: Vec<Part> = self
            .parts
            .iter_mut()
            .map(|(operator, watermark_ms)| {
                let snapshot = operator.snapshot(CheckpointId(1)).ok().unwrap();
                Part {
                    ahead: snapshot.operator.clone(),
                    keyed: snapshot.write_keyed(),
                    watermark_ms: *watermark_ms,
                }
            })
            .collect();
        let restore = |subtask| {
            let range = range_of(subtask, GROUPS, parallelism);
            let of = |group| saved[subtask_of(group, GROUPS, former) as usize].watermark_ms;
            let mut reached: BTreeMap<u32, i64> = range.clone().map(|g| (g, of(g))).collect();
            let watermark_ms = reached.values().copied().min().unwrap_or(NO_WATERMARK);
            for part in &saved {
                GroupTimes::decode(&part.ahead, &range, &mut reached).unwrap();
            }
            let mut operator = operator(self.windows);
            let keyed = saved.iter().flat_map(|p| &p.keyed);
            operator.restore(keyed, &range, watermark_ms, &reached).unwrap();
            (operator, watermark_ms)
        };
        self.parts = (0..parallelism).map(restore).collect();
    }

    /// Key, window end, rows.
    fn results(&self) -> Vec<(String, i64, i64)> {
        let mut rows: Vec<_> = self
            .out
            .iter()
            .flat_map(|b| {
                let (keys, ends) = (b.column(0).as_string::<i32>(), b.column(1));
                let ends = ends.as_primitive::<TimestampMillisecondType>();
                let counts = b.column(2).as_primitive::<Int64Type>();
                (0..b.num_rows()).map(|r| (keys.value(r).to_owned(), ends.value(r), counts.value(r)))
            })
            .collect();
        rows.sort();
        rows
    }
}

/// A key of the first and one of the second half of the key groups.
fn two_keys() -> (String, String) {
    let find = |half: u32| {
        let mut keys = (0..).map(|n| format!("k{n}"));
        keys.find(|key| group_of(key) / (GROUPS / 2) == half).unwrap()
    };
    (find(0), find(1))
}

#[test]
fn joining_a_fast_and_a_slow_subtask_fires_nothing_twice_and_drops_nothing() {
    let (slow, fast) = two_keys();
    let mut world = World::new(2, (10, 10));
    world.row(&slow, 5);
    world.row(&fast, 5);
    world.row(&fast, 15);
    // The second subtask's idle input is left out sooner: it closes a window that the first has open.
    world.advance(1, 12);
    world.rescale(1);
    // Late for its own key group, which had closed that window; in time for the other's.
    world.row(&fast, 6);
    world.row(&slow, 6);
    assert_eq!(world.late, 1);
    // Also over a second checkpoint, before event time has caught up.
    world.rescale(2);
    world.row(&fast, 7);
    assert_eq!(world.late, 2);
    world.rescale(3);
    world.rescale(1);
    world.row(&fast, 8);
    assert_eq!(world.late, 3);
    world.advance(0, 9);
    world.end();
    let expected = [(&slow, 10, 2), (&fast, 10, 1), (&fast, 20, 1)];
    let mut expected = expected.map(|(k, e, n)| (k.clone(), e, n)).to_vec();
    expected.sort();
    assert_eq!(world.results(), expected);
}

#[test]
fn splitting_keeps_what_each_half_had_closed() {
    let (slow, fast) = two_keys();
    let mut world = World::new(2, (10, 30));
    world.row(&slow, 5);
    world.row(&fast, 5);
    world.advance(1, 19);
    world.rescale(4);
    world.row(&slow, 6);
    world.row(&fast, 6);
    assert_eq!(world.late, 0, "both panes have windows left");
    world.end();
    // Windows that end at 10, 20 and 30 hold 5 and 6; the first two were fired for the fast key before 6 came.
    let expected = [
        (&slow, 10, 2),
        (&slow, 20, 2),
        (&slow, 30, 2),
        (&fast, 10, 1),
        (&fast, 20, 1),
        (&fast, 30, 2),
    ];
    let mut expected = expected.map(|(k, e, n)| (k.clone(), e, n)).to_vec();
    expected.sort();
    assert_eq!(world.results(), expected);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever the subtasks had reached and however often they are rescaled: every window of a key fires once, and every
    /// row that was taken is in every window of its that was open.
    #[test]
    fn no_window_fires_twice(
        steps in prop::collection::vec((0u8..8, 0usize..12, 0i64..120), 1..80), slide in 5i64..20, times in 1i64..4,
    ) {
        let mut world = World::new(2, (slide, slide * times));
        let mut clock = 0;
        for (what, which, amount) in steps {
            match what {
                0 => world.rescale(1 + (which % 4) as u32),
                1 | 2 => {
                    clock += amount / 4;
                    let part = which % world.parts.len();
                    world.advance(part, clock - amount / 8);
                }
                _ => world.row(&format!("k{which}"), clock + amount - 60),
            }
        }
        world.end();
        let results = world.results();
        let mut fired: BTreeMap<(&str, i64), u32> = BTreeMap::new();
        for (key, end, _) in &results {
            *fired.entry((key, *end)).or_default() += 1;
        }
        let twice: Vec<_> = fired.iter().filter(|(_, n)| **n > 1).collect();
        prop_assert!(twice.is_empty(), "fired twice: {twice:?}");
    }
}
