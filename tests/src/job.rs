//! A job as REST shows it: submit, look, wait, compare.

use crate::cluster::Cluster;
use crate::rest::{Call, Reply};
use crate::wait::{self, SOON};
use anyhow::{Context, Result, anyhow, bail, ensure};
use hyper::Method;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

/// A job's identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(pub String);

/// A subtask of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subtask {
    /// RUNNING, FINISHED, ...
    pub status: String,
    /// When it started, milliseconds since the epoch: an unchanged value means that its uptime goes on.
    pub start_ms: i64,
    /// Where it runs.
    pub worker: String,
    /// Records that it read.
    pub read: u64,
    /// Records that it wrote.
    pub written: u64,
}

/// A job as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// CREATED, RUNNING, FINISHED, ...
    pub state: String,
    /// The current attempt, as the cluster writes it.
    pub attempt: String,
    /// Restarts so far.
    pub restarts: u64,
    /// By vertex name and subtask number.
    pub subtasks: BTreeMap<(String, u64), Subtask>,
}

/// A job's completed and failed checkpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoints {
    /// Completed so far.
    pub completed: u64,
    /// Failed so far.
    pub failed: u64,
    /// Restores so far.
    pub restored: u64,
    /// Number of the newest completed one; 0 if there is none.
    pub latest: u64,
}

impl Job {
    fn parse(value: &Value) -> Result<Self> {
        let mut subtasks = BTreeMap::new();
        for vertex in value["vertices"].as_array().into_iter().flatten() {
            let name = text(vertex, &["name", "id"]).unwrap_or_default();
            for (position, subtask) in vertex["subtasks"].as_array().into_iter().flatten().enumerate() {
                let number = subtask["subtask"].as_u64().unwrap_or(position as u64);
                subtasks.insert((name.clone(), number), Subtask::parse(subtask));
            }
        }
        // The fencing number if there is one: numbers from 1 could repeat, it cannot.
        let attempt = if value["attempt-id"].is_null() {
            &value["attempt"]
        } else {
            &value["attempt-id"]
        };
        Ok(Self {
            state: text(value, &["state", "status"])
                .ok_or_else(|| anyhow!("a job without state: {value}"))?,
            attempt: attempt
                .as_str()
                .map_or_else(|| attempt.to_string(), str::to_owned),
            restarts: value["restarts"].as_u64().unwrap_or(0),
            subtasks,
        })
    }

    /// Whether every subtask runs (or has ended its input).
    #[must_use]
    pub fn all_running(&self) -> bool {
        !self.subtasks.is_empty()
            && self
                .subtasks
                .values()
                .all(|s| s.status == "RUNNING" || s.status == "FINISHED")
    }

    /// Start of every subtask.
    #[must_use]
    pub fn starts(&self) -> BTreeMap<(String, u64), i64> {
        self.subtasks
            .iter()
            .map(|(key, subtask)| (key.clone(), subtask.start_ms))
            .collect()
    }

    /// Subtasks per worker.
    #[must_use]
    pub fn by_worker(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for subtask in self.subtasks.values() {
            *counts.entry(subtask.worker.clone()).or_insert(0) += 1;
        }
        counts
    }
}

impl Subtask {
    fn parse(value: &Value) -> Self {
        let metric = |name: &str| {
            let metrics = &value["metrics"];
            value[name]
                .as_u64()
                .or_else(|| metrics[name].as_u64())
                .unwrap_or(0)
        };
        Self {
            status: text(value, &["status", "state"]).unwrap_or_default(),
            start_ms: value["start-time"]
                .as_i64()
                .or_else(|| value["start_time"].as_i64())
                .unwrap_or(-1),
            worker: text(value, &["taskmanager-id", "worker", "host", "endpoint"]).unwrap_or_default(),
            read: metric("read-records"),
            written: metric("write-records"),
        }
    }
}

fn text(value: &Value, keys: &[&str]) -> Option<String> {
    keys.iter()
        .find_map(|key| value[*key].as_str().map(str::to_owned))
}

/// The job id in the answer to a submission.
fn submitted_id(value: &Value) -> Option<JobId> {
    text(value, &["jobid", "job_id", "jid", "id"]).map(JobId)
}

impl Cluster {
    /// `POST /v1/jobs` with a key, whatever comes back.
    ///
    /// # Errors
    /// If no coordinator answers.
    pub fn post_job(&self, sql: &str, key: &str) -> Result<Reply> {
        let call = Call::new(Method::POST, "/v1/jobs")
            .header("content-type", "text/plain")
            .header("idempotency-key", key)
            .body(sql.as_bytes().to_vec());
        self.rest().call(&call, SOON)
    }

    /// Submits a job.
    ///
    /// # Errors
    /// If it is refused.
    pub fn submit(&self, sql: &str) -> Result<JobId> {
        let key = format!("tests-{:032x}", rand::random::<u128>());
        self.submit_with_key(sql, &key)
    }

    /// Submits a job under a key.
    ///
    /// # Errors
    /// If it is refused.
    pub fn submit_with_key(&self, sql: &str, key: &str) -> Result<JobId> {
        let answer = self
            .post_job(sql, key)?
            .ok()
            .context("the job was refused")?
            .json()?;
        submitted_id(&answer).ok_or_else(|| anyhow!("no job id in {answer}"))
    }

    /// Submits a job and waits until all its subtasks run.
    ///
    /// # Errors
    /// If it is refused or does not run in time.
    pub fn submit_running(&self, sql: &str) -> Result<JobId> {
        let id = self.submit(sql)?;
        self.wait_running(&id)?;
        Ok(id)
    }

    /// The job as it stands.
    ///
    /// # Errors
    /// If no coordinator answers in time.
    pub fn job(&self, id: &JobId) -> Result<Job> {
        Job::parse(&self.rest().get(&format!("/v1/jobs/{}", id.0), SOON)?)
    }

    /// Waits until all subtasks run.
    ///
    /// # Errors
    /// If they do not in time, or the job has ended in another way than by its input's end.
    pub fn wait_running(&self, id: &JobId) -> Result<Job> {
        wait::until(format!("job {} to run", id.0), SOON, || {
            let job = self.job(id)?;
            ensure!(
                job.state == "RUNNING" || job.state == "FINISHED",
                "the job is {}",
                job.state
            );
            ensure!(job.all_running(), "not all subtasks run: {:?}", job.subtasks);
            Ok(Some(job))
        })
        .map_err(|error| self.with_exceptions(id, error))
    }

    /// Waits until the job is in a state.
    ///
    /// # Errors
    /// If it is not in time, or is in another final state.
    pub fn wait_state(&self, id: &JobId, state: &str, deadline: Duration) -> Result<Job> {
        let ended = ["FINISHED", "CANCELED", "FAILED"];
        let mut wrong_end = None;
        let job = wait::until(format!("job {} to be {state}", id.0), deadline, || {
            let job = self.job(id)?;
            if job.state == state {
                return Ok(Some(Some(job)));
            }
            if ended.contains(&job.state.as_str()) {
                wrong_end = Some(job.state);
                return Ok(Some(None));
            }
            bail!(
                "it is {} (attempt {}, {} restarts)",
                job.state,
                job.attempt,
                job.restarts
            )
        })
        .map_err(|error| self.with_exceptions(id, error))?;
        job.ok_or_else(|| self.with_exceptions(id, anyhow!("job {} is {wrong_end:?}, not {state}", id.0)))
    }

    fn with_exceptions(&self, id: &JobId, error: anyhow::Error) -> anyhow::Error {
        match self.exceptions(id) {
            Ok(exceptions) => error.context(format!("exceptions of the job: {exceptions}")),
            Err(_) => error,
        }
    }

    /// `GET /v1/jobs/:id/exceptions`.
    ///
    /// # Errors
    /// If no coordinator answers in time.
    pub fn exceptions(&self, id: &JobId) -> Result<Value> {
        self.rest().get(&format!("/v1/jobs/{}/exceptions", id.0), SOON)
    }

    /// `GET /v1/jobs/:id/checkpoints`, as JSON.
    ///
    /// # Errors
    /// If no coordinator answers in time.
    pub fn checkpoints_json(&self, id: &JobId) -> Result<Value> {
        self.rest().get(&format!("/v1/jobs/{}/checkpoints", id.0), SOON)
    }

    /// `GET /v1/jobs/:id/checkpoints`.
    ///
    /// # Errors
    /// If no coordinator answers in time, or not with Flink's fields.
    pub fn checkpoints(&self, id: &JobId) -> Result<Checkpoints> {
        let value = self.checkpoints_json(id)?;
        let count = |name: &str| {
            value["counts"][name]
                .as_u64()
                .ok_or_else(|| anyhow!("no counts.{name} in the checkpoints: {value}"))
        };
        Ok(Checkpoints {
            completed: count("completed")?,
            failed: count("failed")?,
            restored: count("restored")?,
            latest: value["latest"]["completed"]["id"].as_u64().unwrap_or(0),
        })
    }

    /// Waits until `more` further checkpoints are complete.
    ///
    /// # Errors
    /// If they are not in time.
    pub fn wait_checkpoints(&self, id: &JobId, more: u64) -> Result<Checkpoints> {
        let before = self.checkpoints(id)?.completed;
        wait::until(format!("{more} more checkpoints of job {}", id.0), SOON, || {
            let now = self.checkpoints(id)?;
            ensure!(
                now.completed >= before + more,
                "{before} before, {} now, {} failed",
                now.completed,
                now.failed
            );
            Ok(Some(now))
        })
        .map_err(|error| self.with_exceptions(id, error))
    }

    /// `PATCH /v1/jobs/:id?mode=cancel`.
    ///
    /// # Errors
    /// If it is refused.
    pub fn cancel(&self, id: &JobId) -> Result<()> {
        let call = Call::new(Method::PATCH, format!("/v1/jobs/{}?mode=cancel", id.0));
        self.rest().call(&call, SOON)?.ok()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_is_read_from_rest() {
        let job = Job::parse(&json!({
            "jid": "ab", "state": "RUNNING", "attempt": 17, "restarts": 2,
            "vertices": [{"name": "Source", "subtasks": [
                {"subtask": 0, "status": "RUNNING", "start-time": 5, "taskmanager-id": "w1",
                 "metrics": {"read-records": 3, "write-records": 4}}]}]
        }))
        .unwrap();
        assert_eq!((job.attempt.as_str(), job.restarts), ("17", 2));
        assert!(job.all_running());
        let subtask = &job.subtasks[&("Source".to_owned(), 0)];
        assert_eq!((subtask.start_ms, subtask.read, subtask.written), (5, 3, 4));
        assert_eq!(submitted_id(&json!({"jobid": "ab"})), Some(JobId("ab".into())));
    }
}
