//! How errors are spoken of across the project.

/// Whether trying the same thing again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// The request certainly had no effect; the same request may succeed later.
    Later,
    /// The request may or may not have taken effect; only an idempotent retry is safe.
    Unknown,
    /// Trying again will fail in the same way.
    Never,
}
