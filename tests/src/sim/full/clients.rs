//! Clients of the key-value service: each a host of its own that writes, compares, reads, one request after the other,
//! and writes down what it asked and was told.

use super::determinism::Dice;
use super::history::{Asked, History, Told};
use super::trace;
use holdfast_proto::client as pb;
use holdfast_proto::client::client_client::ClientClient;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;
use tonic::transport::{Channel, Endpoint};

/// After this, the answer counts as lost and the connection as dead.
const DEADLINE: Duration = Duration::from_millis(700);
/// Keys in use: few, so that clients meet.
const KEYS: u64 = 4;

/// What clients share with the harness.
#[derive(Clone, Default)]
pub struct Shared {
    /// What was asked and told.
    pub history: Rc<RefCell<History>>,
    /// No more questions.
    pub stop: Rc<Cell<bool>>,
}

/// One answer to one message.
enum Answer {
    Session(u64),
    Told(Told),
    /// Ask this one.
    Elsewhere(String),
    /// The session is gone.
    NoSession,
    Nothing,
}

struct Client {
    number: usize,
    coordinators: Vec<String>,
    at: String,
    channel: Option<ClientClient<Channel>>,
    session: u64,
    seq: u64,
    dice: Dice,
    shared: Shared,
    /// Revisions seen, for compares.
    seen: BTreeMap<String, u64>,
    written: u64,
}

/// Runs a client until the harness stops it.
pub async fn run(number: usize, coordinators: Vec<String>, seed: u64, shared: Shared) {
    let at = coordinators[number % coordinators.len()].clone();
    let mut client = Client {
        number,
        at,
        coordinators,
        channel: None,
        session: 0,
        seq: 0,
        dice: Dice::new(seed, &format!("client {number}")),
        shared,
        seen: BTreeMap::new(),
        written: 0,
    };
    while !client.shared.stop.get() {
        client.one().await;
        let pause = client.dice.between(5, 60);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

impl Client {
    async fn one(&mut self) {
        if self.session == 0 && !self.open_session().await {
            return;
        }
        let key = format!("key-{}", self.dice.below(KEYS));
        let (asked, value) = match self.dice.below(10) {
            0..4 => (Asked::Read, Vec::new()),
            4..7 => (Asked::Put, self.value()),
            _ => {
                let expected = self.seen.get(&key).copied().unwrap_or(0);
                (Asked::Cas(expected), self.value())
            }
        };
        let number = self
            .shared
            .history
            .borrow_mut()
            .invoke(self.number, &key, asked.clone(), value.clone());
        self.seq += 1;
        let told = self.until_told(&key, &asked, &value).await;
        if let Told::Written(revision) | Told::Differs(revision) | Told::Saw(revision, _) = &told {
            self.seen.insert(key, *revision);
        }
        if told != Told::Unknown {
            self.shared.history.borrow_mut().complete(number, told);
        }
    }

    fn value(&mut self) -> Vec<u8> {
        self.written += 1;
        format!("{}-{}", self.number, self.written).into_bytes()
    }

    /// Asks again and again with the same number until there is an answer.
    async fn until_told(&mut self, key: &str, asked: &Asked, value: &[u8]) -> Told {
        while !self.shared.stop.get() {
            let answer = match asked {
                Asked::Read => self.read(key).await,
                Asked::Put => self.write(key, value, None).await,
                Asked::Cas(expected) => self.write(key, value, Some(*expected)).await,
            };
            match answer {
                Answer::Told(told) => return told,
                Answer::NoSession => {
                    trace::count("sessions lost", 1);
                    self.session = 0;
                    return Told::Unknown;
                }
                Answer::Elsewhere(_) | Answer::Session(_) | Answer::Nothing => self.move_on(answer).await,
            }
        }
        Told::Unknown
    }

    async fn open_session(&mut self) -> bool {
        while !self.shared.stop.get() {
            let request = pb::OpenSessionRequest {
                client: format!("client-{}", self.number),
            };
            let mut channel = self.channel();
            let answer = match tokio::time::timeout(DEADLINE, channel.open_session(request)).await {
                Ok(Ok(response)) => match response.into_inner().result {
                    Some(pb::open_session_response::Result::Session(session)) => Answer::Session(session),
                    Some(pb::open_session_response::Result::NotLeader(n)) => Answer::Elsewhere(n.leader_rpc),
                    None => Answer::Nothing,
                },
                Ok(Err(_)) => Answer::Nothing,
                Err(_) => self.hang_up(),
            };
            if let Answer::Session(session) = answer {
                self.session = session;
                self.seq = 0;
                return true;
            }
            self.move_on(answer).await;
        }
        false
    }

    async fn write(&mut self, key: &str, value: &[u8], if_revision: Option<u64>) -> Answer {
        use pb::execute_response::Result as Wire;
        let request = pb::ExecuteRequest {
            session: self.session,
            seq: self.seq,
            acked_up_to: self.seq - 1,
            command: Some(pb::execute_request::Command::KvPut(pb::KvPut {
                key: key.to_owned(),
                value: value.to_vec().into(),
                if_revision,
            })),
        };
        let mut channel = self.channel();
        match tokio::time::timeout(DEADLINE, channel.execute(request)).await {
            Ok(Ok(response)) => match response.into_inner().result {
                Some(Wire::Applied(applied)) => Answer::Told(Told::Written(applied.revision)),
                Some(Wire::NotLeader(not_leader)) => Answer::Elsewhere(not_leader.leader_rpc),
                Some(Wire::Rejected(rejected)) => match rejected.kind() {
                    pb::rejected::Kind::Revision => Answer::Told(Told::Differs(rejected.revision)),
                    pb::rejected::Kind::Session | pb::rejected::Kind::Forgotten => Answer::NoSession,
                    _ => Answer::Told(Told::NotDone),
                },
                None => Answer::Nothing,
            },
            Ok(Err(_)) => Answer::Nothing,
            Err(_) => self.hang_up(),
        }
    }

    async fn read(&mut self, key: &str) -> Answer {
        use pb::read_response::Result as Wire;
        let request = pb::ReadRequest {
            key: key.to_owned(),
            consistency: pb::Consistency::Linearizable.into(),
        };
        let mut channel = self.channel();
        match tokio::time::timeout(DEADLINE, channel.read(request)).await {
            Ok(Ok(response)) => match response.into_inner().result {
                Some(Wire::Value(value)) => Answer::Told(Told::Saw(value.revision, value.value.to_vec())),
                Some(Wire::NotLeader(not_leader)) => Answer::Elsewhere(not_leader.leader_rpc),
                None => Answer::Nothing,
            },
            Ok(Err(_)) => Answer::Nothing,
            Err(_) => self.hang_up(),
        }
    }

    /// A deadline has passed: whatever hangs on this connection would hang again.
    fn hang_up(&mut self) -> Answer {
        self.channel = None;
        Answer::Nothing
    }

    async fn move_on(&mut self, answer: Answer) {
        let next = match answer {
            Answer::Elsewhere(addr) if !addr.is_empty() => addr,
            _ => self.dice.choose(&self.coordinators).clone(),
        };
        if next != self.at {
            self.at = next;
            self.channel = None;
        }
        let pause = self.dice.between(10, 40);
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }

    fn channel(&mut self) -> ClientClient<Channel> {
        let at = &self.at;
        self.channel
            .get_or_insert_with(|| {
                let endpoint = Endpoint::from_shared(format!("http://{at}"))
                    .unwrap_or_else(|_| Endpoint::from_static("http://127.0.0.1:1"));
                ClientClient::new(holdfast_runtime::channel(&endpoint))
            })
            .clone()
    }
}
