//! Starting a coordinator's consensus: what is opened in which order, and the runtime that it all runs on.

use crate::api::{RaftConfig, StartError};
use crate::bootstrap::{self, Decision};
use crate::client_service::ClientService;
use crate::consensus::Consensus;
use crate::core::Core;
use crate::disk::{CrashPoints, create_dir};
use crate::fsm::StateMachine;
use crate::handle::RaftHandle;
use crate::identity::{DirLock, Identity};
use crate::net::server::Server;
use crate::net::{NetworkFactory, Peers};
use crate::snapshots::SnapshotDir;
use crate::store::{self, LogStore};
use crate::types::{DirId, Raft};
use crate::{digests, growth, hint, leadership, membership, removal, silence};
use holdfast_common::clock::{SharedClock, SharedRandom};
use holdfast_common::limits::RPC_MESSAGE_BYTES_MAX;
use holdfast_proto::client::client_server::ClientServer;
use holdfast_proto::raft::raft_server::RaftServer;
use holdfast_runtime::{Bound, BoxFuture, Listener};
use openraft::SnapshotPolicy;
use openraft::{Config, LogIdOptionExt, StepDownPolicy};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;

/// Consensus, its network and its timers: two threads that nothing else runs on.
const THREADS: usize = 2;

/// Entries kept behind a snapshot, so that a follower that was away shortly needs no snapshot.
const KEPT_BEHIND_SNAPSHOT: u64 = 4096;
/// The server pings connections that are silent for this long.
const KEEPALIVE: Duration = Duration::from_secs(5);

/// A coordinator's consensus, running.
#[derive(Debug)]
pub struct RaftNode {
    /// The handle on it.
    pub handle: RaftHandle,
}

/// Owns the runtime, and the directory's lock for as long as the runtime may write.
pub(crate) struct RuntimeGuard {
    /// `None` in a simulator, whose hosts bring a runtime of their own.
    running: Mutex<Option<(Runtime, DirLock)>>,
}

impl RuntimeGuard {
    /// Ends all tasks and frees the directory.
    pub(crate) async fn stop(&self, deadline: Duration) {
        let Some((runtime, lock)) = self.running.lock().take() else {
            return;
        };
        // Waiting for a runtime's threads blocks, which a task must not.
        let (sender, stopped) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            runtime.shutdown_timeout(deadline);
            drop(lock);
            let _ = sender.send(());
        });
        let _ = stopped.await;
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if let Some((runtime, _lock)) = self.running.lock().take() {
            runtime.shutdown_background();
        }
    }
}

impl RaftNode {
    /// Opens the data directory, starts consensus on a runtime of its own, and serves the listener: consensus, the
    /// key-value service, and `extra`, whose handlers must be light since they run on that runtime too.
    ///
    /// Returns once this coordinator takes part, or waits for the others; forming a cluster goes on behind it.
    ///
    /// # Errors
    /// See [`StartError`]. Nothing is left running.
    pub async fn start(
        config: RaftConfig,
        listener: impl Into<Bound>,
        extra: tonic::service::Routes,
        clock: SharedClock,
        random: SharedRandom,
    ) -> Result<Self, StartError> {
        Self::start_with(config, listener.into(), extra, clock, random, |log| log).await
    }

    /// As [`Self::start`], with something between consensus and its log: faults, in tests.
    pub(crate) async fn start_with(
        config: RaftConfig,
        listener: Bound,
        extra: tonic::service::Routes,
        clock: SharedClock,
        random: SharedRandom,
        between: impl FnOnce(LogStore) -> LogStore + Send + 'static,
    ) -> Result<Self, StartError> {
        check(&config)?;
        if holdfast_runtime::is_simulated() {
            return Self::start_here(config, listener, extra, clock, random, between).await;
        }
        let lock = DirLock::take(&config.data_dir)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("raft")
            .enable_all()
            .build()
            .map_err(|error| StartError::Setup(format!("no runtime: {error}")))?;
        let starting = runtime.handle().spawn(async move {
            let core = Arc::new(open(Arc::new(config), clock, random, between).await?);
            start(core, listener, extra).await
        });
        let guard = RuntimeGuard {
            running: Mutex::new(Some((runtime, lock))),
        };
        let started = starting
            .await
            .map_err(|error| StartError::Setup(error.to_string()))
            .and_then(|s| s);
        match started {
            Ok(core) => Ok(Self {
                handle: RaftHandle {
                    core,
                    runtime: Arc::new(guard),
                },
            }),
            Err(error) => {
                guard.stop(Duration::from_secs(5)).await;
                Err(error)
            }
        }
    }
}

impl RaftNode {
    /// On the caller's runtime, which a simulator's host ends together with everything that runs on it.
    async fn start_here(
        config: RaftConfig,
        listener: Bound,
        extra: tonic::service::Routes,
        clock: SharedClock,
        random: SharedRandom,
        between: impl FnOnce(LogStore) -> LogStore,
    ) -> Result<Self, StartError> {
        let core = Arc::new(open(Arc::new(config), clock, random, between).await?);
        let handle = RaftHandle {
            core: start(core, listener, extra).await?,
            runtime: Arc::new(RuntimeGuard {
                running: Mutex::new(None),
            }),
        };
        crate::testing::register(&handle);
        Ok(Self { handle })
    }
}

fn check(config: &RaftConfig) -> Result<(), StartError> {
    let refuse = |text: String| Err(StartError::Config(text));
    if !config.peers.contains_key(&config.id) {
        return refuse(format!(
            "coordinator {} is not in its own list of coordinators",
            config.id
        ));
    }
    if config.id.0 == 0 {
        return refuse("coordinators are numbered from 1".to_owned());
    }
    if config.cluster_name.is_empty() {
        return refuse("the cluster has no name".to_owned());
    }
    if config.snapshot_after_logs == 0 {
        return refuse("a snapshot needs at least one entry".to_owned());
    }
    Ok(())
}

async fn start(
    core: Arc<Core>,
    listener: Bound,
    extra: tonic::service::Routes,
) -> Result<Arc<Core>, StartError> {
    serve(&core, listener, extra)?;
    if !core.identity.joined()
        && !crate::core::is_formed(core.raft_metrics().membership_config.membership())
        && let Decision::Refuse(reason) = bootstrap::round(&core).await
    {
        return Err(StartError::Identity(reason));
    }
    // Tasks hold no strong reference: they end with the last handle, or with the runtime.
    let weak = Arc::downgrade(&core);
    tokio::spawn(leadership::run(weak.clone()));
    tokio::spawn(leadership::name_cluster(weak.clone()));
    tokio::spawn(bootstrap::run(weak.clone()));
    tokio::spawn(membership::reconcile(weak.clone()));
    tokio::spawn(digests::run(weak.clone()));
    tokio::spawn(removal::run(weak.clone()));
    tokio::spawn(silence::run(weak.clone()));
    tokio::spawn(growth::run(weak.clone()));
    tokio::spawn(hint::run(weak));
    Ok(core)
}

async fn open(
    config: Arc<RaftConfig>,
    clock: SharedClock,
    random: SharedRandom,
    between: impl FnOnce(LogStore) -> LogStore,
) -> Result<Core, StartError> {
    let storage = |path: &std::path::Path, reason: String| StartError::Storage {
        path: path.to_owned(),
        reason,
    };
    let identity = Arc::new(Identity::open(&config, DirId(random.next_u128().max(1)))?);
    let log_dir = config.data_dir.join(format!("log-{}", config.log_store));
    let snapshot_dir = config.data_dir.join("snapshots");
    for dir in [&log_dir, &snapshot_dir] {
        create_dir(dir).map_err(|error| storage(dir, error.to_string()))?;
    }
    let log = between(store::open(config.log_store, &log_dir)?);
    let read = |error: std::io::Error| storage(&log_dir, error.to_string());
    if identity.joined() && log.is_empty().map_err(read)? {
        return Err(StartError::Identity(format!(
            "coordinator {} has taken part in the cluster, but its log in {} is empty: the disk was wiped, or another \
             log store was configured. Remove it from the cluster and add it under a new id",
            config.id,
            log_dir.display()
        )));
    }
    let snapshots = SnapshotDir::open(&snapshot_dir, &config.cluster_name, Box::new(CrashPoints))
        .map_err(|error| storage(&snapshot_dir, format!("{error}. {REJOIN}")))?;
    let purged = log.bounds().map_err(read)?.purged.next_index();
    let covered = snapshots
        .current_meta()
        .and_then(|meta| meta.last_log_id)
        .next_index();
    if covered < purged {
        return Err(storage(
            &snapshot_dir,
            format!(
                "the log begins at entry {purged}, and there is no snapshot of what was before. {REJOIN}"
            ),
        ));
    }
    let machine = StateMachine::new(config.id.0, snapshots, config.snapshot_after_logs);
    let view = machine.view();
    let peers = Arc::new(Peers::new(config.peers.clone()));
    let network = NetworkFactory {
        config: Arc::clone(&config),
        identity: Arc::clone(&identity),
        peers: Arc::clone(&peers),
        asked_for: Arc::default(),
    };
    let raft = Raft::new(
        config.id.0,
        Arc::new(openraft_config(&config)?),
        network,
        log,
        machine,
    )
    .await
    .map_err(|fatal| storage(&config.data_dir, crate::core::describe(&fatal)))?;
    let raft = Consensus::new(raft);
    Ok(Core::new(config, raft, view, identity, peers, clock, random))
}

const REJOIN: &str =
    "Remove this coordinator from the cluster, clear its data directory and add it under a new id";

fn openraft_config(config: &RaftConfig) -> Result<Config, StartError> {
    let (heartbeat, min, max) = config.profile.millis();
    Config {
        cluster_name: config.cluster_name.clone(),
        heartbeat_interval: heartbeat,
        election_timeout_min: min,
        election_timeout_max: max,
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        // It would be silent for a patience once its quorum was for a lease: see `leadership::Quiet`.
        quorum_loss_probe_interval: None,
        removed_leader_step_down: StepDownPolicy::After(max),
        // They are asked for when they are due: see `growth`.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: KEPT_BEHIND_SNAPSHOT.min(config.snapshot_after_logs),
        purge_batch_size: 256,
        install_snapshot_timeout: 120_000,
        replication_lag_threshold: 1024,
        max_payload_entries: 256,
        max_append_entries: Some(1024),
        api_channel_size: Some(8192),
        notification_channel_size: Some(8192),
        state_machine_channel_size: Some(256),
        api_batch_capacity: 1024,
        backoff: "20ms 40ms 80ms ...500ms".to_owned(),
        ..Config::default()
    }
    .validate()
    .map_err(|error| StartError::Setup(error.to_string()))
}

fn serve(core: &Arc<Core>, listener: Bound, extra: tonic::service::Routes) -> Result<(), StartError> {
    let setup = |error: std::io::Error| StartError::Setup(format!("cannot serve the gRPC port: {error}"));
    let listener = listener.into_listener().map_err(setup)?;
    let raft = RaftServer::new(Server {
        core: Arc::clone(core),
    })
    .max_decoding_message_size(RPC_MESSAGE_BYTES_MAX)
    .max_encoding_message_size(RPC_MESSAGE_BYTES_MAX);
    let client = ClientServer::new(ClientService {
        core: Arc::clone(core),
    })
    .max_decoding_message_size(RPC_MESSAGE_BYTES_MAX)
    .max_encoding_message_size(RPC_MESSAGE_BYTES_MAX);
    let router = tonic::transport::Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .add_routes(extra.add_service(raft).add_service(client));
    let serving: BoxFuture<'static, Result<(), tonic::transport::Error>> = match listener {
        Listener::Tcp(listener) => {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Box::pin(router.serve_with_incoming(incoming))
        }
        Listener::Simulated(listener) => {
            Box::pin(router.serve_with_incoming(holdfast_runtime::incoming(listener)))
        }
    };
    let core = Arc::downgrade(core);
    tokio::spawn(async move {
        if let Err(error) = serving.await
            && let Some(core) = core.upgrade()
        {
            core.fail(format!("the gRPC server has stopped: {error}"));
        }
    });
    Ok(())
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
