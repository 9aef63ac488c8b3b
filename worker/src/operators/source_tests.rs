//! The head of a source: when watermarks and silence are announced.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{Input, Minus};
use holdfast_dataflow::connector::{
    ConnectorError, SourceBatch, SourcePoll, SourceReader, SplitState as Split,
};
use holdfast_dataflow::graph::{SourceSpec, TableSpec, WatermarkSpec};
use holdfast_proto::snapshot::SplitState;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Plays a script; then waits for ever.
struct Scripted(VecDeque<SourcePoll>, usize);

impl SourceReader for Scripted {
    fn poll(&mut self, _: usize) -> Result<SourcePoll, ConnectorError> {
        Ok(self
            .0
            .pop_front()
            .unwrap_or(SourcePoll::Pending(Duration::from_secs(9))))
    }

    fn splits(&self) -> Vec<String> {
        (0..self.1).map(|i| format!("s{i}")).collect()
    }

    fn snapshot(&mut self) -> Result<Vec<Split>, ConnectorError> {
        let state = |split_id| Split {
            split_id,
            position: vec![1],
            finished: false,
        };
        Ok(self.splits().into_iter().map(state).collect())
    }
}

fn rows(split: usize, at: i64) -> SourcePoll {
    SourcePoll::Batch(SourceBatch {
        split,
        rows: Input::batch(&[(None, None, String::new(), at)]),
    })
}

fn head(script: Vec<SourcePoll>, splits: usize, restored: &[SplitState], idle_ms: u64) -> SourceHead {
    let table = TableSpec {
        name: "t".to_owned(),
        connector: "x".to_owned(),
        options: BTreeMap::new(),
        schema: Input::schema(),
    };
    let watermark = Some(WatermarkSpec {
        column: 3,
        expression: Arc::new(Minus(3, 5)),
    });
    let spec = SourceSpec {
        table,
        computed: None,
        watermark,
        bounded: false,
    };
    let timing = SourceTiming {
        watermark_interval: Duration::from_millis(10),
        idle_timeout: Duration::from_millis(idle_ms),
    };
    SourceHead::new(
        &spec,
        Box::new(Scripted(script.into(), splits)),
        restored,
        timing,
        0,
    )
    .unwrap()
}

fn turns(head: &mut SourceHead, now_ms: u64, count: usize) -> Vec<String> {
    (0..count)
        .map(|_| match head.turn(now_ms).unwrap() {
            SourceTurn::Rows(_) => "rows".to_owned(),
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn watermarks_come_at_most_once_an_interval_and_after_their_rows() {
    let mut head = head(vec![rows(0, 100), rows(0, 200), rows(0, 150)], 1, &[], 0);
    assert_eq!(turns(&mut head, 0, 3), ["rows", "rows", "rows"]);
    assert_eq!(turns(&mut head, 9, 1), ["Wait(10ms)"]);
    assert_eq!(turns(&mut head, 10, 2), ["Watermark(195)", "Wait(10ms)"]);
}

#[test]
fn a_silent_source_says_so_and_returns_before_its_rows() {
    let mut head = head(
        vec![
            rows(0, 100),
            SourcePoll::Pending(Duration::ZERO),
            SourcePoll::Pending(Duration::ZERO),
        ],
        1,
        &[],
        50,
    );
    assert_eq!(turns(&mut head, 0, 2), ["rows", "Wait(1ms)"]);
    assert_eq!(turns(&mut head, 20, 2), ["Watermark(95)", "Wait(1ms)"]);
    assert_eq!(turns(&mut head, 60, 2), ["Idle", "Wait(10ms)"]);
    let mut again = SourceHead { held: None, ..head };
    again.reader = Box::new(Scripted(vec![rows(0, 300)].into(), 1));
    assert_eq!(turns(&mut again, 65, 1), ["Watermark(95)"]);
    assert!(again.holds_rows());
    assert_eq!(turns(&mut again, 65, 1), ["rows"]);
    assert!(!again.holds_rows());
    assert_eq!(turns(&mut again, 80, 1), ["Watermark(295)"]);
}

#[test]
fn watermarks_of_splits_survive_a_restore() {
    let split = |i: u32, watermark_ms, finished| SplitState {
        split_id: format!("s{i}"),
        position: vec![1].into(),
        watermark_ms,
        finished,
    };
    let restored = [
        split(0, 70, false),
        split(1, 40, false),
        split(2, 10, true),
        split(9, 1, false),
    ];
    let mut head = head(vec![], 3, &restored, 0);
    assert_eq!(turns(&mut head, 0, 1), ["Watermark(40)"]);
    let marks: Vec<i64> = head.snapshot().unwrap().iter().map(|s| s.watermark_ms).collect();
    assert_eq!(marks, [70, 40, 10]);
}
