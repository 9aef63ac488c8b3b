//! Rows per second of the keyed window aggregation on one thread: `cargo run --release -p holdfast-worker --example
//! throughput`. A sanity check of the hot path, not a benchmark of the system.

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMillisecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use holdfast_dataflow::graph::{
    AggregateFunction, AggregateSpec, WindowAggregateSpec, WindowKind, WindowOutput,
};
use holdfast_worker::operators::{Collector, Operator, OperatorError, WindowAggregate};
use std::sync::Arc;
use std::time::Instant;

const BATCH: i64 = 4096;
const BATCHES: i64 = 1000;

struct Count(usize);

impl Collector for Count {
    fn emit(&mut self, batch: RecordBatch) -> Result<(), OperatorError> {
        self.0 += batch.num_rows();
        Ok(())
    }

    fn watermark(&mut self, _: i64) -> Result<(), OperatorError> {
        Ok(())
    }
}

fn batch(schema: &Arc<Schema>, number: i64, keys: i64, text: bool) -> Result<RecordBatch, OperatorError> {
    let key = |row: i64| ((number * BATCH + row).wrapping_mul(0x5851_f42d_4c95_7f2d) >> 33).rem_euclid(keys);
    let column: ArrayRef = if text {
        Arc::new(StringArray::from_iter_values(
            (0..BATCH).map(|r| format!("key-{:08}", key(r))),
        ))
    } else {
        Arc::new(Int64Array::from_iter_values((0..BATCH).map(key)))
    };
    let values = Arc::new(Int64Array::from_iter_values(0..BATCH));
    // A row per 10 microseconds, one in four out of order by up to a second.
    let at = |r: i64| (number * BATCH + r) / 100 - if r % 4 == 0 { key(r) % 1000 } else { 0 };
    let times = Arc::new(TimestampMillisecondArray::from_iter_values((0..BATCH).map(at)));
    Ok(RecordBatch::try_new(schema.clone(), vec![column, values, times])?)
}

fn run(name: &str, kind: WindowKind, keys: i64, text: bool) -> Result<(), OperatorError> {
    let key_type = if text { DataType::Utf8 } else { DataType::Int64 };
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let input = Arc::new(Schema::new(vec![
        Field::new("k", key_type.clone(), false),
        Field::new("v", DataType::Int64, false),
        Field::new("t", time.clone(), false),
    ]));
    let aggregate = |function, argument| AggregateSpec {
        function,
        argument,
        filter: None,
        distinct: false,
        result: DataType::Int64,
    };
    let spec = WindowAggregateSpec {
        kind,
        time_column: 2,
        keys: vec![0],
        aggregates: vec![
            aggregate(AggregateFunction::Count, None),
            aggregate(AggregateFunction::Sum, Some(1)),
            aggregate(AggregateFunction::Max, Some(1)),
        ],
        output: (0..3)
            .map(WindowOutput::Aggregate)
            .chain([WindowOutput::Key(0), WindowOutput::End])
            .collect(),
    };
    let mut fields: Vec<Field> = ["n", "s", "m"]
        .map(|n| Field::new(n, DataType::Int64, true))
        .into();
    fields.extend([Field::new("k", key_type, false), Field::new("e", time, false)]);
    let mut operator = WindowAggregate::new(&spec, &input, Arc::new(Schema::new(fields)), 128)?;
    let batches = (0..BATCHES)
        .map(|n| batch(&input, n, keys, text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut out = Count(0);
    let began = Instant::now();
    for (number, batch) in (0..).zip(batches) {
        operator.on_batch(batch, &mut out)?;
        if number % 16 == 0 {
            operator.on_watermark(number * BATCH / 100 - 1000)?;
        }
        while operator.has_more() {
            operator.drain(&mut out)?;
        }
    }
    let rows = (BATCH * BATCHES) as f64;
    let rate = rows / began.elapsed().as_secs_f64() / 1e6;
    println!("{name}: {rate:.2} million rows per second, {} results", out.0);
    Ok(())
}

fn main() -> Result<(), OperatorError> {
    let tumble = WindowKind::Tumble {
        size_ms: 10_000,
        offset_ms: 0,
    };
    let hop = WindowKind::Hop {
        slide_ms: 2_000,
        size_ms: 10_000,
        offset_ms: 0,
    };
    run("tumble, 1000 integer keys", tumble, 1000, false)?;
    run("tumble, 100000 integer keys", tumble, 100_000, false)?;
    run("tumble, 10000 text keys", tumble, 10_000, true)?;
    run("hop, 10000 text keys", hop, 10_000, true)
}
