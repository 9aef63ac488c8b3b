//! Keyed state of operators: normalised columns, canonical keys, the table that interns them, and the bytes in which
//! state is kept. Must not know tasks, channels or connectors.

pub mod bytes;
pub mod column;
pub mod interner;
pub mod keys;

/// Why state cannot be read, or a column cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StateError(pub String);
