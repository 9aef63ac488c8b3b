//! `register`: puts, reads and compare-and-sets on a few keys at a time through every coordinator. Values are unique. A
//! client whose operation has an unknown outcome goes on under a new name.

use super::client::{Client, Command, Node, values};
use super::kv::{Connections, Put, Seen, Trouble, Written};
use super::process::ClientProcess;
use super::session::Session;
use super::{Workload, judges};
use crate::history::{Checker, Kind};
use crate::world::World;
use anyhow::Result;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Client processes, each in a namespace of its own.
const PROCESSES: u32 = 2;
/// Clients in each: the first two without a session, the others with.
const TASKS: u32 = 4;
/// Nanoseconds after which a new set of keys is used: a search per key needs short histories.
const GENERATION_NS: u64 = 15_000_000_000;
/// How long the last reads of a coordinator that lags behind are repeated.
const CATCH_UP: Duration = Duration::from_secs(10);
/// For the last reads and repetitions of one client process.
const FINISH: Duration = Duration::from_secs(60);

/// The workload.
pub(super) struct RegisterWorkload {
    keys: u64,
    clients: Vec<ClientProcess>,
}

impl RegisterWorkload {
    pub(super) fn new(seed: u64) -> Self {
        // 8, 16, 32 or 64 keys: contention or breadth.
        Self {
            keys: 8 << (seed % 4),
            clients: Vec::new(),
        }
    }
}

#[tonic::async_trait]
impl Workload for RegisterWorkload {
    fn name(&self) -> &'static str {
        "register"
    }

    fn checkers(&self) -> Vec<Box<dyn Checker>> {
        judges(&["register-wgl", "register-versioned", "digests"])
    }

    async fn setup(&mut self, world: &World) -> Result<()> {
        for index in 0..PROCESSES {
            let params = values([("keys", self.keys.into())]);
            self.clients
                .push(ClientProcess::start(world, "register", index, params)?);
        }
        Ok(())
    }

    async fn run(&mut self, world: &World) -> Result<()> {
        while !world.stopping() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        for client in &mut self.clients {
            client.tell(&Command::Stop).await?;
        }
        Ok(())
    }

    async fn finish(&mut self, _world: &World) -> Result<()> {
        for client in &mut self.clients {
            client.tell(&Command::Final).await?;
        }
        for client in self.clients.drain(..) {
            client.end(FINISH).await?;
        }
        Ok(())
    }
}

/// What a client has seen of the keys, for its next compare.
#[derive(Default)]
pub(super) struct Values(BTreeMap<String, (Option<String>, u64)>);

impl Values {
    pub(super) fn learn(&mut self, key: &str, value: Option<String>, revision: u64) {
        self.0.insert(key.to_owned(), (value, revision));
    }
}

/// Whom to ask: mostly the coordinator that is believed to lead, often any other.
pub(super) struct Choice {
    random: StdRng,
    leader: Option<String>,
}

impl Choice {
    pub(super) fn node(&mut self, client: &Client) -> Node {
        let nodes = &client.spec().nodes;
        let any = self.random.random_range(0..nodes.len().max(1));
        let led = nodes.iter().find(|n| Some(n.rpc.to_string()) == self.leader);
        let node = led
            .filter(|_| self.random.random_bool(0.75))
            .or_else(|| nodes.get(any));
        node.cloned().unwrap_or_else(|| nodes[0].clone())
    }

    /// What a refusal says of the leader.
    pub(super) fn trouble(&mut self, leader: Option<String>) {
        self.leader = leader;
    }
}

/// One client of a process.
struct Task {
    client: Client,
    number: u32,
    generation: u32,
    written: u64,
    connections: Connections,
    choice: Choice,
    seen: Values,
    session: Option<Session>,
    used: Arc<Mutex<BTreeSet<String>>>,
}

/// The client process.
pub(super) async fn client(client: &Client) -> Result<()> {
    let used: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..TASKS {
        let mut task = Task::new(client, number, Arc::clone(&used));
        tasks.spawn(async move {
            task.work().await;
            task.last_words().await;
        });
    }
    while let Some(done) = tasks.join_next().await {
        done?;
    }
    Ok(())
}

impl Task {
    fn new(client: &Client, number: u32, used: Arc<Mutex<BTreeSet<String>>>) -> Self {
        let seed = client.spec().seed ^ (u64::from(number) << 48);
        let index = client.spec().index * TASKS + number;
        Self {
            client: client.clone(),
            number: index,
            generation: 0,
            written: 0,
            connections: Connections::default(),
            choice: Choice {
                random: StdRng::seed_from_u64(seed),
                leader: None,
            },
            seen: Values::default(),
            session: (number >= TASKS / 2).then(|| Session::new(format!("kvs-{index}"))),
            used,
        }
    }

    fn name(&self) -> String {
        format!("kv-{}.{}", self.number, self.generation)
    }

    fn key(&mut self) -> String {
        let generation = self.client.now() / GENERATION_NS;
        let keys = self.client.param("keys", 16);
        let key = format!("jx/{generation}/{}", self.choice.random.random_range(0..keys));
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.insert(key.clone());
        key
    }

    async fn work(&mut self) {
        while !self.client.stopping() {
            let key = self.key();
            match self.choice.random.random_range(0..10) {
                0..4 => self.read(&key).await,
                4..7 => self.write(&key, false).await,
                7..9 => self.write(&key, true).await,
                _ => self.repeat_one().await,
            }
            let pause = self.choice.random.random_range(2..20);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn read(&mut self, key: &str) {
        let node = self.choice.node(&self.client);
        self.read_at(&node, key, "read").await;
    }

    /// A read; what fails has no effect, so it never has an unknown outcome.
    async fn read_at(&mut self, node: &Node, key: &str, f: &str) -> Option<Seen> {
        let invoked = values([("key", key.into()), ("node", node.name.clone().into())]);
        let op = self.client.invoke(&self.name(), "register", f, invoked);
        match self.connections.read(node, key, f == "final").await {
            Ok(seen) => {
                let answer = values([
                    ("value", seen.value.clone().map_or(Value::Null, Value::from)),
                    ("revision", seen.revision.into()),
                    ("applied", seen.applied.into()),
                ]);
                self.client.complete(&op, Kind::Ok, answer, None);
                self.seen.learn(key, seen.value.clone(), seen.revision);
                Some(seen)
            }
            Err(Trouble::Refused { reason, leader }) => {
                if f == "read" {
                    self.choice.trouble(leader);
                }
                self.client.complete(&op, Kind::Fail, values([]), Some(reason));
                None
            }
            Err(Trouble::Unknown(reason)) => {
                self.choice.trouble(None);
                self.client.complete(&op, Kind::Fail, values([]), Some(reason));
                None
            }
        }
    }

    async fn write(&mut self, key: &str, compares: bool) {
        self.written += 1;
        let value = format!("{}-{}", self.number, self.written);
        let compare = compares.then(|| {
            let seen = self.seen.0.get(key).cloned();
            let (value, revision) = seen.unwrap_or((None, 0));
            (revision, value)
        });
        if let Some(session) = &mut self.session {
            let wanted = (key, value.as_str(), compare);
            session
                .write(
                    &self.client,
                    &mut self.connections,
                    &mut self.choice,
                    wanted,
                    &mut self.seen,
                )
                .await;
            return;
        }
        let node = self.choice.node(&self.client);
        let f = if compare.is_some() { "cas" } else { "write" };
        let mut invoked = values([
            ("key", key.into()),
            ("value", value.clone().into()),
            ("node", node.name.clone().into()),
        ]);
        if let Some((revision, expected)) = &compare {
            invoked.insert("expected_revision".into(), (*revision).into());
            invoked.insert(
                "expected".into(),
                expected.clone().map_or(Value::Null, Value::from),
            );
        }
        let if_revision = compare.map(|(revision, _)| revision);
        let put = Put {
            session: 0,
            seq: 0,
            acked_up_to: 0,
            key: key.to_owned(),
            value: value.clone(),
            if_revision,
        };
        let op = self.client.invoke(&self.name(), "register", f, invoked);
        match self.connections.put(&node, &put).await {
            Ok(Written::Applied { index, revision }) => {
                let answer = values([("revision", revision.into()), ("index", index.into())]);
                self.client.complete(&op, Kind::Ok, answer, None);
                self.seen.learn(key, Some(value), revision);
            }
            Ok(Written::Mismatch { revision }) => {
                let answer = values([("mismatch", 1.into()), ("revision", revision.into())]);
                self.client.complete(
                    &op,
                    Kind::Fail,
                    answer,
                    Some("the revision is another one".into()),
                );
                self.seen.0.remove(key);
            }
            Ok(Written::Forgotten(reason)) => {
                self.client.complete(&op, Kind::Info, values([]), Some(reason));
                self.generation += 1;
            }
            Err(Trouble::Refused { reason, leader }) => {
                self.choice.trouble(leader);
                self.client.complete(&op, Kind::Fail, values([]), Some(reason));
            }
            Err(Trouble::Unknown(reason)) => {
                self.choice.trouble(None);
                self.client.complete(&op, Kind::Info, values([]), Some(reason));
                self.generation += 1;
            }
        }
    }

    async fn repeat_one(&mut self) {
        let Some(session) = &mut self.session else { return };
        let known = session.repeatable();
        if known > 0 {
            let at = self.choice.random.random_range(0..known);
            session
                .repeat(&self.client, &mut self.connections, &mut self.choice, at)
                .await;
        }
    }

    /// After healing: one client reads every key at every coordinator; sessions repeat what they still can.
    async fn last_words(&mut self) {
        while !self.client.finishing() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if let Some(session) = &mut self.session {
            for at in 0..session.repeatable() {
                session
                    .repeat(&self.client, &mut self.connections, &mut self.choice, at)
                    .await;
            }
        }
        // A write and a read of every client show that the cluster serves again.
        let key = self.key();
        for _ in 0..20 {
            self.write(&key, false).await;
            self.read(&key).await;
        }
        if self.number.is_multiple_of(TASKS) {
            self.read_everything().await;
        }
    }

    async fn read_everything(&mut self) {
        let keys: Vec<String> = self
            .used
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect();
        let nodes = self.client.spec().nodes.clone();
        for key in &keys {
            for _ in 0..10 {
                let node = self.choice.node(&self.client);
                if self.read_at(&node, key, "read").await.is_some() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        for node in nodes {
            let deadline = tokio::time::Instant::now() + CATCH_UP;
            for key in &keys {
                let wanted = self.seen.0.get(key).map_or(0, |(_, revision)| *revision);
                while tokio::time::Instant::now() < deadline {
                    let seen = self.read_at(&node, key, "final").await;
                    match seen {
                        Some(seen) if seen.applied >= wanted => break,
                        _ => tokio::time::sleep(Duration::from_millis(100)).await,
                    }
                }
            }
        }
    }
}
