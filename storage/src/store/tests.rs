//! The same behaviour on local files and in memory.
#![allow(clippy::unwrap_used)]

use super::*;

fn stores() -> (tempfile::TempDir, Vec<SnapshotStore>) {
    let dir = tempfile::tempdir().unwrap();
    let config = Configuration::new();
    let name = dir.path().file_name().unwrap().to_string_lossy().into_owned();
    let urls = [
        format!("file://{}/a/b/", dir.path().display()),
        format!("memory://{name}"),
        format!("memory://{name}/some/prefix/"),
    ];
    let stores = urls
        .iter()
        .map(|u| SnapshotStore::open(u, &config).unwrap())
        .collect();
    (dir, stores)
}

fn body(text: &str) -> Bytes {
    Bytes::from(text.to_owned())
}

#[tokio::test]
async fn an_object_is_created_once() {
    let (_dir, stores) = stores();
    for store in stores {
        let object = store.put_new("c/jobs/1/x.part", body("one")).await.unwrap();
        assert_eq!(store.get(&object).await.unwrap(), "one");
        assert_eq!(
            store.put_new("c/jobs/1/x.part", body("one")).await.unwrap(),
            object
        );
        let error = store.put_new("c/jobs/1/x.part", body("two")).await.unwrap_err();
        assert!(matches!(error, StorageError::Conflict(_)), "{error}");
        assert_eq!(store.get_by_path("c/jobs/1/x.part").await.unwrap(), "one");
        let empty = store.put_new("c/empty", Bytes::new()).await.unwrap();
        assert_eq!(store.get(&empty).await.unwrap(), "");
    }
}

#[tokio::test]
async fn missing_and_damaged_objects_are_told_apart() {
    let (dir, stores) = stores();
    for store in &stores {
        let error = store.get_by_path("a/nothing").await.unwrap_err();
        assert_eq!(error, StorageError::NotFound("a/nothing".into()));
        let object = store.put_new("a/x", body("hello")).await.unwrap();
        let wrong = ObjectRef {
            crc32c: object.crc32c ^ 1,
            ..object.clone()
        };
        assert!(matches!(store.get(&wrong).await, Err(StorageError::Damaged { path, .. }) if path == "a/x"));
        let wrong = ObjectRef { size: 4, ..object };
        assert!(matches!(
            store.get(&wrong).await,
            Err(StorageError::Damaged { .. })
        ));
    }
    let object = stores[0].put_new("a/y", body("hello")).await.unwrap();
    std::fs::write(dir.path().join("a/b/a/y"), "hellp").unwrap();
    let error = stores[0].get(&object).await.unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
    std::fs::write(dir.path().join("a/b/a/y"), "").unwrap();
    let error = stores[0].get(&object).await.unwrap_err();
    assert!(error.to_string().contains("0 bytes instead of 5"), "{error}");
}

#[tokio::test]
async fn lists_by_whole_parts_and_deletes_what_may_be_gone() {
    let (_dir, stores) = stores();
    for store in stores {
        for path in ["j/10/b", "j/1/a", "j/1/c/d", "k/1"] {
            store.put_new(path, body(path)).await.unwrap();
        }
        assert_eq!(store.list("j/1").await.unwrap(), ["j/1/a", "j/1/c/d"]);
        assert_eq!(store.list("").await.unwrap().len(), 4);
        assert_eq!(store.list("nowhere").await.unwrap(), Vec::<String>::new());
        store
            .delete(vec!["j/1/a".into(), "j/1/none".into(), "j/1/c/d".into()])
            .await
            .unwrap();
        assert_eq!(store.list("j").await.unwrap(), ["j/10/b"]);
    }
}

#[tokio::test]
async fn memory_is_shared_by_name_within_the_process() {
    let config = Configuration::new();
    let one = SnapshotStore::open("memory://shared-by-name/p", &config).unwrap();
    let two = SnapshotStore::open("memory://shared-by-name/p/", &config).unwrap();
    let object = one.put_new("x", body("1")).await.unwrap();
    assert_eq!(two.get(&object).await.unwrap(), "1");
    let bare = SnapshotStore::open("memory://", &config).unwrap();
    assert!(matches!(bare.get(&object).await, Err(StorageError::NotFound(_))));
}

#[tokio::test]
async fn a_place_that_cannot_be_written_is_unavailable() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let url = format!("file://{}/file/store", dir.path().display());
    let error = SnapshotStore::open(&url, &Configuration::new()).unwrap_err();
    assert!(
        matches!(&error, StorageError::Unavailable(m) if m.contains("file/store")),
        "{error}"
    );
    // The directory is replaced by a file while the store is open: the disk is gone.
    let root = dir.path().join("root");
    let store = SnapshotStore::open(&format!("file://{}", root.display()), &Configuration::new()).unwrap();
    std::fs::remove_dir(&root).unwrap();
    std::fs::write(&root, "").unwrap();
    let error = store.put_new("a/b", body("x")).await.unwrap_err();
    assert!(
        matches!(&error, StorageError::Unavailable(m) if m.contains("'a/b'")),
        "{error}"
    );
    std::fs::remove_file(&root).unwrap();
    store.put_new("a/b", body("x")).await.unwrap();
}

#[test]
fn wrong_urls_and_paths_say_what_is_possible() {
    let config = Configuration::new();
    for url in ["/tmp/x", "file://relative", "hdfs://x", "s3://", ""] {
        let error = SnapshotStore::open(url, &config).unwrap_err();
        assert!(
            matches!(&error, StorageError::Invalid(m) if m.contains("://")),
            "{url}: {error}"
        );
    }
    #[cfg(not(feature = "s3"))]
    {
        let error = SnapshotStore::open("s3://bucket/p", &config).unwrap_err();
        assert!(error.to_string().contains("without s3"), "{error}");
    }
    #[cfg(feature = "s3")]
    assert!(SnapshotStore::open("s3://bucket/p", &config).is_ok());
}

#[tokio::test]
async fn paths_that_leave_the_store_are_refused() {
    let (_dir, stores) = stores();
    for store in stores {
        for path in ["../x", "a//b", "a/./b"] {
            let error = store.put_new(path, body("x")).await.unwrap_err();
            assert!(matches!(error, StorageError::Invalid(_)), "{path}: {error}");
        }
    }
}
