//! Proposals as bytes. Knows the numbers of the log's protobuf; knows nothing of what commands do.

use super::state::{
    checkpoint_from, checkpoint_to, failure_from, failure_to, slot_from, slot_to, worker_from, worker_to,
};
use super::{CodecError, Result, malformed, status_from, status_to, unknown, wide, wide_bytes};
use crate::command::{Command, Proposal, SessionSeq};
use holdfast_common::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId};
use holdfast_proto::command as pb;
use pb::proposal::Command as Wire;
use prost::Message;

impl Proposal {
    /// The entry's bytes, as they stand in the log.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (epoch, command) = command_to(&self.command);
        pb::Proposal {
            proposed_ms: self.proposed_ms,
            session: self.session.map(|s| pb::SessionSeq {
                session: s.session,
                seq: s.seq,
                acked_up_to: s.acked_up_to,
            }),
            command: Some(command),
            epoch: epoch.0,
        }
        .encode_to_vec()
    }

    /// From the bytes of [`Self::encode`].
    ///
    /// # Errors
    /// If they are damaged or hold a command that this build does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wire = pb::Proposal::decode(bytes).map_err(malformed("log entry"))?;
        Ok(Self {
            proposed_ms: wire.proposed_ms,
            session: wire.session.map(|s| SessionSeq {
                session: s.session,
                seq: s.seq,
                acked_up_to: s.acked_up_to,
            }),
            command: command_from(LeaderEpoch(wire.epoch), wire.command.ok_or(unknown("command"))?)?,
        })
    }
}

impl Command {
    /// Under which leader's claim the command stands, if it is a leader's.
    #[must_use]
    pub fn epoch(&self) -> Option<LeaderEpoch> {
        match self {
            Self::InitCluster { .. }
            | Self::ClaimLeader { .. }
            | Self::OpenSession { .. }
            | Self::SubmitJob { .. }
            | Self::CancelJob { .. }
            | Self::KvPut { .. }
            | Self::KvDelete { .. } => None,
            Self::SetFeatureLevel { epoch, .. }
            | Self::RegisterWorker { epoch, .. }
            | Self::RemoveWorker { epoch, .. }
            | Self::StartAttempt { epoch, .. }
            | Self::AttemptRunning { epoch, .. }
            | Self::AttemptFailed { epoch, .. }
            | Self::ReserveCheckpoints { epoch, .. }
            | Self::CompleteCheckpoint { epoch, .. }
            | Self::CommitDone { epoch, .. }
            | Self::CheckpointFailed { epoch, .. }
            | Self::RetireCheckpoints { epoch, .. }
            | Self::ForgetCheckpoints { epoch, .. }
            | Self::CheckpointDamaged { epoch, .. }
            | Self::EndJob { epoch, .. } => Some(*epoch),
        }
    }
}

fn job(id: JobId) -> prost::bytes::Bytes {
    wide_bytes(id.0)
}

fn ids(checkpoints: &[CheckpointId]) -> Vec<u64> {
    checkpoints.iter().map(|c| c.0).collect()
}

fn command_to(command: &Command) -> (LeaderEpoch, Wire) {
    let wire = match command {
        Command::InitCluster { cluster_id, name } => Wire::InitCluster(pb::InitCluster {
            cluster_id: wide_bytes(cluster_id.0),
            name: name.clone(),
        }),
        Command::ClaimLeader { node, incarnation } => Wire::ClaimLeader(pb::ClaimLeader {
            node: node.0,
            incarnation: wide_bytes(incarnation.0),
        }),
        Command::OpenSession { client } => Wire::OpenSession(pb::OpenSession {
            client: client.clone(),
        }),
        Command::SetFeatureLevel { level, .. } => {
            Wire::SetFeatureLevel(pb::SetFeatureLevel { level: *level })
        }
        Command::RegisterWorker { worker, .. } => Wire::RegisterWorker(worker_to(worker)),
        Command::RemoveWorker {
            resource_id,
            incarnation,
            reason,
            ..
        } => Wire::RemoveWorker(pb::RemoveWorker {
            resource_id: resource_id.clone(),
            incarnation: wide_bytes(incarnation.0),
            reason: reason.clone(),
        }),
        Command::KvPut {
            key,
            value,
            if_revision,
        } => Wire::KvPut(pb::KvPut {
            key: key.clone(),
            value: value.clone(),
            if_revision: *if_revision,
        }),
        Command::KvDelete { key } => Wire::KvDelete(pb::KvDelete { key: key.clone() }),
        other => job_command_to(other),
    };
    (command.epoch().unwrap_or_default(), wire)
}

/// The commands about jobs; `command_to` has taken all others.
fn job_command_to(command: &Command) -> Wire {
    match command {
        Command::SubmitJob {
            job: id,
            name,
            sql,
            settings,
            fingerprint,
            parallelism,
            max_parallelism,
            idempotency_key,
        } => Wire::SubmitJob(pb::SubmitJob {
            job: job(*id),
            name: name.clone(),
            sql: sql.clone(),
            settings: settings.clone(),
            fingerprint: fingerprint.clone(),
            parallelism: *parallelism,
            max_parallelism: *max_parallelism,
            idempotency_key: idempotency_key.clone(),
        }),
        Command::CancelJob { job: id } => Wire::CancelJob(pb::CancelJob { job: job(*id) }),
        Command::StartAttempt {
            job: id,
            replaces,
            assignment,
            restore,
            ..
        } => Wire::StartAttempt(pb::StartAttempt {
            job: job(*id),
            replaces: replaces.map(|a| a.0),
            assignment: assignment.iter().map(slot_to).collect(),
            restore: restore.map(|c| c.0),
        }),
        Command::AttemptRunning { job: id, attempt, .. } => Wire::AttemptRunning(pb::AttemptRunning {
            job: job(*id),
            attempt: attempt.0,
        }),
        Command::AttemptFailed {
            job: id,
            attempt,
            failure,
            terminal,
            restart_at_ms,
            last_reports,
            ..
        } => Wire::AttemptFailed(pb::AttemptFailed {
            job: job(*id),
            attempt: attempt.map(|a| a.0),
            failure: Some(failure_to(failure)),
            terminal: *terminal,
            restart_at_ms: *restart_at_ms,
            last_reports: last_reports.clone(),
        }),
        Command::EndJob {
            job: id,
            status,
            reason,
            last_reports,
            ..
        } => Wire::EndJob(pb::EndJob {
            job: job(*id),
            status: status_to(*status).into(),
            reason: reason.clone(),
            last_reports: last_reports.clone(),
        }),
        other => checkpoint_command_to(other),
    }
}

fn checkpoint_command_to(command: &Command) -> Wire {
    match command {
        Command::ReserveCheckpoints { job: id, count, .. } => {
            Wire::ReserveCheckpoints(pb::ReserveCheckpoints {
                job: job(*id),
                count: *count,
            })
        }
        Command::CompleteCheckpoint {
            job: id,
            attempt,
            checkpoint,
            ..
        } => Wire::CompleteCheckpoint(pb::CompleteCheckpoint {
            job: job(*id),
            attempt: attempt.0,
            checkpoint: Some(checkpoint_to(checkpoint)),
        }),
        Command::CommitDone {
            job: id, checkpoint, ..
        } => Wire::CommitDone(pb::CommitDone {
            job: job(*id),
            checkpoint: checkpoint.0,
        }),
        Command::CheckpointFailed {
            job: id,
            checkpoint,
            triggered_ms,
            reason,
            ..
        } => Wire::CheckpointFailed(pb::CheckpointFailed {
            job: job(*id),
            checkpoint: checkpoint.0,
            triggered_ms: *triggered_ms,
            reason: reason.clone(),
        }),
        Command::RetireCheckpoints {
            job: id, checkpoints, ..
        } => Wire::RetireCheckpoints(pb::CheckpointList {
            job: job(*id),
            checkpoints: ids(checkpoints),
        }),
        Command::ForgetCheckpoints {
            job: id, checkpoints, ..
        } => Wire::ForgetCheckpoints(pb::CheckpointList {
            job: job(*id),
            checkpoints: ids(checkpoints),
        }),
        Command::CheckpointDamaged {
            job: id,
            checkpoint,
            reason,
            ..
        } => Wire::CheckpointDamaged(pb::CheckpointDamaged {
            job: job(*id),
            checkpoint: checkpoint.0,
            reason: reason.clone(),
        }),
        other => unreachable!("every other command is encoded by the callers: {other:?}"),
    }
}

fn job_from(bytes: &[u8]) -> Result<JobId> {
    wide("job id", bytes).map(JobId)
}

fn command_from(epoch: LeaderEpoch, wire: Wire) -> Result<Command> {
    Ok(match wire {
        Wire::InitCluster(c) => Command::InitCluster {
            cluster_id: ClusterId(wide("cluster id", &c.cluster_id)?),
            name: c.name,
        },
        Wire::ClaimLeader(c) => Command::ClaimLeader {
            node: NodeId(c.node),
            incarnation: Incarnation(wide("incarnation", &c.incarnation)?),
        },
        Wire::OpenSession(c) => Command::OpenSession { client: c.client },
        Wire::SetFeatureLevel(c) => Command::SetFeatureLevel {
            epoch,
            level: c.level,
        },
        Wire::RegisterWorker(c) => Command::RegisterWorker {
            epoch,
            worker: worker_from(c)?,
        },
        Wire::RemoveWorker(c) => Command::RemoveWorker {
            epoch,
            resource_id: c.resource_id,
            incarnation: Incarnation(wide("incarnation", &c.incarnation)?),
            reason: c.reason,
        },
        Wire::KvPut(c) => Command::KvPut {
            key: c.key,
            value: c.value,
            if_revision: c.if_revision,
        },
        Wire::KvDelete(c) => Command::KvDelete { key: c.key },
        Wire::SubmitJob(c) => Command::SubmitJob {
            job: job_from(&c.job)?,
            name: c.name,
            sql: c.sql,
            settings: c.settings,
            fingerprint: c.fingerprint,
            parallelism: c.parallelism,
            max_parallelism: c.max_parallelism,
            idempotency_key: c.idempotency_key,
        },
        Wire::CancelJob(c) => Command::CancelJob {
            job: job_from(&c.job)?,
        },
        Wire::StartAttempt(c) => Command::StartAttempt {
            epoch,
            job: job_from(&c.job)?,
            replaces: c.replaces.map(AttemptId),
            assignment: c.assignment.into_iter().map(slot_from).collect::<Result<_>>()?,
            restore: c.restore.map(CheckpointId),
        },
        Wire::AttemptRunning(c) => Command::AttemptRunning {
            epoch,
            job: job_from(&c.job)?,
            attempt: AttemptId(c.attempt),
        },
        Wire::AttemptFailed(c) => Command::AttemptFailed {
            epoch,
            job: job_from(&c.job)?,
            attempt: c.attempt.map(AttemptId),
            failure: failure_from(c.failure.ok_or(unknown("failure"))?),
            terminal: c.terminal,
            restart_at_ms: c.restart_at_ms,
            last_reports: c.last_reports,
        },
        Wire::EndJob(c) => Command::EndJob {
            epoch,
            job: job_from(&c.job)?,
            status: status_from(c.status)?,
            reason: c.reason,
            last_reports: c.last_reports,
        },
        other => checkpoint_command_from(epoch, other)?,
    })
}

fn checkpoint_command_from(epoch: LeaderEpoch, wire: Wire) -> Result<Command> {
    let list = |c: pb::CheckpointList| -> Result<(JobId, Vec<CheckpointId>)> {
        Ok((
            job_from(&c.job)?,
            c.checkpoints.into_iter().map(CheckpointId).collect(),
        ))
    };
    Ok(match wire {
        Wire::ReserveCheckpoints(c) => Command::ReserveCheckpoints {
            epoch,
            job: job_from(&c.job)?,
            count: c.count,
        },
        Wire::CompleteCheckpoint(c) => Command::CompleteCheckpoint {
            epoch,
            job: job_from(&c.job)?,
            attempt: AttemptId(c.attempt),
            checkpoint: checkpoint_from(c.checkpoint.ok_or(unknown("checkpoint"))?)?,
        },
        Wire::CommitDone(c) => Command::CommitDone {
            epoch,
            job: job_from(&c.job)?,
            checkpoint: CheckpointId(c.checkpoint),
        },
        Wire::CheckpointFailed(c) => Command::CheckpointFailed {
            epoch,
            job: job_from(&c.job)?,
            checkpoint: CheckpointId(c.checkpoint),
            triggered_ms: c.triggered_ms,
            reason: c.reason,
        },
        Wire::RetireCheckpoints(c) => {
            let (job, checkpoints) = list(c)?;
            Command::RetireCheckpoints {
                epoch,
                job,
                checkpoints,
            }
        }
        Wire::ForgetCheckpoints(c) => {
            let (job, checkpoints) = list(c)?;
            Command::ForgetCheckpoints {
                epoch,
                job,
                checkpoints,
            }
        }
        Wire::CheckpointDamaged(c) => Command::CheckpointDamaged {
            epoch,
            job: job_from(&c.job)?,
            checkpoint: CheckpointId(c.checkpoint),
            reason: c.reason,
        },
        _ => return Err(CodecError::Unknown { what: "command" }),
    })
}
