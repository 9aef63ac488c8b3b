//! `/v1/jobs/:id/checkpoints`: counts, summary, latest and history of a job's checkpoints.
//!
//! All of it comes from the log, so it survives every change of the leader; only the checkpoint in flight is live.

use super::Scene;
use crate::live::PendingCheckpoint;
use holdfast_common::config::{ConfigValue, OptionInfo, options};
use holdfast_machine::state::{Checkpoint, CheckpointOutcome, Job};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Answer of `/v1/jobs/:id/checkpoints`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Totals.
    pub counts: Counts,
    /// Over the history.
    pub summary: Summary,
    /// The newest of each kind.
    pub latest: Latest,
    /// Newest first.
    pub history: Vec<CheckpointInfo>,
}

/// Totals over the job's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Restores.
    pub restored: u64,
    /// Completed, failed and in flight.
    pub total: u64,
    /// In flight.
    pub in_progress: u64,
    /// Completed.
    pub completed: u64,
    /// Failed.
    pub failed: u64,
}

/// Statistics over the completed checkpoints of the history.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Bytes.
    pub checkpointed_size: Spread,
    /// Bytes.
    pub state_size: Spread,
    /// Milliseconds.
    pub end_to_end_duration: Spread,
}

/// Minimum, maximum, mean and quantiles, in Flink's shape.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Least.
    pub min: u64,
    /// Greatest.
    pub max: u64,
    /// Mean.
    pub avg: u64,
    /// Median.
    pub p50: f64,
    /// 90 %.
    pub p90: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// 99.9 %.
    pub p999: f64,
}

/// The newest of each kind; null if there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Latest {
    /// Completed.
    pub completed: Option<CheckpointInfo>,
    /// Savepoints are not there yet.
    pub savepoint: Option<CheckpointInfo>,
    /// Failed.
    pub failed: Option<CheckpointInfo>,
    /// From which the current attempt was restored.
    pub restored: Option<Restored>,
}

/// The restored checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Number.
    pub id: u64,
    /// When the attempt that restored it was started.
    pub restore_timestamp: u64,
    /// Always false.
    pub is_savepoint: bool,
    /// Path of its manifest within snapshot storage; null once it is collected.
    pub external_path: Option<String>,
}

/// One checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointInfo {
    /// Number.
    pub id: u64,
    /// IN_PROGRESS, COMPLETED or FAILED.
    pub status: String,
    /// Always false.
    pub is_savepoint: bool,
    /// Always CHECKPOINT.
    pub checkpoint_type: String,
    /// When it was triggered.
    pub trigger_timestamp: u64,
    /// When it was decided; -1 while in flight.
    pub latest_ack_timestamp: i64,
    /// Bytes of state.
    pub state_size: u64,
    /// Bytes written for it.
    pub checkpointed_size: u64,
    /// Milliseconds from its trigger.
    pub end_to_end_duration: u64,
    /// Subtasks that take part; 0 where that is no longer known.
    pub num_subtasks: u32,
    /// Those that have acknowledged.
    pub num_acknowledged_subtasks: u32,
    /// Where a checkpoint in flight stands.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub phase: Option<String>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure_message: Option<String>,
    /// When it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure_timestamp: Option<u64>,
    /// Path of its manifest within snapshot storage.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub external_path: Option<String>,
    /// No longer retained.
    pub discarded: bool,
    /// Its sinks have committed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub committed: Option<bool>,
    /// Found unreadable.
    #[serde(default)]
    pub damaged: bool,
    /// The job's last one.
    #[serde(default)]
    pub is_final: bool,
    /// Fencing number of the attempt that made it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub attempt_id: Option<u64>,
}

/// The answer for one job.
#[must_use]
pub fn checkpoints(scene: Scene<'_>, job: &Job) -> Checkpoints {
    let stats = &job.checkpoint_stats;
    let pending = scene.live.jobs.get(&job.id).and_then(|l| l.pending.as_ref());
    let pending = pending.filter(|p| !job.checkpoints.contains_key(&p.id) && !job.status.is_terminal());
    let in_progress = u64::from(pending.is_some());
    let mut history: Vec<CheckpointInfo> = pending.map(|p| in_flight(scene, p)).into_iter().collect();
    history.extend(stats.history.iter().rev().map(|outcome| info(job, outcome)));
    let newest = |status: &str| history.iter().find(|c| c.status == status).cloned();
    Checkpoints {
        counts: Counts {
            restored: stats.restored,
            total: stats.completed + stats.failed + in_progress,
            in_progress,
            completed: stats.completed,
            failed: stats.failed,
        },
        summary: summary(job),
        latest: Latest {
            completed: newest("COMPLETED").or_else(|| newest_in_catalogue(job)),
            savepoint: None,
            failed: newest("FAILED"),
            restored: restored(job),
        },
        history,
    }
}

/// The newest completed one, when failures have pushed it out of the history.
fn newest_in_catalogue(job: &Job) -> Option<CheckpointInfo> {
    let record = job.checkpoints.values().next_back()?;
    let outcome = CheckpointOutcome {
        id: record.id,
        triggered_ms: record.triggered_ms,
        ended_ms: record.completed_ms,
        state_bytes: record.state_bytes,
        failure: None,
    };
    Some(info(job, &outcome))
}

fn restored(job: &Job) -> Option<Restored> {
    let attempt = job.attempt.as_ref()?;
    let id = attempt.restored?;
    Some(Restored {
        id: id.0,
        restore_timestamp: attempt.started_ms,
        is_savepoint: false,
        external_path: job.checkpoints.get(&id).map(|c| c.manifest_path.clone()),
    })
}

fn in_flight(scene: Scene<'_>, pending: &PendingCheckpoint) -> CheckpointInfo {
    CheckpointInfo {
        id: pending.id.0,
        status: "IN_PROGRESS".to_owned(),
        is_savepoint: false,
        checkpoint_type: "CHECKPOINT".to_owned(),
        trigger_timestamp: pending.triggered_ms,
        latest_ack_timestamp: -1,
        state_size: 0,
        checkpointed_size: 0,
        end_to_end_duration: scene.now_ms.saturating_sub(pending.triggered_ms),
        num_subtasks: pending.expected,
        num_acknowledged_subtasks: pending.acked,
        phase: Some(pending.phase.to_owned()),
        failure_message: None,
        failure_timestamp: None,
        external_path: None,
        discarded: false,
        committed: None,
        damaged: false,
        is_final: false,
        attempt_id: None,
    }
}

fn info(job: &Job, outcome: &CheckpointOutcome) -> CheckpointInfo {
    let record: Option<&Checkpoint> = job.checkpoints.get(&outcome.id);
    let completed = outcome.failure.is_none();
    CheckpointInfo {
        id: outcome.id.0,
        status: if completed { "COMPLETED" } else { "FAILED" }.to_owned(),
        is_savepoint: false,
        checkpoint_type: "CHECKPOINT".to_owned(),
        trigger_timestamp: outcome.triggered_ms,
        latest_ack_timestamp: super::time_or_minus_one(Some(outcome.ended_ms)),
        state_size: outcome.state_bytes,
        checkpointed_size: outcome.state_bytes,
        end_to_end_duration: outcome.ended_ms.saturating_sub(outcome.triggered_ms),
        num_subtasks: 0,
        num_acknowledged_subtasks: 0,
        phase: None,
        failure_message: outcome.failure.clone(),
        failure_timestamp: outcome.failure.as_ref().map(|_| outcome.ended_ms),
        external_path: record.map(|r| r.manifest_path.clone()),
        discarded: completed && record.is_none_or(|r| r.retired),
        committed: record.map(|r| r.committed),
        damaged: record.is_some_and(|r| r.damaged),
        is_final: record.is_some_and(|r| r.is_final),
        attempt_id: record.map(|r| r.attempt.0),
    }
}

fn summary(job: &Job) -> Summary {
    let done = || {
        job.checkpoint_stats
            .history
            .iter()
            .filter(|c| c.failure.is_none())
    };
    let sizes = spread(done().map(|c| c.state_bytes).collect());
    Summary {
        checkpointed_size: sizes,
        state_size: sizes,
        end_to_end_duration: spread(
            done()
                .map(|c| c.ended_ms.saturating_sub(c.triggered_ms))
                .collect(),
        ),
    }
}

/// Nearest-rank quantiles.
fn spread(mut values: Vec<u64>) -> Spread {
    values.sort_unstable();
    let (Some(min), Some(max)) = (values.first().copied(), values.last().copied()) else {
        return Spread::default();
    };
    let quantile = |per_mille: usize| {
        let rank = (values.len() * per_mille).div_ceil(1000).max(1);
        values.get(rank - 1).map_or(0.0, |v| precise(*v))
    };
    Spread {
        min,
        max,
        avg: values.iter().sum::<u64>() / values.len() as u64,
        p50: quantile(500),
        p90: quantile(900),
        p95: quantile(950),
        p99: quantile(990),
        p999: quantile(999),
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "statistics for people; 2^53 bytes are enough"
)]
fn precise(value: u64) -> f64 {
    value as f64
}

/// Answer of `/v1/jobs/:id/checkpoints/config`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointConfig {
    /// `exactly_once`.
    pub mode: String,
    /// Milliseconds; 0 if periodic checkpoints are off (Flink writes 9223372036854775807).
    pub interval: u64,
    /// Milliseconds.
    pub timeout: u64,
    /// Milliseconds.
    pub min_pause: u64,
    /// Always 1.
    pub max_concurrent: u32,
    /// What happens to a cancelled job's checkpoints.
    pub externalization: Externalization,
    /// `hashmap`.
    pub state_backend: String,
    /// Consecutive failures that are borne.
    pub tolerable_failed_checkpoints: u32,
    /// Completed checkpoints that are kept.
    pub num_retained: u32,
    /// Always false.
    pub unaligned_checkpoints: bool,
    /// Always true.
    pub checkpoints_after_tasks_finish: bool,
}

/// Flink's field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Externalization {
    /// Checkpoints always lie outside the processes.
    pub enabled: bool,
    /// Whether cancelling deletes them.
    pub delete_on_cancellation: bool,
}

/// A job's setting, or the key's default, as text.
#[must_use]
pub fn setting(job: &Job, info: &OptionInfo) -> String {
    job.settings
        .get(info.key)
        .map(String::as_str)
        .or(info.default)
        .unwrap_or_default()
        .to_owned()
}

fn millis(job: &Job, info: &OptionInfo) -> u64 {
    let value = Duration::parse(&setting(job, info)).unwrap_or_default();
    u64::try_from(value.as_millis()).unwrap_or(u64::MAX)
}

fn number(job: &Job, info: &OptionInfo) -> u32 {
    u32::parse(&setting(job, info)).unwrap_or_default()
}

/// The settings that govern a job's checkpoints.
#[must_use]
pub fn config(job: &Job) -> CheckpointConfig {
    let retention = setting(job, &options::CHECKPOINT_RETENTION.info);
    CheckpointConfig {
        mode: setting(job, &options::CHECKPOINT_MODE.info).to_lowercase(),
        interval: millis(job, &options::CHECKPOINT_INTERVAL.info),
        timeout: millis(job, &options::CHECKPOINT_TIMEOUT.info),
        min_pause: millis(job, &options::CHECKPOINT_MIN_PAUSE.info),
        max_concurrent: 1,
        externalization: Externalization {
            enabled: true,
            delete_on_cancellation: retention == "DELETE_ON_CANCELLATION",
        },
        state_backend: setting(job, &options::STATE_BACKEND.info),
        tolerable_failed_checkpoints: number(job, &options::CHECKPOINT_TOLERABLE.info),
        num_retained: number(job, &options::CHECKPOINT_RETAINED.info),
        unaligned_checkpoints: false,
        checkpoints_after_tasks_finish: true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture;
    use super::*;
    use holdfast_common::CheckpointId;
    use std::sync::Arc;

    #[test]
    fn counts_latest_and_history() {
        let (state, mut live) = fixture::running();
        live.jobs.get_mut(&fixture::JOB).unwrap().pending = Some(PendingCheckpoint {
            id: CheckpointId(4),
            triggered_ms: 10_450,
            acked: 1,
            expected: 4,
            phase: "Writing",
        });
        let scene = Scene {
            state: &state,
            live: &live,
            now_ms: 10_500,
        };
        let answer = checkpoints(scene, &state.jobs[&fixture::JOB]);
        let json = serde_json::to_value(&answer).unwrap();
        assert_eq!(
            json["counts"],
            serde_json::json!({"restored":1,"total":4,"in_progress":1,"completed":2,"failed":1})
        );
        assert_eq!(json["history"][0]["status"], "IN_PROGRESS");
        assert_eq!(json["history"][0]["num_acknowledged_subtasks"], 1);
        assert_eq!(
            json["history"][1]["failure_message"],
            "snapshot storage is unavailable"
        );
        assert_eq!(json["latest"]["completed"]["id"], 2);
        assert_eq!(json["latest"]["completed"]["end_to_end_duration"], 40);
        assert_eq!(json["latest"]["completed"]["discarded"], false);
        assert_eq!(json["latest"]["completed"]["committed"], true);
        assert_eq!(json["latest"]["failed"]["id"], 3);
        assert_eq!(json["latest"]["restored"]["id"], 1);
        assert_eq!(json["latest"]["savepoint"], serde_json::Value::Null);
        // The first one is in the history but no longer in the catalogue.
        assert_eq!(json["history"][3]["discarded"], true);
        assert_eq!(answer.summary.state_size.max, 2_000);
        assert_eq!(answer.summary.end_to_end_duration.avg, 30);
    }

    #[test]
    fn the_newest_completed_one_is_found_behind_a_history_of_failures() {
        let (mut state, live) = fixture::running();
        let job = Arc::make_mut(state.jobs.get_mut(&fixture::JOB).unwrap());
        job.checkpoint_stats.history.retain(|c| c.failure.is_some());
        let scene = Scene {
            state: &state,
            live: &live,
            now_ms: 10_500,
        };
        let answer = checkpoints(scene, &state.jobs[&fixture::JOB]);
        assert_eq!(answer.latest.completed.unwrap().id, 2);
    }

    #[test]
    fn the_configuration_shows_defaults() {
        let (state, _) = fixture::running();
        let config = config(&state.jobs[&fixture::JOB]);
        assert_eq!((config.interval, config.timeout), (1_000, 600_000));
        assert_eq!(config.mode, "exactly_once");
        assert!(config.externalization.delete_on_cancellation);
    }

    #[test]
    fn quantiles_are_nearest_rank() {
        let spread = spread((1..=100).collect());
        assert_eq!((spread.min, spread.max, spread.avg), (1, 100, 50));
        assert!((spread.p90 - 90.0).abs() < f64::EPSILON);
        assert!((spread.p999 - 100.0).abs() < f64::EPSILON);
    }
}
