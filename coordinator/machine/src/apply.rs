//! Applying an entry: time, sessions and fencing, which all commands share; what a command does is in its subject's
//! module. A refused command changes nothing but the state's time.

use crate::command::{Command, Proposal, Rejection, Response};
use crate::state::State;
use crate::{checkpoints, jobs, kv, sessions, workers};
use holdfast_common::LeaderEpoch;
use holdfast_common::inject::{self, bugs};

/// What carrying a command out gives: an answer, or the reason why nothing was done.
pub(crate) type Outcome = Result<Response, Rejection>;

impl State {
    /// Applies the entry at `index`. Pure: equal states and entries give equal states and answers, everywhere.
    ///
    /// `index` must be greater than that of the last entry; an older one changes nothing.
    pub fn apply(&mut self, index: u64, proposal: &Proposal) -> Response {
        if index <= self.applied {
            let text = format!("entry {index} comes after entry {}", self.applied);
            return Response::Rejected(Rejection::Conflict(text));
        }
        self.applied = index;
        self.now_ms = self.now_ms.max(proposal.proposed_ms);
        match &proposal.session {
            Some(request) if !inject::bug(bugs::NO_DEDUP) => {
                sessions::apply_once(self, index, *request, &proposal.command)
            }
            _ => self.execute(index, &proposal.command),
        }
    }

    /// Takes note of an entry at `index` that is none of the application's (an empty one, or a membership).
    pub fn skip(&mut self, index: u64) {
        self.applied = self.applied.max(index);
    }

    /// The epoch of the newest claim; 0 if there was none.
    #[must_use]
    pub fn epoch(&self) -> LeaderEpoch {
        self.leader.as_ref().map_or(LeaderEpoch(0), |l| l.epoch)
    }

    pub(crate) fn execute(&mut self, index: u64, command: &Command) -> Response {
        let fenced = match command.epoch() {
            Some(given) if given != self.epoch() || given.0 == 0 => Err(Rejection::StaleEpoch {
                given,
                current: self.epoch(),
            }),
            _ => Ok(()),
        };
        fenced
            .and_then(|()| self.dispatch(index, command))
            .unwrap_or_else(Response::Rejected)
    }

    fn dispatch(&mut self, index: u64, command: &Command) -> Outcome {
        match command {
            Command::InitCluster { .. }
            | Command::ClaimLeader { .. }
            | Command::SetFeatureLevel { .. }
            | Command::RegisterWorker { .. }
            | Command::RemoveWorker { .. } => workers::dispatch(self, index, command),
            Command::OpenSession { client } => Ok(sessions::open(self, index, client)),
            Command::SubmitJob { .. }
            | Command::CancelJob { .. }
            | Command::StartAttempt { .. }
            | Command::AttemptRunning { .. }
            | Command::AttemptFailed { .. }
            | Command::EndJob { .. } => jobs::dispatch(self, index, command),
            Command::ReserveCheckpoints { .. }
            | Command::CompleteCheckpoint { .. }
            | Command::CommitDone { .. }
            | Command::CheckpointFailed { .. }
            | Command::RetireCheckpoints { .. }
            | Command::ForgetCheckpoints { .. }
            | Command::CheckpointDamaged { .. } => checkpoints::dispatch(self, command),
            Command::KvPut {
                key,
                value,
                if_revision,
            } => kv::put(self, index, key, value, *if_revision),
            Command::KvDelete { key } => kv::delete(self, key),
        }
    }
}

/// At most `bytes_max` bytes of `text`, cut between characters: stored texts are bounded.
pub(crate) fn bounded(text: &str, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text.to_owned();
    }
    let mut end = bytes_max;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
