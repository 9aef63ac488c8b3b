//! Generated tables: what is generated, exactly once, at any parallelism.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::format::{Style, TextColumn};
use crate::options::test_table;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMillisecondType};
use arrow::record_batch::RecordBatch;
use holdfast_common::JobId;
use holdfast_common::clock::Clock;
use holdfast_dataflow::connector::{Source, SourceContext, SourcePoll, SourceReader, SplitState};
use proptest::prelude::*;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn clock() -> Arc<TestClock> {
    Arc::new(TestClock(AtomicU64::new(1_000_000)))
}

fn readers(
    source: &GeneratedSource,
    parallelism: u32,
    restored: &[SplitState],
    clock: &Arc<TestClock>,
) -> Vec<Box<dyn SourceReader>> {
    let reader = |subtask| {
        let context = SourceContext {
            job: JobId(1),
            subtask,
            parallelism,
            clock: clock.clone(),
            bad_records: Arc::default(),
        };
        source.reader(context, restored.to_vec()).unwrap()
    };
    (0..parallelism).map(reader).collect()
}

/// Rows as lines of text, in columns of `|`.
fn lines(rows: &RecordBatch) -> Vec<String> {
    let columns: Vec<TextColumn<'_>> = rows
        .columns()
        .iter()
        .map(|c| TextColumn::new(c).unwrap())
        .collect();
    let line = |row: usize| {
        let mut out = Vec::new();
        for column in &columns {
            out.push(b'|');
            if !column.is_null(row) {
                column.write(&mut out, row, Style::Sql);
            }
        }
        String::from_utf8(out).unwrap()
    };
    (0..rows.num_rows()).map(line).collect()
}

/// Polls up to `polls` times, moving the clock when asked to wait.
fn read(
    reader: &mut dyn SourceReader,
    clock: &TestClock,
    polls: usize,
    max_rows: usize,
    out: &mut Vec<String>,
) {
    for _ in 0..polls {
        match reader.poll(max_rows).unwrap() {
            SourcePoll::Batch(batch) => out.extend(lines(&batch.rows)),
            SourcePoll::Pending(wait) => {
                assert!(wait > Duration::ZERO);
                clock
                    .0
                    .fetch_add(u64::try_from(wait.as_millis()).unwrap(), Ordering::SeqCst);
            }
            SourcePoll::SplitFinished(_) => {}
            SourcePoll::End => return,
        }
    }
}

/// All rows, read with a rescale after `polls` polls of each subtask.
fn read_rescaled(
    source: &GeneratedSource,
    before: u32,
    after: u32,
    polls: usize,
    max_rows: usize,
) -> Vec<String> {
    let (clock, mut rows, mut states) = (clock(), Vec::new(), Vec::new());
    for mut reader in readers(source, before, &[], &clock) {
        read(&mut *reader, &clock, polls, max_rows, &mut rows);
        states.extend(reader.snapshot().unwrap());
    }
    for mut reader in readers(source, after, &states, &clock) {
        read(&mut *reader, &clock, usize::MAX, max_rows, &mut rows);
        assert!(matches!(reader.poll(1).unwrap(), SourcePoll::End));
        assert!(reader.snapshot().unwrap().iter().all(|s| s.finished));
    }
    rows.sort();
    rows
}

const ROWS: &str = "333";

fn datagen_source() -> GeneratedSource {
    let options = [
        ("number-of-rows", ROWS),
        ("fields.id.kind", "sequence"),
        ("fields.id.start", "5"),
        ("fields.id.end", "10000"),
        ("fields.n.min", "-3"),
        ("fields.n.max", "3"),
        ("fields.s.length", "7"),
        ("fields.s.null-rate", "0.5"),
        ("fields.t.max-past", "5 s"),
        ("scan.splits", "5"),
    ];
    let columns = [
        ("id", DataType::Int64),
        ("n", DataType::Int32),
        ("s", DataType::Utf8),
        ("f", DataType::Float64),
        ("d", DataType::Decimal128(8, 3)),
        ("b", DataType::Boolean),
        ("t", DataType::Timestamp(TimeUnit::Millisecond, None)),
        ("day", DataType::Date32),
        ("bin", DataType::Binary),
    ];
    datagen(&test_table("datagen", &options, &columns)).unwrap()
}

fn nexmark_source(table: &str, events: &str) -> GeneratedSource {
    let time = DataType::Timestamp(TimeUnit::Millisecond, None);
    let columns: Vec<(&str, DataType)> = match table {
        "bid" => vec![
            ("auction", DataType::Int64),
            ("bidder", DataType::Int64),
            ("price", DataType::Int64),
            ("channel", DataType::Utf8),
            ("url", DataType::Utf8),
            ("dateTime", time),
            ("extra", DataType::Utf8),
        ],
        "auction" => vec![
            ("id", DataType::Int64),
            ("itemName", DataType::Utf8),
            ("description", DataType::Utf8),
            ("initialBid", DataType::Int64),
            ("reserve", DataType::Int64),
            ("dateTime", time.clone()),
            ("expires", time),
            ("seller", DataType::Int64),
            ("category", DataType::Int64),
            ("extra", DataType::Utf8),
        ],
        _ => vec![
            ("id", DataType::Int64),
            ("name", DataType::Utf8),
            ("emailAddress", DataType::Utf8),
            ("creditCard", DataType::Utf8),
            ("city", DataType::Utf8),
            ("state", DataType::Utf8),
            ("dateTime", time),
            ("extra", DataType::Utf8),
        ],
    };
    nexmark(&test_table(
        "nexmark",
        &[("nexmark.table", table), ("events.num", events)],
        &columns,
    ))
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_rescaled_read_is_the_whole(before in 1u32..7, after in 1u32..7, polls in 0usize..20, max_rows in 1usize..40) {
        for source in [datagen_source(), nexmark_source("bid", "300"), nexmark_source("person", "3000")] {
            let whole = read_rescaled(&source, 1, 1, 0, 1000);
            prop_assert_eq!(read_rescaled(&source, before, after, polls, max_rows), whole);
        }
    }
}

#[test]
fn a_sequence_gives_every_number_once_and_bounds_the_source() {
    let options = [
        ("fields.id.kind", "sequence"),
        ("fields.id.start", "1"),
        ("fields.id.end", "1000"),
        ("rows-per-second", "1000000"),
    ];
    let source = datagen(&test_table("datagen", &options, &[("id", DataType::Int64)])).unwrap();
    assert!(source.bounded());
    let (clock, mut ids) = (clock(), Vec::new());
    for mut reader in readers(&source, 3, &[], &clock) {
        loop {
            match reader.poll(64).unwrap() {
                SourcePoll::Batch(b) => {
                    ids.extend(b.rows.column(0).as_primitive::<Int64Type>().values().to_vec())
                }
                SourcePoll::Pending(wait) => {
                    clock
                        .0
                        .fetch_add(u64::try_from(wait.as_millis()).unwrap(), Ordering::SeqCst);
                }
                SourcePoll::SplitFinished(_) => {}
                SourcePoll::End => break,
            }
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=1000).collect::<Vec<i64>>());
}

#[test]
fn rows_stay_in_their_bounds_and_do_not_depend_on_pacing() {
    let source = datagen_source();
    let rows = read_rescaled(&source, 1, 1, 0, 1000);
    assert_eq!(rows.len(), 333);
    let number = |r: &String| r.split('|').nth(2).unwrap().parse::<i32>().unwrap();
    assert!(rows.iter().all(|r| (-3..=3).contains(&number(r))));
    assert!(rows.iter().any(|r| number(r) == -3) && rows.iter().any(|r| number(r) == 3));
    let empty = rows.iter().filter(|r| r.split('|').nth(3) == Some("")).count();
    assert!((100..230).contains(&empty), "{empty}");
}

#[test]
fn pacing_follows_the_clock() {
    let columns = [("x", DataType::Int32)];
    let source = datagen(&test_table("datagen", &[("rows-per-second", "100")], &columns)).unwrap();
    assert!(!source.bounded());
    let clock = clock();
    let mut readers = readers(&source, 1, &[], &clock);
    let mut rows = 0;
    let start = clock.now_ms();
    while clock.now_ms() < start + 10_000 {
        match readers[0].poll(4096).unwrap() {
            SourcePoll::Batch(b) => rows += b.rows.num_rows(),
            SourcePoll::Pending(wait) => {
                assert!(wait >= Duration::from_millis(1) && wait <= Duration::from_millis(100));
                clock
                    .0
                    .fetch_add(u64::try_from(wait.as_millis()).unwrap(), Ordering::SeqCst);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!((990..=1010).contains(&rows), "{rows}");
    // After a pause of a minute no more than a second's worth is made up for.
    clock.0.fetch_add(60_000, Ordering::SeqCst);
    let mut burst = 0;
    while let SourcePoll::Batch(b) = readers[0].poll(4096).unwrap() {
        burst += b.rows.num_rows();
    }
    assert!(burst <= 101, "{burst}");
}

#[test]
fn nexmark_columns_do_not_depend_on_each_other() {
    let columns = [
        ("price", DataType::Int64),
        ("dateTime", DataType::Timestamp(TimeUnit::Millisecond, None)),
    ];
    let narrow = nexmark(&test_table("nexmark", &[("events.num", "500")], &columns)).unwrap();
    let wide = nexmark_source("bid", "500");
    let clock = clock();
    let batch = |source: &GeneratedSource| match readers(source, 1, &[], &clock)[0].poll(4096).unwrap() {
        SourcePoll::Batch(b) => b.rows,
        other => panic!("{other:?}"),
    };
    let (narrow, wide) = (batch(&narrow), batch(&wide));
    assert_eq!(narrow.column(0), wide.column(2));
    assert_eq!(narrow.column(1), wide.column(5));
    let times = narrow.column(1).as_primitive::<TimestampMillisecondType>();
    // The first bid is event 4, at 100 us each.
    assert_eq!(times.value(0), 1_436_918_400_000);
    assert!(times.values().windows(2).all(|w| w[0] <= w[1]));
    let urls = wide.column(4).as_string::<i32>();
    assert!(
        urls.iter()
            .flatten()
            .all(|u| u.starts_with("https://www.nexmark.com/") && u.contains("item.htm?query=1"))
    );
    assert!(!wide.column(6).is_empty());
}

#[test]
fn a_changed_number_of_splits_is_refused() {
    let source = datagen_source();
    let clock = clock();
    let states = readers(&source, 1, &[], &clock)[0].snapshot().unwrap();
    let columns = [("x", DataType::Int32)];
    let other = datagen(&test_table("datagen", &[("scan.splits", "6")], &columns)).unwrap();
    let context = SourceContext {
        job: JobId(1),
        subtask: 0,
        parallelism: 1,
        clock,
        bad_records: Arc::default(),
    };
    let error = other.reader(context, states).err().unwrap();
    assert!(
        error.to_string().contains("had 5 splits and has 6 now"),
        "{error}"
    );
}

#[test]
fn wrong_options_are_refused() {
    let columns = [("x", DataType::Int32), ("s", DataType::Utf8)];
    for (key, value, text) in [
        (
            "fields.x.mn",
            "1",
            "no option 'fields.x.mn'; did you mean 'fields.x.min'",
        ),
        (
            "fields.y.null-rate",
            "1",
            "no option 'fields.y.null-rate'; did you mean",
        ),
        ("fields.x.min", "a", "no number"),
        ("fields.x.max", "3000000000", "leaves the column's type"),
        ("fields.x.length", "3", "does not fit"),
        ("fields.x.start", "3", "sequence"),
        ("fields.s.kind", "sequence", "needs 'fields.s.start'"),
        ("fields.s.null-rate", "2", "between 0 and 1"),
        ("rows-per-second", "0", "at least 1"),
        ("scan.splits", "0", "between 1"),
    ] {
        let error = datagen(&test_table("datagen", &[(key, value)], &columns))
            .err()
            .unwrap()
            .to_string();
        assert!(error.contains(text), "{key}: {error}");
    }
    let refused = |options: &[(&str, &str)], column: (&str, DataType)| {
        nexmark(&test_table("nexmark", options, &[column]))
            .err()
            .unwrap()
            .to_string()
    };
    assert!(refused(&[], ("datetime", DataType::Utf8)).contains("did you mean 'dateTime'"));
    assert!(refused(&[], ("price", DataType::Int32)).contains("must have type BIGINT"));
    assert!(
        refused(&[("nexmark.table", "bids")], ("price", DataType::Int64)).contains("bid, auction, person")
    );
    assert!(refused(&[("inter-event-delay", "0")], ("price", DataType::Int64)).contains("between 1 us"));
}
