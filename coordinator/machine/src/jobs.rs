//! Jobs and their attempts: the transitions that a job's status may make, and nothing of how tasks are run.
//!
//! ```text
//! CREATED ──► RUNNING ◄──► RESTARTING          any of these ──► CANCELLING ──► CANCELED
//!    └───────────┴─────────────┴──► FAILED     RUNNING ──► FINISHED (also from CANCELLING, if it was faster)
//! ```

use crate::apply::{Outcome, bounded};
use crate::command::{Command, Rejection, Response};
use crate::state::{Attempt, Failure, Job, JobStatus, SlotAssignment, State};
use holdfast_common::clock::UnixMillis;
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::{
    ACTIVE_JOBS_MAX, ENDED_JOBS_MAX, EXCEPTION_TEXT_BYTES_MAX, EXCEPTIONS_PER_JOB, FAILURE_TIMES_PER_JOB,
    LAST_REPORTS_BYTES_MAX, MAX_PARALLELISM_MAX, NAME_BYTES_MAX, SQL_TEXT_BYTES_MAX,
};
use holdfast_common::{AttemptId, CheckpointId, JobId};
use prost::bytes::Bytes;
use std::collections::VecDeque;
use std::sync::Arc;

pub(crate) fn dispatch(state: &mut State, index: u64, command: &Command) -> Outcome {
    match command {
        Command::SubmitJob { .. } => submit(state, command),
        Command::CancelJob { job } => cancel(state, *job),
        Command::StartAttempt {
            job,
            replaces,
            assignment,
            restore,
            ..
        } => start_attempt(state, index, *job, *replaces, assignment, *restore),
        Command::AttemptRunning { job, attempt, .. } => attempt_running(state, *job, *attempt),
        Command::AttemptFailed {
            job,
            attempt,
            failure,
            terminal,
            restart_at_ms,
            last_reports,
            ..
        } => {
            let next = match terminal {
                true => Next::Failed(last_reports),
                false => Next::RestartAt(*restart_at_ms),
            };
            attempt_failed(state, *job, *attempt, failure, next)
        }
        Command::EndJob {
            job,
            status,
            reason,
            last_reports,
            ..
        } => end(state, *job, *status, reason, last_reports),
        other => unreachable!("not a command of this module: {other:?}"),
    }
}

/// The job, or the rejection that says that there is none.
pub(crate) fn find(state: &mut State, job: JobId) -> Result<&mut Job, Rejection> {
    state
        .jobs
        .get_mut(&job)
        .map(Arc::make_mut)
        .ok_or_else(|| Rejection::NotFound(format!("there is no job {job}")))
}

/// The job, unless it has ended.
pub(crate) fn find_live(state: &mut State, job: JobId) -> Result<&mut Job, Rejection> {
    let found = find(state, job)?;
    if found.status.is_terminal() {
        return Err(Rejection::Conflict(format!(
            "job {job} has ended: it is {}",
            found.status.as_str()
        )));
    }
    Ok(found)
}

/// Refuses any attempt but the current one.
pub(crate) fn require_current(job: &Job, given: Option<AttemptId>) -> Result<(), Rejection> {
    let current = job.attempt.as_ref().map(|a| a.id);
    if given == current {
        Ok(())
    } else {
        Err(Rejection::StaleAttempt { given, current })
    }
}

/// Records an exception, bounded in number and size.
pub(crate) fn push_exception(job: &mut Job, failure: Failure) {
    job.exceptions.push_back(failure);
    while job.exceptions.len() > EXCEPTIONS_PER_JOB {
        job.exceptions.pop_front();
    }
}

fn set_status(job: &mut Job, status: JobStatus, now_ms: UnixMillis) {
    if job.status != status {
        job.status = status;
        job.status_ms = now_ms;
    }
}

fn submit(state: &mut State, command: &Command) -> Outcome {
    let Command::SubmitJob {
        job: id,
        name,
        sql,
        settings,
        fingerprint,
        parallelism,
        max_parallelism,
        idempotency_key,
    } = command
    else {
        unreachable!("called for SubmitJob only");
    };
    let earlier = idempotency_key
        .as_ref()
        .and_then(|key| state.submissions.get(key))
        .filter(|_| !inject::bug(bugs::SUBMIT_TWICE))
        .copied();
    if let Some(job) = earlier {
        return Ok(Response::Submitted { job, existing: true });
    }
    if state.jobs.contains_key(id) {
        // Identifiers are drawn at random per submission: the same one is the same submission, proposed again.
        return Ok(Response::Submitted {
            job: *id,
            existing: true,
        });
    }
    admit(
        state,
        name,
        sql,
        *parallelism,
        *max_parallelism,
        idempotency_key.as_deref(),
    )?;
    let job = Job {
        id: *id,
        name: name.clone(),
        sql: sql.clone(),
        settings: settings.clone(),
        fingerprint: fingerprint.clone(),
        parallelism: *parallelism,
        max_parallelism: *max_parallelism,
        status: JobStatus::Created,
        status_ms: state.now_ms,
        submitted_ms: state.now_ms,
        ended_ms: None,
        attempt: None,
        attempts: 0,
        restart_at_ms: 0,
        failure_times_ms: VecDeque::new(),
        exceptions: VecDeque::new(),
        next_checkpoint: CheckpointId(1),
        checkpoints: std::collections::BTreeMap::new(),
        checkpoint_stats: crate::state::CheckpointStats::default(),
        idempotency_key: idempotency_key.clone(),
        last_reports: Bytes::new(),
    };
    state.jobs.insert(*id, Arc::new(job));
    if let Some(key) = idempotency_key {
        state.submissions.insert(key.clone(), *id);
    }
    Ok(Response::Submitted {
        job: *id,
        existing: false,
    })
}

fn admit(
    state: &State,
    name: &str,
    sql: &str,
    parallelism: u32,
    max_parallelism: u32,
    key: Option<&str>,
) -> Result<(), Rejection> {
    let limit = |text: String| Err(Rejection::Limit(text));
    if sql.len() > SQL_TEXT_BYTES_MAX {
        return limit(format!(
            "the script has {} bytes, at most {SQL_TEXT_BYTES_MAX} are stored",
            sql.len()
        ));
    }
    if name.len() > NAME_BYTES_MAX || key.is_some_and(|k| k.is_empty() || k.len() > NAME_BYTES_MAX) {
        return limit(format!(
            "a job's name and its idempotency key have at most {NAME_BYTES_MAX} bytes"
        ));
    }
    if parallelism == 0 || parallelism > max_parallelism || max_parallelism > MAX_PARALLELISM_MAX {
        return limit(format!(
            "parallelism {parallelism} and max parallelism {max_parallelism} must be in 1 <= parallelism <= max \
             parallelism <= {MAX_PARALLELISM_MAX}"
        ));
    }
    let active = state.jobs.values().filter(|j| !j.status.is_terminal()).count();
    if active >= ACTIVE_JOBS_MAX {
        return limit(format!("{ACTIVE_JOBS_MAX} jobs are active already"));
    }
    Ok(())
}

fn cancel(state: &mut State, id: JobId) -> Outcome {
    let now_ms = state.now_ms;
    let job = find(state, id)?;
    match job.status {
        JobStatus::Cancelling | JobStatus::Canceled => Ok(Response::Done),
        JobStatus::Finished | JobStatus::Failed => Err(Rejection::Conflict(format!(
            "job {id} cannot be cancelled: it is {} already",
            job.status.as_str()
        ))),
        JobStatus::Created | JobStatus::Running | JobStatus::Restarting => {
            set_status(job, JobStatus::Cancelling, now_ms);
            Ok(Response::Done)
        }
    }
}

fn start_attempt(
    state: &mut State,
    index: u64,
    id: JobId,
    replaces: Option<AttemptId>,
    assignment: &[SlotAssignment],
    restore: Option<CheckpointId>,
) -> Outcome {
    let now_ms = state.now_ms;
    let job = find_live(state, id)?;
    require_current(job, replaces)?;
    if job.status == JobStatus::Cancelling {
        return Err(Rejection::Conflict(format!("job {id} is being cancelled")));
    }
    if assignment.len() != job.parallelism as usize {
        let text = format!(
            "job {id} needs {} slots, {} are assigned",
            job.parallelism,
            assignment.len()
        );
        return Err(Rejection::Conflict(text));
    }
    // Anything but the newest would do work again whose results are visible, or skip work: a checkpoint that completed
    // while the leader was deciding must not be passed over.
    let newest = job.latest_restorable().map(|c| c.id);
    if restore != newest {
        let text =
            format!("job {id} must be restored from {newest:?}, its newest checkpoint, not {restore:?}");
        return Err(Rejection::Conflict(text));
    }
    job.attempts = job.attempts.saturating_add(1);
    job.attempt = Some(Attempt {
        id: AttemptId(index),
        number: job.attempts,
        assignment: assignment.to_vec(),
        restored: restore,
        started_ms: now_ms,
        running_ms: None,
    });
    job.checkpoint_stats.restored += u64::from(restore.is_some());
    if job.status == JobStatus::Running {
        set_status(job, JobStatus::Restarting, now_ms);
    }
    Ok(Response::Attempt(AttemptId(index)))
}

fn attempt_running(state: &mut State, id: JobId, attempt: AttemptId) -> Outcome {
    let now_ms = state.now_ms;
    let job = find_live(state, id)?;
    require_current(job, Some(attempt))?;
    match job.status {
        JobStatus::Running => return Ok(Response::Done),
        JobStatus::Created | JobStatus::Restarting => {}
        _ => {
            return Err(Rejection::Conflict(format!(
                "job {id} is {}",
                job.status.as_str()
            )));
        }
    }
    let Some(current) = job.attempt.as_mut() else {
        return Err(Rejection::StaleAttempt {
            given: Some(attempt),
            current: None,
        });
    };
    if current.running_ms.is_some() {
        // It ran before and has failed since: only a new attempt can run again.
        return Err(Rejection::Conflict(format!(
            "attempt {attempt} of job {id} has failed"
        )));
    }
    current.running_ms = Some(now_ms);
    set_status(job, JobStatus::Running, now_ms);
    Ok(Response::Done)
}

/// What follows a failed attempt.
enum Next<'a> {
    /// The job's end, with what was reported last.
    Failed(&'a Bytes),
    /// Another attempt, not before this.
    RestartAt(UnixMillis),
}

fn attempt_failed(
    state: &mut State,
    id: JobId,
    attempt: Option<AttemptId>,
    failure: &Failure,
    next: Next<'_>,
) -> Outcome {
    let now_ms = state.now_ms;
    let job = find_live(state, id)?;
    require_current(job, attempt)?;
    let failure = bounded_failure(failure);
    let repeated = job.exceptions.back() == Some(&failure);
    if !repeated {
        push_exception(job, failure);
        job.failure_times_ms.push_back(now_ms);
        while job.failure_times_ms.len() > FAILURE_TIMES_PER_JOB {
            job.failure_times_ms.pop_front();
        }
    }
    if job.status == JobStatus::Cancelling {
        // Its tasks were to stop anyway; the leader ends the job.
        return Ok(Response::Done);
    }
    match next {
        Next::Failed(last_reports) => {
            finish(job, JobStatus::Failed, now_ms, last_reports);
            bound_ended(state);
            return Ok(Response::Done);
        }
        Next::RestartAt(at_ms) => job.restart_at_ms = at_ms,
    }
    // What has failed cannot come to run any more, even if it failed while deploying.
    if let Some(current) = job.attempt.as_mut() {
        current.running_ms.get_or_insert(now_ms);
    }
    set_status(job, JobStatus::Restarting, now_ms);
    Ok(Response::Done)
}

fn bounded_failure(failure: &Failure) -> Failure {
    Failure {
        at_ms: failure.at_ms,
        attempt_number: failure.attempt_number,
        task: bounded(&failure.task, NAME_BYTES_MAX),
        worker: bounded(&failure.worker, NAME_BYTES_MAX),
        message: bounded(&failure.message, EXCEPTION_TEXT_BYTES_MAX),
    }
}

fn end(state: &mut State, id: JobId, status: JobStatus, reason: &str, last_reports: &Bytes) -> Outcome {
    let now_ms = state.now_ms;
    let job = find(state, id)?;
    if job.status == status && status.is_terminal() {
        return Ok(Response::Done);
    }
    let refused = |why: &str| {
        let (from, to) = (job.status.as_str(), status.as_str());
        Err(Rejection::Conflict(format!(
            "job {id} cannot go from {from} to {to}: {why}"
        )))
    };
    if !status.is_terminal() {
        return refused("a job ends as FINISHED, CANCELED or FAILED");
    }
    if job.status.is_terminal() {
        return refused("it has ended already");
    }
    if status == JobStatus::Canceled && job.status != JobStatus::Cancelling {
        return refused("nobody has cancelled it");
    }
    if status == JobStatus::Finished {
        let complete = job
            .checkpoints
            .values()
            .next_back()
            .is_some_and(|c| c.is_final && c.committed);
        if !complete {
            return refused("its newest checkpoint is not final and committed");
        }
    }
    if status == JobStatus::Failed && !reason.is_empty() {
        let attempt_number = job.attempts;
        let failure = Failure {
            at_ms: now_ms,
            attempt_number,
            task: String::new(),
            worker: String::new(),
            message: bounded(reason, EXCEPTION_TEXT_BYTES_MAX),
        };
        push_exception(job, failure);
    }
    finish(job, status, now_ms, last_reports);
    bound_ended(state);
    Ok(Response::Done)
}

fn finish(job: &mut Job, status: JobStatus, now_ms: UnixMillis, last_reports: &Bytes) {
    if last_reports.len() <= LAST_REPORTS_BYTES_MAX {
        job.last_reports = last_reports.clone();
    }
    set_status(job, status, now_ms);
    job.ended_ms = Some(now_ms);
    job.restart_at_ms = 0;
}

/// Drops the oldest ended jobs beyond the limit; first those whose checkpoints are collected, since a job's record is
/// what the collector finds its objects by.
fn bound_ended(state: &mut State) {
    let ended = state.jobs.values().filter(|j| j.status.is_terminal());
    if ended.clone().count() <= ENDED_JOBS_MAX {
        return;
    }
    let oldest = ended
        .min_by_key(|j| (!j.checkpoints.is_empty(), j.ended_ms, j.id))
        .map(|j| j.id);
    let dropped = oldest.and_then(|id| state.jobs.remove(&id));
    if let Some(key) = dropped.and_then(|job| job.idempotency_key.clone()) {
        state.submissions.remove(&key);
    }
}
