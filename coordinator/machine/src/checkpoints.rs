//! The checkpoint catalogue: which checkpoints exist, are committed, retained, damaged, or may be collected.
//! Knows nothing of how checkpoints are taken or where objects lie.

use crate::apply::{Outcome, bounded};
use crate::command::{Command, Rejection, Response};
use crate::jobs::{find, find_live, push_exception, require_current};
use crate::state::{Checkpoint, CheckpointOutcome, Failure, Job, State};
use holdfast_common::clock::UnixMillis;
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::{
    CHECKPOINT_HISTORY, CHECKPOINT_RESERVE_MAX, CHECKPOINTS_PER_JOB_MAX, EXCEPTION_TEXT_BYTES_MAX,
    NAME_BYTES_MAX,
};
use holdfast_common::{AttemptId, CheckpointId, JobId};

pub(crate) fn dispatch(state: &mut State, command: &Command) -> Outcome {
    let now_ms = state.now_ms;
    match command {
        Command::ReserveCheckpoints { job, count, .. } => reserve(find_live(state, *job)?, *count),
        Command::CompleteCheckpoint {
            job,
            attempt,
            checkpoint,
            ..
        } => complete(state, *job, *attempt, checkpoint),
        Command::CommitDone { job, checkpoint, .. } => {
            entry(find(state, *job)?, *checkpoint)?.committed = true;
            Ok(Response::Done)
        }
        Command::CheckpointFailed {
            job,
            checkpoint,
            triggered_ms,
            reason,
            ..
        } => failed(find(state, *job)?, *checkpoint, *triggered_ms, reason, now_ms),
        Command::RetireCheckpoints { job, checkpoints, .. } => retire(find(state, *job)?, checkpoints),
        Command::ForgetCheckpoints { job, checkpoints, .. } => forget(find(state, *job)?, checkpoints),
        Command::CheckpointDamaged {
            job,
            checkpoint,
            reason,
            ..
        } => damaged(find(state, *job)?, *checkpoint, reason, now_ms),
        other => unreachable!("not a command of this module: {other:?}"),
    }
}

fn entry(job: &mut Job, id: CheckpointId) -> Result<&mut Checkpoint, Rejection> {
    let job_id = job.id;
    job.checkpoints
        .get_mut(&id)
        .ok_or_else(|| Rejection::NotFound(format!("job {job_id} has no checkpoint {id}")))
}

fn reserve(job: &mut Job, count: u64) -> Outcome {
    if count == 0 || count > CHECKPOINT_RESERVE_MAX {
        let text =
            format!("1 to {CHECKPOINT_RESERVE_MAX} checkpoint numbers are reserved at once, not {count}");
        return Err(Rejection::Limit(text));
    }
    let first = job.next_checkpoint;
    let Some(next) = first.0.checked_add(count) else {
        return Err(Rejection::Limit(format!(
            "job {} has no checkpoint numbers left",
            job.id
        )));
    };
    job.next_checkpoint = CheckpointId(next);
    Ok(Response::Checkpoints(first))
}

fn complete(state: &mut State, id: JobId, attempt: AttemptId, checkpoint: &Checkpoint) -> Outcome {
    let now_ms = state.now_ms;
    let job = find_live(state, id)?;
    require_current(job, Some(attempt))?;
    require_current(job, Some(checkpoint.attempt))?;
    let number = checkpoint.id;
    if let Some(known) = job.checkpoints.get(&number)
        && known.manifest_sha256 == checkpoint.manifest_sha256
        && known.attempt == attempt
    {
        // Proposed twice because the first answer was lost.
        return Ok(Response::Done);
    }
    if number <= job.checkpoint_stats.newest_completed {
        let newest = job.checkpoint_stats.newest_completed;
        let text = format!("checkpoint {number} of job {id} comes too late: {newest} is complete");
        return Err(Rejection::Conflict(text));
    }
    if number >= job.next_checkpoint {
        return Err(Rejection::Conflict(format!(
            "checkpoint {number} of job {id} was never reserved"
        )));
    }
    if job.checkpoints.len() >= CHECKPOINTS_PER_JOB_MAX || checkpoint.manifest_path.len() > NAME_BYTES_MAX {
        return Err(Rejection::Limit(format!(
            "job {id} has {} checkpoints of at most {CHECKPOINTS_PER_JOB_MAX}, with paths of at most \
             {NAME_BYTES_MAX} bytes",
            job.checkpoints.len()
        )));
    }
    let record = Checkpoint {
        completed_ms: now_ms,
        committed: !checkpoint.needs_commit,
        retired: false,
        damaged: false,
        ..checkpoint.clone()
    };
    let outcome = CheckpointOutcome {
        id: number,
        triggered_ms: record.triggered_ms,
        ended_ms: now_ms,
        state_bytes: record.state_bytes,
        failure: None,
    };
    job.checkpoints.insert(number, record);
    job.checkpoint_stats.newest_completed = number;
    job.checkpoint_stats.completed += 1;
    job.checkpoint_stats.failed_in_a_row = 0;
    push_outcome(job, outcome);
    Ok(Response::Done)
}

fn push_outcome(job: &mut Job, outcome: CheckpointOutcome) {
    let history = &mut job.checkpoint_stats.history;
    history.push_back(outcome);
    while history.len() > CHECKPOINT_HISTORY {
        history.pop_front();
    }
}

fn failed(
    job: &mut Job,
    id: CheckpointId,
    triggered_ms: UnixMillis,
    reason: &str,
    now_ms: UnixMillis,
) -> Outcome {
    if inject::bug(bugs::STALE_ABORT) {
        job.checkpoints.remove(&id);
    }
    if job.checkpoints.contains_key(&id) {
        return Err(Rejection::Conflict(format!(
            "checkpoint {id} of job {} is complete",
            job.id
        )));
    }
    if job.checkpoint_stats.history.iter().any(|o| o.id == id) {
        return Ok(Response::Done);
    }
    let stats = &mut job.checkpoint_stats;
    stats.failed += 1;
    stats.failed_in_a_row = stats.failed_in_a_row.saturating_add(1);
    let failure = Some(bounded(reason, EXCEPTION_TEXT_BYTES_MAX));
    push_outcome(
        job,
        CheckpointOutcome {
            id,
            triggered_ms,
            ended_ms: now_ms,
            state_bytes: 0,
            failure,
        },
    );
    Ok(Response::Done)
}

fn retire(job: &mut Job, ids: &[CheckpointId]) -> Outcome {
    // A job that can still restart keeps the checkpoint that it would restart from, and every one whose results
    // are not yet visible.
    if !job.status.is_terminal() {
        let newest = job.latest_restorable().map(|c| c.id);
        let kept = ids.iter().find(|id| {
            Some(**id) == newest
                || job
                    .checkpoints
                    .get(id)
                    .is_some_and(|c| !c.committed && !c.damaged)
        });
        if let Some(id) = kept {
            let text = format!(
                "checkpoint {id} of job {} is still needed for a restart or for commits",
                job.id
            );
            return Err(Rejection::Conflict(text));
        }
    }
    for id in ids {
        if let Some(checkpoint) = job.checkpoints.get_mut(id) {
            checkpoint.retired = true;
        }
    }
    Ok(Response::Done)
}

fn forget(job: &mut Job, ids: &[CheckpointId]) -> Outcome {
    let retained = ids
        .iter()
        .find(|id| job.checkpoints.get(id).is_some_and(|c| !c.retired));
    if let Some(id) = retained {
        return Err(Rejection::Conflict(format!(
            "checkpoint {id} of job {} is not retired",
            job.id
        )));
    }
    for id in ids {
        job.checkpoints.remove(id);
    }
    Ok(Response::Done)
}

fn damaged(job: &mut Job, id: CheckpointId, reason: &str, now_ms: UnixMillis) -> Outcome {
    let checkpoint = entry(job, id)?;
    if checkpoint.damaged {
        return Ok(Response::Done);
    }
    checkpoint.damaged = true;
    let failure = Failure {
        at_ms: now_ms,
        attempt_number: job.attempts,
        task: String::new(),
        worker: String::new(),
        message: bounded(
            &format!("checkpoint {id} cannot be restored and is passed over: {reason}"),
            EXCEPTION_TEXT_BYTES_MAX,
        ),
    };
    push_exception(job, failure);
    Ok(Response::Done)
}
