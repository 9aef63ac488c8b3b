//! Single requests to the key-value service of one coordinator, with a deadline; nothing is retried here.

use super::client::Node;
use crate::check::coverage::NOT_THE_LEADER;
use holdfast_proto::client as pb;
use holdfast_proto::client::client_client::ClientClient;
use std::collections::HashMap;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

/// Deadline of a request: above any election that goes well, below what would make a short run silent.
pub(super) const DEADLINE: Duration = Duration::from_millis(1000);

/// Why a request was not served.
#[derive(Debug, Clone)]
pub(super) enum Trouble {
    /// It certainly had no effect; the leader's address, if the answer named one.
    Refused { reason: String, leader: Option<String> },
    /// It may have an effect, now or later.
    Unknown(String),
}

/// What a write came to.
#[derive(Debug, Clone)]
pub(super) enum Written {
    Applied {
        index: u64,
        revision: u64,
    },
    /// The compare did not hold.
    Mismatch {
        revision: u64,
    },
    /// The session, or the answer to this request, is not known any more.
    Forgotten(String),
}

/// What a read saw.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) value: Option<String>,
    pub(super) revision: u64,
    pub(super) applied: u64,
}

/// A write with its session; session 0 is none.
#[derive(Debug, Clone)]
pub(super) struct Put {
    pub(super) session: u64,
    pub(super) seq: u64,
    pub(super) acked_up_to: u64,
    pub(super) key: String,
    pub(super) value: String,
    pub(super) if_revision: Option<u64>,
}

/// Connections to the coordinators, one each, made anew after any trouble.
#[derive(Default)]
pub(super) struct Connections {
    open: HashMap<String, ClientClient<Channel>>,
}

fn not_leader(answer: pb::NotLeader) -> Trouble {
    let leader = Some(answer.leader_rpc).filter(|rpc| !rpc.is_empty());
    Trouble::Refused {
        reason: format!("{NOT_THE_LEADER}{}", answer.reason),
        leader,
    }
}

fn empty() -> Trouble {
    Trouble::Unknown("an answer without content".to_owned())
}

impl Connections {
    async fn connect(&mut self, node: &Node) -> Result<ClientClient<Channel>, Trouble> {
        if let Some(client) = self.open.get(&node.name) {
            return Ok(client.clone());
        }
        let refused = |reason: String| Trouble::Refused { reason, leader: None };
        let endpoint =
            Endpoint::from_shared(format!("http://{}", node.rpc)).map_err(|e| refused(e.to_string()))?;
        let connecting = endpoint.connect_timeout(DEADLINE).tcp_nodelay(true);
        // Without a connection nothing was sent.
        let channel = match tokio::time::timeout(DEADLINE, connecting.connect()).await {
            Ok(Ok(channel)) => channel,
            Ok(Err(error)) => return Err(refused(format!("no connection to {}: {error}", node.name))),
            Err(_) => {
                return Err(refused(format!(
                    "no connection to {} within {DEADLINE:?}",
                    node.name
                )));
            }
        };
        let client = ClientClient::new(channel);
        self.open.insert(node.name.clone(), client.clone());
        Ok(client)
    }

    /// Sorts a failed request; the connection is not used again.
    fn failed(&mut self, node: &Node, status: &Status) -> Trouble {
        let reason = format!("{}: {:?} {}", node.name, status.code(), status.message());
        match status.code() {
            Code::ResourceExhausted | Code::InvalidArgument | Code::Unimplemented => {
                Trouble::Refused { reason, leader: None }
            }
            _ => {
                self.open.remove(&node.name);
                Trouble::Unknown(reason)
            }
        }
    }

    fn late(&mut self, node: &Node) -> Trouble {
        self.open.remove(&node.name);
        Trouble::Unknown(format!("{}: no answer within {DEADLINE:?}", node.name))
    }

    pub(super) async fn open_session(&mut self, node: &Node, client: &str) -> Result<u64, Trouble> {
        use pb::open_session_response::Result as Wire;
        let mut connection = self.connect(node).await?;
        let request = pb::OpenSessionRequest {
            client: client.to_owned(),
        };
        match tokio::time::timeout(DEADLINE, connection.open_session(request)).await {
            Ok(Ok(answer)) => match answer.into_inner().result.ok_or_else(empty)? {
                Wire::Session(session) => Ok(session),
                Wire::NotLeader(answer) => Err(not_leader(answer)),
            },
            Ok(Err(status)) => Err(self.failed(node, &status)),
            Err(_) => Err(self.late(node)),
        }
    }

    pub(super) async fn put(&mut self, node: &Node, put: &Put) -> Result<Written, Trouble> {
        use pb::execute_request::Command;
        use pb::execute_response::Result as Wire;
        let mut connection = self.connect(node).await?;
        let request = pb::ExecuteRequest {
            session: put.session,
            seq: put.seq,
            acked_up_to: put.acked_up_to,
            command: Some(Command::KvPut(pb::KvPut {
                key: put.key.clone(),
                value: put.value.clone().into_bytes().into(),
                if_revision: put.if_revision,
            })),
        };
        match tokio::time::timeout(DEADLINE, connection.execute(request)).await {
            Ok(Ok(answer)) => match answer.into_inner().result.ok_or_else(empty)? {
                Wire::Applied(done) => Ok(Written::Applied {
                    index: done.index,
                    revision: done.revision,
                }),
                Wire::NotLeader(answer) => Err(not_leader(answer)),
                Wire::Rejected(rejected) => judge(&rejected),
            },
            Ok(Err(status)) => Err(self.failed(node, &status)),
            Err(_) => Err(self.late(node)),
        }
    }

    pub(super) async fn read(&mut self, node: &Node, key: &str, stale: bool) -> Result<Seen, Trouble> {
        use pb::read_response::Result as Wire;
        let mut connection = self.connect(node).await?;
        let consistency = if stale {
            pb::Consistency::Stale
        } else {
            pb::Consistency::Linearizable
        };
        let request = pb::ReadRequest {
            key: key.to_owned(),
            consistency: consistency.into(),
        };
        match tokio::time::timeout(DEADLINE, connection.read(request)).await {
            Ok(Ok(answer)) => match answer.into_inner().result.ok_or_else(empty)? {
                Wire::Value(value) => Ok(Seen {
                    value: value
                        .found
                        .then(|| String::from_utf8_lossy(&value.value).into_owned()),
                    revision: value.revision,
                    applied: value.applied,
                }),
                Wire::NotLeader(answer) => Err(not_leader(answer)),
            },
            Ok(Err(status)) => Err(self.failed(node, &status)),
            Err(_) => Err(self.late(node)),
        }
    }
}

fn judge(rejected: &pb::Rejected) -> Result<Written, Trouble> {
    use pb::rejected::Kind;
    let reason = rejected.message.clone();
    match rejected.kind() {
        Kind::Revision => Ok(Written::Mismatch {
            revision: rejected.revision,
        }),
        Kind::Session | Kind::Forgotten => Ok(Written::Forgotten(reason)),
        Kind::Limit | Kind::Other | Kind::Unspecified => Err(Trouble::Refused { reason, leader: None }),
    }
}
