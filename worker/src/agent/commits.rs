//! Commits a checkpoint's sinks on behalf of the whole job, and has them undo what a restore leaves behind. Idempotent;
//! runs on threads for blocking work.

use holdfast_common::inject::{self, points};
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_dataflow::connector::{Committable, ConnectorError, ConnectorRegistry, Sink};
use holdfast_dataflow::graph::JobGraph;
use holdfast_proto::snapshot::SinkCommittables;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is to be committed.
#[derive(Debug, Clone)]
pub struct CommitWork {
    /// The job.
    pub job: JobId,
    /// On whose behalf.
    pub attempt: AttemptId,
    /// The checkpoint; `None` when the job starts from nothing.
    pub checkpoint: Option<CheckpointId>,
    /// What the manifest lists.
    pub sinks: Vec<SinkCommittables>,
    /// Undo what later checkpoints and abandoned attempts left behind.
    pub recover: bool,
}

/// Why a commit failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitError {
    /// Which sink, what, why.
    pub reason: String,
    /// Trying again may help.
    pub retryable: bool,
    /// A sync failed: this process must end, and another one try again.
    pub sync_failed: bool,
}

/// Commits, then recovers if asked.
///
/// # Errors
/// The first sink's failure. Those before it have committed; repeating is harmless.
pub async fn commit(
    graph: Arc<JobGraph>,
    registry: Arc<dyn ConnectorRegistry>,
    work: CommitWork,
) -> Result<(), CommitError> {
    let running = holdfast_runtime::blocking(move || commit_blocking(&graph, registry.as_ref(), &work));
    running.await.unwrap_or_else(|panic| {
        Err(CommitError {
            reason: format!("a sink has panicked while committing: {panic}"),
            retryable: false,
            sync_failed: false,
        })
    })
}

fn commit_blocking(
    graph: &JobGraph,
    registry: &dyn ConnectorRegistry,
    work: &CommitWork,
) -> Result<(), CommitError> {
    inject::point(points::WORKER_COMMIT_BEFORE)
        .map_err(|e| failed("any", &ConnectorError::Io(e.to_string())))?;
    let mut sinks: BTreeMap<&str, (&str, Arc<dyn Sink>)> = BTreeMap::new();
    for (uid, table) in graph.sinks() {
        let sink = registry.sink(table).map_err(|e| failed(&table.name, &e))?;
        sinks.insert(uid, (&table.name, sink));
    }
    for listed in &work.sinks {
        let Some((name, sink)) = sinks.get(listed.uid.as_str()) else {
            return Err(CommitError {
                reason: format!(
                    "the checkpoint lists output of sink {}, which the plan does not have",
                    listed.uid
                ),
                retryable: false,
                sync_failed: false,
            });
        };
        let committables: Vec<Committable> = listed
            .committables
            .iter()
            .map(|c| Committable {
                checkpoint: CheckpointId(c.checkpoint),
                subtask: c.subtask,
                data: c.data.to_vec(),
            })
            .collect();
        sink.commit(work.checkpoint.unwrap_or_default(), &committables)
            .map_err(|e| failed(name, &e))?;
    }
    if work.recover {
        inject::point(points::WORKER_RECOVER)
            .map_err(|e| failed("any", &ConnectorError::Io(e.to_string())))?;
        for (name, sink) in sinks.values() {
            sink.recover(work.job, work.attempt, work.checkpoint)
                .map_err(|e| failed(name, &e))?;
        }
    }
    inject::pass(points::WORKER_COMMIT_AFTER);
    Ok(())
}

fn failed(table: &str, error: &ConnectorError) -> CommitError {
    CommitError {
        reason: format!("sink '{table}': {error}"),
        retryable: matches!(error, ConnectorError::Io(_) | ConnectorError::Sync(_)),
        sync_failed: matches!(error, ConnectorError::Sync(_)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use holdfast_common::VertexId;
    use holdfast_dataflow::arrow::datatypes::Schema;
    use holdfast_dataflow::connector::{SinkContext, SinkWriter, Source};
    use holdfast_dataflow::graph::{OperatorNode, OperatorSpec, TableSpec, Vertex};
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder {
        seen: Mutex<Vec<String>>,
        fails: Mutex<Option<ConnectorError>>,
    }

    struct RecordingSink(Arc<Recorder>, String);

    impl Sink for RecordingSink {
        fn writer(&self, _: SinkContext) -> Result<Box<dyn SinkWriter>, ConnectorError> {
            Err(ConnectorError::Definition("not written here".into()))
        }
        fn commits(&self) -> bool {
            true
        }
        fn commit(&self, checkpoint: CheckpointId, c: &[Committable]) -> Result<(), ConnectorError> {
            if let Some(error) = self.0.fails.lock().unwrap().take() {
                return Err(error);
            }
            let text = format!("{} commits {} of {checkpoint}", self.1, c.len());
            self.0.seen.lock().unwrap().push(text);
            Ok(())
        }
        fn recover(
            &self,
            _: JobId,
            attempt: AttemptId,
            restored: Option<CheckpointId>,
        ) -> Result<(), ConnectorError> {
            let text = format!("{} recovers to {restored:?} for {attempt}", self.1);
            self.0.seen.lock().unwrap().push(text);
            Ok(())
        }
    }

    struct Registry(Arc<Recorder>);

    impl ConnectorRegistry for Registry {
        fn source(&self, _: &TableSpec) -> Result<Arc<dyn Source>, ConnectorError> {
            Err(ConnectorError::Definition("no sources here".into()))
        }
        fn sink(&self, table: &TableSpec) -> Result<Arc<dyn Sink>, ConnectorError> {
            Ok(Arc::new(RecordingSink(Arc::clone(&self.0), table.name.clone())))
        }
    }

    fn graph() -> Arc<JobGraph> {
        let schema = Arc::new(Schema::empty());
        let node = |uid: &str| OperatorNode {
            uid: uid.into(),
            name: uid.into(),
            spec: OperatorSpec::Sink(TableSpec {
                name: uid.into(),
                connector: "test".into(),
                options: BTreeMap::new(),
                schema: Arc::clone(&schema),
            }),
            schema: Arc::clone(&schema),
        };
        Arc::new(JobGraph {
            name: "job".into(),
            vertices: vec![Vertex {
                id: VertexId(0),
                name: "v".into(),
                parallelism: 1,
                chain: vec![node("a"), node("b")],
            }],
            edges: Vec::new(),
            parallelism: 1,
            max_parallelism: 128,
            settings: BTreeMap::new(),
        })
    }

    fn work(uid: &str, recover: bool) -> CommitWork {
        CommitWork {
            job: JobId(1),
            attempt: AttemptId(9),
            checkpoint: Some(CheckpointId(4)),
            sinks: vec![SinkCommittables {
                uid: uid.into(),
                committables: vec![holdfast_proto::snapshot::Committable::default()],
            }],
            recover,
        }
    }

    #[tokio::test]
    async fn commits_come_before_recovery_and_recovery_reaches_every_sink() {
        let recorder = Arc::<Recorder>::default();
        let registry: Arc<dyn ConnectorRegistry> = Arc::new(Registry(Arc::clone(&recorder)));
        commit(graph(), registry, work("b", true)).await.unwrap();
        let seen = recorder.seen.lock().unwrap().clone();
        assert_eq!(
            seen,
            [
                "b commits 1 of 4",
                "a recovers to Some(CheckpointId(4)) for 9",
                "b recovers to Some(CheckpointId(4)) for 9"
            ]
        );
    }

    #[tokio::test]
    async fn only_io_is_tried_again() {
        let recorder = Arc::<Recorder>::default();
        let registry: Arc<dyn ConnectorRegistry> = Arc::new(Registry(Arc::clone(&recorder)));
        for (error, retryable) in [
            (ConnectorError::Io("disk full".into()), true),
            (ConnectorError::Sync("the directory".into()), true),
            (ConnectorError::Conflict("other content".into()), false),
        ] {
            let synced = !matches!(error, ConnectorError::Sync(_));
            *recorder.fails.lock().unwrap() = Some(error);
            let failed = commit(graph(), Arc::clone(&registry), work("a", false))
                .await
                .unwrap_err();
            assert_eq!(failed.retryable, retryable, "{}", failed.reason);
            assert_eq!(failed.sync_failed, !synced, "{}", failed.reason);
        }
        let unknown = commit(graph(), registry, work("zzz", false)).await.unwrap_err();
        assert!(!unknown.retryable && unknown.reason.contains("zzz"));
    }
}
