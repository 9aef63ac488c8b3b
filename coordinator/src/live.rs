//! What the leader knows from its workers' heartbeats alone: not replicated, learnt again by every new leader.
//!
//! The leader publishes a [`LiveView`]; REST and metrics read it. On a follower it is empty. What was known of a job at
//! its end goes into the log, so that it outlives the leader.

use holdfast_common::clock::UnixMillis;
use holdfast_common::limits::LAST_REPORTS_BYTES_MAX;
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId, LeaderEpoch, VertexId};
use holdfast_proto::control::{LastReport, LastReports, TaskReport};
use prost::Message;
use prost::bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// What the leader sees now.
#[derive(Debug, Clone, Default)]
pub struct LiveView {
    /// Under which claim; `None` while this coordinator does not lead.
    pub epoch: Option<LeaderEpoch>,
    /// Attached workers by resource id.
    pub workers: BTreeMap<String, LiveWorker>,
    /// Jobs with an attempt that the leader watches.
    pub jobs: BTreeMap<JobId, LiveJob>,
}

/// An attached worker.
#[derive(Debug, Clone)]
pub struct LiveWorker {
    /// Its process.
    pub incarnation: Incarnation,
    /// When its last heartbeat came.
    pub heartbeat_ms: UnixMillis,
    /// Slots without a task.
    pub free_slots: u32,
}

/// A job's attempt as its workers report it.
#[derive(Debug, Clone)]
pub struct LiveJob {
    /// The attempt.
    pub attempt: AttemptId,
    /// Newest report of every subtask.
    pub tasks: LiveTasks,
    /// The checkpoint in flight.
    pub pending: Option<PendingCheckpoint>,
}

/// Subtasks by vertex and index.
pub type LiveTasks = BTreeMap<(VertexId, u32), LiveTask>;

/// As the log keeps them once the job has ended: all of them, or none if they are more than
/// [`LAST_REPORTS_BYTES_MAX`], since an entry of the log has its limit.
#[must_use]
pub fn tasks_to_log(tasks: &LiveTasks) -> Bytes {
    let tasks = tasks.values().map(|task| LastReport {
        worker: task.worker.clone(),
        report: Some(task.report),
    });
    let reports = LastReports {
        tasks: tasks.collect(),
    };
    match reports.encoded_len() {
        0..=LAST_REPORTS_BYTES_MAX => reports.encode_to_vec().into(),
        _ => Bytes::new(),
    }
}

/// What the log has kept. Nothing else depends on it, so that what cannot be read is only not shown.
#[must_use]
pub fn tasks_from_log(bytes: &Bytes) -> LiveTasks {
    let reports = LastReports::decode(bytes.clone()).unwrap_or_default();
    let tasks = reports.tasks.into_iter().filter_map(|task| {
        let report = task.report?;
        let live = LiveTask {
            worker: task.worker,
            report,
        };
        Some(((VertexId(report.vertex), report.subtask), live))
    });
    tasks.collect()
}

/// A subtask.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveTask {
    /// Where it runs.
    pub worker: String,
    /// Its status and counters.
    pub report: TaskReport,
}

/// A checkpoint in flight.
#[derive(Debug, Clone)]
pub struct PendingCheckpoint {
    /// Number.
    pub id: CheckpointId,
    /// When it was triggered.
    pub triggered_ms: UnixMillis,
    /// Subtasks that have acknowledged.
    pub acked: u32,
    /// Subtasks that must.
    pub expected: u32,
    /// Triggered, Writing, Proposing, Completed, Committing.
    pub phase: &'static str,
}

/// The leader's end.
pub type LivePublisher = watch::Sender<Arc<LiveView>>;
/// The readers' end.
pub type LiveReceiver = watch::Receiver<Arc<LiveView>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_log_keeps_of_an_ended_job_is_what_was_reported() {
        let task = |vertex, subtask| {
            let report = TaskReport {
                vertex,
                subtask,
                records_in: 7 * u64::from(vertex) + u64::from(subtask),
                watermark_ms: i64::MIN,
                ..TaskReport::default()
            };
            let worker = format!("worker-{subtask}");
            ((VertexId(vertex), subtask), LiveTask { worker, report })
        };
        let tasks: LiveTasks = [task(0, 0), task(0, 1), task(3, 0)].into();
        assert_eq!(tasks_from_log(&tasks_to_log(&tasks)), tasks);
        let many: LiveTasks = (0..20_000).map(|subtask| task(0, subtask)).collect();
        assert_eq!(tasks_to_log(&many), Bytes::new());
        assert_eq!(tasks_from_log(&Bytes::new()), LiveTasks::new());
        assert_eq!(
            tasks_from_log(&Bytes::from_static(b"no message")),
            LiveTasks::new()
        );
    }
}
