//! `GET /metrics`: every metric's name, type and meaning, and the page for Prometheus.
//!
//! Names are Flink's words behind `holdfast_`. Every coordinator exports its own Raft metrics; only the leader exports
//! the cluster's and the jobs', so that a sum over coordinators is right.

use super::view::Scene;
use super::view::checkpoints as checkpoint_views;
use super::view::cluster::overview;
use super::view::tasks::VertexInfo;
use super::{Api, view};
use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use holdfast_machine::state::{Job, JobStatus};
use holdfast_raft::RaftMetrics;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// What is known of a metric.
#[derive(Debug, Clone, Copy)]
struct Info {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

macro_rules! metrics {
    ($($id:ident = $kind:literal $name:literal $help:literal;)*) => {
        /// Index of a metric in [`ALL`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        enum Metric { $($id),* }
        /// The registry, in the page's order.
        static ALL: &[(Metric, Info)] =
            &[$((Metric::$id, Info { name: $name, kind: $kind, help: $help })),*];
    };
}

metrics! {
    RaftIsLeader = "gauge" "holdfast_raft_is_leader" "1 on the coordinator that leads.";
    RaftLeader = "gauge" "holdfast_raft_leader" "Number of the leader as this coordinator knows it, 0 if none.";
    RaftQuorumOk = "gauge" "holdfast_raft_quorum_ok" "On the leader: 1 while a majority answers it.";
    RaftTerm = "gauge" "holdfast_raft_term" "Term of this coordinator.";
    RaftLastLog = "gauge" "holdfast_raft_last_log" "Last entry of this coordinator's log.";
    RaftApplied = "gauge" "holdfast_raft_applied" "Last entry that this coordinator has applied.";
    RaftSnapshot = "gauge" "holdfast_raft_snapshot" "Last entry in this coordinator's snapshot.";
    RaftMembers = "gauge" "holdfast_raft_members" "Members of the Raft group, by role.";
    RaftFatal = "gauge" "holdfast_raft_fatal" "1 if consensus has stopped on this coordinator: the process must be replaced.";
    DigestMismatch = "gauge" "holdfast_state_digest_mismatch" "1 if coordinators computed different states from the same log: stop and report.";
    FeatureLevel = "gauge" "holdfast_feature_level" "Features that every member supports.";
    TaskManagers = "gauge" "holdfast_numRegisteredTaskManagers" "Registered workers.";
    SlotsTotal = "gauge" "holdfast_taskSlotsTotal" "Slots of all registered workers.";
    SlotsAvailable = "gauge" "holdfast_taskSlotsAvailable" "Slots without a task.";
    RunningJobs = "gauge" "holdfast_numRunningJobs" "Jobs that have not ended.";
    JobState = "gauge" "holdfast_job_state" "1 for the state in which the job is.";
    JobAttempt = "gauge" "holdfast_job_attempt" "Current attempt of the job, from 1.";
    NumRestarts = "counter" "holdfast_numRestarts" "Restarts of the job.";
    CheckpointsCompleted = "counter" "holdfast_numberOfCompletedCheckpoints" "Completed checkpoints of the job.";
    CheckpointsFailed = "counter" "holdfast_numberOfFailedCheckpoints" "Failed checkpoints of the job.";
    CheckpointsFailedInARow = "gauge" "holdfast_numberOfConsecutiveFailedCheckpoints" "Failed checkpoints since the last completed one.";
    CheckpointsInProgress = "gauge" "holdfast_numberOfInProgressCheckpoints" "Checkpoints in flight.";
    LastCheckpointId = "gauge" "holdfast_lastCompletedCheckpointId" "Number of the last completed checkpoint.";
    LastCheckpointTime = "gauge" "holdfast_lastCompletedCheckpointTimestamp" "When the last completed checkpoint was decided, milliseconds since the epoch.";
    LastCheckpointDuration = "gauge" "holdfast_lastCheckpointDuration" "Milliseconds from trigger to decision of the last completed checkpoint.";
    LastCheckpointSize = "gauge" "holdfast_lastCheckpointSize" "Bytes of state of the last completed checkpoint.";
    RecordsIn = "counter" "holdfast_numRecordsIn" "Rows into a vertex since its attempt started.";
    RecordsOut = "counter" "holdfast_numRecordsOut" "Rows out of a vertex since its attempt started.";
    BytesIn = "counter" "holdfast_numBytesIn" "Bytes into a vertex since its attempt started.";
    BytesOut = "counter" "holdfast_numBytesOut" "Bytes out of a vertex since its attempt started.";
    LateRecords = "counter" "holdfast_numLateRecordsDropped" "Rows that came after their window had closed.";
    BadRecords = "counter" "holdfast_numBadRecordsSkipped" "Rows that did not parse and were skipped by option.";
    BusyTime = "counter" "holdfast_accumulatedBusyTimeMs" "Milliseconds of work of a vertex's subtasks.";
    BackpressuredTime = "counter" "holdfast_accumulatedBackPressuredTimeMs" "Milliseconds that a vertex's subtasks waited for room downstream.";
    Watermark = "gauge" "holdfast_currentInputWatermark" "Least watermark of a vertex, milliseconds of event time.";
}

/// Samples by metric: Prometheus wants those of one metric together.
#[derive(Default)]
struct Page {
    samples: BTreeMap<Metric, String>,
}

impl Page {
    fn add(&mut self, metric: Metric, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let Some((_, info)) = ALL.iter().find(|(m, _)| *m == metric) else {
            return;
        };
        let text = self.samples.entry(metric).or_default();
        text.push_str(info.name);
        for (position, (name, content)) in labels.iter().enumerate() {
            text.push(if position == 0 { '{' } else { ',' });
            let _ = write!(text, "{name}=\"{}\"", escape(content));
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (metric, info) in ALL {
            if let Some(samples) = self.samples.get(metric) {
                let _ = writeln!(
                    text,
                    "# HELP {} {}\n# TYPE {} {}",
                    info.name, info.help, info.name, info.kind
                );
                text.push_str(samples);
            }
        }
        text
    }
}

fn escape(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn raft(page: &mut Page, metrics: &RaftMetrics) {
    let id = metrics.id.0.to_string();
    let own = [("coordinator", id.as_str())];
    let leadership = &metrics.leadership;
    page.add(Metric::RaftIsLeader, &own, u8::from(leadership.is_leader));
    page.add(Metric::RaftLeader, &own, leadership.leader.map_or(0, |l| l.0));
    if leadership.is_leader {
        page.add(Metric::RaftQuorumOk, &own, u8::from(leadership.quorum_ok));
    }
    page.add(Metric::RaftTerm, &own, leadership.term);
    page.add(Metric::RaftLastLog, &own, metrics.last_log);
    page.add(Metric::RaftApplied, &own, metrics.applied);
    page.add(Metric::RaftSnapshot, &own, metrics.snapshot);
    for role in ["voter", "learner"] {
        let count = metrics
            .members
            .iter()
            .filter(|m| m.voter == (role == "voter"))
            .count();
        page.add(
            Metric::RaftMembers,
            &[("coordinator", &id), ("role", role)],
            count,
        );
    }
    page.add(Metric::RaftFatal, &own, u8::from(metrics.fatal.is_some()));
    page.add(
        Metric::DigestMismatch,
        &own,
        u8::from(metrics.digest_mismatch.is_some()),
    );
}

fn cluster(page: &mut Page, scene: Scene<'_>) {
    let counts = overview(scene, "");
    page.add(Metric::FeatureLevel, &[], scene.state.feature_level);
    page.add(Metric::TaskManagers, &[], counts.taskmanagers);
    page.add(Metric::SlotsTotal, &[], counts.slots_total);
    page.add(Metric::SlotsAvailable, &[], counts.slots_available);
    page.add(Metric::RunningJobs, &[], counts.jobs_running);
}

fn job(page: &mut Page, scene: Scene<'_>, job: &Job) {
    let id = job.id.to_string();
    let labels = [("job_id", id.as_str()), ("job_name", job.name.as_str())];
    for status in [
        JobStatus::Created,
        JobStatus::Running,
        JobStatus::Restarting,
        JobStatus::Cancelling,
        JobStatus::Finished,
        JobStatus::Canceled,
        JobStatus::Failed,
    ] {
        let state = [labels[0], labels[1], ("state", status.as_str())];
        page.add(Metric::JobState, &state, u8::from(job.status == status));
    }
    page.add(
        Metric::JobAttempt,
        &labels,
        job.attempt.as_ref().map_or(0, |a| a.number),
    );
    page.add(Metric::NumRestarts, &labels, view::jobs::restarts(job));
    let checkpoints = checkpoint_views::checkpoints(scene, job);
    page.add(
        Metric::CheckpointsCompleted,
        &labels,
        checkpoints.counts.completed,
    );
    page.add(Metric::CheckpointsFailed, &labels, checkpoints.counts.failed);
    page.add(
        Metric::CheckpointsFailedInARow,
        &labels,
        job.checkpoint_stats.failed_in_a_row,
    );
    page.add(
        Metric::CheckpointsInProgress,
        &labels,
        checkpoints.counts.in_progress,
    );
    if let Some(last) = checkpoints.latest.completed {
        page.add(Metric::LastCheckpointId, &labels, last.id);
        page.add(Metric::LastCheckpointTime, &labels, last.latest_ack_timestamp);
        page.add(Metric::LastCheckpointDuration, &labels, last.end_to_end_duration);
        page.add(Metric::LastCheckpointSize, &labels, last.state_size);
    }
}

fn vertex(page: &mut Page, job: &Job, vertex: &VertexInfo) {
    let id = job.id.to_string();
    let labels = [
        ("job_id", id.as_str()),
        ("job_name", job.name.as_str()),
        ("vertex_id", vertex.id.as_str()),
        ("vertex", vertex.name.as_str()),
    ];
    let counts = &vertex.metrics;
    page.add(Metric::RecordsIn, &labels, counts.read_records);
    page.add(Metric::RecordsOut, &labels, counts.write_records);
    page.add(Metric::BytesIn, &labels, counts.read_bytes);
    page.add(Metric::BytesOut, &labels, counts.write_bytes);
    page.add(Metric::LateRecords, &labels, counts.late_records_dropped);
    page.add(Metric::BadRecords, &labels, counts.bad_records_skipped);
    page.add(Metric::BusyTime, &labels, counts.accumulated_busy_time);
    page.add(
        Metric::BackpressuredTime,
        &labels,
        counts.accumulated_backpressured_time,
    );
    if let Some(watermark) = vertex.current_watermark {
        page.add(Metric::Watermark, &labels, watermark);
    }
}

/// The handler.
pub(crate) async fn metrics(State(api): State<Arc<Api>>) -> impl IntoResponse {
    let mut page = Page::default();
    raft(&mut page, &api.deps.handle.metrics());
    let moment = api.moment();
    if moment.live.epoch.is_some() {
        cluster(&mut page, moment.scene());
        for each in moment.state.jobs.values().filter(|j| !j.status.is_terminal()) {
            job(&mut page, moment.scene(), each);
            if let Some(graph) = api.graph(each).await {
                for info in view::tasks::vertices(moment.scene(), each, &graph) {
                    vertex(&mut page, each, &info);
                }
            }
        }
    }
    (
        [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        page.text(),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::view::fixture;
    use super::*;
    use holdfast_common::NodeId;
    use holdfast_raft::Leadership;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_valid() {
        let names: BTreeSet<&str> = ALL.iter().map(|(_, info)| info.name).collect();
        assert_eq!(names.len(), ALL.len());
        for name in names {
            assert!(
                name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'),
                "{name}"
            );
        }
    }

    #[test]
    fn the_page_groups_samples_and_escapes_labels() {
        let (mut state, live) = fixture::running();
        Arc::make_mut(state.jobs.get_mut(&fixture::JOB).unwrap()).name = "a \"b\"".into();
        let scene = Scene {
            state: &state,
            live: &live,
            now_ms: 10_500,
        };
        let mut page = Page::default();
        cluster(&mut page, scene);
        let running = &state.jobs[&fixture::JOB];
        job(&mut page, scene, running);
        for info in view::tasks::vertices(scene, running, &fixture::graph()) {
            vertex(&mut page, running, &info);
        }
        let text = page.text();
        let id = fixture::JOB;
        for line in [
            "holdfast_taskSlotsTotal 2".to_owned(),
            format!("holdfast_numRestarts{{job_id=\"{id}\",job_name=\"a \\\"b\\\"\"}} 1"),
            format!("holdfast_numberOfCompletedCheckpoints{{job_id=\"{id}\",job_name=\"a \\\"b\\\"\"}} 2"),
            format!("holdfast_lastCheckpointDuration{{job_id=\"{id}\",job_name=\"a \\\"b\\\"\"}} 40"),
        ] {
            assert!(text.lines().any(|l| l == line), "{line}\n{text}");
        }
        let records = text
            .lines()
            .filter(|l| l.starts_with("holdfast_numRecordsIn{"))
            .count();
        assert_eq!(records, 2);
        assert_eq!(text.matches("# TYPE holdfast_numRecordsIn counter").count(), 1);
    }

    #[test]
    fn a_follower_exports_its_raft_metrics() {
        let mut page = Page::default();
        raft(
            &mut page,
            &RaftMetrics {
                id: NodeId(2),
                leadership: Leadership {
                    leader: Some(NodeId(1)),
                    is_leader: false,
                    term: 4,
                    quorum_ok: false,
                },
                last_log: 10,
                applied: 9,
                snapshot: 0,
                purged: 0,
                members: Vec::new(),
                fatal: None,
                digest_mismatch: None,
            },
        );
        let text = page.text();
        assert!(text.contains("holdfast_raft_leader{coordinator=\"2\"} 1\n"));
        assert!(text.contains("holdfast_raft_term{coordinator=\"2\"} 4\n"));
        assert!(!text.contains("quorum_ok"));
    }
}
