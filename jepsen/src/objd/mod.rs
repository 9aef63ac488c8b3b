//! The object server of a run: the part of S3 that the product uses, in memory, with a log of every operation and faults
//! on command. Commands come by standard input, one a line: `fault MODE SHARE MS`, `heal MODE`; it ends with its input.

mod faults;
mod http;
mod objects;
mod text;

use anyhow::{Context, Result};
use faults::Faults;
use objects::Objects;
use std::fs::File;
use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

/// What all connections share.
pub(crate) struct Server {
    objects: Mutex<Objects>,
    faults: Mutex<Faults>,
    log: Mutex<File>,
}

impl Server {
    fn new(log: File, seed: u64) -> Self {
        Self {
            objects: Mutex::default(),
            faults: Mutex::new(Faults::new(seed)),
            log: Mutex::new(log),
        }
    }

    fn objects(&self) -> MutexGuard<'_, Objects> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn faults(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One line of the log. What cannot be written is lost: the log is for people, no checker depends on it.
    fn write(&self, line: &serde_json::Value) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = log.write_all(format!("{line}\n").as_bytes());
    }
}

/// Serves until standard input ends.
///
/// # Errors
/// If it cannot listen or write its log.
pub fn serve(listen: SocketAddr, log: &Path, seed: u64) -> Result<()> {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| log.display().to_string())?;
    let server = Arc::new(Server::new(log, seed));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let listener = runtime
        .block_on(TcpListener::bind(listen))
        .with_context(|| listen.to_string())?;
    runtime.spawn(accept(listener, Arc::clone(&server)));
    for line in std::io::stdin().lock().lines() {
        if let Err(reason) = server.faults().command(&line?) {
            eprintln!("objd: {reason}");
        }
    }
    runtime.shutdown_background();
    Ok(())
}

async fn accept(listener: TcpListener, server: Arc<Server>) {
    loop {
        match listener.accept().await {
            Ok((stream, from)) => {
                let _ = stream.set_nodelay(true);
                tokio::spawn(http::connection(stream, from, Arc::clone(&server)));
            }
            // No descriptor is free: connections that end make room.
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

#[cfg(test)]
mod tests;
