//! Whole engines with their threads and sockets, on loopback.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{Input, ManualClock, World, graph};
use holdfast_common::config::Configuration;
use holdfast_common::{Incarnation, limits};
use holdfast_proto::snapshot::SubtaskState;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::mpsc;

const JOB: JobId = JobId(5);

struct Cluster {
    world: Arc<World>,
    engines: Vec<Engine>,
    events: mpsc::UnboundedReceiver<(usize, EngineEvent)>,
}

/// `count` engines of one slot each.
async fn cluster(world: Arc<World>, count: u32) -> Cluster {
    let (sender, events) = mpsc::unbounded_channel();
    let mut engines = Vec::new();
    for i in 0..count {
        let config = EngineConfig {
            slots: 1,
            bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
            data_port: 0,
            advertise_host: "127.0.0.1".to_owned(),
            tmp_dir: std::env::temp_dir(),
            incarnation: Incarnation(u128::from(i) + 1),
        };
        let clock = Arc::new(ManualClock::default());
        let (engine, mut receiver) = Engine::start(config, world.registry(), clock, Handle::current())
            .await
            .unwrap();
        engines.push(engine);
        let sender = sender.clone();
        tokio::spawn(async move {
            while let Some(event) = receiver.recv().await {
                let _ = sender.send((i as usize, event));
            }
        });
    }
    Cluster {
        world,
        engines,
        events,
    }
}

impl Cluster {
    async fn deploy(&self, attempt: u64, restore: Option<RestoreState>) -> Result<(), EngineError> {
        let slots: Vec<SlotPlace> = (0..)
            .zip(&self.engines)
            .map(|(i, e)| SlotPlace {
                incarnation: Incarnation(i + 1),
                data_addr: e.data_addr(),
            })
            .collect();
        let parallelism = slots.len() as u32;
        let settings = Configuration::from_pairs([
            ("pipeline.auto-watermark-interval", "0 ms"),
            ("execution.buffer-timeout.interval", "0 ms"),
        ]);
        let deployments = self.engines.iter().zip(0..).map(|(engine, slot)| {
            engine.deploy(Deployment {
                job: JOB,
                attempt: AttemptId(attempt),
                graph: Arc::new(graph(parallelism, 20, 60, self.world.input.disorder_ms)),
                settings: settings.clone().unwrap(),
                slots: slots.clone(),
                my_slots: vec![slot],
                restore: restore.clone(),
            })
        });
        futures::future::try_join_all(deployments).await.map(|_| ())
    }

    fn start(&self, attempt: u64) {
        self.engines
            .iter()
            .for_each(|e| e.start_attempt(JOB, AttemptId(attempt)));
    }

    async fn next(&mut self) -> (usize, EngineEvent) {
        tokio::time::timeout(Duration::from_secs(30), self.events.recv())
            .await
            .unwrap()
            .unwrap()
    }

    /// Takes a checkpoint and commits it. Subtasks that finish meanwhile are counted.
    async fn checkpoint(&mut self, attempt: u64, id: u64, finished: &mut usize) -> RestoreState {
        let (attempt, checkpoint) = (AttemptId(attempt), CheckpointId(id));
        self.engines
            .iter()
            .for_each(|e| e.trigger(JOB, attempt, checkpoint, false));
        let tasks = self.engines.len() * 2;
        let mut states: Vec<(VertexId, u32, SubtaskState)> = Vec::new();
        let mut committables = Vec::new();
        while states.len() < tasks {
            match self.next().await {
                (
                    engine,
                    EngineEvent::Snapshot {
                        vertex,
                        subtask,
                        state,
                        prepares,
                        pending,
                        checkpoint: c,
                        ..
                    },
                ) => {
                    assert_eq!(c, checkpoint);
                    assert!(pending.is_empty());
                    for (uid, job) in prepares {
                        let prepared = job().unwrap();
                        let engine = &self.engines[engine];
                        engine.prepared(JOB, attempt, checkpoint, vertex, subtask, &uid, prepared.clone());
                        committables.extend(prepared);
                    }
                    states.push((vertex, subtask, state.write()));
                }
                (_, EngineEvent::TaskStatus { status, error, .. }) => {
                    assert_eq!(error, None);
                    *finished += usize::from(status == TaskStatus::Finished);
                }
                (_, other) => panic!("{other:?}"),
            }
        }
        self.world.commit(&committables);
        self.engines
            .iter()
            .for_each(|e| e.settled(JOB, attempt, checkpoint));
        let mut vertices: BTreeMap<VertexId, VertexRestore> = BTreeMap::new();
        for (vertex, subtask, state) in states {
            let entry = vertices.entry(vertex).or_default();
            entry.old_parallelism = self.engines.len() as u32;
            entry.parts.push((subtask, state));
        }
        RestoreState { checkpoint, vertices }
    }
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

const INPUT: Input = Input {
    splits: 4,
    rows: 3_000,
    keys: 9,
    disorder_ms: 20,
};

#[test]
fn two_workers_run_a_job_to_its_end() {
    run(async {
        let mut cluster = cluster(World::new(INPUT, 50), 2).await;
        cluster.deploy(1, None).await.unwrap();
        assert!(cluster.deploy(1, None).await.is_err(), "deployed twice");
        cluster.start(1);
        let (mut id, mut finished) = (1, 0);
        while finished < 4 {
            cluster.checkpoint(1, id, &mut finished).await;
            id += 1;
        }
        cluster.checkpoint(1, id, &mut finished).await;
        assert_eq!(cluster.world.result(), INPUT.expected(20, 60));
        let report = cluster.engines[0].report();
        assert_eq!(
            (report.len(), report[0].tasks.len(), report[0].checkpoint_seen),
            (1, 2, id)
        );
        for engine in &cluster.engines {
            engine.cancel(JOB, AttemptId(1)).await;
            assert!(engine.report().is_empty());
        }
    });
}

#[test]
fn a_panic_fails_the_attempt_and_a_restore_goes_on() {
    run(async {
        let mut cluster = cluster(World::new(INPUT, 50), 2).await;
        cluster.deploy(1, None).await.unwrap();
        let restore = cluster.checkpoint(1, 1, &mut 0).await;
        cluster.world.panic_at.store(1_500, Ordering::Relaxed);
        cluster.start(1);
        let error = loop {
            if let (
                _,
                EngineEvent::TaskStatus {
                    status: TaskStatus::Failed,
                    error,
                    ..
                },
            ) = cluster.next().await
            {
                break error.unwrap();
            }
        };
        assert!(error.contains("panic: a bug in the reader"), "{error}");
        for engine in &cluster.engines {
            engine.cancel(JOB, AttemptId(1)).await;
        }
        // What the first attempt still had to say.
        while tokio::time::timeout(Duration::from_millis(20), cluster.events.recv())
            .await
            .is_ok()
        {}
        cluster.deploy(2, Some(restore)).await.unwrap();
        cluster.start(2);
        let mut finished = 0;
        let mut id = 2;
        while finished < 4 {
            cluster.checkpoint(2, id, &mut finished).await;
            id += 1;
        }
        cluster.checkpoint(2, id, &mut finished).await;
        assert_eq!(cluster.world.result(), INPUT.expected(20, 60));
    });
}

#[test]
fn the_loss_of_a_worker_fails_the_others_and_names_it() {
    run(async {
        let mut cluster = cluster(
            World::new(
                Input {
                    rows: u64::MAX / 8,
                    ..INPUT
                },
                50,
            ),
            2,
        )
        .await;
        cluster.deploy(1, None).await.unwrap();
        cluster.start(1);
        let lost = cluster.engines.remove(1);
        lost.cancel(JOB, AttemptId(1)).await;
        let error = loop {
            if let (
                0,
                EngineEvent::TaskStatus {
                    status: TaskStatus::Failed,
                    error,
                    ..
                },
            ) = cluster.next().await
            {
                break error.unwrap();
            }
        };
        assert!(error.contains(&lost.data_addr()), "{error}");
    });
}

#[test]
fn a_deployment_ends_when_it_is_cancelled() {
    run(async {
        let cluster = cluster(World::new(INPUT, 50), 1).await;
        let engine = cluster.engines[0].clone();
        // The other worker does not exist: the deployment would wait for it until its deadline.
        let slots = vec![
            SlotPlace {
                incarnation: Incarnation(1),
                data_addr: engine.data_addr(),
            },
            SlotPlace {
                incarnation: Incarnation(2),
                data_addr: "127.0.0.1:1".to_owned(),
            },
        ];
        let deployment = Deployment {
            job: JOB,
            attempt: AttemptId(1),
            graph: Arc::new(graph(2, 20, 60, 0)),
            settings: Configuration::new(),
            slots,
            my_slots: vec![0],
            restore: None,
        };
        let deploying = tokio::spawn({
            let engine = engine.clone();
            async move { engine.deploy(deployment).await }
        });
        while engine.report().is_empty() {
            tokio::task::yield_now().await;
        }
        engine.cancel(JOB, AttemptId(1)).await;
        let result = tokio::time::timeout(limits::RPC_DEADLINE, deploying)
            .await
            .unwrap()
            .unwrap();
        assert!(matches!(result, Err(EngineError::Invalid(_))), "{result:?}");
        assert!(engine.report().is_empty());
    });
}
