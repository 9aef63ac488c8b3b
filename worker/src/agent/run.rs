//! The worker process: reads its settings, starts the engine, follows the leader, and stops in order.

use super::actor::{Agent, AgentConfig};
use super::plans::{Plans, SqlPlanner};
use crate::engine::{Engine, EngineConfig, EngineError};
use holdfast_common::Incarnation;
use holdfast_common::clock::{SharedClock, SharedRandom};
use holdfast_common::config::{ConfigError, Configuration, options};
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_storage::{SnapshotStore, StorageError};
use std::net::{IpAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

/// This build.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting is wrong in a way that its type does not show.
    #[error("configuration key '{key}': '{value}' is refused: {reason}")]
    Setting {
        /// The key.
        key: &'static str,
        /// What was given.
        value: String,
        /// Why, and what is possible.
        reason: String,
    },
    /// The cluster does not want this worker: it belongs to another one, is of another version, or its name is taken.
    #[error("the leader refuses this worker: {0}")]
    Refused(String),
    /// Snapshot storage cannot be opened.
    #[error("cannot open snapshot storage (execution.checkpointing.dir): {0}")]
    Storage(StorageError),
    /// A directory cannot be made.
    #[error("cannot create the directory for temporary files {} (io.tmp.dirs): {reason}", path.display())]
    TmpDir {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        reason: String,
    },
    /// The engine does not start.
    #[error(transparent)]
    Start(#[from] EngineError),
    /// A sync failed. Whoever starts next repeats the work; a second sync here would not tell what is lost.
    #[error("a sync failed, and what it covered may be lost: {0}")]
    Sync(String),
    /// The engine has stopped.
    #[error("the engine has stopped: {0}")]
    Engine(String),
}

impl RunError {
    /// The process's exit code: 3 if the cluster refuses the worker, so that nobody starts it again as it is; 2 if its
    /// settings are wrong; 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(_) => 3,
            Self::Config(_) | Self::Setting { .. } => 2,
            Self::Storage(_) | Self::TmpDir { .. } | Self::Start(_) | Self::Engine(_) | Self::Sync(_) => 1,
        }
    }
}

/// Runs a worker until `shutdown` completes.
///
/// # Errors
/// Why it does not start, is refused, or had to stop.
pub async fn run(
    config: &Configuration,
    registry: Arc<dyn ConnectorRegistry>,
    clock: SharedClock,
    random: SharedRandom,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let resource_id = config
        .get_optional(&options::TM_RESOURCE_ID)?
        .unwrap_or_else(|| format!("worker-{:08x}", random.next_u64() >> 32));
    let coordinators = coordinators(&config.get(&options::RAFT_PEERS)?)?;
    let host = config.get(&options::TM_BIND)?;
    let slots = config.get(&options::TM_SLOTS)?;
    if slots == 0 {
        return Err(setting(
            options::TM_SLOTS.info.key,
            "0",
            "a worker has at least one slot",
        ));
    }
    let tmp_dir = config.get_optional(&options::TM_TMP_DIR)?.map_or_else(
        || std::env::temp_dir().join(format!("holdfast-{resource_id}")),
        PathBuf::from,
    );
    std::fs::create_dir_all(&tmp_dir).map_err(|error| RunError::TmpDir {
        path: tmp_dir.clone(),
        reason: error.to_string(),
    })?;
    let url = config.get(&options::CHECKPOINT_DIR)?;
    let store = SnapshotStore::open(&url, config).map_err(RunError::Storage)?;
    let incarnation = Incarnation(random.next_u128());
    let engine_config = EngineConfig {
        slots,
        bind: resolve(&host)?,
        data_port: config.get(&options::TM_DATA_PORT)?,
        advertise_host: host,
        tmp_dir,
        incarnation,
    };
    let runtime = tokio::runtime::Handle::current();
    let engine = Engine::start(engine_config, Arc::clone(&registry), clock.clone(), runtime).await?;
    tracing::info!(
        worker = resource_id,
        data = engine.0.data_addr(),
        slots,
        version = VERSION,
        "worker is up"
    );
    let agent_config = AgentConfig {
        coordinators,
        cluster_name: config.get(&options::CLUSTER_NAME)?,
        resource_id,
        incarnation,
        slots,
        settings: config.clone(),
    };
    let plans = Plans::new(Arc::new(SqlPlanner {
        registry: Arc::clone(&registry),
    }));
    Agent::new(agent_config, engine, store, registry, plans, clock, random)
        .run(shutdown)
        .await
}

/// RPC addresses out of `1@host:port,2@host:port`.
fn coordinators(text: &str) -> Result<Vec<String>, RunError> {
    let key = options::RAFT_PEERS.info.key;
    let mut found = Vec::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let addr = item.split_once('@').map(|(_, addr)| addr.trim());
        let valid = addr
            .and_then(|addr| addr.rsplit_once(':'))
            .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        match addr.filter(|_| valid) {
            Some(addr) => found.push(addr.to_owned()),
            None => {
                return Err(setting(
                    key,
                    text,
                    &format!("'{item}' does not read id@host:port"),
                ));
            }
        }
    }
    if found.is_empty() {
        return Err(setting(
            key,
            text,
            "no coordinator is listed; one reads 1@host:port",
        ));
    }
    Ok(found)
}

fn resolve(host: &str) -> Result<IpAddr, RunError> {
    let refuse = |reason: &str| setting(options::TM_BIND.info.key, host, reason);
    let mut addresses = (host, 0)
        .to_socket_addrs()
        .map_err(|error| refuse(&error.to_string()))?;
    let first = addresses
        .next()
        .ok_or_else(|| refuse("the name has no address"))?;
    Ok(first.ip())
}

fn setting(key: &'static str, value: &str, reason: &str) -> RunError {
    RunError::Setting {
        key,
        value: value.to_owned(),
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn coordinators_are_read_from_the_peer_list() {
        assert_eq!(coordinators("1@a:1, 2@b:2").unwrap(), vec!["a:1", "b:2"]);
        for bad in ["", "a:1", "1@a", "1@:5", "1@a:x"] {
            assert!(coordinators(bad).is_err(), "{bad}");
        }
    }
}
