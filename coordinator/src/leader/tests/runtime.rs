//! The services end to end in one process: log in memory, storage in memory, workers over gRPC on the loopback.

use super::fakes::{FixedPlan, LAST_COUNT, MemLog, MemStore, RemoteWorker};
use crate::control::{Hub, VERSION};
use crate::leader::lifecycle::{LeaderDeps, lead};
use crate::leader::log::ReplicatedLog;
use crate::leader::ports::TcpDialer;
use crate::live::{LiveReceiver, LiveView, tasks_from_log};
use holdfast_common::clock::{Random, SystemClock};
use holdfast_common::{Incarnation, JobId, NodeId};
use holdfast_machine::command::{Command, Proposal};
use holdfast_machine::state::{Job, JobStatus};
use holdfast_proto::control::Register;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::{CancellationToken, DropGuard};

const JOB: JobId = JobId(0xabc);

struct Counter(AtomicU64);

impl Random for Counter {
    fn next_u64(&self) -> u64 {
        self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed)
    }
}

struct Cluster {
    log: Arc<MemLog>,
    store: Arc<MemStore>,
    rpc: String,
    live: LiveReceiver,
    _stop: DropGuard,
}

impl Cluster {
    async fn start() -> Self {
        let (log, store) = (MemLog::new(), Arc::<MemStore>::default());
        let hub = Hub::new("test");
        hub.set_log(log.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rpc = listener.local_addr().unwrap().to_string();
        let server = tonic::transport::Server::builder().add_service(hub.service());
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let (live, reader) = watch::channel(Arc::new(LiveView::default()));
        let stop = CancellationToken::new();
        let deps = LeaderDeps {
            log: log.clone(),
            hub,
            snapshots: store.clone(),
            planner: Arc::new(FixedPlan),
            dialer: Arc::new(TcpDialer),
            clock: Arc::new(SystemClock),
            random: Arc::new(Counter(AtomicU64::new(7))),
            node: NodeId(1),
            incarnation: Incarnation(1),
            cluster_name: "test".into(),
            heartbeat_interval: Duration::from_millis(100),
            heartbeat_timeout: Duration::from_millis(2000),
            live,
        };
        tokio::spawn(lead(deps, stop.clone()));
        log.lead(true);
        Self {
            log,
            store,
            rpc,
            live: reader,
            _stop: stop.drop_guard(),
        }
    }

    fn register(&self, n: u128) -> Register {
        Register {
            cluster_name: "test".into(),
            resource_id: format!("w{n}"),
            incarnation: Incarnation(n).to_bytes().to_vec().into(),
            slots: 2,
            version: VERSION.into(),
            ..Register::default()
        }
    }

    async fn worker(&self, n: u128) -> RemoteWorker {
        RemoteWorker::start(self.rpc.clone(), self.register(n), self.store.clone()).await
    }

    async fn propose(&self, command: Command) {
        let proposal = Proposal {
            proposed_ms: 1,
            session: None,
            command,
        };
        self.log.propose(proposal).await.unwrap();
    }

    async fn submit(&self, parallelism: u32) {
        let settings = [
            ("execution.checkpointing.interval", "50 ms"),
            ("execution.checkpointing.num-retained", "3"),
        ];
        self.propose(Command::SubmitJob {
            job: JOB,
            name: "job".into(),
            sql: "insert".into(),
            settings: settings.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            fingerprint: "f".into(),
            parallelism,
            max_parallelism: 128,
            idempotency_key: None,
        })
        .await;
    }

    fn job(&self) -> Option<Job> {
        self.log.state().jobs.get(&JOB).map(|job| Job::clone(job))
    }

    async fn until(&self, what: &str, done: impl Fn(&Job) -> bool) -> Job {
        let begun = Instant::now();
        loop {
            if let Some(job) = self.job().filter(&done) {
                return job;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(15),
                "not in time: {what}: {:#?}",
                self.job()
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn workers_attached(&self, n: usize) {
        let mut live = self.live.clone();
        let attached = live.wait_for(|view| view.workers.len() >= n);
        tokio::time::timeout(Duration::from_secs(10), attached)
            .await
            .unwrap()
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn submit_run_checkpoint_finish() {
    let cluster = Cluster::start().await;
    let workers = [cluster.worker(1).await, cluster.worker(2).await];
    cluster.workers_attached(2).await;
    cluster.submit(2).await;
    cluster.until("it runs", |j| j.status == JobStatus::Running).await;
    cluster
        .until("checkpoints complete", |j| j.checkpoint_stats.completed >= 6)
        .await;
    let mut live = cluster.live.clone();
    let seen = live.wait_for(|view| view.jobs.get(&JOB).is_some_and(|j| j.tasks.len() == 3));
    tokio::time::timeout(Duration::from_secs(5), seen)
        .await
        .unwrap()
        .unwrap();
    for worker in &workers {
        worker.ends.store(true, Ordering::SeqCst);
    }
    let job = cluster
        .until("it finishes", |j| j.status == JobStatus::Finished)
        .await;
    // Whoever sees the end sees the last counters, whoever leads then.
    let last = tasks_from_log(&job.last_reports);
    assert!(
        last.len() == 3 && last.values().all(|t| t.report.records_in == LAST_COUNT),
        "{last:?}"
    );
    assert_eq!((job.attempts, job.exceptions.len()), (1, 0));
    cluster
        .until("its checkpoints go", |j| j.checkpoints.is_empty())
        .await;
    assert!(
        cluster.store.objects.lock().unwrap().is_empty(),
        "no object is left"
    );
    assert!(
        workers
            .iter()
            .any(|w| !w.running.lock().unwrap().commits.is_empty())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_worker_costs_little() {
    let cluster = Cluster::start().await;
    let mut workers = [
        cluster.worker(1).await,
        cluster.worker(2).await,
        cluster.worker(3).await,
    ];
    cluster.workers_attached(3).await;
    cluster.submit(2).await;
    let job = cluster
        .until("a checkpoint", |j| j.checkpoint_stats.completed > 0)
        .await;
    let victim = &job.attempt.unwrap().assignment[1].resource_id;
    let i: usize = victim[1..].parse().unwrap();
    let begun = Instant::now();
    workers[i - 1].kill();
    let job = cluster
        .until("it runs again", |j| {
            j.attempts == 2 && j.status == JobStatus::Running
        })
        .await;
    // Loose, for a loaded machine; the point is that no timeout of two seconds has passed.
    assert!(
        begun.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        begun.elapsed()
    );
    assert!(job.attempt.unwrap().restored.is_some());
    assert!(!cluster.log.state().workers.contains_key(victim));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_quorum_and_leadership_restarts_nothing() {
    let cluster = Cluster::start().await;
    let _workers = [cluster.worker(1).await, cluster.worker(2).await];
    cluster.workers_attached(2).await;
    cluster.submit(2).await;
    let mut done = cluster
        .until("a checkpoint", |j| j.checkpoint_stats.completed > 0)
        .await;
    for _ in 0..3 {
        let epoch = cluster.log.state().leader.as_ref().unwrap().epoch;
        cluster.log.lead(false);
        tokio::time::timeout(
            Duration::from_secs(5),
            cluster.live.clone().wait_for(|view| view.epoch.is_none()),
        )
        .await
        .unwrap()
        .unwrap();
        cluster.log.lead(true);
        let before = done.checkpoint_stats.completed;
        done = cluster
            .until("checkpoints go on", |j| j.checkpoint_stats.completed > before + 1)
            .await;
        assert!(
            cluster.log.state().leader.as_ref().unwrap().epoch > epoch,
            "claimed anew"
        );
    }
    assert_eq!((done.attempts, done.exceptions.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_checkpoint_falls_back_and_storage_may_fail() {
    let cluster = Cluster::start().await;
    let mut workers = [cluster.worker(1).await, cluster.worker(2).await];
    cluster.workers_attached(2).await;
    cluster.submit(1).await;
    cluster
        .until("three are retained", |j| j.checkpoints.len() >= 3)
        .await;
    cluster.store.down.store(true, Ordering::SeqCst);
    let job = cluster
        .until("some fail", |j| j.checkpoint_stats.failed_in_a_row >= 3)
        .await;
    assert_eq!((job.status, job.attempts), (JobStatus::Running, 1));
    // One that was in flight when storage went may be awaiting its commit; with it done, nothing changes any more.
    let job = cluster
        .until("the newest is committed", |j| {
            j.latest_restorable().is_some_and(|c| c.committed)
        })
        .await;
    let ids: Vec<u64> = job
        .checkpoints
        .values()
        .filter(|c| !c.retired)
        .map(|c| c.id.0)
        .collect();
    let [.., second, newest] = ids[..] else {
        panic!("too few checkpoints: {ids:?}");
    };
    for worker in &workers {
        worker.running.lock().unwrap().damaged_checkpoints.insert(newest);
    }
    let victim = &job.attempt.unwrap().assignment[0].resource_id;
    let i: usize = victim[1..].parse().unwrap();
    workers[i - 1].kill();
    let job = cluster
        .until("it runs again", |j| {
            j.attempts == 3 && j.status == JobStatus::Running
        })
        .await;
    assert_eq!(job.attempt.unwrap().restored.map(|c| c.0), Some(second));
    assert!(job.exceptions.iter().any(|e| e.message.contains("passed over")));
    cluster.store.down.store(false, Ordering::SeqCst);
    let done = job.checkpoint_stats.completed;
    cluster
        .until("they resume", |j| j.checkpoint_stats.completed > done)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_refused_with_the_reason() {
    let cluster = Cluster::start().await;
    for (register, hint) in [
        (
            Register {
                cluster_name: "other".into(),
                ..cluster.register(1)
            },
            "'other'",
        ),
        (
            Register {
                version: "0.0.0".into(),
                ..cluster.register(2)
            },
            "version 0.0.0",
        ),
        (
            Register {
                cluster_id: vec![9; 16].into(),
                ..cluster.register(3)
            },
            "another identity",
        ),
    ] {
        let worker = RemoteWorker::start(cluster.rpc.clone(), register, cluster.store.clone()).await;
        let begun = Instant::now();
        let reason = loop {
            if let Some(reason) = worker.running.lock().unwrap().refused.clone() {
                break reason;
            }
            assert!(begun.elapsed() < Duration::from_secs(5));
            tokio::time::sleep(Duration::from_millis(2)).await;
        };
        assert!(reason.contains(hint), "{reason}");
    }
}
