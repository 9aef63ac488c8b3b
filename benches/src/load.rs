//! A closed loop of clients over one gRPC channel: each sends its next write when the one before is answered.

use anyhow::{Context, Result};
use serde::Serialize;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a written value.
pub const VALUE_BYTES: usize = 256;
/// Keys that one client writes in turn.
const KEYS_PER_CLIENT: u64 = 1000;

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const ENDED: u8 = 2;

/// One client's way to write.
pub trait Writer: Send + 'static {
    /// Writes a value and waits until it is committed.
    fn put(&mut self, key: String, value: bytes::Bytes) -> impl Future<Output = Result<()>> + Send;
}

/// What a load measured.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Clients at once.
    pub clients: usize,
    /// Writes per second.
    pub per_second: f64,
    /// Median latency.
    pub p50_ms: f64,
    /// 99th percentile of the latency.
    pub p99_ms: f64,
    /// Longest latency.
    pub max_ms: f64,
    /// Writes counted.
    pub writes: usize,
}

/// Runs the clients: first a warm-up, then the time that counts.
///
/// # Errors
/// If a write fails: a benchmark with failures has no result.
pub async fn run<W: Writer>(writers: Vec<W>, warm_up: Duration, time: Duration) -> Result<Measured> {
    let clients = writers.len();
    let phase = Arc::new(AtomicU8::new(WARMING));
    let tasks: Vec<_> = writers
        .into_iter()
        .enumerate()
        .map(|(number, writer)| tokio::spawn(client(number, writer, phase.clone())))
        .collect();
    tokio::time::sleep(warm_up).await;
    let start = Instant::now();
    phase.store(MEASURING, Ordering::Relaxed);
    tokio::time::sleep(time).await;
    phase.store(ENDED, Ordering::Relaxed);
    let elapsed = start.elapsed();
    let mut micros: Vec<u64> = Vec::new();
    for task in tasks {
        micros.extend(task.await.context("a client panicked")??);
    }
    micros.sort_unstable();
    let at = |share: f64| {
        let rank = ((micros.len() as f64 * share).ceil() as usize).clamp(1, micros.len().max(1));
        micros.get(rank - 1).copied().unwrap_or(0) as f64 / 1e3
    };
    Ok(Measured {
        clients,
        per_second: micros.len() as f64 / elapsed.as_secs_f64(),
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        max_ms: at(1.0),
        writes: micros.len(),
    })
}

async fn client<W: Writer>(number: usize, mut writer: W, phase: Arc<AtomicU8>) -> Result<Vec<u64>> {
    let value = bytes::Bytes::from(vec![b'v'; VALUE_BYTES]);
    let mut micros = Vec::new();
    for turn in 0.. {
        let key = format!("bench/{number}/{}", turn % KEYS_PER_CLIENT);
        let counts = phase.load(Ordering::Relaxed) == MEASURING;
        let start = Instant::now();
        writer
            .put(key, value.clone())
            .await
            .with_context(|| format!("write {turn} of client {number}"))?;
        match phase.load(Ordering::Relaxed) {
            ENDED => break,
            _ if counts => micros.push(u64::try_from(start.elapsed().as_micros())?),
            _ => {}
        }
    }
    Ok(micros)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    struct Slow;

    impl Writer for Slow {
        async fn put(&mut self, _key: String, value: bytes::Bytes) -> Result<()> {
            assert_eq!(value.len(), VALUE_BYTES);
            tokio::time::sleep(Duration::from_millis(2)).await;
            Ok(())
        }
    }

    #[tokio::test]
    async fn latency_and_rate_belong_together() {
        let time = Duration::from_millis(200);
        let measured = run(vec![Slow, Slow], Duration::from_millis(20), time)
            .await
            .unwrap();
        assert_eq!(measured.clients, 2);
        assert!(measured.p50_ms >= 2.0 && measured.max_ms >= measured.p99_ms);
        assert!(measured.per_second <= 1000.0, "{}", measured.per_second);
    }
}
