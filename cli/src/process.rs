//! `coordinator` and `worker`: configuration, log, runtime, signals, exit code. What the process does stands in its own
//! crate.

use crate::args::ProcessArgs;
use crate::config_file;
use crate::exit::{Exit, Failure};
use crate::random::SystemRandom;
use holdfast_common::clock::SystemClock;
use holdfast_common::config::{Configuration, options};
use holdfast_coordinator::RunError as CoordinatorError;
use holdfast_raft::StartError;
use holdfast_worker::RunError as WorkerError;
use std::io::IsTerminal;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Which process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A member of the replicated log.
    Coordinator,
    /// A worker.
    Worker,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// See [`crate::exit`].
pub fn run(role: Role, args: &ProcessArgs) -> Result<Exit, Failure> {
    let config = config_file::load(args.config.as_deref(), &args.define)?;
    init_log(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name(match role {
            Role::Coordinator => "coordinator",
            Role::Worker => "worker",
        })
        .build()
        .map_err(|e| Failure::error(format!("cannot start the runtime: {e}")))?;
    let outcome = runtime.block_on(serve(role, &config));
    // What is left of blocking work (an upload to a storage that does not answer) must not hold the exit up.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    Ok(match outcome {
        Ok(exit) => {
            tracing::info!("stopped");
            exit
        }
        // Said here, in the log with its time; the caller needs the code alone.
        Err(failure) => {
            tracing::error!(code = failure.exit.code(), "{}", failure.message);
            failure.exit
        }
    })
}

async fn serve(role: Role, config: &Configuration) -> Result<Exit, Failure> {
    let shutdown = stop_signal().map_err(|e| Failure::error(format!("cannot listen for signals: {e}")))?;
    let registry = holdfast_connectors::registry_with(config);
    let clock = Arc::new(SystemClock);
    let random = Arc::new(SystemRandom);
    match role {
        Role::Coordinator => holdfast_coordinator::run(config, registry, clock, random, shutdown)
            .await
            .map_err(|e| Failure {
                exit: coordinator_exit(&e),
                message: e.to_string(),
            })?,
        Role::Worker => holdfast_worker::run(config, registry, clock, random, shutdown)
            .await
            .map_err(|e| Failure {
                exit: worker_exit(&e),
                message: e.to_string(),
            })?,
    }
    Ok(Exit::Ok)
}

/// The code for a coordinator that could not start or had to stop.
fn coordinator_exit(error: &CoordinatorError) -> Exit {
    match error {
        CoordinatorError::Config(_) | CoordinatorError::Setting(_) => Exit::Usage,
        CoordinatorError::Start(StartError::Config(_) | StartError::LogStore(_)) => Exit::Usage,
        CoordinatorError::Start(StartError::Identity(_)) => Exit::Refused,
        CoordinatorError::Removed(_) => Exit::Removed,
        _ => Exit::Error,
    }
}

/// The code for a worker that could not start or had to stop.
fn worker_exit(error: &WorkerError) -> Exit {
    match error.exit_code() {
        2 => Exit::Usage,
        3 => Exit::Refused,
        _ => Exit::Error,
    }
}

/// Completes at the first SIGTERM or SIGINT.
///
/// # Errors
/// If the handlers cannot be installed.
pub fn stop_signal() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        tracing::info!(signal = name, "stopping");
    })
}

/// The filter for a level: libraries that speak of every heartbeat at `info` are held one level back. A filter is taken
/// as it is.
fn directives(level: &str) -> String {
    let libraries = [
        "openraft",
        "raft_log",
        "chunked_wal",
        "h2",
        "hyper",
        "tonic",
        "object_store",
    ];
    if level != "info" {
        return level.to_owned();
    }
    libraries
        .iter()
        .fold(level.to_owned(), |text, library| format!("{text},{library}=warn"))
}

/// Logs to standard error at the configured level.
///
/// # Errors
/// If the level is none.
pub fn init_log(config: &Configuration) -> Result<(), Failure> {
    let level = config
        .get(&options::LOG_LEVEL)
        .map_err(|e| Failure::usage(e.to_string()))?;
    let filter = EnvFilter::try_new(directives(&level)).map_err(|e| {
        Failure::usage(format!(
            "configuration key 'env.log.level': '{level}' is no level or filter: {e}"
        ))
    })?;
    let ansi = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(ansi)
        .try_init()
        .map_err(|e| Failure::error(format!("cannot start the log: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_plain_level_is_extended() {
        assert!(directives("info").starts_with("info,openraft=warn,"));
        assert_eq!(directives("debug"), "debug");
        assert_eq!(directives("info,openraft=info"), "info,openraft=info");
        assert!(EnvFilter::try_new(directives("info")).is_ok());
    }
}
