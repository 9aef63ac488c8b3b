//! The state's parts as protobuf records, both ways.

use super::response::{response_from, response_to};
use super::{CodecError, Result, status_from, status_to, unknown, wide, wide_bytes};
use crate::state::{
    Attempt, Checkpoint, CheckpointOutcome, CheckpointStats, Cluster, Failure, Job, LeaderClaim, Session,
    SlotAssignment, Worker,
};
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId};
use holdfast_proto::command as pb;

pub(super) fn worker_to(worker: &Worker) -> pb::Worker {
    pb::Worker {
        resource_id: worker.resource_id.clone(),
        incarnation: wide_bytes(worker.incarnation.0),
        data_addr: worker.data_addr.clone(),
        slots: worker.slots,
        version: worker.version.clone(),
        pid: worker.pid,
        registered_ms: worker.registered_ms,
    }
}

pub(super) fn worker_from(wire: pb::Worker) -> Result<Worker> {
    Ok(Worker {
        incarnation: Incarnation(wide("incarnation", &wire.incarnation)?),
        resource_id: wire.resource_id,
        data_addr: wire.data_addr,
        slots: wire.slots,
        version: wire.version,
        pid: wire.pid,
        registered_ms: wire.registered_ms,
    })
}

pub(super) fn slot_to(slot: &SlotAssignment) -> pb::SlotAssignment {
    pb::SlotAssignment {
        resource_id: slot.resource_id.clone(),
        incarnation: wide_bytes(slot.incarnation.0),
        data_addr: slot.data_addr.clone(),
    }
}

pub(super) fn slot_from(wire: pb::SlotAssignment) -> Result<SlotAssignment> {
    Ok(SlotAssignment {
        incarnation: Incarnation(wide("incarnation", &wire.incarnation)?),
        resource_id: wire.resource_id,
        data_addr: wire.data_addr,
    })
}

pub(super) fn failure_to(failure: &Failure) -> pb::Failure {
    pb::Failure {
        at_ms: failure.at_ms,
        attempt_number: failure.attempt_number,
        task: failure.task.clone(),
        worker: failure.worker.clone(),
        message: failure.message.clone(),
    }
}

pub(super) fn failure_from(wire: pb::Failure) -> Failure {
    Failure {
        at_ms: wire.at_ms,
        attempt_number: wire.attempt_number,
        task: wire.task,
        worker: wire.worker,
        message: wire.message,
    }
}

pub(super) fn checkpoint_to(checkpoint: &Checkpoint) -> pb::Checkpoint {
    pb::Checkpoint {
        id: checkpoint.id.0,
        attempt: checkpoint.attempt.0,
        manifest_path: checkpoint.manifest_path.clone(),
        manifest_sha256: prost::bytes::Bytes::copy_from_slice(&checkpoint.manifest_sha256),
        state_bytes: checkpoint.state_bytes,
        triggered_ms: checkpoint.triggered_ms,
        completed_ms: checkpoint.completed_ms,
        needs_commit: checkpoint.needs_commit,
        committed: checkpoint.committed,
        is_final: checkpoint.is_final,
        retired: checkpoint.retired,
        damaged: checkpoint.damaged,
    }
}

pub(super) fn checkpoint_from(wire: pb::Checkpoint) -> Result<Checkpoint> {
    let manifest_sha256 = wire
        .manifest_sha256
        .as_ref()
        .try_into()
        .map_err(|_| CodecError::Invalid {
            what: "manifest digest",
            reason: format!("{} bytes instead of 32", wire.manifest_sha256.len()),
        })?;
    Ok(Checkpoint {
        id: CheckpointId(wire.id),
        attempt: AttemptId(wire.attempt),
        manifest_path: wire.manifest_path,
        manifest_sha256,
        state_bytes: wire.state_bytes,
        triggered_ms: wire.triggered_ms,
        completed_ms: wire.completed_ms,
        needs_commit: wire.needs_commit,
        committed: wire.committed,
        is_final: wire.is_final,
        retired: wire.retired,
        damaged: wire.damaged,
    })
}

pub(super) fn cluster_to(cluster: &Cluster) -> pb::ClusterRecord {
    pb::ClusterRecord {
        id: wide_bytes(cluster.id.0),
        name: cluster.name.clone(),
        created_ms: cluster.created_ms,
    }
}

pub(super) fn cluster_from(wire: pb::ClusterRecord) -> Result<Cluster> {
    Ok(Cluster {
        id: ClusterId(wide("cluster id", &wire.id)?),
        name: wire.name,
        created_ms: wire.created_ms,
    })
}

pub(super) fn leader_to(leader: &LeaderClaim) -> pb::LeaderClaim {
    pb::LeaderClaim {
        epoch: leader.epoch.0,
        node: leader.node.0,
        incarnation: wide_bytes(leader.incarnation.0),
    }
}

pub(super) fn leader_from(wire: pb::LeaderClaim) -> Result<LeaderClaim> {
    Ok(LeaderClaim {
        epoch: LeaderEpoch(wire.epoch),
        node: NodeId(wire.node),
        incarnation: Incarnation(wide("incarnation", &wire.incarnation)?),
    })
}

fn attempt_to(attempt: &Attempt) -> pb::Attempt {
    pb::Attempt {
        id: attempt.id.0,
        number: attempt.number,
        assignment: attempt.assignment.iter().map(slot_to).collect(),
        restored: attempt.restored.map(|c| c.0),
        started_ms: attempt.started_ms,
        running_ms: attempt.running_ms,
    }
}

fn attempt_from(wire: pb::Attempt) -> Result<Attempt> {
    Ok(Attempt {
        id: AttemptId(wire.id),
        number: wire.number,
        assignment: wire
            .assignment
            .into_iter()
            .map(slot_from)
            .collect::<Result<_>>()?,
        restored: wire.restored.map(CheckpointId),
        started_ms: wire.started_ms,
        running_ms: wire.running_ms,
    })
}

fn stats_to(stats: &CheckpointStats) -> pb::CheckpointStats {
    pb::CheckpointStats {
        completed: stats.completed,
        failed: stats.failed,
        failed_in_a_row: stats.failed_in_a_row,
        restored: stats.restored,
        newest_completed: stats.newest_completed.0,
        history: stats
            .history
            .iter()
            .map(|o| pb::CheckpointOutcome {
                id: o.id.0,
                triggered_ms: o.triggered_ms,
                ended_ms: o.ended_ms,
                state_bytes: o.state_bytes,
                failure: o.failure.clone(),
            })
            .collect(),
    }
}

fn stats_from(wire: pb::CheckpointStats) -> CheckpointStats {
    CheckpointStats {
        completed: wire.completed,
        failed: wire.failed,
        failed_in_a_row: wire.failed_in_a_row,
        restored: wire.restored,
        newest_completed: CheckpointId(wire.newest_completed),
        history: wire
            .history
            .into_iter()
            .map(|o| CheckpointOutcome {
                id: CheckpointId(o.id),
                triggered_ms: o.triggered_ms,
                ended_ms: o.ended_ms,
                state_bytes: o.state_bytes,
                failure: o.failure,
            })
            .collect(),
    }
}

pub(super) fn job_to(job: &Job) -> pb::Job {
    pb::Job {
        id: wide_bytes(job.id.0),
        name: job.name.clone(),
        sql: job.sql.clone(),
        settings: job.settings.clone(),
        fingerprint: job.fingerprint.clone(),
        parallelism: job.parallelism,
        max_parallelism: job.max_parallelism,
        status: status_to(job.status).into(),
        status_ms: job.status_ms,
        submitted_ms: job.submitted_ms,
        ended_ms: job.ended_ms,
        attempt: job.attempt.as_ref().map(attempt_to),
        attempts: job.attempts,
        restart_at_ms: job.restart_at_ms,
        failure_times_ms: job.failure_times_ms.iter().copied().collect(),
        exceptions: job.exceptions.iter().map(failure_to).collect(),
        next_checkpoint: job.next_checkpoint.0,
        checkpoints: job.checkpoints.values().map(checkpoint_to).collect(),
        checkpoint_stats: Some(stats_to(&job.checkpoint_stats)),
        idempotency_key: job.idempotency_key.clone(),
        last_reports: job.last_reports.clone(),
    }
}

pub(super) fn job_from(wire: pb::Job) -> Result<Job> {
    let checkpoints = wire
        .checkpoints
        .into_iter()
        .map(|c| checkpoint_from(c).map(|c| (c.id, c)))
        .collect::<Result<_>>()?;
    Ok(Job {
        id: JobId(wide("job id", &wire.id)?),
        name: wire.name,
        sql: wire.sql,
        settings: wire.settings,
        fingerprint: wire.fingerprint,
        parallelism: wire.parallelism,
        max_parallelism: wire.max_parallelism,
        status: status_from(wire.status)?,
        status_ms: wire.status_ms,
        submitted_ms: wire.submitted_ms,
        ended_ms: wire.ended_ms,
        attempt: wire.attempt.map(attempt_from).transpose()?,
        attempts: wire.attempts,
        restart_at_ms: wire.restart_at_ms,
        failure_times_ms: wire.failure_times_ms.into(),
        exceptions: wire.exceptions.into_iter().map(failure_from).collect(),
        next_checkpoint: CheckpointId(wire.next_checkpoint),
        checkpoints,
        checkpoint_stats: stats_from(wire.checkpoint_stats.ok_or(unknown("checkpoint statistics"))?),
        idempotency_key: wire.idempotency_key,
        last_reports: wire.last_reports,
    })
}

pub(super) fn session_to(id: u64, session: &Session) -> pb::SessionRecord {
    pb::SessionRecord {
        id,
        client: session.client.clone(),
        acked_up_to: session.acked_up_to,
        responses: session
            .responses
            .iter()
            .map(|(seq, r)| pb::SessionResponse {
                seq: *seq,
                response: Some(response_to(r)),
            })
            .collect(),
        used_at: session.used_at,
    }
}

pub(super) fn session_from(wire: pb::SessionRecord) -> Result<(u64, Session)> {
    let responses = wire
        .responses
        .into_iter()
        .map(|r| {
            Ok((
                r.seq,
                response_from(r.response.ok_or(unknown("session response"))?)?,
            ))
        })
        .collect::<Result<_>>()?;
    let session = Session {
        client: wire.client,
        acked_up_to: wire.acked_up_to,
        responses,
        used_at: wire.used_at,
    };
    Ok((wire.id, session))
}
