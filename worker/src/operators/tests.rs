//! Operators against their definitions.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{Input, Row, aggregates, result_schema, window_spec};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float64Array, Int32Array, Int64Array,
};
use arrow::array::{StringArray, TimestampMicrosecondArray, TimestampMillisecondArray};
use arrow::datatypes::TimestampMillisecondType;
use arrow::datatypes::{
    DataType, Decimal128Type, Field, Float64Type, Int32Type, Int64Type, Schema, SchemaRef, TimeUnit,
};
use holdfast_common::keygroup::range_of;
use holdfast_dataflow::graph::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

const GROUPS: u32 = 16;

impl Collector for Vec<RecordBatch> {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        self.push(batch);
        Ok(())
    }

    fn watermark(&mut self, _: i64) -> Result<(), OperatorError> {
        Ok(())
    }
}

fn advance(operator: &mut dyn Operator, watermark_ms: i64, out: &mut Vec<RecordBatch>) {
    operator.on_watermark(watermark_ms).unwrap();
    while operator.has_more() {
        operator.drain(out).unwrap();
    }
}

fn results(batches: &[RecordBatch]) -> Vec<Row> {
    let mut rows = Vec::new();
    for b in batches {
        let text = |c: usize, r: usize| {
            let c = b.column(c).as_string::<i32>();
            c.is_valid(r).then(|| c.value(r).to_owned())
        };
        let int = |c: usize, r: usize| {
            let c = b.column(c).as_primitive::<Int64Type>();
            c.is_valid(r).then(|| c.value(r))
        };
        rows.extend((0..b.num_rows()).map(|r| {
            let end = b.column(1).as_primitive::<TimestampMillisecondType>().value(r);
            (
                text(0, r),
                end,
                int(2, r).unwrap(),
                int(3, r),
                int(4, r).unwrap(),
                text(5, r),
            )
        }));
    }
    rows
}

fn aggregation(slide: i64, size: i64) -> WindowAggregate {
    WindowAggregate::new(
        &window_spec(slide, size),
        &Input::schema(),
        result_schema(),
        GROUPS,
    )
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Batches and watermarks in any cut, with a rescale in the middle: the result is the definition's.
    #[test]
    fn windows_equal_their_definition(
        rows in 1u64..400, keys in 1u64..8, slide in 5i64..80, times in 1i64..5, step in 1u64..60,
        rescale_at in 0u64..400, p in 1u32..4, to in 1u32..4,
    ) {
        let input = Input { splits: 1, rows, keys, disorder_ms: 15 };
        let mut parts: Vec<WindowAggregate> = (0..p).map(|_| aggregation(slide, slide * times)).collect();
        let mut width = p;
        let (mut out, mut watermark) = (Vec::new(), NO_WATERMARK);
        let mut at = 0;
        let mut rescaled = false;
        while at < rows {
            let until = (at + step).min(rows);
            let batch: Vec<_> = (at..until).map(|o| input.row(0, o)).collect();
            for (i, part) in parts.iter_mut().enumerate() {
                let mine: Vec<_> = batch.iter().filter(|r| owner(r.0.as_deref(), width) == i as u32).cloned().collect();
                if !mine.is_empty() {
                    part.on_batch(Input::batch(&mine), &mut out).unwrap();
                }
            }
            watermark = watermark.max(batch.iter().map(|r| r.3).max().unwrap() - 15);
            parts.iter_mut().for_each(|part| advance(part, watermark, &mut out));
            at = until;
            if at > rescale_at && !rescaled {
                rescaled = true;
                let states: Vec<KeyGroupState> =
                    parts.iter_mut().flat_map(|part| part.snapshot(CheckpointId(1)).unwrap_or_default().write_keyed()).collect();
                width = to;
                parts = (0..to)
                    .map(|i| {
                        let mut part = aggregation(slide, slide * times);
                        part.restore(states.iter(), &range_of(i, GROUPS, to), watermark, &BTreeMap::new()).unwrap();
                        part
                    })
                    .collect();
            }
        }
        parts.iter_mut().for_each(|part| advance(part, END_WATERMARK, &mut out));
        prop_assert!(parts.iter_mut().all(|part| part.take_late_rows() == 0));
        let mut found = results(&out);
        found.sort();
        prop_assert_eq!(found, input.expected(slide, slide * times));
    }
}

fn owner(key: Option<&str>, parallelism: u32) -> u32 {
    use holdfast_common::{keygroup, keys};
    let mut bytes = Vec::new();
    match key {
        Some(key) => keys::put_bytes(&mut bytes, key.as_bytes()),
        None => keys::put_null(&mut bytes),
    }
    keygroup::subtask_of(
        keygroup::key_group(keygroup::key_hash(&bytes), GROUPS),
        GROUPS,
        parallelism,
    )
}

fn at(key: &str, ts: i64) -> (Option<String>, Option<i64>, String, i64) {
    (Some(key.to_owned()), Some(1), "x".to_owned(), ts)
}

#[test]
fn late_rows_are_dropped_and_counted_and_order_is_fixed() {
    let mut operator = aggregation(10, 20);
    let mut out = Vec::new();
    operator
        .on_batch(Input::batch(&[at("b", 5), at("a", 5), at("c", 12)]), &mut out)
        .unwrap();
    advance(&mut operator, 8, &mut out);
    assert!(out.is_empty());
    // [-10, 10) fires when the watermark reaches 9.
    advance(&mut operator, 9, &mut out);
    let keys: Vec<_> = results(&out).into_iter().map(|r| (r.0.unwrap(), r.1)).collect();
    assert_eq!(keys, [("a".to_owned(), 10), ("b".to_owned(), 10)]);
    // Pane [0, 10) still belongs to [0, 20): not late. Pane [-10, 0) belongs to nothing any more.
    out.clear();
    operator
        .on_batch(Input::batch(&[at("a", 9), at("a", -1)]), &mut out)
        .unwrap();
    assert_eq!(operator.take_late_rows(), 1);
    advance(&mut operator, END_WATERMARK, &mut out);
    let found: Vec<_> = results(&out)
        .into_iter()
        .map(|r| (r.0.unwrap(), r.1, r.2))
        .collect();
    let expected = [("a", 20, 2), ("b", 20, 1), ("c", 20, 1), ("c", 30, 1)];
    assert_eq!(found, expected.map(|(k, e, n)| (k.to_owned(), e, n)));
    assert!(!operator.has_more());
}

#[test]
fn a_row_without_event_time_fails_with_the_columns_name() {
    let mut operator = aggregation(10, 10);
    let batch = RecordBatch::try_new(
        Input::schema(),
        vec![
            Arc::new(StringArray::from(vec!["a"])),
            Arc::new(Int64Array::from(vec![1])),
            Arc::new(StringArray::from(vec!["x"])),
            Arc::new(TimestampMillisecondArray::from(vec![None])),
        ],
    )
    .unwrap();
    let error = operator.on_batch(batch, &mut Vec::new()).unwrap_err().to_string();
    assert!(error.contains("'ts'") && error.contains("NULL"), "{error}");
}

/// Aggregates one window without keys over columns `t` (event time) and `x`, with FILTER `f`.
fn one_window(
    x: ArrayRef,
    filter: Option<Vec<Option<bool>>>,
    specs: &[(AggregateFunction, bool, DataType)],
) -> Result<RecordBatch, OperatorError> {
    let rows = x.len();
    let schema = Arc::new(Schema::new(vec![
        Field::new(
            "t",
            DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
            true,
        ),
        Field::new("x", x.data_type().clone(), true),
        Field::new("f", DataType::Boolean, true),
    ]));
    let use_filter = filter.is_some();
    let filter = BooleanArray::from(filter.unwrap_or_else(|| vec![Some(true); rows]));
    let times = TimestampMicrosecondArray::from(vec![-1; rows]).with_timezone("UTC");
    let batch = RecordBatch::try_new(schema.clone(), vec![Arc::new(times), x, Arc::new(filter)]).unwrap();
    let aggregates: Vec<AggregateSpec> = specs
        .iter()
        .map(|(function, distinct, result)| AggregateSpec {
            function: *function,
            argument: Some(1),
            filter: use_filter.then_some(2),
            distinct: *distinct,
            result: result.clone(),
        })
        .collect();
    let spec = WindowAggregateSpec {
        kind: WindowKind::Tumble {
            size_ms: 1000,
            offset_ms: 0,
        },
        time_column: 0,
        keys: vec![],
        output: (0..aggregates.len())
            .map(WindowOutput::Aggregate)
            .chain([WindowOutput::Start, WindowOutput::Time])
            .collect(),
        aggregates,
    };
    let time = |unit| DataType::Timestamp(unit, Some("UTC".into()));
    let fields = specs.iter().map(|s| Field::new("r", s.2.clone(), true)).chain([
        Field::new("start", time(TimeUnit::Second), true),
        Field::new("time", time(TimeUnit::Nanosecond), true),
    ]);
    let output: SchemaRef = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    let mut operator = WindowAggregate::new(&spec, &schema, output.clone(), GROUPS)?;
    let mut out = Vec::new();
    // Through a snapshot, so that every accumulator's bytes are tried too.
    operator.on_batch(batch, &mut out)?;
    let state = operator
        .snapshot(CheckpointId(1))
        .unwrap_or_default()
        .write_keyed();
    let mut operator = WindowAggregate::new(&spec, &schema, output, GROUPS)?;
    operator.restore(state.iter(), &(0..GROUPS), NO_WATERMARK, &BTreeMap::new())?;
    operator.on_watermark(END_WATERMARK)?;
    while operator.has_more() {
        operator.drain(&mut out)?;
    }
    Ok(out.remove(0))
}

use AggregateFunction::{Avg, Count, Max, Min, Sum};

#[test]
fn integers() {
    let x = || Arc::new(Int32Array::from(vec![Some(-7), None, Some(2), Some(2), Some(-1)]));
    let int = DataType::Int32;
    let all = [
        (Count, false, DataType::Int64),
        (Sum, false, int.clone()),
        (Avg, false, int.clone()),
        (Min, false, int.clone()),
        (Max, true, int.clone()),
        (Count, true, DataType::Int64),
        (Sum, true, DataType::Int64),
        (Avg, true, int.clone()),
    ];
    let out = one_window(x(), None, &all).unwrap();
    let ints = [1, 2, 3, 4, 7].map(|c: usize| out.column(c).as_primitive::<Int32Type>().value(0));
    // Sum -4, mean -1, least -7, greatest 2; distinct -7 + 2 - 1 = -6, mean -2.
    assert_eq!(ints, [-4, -1, -7, 2, -2]);
    let longs = [0, 5, 6].map(|c: usize| out.column(c).as_primitive::<Int64Type>().value(0));
    assert_eq!(longs, [4, 3, -6]);
    assert!(format!("{:?}", out.column(8).slice(0, 1)).contains("1969-12-31T23:59:59"));
    // A mean of an even split is cut towards zero.
    let x = Arc::new(Int32Array::from(vec![-7, 0]));
    let out = one_window(x, None, &[(Avg, false, int.clone())]).unwrap();
    assert_eq!(out.column(0).as_primitive::<Int32Type>().value(0), -3);
    // Nothing counts: null, and zero for COUNT.
    let out = one_window(
        Arc::new(Int32Array::from(vec![Some(1), None])),
        Some(vec![None, Some(true)]),
        &all,
    )
    .unwrap();
    assert!((1..5).all(|c| out.column(c).is_null(0)));
    assert_eq!(out.column(0).as_primitive::<Int64Type>().value(0), 0);
}

#[test]
fn an_overflowing_sum_names_itself() {
    let x = Arc::new(Int64Array::from(vec![i64::MAX, 1]));
    let error = one_window(x, None, &[(Sum, false, DataType::Int64)])
        .unwrap_err()
        .to_string();
    assert!(error.contains("SUM(x)") && error.contains("overflow"), "{error}");
    // Passing beyond the type on the way is no overflow: the order of rows must not matter.
    let x = Arc::new(Int64Array::from(vec![i64::MAX, 1, -2]));
    let out = one_window(x, None, &[(Sum, false, DataType::Int64)]).unwrap();
    assert_eq!(out.column(0).as_primitive::<Int64Type>().value(0), i64::MAX - 1);
}

#[test]
fn floats_decimals_strings_and_booleans() {
    let f = DataType::Float64;
    let x = Arc::new(Float64Array::from(vec![
        Some(1.5),
        Some(f64::NAN),
        None,
        Some(-2.0),
    ]));
    let out = one_window(
        x,
        Some(vec![Some(true), Some(false), Some(true), Some(true)]),
        &[
            (Sum, false, f.clone()),
            (Avg, false, f.clone()),
            (Min, false, f.clone()),
            (Max, false, f.clone()),
        ],
    )
    .unwrap();
    let found = [0, 1, 2, 3].map(|c: usize| out.column(c).as_primitive::<Float64Type>().value(0));
    assert_eq!(found, [-0.5, -0.25, -2.0, 1.5]);

    let decimal = DataType::Decimal128(38, 6);
    let x = Decimal128Array::from(vec![100, 100, 101])
        .with_precision_and_scale(10, 2)
        .unwrap();
    let narrow = DataType::Decimal128(38, 2);
    let specs = [
        (Sum, false, narrow.clone()),
        (Avg, false, decimal),
        (Max, false, DataType::Decimal128(10, 2)),
    ];
    let out = one_window(Arc::new(x), None, &specs).unwrap();
    let found = [0, 1, 2].map(|c: usize| out.column(c).as_primitive::<Decimal128Type>().value(0));
    assert_eq!(found, [301, 1_003_333, 101]);

    let x = Arc::new(StringArray::from(vec![Some("b"), None, Some("a"), Some("ab")]));
    let text = DataType::Utf8;
    let specs = [
        (Min, false, text.clone()),
        (Max, false, text),
        (Count, true, DataType::Int64),
    ];
    let out = one_window(x, None, &specs).unwrap();
    assert_eq!(out.column(0).as_string::<i32>().value(0), "a");
    assert_eq!(out.column(1).as_string::<i32>().value(0), "b");
    assert_eq!(out.column(2).as_primitive::<Int64Type>().value(0), 3);

    let x = Arc::new(BooleanArray::from(vec![true, false]));
    let specs = [(Min, false, DataType::Boolean), (Max, false, DataType::Boolean)];
    let out = one_window(x.clone(), None, &specs).unwrap();
    assert!(!out.column(0).as_boolean().value(0) && out.column(1).as_boolean().value(0));
    assert!(one_window(x, None, &[(Sum, false, DataType::Int64)]).is_err());
}

#[test]
fn state_of_other_aggregates_is_refused() {
    let mut operator = aggregation(10, 10);
    operator
        .on_batch(Input::batch(&[at("a", 5)]), &mut Vec::new())
        .unwrap();
    let state = operator
        .snapshot(CheckpointId(1))
        .unwrap_or_default()
        .write_keyed();
    let mut spec = window_spec(10, 10);
    spec.aggregates = aggregates()[..3]
        .iter()
        .rev()
        .cloned()
        .chain(aggregates().pop())
        .collect();
    spec.aggregates[0].function = AggregateFunction::Min;
    spec.aggregates[0].distinct = false;
    let mut other = WindowAggregate::new(&spec, &Input::schema(), result_schema(), GROUPS).unwrap();
    let error = other
        .restore(state.iter(), &(0..GROUPS), NO_WATERMARK, &BTreeMap::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("other aggregates"), "{error}");
    let mut damaged = state.clone();
    damaged[0].data = damaged[0].data.slice(..damaged[0].data.len() - 3);
    let mut same = aggregation(10, 10);
    let error = same
        .restore(damaged.iter(), &(0..GROUPS), NO_WATERMARK, &BTreeMap::new())
        .unwrap_err()
        .to_string();
    assert!(error.contains("early"), "{error}");
}

#[test]
fn window_assignment_copies_a_row_per_window() {
    let spec = WindowAssignSpec {
        kind: WindowKind::Hop {
            slide_ms: 10,
            size_ms: 30,
            offset_ms: 0,
        },
        time_column: 3,
    };
    let ms = || DataType::Timestamp(TimeUnit::Millisecond, None);
    let mut fields: Vec<Field> = Input::schema()
        .fields()
        .iter()
        .map(|f| f.as_ref().clone())
        .collect();
    fields.extend(["window_start", "window_end", "window_time"].map(|n| Field::new(n, ms(), false)));
    let mut operator = WindowAssign::new(&spec, Arc::new(Schema::new(fields))).unwrap();
    let mut out = Vec::new();
    operator
        .on_batch(Input::batch(&[at("a", 5), at("b", 25)]), &mut out)
        .unwrap();
    while operator.has_more() {
        operator.drain(&mut out).unwrap();
    }
    let mut found: Vec<(i64, i64, i64)> = Vec::new();
    for batch in &out {
        let time = |c: usize, r: usize| {
            batch
                .column(c)
                .as_primitive::<TimestampMillisecondType>()
                .value(r)
        };
        found.extend((0..batch.num_rows()).map(|r| (time(3, r), time(4, r), time(6, r))));
    }
    found.sort_unstable();
    let expected = [
        (5, -20, 9),
        (5, -10, 19),
        (5, 0, 29),
        (25, 0, 29),
        (25, 10, 39),
        (25, 20, 49),
    ];
    assert_eq!(found, expected);
}
