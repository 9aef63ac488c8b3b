//! `/v1/jobs…`: lists, details, configuration and exceptions of jobs.

use super::plan::Plan;
use super::tasks::{self, VertexInfo};
use super::{Scene, time_or_minus_one};
use holdfast_dataflow::graph::JobGraph;
use holdfast_machine::state::{Failure, Job, JobStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Answer of `/v1/jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobIds {
    /// Every known job.
    pub jobs: Vec<JobIdStatus>,
}

/// A job and its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobIdStatus {
    /// 32 hexadecimal digits.
    pub id: String,
    /// Flink's job status.
    pub status: String,
}

/// Answer of `/v1/jobs/overview`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobsOverview {
    /// Every known job.
    pub jobs: Vec<JobSummary>,
}

/// A job in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobSummary {
    /// 32 hexadecimal digits.
    pub jid: String,
    /// For people.
    pub name: String,
    /// Flink's job status.
    pub state: String,
    /// When it was submitted.
    pub start_time: i64,
    /// When it ended, or -1.
    pub end_time: i64,
    /// Milliseconds from submission to its end or now.
    pub duration: i64,
    /// When its status last changed.
    pub last_modification: i64,
    /// Subtasks per state, lower case, with `total`.
    pub tasks: BTreeMap<String, u32>,
    /// The current attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// Attempts after the first.
    pub restarts: u32,
}

/// Answer of `/v1/jobs/:id`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobDetails {
    /// 32 hexadecimal digits.
    pub jid: String,
    /// For people.
    pub name: String,
    /// Flink's field; stop-with-savepoint is not there yet.
    #[serde(rename = "isStoppable")]
    pub is_stoppable: bool,
    /// Flink's job status.
    pub state: String,
    /// Always STREAMING.
    pub job_type: String,
    /// When it was submitted.
    pub start_time: i64,
    /// When it ended, or -1.
    pub end_time: i64,
    /// Milliseconds.
    pub duration: i64,
    /// Key groups.
    #[serde(rename = "maxParallelism")]
    pub max_parallelism: u32,
    /// The answering coordinator's clock.
    pub now: i64,
    /// When each status was reached, 0 for those that were not (or whose time is no longer known).
    pub timestamps: BTreeMap<String, i64>,
    /// Vertices with their subtasks.
    pub vertices: Vec<VertexInfo>,
    /// Vertices per state.
    pub status_counts: BTreeMap<String, u32>,
    /// The plan.
    pub plan: Plan,
    /// The current attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// The attempt's fencing number.
    pub attempt_id: Option<u64>,
    /// Attempts after the first.
    pub restarts: u32,
    /// The checkpoint from which the current attempt was restored.
    pub restored_checkpoint: Option<u64>,
    /// Slots that it takes.
    pub parallelism: u32,
    /// Rows that all sources have read.
    pub records_in: u64,
    /// Rows that all sinks have taken.
    pub records_out: u64,
    /// Rows that came after their window had closed.
    pub late_records_dropped: u64,
    /// Rows that did not parse and were skipped by option.
    pub bad_records_skipped: u64,
    /// Least watermark of the vertices that feed sinks; null if one has none.
    pub current_watermark: Option<i64>,
    /// Digest of the plan.
    pub fingerprint: String,
    /// The script.
    pub sql: String,
}

/// Answer of `/v1/jobs/:id/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAnswer {
    /// Flink's job status.
    pub status: String,
}

/// Attempts after the first.
#[must_use]
pub fn restarts(job: &Job) -> u32 {
    job.attempts.saturating_sub(1)
}

/// All jobs with their status.
#[must_use]
pub fn ids(scene: Scene<'_>) -> JobIds {
    let jobs = scene.state.jobs.values();
    JobIds {
        jobs: jobs
            .map(|j| JobIdStatus {
                id: j.id.to_string(),
                status: j.status.as_str().to_owned(),
            })
            .collect(),
    }
}

/// One job in a list; `graph` is missing only if its script cannot be planned here.
#[must_use]
pub fn summary(scene: Scene<'_>, job: &Job, graph: Option<&JobGraph>) -> JobSummary {
    let vertices = graph.map(|g| tasks::vertices(scene, job, g)).unwrap_or_default();
    let words = vertices
        .iter()
        .flat_map(|v| &v.subtasks)
        .map(|s| s.status.as_str());
    let mut counts: BTreeMap<String, u32> = tasks::count_states(words)
        .into_iter()
        .map(|(word, n)| (word.to_lowercase(), n))
        .collect();
    counts.insert("total".to_owned(), counts.values().sum());
    JobSummary {
        jid: job.id.to_string(),
        name: job.name.clone(),
        state: job.status.as_str().to_owned(),
        start_time: time_or_minus_one(Some(job.submitted_ms)),
        end_time: time_or_minus_one(job.ended_ms),
        duration: duration(scene, job),
        last_modification: time_or_minus_one(Some(job.status_ms)),
        tasks: counts,
        attempt: job.attempt.as_ref().map_or(0, |a| a.number),
        restarts: restarts(job),
    }
}

fn duration(scene: Scene<'_>, job: &Job) -> i64 {
    let until = job.ended_ms.unwrap_or(scene.now_ms);
    time_or_minus_one(Some(until.saturating_sub(job.submitted_ms)))
}

fn timestamps(job: &Job) -> BTreeMap<String, i64> {
    let words = [
        "INITIALIZING",
        "CREATED",
        "RUNNING",
        "FAILING",
        "FAILED",
        "CANCELLING",
        "CANCELED",
        "FINISHED",
        "RESTARTING",
        "SUSPENDED",
        "RECONCILING",
    ];
    let mut times: BTreeMap<String, i64> = words.iter().map(|w| ((*w).to_owned(), 0)).collect();
    times.insert("CREATED".into(), time_or_minus_one(Some(job.submitted_ms)));
    times.insert("INITIALIZING".into(), time_or_minus_one(Some(job.submitted_ms)));
    if let Some(running) = job.attempt.as_ref().and_then(|a| a.running_ms) {
        times.insert("RUNNING".into(), time_or_minus_one(Some(running)));
    }
    if job.status != JobStatus::Created {
        times.insert(
            job.status.as_str().to_owned(),
            time_or_minus_one(Some(job.status_ms)),
        );
    }
    times
}

/// Everything about one job.
#[must_use]
pub fn details(scene: Scene<'_>, job: &Job, graph: Option<&JobGraph>) -> JobDetails {
    let jid = job.id.to_string();
    let vertices = graph.map(|g| tasks::vertices(scene, job, g)).unwrap_or_default();
    let plan = graph
        .map(|g| super::plan::plan(&jid, &job.name, g))
        .unwrap_or_default();
    let totals = graph.map(|g| totals(g, &vertices)).unwrap_or_default();
    JobDetails {
        jid,
        name: job.name.clone(),
        is_stoppable: false,
        state: job.status.as_str().to_owned(),
        job_type: "STREAMING".to_owned(),
        start_time: time_or_minus_one(Some(job.submitted_ms)),
        end_time: time_or_minus_one(job.ended_ms),
        duration: duration(scene, job),
        max_parallelism: job.max_parallelism,
        now: time_or_minus_one(Some(scene.now_ms)),
        timestamps: timestamps(job),
        status_counts: tasks::count_states(vertices.iter().map(|v| v.status.as_str())),
        late_records_dropped: vertices.iter().map(|v| v.metrics.late_records_dropped).sum(),
        bad_records_skipped: vertices.iter().map(|v| v.metrics.bad_records_skipped).sum(),
        vertices,
        plan,
        attempt: job.attempt.as_ref().map_or(0, |a| a.number),
        attempt_id: job.attempt.as_ref().map(|a| a.id.0),
        restarts: restarts(job),
        restored_checkpoint: job.attempt.as_ref().and_then(|a| a.restored).map(|c| c.0),
        parallelism: job.parallelism,
        records_in: totals.records_in,
        records_out: totals.records_out,
        current_watermark: totals.watermark,
        fingerprint: job.fingerprint.clone(),
        sql: job.sql.clone(),
    }
}

#[derive(Default)]
struct Totals {
    records_in: u64,
    records_out: u64,
    watermark: Option<i64>,
}

/// Rows at the job's two ends. A source counts what it reads as rows in; one that counts only what it emits is taken
/// at that. A sink likewise, the other way round.
fn totals(graph: &JobGraph, vertices: &[VertexInfo]) -> Totals {
    let mut sums = Totals::default();
    let mut watermarks = Vec::new();
    for (vertex, info) in graph.vertices.iter().zip(vertices) {
        if graph.inputs(vertex.id).next().is_none() {
            let read = info.metrics.read_records;
            sums.records_in += if read > 0 {
                read
            } else {
                info.metrics.write_records
            };
        }
        if graph.outputs(vertex.id).next().is_none() {
            let written = info.metrics.write_records;
            sums.records_out += if written > 0 {
                written
            } else {
                info.metrics.read_records
            };
            watermarks.push(info.current_watermark);
        }
    }
    sums.watermark = watermarks
        .into_iter()
        .collect::<Option<Vec<i64>>>()
        .and_then(|w| w.into_iter().min());
    sums
}

/// Answer of `/v1/jobs/:id/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobConfig {
    /// 32 hexadecimal digits.
    pub jid: String,
    /// For people.
    pub name: String,
    /// Flink's field.
    #[serde(rename = "execution-config")]
    pub execution_config: ExecutionConfig,
}

/// The settings of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ExecutionConfig {
    /// The restart strategy's type.
    pub restart_strategy: String,
    /// Slots.
    pub job_parallelism: u32,
    /// Flink's field.
    pub object_reuse_mode: bool,
    /// All explicit settings.
    pub user_config: BTreeMap<String, String>,
}

/// The settings in force.
#[must_use]
pub fn config(job: &Job) -> JobConfig {
    JobConfig {
        jid: job.id.to_string(),
        name: job.name.clone(),
        execution_config: ExecutionConfig {
            restart_strategy: super::checkpoints::setting(
                job,
                &holdfast_common::config::options::RESTART_TYPE.info,
            ),
            job_parallelism: job.parallelism,
            object_reuse_mode: true,
            user_config: job.settings.clone(),
        },
    }
}

/// Answer of `/v1/jobs/:id/exceptions`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exceptions {
    /// The newest failure's text; null if there was none.
    #[serde(rename = "root-exception")]
    pub root_exception: Option<String>,
    /// When it happened.
    pub timestamp: Option<u64>,
    /// Whether older ones were dropped.
    pub truncated: bool,
    /// Flink's field.
    #[serde(rename = "exceptionHistory")]
    pub exception_history: ExceptionHistory,
}

/// Failures, newest first as in Flink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExceptionHistory {
    /// The failures.
    pub entries: Vec<ExceptionEntry>,
    /// Whether older ones were dropped.
    pub truncated: bool,
}

/// One failure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExceptionEntry {
    /// First clause of the message: there are no exception classes here.
    pub exception_name: String,
    /// The whole message: there is no stack.
    pub stacktrace: String,
    /// When.
    pub timestamp: u64,
    /// The task, as people name it; null for a failure of the job itself.
    pub task_name: Option<String>,
    /// The worker; null if none was involved.
    pub endpoint: Option<String>,
    /// The worker once more, under Flink's newer name.
    pub task_manager_id: Option<String>,
    /// Of which attempt, from 1; 0 before the first.
    pub attempt: u32,
    /// Flink's field, filled by its failure enrichers; there are none here.
    #[serde(default)]
    pub failure_labels: BTreeMap<String, String>,
    /// Flink's field; failures of one attempt are recorded once.
    pub concurrent_exceptions: Vec<ExceptionEntry>,
}

/// What went wrong, newest first, at most `limit`.
#[must_use]
pub fn exceptions(job: &Job, limit: usize) -> Exceptions {
    let newest = job.exceptions.back();
    // The state keeps a bounded number; a full queue may have dropped some.
    let truncated =
        job.exceptions.len() > limit || job.exceptions.len() >= holdfast_common::limits::EXCEPTIONS_PER_JOB;
    Exceptions {
        root_exception: newest.map(|f| f.message.clone()),
        timestamp: newest.map(|f| f.at_ms),
        truncated,
        exception_history: ExceptionHistory {
            entries: job.exceptions.iter().rev().take(limit).map(exception).collect(),
            truncated,
        },
    }
}

fn exception(failure: &Failure) -> ExceptionEntry {
    let named = |text: &String| Some(text.clone()).filter(|t| !t.is_empty());
    ExceptionEntry {
        exception_name: failure.message.split(':').next().unwrap_or_default().to_owned(),
        stacktrace: failure.message.clone(),
        timestamp: failure.at_ms,
        task_name: named(&failure.task),
        endpoint: named(&failure.worker),
        task_manager_id: named(&failure.worker),
        attempt: failure.attempt_number,
        failure_labels: BTreeMap::new(),
        concurrent_exceptions: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture;
    use super::*;
    use std::sync::Arc;

    #[test]
    fn details_carry_flinks_fields_and_ours() {
        let (state, live) = fixture::running();
        let scene = Scene {
            state: &state,
            live: &live,
            now_ms: 10_500,
        };
        let graph = fixture::graph();
        let json = serde_json::to_value(details(scene, &state.jobs[&fixture::JOB], Some(&graph))).unwrap();
        assert_eq!(json["jid"], "00000000000000000000000000000abc");
        assert_eq!(json["state"], "RUNNING");
        assert_eq!(json["start-time"], 9_000);
        assert_eq!(json["end-time"], -1);
        assert_eq!(json["duration"], 1_500);
        assert_eq!(json["attempt"], 2);
        assert_eq!(json["attempt-id"], 77);
        assert_eq!(json["restarts"], 1);
        assert_eq!(json["restored-checkpoint"], 1);
        assert_eq!(json["records-in"], 300);
        assert_eq!(json["records-out"], 20);
        assert_eq!(json["current-watermark"], 5_000);
        assert_eq!(json["late-records-dropped"], 2);
        assert_eq!(json["timestamps"]["RUNNING"], 10_100);
        assert_eq!(json["timestamps"]["FINISHED"], 0);
        assert_eq!(json["status-counts"]["RUNNING"], 2);
        assert_eq!(json["vertices"][1]["name"], "Sink: result");
        assert_eq!(json["plan"]["nodes"][1]["inputs"][0]["ship_strategy"], "HASH");
        assert_eq!(
            json["plan"]["nodes"][1]["inputs"][0]["id"],
            json["vertices"][0]["id"]
        );
    }

    #[test]
    fn the_list_counts_tasks() {
        let (state, live) = fixture::running();
        let scene = Scene {
            state: &state,
            live: &live,
            now_ms: 10_500,
        };
        let graph = fixture::graph();
        let json = serde_json::to_value(summary(scene, &state.jobs[&fixture::JOB], Some(&graph))).unwrap();
        assert_eq!(json["tasks"]["running"], 4);
        assert_eq!(json["tasks"]["total"], 4);
        assert_eq!(json["last-modification"], 10_100);
        assert_eq!(
            serde_json::to_value(ids(scene)).unwrap(),
            serde_json::json!({"jobs":[{"id":"00000000000000000000000000000abc","status":"RUNNING"}]})
        );
    }

    #[test]
    fn exceptions_come_newest_first_and_say_when_some_are_missing() {
        let (mut state, _) = fixture::running();
        let job = Arc::make_mut(state.jobs.get_mut(&fixture::JOB).unwrap());
        let mut second = job.exceptions[0].clone();
        second.message = "flights.csv: line 7: 'x' is not a BIGINT".into();
        second.at_ms = 9_800;
        second.worker.clear();
        job.exceptions.push_back(second);
        let json = serde_json::to_value(exceptions(job, 10)).unwrap();
        assert_eq!(json["root-exception"], "flights.csv: line 7: 'x' is not a BIGINT");
        assert_eq!(json["timestamp"], 9_800);
        assert_eq!(
            json["exceptionHistory"]["entries"][0]["exceptionName"],
            "flights.csv"
        );
        assert_eq!(
            json["exceptionHistory"]["entries"][0]["endpoint"],
            serde_json::Value::Null
        );
        assert_eq!(
            json["exceptionHistory"]["entries"][1]["taskName"],
            "Source: flights (1/2)"
        );
        assert_eq!(json["exceptionHistory"]["truncated"], false);
        assert!(exceptions(job, 1).truncated);
    }
}
