//! The observer: submits the jobs of the streaming workloads, asks every coordinator about them and about itself again
//! and again, and reads each listed checkpoint from snapshot storage.

use super::client::{Client, Command, Reply, values};
use super::http::{Answer, Call, Lost, send};
use super::storage::{Fetched, Storage};
use crate::history::Kind;
use anyhow::Result;
use hyper::Method;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;

const DEADLINE: Duration = Duration::from_secs(3);
/// Between two rounds of questions.
const PERIOD: Duration = Duration::from_millis(80);
/// Rounds after which every listed checkpoint is read anew: objects must not vanish later either.
const REREAD: u64 = 12;
/// Between two tries of a submission.
const RETRY: Duration = Duration::from_millis(200);

/// A job under observation.
struct Watched {
    tag: String,
    job: String,
    bounded: bool,
    told: bool,
}

struct Observer {
    client: Client,
    storage: Option<Storage>,
    process: String,
    watched: Vec<Watched>,
    read: BTreeSet<(String, u64)>,
    attempts: BTreeMap<String, u64>,
    round: u64,
}

/// The client process.
pub(super) async fn client(client: &Client, mut inbox: mpsc::Receiver<Command>) -> Result<()> {
    let text = |name: &str| {
        client
            .spec()
            .params
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let (accepted, mut submitted) = mpsc::channel(16);
    let mut observer = Observer {
        client: client.clone(),
        storage: Storage::new(text("snapshots"), text("endpoint")),
        process: format!("catalogue-{}", client.spec().index),
        watched: Vec::new(),
        read: BTreeSet::new(),
        attempts: BTreeMap::new(),
        round: 0,
    };
    loop {
        tokio::select! {
            command = inbox.recv() => match command {
                None | Some(Command::Final) => return Ok(()),
                Some(Command::Submit { tag, sql, bounded }) => {
                    let (client, accepted) = (client.clone(), accepted.clone());
                    tokio::spawn(async move {
                        let job = submit(&client, &tag, &sql).await;
                        let _ = accepted.send(Watched { tag, job, bounded, told: false }).await;
                    });
                }
                Some(Command::Cancel { job }) => {
                    let client = client.clone();
                    tokio::spawn(async move { cancel(&client, &job).await });
                }
                Some(Command::Stop) => {}
            },
            Some(watched) = submitted.recv() => {
                let (tag, job) = (watched.tag.clone(), watched.job.clone());
                client.reply(Reply { tag, job, state: None, reason: None });
                observer.watched.push(watched);
            }
            () = tokio::time::sleep(PERIOD) => observer.look().await,
        }
    }
}

/// Submits until it is accepted. The key makes that safe.
async fn submit(client: &Client, tag: &str, sql: &str) -> String {
    let nodes = &client.spec().nodes;
    let key = format!("{tag}-{}", client.spec().op_base);
    let call = Call {
        method: Method::POST,
        path: "/v1/jobs",
        key: Some(&key),
        body: sql,
    };
    let mut turn = 0;
    loop {
        match send(nodes[turn % nodes.len()].rest, &call, DEADLINE).await {
            Ok(answer) if answer.status.is_success() => {
                if let Some(job) = answer.json()["jobid"].as_str() {
                    return job.to_owned();
                }
            }
            Ok(answer) if answer.status.is_client_error() => {
                eprintln!("job {tag} was refused: {}", answer.told());
            }
            _ => {}
        }
        turn += 1;
        tokio::time::sleep(RETRY).await;
    }
}

async fn cancel(client: &Client, job: &str) {
    let path = format!("/v1/jobs/{job}?mode=cancel");
    let call = Call {
        method: Method::PATCH,
        path: &path,
        key: None,
        body: "",
    };
    for node in client.spec().nodes.iter().cycle().take(30) {
        match send(node.rest, &call, DEADLINE).await {
            Ok(answer) if answer.status.is_success() => return,
            _ => tokio::time::sleep(RETRY).await,
        }
    }
}

impl Observer {
    async fn look(&mut self) {
        self.round += 1;
        let nodes = self.client.spec().nodes.clone();
        for node in &nodes {
            self.ask(
                "cluster",
                "/v1/cluster",
                values([("node", node.name.clone().into())]),
                node.rest,
            )
            .await;
        }
        let turn = usize::try_from(self.round).unwrap_or(0);
        for at in 0..self.watched.len() {
            let node = &nodes[(turn + at) % nodes.len()];
            let job = self.watched[at].job.clone();
            let value = values([("job", job.clone().into()), ("node", node.name.clone().into())]);
            let path = format!("/v1/jobs/{job}/checkpoints");
            if let Some(list) = self.ask("checkpoints", &path, value.clone(), node.rest).await {
                self.read_listed(&job, &list).await;
            }
            let path = format!("/v1/jobs/{job}");
            if let Some(details) = self.ask("job", &path, value.clone(), node.rest).await {
                let attempt = details["attempt"].as_u64().unwrap_or(0);
                let known = self.attempts.insert(job.clone(), attempt).unwrap_or(1);
                if attempt > known.max(1) {
                    // A restart needs a reason on record.
                    let path = format!("/v1/jobs/{job}/exceptions");
                    self.ask("exceptions", &path, value, node.rest).await;
                }
                self.tell_end(at, &details, node.rest).await;
            }
        }
    }

    /// One question; what is kept of its answer goes into the history, the whole answer to the caller.
    async fn ask(
        &self,
        f: &str,
        path: &str,
        value: BTreeMap<String, Value>,
        to: SocketAddr,
    ) -> Option<Value> {
        let op = self.client.invoke(&self.process, "catalogue", f, value);
        // A local question is answered at once or not at all: a dead node must not hold up the round.
        let deadline = if f == "cluster" {
            Duration::from_millis(300)
        } else {
            DEADLINE
        };
        match send(to, &Call::get(path), deadline).await {
            Ok(answer) if answer.status.is_success() => {
                let body = answer.json();
                self.client.complete(&op, Kind::Ok, kept(f, &body), None);
                Some(body)
            }
            other => {
                self.client
                    .complete(&op, Kind::Fail, BTreeMap::new(), Some(reason(other)));
                None
            }
        }
    }

    async fn read_listed(&mut self, job: &str, list: &Value) {
        let Some(storage) = self.storage.clone() else {
            return;
        };
        if self.round.is_multiple_of(REREAD) {
            self.read.retain(|(other, _)| other != job);
        }
        for entry in list["history"].as_array().into_iter().flatten() {
            let (Some(id), Some(path)) = (entry["id"].as_u64(), entry["external_path"].as_str()) else {
                continue;
            };
            let listed =
                entry["status"] == "COMPLETED" && entry["discarded"] == false && entry["damaged"] != true;
            if !listed || !self.read.insert((job.to_owned(), id)) {
                continue;
            }
            let invoked = values([
                ("job", job.into()),
                ("id", id.into()),
                ("attempt", entry["attempt_id"].clone()),
                ("path", path.into()),
            ]);
            let op = self.client.invoke(&self.process, "catalogue", "fetch", invoked);
            let answer = match storage.fetch(path).await {
                Fetched::Whole(manifest) => values([
                    ("outcome", "ok".into()),
                    ("epoch", manifest.epoch.into()),
                    ("manifest_attempt", manifest.attempt.into()),
                    ("objects", manifest.objects.len().into()),
                ]),
                Fetched::Missing(what) => values([("outcome", "missing".into()), ("what", what.into())]),
                Fetched::Damaged(what) => values([("outcome", "damaged".into()), ("what", what.into())]),
                Fetched::Unavailable(what) => {
                    values([("outcome", "unavailable".into()), ("what", what.into())])
                }
            };
            self.client.complete(&op, Kind::Ok, answer, None);
        }
    }

    /// Tells the harness once that a job has ended, and why.
    async fn tell_end(&mut self, at: usize, details: &Value, to: SocketAddr) {
        let state = details["state"].as_str().unwrap_or_default().to_owned();
        let watched = &mut self.watched[at];
        if watched.told || !matches!(state.as_str(), "FINISHED" | "CANCELED" | "FAILED") {
            return;
        }
        watched.told = true;
        let (tag, job, bounded) = (watched.tag.clone(), watched.job.clone(), watched.bounded);
        let mut reason = None;
        if bounded && state != "FINISHED" {
            let path = format!("/v1/jobs/{job}/exceptions");
            if let Ok(answer) = send(to, &Call::get(&path), DEADLINE).await {
                reason = answer.json()["root-exception"].as_str().map(str::to_owned);
            }
        }
        self.client.reply(Reply {
            tag,
            job,
            state: Some(state),
            reason,
        });
    }
}

fn reason(answer: Result<Answer, Lost>) -> String {
    match answer {
        Ok(answer) => answer.told(),
        Err(Lost::NotSent(reason) | Lost::Unknown(reason)) => reason,
    }
}

/// What is kept of an answer.
fn kept(f: &str, body: &Value) -> BTreeMap<String, Value> {
    match f {
        "cluster" => values([
            ("leader", body["leader"].clone()),
            ("term", body["term"].clone()),
            ("epoch", body["leader_epoch"].clone()),
            ("epoch_by", body["leader_epoch_by"].clone()),
            ("version", body["version"].clone()),
        ]),
        "job" => values([
            ("state", body["state"].clone()),
            ("attempt", body["attempt"].clone()),
            ("attempt_id", body["attempt-id"].clone()),
            ("restored", body["restored-checkpoint"].clone()),
        ]),
        "checkpoints" => checkpoints(body),
        "exceptions" => {
            let entries = body["exceptionHistory"]["entries"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let texts: Vec<Value> = entries
                .iter()
                .take(20)
                .map(|entry| entry["stacktrace"].clone())
                .collect();
            values([("texts", texts.into())])
        }
        _ => BTreeMap::new(),
    }
}

fn checkpoints(body: &Value) -> BTreeMap<String, Value> {
    let (mut completed, mut failed, mut in_progress) = (Vec::new(), Vec::new(), Value::Null);
    for entry in body["history"].as_array().into_iter().flatten() {
        match entry["status"].as_str() {
            Some("COMPLETED") => completed.push(json!({
                "id": entry["id"],
                "attempt": entry["attempt_id"],
                "path": entry["external_path"],
                "discarded": entry["discarded"],
                "damaged": entry["damaged"],
            })),
            Some("FAILED") => failed.push(entry["id"].clone()),
            _ => in_progress = entry["id"].clone(),
        }
    }
    values([
        ("completed", completed.into()),
        ("failed", failed.into()),
        ("in_progress", in_progress),
        ("latest", body["latest"]["completed"]["id"].clone()),
        ("restored", body["latest"]["restored"]["id"].clone()),
        ("done", body["counts"]["completed"].clone()),
    ])
}
