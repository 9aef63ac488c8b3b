//! What a checkpoint costs a task, by number of keys: `cargo run --release -p holdfast-worker --example capture`. The
//! capture is all that the task waits for; the bytes are written elsewhere (before, they were written here); the first
//! rows after a capture copy the columns that they change. A sanity check, not a benchmark of the system.

use arrow::array::{Int64Array, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use holdfast_common::CheckpointId;
use holdfast_dataflow::graph::{
    AggregateFunction, AggregateSpec, WindowAggregateSpec, WindowKind, WindowOutput,
};
use holdfast_worker::operators::{Collector, Operator, OperatorError, WindowAggregate};
use std::sync::Arc;
use std::time::Instant;

const BATCH: i64 = 4096;

struct Nothing;

impl Collector for Nothing {
    fn emit(&mut self, _: RecordBatch) -> Result<(), OperatorError> {
        Ok(())
    }

    fn watermark(&mut self, _: i64) -> Result<(), OperatorError> {
        Ok(())
    }
}

fn batch(schema: &Arc<Schema>, keys: impl Iterator<Item = i64>) -> Result<RecordBatch, OperatorError> {
    let keys: Int64Array = keys.collect();
    let rows = keys.len();
    let values = Int64Array::from_iter_values(0..rows as i64);
    let times = TimestampMillisecondArray::from(vec![5; rows]);
    let columns: [arrow::array::ArrayRef; 3] = [Arc::new(keys), Arc::new(values), Arc::new(times)];
    Ok(RecordBatch::try_new(schema.clone(), columns.to_vec())?)
}

fn run(keys: i64) -> Result<(), OperatorError> {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let input = Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, false),
        Field::new("v", DataType::Int64, false),
        Field::new("t", time, false),
    ]));
    let aggregate = |function, argument| AggregateSpec {
        function,
        argument,
        filter: None,
        distinct: false,
        result: DataType::Int64,
    };
    let spec = WindowAggregateSpec {
        kind: WindowKind::Tumble {
            size_ms: 1000,
            offset_ms: 0,
        },
        time_column: 2,
        keys: vec![0],
        aggregates: vec![
            aggregate(AggregateFunction::Count, None),
            aggregate(AggregateFunction::Sum, Some(1)),
        ],
        output: (0..2)
            .map(WindowOutput::Aggregate)
            .chain([WindowOutput::Key(0)])
            .collect(),
    };
    let fields = ["n", "s", "k"].map(|n| Field::new(n, DataType::Int64, true));
    let mut operator = WindowAggregate::new(&spec, &input, Arc::new(Schema::new(fields.to_vec())), 128)?;
    let mut at = 0;
    while at < keys {
        let until = (at + BATCH).min(keys);
        operator.on_batch(batch(&input, at..until)?, &mut Nothing)?;
        at = until;
    }
    let spread = |step: i64| (0..BATCH).map(move |n| (n * 7_919 + step) % keys);
    let ordinary = batch(&input, spread(1))?;
    let began = Instant::now();
    operator.on_batch(ordinary, &mut Nothing)?;
    let rows_us = began.elapsed().as_micros();
    let began = Instant::now();
    let snapshot = operator
        .snapshot(CheckpointId(1))
        .map_err(|e| OperatorError(format!("{e:?}")))?;
    let capture_us = began.elapsed().as_micros();
    let (known, fresh) = (batch(&input, spread(2))?, batch(&input, keys..keys + BATCH)?);
    let began = Instant::now();
    operator.on_batch(known, &mut Nothing)?;
    let known_us = began.elapsed().as_micros();
    let began = Instant::now();
    operator.on_batch(fresh, &mut Nothing)?;
    let fresh_us = began.elapsed().as_micros();
    let began = Instant::now();
    let bytes: usize = snapshot.write_keyed().iter().map(|s| s.data.len()).sum();
    println!(
        "{keys:>8} keys, {:>6.1} MB: capture {capture_us:>5} us; written elsewhere in {:>7} us; a batch takes {rows_us:>5} us, \
         the first after the capture {known_us:>6} us, the first with new keys {fresh_us:>6} us",
        bytes as f64 / 1e6,
        began.elapsed().as_micros(),
    );
    Ok(())
}

fn main() -> Result<(), OperatorError> {
    [10_000, 30_000, 100_000, 300_000, 1_000_000]
        .into_iter()
        .try_for_each(run)
}
