//! The records that cross a process or a disk: protobuf messages, generated from `proto/*.proto` by the build script.
//!
//! Only shapes live here. What the numbers mean, and whether a record is accepted, is decided by the receiver.
#![allow(missing_docs, clippy::doc_markdown)]

/// Between coordinators and workers.
pub mod control {
    /// First version.
    pub mod v1 {
        tonic::include_proto!("holdfast.control.v1");
    }
    pub use v1::*;
}

/// What lies in snapshot storage.
pub mod snapshot {
    /// First version.
    pub mod v1 {
        tonic::include_proto!("holdfast.snapshot.v1");
    }
    pub use v1::*;
}
