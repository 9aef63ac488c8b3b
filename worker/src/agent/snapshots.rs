//! Makes a task's captured state durable: runs what its sinks prepared, uploads the state, and says so, or declines.

use crate::engine::{CapturedState, Engine};
use bytes::Bytes;
use holdfast_common::inject::{self, points};
use holdfast_common::limits::{COMMITTABLES_TASK_BYTES_MAX, STORAGE_DEADLINE};
use holdfast_common::{AttemptId, CheckpointId, ClusterId, JobId, VertexId, layout};
use holdfast_dataflow::connector::{Committable, ConnectorError, PrepareJob};
use holdfast_proto::control::worker_message::Body;
use holdfast_proto::control::{Ack, Declined};
use holdfast_proto::snapshot::{self, ObjectRef, SinkCommittables};
use holdfast_storage::SnapshotStore;
use prost::Message;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Deadline of what a sink does to make its output durable; then its task fails, since the output would be lost.
const PREPARE_DEADLINE: Duration = Duration::from_secs(600);

/// Whose state it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The checkpoint.
    pub checkpoint: CheckpointId,
    /// The vertex.
    pub vertex: VertexId,
    /// The subtask.
    pub subtask: u32,
}

/// A captured state.
pub struct Captured {
    /// Whose.
    pub origin: Origin,
    /// The state.
    pub state: CapturedState,
    /// What sinks have yet to do, by uid.
    pub prepares: Vec<(String, PrepareJob)>,
    /// What sinks prepared for checkpoints that never completed, by uid.
    pub pending: Vec<(String, Vec<Committable>)>,
    /// Microseconds that the task stood still.
    pub sync_us: u32,
    /// Milliseconds from the first barrier to the last.
    pub alignment_ms: u32,
}

/// Makes it durable. The answer is an acknowledgement or a refusal. Once its attempt is `over` no upload begins.
pub async fn make_durable(
    engine: Engine,
    store: SnapshotStore,
    cluster: ClusterId,
    captured: Captured,
    over: CancellationToken,
) -> Body {
    let begun = Instant::now();
    let origin = captured.origin;
    let mut sinks: BTreeMap<String, Vec<Committable>> = captured.pending.into_iter().collect();
    for (uid, prepare) in captured.prepares {
        match run_prepare(prepare).await {
            Ok(committables) => {
                engine.prepared(
                    origin.job,
                    origin.attempt,
                    origin.checkpoint,
                    origin.vertex,
                    origin.subtask,
                    &uid,
                    committables.clone(),
                );
                sinks.entry(uid).or_default().extend(committables);
            }
            Err(reason) => {
                let text = format!("a sink could not finish its output: {reason}");
                engine.fail_task(
                    origin.job,
                    origin.attempt,
                    origin.vertex,
                    origin.subtask,
                    text.clone(),
                );
                return declined(origin, text);
            }
        }
    }
    let committables: Vec<SinkCommittables> = sinks.into_iter().map(to_record).collect();
    if let Err(text) = check_size(&committables) {
        engine.fail_task(
            origin.job,
            origin.attempt,
            origin.vertex,
            origin.subtask,
            text.clone(),
        );
        return declined(origin, text);
    }
    let part = match upload(&store, cluster, origin, captured.state, &over).await {
        Ok(part) => part,
        Err(reason) => return declined(origin, reason),
    };
    inject::pass(points::WORKER_UPLOAD_AFTER);
    let bytes = part.as_ref().map_or(0, |p| p.size);
    tracing::debug!(
        checkpoint = origin.checkpoint.0,
        vertex = origin.vertex.0,
        subtask = origin.subtask,
        bytes,
        sync_us = captured.sync_us,
        "state is durable"
    );
    Body::Ack(Ack {
        job_id: origin.job.to_bytes().to_vec().into(),
        attempt: origin.attempt.0,
        checkpoint: origin.checkpoint.0,
        vertex: origin.vertex.0,
        subtask: origin.subtask,
        state_bytes: bytes,
        part,
        committables,
        sync_us: captured.sync_us,
        async_ms: u32::try_from(begun.elapsed().as_millis()).unwrap_or(u32::MAX),
        alignment_ms: captured.alignment_ms,
    })
}

/// What waits for a checkpoint to complete must fit the message that names it.
fn check_size(sinks: &[SinkCommittables]) -> Result<(), String> {
    let bytes: usize = sinks.iter().map(Message::encoded_len).sum();
    if bytes <= COMMITTABLES_TASK_BYTES_MAX {
        return Ok(());
    }
    let count: usize = sinks.iter().map(|s| s.committables.len()).sum();
    Err(format!(
        "{count} pieces of unfinished output wait for a checkpoint to complete, described by {bytes} bytes, more than the \
         {COMMITTABLES_TASK_BYTES_MAX} that one task may have: too many checkpoints have failed since the last complete one"
    ))
}

fn injected(error: std::io::Error) -> ConnectorError {
    ConnectorError::Io(error.to_string())
}

async fn run_prepare(prepare: PrepareJob) -> Result<Vec<Committable>, String> {
    let job = move || {
        inject::point(points::WORKER_PREPARE_BEFORE).map_err(injected)?;
        let prepared = prepare()?;
        inject::point(points::WORKER_PREPARE_AFTER).map_err(injected)?;
        Ok::<_, ConnectorError>(prepared)
    };
    match tokio::time::timeout(PREPARE_DEADLINE, holdfast_runtime::blocking(job)).await {
        Ok(Ok(Ok(committables))) => Ok(committables),
        Ok(Ok(Err(error))) => Err(error.to_string()),
        Ok(Err(panic)) => Err(format!("it has panicked: {panic}")),
        Err(_) => Err(format!("it took over {} s", PREPARE_DEADLINE.as_secs())),
    }
}

async fn upload(
    store: &SnapshotStore,
    cluster: ClusterId,
    origin: Origin,
    state: CapturedState,
    over: &CancellationToken,
) -> Result<Option<ObjectRef>, String> {
    // Writing takes time in proportion to the state: not on a thread that serves sockets, and not on a slot's.
    let written = holdfast_runtime::blocking(move || {
        inject::point(points::WORKER_UPLOAD_BEFORE)?;
        Ok::<_, std::io::Error>(Bytes::from(state.write().encode_to_vec()))
    });
    let body = match written.await {
        Ok(Ok(body)) => body,
        Ok(Err(error)) => return Err(format!("its state could not be stored: {error}")),
        Err(panic) => return Err(format!("its state could not be written: {panic}")),
    };
    if body.is_empty() {
        return Ok(None);
    }
    if over.is_cancelled() {
        return Err("its attempt is over".to_owned());
    }
    let path = layout::part(
        cluster,
        origin.job,
        origin.checkpoint,
        origin.attempt,
        origin.vertex,
        origin.subtask,
    );
    match tokio::time::timeout(STORAGE_DEADLINE, store.put_new(&path, body)).await {
        Ok(Ok(object)) => Ok(Some(object)),
        Ok(Err(error)) => Err(format!("its state could not be stored: {error}")),
        Err(_) => Err(format!(
            "its state could not be stored: no answer within {} s",
            STORAGE_DEADLINE.as_secs()
        )),
    }
}

/// A refusal to take part in a checkpoint.
#[must_use]
pub fn declined(origin: Origin, reason: String) -> Body {
    Body::Declined(Declined {
        job_id: origin.job.to_bytes().to_vec().into(),
        attempt: origin.attempt.0,
        checkpoint: origin.checkpoint.0,
        vertex: origin.vertex.0,
        subtask: origin.subtask,
        reason,
    })
}

fn to_record((uid, committables): (String, Vec<Committable>)) -> SinkCommittables {
    SinkCommittables {
        uid,
        committables: committables
            .into_iter()
            .map(|c| snapshot::Committable {
                checkpoint: c.checkpoint.0,
                subtask: c.subtask,
                data: c.data.into(),
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use holdfast_common::config::Configuration;

    #[test]
    fn output_that_no_acknowledgement_could_name_is_refused_with_its_size() {
        let waiting = |count: usize| {
            let committable = Committable {
                checkpoint: CheckpointId(1),
                subtask: 0,
                data: vec![1; 1024],
            };
            [to_record(("sink".to_owned(), vec![committable; count]))]
        };
        check_size(&waiting(1000)).unwrap();
        let refused = check_size(&waiting(9000)).unwrap_err();
        assert!(refused.contains("9000 pieces of unfinished output"), "{refused}");
    }

    #[tokio::test]
    async fn an_attempt_that_is_over_leaves_no_state_in_storage() {
        let store = SnapshotStore::open("memory://over-leaves-nothing", &Configuration::new()).unwrap();
        let origin = Origin {
            job: JobId(1),
            attempt: AttemptId(2),
            checkpoint: CheckpointId(3),
            vertex: VertexId(0),
            subtask: 0,
        };
        let state = || CapturedState {
            operators: Vec::new(),
            watermark_ms: Some(7),
            ended: false,
        };
        let over = CancellationToken::new();
        let stored = upload(&store, ClusterId(9), origin, state(), &over)
            .await
            .unwrap();
        store.get(&stored.unwrap()).await.unwrap();
        let listed = || async { store.list("").await.unwrap().len() };
        assert_eq!(listed().await, 1);
        over.cancel();
        let later = Origin {
            checkpoint: CheckpointId(4),
            ..origin
        };
        let refused = upload(&store, ClusterId(9), later, state(), &over).await;
        assert!(refused.unwrap_err().contains("over"));
        assert_eq!(listed().await, 1);
    }
}
