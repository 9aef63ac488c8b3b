//! Why storage refuses or fails, in the few kinds that callers treat differently. Knows no particular store.

use holdfast_common::error::Retry;

/// Why an operation on storage failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// There is no such object.
    #[error("object '{0}' does not exist")]
    NotFound(String),
    /// The object is there, but not as it was written.
    #[error("object '{path}' is damaged: {reason}")]
    Damaged {
        /// The object.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// Another object lies where a new one was to be created.
    #[error("{0}")]
    Conflict(String),
    /// The store does not answer, or refuses for now: full disk, missing mount, missing rights, network.
    #[error("{0}")]
    Unavailable(String),
    /// The request or the configuration is wrong.
    #[error("{0}")]
    Invalid(String),
}

impl StorageError {
    /// Whether the same call may succeed later. Creating is idempotent, so an unknown outcome is safe to retry.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unavailable(_) => Retry::Unknown,
            _ => Retry::Never,
        }
    }

    /// From the store's own error.
    #[must_use]
    pub fn from_store(path: &str, action: &str, error: &object_store::Error) -> Self {
        use object_store::Error as E;
        let text = describe(error);
        match error {
            E::NotFound { .. } => Self::NotFound(path.to_owned()),
            E::AlreadyExists { .. } | E::Precondition { .. } => {
                Self::Conflict(format!("cannot {action} '{path}': {text}"))
            }
            E::InvalidPath { .. }
            | E::NotSupported { .. }
            | E::NotImplemented { .. }
            | E::UnknownConfigurationKey { .. } => Self::Invalid(format!("cannot {action} '{path}': {text}")),
            _ => Self::Unavailable(format!("cannot {action} '{path}': {text}")),
        }
    }
}

/// The error with its causes, those left out that the outer text already tells.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    text
}
