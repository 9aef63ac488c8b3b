//! The records that cross a process or a disk: protobuf messages, generated from `proto/*.proto` by the build script.
//!
//! Only shapes live here. What the numbers mean, and whether a record is accepted, is decided by the receiver.
#![allow(missing_docs, clippy::doc_markdown, clippy::large_enum_variant)]

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

/// The replicated log's entries and the replicated state's snapshots.
pub mod command {
    /// First version.
    pub mod v1 {
        tonic::include_proto!("holdfast.command.v1");
    }
    pub use v1::*;
}

/// Between coordinators, and on their disks.
pub mod raft {
    /// First version.
    pub mod v1 {
        tonic::include_proto!("holdfast.raft.v1");
    }
    pub use v1::*;
}

/// The coordinators' key-value space, for users and drills.
pub mod client {
    /// First version.
    pub mod v1 {
        tonic::include_proto!("holdfast.client.v1");
    }
    pub use v1::*;
}
