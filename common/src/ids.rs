//! Identities and fencing numbers.
//!
//! Attempts and leader epochs are log indexes: unique, ordered, and minted nowhere but in the replicated log.
//! Every message and object path carries them, and the receiver rejects the older one.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

number_id!(
    /// One deployment of a job's tasks: the log index of the entry that started it.
    AttemptId
);
number_id!(
    /// A checkpoint of one job. Never reused within a job, increasing, with gaps.
    CheckpointId
);
number_id!(
    /// The log index at which a leader claimed its role: the fencing number of everything it commands.
    LeaderEpoch
);
number_id!(
    /// A coordinator. Never reused: a coordinator that lost its disk returns under another number.
    NodeId
);

macro_rules! wide_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:032x}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:032x})"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(s: &str) -> Result<Self, ParseIdError> {
                if s.len() != 32 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
                    return Err(ParseIdError { kind: stringify!($name), text: s.chars().take(64).collect() });
                }
                u128::from_str_radix(s, 16)
                    .map(Self)
                    .map_err(|_| ParseIdError { kind: stringify!($name), text: s.to_owned() })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }

        impl $name {
            /// Big-endian bytes, as they stand in records.
            #[must_use]
            pub fn to_bytes(self) -> [u8; 16] {
                self.0.to_be_bytes()
            }

            /// From the 16 bytes of [`Self::to_bytes`].
            ///
            /// # Errors
            /// If `bytes` is not 16 long.
            pub fn from_bytes(bytes: &[u8]) -> Result<Self, ParseIdError> {
                let array: [u8; 16] = bytes.try_into().map_err(|_| ParseIdError {
                    kind: stringify!($name),
                    text: format!("{} bytes instead of 16", bytes.len()),
                })?;
                Ok(Self(u128::from_be_bytes(array)))
            }
        }
    };
}

wide_id!(
    /// A job, written as 32 hexadecimal digits like Flink's.
    JobId
);
wide_id!(
    /// A cluster. Drawn at bootstrap and committed as the first command.
    ClusterId
);
wide_id!(
    /// One start of one process. Drawn when the process starts.
    Incarnation
);

/// A text or byte string that is no identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a {kind}: expected 32 hexadecimal digits")]
pub struct ParseIdError {
    /// The identifier's type.
    pub kind: &'static str,
    /// What was given.
    pub text: String,
}

/// A vertex of a job graph: its position in the graph's list of vertices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VertexId(pub u32);

impl fmt::Display for VertexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl VertexId {
    /// The vertex as Flink's REST interface writes it: 32 hexadecimal digits.
    #[must_use]
    pub fn to_rest(self) -> String {
        format!("{:032x}", u128::from(self.0) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_write() {
        let id = JobId(0x1234_5678_9abc_def0_0fed_cba9_8765_4321);
        assert_eq!(id.to_string().parse::<JobId>(), Ok(id));
        assert_eq!(JobId::from_bytes(&id.to_bytes()), Ok(id));
        assert!("xyz".parse::<JobId>().is_err());
        assert!("+2345678901234567890123456789012".parse::<JobId>().is_err());
    }
}
