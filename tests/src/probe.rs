//! Open-loop probes of the coordinators: a request every few milliseconds whatever became of the ones before, so that a
//! stalled service is measured by every request that it delays.

use crate::output::longest_gap;
use crate::rest::{Call, Rest, send};
use anyhow::{Result, ensure};
use hyper::Method;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Patience of one request with one coordinator. Shorter than the bound that is measured, or it would hide it.
const REQUEST_DEADLINE: Duration = Duration::from_millis(250);
/// Requests in flight; more are not started (and count as failed), so that a stall does not pile up sockets.
const IN_FLIGHT_MAX: usize = 256;

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `PUT /v1/kv/KEY` with a key of its own.
    Write,
    /// `GET /v1/kv/KEY` of one key, linearizable.
    Read,
}

/// One finished request.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its number.
    pub number: u64,
    /// When it was started.
    pub started: Instant,
    /// When its answer came.
    pub ended: Instant,
    /// What went wrong; `None` if it succeeded.
    pub error: Option<String>,
}

/// A running probe.
pub struct Probe {
    kind: Kind,
    prefix: String,
    stop: Arc<AtomicBool>,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
    thread: Option<JoinHandle<()>>,
}

impl Probe {
    /// Starts a request every `every`, at the coordinators of `rest` in turn. The addresses are read anew for every
    /// request, so a restarted coordinator on another port is found.
    #[must_use]
    pub fn start(rest: &Rest, kind: Kind, every: Duration) -> Self {
        let prefix = format!("probe-{:08x}", rand::random::<u32>());
        let (stop, outcomes) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
        let shared = Arc::new(Shared {
            kind,
            prefix: prefix.clone(),
            rest: rest.clone(),
            outcomes: outcomes.clone(),
        });
        let thread_stop = stop.clone();
        let thread = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
                return;
            };
            runtime.block_on(drive(shared, thread_stop, every));
        });
        Self {
            kind,
            prefix,
            stop,
            outcomes,
            thread: Some(thread),
        }
    }

    /// Longest time without a successful answer that touches `from..to`.
    #[must_use]
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        let mut ends: Vec<Instant> = self.successes().iter().map(|o| o.ended).collect();
        ends.sort_unstable();
        longest_gap(ends, from, to)
    }

    /// Time from `at` to the first success of a request that was started after it.
    #[must_use]
    pub fn first_success_after(&self, at: Instant) -> Option<Duration> {
        self.successes()
            .iter()
            .filter(|o| o.started >= at)
            .map(|o| o.ended - at)
            .min()
    }

    /// Requests that succeeded so far.
    #[must_use]
    pub fn successes(&self) -> Vec<Outcome> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes.iter().filter(|o| o.error.is_none()).cloned().collect()
    }

    /// How often each error was met, for messages.
    #[must_use]
    pub fn errors(&self) -> BTreeMap<String, usize> {
        let outcomes = self.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut counts = BTreeMap::new();
        for error in outcomes.iter().filter_map(|o| o.error.as_ref()) {
            *counts.entry(error.clone()).or_insert(0) += 1;
        }
        counts
    }

    /// Ends the probe and waits for its last answers.
    pub fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }

    /// After [`Self::stop`]: every acknowledged write must be readable, linearizably.
    ///
    /// # Errors
    /// Names the writes that are lost.
    pub fn check_writes(&self, rest: &Rest) -> Result<usize> {
        ensure!(self.kind == Kind::Write, "only a probe of writes can be checked");
        let acknowledged = self.successes();
        let mut lost = Vec::new();
        for outcome in &acknowledged {
            let key = format!("{}-{}", self.prefix, outcome.number);
            let reply = rest.call(&Call::get(format!("/v1/kv/{key}")), Duration::from_secs(10))?;
            if !reply.status.is_success() {
                lost.push(format!("{key}: {}", reply.status));
            }
        }
        ensure!(
            lost.is_empty(),
            "{} of {} acknowledged writes are lost: {:?}",
            lost.len(),
            acknowledged.len(),
            lost.iter().take(10).collect::<Vec<_>>()
        );
        Ok(acknowledged.len())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Shared {
    kind: Kind,
    prefix: String,
    rest: Rest,
    outcomes: Arc<Mutex<Vec<Outcome>>>,
}

async fn drive(shared: Arc<Shared>, stop: Arc<AtomicBool>, every: Duration) {
    let mut tick = tokio::time::interval(every);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    let places = Arc::new(tokio::sync::Semaphore::new(IN_FLIGHT_MAX));
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        tick.tick().await;
        number += 1;
        let started = Instant::now();
        match places.clone().try_acquire_owned() {
            Ok(place) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let error = shared.request(number).await.err().map(|e| shorten(&e));
                    shared.record(number, started, error);
                    drop(place);
                });
            }
            Err(_) => shared.record(number, started, Some("too many requests in flight".into())),
        }
    }
    // All places free means that no request is left; each has a deadline.
    let all = u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX);
    drop(places.acquire_many(all).await);
}

impl Shared {
    /// Asks each coordinator once, beginning with another one every time.
    async fn request(&self, number: u64) -> Result<()> {
        let addresses = self.rest.addresses();
        let mut last = anyhow::anyhow!("no coordinator is known");
        for i in 0..addresses.len() {
            let at = (usize::try_from(number).unwrap_or(0) + i) % addresses.len();
            match self.try_at(&addresses[at], number).await {
                Ok(()) => return Ok(()),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn try_at(&self, address: &str, number: u64) -> Result<()> {
        let call = match self.kind {
            Kind::Write => Call::new(Method::PUT, format!("/v1/kv/{}-{number}", self.prefix))
                .header("content-type", "application/octet-stream")
                .body(number.to_string()),
            Kind::Read => Call::get(format!("/v1/kv/{}", self.prefix)),
        };
        let reply = send(address, &call, REQUEST_DEADLINE).await?;
        // The probe of reads never wrote its key: that it is absent is the right, linearizable answer.
        let absent = self.kind == Kind::Read && reply.status == hyper::StatusCode::NOT_FOUND;
        ensure!(
            absent || reply.status.is_success(),
            "{}: {}",
            reply.status,
            reply.text()
        );
        Ok(())
    }

    fn record(&self, number: u64, started: Instant, error: Option<String>) {
        let outcome = Outcome {
            number,
            started,
            ended: Instant::now(),
            error,
        };
        self.outcomes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(outcome);
    }
}

/// An error's text without what differs from request to request.
fn shorten(error: &anyhow::Error) -> String {
    let text: String = format!("{error:#}")
        .chars()
        .filter(|c| !c.is_ascii_digit())
        .collect();
    text.chars().take(160).collect()
}
