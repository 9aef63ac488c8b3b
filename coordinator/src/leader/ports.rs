//! What the leader's services need of the outside: snapshot storage, planning, and a look whether a worker's process
//! still listens. Traits, so that tests and simulation hand in their own.

use super::shape::Shape;
use async_trait::async_trait;
use bytes::Bytes;
use holdfast_common::limits::CONNECT_DEADLINE;
use holdfast_machine::state::Job;
use holdfast_storage::{SnapshotStore, StorageError};
use std::io::ErrorKind;

/// Snapshot storage as the leader uses it.
#[async_trait]
pub trait Snapshots: Send + Sync + 'static {
    /// Creates an object; the same content again is no error.
    ///
    /// # Errors
    /// If it is not durably there.
    async fn put_new(&self, path: &str, body: Bytes) -> Result<(), StorageError>;
    /// Reads an object.
    ///
    /// # Errors
    /// If it is missing, or the storage does not answer.
    async fn get(&self, path: &str) -> Result<Bytes, StorageError>;
    /// Every object below a prefix.
    ///
    /// # Errors
    /// If the storage does not answer.
    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError>;
    /// Deletes; missing objects are no error.
    ///
    /// # Errors
    /// If the storage does not answer.
    async fn delete(&self, paths: Vec<String>) -> Result<(), StorageError>;
}

#[async_trait]
impl Snapshots for SnapshotStore {
    async fn put_new(&self, path: &str, body: Bytes) -> Result<(), StorageError> {
        Self::put_new(self, path, body).await.map(|_| ())
    }

    async fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        self.get_by_path(path).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        Self::list(self, prefix).await
    }

    async fn delete(&self, paths: Vec<String>) -> Result<(), StorageError> {
        Self::delete(self, paths).await
    }
}

/// Plans a job's script. Called on a thread for blocking work.
pub trait Planner: Send + Sync + 'static {
    /// The shape of the job's plan.
    ///
    /// # Errors
    /// Why there is none, with the position in the script.
    fn shape(&self, job: &Job) -> Result<Shape, String>;
}

/// Looks whether anybody listens at an address.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// True if the machine answers that nobody does.
    async fn is_refused(&self, addr: &str) -> bool;
}

/// Over TCP.
#[derive(Debug, Clone, Copy, Default)]
pub struct TcpDialer;

#[async_trait]
impl Dialer for TcpDialer {
    async fn is_refused(&self, addr: &str) -> bool {
        let dial = holdfast_runtime::connect(addr);
        match tokio::time::timeout(CONNECT_DEADLINE, dial).await {
            Ok(Err(error)) => error.kind() == ErrorKind::ConnectionRefused,
            Ok(Ok(_)) | Err(_) => false,
        }
    }
}
