//! The file source on real files.
#![allow(clippy::unwrap_used)]

use super::FileSource;
use crate::options::test_table;
use arrow::array::AsArray;
use arrow::datatypes::{DataType, Int64Type};
use flate2::Compression;
use flate2::write::GzEncoder;
use holdfast_common::JobId;
use holdfast_common::clock::Clock;
use holdfast_dataflow::connector::{
    ConnectorError, Source, SourceContext, SourcePoll, SourceReader, SplitState,
};
use proptest::prelude::*;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;

#[derive(Default)]
struct TestClock(AtomicU64);

impl Clock for TestClock {
    fn now_ms(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

fn source(path: &Path, extra: &[(&str, &str)]) -> FileSource {
    let path = path.to_str().unwrap();
    let mut options = vec![("path", path), ("format", "csv")];
    options.extend_from_slice(extra);
    let columns = [("id", DataType::Int64), ("s", DataType::Utf8)];
    FileSource::new(&test_table("filesystem", &options, &columns)).unwrap()
}

struct World {
    clock: Arc<TestClock>,
    bad: Arc<AtomicU64>,
}

impl World {
    fn new() -> Self {
        Self {
            clock: Arc::default(),
            bad: Arc::default(),
        }
    }

    fn open(
        &self,
        source: &FileSource,
        (subtask, parallelism): (u32, u32),
        restored: &[SplitState],
    ) -> Result<Box<dyn SourceReader>, ConnectorError> {
        let context = SourceContext {
            job: JobId(1),
            subtask,
            parallelism,
            clock: self.clock.clone(),
            bad_records: self.bad.clone(),
        };
        source.reader(context, restored.to_vec())
    }

    fn pass_ms(&self, ms: u64) {
        self.clock.0.fetch_add(ms, Ordering::SeqCst);
    }
}

/// Polls until nothing comes without time passing; returns the ids and what else was said.
fn drain(reader: &mut dyn SourceReader, max_rows: usize) -> Result<(Vec<i64>, Vec<String>), ConnectorError> {
    let (mut ids, mut events) = (Vec::new(), Vec::new());
    loop {
        match reader.poll(max_rows)? {
            SourcePoll::Batch(b) => {
                assert!(b.rows.num_rows() <= max_rows);
                ids.extend_from_slice(b.rows.column(0).as_primitive::<Int64Type>().values());
            }
            SourcePoll::Pending(wait) if wait.is_zero() => {}
            SourcePoll::Pending(_) => return Ok((ids, events)),
            SourcePoll::SplitFinished(split) => events.push(reader.splits()[split].clone()),
            SourcePoll::End => {
                events.push("end".into());
                return Ok((ids, events));
            }
        }
    }
}

fn ids(reader: &mut dyn SourceReader) -> Vec<i64> {
    drain(reader, 100).unwrap().0
}

fn append(path: &Path, text: &str) {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

fn write_gz(path: &Path, text: &str) {
    let mut encoder = GzEncoder::new(std::fs::File::create(path).unwrap(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap();
}

#[test]
fn a_directory_is_read_by_name_and_hidden_files_are_not() {
    let dir = TempDir::new().unwrap();
    for (name, text) in [
        ("b.csv", "3,x\n4,y"),
        ("a.csv", "1,x\n2,y\n"),
        (".hidden", "9,x\n"),
        ("_SUCCESS", "9,x\n"),
        ("empty", ""),
    ] {
        append(&dir.path().join(name), text);
    }
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    write_gz(&dir.path().join("sub/c.csv.gz"), "5,x\n6,y\n");
    let world = World::new();
    let source = source(dir.path(), &[]);
    assert!(source.bounded());
    let mut reader = world.open(&source, (0, 1), &[]).unwrap();
    let (ids, events) = drain(&mut *reader, 1).unwrap();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    assert_eq!(events, ["a.csv", "b.csv", "empty", "sub/c.csv.gz", "end"]);
    assert!(matches!(reader.poll(1).unwrap(), SourcePoll::End));
}

#[test]
fn one_file_a_header_and_a_pattern() {
    let dir = TempDir::new().unwrap();
    append(&dir.path().join("x.csv"), "id,\"s\nwith lines\"\n1,a\n");
    append(&dir.path().join("y.csv"), "id,s\n2,a\n");
    let world = World::new();
    let url = format!("file://{}/x.csv", dir.path().display());
    let one = source(Path::new(&url), &[("csv.skip-header", "true")]);
    assert_eq!(ids(&mut *world.open(&one, (0, 1), &[]).unwrap()), [1]);
    let pattern = source(
        dir.path(),
        &[
            ("csv.skip-header", "true"),
            ("source.path.regex-pattern", ".*/y[.]csv"),
        ],
    );
    assert_eq!(ids(&mut *world.open(&pattern, (0, 1), &[]).unwrap()), [2]);
}

#[test]
fn bad_rows_fail_with_their_place_or_are_counted() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.csv");
    append(&path, "1,a\n2,\"b\nb\"\nthree,c\n4,d\n");
    let world = World::new();
    let error = drain(&mut *world.open(&source(&path, &[]), (0, 1), &[]).unwrap(), 1).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("x.csv, line 4: column 'id': 'three' is no BIGINT"),
        "{text}"
    );
    let lenient = source(&path, &[("csv.ignore-parse-errors", "true")]);
    assert_eq!(ids(&mut *world.open(&lenient, (0, 1), &[]).unwrap()), [1, 2, 4]);
    assert_eq!(world.bad.load(Ordering::SeqCst), 1);
}

#[test]
fn missing_files_and_unknown_compressions_are_named() {
    let dir = TempDir::new().unwrap();
    let world = World::new();
    let error = world
        .open(&source(&dir.path().join("none.csv"), &[]), (0, 1), &[])
        .err()
        .unwrap();
    assert!(error.to_string().contains("none.csv"), "{error}");
    append(&dir.path().join("x.csv.zst"), "1,x");
    let error = world.open(&source(dir.path(), &[]), (0, 1), &[]).err().unwrap();
    assert!(error.to_string().contains(".zst"), "{error}");
}

fn restart(world: &World, source: &FileSource, states: &[SplitState]) -> Result<Vec<i64>, ConnectorError> {
    let mut reader = world.open(source, (0, 1), states)?;
    Ok(drain(&mut *reader, 100)?.0)
}

#[test]
fn a_file_that_changed_before_the_position_is_refused() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.csv");
    append(&path, "1,a\n2,b\n3,c\n");
    let world = World::new();
    let source = source(dir.path(), &[]);
    let mut reader = world.open(&source, (0, 1), &[]).unwrap();
    assert!(matches!(reader.poll(2).unwrap(), SourcePoll::Batch(_)));
    let states = reader.snapshot().unwrap();
    assert_eq!(restart(&world, &source, &states).unwrap(), [3]);
    append(&path, "4,d\n");
    assert_eq!(restart(&world, &source, &states).unwrap(), [3, 4]);
    for (content, reason) in [("1,a\n2,x\n3,c\n", "others now"), ("1,a\n", "only 4 bytes")] {
        std::fs::write(&path, content).unwrap();
        let error = restart(&world, &source, &states).unwrap_err().to_string();
        assert!(
            error.contains(reason) && error.contains("up to byte 8 (line 3)"),
            "{error}"
        );
    }
    std::fs::remove_file(&path).unwrap();
    let error = restart(&world, &source, &states).unwrap_err().to_string();
    assert!(error.contains("'x.csv'") && error.contains("is gone"), "{error}");
}

#[test]
fn a_compressed_file_goes_on_in_the_middle() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.csv.gz");
    let text: String = (0..200_000).map(|i| format!("{i},row {i}\n")).collect();
    write_gz(&path, &text);
    let world = World::new();
    let source = source(&path, &[]);
    let mut reader = world.open(&source, (0, 1), &[]).unwrap();
    let mut read = 0;
    while read < 123_000 {
        if let SourcePoll::Batch(b) = reader.poll(1000).unwrap() {
            read += b.rows.num_rows();
        }
    }
    let states = reader.snapshot().unwrap();
    let rest = restart(&world, &source, &states).unwrap();
    assert_eq!(rest, (123_000..200_000).collect::<Vec<i64>>());
    write_gz(&path, &text[..text.len() - 8]);
    let error = restart(&world, &source, &states).unwrap_err().to_string();
    assert!(error.contains("was changed"), "{error}");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = restart(&world, &source, &[]).unwrap_err().to_string();
    assert!(error.contains("compressed content is damaged"), "{error}");
}

#[test]
fn a_watched_directory_takes_new_and_growing_files() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a.csv"), dir.path().join("b.csv"));
    append(&a, "1,x\n2,"); // A line that is still being written.
    let world = World::new();
    let source = source(dir.path(), &[("source.monitor-interval", "1 s")]);
    assert!(!source.bounded());
    let mut reader = world.open(&source, (0, 1), &[]).unwrap();
    let mut step = || {
        let result = drain(&mut *reader, 10).unwrap();
        world.pass_ms(1_000);
        result
    };
    assert_eq!(step(), (vec![1], vec![]));
    append(&a, "x\n3,x\n");
    assert_eq!(step(), (vec![2, 3], vec![]));
    append(&b, "10,x\n");
    // The first file has not changed for an interval, so it is complete.
    assert_eq!(step(), (vec![10], vec!["a.csv".into()]));
    assert_eq!(step(), (vec![], vec!["b.csv".into()]));
    append(&a, "4,x\n");
    assert_eq!(step(), (vec![4], vec![]));
    assert_eq!(step(), (vec![], vec!["a.csv//12".into()]));
    let states = reader.snapshot().unwrap();
    assert_eq!(states.len(), 3);
    // After a restart: nothing twice, and growth meanwhile is seen.
    append(&a, "5,no line end");
    let mut reader = world.open(&source, (0, 1), &states).unwrap();
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.extend(drain(&mut *reader, 10).unwrap().0);
        world.pass_ms(1_000);
    }
    assert_eq!(seen, [5]);
    append(&a, " at all\n");
    let error = (0..3).find_map(|_| {
        world.pass_ms(1_000);
        drain(&mut *reader, 10).err()
    });
    assert!(error.unwrap().to_string().contains("append whole lines"));
}

#[test]
fn a_watched_file_may_be_deleted_once_it_was_read() {
    let dir = TempDir::new().unwrap();
    let (a, b) = (dir.path().join("a.csv"), dir.path().join("b.csv"));
    append(&a, "1,x\n");
    let world = World::new();
    let source = source(dir.path(), &[("source.monitor-interval", "1 s")]);
    let mut reader = world.open(&source, (0, 1), &[]).unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.extend(ids(&mut *reader));
        world.pass_ms(1_000);
    }
    std::fs::remove_file(&a).unwrap();
    append(&b, "2,x\n");
    // Checkpoints go on, now and after the next file.
    let states = reader.snapshot().unwrap();
    assert!(states[0].finished, "{states:?}");
    seen.extend(ids(&mut *reader));
    reader.snapshot().unwrap();
    // And a restart neither misses the file nor reads anything twice.
    let mut reader = world.open(&source, (0, 1), &states).unwrap();
    let again = ids(&mut *reader);
    assert_eq!((seen, again), (vec![1, 2], vec![2]));
    reader.snapshot().unwrap();
}

/// Files that overlap in time are read in step, so that event time goes on before the last one is begun, and none of their
/// rows is late.
#[test]
fn with_event_time_the_file_that_is_furthest_behind_is_read_next() {
    let dir = TempDir::new().unwrap();
    for (name, first) in [("a.csv", 0), ("b.csv", 10), ("c.csv", 1_000)] {
        let rows: String = (first..first + 50).map(|n| format!("{n},x\n")).collect();
        append(&dir.path().join(name), &rows);
    }
    let world = World::new();
    let source = source(dir.path(), &[]);
    let mut reader = world.open(&source, (0, 1), &[]).unwrap();
    assert_eq!(reader.splits(), ["a.csv", "b.csv", "c.csv"]);
    // The ids are the event times.
    let mut reached = [i64::MIN; 3];
    let (mut order, mut read, mut late) = (Vec::new(), 0, 0);
    let mut finished = [false; 3];
    loop {
        let time = |split: usize| reached[split];
        match reader.poll_least(10, &time).unwrap() {
            SourcePoll::Batch(b) => {
                let ids = b.rows.column(0).as_primitive::<Int64Type>().values().to_vec();
                let open = (0..3).filter(|i| !finished[*i]).map(|i| reached[i]);
                let event_time = open.min().unwrap();
                late += ids.iter().filter(|id| **id < event_time).count();
                read += ids.len();
                reached[b.split] = ids[ids.len() - 1];
                order.push(b.split);
            }
            SourcePoll::SplitFinished(split) => finished[split] = true,
            SourcePoll::Pending(_) => {}
            SourcePoll::End => break,
        }
    }
    assert_eq!((read, late), (150, 0));
    // One look at each, then the two that overlap in turns, and the last one at the end.
    assert_eq!(order, [0, 1, 2, 0, 0, 1, 0, 1, 0, 1, 1, 2, 2, 2, 2]);
}

#[test]
fn a_watched_file_that_shrinks_is_refused_and_a_compressed_one_may_arrive_slowly() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.csv.gz");
    write_gz(&path, "1,x\n2,x\n");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..10]).unwrap();
    let world = World::new();
    let source = source(dir.path(), &[("source.monitor-interval", "1 s")]);
    let mut reader = world.open(&source, (0, 1), &[]).unwrap();
    assert_eq!(ids(&mut *reader), [] as [i64; 0]);
    std::fs::write(&path, &whole).unwrap();
    world.pass_ms(1_000);
    assert_eq!(ids(&mut *reader), [] as [i64; 0]);
    world.pass_ms(1_000);
    assert_eq!(ids(&mut *reader), [1, 2]);
    let plain = dir.path().join("y.csv");
    append(&plain, "3,x\n4,x\n");
    for _ in 0..3 {
        world.pass_ms(1_000);
        ids(&mut *reader);
    }
    std::fs::write(&plain, "3,x\n").unwrap();
    world.pass_ms(1_000);
    let error = drain(&mut *reader, 10).unwrap_err().to_string();
    assert!(error.contains("became shorter"), "{error}");
}

#[test]
fn a_record_without_end_is_refused_at_the_limit() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("x.csv");
    append(&path, "1,a\n2,\"");
    append(&path, &"x\n".repeat(holdfast_common::limits::RECORD_BYTES_MAX));
    let world = World::new();
    let error = drain(&mut *world.open(&source(&path, &[]), (0, 1), &[]).unwrap(), 10).unwrap_err();
    assert!(
        error.to_string().contains("line 2") && error.to_string().contains("quote"),
        "{error}"
    );
}

#[test]
fn options_are_checked_when_the_table_is_planned() {
    let columns = [("id", DataType::Int64)];
    let error = |options: &[(&str, &str)]| {
        FileSource::new(&test_table("filesystem", options, &columns))
            .err()
            .unwrap()
            .to_string()
    };
    assert!(error(&[("format", "csv")]).contains("needs the option 'path'"));
    assert!(error(&[("path", "/x")]).contains("needs the option 'format'"));
    assert!(error(&[("path", "hdfs://x"), ("format", "csv")]).contains("scheme"));
    assert!(
        error(&[
            ("path", "/x"),
            ("format", "csv"),
            ("source.monitor-intervall", "1 s")
        ])
        .contains("did you mean 'source.monitor-interval'")
    );
    assert!(
        error(&[
            ("path", "/x"),
            ("format", "csv"),
            ("source.monitor-interval", "0 s")
        ])
        .contains("at least 1 ms")
    );
    assert!(
        error(&[
            ("path", "/x"),
            ("format", "csv"),
            ("source.path.regex-pattern", "(")
        ])
        .contains("regular expression")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn a_rescaled_read_is_the_whole(
        sizes in prop::collection::vec(0usize..60, 1..6), before in 1u32..5, after in 1u32..5,
        polls in 0usize..30, max_rows in 1usize..25, gzip in any::<bool>(), header in any::<bool>(), json in any::<bool>()
    ) {
        let dir = TempDir::new().unwrap();
        let mut next = 0i64;
        for (file, size) in sizes.iter().enumerate() {
            let mut text = String::new();
            if header && !json {
                text.push_str("id,\"a \"\"header\"\"\"\n");
            }
            for row in 0..*size {
                text.push_str(&if json {
                    format!("{{\"s\":\"ü\",\"id\":{next}}}\n")
                } else if row % 3 == 0 {
                    format!("{next},\"two\r\nlines, ü\"\r\n")
                } else {
                    format!("{next},x\n")
                });
                next += 1;
            }
            let name = format!("f{file}.txt{}", if gzip { ".gz" } else { "" });
            if gzip { write_gz(&dir.path().join(name), &text) } else { append(&dir.path().join(name), &text) }
        }
        let options: &[(&str, &str)] = match (json, header) {
            (true, _) => &[("format", "json")],
            (false, true) => &[("csv.skip-header", "true")],
            (false, false) => &[],
        };
        let (source, world) = (source(dir.path(), options), World::new());
        let (mut ids, mut states) = (Vec::new(), Vec::new());
        for subtask in 0..before {
            let mut reader = world.open(&source, (subtask, before), &[]).unwrap();
            for _ in 0..polls {
                if let SourcePoll::Batch(b) = reader.poll(max_rows).unwrap() {
                    ids.extend_from_slice(b.rows.column(0).as_primitive::<Int64Type>().values());
                }
            }
            states.extend(reader.snapshot().unwrap());
        }
        for subtask in 0..after {
            let mut reader = world.open(&source, (subtask, after), &states).unwrap();
            let (rest, events) = drain(&mut *reader, max_rows).unwrap();
            ids.extend(rest);
            prop_assert_eq!(events.len(), reader.splits().len() + 1);
            prop_assert!(reader.snapshot().unwrap().iter().all(|s| s.finished));
        }
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..next).collect::<Vec<i64>>());
    }
}
