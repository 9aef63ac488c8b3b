//! The snapshot store: create once, read checked, list, delete. Every call has a deadline. Knows no layout.

use crate::location::{ObjectLocation, S3Settings};
use crate::{StorageError, testing};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use holdfast_common::config::Configuration;
use holdfast_common::limits;
use holdfast_proto::snapshot::ObjectRef;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use std::future::Future;
use std::time::Duration;

/// Shared storage for snapshots.
#[derive(Clone)]
pub struct SnapshotStore {
    location: ObjectLocation,
}

impl std::fmt::Debug for SnapshotStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SnapshotStore").field(&self.location.url).finish()
    }
}

impl SnapshotStore {
    /// Opens the store behind a URL: `file:///absolute/path`, `s3://bucket/prefix`, `memory://name`.
    ///
    /// # Errors
    /// [`StorageError::Invalid`] for a wrong URL or setting, [`StorageError::Unavailable`] for a directory that cannot be
    /// created.
    pub fn open(url: &str, config: &Configuration) -> Result<Self, StorageError> {
        let s3 = S3Settings::from_config(config).map_err(|e| StorageError::Invalid(e.to_string()))?;
        let location = ObjectLocation::open(url, &s3)?;
        Ok(Self { location })
    }

    /// Where the store lies, for messages.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.location.url
    }

    /// Creates an object that must not exist yet and returns once it is durable. If it exists with the same content,
    /// that is success: an earlier call whose answer was lost.
    ///
    /// # Errors
    /// [`StorageError::Conflict`] if it exists with other content.
    pub async fn put_new(&self, path: &str, body: Bytes) -> Result<ObjectRef, StorageError> {
        let full = self.location.join(path)?;
        let object = ObjectRef {
            path: path.to_owned(),
            size: body.len() as u64,
            crc32c: crc32c::crc32c(&body),
        };
        let options = PutOptions::from(PutMode::Create);
        let put = self
            .location
            .store
            .put_opts(&full, PutPayload::from_bytes(body.clone()), options);
        let result = self.within(deadline(object.size), "write", path, put).await?;
        match result {
            Ok(_) => Ok(object),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                let existing = self.get_by_path(path).await?;
                if existing == body {
                    self.harden(path, full).await?;
                    return Ok(object);
                }
                Err(StorageError::Conflict(format!(
                    "object '{path}' in {} exists with other content ({} bytes, not {}): two writers used one name",
                    self.location.url,
                    existing.len(),
                    body.len()
                )))
            }
            Err(e) => Err(StorageError::from_store(path, "write", &e)),
        }
    }

    /// Reads an object and checks its size and checksum.
    ///
    /// # Errors
    /// [`StorageError::NotFound`], [`StorageError::Damaged`].
    pub async fn get(&self, object: &ObjectRef) -> Result<Bytes, StorageError> {
        let body = self.read(&object.path, object.size).await?;
        let damaged = |reason: String| StorageError::Damaged {
            path: object.path.clone(),
            reason,
        };
        if body.len() as u64 != object.size {
            return Err(damaged(format!(
                "{} bytes instead of {}",
                body.len(),
                object.size
            )));
        }
        let crc = crc32c::crc32c(&body);
        if crc != object.crc32c {
            return Err(damaged(format!(
                "checksum {crc:08x} instead of {:08x}",
                object.crc32c
            )));
        }
        Ok(body)
    }

    /// Reads an object of unknown size, unchecked.
    ///
    /// # Errors
    /// [`StorageError::NotFound`] if there is none.
    pub async fn get_by_path(&self, path: &str) -> Result<Bytes, StorageError> {
        self.read(path, 0).await
    }

    /// Paths of all objects below a prefix of whole path parts, sorted.
    ///
    /// # Errors
    /// If the store does not answer.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let full = self.location.join(prefix)?;
        let listing = self
            .location
            .store
            .list(Some(&full))
            .map_ok(|meta| self.location.strip(&meta.location))
            .try_collect::<Vec<_>>();
        let result = self
            .within(limits::STORAGE_DEADLINE, "list", prefix, listing)
            .await?;
        let mut paths = match result {
            Err(object_store::Error::NotFound { .. }) => Vec::new(),
            other => other.map_err(|e| StorageError::from_store(prefix, "list", &e))?,
        };
        paths.sort_unstable();
        Ok(paths)
    }

    /// Deletes objects; those that do not exist count as deleted. Goes through all of them even if some fail, then
    /// returns the first failure.
    ///
    /// # Errors
    /// If an object may still be there.
    pub async fn delete(&self, paths: Vec<String>) -> Result<(), StorageError> {
        let results: Vec<Result<(), StorageError>> = futures::stream::iter(paths)
            .map(|path| async move { self.delete_one(&path).await })
            .buffer_unordered(limits::STORAGE_DELETES_CONCURRENT)
            .collect()
            .await;
        results.into_iter().collect()
    }

    async fn harden(&self, path: &str, full: object_store::path::Path) -> Result<(), StorageError> {
        let location = self.location.clone();
        let sync = holdfast_runtime::blocking(move || location.harden(&full));
        let failed = |reason: String| StorageError::Unavailable(format!("cannot sync '{path}': {reason}"));
        match self.within(limits::STORAGE_DEADLINE, "sync", path, sync).await? {
            Ok(result) => result.map_err(|e| failed(e.to_string())),
            Err(e) => Err(failed(e.to_string())),
        }
    }

    async fn delete_one(&self, path: &str) -> Result<(), StorageError> {
        let full = self.location.join(path)?;
        let delete = self.location.store.delete(&full);
        match self
            .within(limits::STORAGE_DEADLINE, "delete", path, delete)
            .await?
        {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(StorageError::from_store(path, "delete", &e)),
        }
    }

    async fn read(&self, path: &str, size_hint: u64) -> Result<Bytes, StorageError> {
        let full = self.location.join(path)?;
        let get = async { self.location.store.get(&full).await?.bytes().await };
        self.within(deadline(size_hint), "read", path, get)
            .await?
            .map_err(|e| StorageError::from_store(path, "read", &e))
    }

    async fn within<T>(
        &self,
        deadline: Duration,
        action: &str,
        path: &str,
        work: impl Future<Output = T>,
    ) -> Result<T, StorageError> {
        let fate = testing::fate(action, path);
        if fate.fails_before {
            return Err(testing::failed(action, path));
        }
        let work = async {
            if !fate.delay.is_zero() {
                tokio::time::sleep(fate.delay).await;
            }
            work.await
        };
        let done = tokio::time::timeout(deadline, work).await.map_err(|_| {
            StorageError::Unavailable(format!(
                "cannot {action} '{path}': {} did not answer within {} s",
                self.location.url,
                deadline.as_secs()
            ))
        })?;
        if fate.fails_after {
            return Err(testing::failed(action, path));
        }
        Ok(done)
    }
}

/// Large objects get the time that a slow store needs for them.
fn deadline(size: u64) -> Duration {
    limits::STORAGE_DEADLINE + Duration::from_secs(size / limits::STORAGE_BYTES_PER_SECOND_MIN)
}

#[cfg(test)]
mod tests;
