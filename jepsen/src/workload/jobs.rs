//! `jobs`: submits small jobs with idempotency keys, cancels, lists and looks at them through every coordinator.
//! Every other client repeats a submission of unknown outcome under the same key.

use super::client::{Client, Command, values};
use super::http::{Answer, Call, Lost, send};
use super::process::ClientProcess;
use super::sql::{Shape, idle};
use super::{Workload, judges};
use crate::history::{Checker, Kind};
use crate::world::World;
use anyhow::Result;
use hyper::Method;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Clients of the one process.
const TASKS: u32 = 2;
/// Deadline of a request: above the 2 s for which a coordinator waits for a leader.
const DEADLINE: Duration = Duration::from_secs(4);
/// Jobs of one client that run at once: slots are for the other workloads.
const ACTIVE_MAX: usize = 1;
/// For the clean-up of all clients.
const FINISH: Duration = Duration::from_secs(60);

/// The workload.
pub(super) struct JobsWorkload {
    seed: u64,
    client: Option<ClientProcess>,
}

impl JobsWorkload {
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, client: None }
    }
}

#[tonic::async_trait]
impl Workload for JobsWorkload {
    fn name(&self) -> &'static str {
        "jobs"
    }

    fn checkers(&self) -> Vec<Box<dyn Checker>> {
        judges(&["jobs", "attempts"])
    }

    async fn setup(&mut self, world: &World) -> Result<()> {
        let params = values([
            ("run", self.seed.into()),
            ("checkpoint_ms", world.checkpoint_ms().into()),
        ]);
        self.client = Some(ClientProcess::start(world, "jobs", 2, params)?);
        Ok(())
    }

    async fn run(&mut self, world: &World) -> Result<()> {
        while !world.stopping() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        match &mut self.client {
            Some(client) => client.tell(&Command::Stop).await,
            None => Ok(()),
        }
    }

    async fn finish(&mut self, _world: &World) -> Result<()> {
        let Some(mut client) = self.client.take() else {
            return Ok(());
        };
        client.tell(&Command::Final).await?;
        client.end(FINISH).await
    }
}

/// The client process.
pub(super) async fn client(client: &Client) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..TASKS {
        let mut task = Task::new(client, number);
        tasks.spawn(async move { task.work().await });
    }
    while let Some(done) = tasks.join_next().await {
        done?;
    }
    Ok(())
}

struct Task {
    client: Client,
    number: u32,
    generation: u32,
    random: StdRng,
    submitted: u64,
    /// Keys with their job names, all that were ever used.
    keys: Vec<(String, String)>,
    /// Submitted and not cancelled.
    active: Vec<String>,
    /// Everything that was acknowledged.
    known: Vec<String>,
}

/// How an answer is recorded.
fn sort(answer: &Result<Answer, Lost>, reads: bool) -> (Kind, Option<String>) {
    match answer {
        Ok(a) if a.status.is_success() => (Kind::Ok, None),
        // 4xx is decided. A refusal by one that does not lead had no effect; any other 5xx may have.
        Ok(a) if reads || a.not_leader || a.status.is_client_error() => (Kind::Fail, Some(a.told())),
        Ok(a) => (Kind::Info, Some(a.told())),
        Err(Lost::NotSent(reason)) => (Kind::Fail, Some(reason.clone())),
        Err(Lost::Unknown(reason)) if reads => (Kind::Fail, Some(reason.clone())),
        Err(Lost::Unknown(reason)) => (Kind::Info, Some(reason.clone())),
    }
}

impl Task {
    fn new(client: &Client, number: u32) -> Self {
        Self {
            client: client.clone(),
            number,
            generation: 0,
            random: StdRng::seed_from_u64(client.spec().seed ^ (u64::from(number) << 40)),
            submitted: 0,
            keys: Vec::new(),
            active: Vec::new(),
            known: Vec::new(),
        }
    }

    fn name(&self) -> String {
        format!("jobs-{}.{}", self.number, self.generation)
    }

    async fn work(&mut self) {
        while !self.client.stopping() {
            match self.random.random_range(0..10) {
                0..2 if self.active.len() < ACTIVE_MAX => self.submit_new().await,
                0..2 => self.cancel_one().await,
                2 => self.submit_again().await,
                3..7 => {
                    self.list().await;
                }
                _ => self.get_one().await,
            }
            let pause = self.random.random_range(20..150);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
        while !self.client.finishing() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.clean_up().await;
    }

    async fn call(&mut self, f: &str, mut value: BTreeMap<String, Value>, call: &Call<'_>) -> Option<Value> {
        let nodes = &self.client.spec().nodes;
        let node = nodes[self.random.random_range(0..nodes.len())].clone();
        value.insert("node".into(), node.name.into());
        let op = self.client.invoke(&self.name(), "jobs", f, value);
        let answer = send(node.rest, call, DEADLINE).await;
        let (kind, error) = sort(&answer, call.method == Method::GET);
        let body = answer.map(|a| a.json()).unwrap_or(Value::Null);
        let told = if kind == Kind::Ok {
            answered(f, &body)
        } else {
            BTreeMap::new()
        };
        self.client.complete(&op, kind, told, error);
        if kind == Kind::Info {
            self.generation += 1;
        }
        (kind == Kind::Ok).then_some(body)
    }

    async fn submit(&mut self, key: &str, name: &str) -> bool {
        let sql = idle(&Shape {
            name: name.to_owned(),
            rows: 1_000_000_000,
            rate: 200,
            parallelism: 1,
            checkpoint_ms: self.client.param("checkpoint_ms", 500).max(200),
        });
        let call = Call {
            method: Method::POST,
            path: "/v1/jobs",
            key: Some(key),
            body: &sql,
        };
        let value = values([("key", key.into()), ("name", name.into())]);
        let Some(body) = self.call("submit", value, &call).await else {
            return false;
        };
        if let Some(job) = body["jobid"].as_str().map(str::to_owned)
            && !self.known.contains(&job)
        {
            self.active.push(job.clone());
            self.known.push(job);
        }
        true
    }

    async fn submit_new(&mut self) {
        self.submitted += 1;
        let run = self.client.param("run", 0);
        let name = format!("jx{run}c{}-{}", self.number, self.submitted);
        let key = format!("key-{name}");
        self.keys.push((key.clone(), name.clone()));
        // Every other client gives up at once; the others may repeat, and then there must still be one job.
        let tries = if self.number.is_multiple_of(2) { 1 } else { 5 };
        for _ in 0..tries {
            if self.submit(&key, &name).await {
                return;
            }
        }
    }

    async fn submit_again(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.keys.len());
        let (key, name) = self.keys[at].clone();
        self.submit(&key, &name).await;
    }

    async fn cancel(&mut self, job: &str) -> bool {
        let path = format!("/v1/jobs/{job}?mode=cancel");
        let call = Call {
            method: Method::PATCH,
            path: &path,
            key: None,
            body: "",
        };
        self.call("cancel", values([("job", job.into())]), &call)
            .await
            .is_some()
    }

    async fn cancel_one(&mut self) {
        let at = self.random.random_range(0..self.active.len().max(1));
        let Some(job) = self.active.get(at).cloned() else {
            return;
        };
        if self.cancel(&job).await {
            self.active.retain(|other| *other != job);
        }
    }

    async fn list(&mut self) -> Option<Value> {
        self.call("list", BTreeMap::new(), &Call::get("/v1/jobs/overview"))
            .await
    }

    async fn get_one(&mut self) {
        if self.known.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.known.len());
        let job = self.known[at].clone();
        let path = format!("/v1/jobs/{job}");
        self.call("get", values([("job", job.into())]), &Call::get(&path))
            .await;
    }

    /// Ends what this client has started, whatever it knows of it, and looks once more.
    async fn clean_up(&mut self) {
        let run = self.client.param("run", 0);
        let mine = format!("jx{run}c{}-", self.number);
        for _ in 0..40 {
            let Some(list) = self.list().await else { continue };
            let jobs = list["jobs"].as_array().cloned().unwrap_or_default();
            let open = |job: &&Value| {
                let ended = ["FINISHED", "CANCELED", "FAILED"];
                let own = job["name"].as_str().is_some_and(|name| name.starts_with(&mine));
                own && !job["state"].as_str().is_some_and(|state| ended.contains(&state))
            };
            let left: Vec<String> = jobs
                .iter()
                .filter(open)
                .filter_map(|j| j["jid"].as_str().map(str::to_owned))
                .collect();
            if left.is_empty() {
                break;
            }
            for job in &left {
                self.cancel(job).await;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        for job in self.known.clone() {
            let path = format!("/v1/jobs/{job}");
            self.call("get", values([("job", job.into())]), &Call::get(&path))
                .await;
        }
    }
}

/// What is kept of an answer.
fn answered(f: &str, body: &Value) -> BTreeMap<String, Value> {
    match f {
        "submit" => values([
            ("job", body["jobid"].clone()),
            ("existing", body["existing"].clone()),
        ]),
        "list" => {
            let mut jobs = Map::new();
            for job in body["jobs"].as_array().into_iter().flatten() {
                if let Some(id) = job["jid"].as_str() {
                    jobs.insert(
                        id.to_owned(),
                        json!({ "name": job["name"], "state": job["state"] }),
                    );
                }
            }
            values([("jobs", Value::Object(jobs))])
        }
        "get" => values([
            ("state", body["state"].clone()),
            ("attempt", body["attempt"].clone()),
            ("attempt_id", body["attempt-id"].clone()),
            ("restarts", body["restarts"].clone()),
        ]),
        _ => BTreeMap::new(),
    }
}
