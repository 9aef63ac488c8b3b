//! Work that blocks: on a thread of its own, or, in a simulator, at once and on the spot.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokio::runtime::Handle;

/// The work has panicked, or the runtime has ended under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Panicked {}

/// Runs `work` on a thread for blocking work of the current runtime.
///
/// # Errors
/// If it panics.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Panicked> {
    blocking_on(&Handle::current(), work).await
}

/// Runs `work` on a thread for blocking work of the given runtime.
///
/// # Errors
/// If it panics.
pub async fn blocking_on<T: Send + 'static>(
    runtime: &Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Panicked> {
    if crate::is_simulated() {
        // Others get their turn first, as they would if this went to another thread.
        tokio::task::yield_now().await;
        return catch_unwind(AssertUnwindSafe(work)).map_err(|panic| Panicked(text(panic.as_ref())));
    }
    runtime
        .spawn_blocking(work)
        .await
        .map_err(|error| Panicked(error.to_string()))
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    said.unwrap_or("a panic without a text").to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn work_is_done_and_a_panic_is_told() {
        assert_eq!(blocking(|| 7).await.unwrap(), 7);
        let error = blocking(|| -> u32 { panic!("broken") }).await.unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }
}
