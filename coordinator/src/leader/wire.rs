//! From the wire's records to checked inputs. A record that makes no sense is refused here, with the reason.

use super::input::{CommitPart, FromWorker, Hello, Report, SessionId, TaskAck, TaskKey};
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId, VertexId};
use holdfast_proto::control::worker_message::Body;
use holdfast_proto::control::{AttemptReport, Register, TaskStatus, WorkerMessage};

/// A record that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("message not understood: {0}")]
pub struct WireError(pub String);

/// Checks a registration.
///
/// # Errors
/// If an identity is malformed or a name is empty.
pub fn hello(session: SessionId, register: Register) -> Result<Hello, WireError> {
    if register.resource_id.is_empty() {
        return Err(WireError("the worker's resource id is empty".to_owned()));
    }
    if register.slots == 0 {
        return Err(WireError("the worker has no slots".to_owned()));
    }
    Ok(Hello {
        session,
        resource_id: register.resource_id,
        incarnation: Incarnation::from_bytes(&register.incarnation).map_err(|e| WireError(e.to_string()))?,
        data_addr: register.data_addr,
        slots: register.slots,
        version: register.version,
        pid: register.pid,
        reports: reports(register.attempts)?,
    })
}

/// Checks a message.
///
/// # Errors
/// If it is empty, a second registration, or an identity in it is malformed.
pub fn message(message: WorkerMessage) -> Result<FromWorker, WireError> {
    let body = message
        .body
        .ok_or_else(|| WireError("a message without a body".to_owned()))?;
    Ok(match body {
        Body::Register(_) => return Err(WireError("a second registration on one stream".to_owned())),
        Body::Heartbeat(m) => FromWorker::Heartbeat {
            reports: reports(m.attempts)?,
            sequence: m.sequence,
        },
        Body::Deployed(m) => FromWorker::Deployed {
            job: job(&m.job_id)?,
            attempt: AttemptId(m.attempt),
        },
        Body::DeployFailed(m) => FromWorker::DeployFailed {
            job: job(&m.job_id)?,
            attempt: AttemptId(m.attempt),
            reason: m.reason,
            damaged: m.checkpoint_damaged,
        },
        Body::TaskState(m) => FromWorker::TaskState {
            job: job(&m.job_id)?,
            attempt: AttemptId(m.attempt),
            task: task(m.vertex, m.subtask),
            status: m.status(),
            error: m.error,
        },
        Body::Ack(m) => FromWorker::Ack {
            job: job(&m.job_id)?,
            attempt: AttemptId(m.attempt),
            checkpoint: CheckpointId(m.checkpoint),
            task: task(m.vertex, m.subtask),
            ack: TaskAck {
                part: m.part,
                committables: m.committables,
                state_bytes: m.state_bytes,
            },
        },
        Body::Declined(m) => FromWorker::Declined {
            job: job(&m.job_id)?,
            attempt: AttemptId(m.attempt),
            checkpoint: CheckpointId(m.checkpoint),
            task: task(m.vertex, m.subtask),
            reason: m.reason,
        },
        Body::CommitDone(m) => FromWorker::CommitDone {
            job: job(&m.job_id)?,
            attempt: AttemptId(m.attempt),
            checkpoint: CheckpointId(m.checkpoint),
            part: CommitPart {
                slice: m.slice,
                slices: m.slices,
                recover: m.recover,
            },
        },
        Body::CommitFailed(m) => FromWorker::CommitFailed {
            job: job(&m.job_id)?,
            attempt: AttemptId(m.attempt),
            checkpoint: CheckpointId(m.checkpoint),
            part: CommitPart {
                slice: m.slice,
                slices: m.slices,
                recover: m.recover,
            },
            reason: m.reason,
            retryable: m.retryable,
        },
        Body::Cancelled(m) => FromWorker::Cancelled {
            job: job(&m.job_id)?,
            attempt: AttemptId(m.attempt),
        },
        Body::Leaving(m) => FromWorker::Leaving { reason: m.reason },
    })
}

fn reports(attempts: Vec<AttemptReport>) -> Result<Vec<Report>, WireError> {
    attempts
        .into_iter()
        .map(|report| {
            Ok(Report {
                job: job(&report.job_id)?,
                attempt: AttemptId(report.attempt),
                checkpoint_seen: CheckpointId(report.checkpoint_seen),
                started: report.started,
                tasks: report
                    .tasks
                    .into_iter()
                    .map(|t| (task(t.vertex, t.subtask), t))
                    .collect(),
            })
        })
        .collect()
}

fn job(bytes: &[u8]) -> Result<JobId, WireError> {
    JobId::from_bytes(bytes).map_err(|e| WireError(e.to_string()))
}

fn task(vertex: u32, subtask: u32) -> TaskKey {
    (VertexId(vertex), subtask)
}

/// Whether a task in this state takes part in checkpoints.
#[must_use]
pub fn is_live(status: TaskStatus) -> bool {
    matches!(status, TaskStatus::Running | TaskStatus::Finished)
}
