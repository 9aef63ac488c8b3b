//! The second kind of register client: it repeats a request under the same session and number until it has an answer, as
//! the product promises that it may, and now and then repeats one that was answered long ago.

use super::client::{Client, Node, values};
use super::kv::{Connections, Put, Trouble, Written};
use super::register::{Choice, Values};
use crate::history::Kind;
use serde_json::Value;
use std::collections::VecDeque;
use std::time::Duration;

/// Answered requests that are kept for repetition; the product remembers 256 per session.
const KEPT: usize = 48;
/// Tries of one request before its outcome stays unknown.
const TRIES: u32 = 8;

/// A session and what was answered in it.
pub(super) struct Session {
    process: String,
    id: u64,
    seq: u64,
    answered: VecDeque<(Put, u64)>,
    generation: u32,
}

impl Session {
    pub(super) fn new(process: String) -> Self {
        Self {
            process,
            id: 0,
            seq: 0,
            answered: VecDeque::new(),
            generation: 0,
        }
    }

    /// The name under which operations are recorded; a new one after an unknown outcome.
    pub(super) fn name(&self) -> String {
        format!("{}.{}", self.process, self.generation)
    }

    /// Opens a session if there is none. `false` if that is not possible now.
    async fn open(&mut self, connections: &mut Connections, node: &Node) -> bool {
        if self.id == 0 {
            let opened = connections.open_session(node, &self.name()).await;
            if let Ok(id) = opened {
                (self.id, self.seq) = (id, 0);
                self.answered.clear();
            }
        }
        self.id != 0
    }

    fn acked_up_to(&self) -> u64 {
        // Below the oldest answer that may still be asked for again.
        self.answered
            .front()
            .map_or(self.seq, |(put, _)| put.seq - 1)
            .min(self.seq)
    }

    /// One write, with its retries.
    pub(super) async fn write(
        &mut self,
        client: &Client,
        connections: &mut Connections,
        choice: &mut Choice,
        wanted: (&str, &str, Option<(u64, Option<String>)>),
        seen: &mut Values,
    ) {
        let (key, value, compare) = wanted;
        let node = choice.node(client);
        if !self.open(connections, &node).await {
            choice.trouble(None);
            return;
        }
        let put = Put {
            session: self.id,
            seq: self.seq + 1,
            acked_up_to: self.acked_up_to(),
            key: key.to_owned(),
            value: value.to_owned(),
            if_revision: compare.as_ref().map(|(revision, _)| *revision),
        };
        self.seq += 1;
        let f = if compare.is_some() { "cas" } else { "write" };
        let mut invoked = values([
            ("key", key.into()),
            ("value", value.into()),
            ("session", self.id.into()),
            ("seq", put.seq.into()),
        ]);
        if let Some((revision, expected)) = &compare {
            invoked.insert("expected_revision".into(), (*revision).into());
            invoked.insert(
                "expected".into(),
                expected.clone().map_or(Value::Null, Value::from),
            );
        }
        let op = client.invoke(&self.name(), "register", f, invoked);
        let mut reason = String::new();
        for _ in 0..TRIES {
            match connections.put(&choice.node(client), &put).await {
                Ok(Written::Applied { index, revision }) => {
                    client.complete(
                        &op,
                        Kind::Ok,
                        values([("revision", revision.into()), ("index", index.into())]),
                        None,
                    );
                    seen.learn(key, Some(value.to_owned()), revision);
                    self.answered.push_back((put, revision));
                    if self.answered.len() > KEPT {
                        self.answered.pop_front();
                    }
                    return;
                }
                Ok(Written::Mismatch { revision }) => {
                    let answer = values([("mismatch", 1.into()), ("revision", revision.into())]);
                    client.complete(
                        &op,
                        Kind::Fail,
                        answer,
                        Some("the revision is another one".into()),
                    );
                    return;
                }
                Ok(Written::Forgotten(why)) => {
                    reason = why;
                    break;
                }
                Err(Trouble::Refused { reason: why, leader }) => {
                    reason = why;
                    choice.trouble(leader);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(Trouble::Unknown(why)) => {
                    reason = why;
                    choice.trouble(None);
                }
            }
        }
        // An earlier try may have been applied, or may yet be: the session ends here.
        client.complete(&op, Kind::Info, values([]), Some(reason));
        self.generation += 1;
        self.id = 0;
    }

    /// Repeats an answered request: the answer must be the first one.
    pub(super) async fn repeat(
        &mut self,
        client: &Client,
        connections: &mut Connections,
        choice: &mut Choice,
        at: usize,
    ) {
        let Some((put, first)) = self.answered.get(at).cloned() else {
            return;
        };
        let invoked = values([
            ("session", put.session.into()),
            ("seq", put.seq.into()),
            ("first", first.into()),
            ("key", put.key.clone().into()),
        ]);
        let op = client.invoke(&self.name(), "register", "repeat", invoked);
        match connections.put(&choice.node(client), &put).await {
            Ok(Written::Applied { index, revision }) => {
                client.complete(
                    &op,
                    Kind::Ok,
                    values([("revision", revision.into()), ("index", index.into())]),
                    None,
                );
            }
            Ok(Written::Mismatch { revision }) => {
                // It was applied before: a compare that fails now was made again.
                client.complete(
                    &op,
                    Kind::Ok,
                    values([("revision", revision.into())]),
                    Some("rejected".into()),
                );
            }
            Ok(Written::Forgotten(why)) => client.complete(&op, Kind::Fail, values([]), Some(why)),
            Err(Trouble::Refused { reason, leader }) => {
                choice.trouble(leader);
                client.complete(&op, Kind::Info, values([]), Some(reason));
            }
            Err(Trouble::Unknown(reason)) => {
                choice.trouble(None);
                client.complete(&op, Kind::Info, values([]), Some(reason));
            }
        }
    }

    /// Requests that could be repeated.
    pub(super) fn repeatable(&self) -> usize {
        self.answered.len()
    }
}
