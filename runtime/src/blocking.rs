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

/// Runs `work` on a thread of its own that steps back behind every other one: what takes long and nobody waits for must
/// not take processor time from consensus. With the processors idle it runs at full speed.
///
/// # Errors
/// If it panics, or there can be no thread.
pub async fn background<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Panicked> {
    if crate::is_simulated() {
        return blocking(work).await;
    }
    let (done, outcome) = tokio::sync::oneshot::channel();
    let run = move || {
        step_back();
        // Whoever has stopped waiting does not need it.
        let _ = done.send(catch_unwind(AssertUnwindSafe(work)));
    };
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread
        .spawn(run)
        .map_err(|error| Panicked(format!("there is no thread for it: {error}")))?;
    match outcome.await {
        Ok(outcome) => outcome.map_err(|panic| Panicked(text(panic.as_ref()))),
        Err(_) => Err(Panicked("its thread has ended without an answer".to_owned())),
    }
}

/// Lowers the calling thread's priority for good: on Linux a thread has one of its own. It still gets about a tenth of
/// what a thread at normal priority gets, so that it ends on a busy machine too.
#[cfg(target_os = "linux")]
fn step_back() {
    const NICE: i32 = 10;
    let this = Some(rustix::thread::gettid());
    // A process that was started further back stays there.
    if rustix::process::getpriority_process(this).is_ok_and(|now| now < NICE) {
        // Lowering it is never refused; were it, the work would just be done at normal priority.
        let _ = rustix::process::setpriority_process(this, NICE);
    }
}

#[cfg(not(target_os = "linux"))]
fn step_back() {}

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
        assert_eq!(background("seven", || 7).await.unwrap(), 7);
        let error = background("broken", || -> u32 { panic!("broken") })
            .await
            .unwrap_err();
        assert!(error.to_string().contains("broken"), "{error}");
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn only_the_background_thread_steps_back() {
        let nice = || rustix::process::getpriority_process(Some(rustix::thread::gettid())).unwrap();
        let before = nice();
        assert_eq!(background("nice", nice).await.unwrap(), 10.max(before));
        assert_eq!(nice(), before);
        assert_eq!(blocking(nice).await.unwrap(), before);
    }
}
