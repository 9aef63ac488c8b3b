//! The key-value service on every coordinator's gRPC port, for users, drills and benchmarks.

use crate::api::{Applied, Leadership, ProposeError};
use crate::core::Core;
use holdfast_common::limits::NAME_BYTES_MAX;
use holdfast_machine::{Command, Proposal, Rejection, Response as Answer, SessionSeq};
use holdfast_proto::client as pb;
use holdfast_proto::client::client_server::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status};

/// How long a request waits here while nobody is known to lead: about as long as votes take, or a hand-over. In a longer
/// time without a leader the client had better ask somebody else.
const WITHOUT_LEADER: Duration = Duration::from_millis(50);

/// The service.
#[derive(Clone)]
pub(crate) struct ClientService {
    pub(crate) core: Arc<Core>,
}

/// What the client is told instead of an answer.
enum Refusal {
    NotLeader(pb::NotLeader),
    Status(Status),
}

/// The moment in which nobody is known to lead.
struct Settling {
    until: Instant,
    leadership: watch::Receiver<Leadership>,
}

impl Settling {
    fn new(leadership: &watch::Sender<Leadership>) -> Self {
        Self {
            until: Instant::now() + WITHOUT_LEADER,
            leadership: leadership.subscribe(),
        }
    }

    /// Whether to ask again: nobody was known to lead, by whom the request would have been taken, and now it may be
    /// different. Whoever is told so was refused: nothing is done twice.
    async fn has_changed<T>(&mut self, answer: &Result<T, ProposeError>) -> bool {
        let nobody = matches!(answer, Err(ProposeError::NotLeader { leader: None }));
        // A change that was there before the time was over would be taken after it too.
        nobody
            && Instant::now() < self.until
            && matches!(
                timeout_at(self.until, self.leadership.changed()).await,
                Ok(Ok(()))
            )
    }
}

impl ClientService {
    fn refusal(&self, error: &ProposeError) -> Refusal {
        match error {
            ProposeError::NotLeader { leader } => {
                let addr = leader.and_then(|l| self.core.addr_of(l.0));
                Refusal::NotLeader(pb::NotLeader {
                    leader: leader.map(|l| l.0),
                    leader_rpc: addr.map_or_else(String::new, |a| a.rpc),
                    reason: error.to_string(),
                })
            }
            ProposeError::Busy => Refusal::Status(Status::resource_exhausted(error.to_string())),
            ProposeError::TooLarge { .. } => Refusal::Status(Status::invalid_argument(error.to_string())),
            // May have happened: only a session makes a retry safe.
            ProposeError::Unknown(_) => Refusal::Status(Status::unknown(error.to_string())),
            ProposeError::Stopped(_) => Refusal::Status(Status::unavailable(error.to_string())),
        }
    }

    async fn propose(&self, proposal: Proposal) -> Result<Applied, Refusal> {
        let mut settling = Settling::new(&self.core.leadership);
        loop {
            let answer = self.core.propose(proposal.clone()).await;
            if !settling.has_changed(&answer).await {
                return answer.map_err(|error| self.refusal(&error));
            }
        }
    }

    async fn read_index(&self) -> Result<u64, Refusal> {
        let mut settling = Settling::new(&self.core.leadership);
        loop {
            let answer = self.core.read_index().await;
            if !settling.has_changed(&answer).await {
                return answer.map_err(|error| self.refusal(&error));
            }
        }
    }

    fn proposal(&self, session: Option<SessionSeq>, command: Command) -> Proposal {
        Proposal {
            proposed_ms: self.core.clock.now_ms(),
            session,
            command,
        }
    }
}

fn rejected(rejection: &Rejection) -> pb::Rejected {
    use pb::rejected::Kind;
    let (kind, revision) = match rejection {
        Rejection::Revision { current, .. } => (Kind::Revision, *current),
        Rejection::NotFound(_) => (Kind::Session, 0),
        Rejection::Forgotten { .. } => (Kind::Forgotten, 0),
        Rejection::Limit(_) => (Kind::Limit, 0),
        Rejection::StaleEpoch { .. } | Rejection::StaleAttempt { .. } | Rejection::Conflict(_) => {
            (Kind::Other, 0)
        }
    };
    pb::Rejected {
        kind: kind.into(),
        message: rejection.to_string(),
        revision,
    }
}

#[tonic::async_trait]
impl Client for ClientService {
    async fn open_session(
        &self,
        request: Request<pb::OpenSessionRequest>,
    ) -> Result<Response<pb::OpenSessionResponse>, Status> {
        use pb::open_session_response::Result as Wire;
        let client = request.into_inner().client;
        if client.len() > NAME_BYTES_MAX {
            return Err(Status::invalid_argument(format!(
                "a client's name has at most {NAME_BYTES_MAX} bytes"
            )));
        }
        let proposal = self.proposal(None, Command::OpenSession { client });
        let result = match self.propose(proposal).await {
            Ok(applied) => match applied.response {
                Answer::Session(session) => Wire::Session(session),
                other => return Err(Status::internal(format!("unexpected answer {other:?}"))),
            },
            Err(Refusal::NotLeader(not_leader)) => Wire::NotLeader(not_leader),
            Err(Refusal::Status(status)) => return Err(status),
        };
        Ok(Response::new(pb::OpenSessionResponse { result: Some(result) }))
    }

    async fn execute(
        &self,
        request: Request<pb::ExecuteRequest>,
    ) -> Result<Response<pb::ExecuteResponse>, Status> {
        use pb::execute_request::Command as Wanted;
        use pb::execute_response::Result as Wire;
        let request = request.into_inner();
        let session = (request.session != 0).then_some(SessionSeq {
            session: request.session,
            seq: request.seq,
            acked_up_to: request.acked_up_to,
        });
        let command = match request.command {
            Some(Wanted::KvPut(put)) => Command::KvPut {
                key: put.key,
                value: put.value,
                if_revision: put.if_revision,
            },
            Some(Wanted::KvDelete(delete)) => Command::KvDelete { key: delete.key },
            None => {
                return Err(Status::invalid_argument(
                    "the request has no command that this version knows",
                ));
            }
        };
        let proposal = self.proposal(session, command);
        let result = match self.propose(proposal).await {
            Ok(applied) => match applied.response {
                Answer::Rejected(rejection) => Wire::Rejected(rejected(&rejection)),
                Answer::Kv(entry) => Wire::Applied(pb::Applied {
                    index: applied.index,
                    revision: entry.revision,
                }),
                _ => Wire::Applied(pb::Applied {
                    index: applied.index,
                    revision: 0,
                }),
            },
            Err(Refusal::NotLeader(not_leader)) => Wire::NotLeader(not_leader),
            Err(Refusal::Status(status)) => return Err(status),
        };
        Ok(Response::new(pb::ExecuteResponse { result: Some(result) }))
    }

    async fn read(&self, request: Request<pb::ReadRequest>) -> Result<Response<pb::ReadResponse>, Status> {
        use pb::read_response::Result as Wire;
        let request = request.into_inner();
        let consistency = pb::Consistency::try_from(request.consistency)
            .map_err(|_| Status::invalid_argument("this version does not know that consistency"))?;
        if consistency == pb::Consistency::Linearizable {
            match self.read_index().await {
                Ok(_) => {}
                Err(Refusal::NotLeader(not_leader)) => {
                    let result = Some(Wire::NotLeader(not_leader));
                    return Ok(Response::new(pb::ReadResponse { result }));
                }
                Err(Refusal::Status(status)) => return Err(status),
            }
        }
        let state = self.core.view.state.load_full();
        let entry = state.kv.get(&request.key);
        let value = pb::Value {
            found: entry.is_some(),
            value: entry.map_or_else(Default::default, |e| e.value.clone()),
            revision: entry.map_or(0, |e| e.revision),
            applied: state.applied,
        };
        Ok(Response::new(pb::ReadResponse {
            result: Some(Wire::Value(value)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_common::NodeId;

    #[tokio::test(start_paused = true)]
    async fn a_request_waits_for_a_leader_that_is_about_to_be_known() {
        let leadership = watch::Sender::new(Leadership::default());
        let nobody: Result<(), _> = Err(ProposeError::NotLeader { leader: None });
        let mut settling = Settling::new(&leadership);
        leadership.send_modify(|_| {});
        assert!(settling.has_changed(&nobody).await);

        // Who is sent elsewhere goes at once, even if something has changed.
        let mut settling = Settling::new(&leadership);
        leadership.send_modify(|_| {});
        let leader = Some(NodeId(2));
        let elsewhere: Result<(), _> = Err(ProposeError::NotLeader { leader });
        assert!(!settling.has_changed(&elsewhere).await);
        assert!(!settling.has_changed(&Ok(())).await);

        // Not for ever: neither without a change, nor with one after another.
        let mut settling = Settling::new(&leadership);
        assert!(!settling.has_changed(&nobody).await);
        assert!(settling.until <= Instant::now());
        leadership.send_modify(|_| {});
        assert!(!settling.has_changed(&nobody).await);
    }
}
