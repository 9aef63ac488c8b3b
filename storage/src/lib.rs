//! Snapshot storage: where checkpoints lie, and how their manifests look.
//!
//! Objects are created once and never changed; what is read is checked against its recorded size and checksum. This
//! crate knows neither what an object means nor when it may be deleted, and it reads no clock.

mod error;
mod location;
mod manifest;
mod store;
#[doc(hidden)]
pub mod testing;

pub use error::StorageError;
pub use location::{ObjectLocation, S3Settings, create_dirs_durably};
pub use manifest::{MANIFEST_VERSION, manifest_decode, manifest_encode, manifest_sha256};
pub use store::SnapshotStore;

pub use object_store;
