//! Where the leader's crash points lie (`holdfast_common::inject`): beside the core, which stays pure, just before its
//! effects are carried out. Constants in every release.

use super::input::FromWorker;
use holdfast_common::JobId;
use holdfast_common::inject::{pass, points};
use holdfast_machine::command::Command;
use holdfast_machine::state::{JobStatus, State};
use holdfast_proto::control::coordinator_message::Body;

/// A message is about to be sent to a worker.
pub(super) fn before_send(state: &State, body: &Body) {
    match body {
        Body::Welcome(_) => pass(points::LEADER_WELCOME),
        Body::Deploy(_) => pass(points::LEADER_DEPLOY),
        Body::Trigger(_) => pass(points::LEADER_TRIGGER),
        Body::Commit(_) => pass(points::LEADER_COMPLETED),
        Body::Cancel(m) if is_cancelling(state, &m.job_id) => pass(points::LEADER_CANCEL),
        _ => {}
    }
}

fn is_cancelling(state: &State, job: &[u8]) -> bool {
    JobId::from_bytes(job)
        .ok()
        .and_then(|id| state.jobs.get(&id))
        .is_some_and(|job| job.status == JobStatus::Cancelling)
}

/// A command is about to be proposed.
pub(super) fn before_proposal(command: &Command) {
    match command {
        Command::StartAttempt { .. } => pass(points::LEADER_START_ATTEMPT),
        Command::CompleteCheckpoint { .. } => pass(points::LEADER_COMPLETE),
        Command::CommitDone { .. } => pass(points::LEADER_COMMIT_DONE),
        Command::EndJob { .. } => pass(points::LEADER_END_JOB),
        _ => {}
    }
}

/// A worker's message has arrived.
pub(super) fn heard(message: &FromWorker) {
    if matches!(message, FromWorker::Ack { .. }) {
        pass(points::LEADER_ACK);
    }
}
