//! The file sinks: what is visible when, on a local directory and on an object store in memory.
#![allow(clippy::unwrap_used)]

use crate::options::test_table;
use crate::registry::registry;
use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use holdfast_common::clock::SystemClock;
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_dataflow::connector::{Committable, ConnectorError, Sink, SinkContext, SinkWriter};
use holdfast_storage::{ObjectLocation, S3Settings};
use std::collections::BTreeMap;
use std::sync::Arc;
use tempfile::TempDir;

const JOB: JobId = JobId(0xabcd_ef01 << 96);
const COLUMNS: [(&str, DataType); 2] = [("id", DataType::Int64), ("s", DataType::Utf8)];

struct World {
    dir: TempDir,
    path: String,
    sink: Arc<dyn Sink>,
}

impl World {
    fn new(path: Option<&str>, options: &[(&str, &str)]) -> Self {
        let dir = TempDir::new().unwrap();
        let name = dir.path().file_name().unwrap().to_str().unwrap();
        let path = path.map_or_else(
            || dir.path().join("out").to_str().unwrap().to_owned(),
            |scheme| format!("{scheme}{name}/out"),
        );
        let mut all = vec![("path", path.as_str()), ("format", "csv")];
        all.extend_from_slice(options);
        let sink = registry()
            .sink(&test_table("filesystem", &all, &COLUMNS))
            .unwrap();
        Self { dir, path, sink }
    }

    fn writer(&self, attempt: u64, subtask: u32) -> Box<dyn SinkWriter> {
        let context = SinkContext {
            job: JOB,
            attempt: AttemptId(attempt),
            uid: "sink".into(),
            subtask,
            clock: Arc::new(SystemClock),
            tmp_dir: self.dir.path().join("tmp"),
        };
        self.sink.writer(context).unwrap()
    }

    fn recover(&self, attempt: u64, restored: Option<u64>) {
        self.sink
            .recover(JOB, AttemptId(attempt), restored.map(CheckpointId))
            .unwrap();
    }

    /// Visible names with their content.
    fn visible(&self) -> BTreeMap<String, String> {
        if self.path.starts_with("memory://") {
            return in_memory(&self.path);
        }
        let mut all = self.all();
        all.retain(|name, _| !name.starts_with('.'));
        all
    }

    fn all(&self) -> BTreeMap<String, String> {
        let Ok(entries) = std::fs::read_dir(&self.path) else {
            return BTreeMap::new();
        };
        entries
            .map(|e| e.unwrap())
            .map(|e| {
                (
                    e.file_name().into_string().unwrap(),
                    std::fs::read_to_string(e.path()).unwrap(),
                )
            })
            .collect()
    }

    fn content(&self) -> String {
        self.visible().into_values().collect()
    }
}

fn in_memory(url: &str) -> BTreeMap<String, String> {
    use holdfast_storage::object_store::{ObjectStore as _, ObjectStoreExt as _};
    let location = ObjectLocation::open(url, &S3Settings::default()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let mut all = BTreeMap::new();
        for object in location
            .store
            .list_with_delimiter(Some(&location.prefix))
            .await
            .unwrap()
            .objects
        {
            let body = location
                .store
                .get(&object.location)
                .await
                .unwrap()
                .bytes()
                .await
                .unwrap();
            all.insert(
                location.strip(&object.location),
                String::from_utf8(body.to_vec()).unwrap(),
            );
        }
        all
    })
}

fn rows(ids: std::ops::Range<i64>) -> RecordBatch {
    let table = test_table("x", &[], &COLUMNS);
    let texts: StringArray = ids
        .clone()
        .map(|i| (i % 2 == 0).then(|| format!("a,{i}")))
        .collect();
    RecordBatch::try_new(
        table.schema,
        vec![Arc::new(Int64Array::from_iter_values(ids)), Arc::new(texts)],
    )
    .unwrap()
}

fn prepare(writer: &mut dyn SinkWriter, checkpoint: u64) -> Vec<Committable> {
    writer.prepare(CheckpointId(checkpoint)).unwrap()().unwrap()
}

fn both(test: impl Fn(World)) {
    test(World::new(None, &[]));
    test(World::new(Some("memory://"), &[]));
}

#[test]
fn nothing_is_visible_before_the_commit_and_a_commit_may_be_repeated() {
    both(|world| {
        let mut writers = [world.writer(1, 0), world.writer(1, 1)];
        writers[0].write(&rows(0..2)).unwrap();
        writers[1].write(&rows(2..3)).unwrap();
        let mut committables = prepare(&mut *writers[0], 7);
        committables.extend(prepare(&mut *writers[1], 7));
        writers[0].write(&rows(3..4)).unwrap();
        assert_eq!(world.visible().len(), 0);
        for _ in 0..3 {
            world.sink.commit(CheckpointId(7), &committables).unwrap();
            assert_eq!(world.content(), "0,\"a,0\"\n1,\n2,\"a,2\"\n");
        }
        let names: Vec<String> = world.visible().into_keys().collect();
        assert!(
            names[0].starts_with("part-abcdef01-") && names[0].ends_with("-00000007-1-0-0.csv"),
            "{names:?}"
        );
        // A checkpoint without rows has no files.
        assert_eq!(prepare(&mut *writers[1], 8), Vec::new());
        let next = prepare(&mut *writers[0], 8);
        world.sink.commit(CheckpointId(8), &next).unwrap();
        assert_eq!(world.visible().len(), 3);
    });
}

#[test]
fn a_commit_that_died_half_way_is_finished_by_another() {
    both(|world| {
        let mut writer = world.writer(1, 0);
        writer.write(&rows(0..1)).unwrap();
        let mut committables = prepare(&mut *writer, 3);
        writer.write(&rows(1..2)).unwrap();
        // Checkpoint 3 was aborted; its file rides into 4.
        committables.extend(prepare(&mut *writer, 4));
        world.sink.commit(CheckpointId(4), &committables[1..]).unwrap();
        assert_eq!(world.content(), "1,\n");
        world.sink.commit(CheckpointId(4), &committables).unwrap();
        assert_eq!(world.content(), "0,\"a,0\"\n1,\n");
    });
}

#[test]
fn a_prepared_file_that_is_gone_is_a_conflict_that_names_both() {
    let world = World::new(None, &[]);
    let mut writer = world.writer(1, 0);
    writer.write(&rows(0..1)).unwrap();
    let committables = prepare(&mut *writer, 3);
    let (pending, content) = world.all().pop_first().unwrap();
    let pending_path = std::path::Path::new(&world.path).join(&pending);
    std::fs::write(&pending_path, "0,\n").unwrap();
    let error = world.sink.commit(CheckpointId(3), &committables).unwrap_err();
    assert!(
        matches!(&error, ConnectorError::Conflict(m) if m.contains("3 bytes instead of 8")),
        "{error}"
    );
    std::fs::remove_file(&pending_path).unwrap();
    let error = world.sink.commit(CheckpointId(3), &committables).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, ConnectorError::Conflict(_))
            && text.contains(&pending)
            && text.contains("-00000003-1-0-0.csv"),
        "{text}"
    );
    // Both there: the same content is taken, another is not.
    std::fs::write(&pending_path, &content).unwrap();
    world.sink.commit(CheckpointId(3), &committables).unwrap();
    std::fs::write(&pending_path, &content).unwrap();
    world.sink.commit(CheckpointId(3), &committables).unwrap();
    assert_eq!(world.all().len(), 1);
    let (name, _) = world.visible().pop_first().unwrap();
    std::fs::write(std::path::Path::new(&world.path).join(name), "0,\"b,0\"\n").unwrap();
    let error = world.sink.commit(CheckpointId(3), &committables).unwrap_err();
    assert!(
        matches!(&error, ConnectorError::Conflict(m) if m.contains("other content")),
        "{error}"
    );
}

#[test]
fn recovery_removes_what_the_restored_checkpoint_does_not_know_and_nothing_else() {
    both(|world| {
        let mut writer = world.writer(5, 0);
        let mut committed = Vec::new();
        for checkpoint in 1..4 {
            writer.write(&rows(checkpoint..checkpoint + 1)).unwrap();
            let committables = prepare(&mut *writer, checkpoint.cast_unsigned());
            world
                .sink
                .commit(CheckpointId(checkpoint.cast_unsigned()), &committables)
                .unwrap();
            committed.push(committables);
        }
        writer.write(&rows(10..11)).unwrap();
        let _pending = prepare(&mut *writer, 4);
        writer.write(&rows(11..12)).unwrap();
        let local = !world.path.starts_with("memory");
        let foreign = [
            "part-1.csv",
            ".hidden",
            "part-00000000-00000000-00000009-1-0-0.csv",
            ".part-00000000-00000000-1-0-0.inprogress",
        ];
        if local {
            for name in foreign {
                std::fs::write(std::path::Path::new(&world.path).join(name), "foreign").unwrap();
            }
            assert_eq!(world.all().len(), 3 + 2 + foreign.len());
        }
        // A clean-up of an attempt that was replaced long ago comes too late to do harm.
        let before = world.visible();
        world.recover(5, None);
        assert_eq!(world.visible(), before);
        world.recover(6, Some(2));
        // Nothing of another job or of the restored checkpoint is touched.
        let mine = |world: &World| {
            let mut visible = world.visible();
            visible.retain(|name, _| name.starts_with("part-abcdef01"));
            visible
        };
        assert_eq!(mine(&world).into_values().collect::<String>(), "1,\n2,\"a,2\"\n");
        if local {
            assert_eq!(world.all().len(), 2 + foreign.len());
        }
        world.sink.commit(CheckpointId(2), &committed[1]).unwrap();
        // From nothing: all of this job's output goes.
        world.recover(7, None);
        assert_eq!(mine(&world).len(), 0);
        if local {
            assert_eq!(world.all().len(), foreign.len());
        }
    });
}

#[test]
fn the_current_attempts_files_and_waiting_commits_survive_recovery() {
    let world = World::new(None, &[]);
    let (mut old, mut current) = (world.writer(5, 0), world.writer(6, 0));
    old.write(&rows(0..1)).unwrap();
    let waiting = prepare(&mut *old, 4);
    old.write(&rows(1..2)).unwrap();
    current.write(&rows(2..3)).unwrap();
    world.recover(6, Some(4));
    world.sink.commit(CheckpointId(4), &waiting).unwrap();
    let next = prepare(&mut *current, 5);
    world.sink.commit(CheckpointId(5), &next).unwrap();
    assert_eq!(world.content(), "0,\"a,0\"\n2,\"a,2\"\n");
    // The zombie finds its file gone and can prepare nothing more.
    assert!(old.prepare(CheckpointId(5)).unwrap()().is_err());
    assert!(old.write(&rows(1..2)).is_err());
}

#[test]
fn files_roll_at_their_size() {
    for path in [None, Some("memory://")] {
        let world = World::new(path, &[("sink.rolling-policy.file-size", "20 b")]);
        let mut writer = world.writer(1, 0);
        writer.write(&rows(0..20)).unwrap();
        let committables = prepare(&mut *writer, 1);
        assert!(committables.len() > 4, "{}", committables.len());
        world.sink.commit(CheckpointId(1), &committables).unwrap();
        assert_eq!(world.visible().len(), committables.len());
        assert_eq!(world.content().lines().count(), 20);
    }
}

#[test]
fn a_cancelled_writer_leaves_nothing_and_failures_stick() {
    let world = World::new(None, &[]);
    let mut writer = world.writer(1, 0);
    writer.write(&rows(0..1)).unwrap();
    assert_eq!(world.all().len(), 1);
    drop(writer);
    assert_eq!(world.all().len(), 0);
    // A prepare job that is never run has lost rows: the attempt must not go on.
    let mut writer = world.writer(2, 0);
    writer.write(&rows(0..1)).unwrap();
    drop(writer.prepare(CheckpointId(1)).unwrap());
    assert!(
        writer
            .write(&rows(1..2))
            .unwrap_err()
            .to_string()
            .contains("checkpoint 1")
    );
    // The directory vanishes.
    let mut writer = world.writer(3, 0);
    std::fs::remove_dir_all(&world.path).unwrap();
    let error = writer.write(&rows(0..1)).unwrap_err();
    assert!(
        matches!(&error, ConnectorError::Io(m) if m.contains(".inprogress")),
        "{error}"
    );
    assert_eq!(writer.prepare(CheckpointId(2)).err(), Some(error));
}

#[test]
fn an_upload_that_was_not_run_goes_with_the_next() {
    let world = World::new(Some("memory://"), &[]);
    let mut writer = world.writer(1, 0);
    writer.write(&rows(0..1)).unwrap();
    drop(writer.prepare(CheckpointId(1)).unwrap());
    writer.write(&rows(1..2)).unwrap();
    let committables = prepare(&mut *writer, 2);
    assert_eq!(
        committables.iter().map(|c| c.checkpoint.0).collect::<Vec<_>>(),
        [1, 2]
    );
    world.sink.commit(CheckpointId(2), &committables).unwrap();
    assert_eq!(world.content(), "0,\"a,0\"\n1,\n");
    assert_eq!(
        std::fs::read_dir(world.dir.path().join("tmp")).unwrap().count(),
        0
    );
}

#[test]
fn an_upload_that_no_longer_exists_is_a_conflict() {
    let world = World::new(Some("memory://"), &[]);
    let mut writer = world.writer(1, 0);
    writer.write(&rows(0..1)).unwrap();
    let committables = prepare(&mut *writer, 1);
    world.sink.commit(CheckpointId(1), &committables).unwrap();
    world.recover(2, None);
    let error = world.sink.commit(CheckpointId(1), &committables).unwrap_err();
    assert!(
        matches!(&error, ConnectorError::Conflict(m) if m.contains("no longer exists")),
        "{error}"
    );
}

#[test]
fn json_lines_and_damaged_records() {
    let world = World::new(None, &[("format", "json")]);
    let mut writer = world.writer(1, 0);
    writer.write(&rows(0..2)).unwrap();
    let mut committables = prepare(&mut *writer, 1);
    world.sink.commit(CheckpointId(1), &committables).unwrap();
    assert_eq!(
        world.content(),
        "{\"id\":0,\"s\":\"a,0\"}\n{\"id\":1,\"s\":null}\n"
    );
    committables[0].data = b"{\"v\":2}".to_vec();
    assert!(matches!(
        world.sink.commit(CheckpointId(1), &committables),
        Err(ConnectorError::Conflict(_))
    ));
    assert_eq!(world.sink.location(), Some(world.path.clone()));
}

#[cfg(not(feature = "s3"))]
#[test]
fn s3_needs_its_feature() {
    let table = test_table("filesystem", &[("path", "s3://b/p"), ("format", "csv")], &COLUMNS);
    let error = registry().sink(&table).err().unwrap();
    assert!(error.to_string().contains("without s3"), "{error}");
}

/// A sink on `world`'s directory that makes directories durable in its own way.
fn local(world: &World, sync: super::local_sink::SyncDirectory) -> super::local_sink::LocalSink {
    use crate::options::Options;
    let table = test_table("filesystem", &[("path", "x"), ("format", "csv")], &COLUMNS);
    let options = Options::new(&table, &["path", "format"]).unwrap();
    let format = crate::format::Format::new(&options).unwrap();
    super::local_sink::LocalSink::new(world.path.clone().into(), format, 1 << 20).syncing_by(sync)
}

#[test]
fn a_failed_sync_of_the_directory_is_no_error_to_be_tried_again() {
    let world = World::new(None, &[]);
    let mut writer = world.writer(1, 0);
    writer.write(&rows(0..1)).unwrap();
    let committables = prepare(&mut *writer, 1);
    let broken = local(&world, |_| Err(std::io::Error::other("the disk is gone")));
    for result in [
        broken.commit(CheckpointId(1), &committables),
        broken.recover(JOB, AttemptId(2), Some(CheckpointId(1))),
    ] {
        let error = result.unwrap_err();
        assert!(
            matches!(&error, ConnectorError::Sync(m) if m.contains("the disk is gone")),
            "{error}"
        );
    }
    // A writer whose output cannot be made durable has lost it: the attempt fails with it.
    let context = SinkContext {
        job: JOB,
        attempt: AttemptId(2),
        uid: "sink".into(),
        subtask: 0,
        clock: Arc::new(SystemClock),
        tmp_dir: world.dir.path().join("tmp"),
    };
    let mut writer = broken.writer(context).unwrap();
    writer.write(&rows(1..2)).unwrap();
    assert!(matches!(
        writer.prepare(CheckpointId(2)).unwrap()(),
        Err(ConnectorError::Sync(_))
    ));
    assert!(writer.write(&rows(2..3)).is_err());
    assert!(writer.prepare(CheckpointId(3)).is_err());
}

#[test]
fn recovery_syncs_the_directory_even_if_nothing_was_left_to_remove() {
    use std::sync::atomic::{AtomicU32, Ordering};
    static SYNCS: AtomicU32 = AtomicU32::new(0);
    let world = World::new(None, &[]);
    let sink = local(&world, |_| {
        SYNCS.fetch_add(1, Ordering::SeqCst);
        Ok(())
    });
    // Without a directory there is nothing to sync.
    sink.recover(JOB, AttemptId(2), None).unwrap();
    assert_eq!(SYNCS.load(Ordering::SeqCst), 0);
    drop(world.writer(1, 0));
    sink.recover(JOB, AttemptId(2), None).unwrap();
    assert_eq!(SYNCS.load(Ordering::SeqCst), 1);
}

/// A worker that only seemed dead commits checkpoint 4 while another one goes back to checkpoint 3.
#[test]
fn a_commit_that_still_runs_cannot_bring_back_what_recovery_undoes() {
    let world = World::new(None, &[]);
    let mut writer = world.writer(5, 0);
    let mut committables = Vec::new();
    for checkpoint in [3, 4] {
        writer.write(&rows(checkpoint..checkpoint + 1)).unwrap();
        committables.push(prepare(&mut *writer, checkpoint.cast_unsigned()));
    }
    world.sink.commit(CheckpointId(3), &committables[0]).unwrap();
    let is_abandoned = |name: &str| {
        let name = super::names::parse(name, JOB, "csv");
        name.is_some_and(|name| name.is_abandoned(AttemptId(6), Some(CheckpointId(3))))
    };
    let sink = local(&world, |_| Ok(()));
    let mut listings = 0;
    let list = || {
        listings += 1;
        let mut names: Vec<String> = world.all().into_keys().collect();
        if listings == 1 {
            // The stale commit renames its file in the middle of the first listing, which shows neither name.
            names.retain(|name| !is_abandoned(name));
            world.sink.commit(CheckpointId(4), &committables[1]).unwrap();
        }
        Ok(names)
    };
    sink.sweep(list, is_abandoned).unwrap();
    assert!(listings >= 3, "{listings}");
    assert_eq!(world.content(), "3,\n");
    // And what it does later fails.
    assert!(matches!(
        world.sink.commit(CheckpointId(4), &committables[1]),
        Err(ConnectorError::Conflict(_))
    ));
    assert_eq!(world.content(), "3,\n");
}
