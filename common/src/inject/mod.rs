//! Faults that tests place inside the product: crash points and seeded bugs.
//!
//! Without the feature `inject`, which no release has, every call here is a constant and compiles to nothing. With it, a
//! process reads two environment variables when it first passes a call:
//!
//! - `HOLDFAST_INJECT=point=NAME,hit=N,action=abort|power|delay:MS|error` arms one crash point for its N-th passage.
//! - `HOLDFAST_BUG=NAME` switches one seeded bug on.
//!
//! What fires is appended as one line to the file named by `HOLDFAST_INJECT_LOG`, so that a harness can tell a run in
//! which nothing fired. The names stand in [`points`] and [`bugs`], and nowhere else may new ones be made up.

pub mod bugs;
pub mod points;

use std::io;

/// Whether this build has crash points and seeded bugs at all.
pub const COMPILED_IN: bool = cfg!(feature = "inject");

/// Passes a crash point. `Ok(())` unless the point is armed with `error` for this passage.
///
/// # Errors
/// The injected error, of kind [`io::ErrorKind::Other`].
#[inline]
pub fn point(name: &'static str) -> io::Result<()> {
    #[cfg(feature = "inject")]
    {
        armed::point(name)
    }
    #[cfg(not(feature = "inject"))]
    {
        let _ = name;
        Ok(())
    }
}

/// Passes a crash point at which nothing can fail: an `error` armed there is an abort.
#[inline]
pub fn pass(name: &'static str) {
    if point(name).is_err() {
        std::process::abort();
    }
}

/// Whether the seeded bug `name` is on. Code reads `if inject::bug(bugs::X) { wrong } else { right }`.
#[inline]
#[must_use]
pub fn bug(name: &'static str) -> bool {
    #[cfg(feature = "inject")]
    {
        armed::bug(name)
    }
    #[cfg(not(feature = "inject"))]
    {
        let _ = name;
        false
    }
}

#[cfg(feature = "inject")]
mod armed;
