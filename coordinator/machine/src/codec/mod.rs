//! The machine's records as bytes: protobuf with explicit numbers for log entries, and a framed, checksummed stream of
//! records for snapshots.
//!
//! A record that this build does not know is an error, never skipped: a coordinator that skipped an entry would
//! compute another state than its peers.

mod proposal;
mod response;
mod snapshot;
mod state;

pub use snapshot::Digest;

use holdfast_proto::command as pb;

/// Bytes that are no record of this build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// Not the protobuf message that was expected.
    #[error("{what} does not decode: {reason}")]
    Malformed {
        /// Which record.
        what: &'static str,
        /// What the decoder says.
        reason: String,
    },
    /// A field or a variant is missing, or was written by a newer build.
    #[error("{what} is missing or unknown to this version: it was written by a newer build, or is damaged")]
    Unknown {
        /// Which field.
        what: &'static str,
    },
    /// A field has a value that it cannot have.
    #[error("{what} is invalid: {reason}")]
    Invalid {
        /// Which field.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The snapshot's frame does not hold.
    #[error("snapshot is damaged: {reason}")]
    Damaged {
        /// What was found.
        reason: String,
    },
    /// The snapshot's format is another one.
    #[error("snapshot has format {found}, this build reads {supported}: use the version that wrote it")]
    Version {
        /// In the file.
        found: u32,
        /// By this build.
        supported: u32,
    },
}

type Result<T> = std::result::Result<T, CodecError>;

fn unknown(what: &'static str) -> CodecError {
    CodecError::Unknown { what }
}

fn malformed(what: &'static str) -> impl FnOnce(prost::DecodeError) -> CodecError {
    move |error| CodecError::Malformed {
        what,
        reason: error.to_string(),
    }
}

/// A 128-bit identifier's bytes.
fn wide(what: &'static str, bytes: &[u8]) -> Result<u128> {
    let array: [u8; 16] = bytes.try_into().map_err(|_| CodecError::Invalid {
        what,
        reason: format!("{} bytes instead of 16", bytes.len()),
    })?;
    Ok(u128::from_be_bytes(array))
}

fn wide_bytes(id: u128) -> prost::bytes::Bytes {
    prost::bytes::Bytes::copy_from_slice(&id.to_be_bytes())
}

fn status_to(status: crate::state::JobStatus) -> pb::JobStatus {
    use crate::state::JobStatus as S;
    match status {
        S::Created => pb::JobStatus::Created,
        S::Running => pb::JobStatus::Running,
        S::Restarting => pb::JobStatus::Restarting,
        S::Cancelling => pb::JobStatus::Cancelling,
        S::Finished => pb::JobStatus::Finished,
        S::Canceled => pb::JobStatus::Canceled,
        S::Failed => pb::JobStatus::Failed,
    }
}

fn status_from(number: i32) -> Result<crate::state::JobStatus> {
    use crate::state::JobStatus as S;
    match pb::JobStatus::try_from(number) {
        Ok(pb::JobStatus::Created) => Ok(S::Created),
        Ok(pb::JobStatus::Running) => Ok(S::Running),
        Ok(pb::JobStatus::Restarting) => Ok(S::Restarting),
        Ok(pb::JobStatus::Cancelling) => Ok(S::Cancelling),
        Ok(pb::JobStatus::Finished) => Ok(S::Finished),
        Ok(pb::JobStatus::Canceled) => Ok(S::Canceled),
        Ok(pb::JobStatus::Failed) => Ok(S::Failed),
        Ok(pb::JobStatus::Unspecified) | Err(_) => Err(unknown("job status")),
    }
}
