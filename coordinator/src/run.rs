//! The coordinator process: reads its settings, opens consensus, serves workers and people, leads when it may, and
//! stops in order.

use crate::api::{ApiDeps, Members, serve};
use crate::control::{Hub, VERSION};
use crate::features::{Own, keep_raising};
use crate::leader::lifecycle::{LeaderDeps, lead};
use crate::leader::ports::TcpDialer;
use crate::live::LiveView;
use crate::planner::SqlPlanner;
use holdfast_common::clock::{SharedClock, SharedRandom};
use holdfast_common::config::{ConfigError, Configuration, options};
use holdfast_common::{Incarnation, NodeId};
use holdfast_dataflow::connector::ConnectorRegistry;
use holdfast_raft::{MemberAddr, RaftConfig, RaftHandle, RaftNode, StartError};
use holdfast_runtime::Bound;
use holdfast_storage::{SnapshotStore, StorageError};
use std::collections::BTreeMap;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How often a coordinator looks whether its consensus has stopped.
const FATAL_LOOK: Duration = Duration::from_millis(100);
/// What consensus says when it has stopped because this coordinator was removed.
const REMOVED: &str = "was removed from the cluster";
/// How long leadership may take to be handed over when the process is stopped in order.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// Why a coordinator does not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A setting is missing or wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting is wrong in a way that its type does not show.
    #[error("{0}")]
    Setting(String),
    /// A port is taken or an address is not this machine's.
    #[error("cannot listen at {address} ({key}): {reason}")]
    Listen {
        /// Where.
        address: String,
        /// By which key.
        key: &'static str,
        /// The system's answer, and what to do.
        reason: String,
    },
    /// Consensus does not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// Snapshot storage cannot be opened.
    #[error("cannot open snapshot storage (execution.checkpointing.dir): {0}")]
    Storage(StorageError),
    /// Consensus has stopped; the process must end so that nothing is acknowledged that is not durable.
    #[error("consensus has stopped: {0}")]
    Fatal(String),
    /// This coordinator is no member any more; started again, it would not be one either.
    #[error("{0}")]
    Removed(String),
    /// REST has stopped.
    #[error("the REST interface has stopped: {0}")]
    Rest(String),
}

/// Runs a coordinator until `shutdown` completes or consensus fails.
///
/// # Errors
/// Why it does not start, or had to stop.
pub async fn run(
    config: &Configuration,
    registry: Arc<dyn ConnectorRegistry>,
    clock: SharedClock,
    random: SharedRandom,
    shutdown: impl Future<Output = ()>,
) -> Result<(), RunError> {
    let settings = Settings::read(config, &random)?;
    let snapshots = SnapshotStore::open(&settings.checkpoint_dir, config).map_err(RunError::Storage)?;
    let rest = bind_rest(&settings.rest_bind)?;
    let rpc = bind_rpc(&settings.rpc_bind).await?;
    let hub = Hub::new(&settings.raft.cluster_name);
    let routes = tonic::service::Routes::new(hub.service());
    let (node, incarnation) = (settings.raft.id, settings.raft.incarnation);
    let cluster_name = settings.raft.cluster_name.clone();
    let raft = RaftNode::start(settings.raft, rpc, routes, clock.clone(), random.clone()).await?;
    let handle = raft.handle.clone();
    hub.set_log(Arc::new(handle.clone()));
    tracing::info!(%node, rpc = settings.rpc_bind, rest = settings.rest_bind, version = VERSION, "coordinator is up");

    let (live, live_reader) = watch::channel(Arc::new(LiveView::default()));
    let stop = CancellationToken::new();
    let deps = LeaderDeps {
        log: Arc::new(handle.clone()),
        hub,
        snapshots: Arc::new(snapshots),
        planner: Arc::new(SqlPlanner {
            registry: Arc::clone(&registry),
        }),
        dialer: Arc::new(TcpDialer),
        clock: clock.clone(),
        random: random.clone(),
        node,
        incarnation,
        cluster_name,
        heartbeat_interval: settings.heartbeat_interval,
        heartbeat_timeout: settings.heartbeat_timeout,
        live,
    };
    let own = Own { node, incarnation };
    let members = Arc::new(Members::new(handle.clone(), config));
    // Members are asked over REST.
    let raise = || keep_raising(Arc::new(handle.clone()), own, clock.clone(), members);
    let raising = rest.is_some().then(|| tokio::spawn(raise()));
    let mut leading = tokio::spawn(lead(deps, stop.clone()));
    let api_deps = ApiDeps {
        handle: handle.clone(),
        live: live_reader,
        registry,
        config: config.clone(),
        clock,
        random,
        version: VERSION,
    };
    let mut api = Box::pin(async move {
        match rest {
            Some(rest) => serve(rest, api_deps).await,
            None => std::future::pending().await,
        }
    });
    let outcome = until_the_end(shutdown, fatal(&handle), &mut leading, &mut api).await;
    if let Some(raising) = raising {
        raising.abort();
    }
    // Whoever asks during the handover is answered by the next leader, through this coordinator.
    let stopping = stop_in_order(&handle, stop, leading);
    tokio::select! {
        () = stopping => {}
        () = serve_on(&outcome, &mut api) => {}
    }
    drop(raft);
    outcome
}

/// Waits for whatever ends the process first.
async fn until_the_end(
    shutdown: impl Future<Output = ()>,
    fatal: impl Future<Output = String>,
    leading: &mut JoinHandle<()>,
    api: &mut (impl Future<Output = std::io::Result<()>> + Unpin),
) -> Result<(), RunError> {
    tokio::select! {
        biased;
        () = shutdown => Ok(()),
        reason = fatal => Err(stopped(reason)),
        ended = leading => Err(RunError::Fatal(leading_ended(ended))),
        result = api => Err(RunError::Rest(match result {
            Ok(()) => "its listener was closed".to_owned(),
            Err(error) => error.to_string(),
        })),
    }
}

fn stopped(reason: String) -> RunError {
    if reason.contains(REMOVED) {
        RunError::Removed(reason)
    } else {
        RunError::Fatal(reason)
    }
}

/// A coordinator whose leader's services are gone could still be elected, and would lead without doing anything: the
/// process ends, so that another one leads.
fn leading_ended(ended: Result<(), tokio::task::JoinError>) -> String {
    let reason = match ended {
        Ok(()) => "the leader's services ended by themselves".to_owned(),
        Err(error) => format!("the leader's services broke: {error}"),
    };
    tracing::error!(reason, "this process ends, so that another coordinator leads");
    reason
}

/// Serves REST on while the process stops; never completes.
async fn serve_on(
    outcome: &Result<(), RunError>,
    api: &mut (impl Future<Output = std::io::Result<()>> + Unpin),
) {
    if !matches!(outcome, Err(RunError::Rest(_))) {
        let _ = api.await;
    }
    std::future::pending().await
}

/// The next leader is chosen before this one lets go of its workers.
async fn stop_in_order(handle: &RaftHandle, stop: CancellationToken, leading: JoinHandle<()>) {
    tracing::info!("coordinator is stopping");
    let stopping = async {
        handle.shutdown().await;
        stop.cancel();
        // A task that has ended was asked for its result already.
        if !leading.is_finished() {
            let _ = leading.await;
        }
    };
    if tokio::time::timeout(SHUTDOWN_DEADLINE, stopping).await.is_err() {
        tracing::warn!("the coordinator did not stop in time and is ended all the same");
    }
}

async fn fatal(handle: &RaftHandle) -> String {
    loop {
        if let Some(reason) = handle.metrics().fatal {
            tracing::error!(reason, "consensus has stopped, this process ends");
            return reason;
        }
        tokio::time::sleep(FATAL_LOOK).await;
    }
}

struct Settings {
    raft: RaftConfig,
    rpc_bind: String,
    rest_bind: String,
    checkpoint_dir: String,
    heartbeat_interval: Duration,
    heartbeat_timeout: Duration,
}

impl Settings {
    fn read(config: &Configuration, random: &SharedRandom) -> Result<Self, RunError> {
        let kind = config.get(&options::HA_TYPE)?;
        if kind != "raft" {
            return Err(setting(
                options::HA_TYPE.info.key,
                &kind,
                "the only type is raft: coordinators agree among themselves, nothing else has to run",
            ));
        }
        let id = NodeId(config.get(&options::RAFT_ID)?);
        let rest_bind = join(
            &config.get(&options::REST_ADDRESS)?,
            config.get(&options::REST_PORT)?,
        );
        let peers = parse_peers(&config.get(&options::RAFT_PEERS)?, id, &rest_bind)?;
        let own = peers.get(&id).map(|p| p.rpc.clone()).ok_or_else(|| {
            setting(
                options::RAFT_PEERS.info.key,
                &config.get(&options::RAFT_PEERS).unwrap_or_default(),
                &format!(
                    "it must list this coordinator too, number {id} ({})",
                    options::RAFT_ID.info.key
                ),
            )
        })?;
        let (address_set, port_set) = (
            config.is_set(options::JOBMANAGER_BIND.info.key),
            config.is_set(options::JOBMANAGER_PORT.info.key),
        );
        let rpc_bind = if address_set || port_set {
            join(
                &config.get(&options::JOBMANAGER_BIND)?,
                config.get(&options::JOBMANAGER_PORT)?,
            )
        } else {
            own
        };
        let heartbeat_interval = config.get(&options::HEARTBEAT_INTERVAL)?;
        let heartbeat_timeout = config.get(&options::HEARTBEAT_TIMEOUT)?;
        if heartbeat_interval.is_zero() || heartbeat_timeout < heartbeat_interval * 2 {
            return Err(setting(
                options::HEARTBEAT_TIMEOUT.info.key,
                &format!("{} ms", heartbeat_timeout.as_millis()),
                "it must be at least twice heartbeat.interval, which must not be zero",
            ));
        }
        let data_dir = config.get_optional(&options::STORAGE_DIR)?.map_or_else(
            || PathBuf::from(format!("./holdfast-data/coordinator-{id}")),
            PathBuf::from,
        );
        Ok(Self {
            raft: RaftConfig {
                id,
                cluster_name: config.get(&options::CLUSTER_NAME)?,
                peers,
                data_dir,
                profile: named(config, &options::RAFT_PROFILE)?,
                log_store: named(config, &options::RAFT_LOG_STORE)?,
                snapshot_after_logs: config.get(&options::RAFT_SNAPSHOT_LOGS)?,
                incarnation: Incarnation(random.next_u128()),
            },
            rpc_bind,
            rest_bind,
            checkpoint_dir: config.get(&options::CHECKPOINT_DIR)?,
            heartbeat_interval,
            heartbeat_timeout,
        })
    }
}

fn named<T: std::str::FromStr<Err: std::fmt::Display>>(
    config: &Configuration,
    option: &holdfast_common::config::ConfigOption<String>,
) -> Result<T, RunError> {
    let text = config.get(option)?;
    text.parse()
        .map_err(|error: T::Err| setting(option.info.key, &text, &error.to_string()))
}

fn setting(key: &str, value: &str, reason: &str) -> RunError {
    RunError::Setting(format!(
        "configuration key '{key}': '{value}' is refused: {reason}"
    ))
}

/// Reads `1@host:port,2@host:port`.
fn parse_peers(text: &str, own: NodeId, own_rest: &str) -> Result<BTreeMap<NodeId, MemberAddr>, RunError> {
    let key = options::RAFT_PEERS.info.key;
    let mut peers = BTreeMap::new();
    for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
        let parsed = item.split_once('@').and_then(|(id, addr)| {
            let (host, port) = addr.rsplit_once(':')?;
            let _: u16 = port.parse().ok()?;
            (!host.is_empty()).then_some(())?;
            Some((NodeId(id.trim().parse().ok()?), addr.trim().to_owned()))
        });
        let Some((id, rpc)) = parsed else {
            return Err(setting(
                key,
                text,
                &format!("'{item}' does not read id@host:port"),
            ));
        };
        let rest = if id == own {
            own_rest.to_owned()
        } else {
            String::new()
        };
        if peers.values().any(|p: &MemberAddr| p.rpc == rpc) {
            return Err(setting(key, text, &format!("address {rpc} stands there twice")));
        }
        if peers.insert(id, MemberAddr { rpc, rest }).is_some() {
            return Err(setting(
                key,
                text,
                &format!("coordinator {id} stands there twice"),
            ));
        }
    }
    if peers.is_empty() {
        return Err(setting(
            key,
            text,
            "no coordinator is listed; one reads 1@host:port",
        ));
    }
    Ok(peers)
}

fn join(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

/// `None` in a simulator, which asks for jobs without HTTP.
fn bind_rest(address: &str) -> Result<Option<tokio::net::TcpListener>, RunError> {
    if holdfast_runtime::is_simulated() {
        return Ok(None);
    }
    let key = "rest.port";
    let listener = bind(address, key)?;
    let listening = tokio::net::TcpListener::from_std(listener);
    listening.map(Some).map_err(|error| RunError::Listen {
        address: address.to_owned(),
        key,
        reason: error.to_string(),
    })
}

async fn bind_rpc(address: &str) -> Result<Bound, RunError> {
    let key = "jobmanager.rpc.port";
    match holdfast_runtime::bind_simulated(address).await {
        Some(bound) => bound.map_err(|error| RunError::Listen {
            address: address.to_owned(),
            key,
            reason: error.to_string(),
        }),
        None => bind(address, key).map(Bound::from),
    }
}

fn bind(address: &str, key: &'static str) -> Result<TcpListener, RunError> {
    let refuse = |reason: String| RunError::Listen {
        address: address.to_owned(),
        key,
        reason,
    };
    let mut resolved = address.to_socket_addrs().map_err(|e| refuse(e.to_string()))?;
    let Some(socket) = resolved.next() else {
        return Err(refuse("the name has no address".to_owned()));
    };
    let listener = TcpListener::bind(socket).map_err(|error| {
        refuse(match error.kind() {
            std::io::ErrorKind::AddrInUse => {
                "the port is in use by another process; stop that one or configure another port".to_owned()
            }
            _ => error.to_string(),
        })
    })?;
    listener
        .set_nonblocking(true)
        .map_err(|e| refuse(e.to_string()))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn peers_are_read_and_bad_lists_refused_with_the_item() {
        let peers = parse_peers("1@a:7101, 2@b:7102", NodeId(1), "a:8081").unwrap();
        assert_eq!(peers[&NodeId(1)].rest, "a:8081");
        assert_eq!(peers[&NodeId(2)].rpc, "b:7102");
        for (bad, hint) in [
            ("1@a:7101,x", "'x'"),
            ("1@a:99999", "id@host:port"),
            ("1@a:1,1@b:2", "coordinator 1 stands there twice"),
            ("1@a:1,2@a:1", "a:1 stands there twice"),
            ("", "no coordinator"),
        ] {
            let error = parse_peers(bad, NodeId(1), "").unwrap_err().to_string();
            assert!(error.contains(hint), "{bad}: {error}");
        }
    }

    async fn ends_with(mut leading: JoinHandle<()>) -> String {
        let mut api = Box::pin(std::future::pending());
        let forever = std::future::pending::<()>();
        let never = std::future::pending::<String>();
        let outcome = until_the_end(forever, never, &mut leading, &mut api).await;
        match outcome.unwrap_err() {
            RunError::Fatal(reason) => reason,
            other => panic!("{other}"),
        }
    }

    #[tokio::test]
    async fn the_process_ends_when_nobody_leads_any_more() {
        let reason = ends_with(tokio::spawn(async { panic!("boom") })).await;
        assert!(reason.contains("broke") && reason.contains("panic"), "{reason}");
        let reason = ends_with(tokio::spawn(async {})).await;
        assert!(reason.contains("by themselves"), "{reason}");
    }

    #[test]
    fn a_port_in_use_is_named_with_its_key() {
        let first = bind("127.0.0.1:0", "rest.port").unwrap();
        let address = first.local_addr().unwrap().to_string();
        let error = bind(&address, "rest.port").unwrap_err().to_string();
        assert!(error.contains("rest.port") && error.contains("in use"), "{error}");
    }
}
