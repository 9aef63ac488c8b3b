//! Vertices and subtasks of a job: the log says where they run, the workers' reports say how they fare.

use super::Scene;
use crate::live::{LiveTask, LiveTasks, tasks_from_log};
use holdfast_dataflow::graph::{JobGraph, Vertex};
use holdfast_machine::state::{Job, JobStatus};
use holdfast_proto::control::{TaskReport, TaskStatus};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Flink's execution states, in the order in which Flink lists them.
pub const STATES: [&str; 10] = [
    "CREATED",
    "SCHEDULED",
    "DEPLOYING",
    "RUNNING",
    "FINISHED",
    "CANCELING",
    "CANCELED",
    "FAILED",
    "RECONCILING",
    "INITIALIZING",
];

/// Counters of a subtask or the sums over a vertex.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IoMetrics {
    /// Bytes that came in.
    pub read_bytes: u64,
    /// Flink's field: whether every subtask has reported.
    pub read_bytes_complete: bool,
    /// Bytes that went out.
    pub write_bytes: u64,
    /// See above.
    pub write_bytes_complete: bool,
    /// Rows that came in; of a source, rows read from the outside.
    pub read_records: u64,
    /// See above.
    pub read_records_complete: bool,
    /// Rows that went out; of a sink, rows written to the outside.
    pub write_records: u64,
    /// See above.
    pub write_records_complete: bool,
    /// Milliseconds of waiting for room downstream.
    pub accumulated_backpressured_time: u64,
    /// Milliseconds of work.
    pub accumulated_busy_time: u64,
    /// Rows that came after their window had closed.
    pub late_records_dropped: u64,
    /// Rows that did not parse and were skipped by option.
    pub bad_records_skipped: u64,
}

impl IoMetrics {
    fn of(report: &TaskReport) -> Self {
        Self {
            read_bytes: report.bytes_in,
            read_bytes_complete: true,
            write_bytes: report.bytes_out,
            write_bytes_complete: true,
            read_records: report.records_in,
            read_records_complete: true,
            write_records: report.records_out,
            write_records_complete: true,
            accumulated_backpressured_time: report.backpressured_ms,
            accumulated_busy_time: report.busy_ms,
            late_records_dropped: report.late_records_dropped,
            bad_records_skipped: report.bad_records_skipped,
        }
    }

    fn sum<'a>(parts: impl Iterator<Item = &'a Self>) -> Self {
        let complete = Self {
            read_bytes_complete: true,
            write_bytes_complete: true,
            read_records_complete: true,
            write_records_complete: true,
            ..Self::default()
        };
        parts.fold(complete, |a, b| Self {
            read_bytes: a.read_bytes + b.read_bytes,
            read_bytes_complete: a.read_bytes_complete && b.read_bytes_complete,
            write_bytes: a.write_bytes + b.write_bytes,
            write_bytes_complete: a.write_bytes_complete && b.write_bytes_complete,
            read_records: a.read_records + b.read_records,
            read_records_complete: a.read_records_complete && b.read_records_complete,
            write_records: a.write_records + b.write_records,
            write_records_complete: a.write_records_complete && b.write_records_complete,
            accumulated_backpressured_time: a.accumulated_backpressured_time
                + b.accumulated_backpressured_time,
            accumulated_busy_time: a.accumulated_busy_time + b.accumulated_busy_time,
            late_records_dropped: a.late_records_dropped + b.late_records_dropped,
            bad_records_skipped: a.bad_records_skipped + b.bad_records_skipped,
        })
    }
}

/// A vertex in `/v1/jobs/:id` and `/v1/jobs/:id/vertices/:vid`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct VertexInfo {
    /// 32 hexadecimal digits.
    pub id: String,
    /// What people see.
    pub name: String,
    /// Key groups.
    #[serde(rename = "maxParallelism")]
    pub max_parallelism: u32,
    /// Subtasks.
    pub parallelism: u32,
    /// Flink's execution state over all subtasks.
    pub status: String,
    /// Earliest start of a subtask, -1 if none has.
    pub start_time: i64,
    /// Latest end, -1 while one runs.
    pub end_time: i64,
    /// Milliseconds.
    pub duration: i64,
    /// Subtasks per state.
    pub tasks: BTreeMap<String, u32>,
    /// Sums.
    pub metrics: IoMetrics,
    /// Least watermark of the subtasks, milliseconds of event time; null if one has none.
    pub current_watermark: Option<i64>,
    /// Every subtask.
    pub subtasks: Vec<SubtaskInfo>,
}

/// A subtask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct SubtaskInfo {
    /// Its index.
    pub subtask: u32,
    /// Flink's execution state.
    pub status: String,
    /// The job's attempt, counted from 0 as in Flink.
    pub attempt: u32,
    /// The worker's data address.
    pub endpoint: String,
    /// The worker's name.
    pub taskmanager_id: String,
    /// When it started, -1 if it has not. Stays the same through changes of the leader.
    pub start_time: i64,
    /// When it ended, -1 while it runs.
    pub end_time: i64,
    /// Milliseconds.
    pub duration: i64,
    /// Rows in.
    pub read_records: u64,
    /// Rows out.
    pub write_records: u64,
    /// Milliseconds of event time; null if there is none yet.
    pub current_watermark: Option<i64>,
    /// All counters.
    pub metrics: IoMetrics,
}

/// Flink's word for a task's status.
#[must_use]
pub fn status_word(status: TaskStatus) -> &'static str {
    match status {
        TaskStatus::Unspecified => "CREATED",
        TaskStatus::Deploying => "DEPLOYING",
        TaskStatus::Initializing => "INITIALIZING",
        TaskStatus::Running => "RUNNING",
        TaskStatus::Finished => "FINISHED",
        TaskStatus::Failed => "FAILED",
        TaskStatus::Canceled => "CANCELED",
    }
}

/// What the log implies of a task that no worker has reported (to this leader, yet).
fn implied_status(job: &Job) -> &'static str {
    match (job.status, &job.attempt) {
        (JobStatus::Finished, _) => "FINISHED",
        (JobStatus::Canceled, _) => "CANCELED",
        (JobStatus::Failed, _) => "FAILED",
        (JobStatus::Cancelling, _) => "CANCELING",
        (JobStatus::Created, _) | (_, None) => "CREATED",
        (JobStatus::Restarting, Some(_)) => "SCHEDULED",
        (JobStatus::Running, Some(attempt)) if attempt.running_ms.is_none() => "DEPLOYING",
        (JobStatus::Running, Some(_)) => "RUNNING",
    }
}

/// The status that is shown: an ended job's tasks have ended, whatever the last report said.
fn shown_status(job: &Job, reported: Option<TaskStatus>) -> &'static str {
    match reported {
        Some(TaskStatus::Failed) => "FAILED",
        Some(TaskStatus::Finished) if job.status != JobStatus::Finished => "FINISHED",
        Some(status) if !job.status.is_terminal() && job.status != JobStatus::Cancelling => {
            status_word(status)
        }
        _ => implied_status(job),
    }
}

/// What is known of the job's subtasks: of one that has ended what the log has kept, or else what workers report.
fn reports<'a>(scene: Scene<'a>, job: &Job) -> Cow<'a, LiveTasks> {
    if job.status.is_terminal() {
        return Cow::Owned(tasks_from_log(&job.last_reports));
    }
    let live = scene.live.jobs.get(&job.id);
    let live = live.filter(|l| Some(l.attempt) == job.attempt.as_ref().map(|a| a.id));
    live.map_or_else(|| Cow::Owned(LiveTasks::new()), |l| Cow::Borrowed(&l.tasks))
}

fn subtask(scene: Scene<'_>, job: &Job, live: Option<&LiveTask>, index: u32) -> SubtaskInfo {
    let attempt = job.attempt.as_ref();
    let place = attempt.and_then(|a| a.assignment.get(index as usize));
    let report = live.map(|l| &l.report);
    let started = report
        .map(|r| r.started_ms)
        .filter(|ms| *ms > 0)
        .or_else(|| attempt.and_then(|a| a.running_ms));
    let status = shown_status(job, report.map(TaskReport::status));
    let ended = job.ended_ms.filter(|_| job.status.is_terminal());
    let until = ended.unwrap_or(scene.now_ms);
    let metrics = report.map(IoMetrics::of).unwrap_or_default();
    SubtaskInfo {
        subtask: index,
        status: status.to_owned(),
        attempt: attempt.map_or(0, |a| a.number.saturating_sub(1)),
        endpoint: place.map(|p| p.data_addr.clone()).unwrap_or_default(),
        taskmanager_id: live
            .map(|l| l.worker.clone())
            .or_else(|| place.map(|p| p.resource_id.clone()))
            .unwrap_or_default(),
        start_time: super::time_or_minus_one(started),
        end_time: super::time_or_minus_one(ended),
        duration: super::time_or_minus_one(started.map(|s| until.saturating_sub(s))),
        read_records: metrics.read_records,
        write_records: metrics.write_records,
        current_watermark: report.map(|r| r.watermark_ms).filter(|w| *w != i64::MIN),
        metrics,
    }
}

/// Flink's rule for the state of a vertex: the worst of its subtasks, RUNNING as soon as one runs, FINISHED only when
/// all have.
fn aggregate_status(subtasks: &[SubtaskInfo]) -> &'static str {
    let any = |word: &str| subtasks.iter().any(|s| s.status == word);
    for word in [
        "FAILED",
        "CANCELING",
        "CANCELED",
        "INITIALIZING",
        "DEPLOYING",
        "RUNNING",
    ] {
        if any(word) {
            return STATES.iter().copied().find(|s| *s == word).unwrap_or("CREATED");
        }
    }
    match subtasks.iter().filter(|s| s.status == "FINISHED").count() {
        0 if any("SCHEDULED") => "SCHEDULED",
        0 => "CREATED",
        n if n == subtasks.len() => "FINISHED",
        _ => "RUNNING",
    }
}

/// One vertex with its subtasks.
#[must_use]
pub fn vertex(scene: Scene<'_>, job: &Job, vertex: &Vertex) -> VertexInfo {
    summed(scene, job, vertex, &reports(scene, job))
}

fn summed(scene: Scene<'_>, job: &Job, vertex: &Vertex, reports: &LiveTasks) -> VertexInfo {
    let subtasks: Vec<SubtaskInfo> = (0..vertex.parallelism)
        .map(|index| subtask(scene, job, reports.get(&(vertex.id, index)), index))
        .collect();
    let start = subtasks
        .iter()
        .map(|s| s.start_time)
        .filter(|s| *s >= 0)
        .min()
        .unwrap_or(-1);
    let all_ended = subtasks.iter().all(|s| s.end_time >= 0);
    let end = if all_ended {
        subtasks.iter().map(|s| s.end_time).max().unwrap_or(-1)
    } else {
        -1
    };
    let until = if end >= 0 {
        end
    } else {
        i64::try_from(scene.now_ms).unwrap_or(i64::MAX)
    };
    let watermarks: Option<Vec<i64>> = subtasks.iter().map(|s| s.current_watermark).collect();
    VertexInfo {
        id: vertex.id.to_rest(),
        name: vertex.name.clone(),
        max_parallelism: job.max_parallelism,
        parallelism: vertex.parallelism,
        status: aggregate_status(&subtasks).to_owned(),
        start_time: start,
        end_time: end,
        duration: if start >= 0 { until - start } else { -1 },
        tasks: count_states(subtasks.iter().map(|s| s.status.as_str())),
        metrics: IoMetrics::sum(subtasks.iter().map(|s| &s.metrics)),
        current_watermark: watermarks.and_then(|w| w.into_iter().min()),
        subtasks,
    }
}

/// All vertices of a job.
#[must_use]
pub fn vertices(scene: Scene<'_>, job: &Job, graph: &JobGraph) -> Vec<VertexInfo> {
    let reports = reports(scene, job);
    let vertices = graph.vertices.iter();
    vertices.map(|v| summed(scene, job, v, &reports)).collect()
}

/// How many of each state, all of Flink's states listed.
#[must_use]
pub fn count_states<'a>(words: impl Iterator<Item = &'a str>) -> BTreeMap<String, u32> {
    let mut counts: BTreeMap<String, u32> = STATES.iter().map(|s| ((*s).to_owned(), 0)).collect();
    for word in words {
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture;
    use super::*;
    use crate::live::LiveView;
    use holdfast_common::VertexId;
    use std::sync::Arc;

    #[test]
    fn a_running_vertex_sums_its_subtasks() {
        let (state, live) = fixture::running();
        let graph = fixture::graph();
        let scene = Scene {
            state: &state,
            live: &live,
            now_ms: 10_500,
        };
        let job = state.jobs.values().next().unwrap();
        let vertices = vertices(scene, job, &graph);
        assert_eq!(vertices.len(), 2);
        let source = &vertices[0];
        assert_eq!(source.status, "RUNNING");
        assert_eq!(source.metrics.read_records, 300);
        assert!(source.metrics.read_records_complete);
        assert_eq!(source.current_watermark, Some(5_000));
        assert_eq!(source.start_time, 10_000);
        assert_eq!(source.duration, 500);
        assert_eq!(source.tasks["RUNNING"], 2);
        assert_eq!(source.tasks["FAILED"], 0);
        let json = serde_json::to_value(source).unwrap();
        assert_eq!(json["subtasks"][1]["taskmanager-id"], "worker-1");
        assert_eq!(json["subtasks"][1]["read-records"], 200);
        assert_eq!(json["subtasks"][1]["start-time"], 10_000);
        assert_eq!(json["metrics"]["read-records"], 300);
        assert_eq!(json["maxParallelism"], 128);
    }

    #[test]
    fn without_reports_the_log_decides_what_is_shown() {
        let (mut state, _) = fixture::running();
        let graph = fixture::graph();
        let nothing = LiveView::default();
        let shown = |state: &holdfast_machine::state::State| {
            let scene = Scene {
                state,
                live: &nothing,
                now_ms: 20_000,
            };
            vertices(scene, state.jobs.values().next().unwrap(), &graph)[0].clone()
        };
        let vertex = shown(&state);
        assert_eq!((vertex.status.as_str(), vertex.start_time), ("RUNNING", 10_100));
        assert!(!vertex.metrics.read_records_complete);
        let job = Arc::make_mut(state.jobs.values_mut().next().unwrap());
        job.status = JobStatus::Finished;
        job.ended_ms = Some(15_000);
        let vertex = shown(&state);
        assert_eq!(
            (vertex.status.as_str(), vertex.end_time, vertex.duration),
            ("FINISHED", 15_000, 4_900)
        );
    }

    #[test]
    fn an_ended_jobs_counters_come_from_the_log() {
        let (mut state, live) = fixture::running();
        let graph = fixture::graph();
        let last = crate::live::tasks_to_log(&live.jobs[&fixture::JOB].tasks);
        let job = Arc::make_mut(state.jobs.values_mut().next().unwrap());
        (job.status, job.ended_ms, job.last_reports) = (JobStatus::Finished, Some(15_000), last);
        let scene = Scene {
            state: &state,
            live: &LiveView::default(),
            now_ms: 20_000,
        };
        let shown = vertices(scene, &state.jobs[&fixture::JOB], &graph);
        assert_eq!(
            (shown[0].status.as_str(), shown[0].metrics.read_records),
            ("FINISHED", 300)
        );
        assert!(shown[0].metrics.read_records_complete);
        assert_eq!(shown[0].subtasks[1].taskmanager_id, "worker-1");
    }

    #[test]
    fn a_vertex_is_finished_only_when_all_its_subtasks_are() {
        let (state, mut live) = fixture::running();
        let graph = fixture::graph();
        let job = state.jobs.values().next().unwrap();
        let tasks = &mut live.jobs.get_mut(&job.id).unwrap().tasks;
        tasks.get_mut(&(VertexId(0), 0)).unwrap().report.status = TaskStatus::Finished as i32;
        let status = |live: &LiveView| {
            let scene = Scene {
                state: &state,
                live,
                now_ms: 10_500,
            };
            vertex(scene, job, &graph.vertices[0]).status
        };
        assert_eq!(status(&live), "RUNNING");
        let tasks = &mut live.jobs.get_mut(&job.id).unwrap().tasks;
        tasks.get_mut(&(VertexId(0), 1)).unwrap().report.status = TaskStatus::Finished as i32;
        assert_eq!(status(&live), "FINISHED");
        let tasks = &mut live.jobs.get_mut(&job.id).unwrap().tasks;
        tasks.get_mut(&(VertexId(0), 1)).unwrap().report.status = TaskStatus::Failed as i32;
        assert_eq!(status(&live), "FAILED");
    }
}
