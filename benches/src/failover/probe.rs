//! An open-loop probe of anything that answers yes or no, on a thread of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A request: whether it was served.
pub type Asked = Pin<Box<dyn Future<Output = bool> + Send>>;

/// Microseconds since a beginning that all of a measurement's parts share.
#[derive(Debug, Clone, Copy)]
pub struct Since(Instant);

impl Since {
    /// Begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since then.
    #[must_use]
    pub fn now(&self) -> i64 {
        i64::try_from(self.0.elapsed().as_micros()).unwrap_or(i64::MAX)
    }
}

/// A running probe; dropped, it ends.
pub struct Probe {
    stop: Arc<AtomicBool>,
    served: Arc<Mutex<Vec<(i64, i64)>>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Asks every `every`, whatever became of the requests before; one that is not served within `deadline` from when
    /// it was due has failed. `make` is called on the probe's own runtime.
    #[must_use]
    pub fn start<M, A>(since: Since, every: Duration, deadline: Duration, make: M) -> Self
    where
        M: FnOnce() -> A + Send + 'static,
        A: FnMut(u64) -> Asked,
    {
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let (thread_stop, thread_served) = (stop.clone(), served.clone());
        let thread = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(async move {
                let mut ask = make();
                let mut tick = tokio::time::interval(every);
                let mut number = 0;
                while !thread_stop.load(Ordering::Relaxed) {
                    tick.tick().await;
                    number += 1;
                    let (asked, served, sent) = (ask(number), thread_served.clone(), since.now());
                    tokio::spawn(async move {
                        if tokio::time::timeout(deadline, asked).await == Ok(true) {
                            let answer = (sent, since.now());
                            served.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
                        }
                    });
                }
            });
        });
        Self {
            stop,
            served,
            thread: Some(thread),
        }
    }

    /// The longest time without an answer that touches `from..to`, milliseconds.
    #[must_use]
    pub fn gap_ms(&self, from: i64, to: i64) -> f64 {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        let mut ends: Vec<i64> = served.iter().map(|(_, end)| *end).collect();
        ends.sort_unstable();
        let (begin, end) = super::stats::longest_silence(ends, from, to);
        (end - begin) as f64 / 1e3
    }

    /// Whether a request that was sent at `at` or later has been served.
    #[must_use]
    pub fn served_since(&self, at: i64) -> bool {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.iter().any(|(sent, _)| *sent >= at)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_sees_a_stall() {
        let since = Since::begin();
        let (every, deadline) = (Duration::from_millis(5), Duration::from_millis(100));
        // Nobody serves requests 21 to 60.
        let probe = Probe::start(since, every, deadline, || {
            |number| -> Asked { Box::pin(async move { !(21..=60).contains(&number) }) }
        });
        while since.now() < 500_000 {
            std::thread::sleep(Duration::from_millis(10));
        }
        let gap = probe.gap_ms(0, 450_000);
        assert!((195.0..400.0).contains(&gap), "{gap}");
        assert!(probe.served_since(350_000));
    }
}
