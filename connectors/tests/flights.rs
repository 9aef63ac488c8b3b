//! The example's data through the public registry: every row of a real file, compressed and with a header, against
//! figures that `awk` gives.
#![allow(clippy::unwrap_used)]

use arrow::array::{Array, AsArray};
use arrow::compute::sum;
use arrow::datatypes::{DataType, Field, Int32Type, Schema, TimeUnit};
use holdfast_common::JobId;
use holdfast_common::clock::SystemClock;
use holdfast_dataflow::connector::{SourceContext, SourcePoll};
use holdfast_dataflow::graph::TableSpec;
use std::sync::Arc;
use std::sync::atomic::Ordering;

fn flights() -> TableSpec {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let columns = [
        ("sched_dep", time.clone()),
        ("dep", time),
        ("carrier", DataType::Utf8),
        ("flight", DataType::Int32),
        ("tailnum", DataType::Utf8),
        ("origin", DataType::Utf8),
        ("dest", DataType::Utf8),
        ("dep_delay_min", DataType::Int32),
        ("arr_delay_min", DataType::Int32),
        ("distance_mi", DataType::Int32),
    ];
    let fields: Vec<Field> = columns
        .into_iter()
        .map(|(name, ty)| Field::new(name, ty, true))
        .collect();
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/data/flights-2013.csv.gz"
    );
    let options = [("path", path), ("format", "csv"), ("csv.skip-header", "true")];
    TableSpec {
        name: "flights".into(),
        connector: "filesystem".into(),
        options: options
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect(),
        schema: Arc::new(Schema::new(fields)),
    }
}

#[test]
fn every_flight_is_read() {
    let source = holdfast_connectors::registry().source(&flights()).unwrap();
    let context = SourceContext {
        job: JobId(1),
        subtask: 0,
        parallelism: 1,
        clock: Arc::new(SystemClock),
        bad_records: Arc::default(),
    };
    let bad = context.bad_records.clone();
    let mut reader = source.reader(context, Vec::new()).unwrap();
    let (mut rows, mut cancelled, mut sums) = (0, 0, [0i64; 3]);
    loop {
        match reader.poll(4096).unwrap() {
            SourcePoll::Batch(batch) => {
                rows += batch.rows.num_rows();
                cancelled += batch.rows.column(1).null_count();
                for (total, column) in sums.iter_mut().zip(7..10) {
                    *total +=
                        i64::from(sum(batch.rows.column(column).as_primitive::<Int32Type>()).unwrap_or(0));
                }
            }
            SourcePoll::End => break,
            _ => {}
        }
    }
    assert_eq!(
        (rows, cancelled, bad.load(Ordering::Relaxed)),
        (336_776, 8_255, 0)
    );
    assert_eq!(sums, [4_152_200, 2_257_174, 350_217_607]);
}
