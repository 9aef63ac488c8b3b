//! `/v1/cluster` and `/v1/overview`: the coordinators, the workers, the counts.
//!
//! Knows nothing of Raft's own types: the caller hands the members in.

use super::Scene;
use super::workers::free_slots;
use crate::features::FEATURE_LEVEL;
use holdfast_machine::state::JobStatus;
use serde::{Deserialize, Serialize};

/// Answer of `/v1/cluster`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterInfo {
    /// The leading coordinator; null while there is none.
    pub leader: Option<u64>,
    /// Raft's term.
    pub term: u64,
    /// The cluster's identity; null until the first leader has named it.
    pub cluster_id: Option<String>,
    /// The configured name.
    pub cluster_name: String,
    /// The newest leader epoch in the log.
    pub leader_epoch: Option<u64>,
    /// Which coordinator claimed it.
    #[serde(default)]
    pub leader_epoch_by: Option<u64>,
    /// The features that every member supports.
    pub feature_level: u32,
    /// Those that the answering coordinator's build supports.
    #[serde(default)]
    pub supported_feature_level: u32,
    /// Which coordinator gave this answer.
    pub answered_by: u64,
    /// Its build.
    pub version: String,
    /// Members of the Raft group.
    pub coordinators: Vec<CoordinatorInfo>,
    /// Registered workers.
    pub workers: Vec<WorkerInfo>,
}

/// A member of the Raft group.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorInfo {
    /// Its number.
    pub id: u64,
    /// Where peers and workers reach it.
    pub rpc: String,
    /// Where people reach it.
    pub rest: String,
    /// `leader`, `follower` or `learner`.
    pub role: String,
    /// Last entry of its log; null where the answering coordinator cannot know it.
    pub last_log: Option<u64>,
    /// Last entry that it has applied, or, seen from the leader, that it is known to hold.
    pub applied: Option<u64>,
}

/// A worker, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerInfo {
    /// Its stable name.
    pub resource_id: String,
    /// Where other workers reach it.
    pub data_addr: String,
    /// Slots.
    pub slots: u32,
    /// Slots without a task.
    pub free_slots: u32,
    /// Its operating-system process.
    pub pid: u32,
    /// One start of that process.
    pub incarnation: String,
    /// Its build.
    pub version: String,
    /// Whether the answering coordinator hears it; null on a follower.
    pub attached: Option<bool>,
    /// Milliseconds since its last heartbeat; null on a follower and for a worker that has not yet found this leader.
    pub heartbeat_age_ms: Option<u64>,
}

/// What Raft says, as the caller translated it.
#[derive(Debug, Clone, Default)]
pub struct RaftView {
    /// This coordinator.
    pub own_id: u64,
    /// Who leads.
    pub leader: Option<u64>,
    /// The term.
    pub term: u64,
    /// The members.
    pub coordinators: Vec<CoordinatorInfo>,
}

/// The whole cluster as this coordinator knows it.
#[must_use]
pub fn cluster(scene: Scene<'_>, raft: RaftView, version: &str) -> ClusterInfo {
    let state = scene.state;
    ClusterInfo {
        leader: raft.leader,
        term: raft.term,
        cluster_id: state.cluster.as_ref().map(|c| c.id.to_string()),
        cluster_name: state.cluster.as_ref().map(|c| c.name.clone()).unwrap_or_default(),
        leader_epoch: state.leader.as_ref().map(|l| l.epoch.0),
        leader_epoch_by: state.leader.as_ref().map(|l| l.node.0),
        feature_level: state.feature_level,
        supported_feature_level: FEATURE_LEVEL,
        answered_by: raft.own_id,
        version: version.to_owned(),
        coordinators: raft.coordinators,
        workers: state
            .workers
            .values()
            .map(|worker| WorkerInfo {
                resource_id: worker.resource_id.clone(),
                data_addr: worker.data_addr.clone(),
                slots: worker.slots,
                free_slots: free_slots(scene, worker),
                pid: worker.pid,
                incarnation: worker.incarnation.to_string(),
                version: worker.version.clone(),
                attached: scene
                    .live
                    .epoch
                    .map(|_| super::workers::heartbeat_ms(scene, worker).is_some()),
                heartbeat_age_ms: super::workers::heartbeat_ms(scene, worker)
                    .map(|at| scene.now_ms.saturating_sub(at)),
            })
            .collect(),
    }
}

/// Answer of `/v1/overview`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Overview {
    /// Registered workers.
    pub taskmanagers: u32,
    /// Their slots.
    pub slots_total: u32,
    /// Those without a task.
    pub slots_available: u32,
    /// Jobs that have not ended (Flink counts CREATED, RESTARTING and CANCELLING ones here too).
    pub jobs_running: u32,
    /// FINISHED ones that are still known.
    pub jobs_finished: u32,
    /// CANCELED ones.
    pub jobs_cancelled: u32,
    /// FAILED ones.
    pub jobs_failed: u32,
    /// Flink's field; says what this really is.
    pub flink_version: String,
    /// Flink's field.
    pub flink_commit: String,
}

/// The counts.
#[must_use]
pub fn overview(scene: Scene<'_>, version: &str) -> Overview {
    let count = |wanted: fn(JobStatus) -> bool| {
        u32::try_from(scene.state.jobs.values().filter(|j| wanted(j.status)).count()).unwrap_or(u32::MAX)
    };
    let workers = scene.state.workers.values();
    Overview {
        taskmanagers: u32::try_from(workers.clone().count()).unwrap_or(u32::MAX),
        slots_total: workers.clone().map(|w| w.slots).sum(),
        slots_available: workers.map(|w| free_slots(scene, w)).sum(),
        jobs_running: count(|s| !s.is_terminal()),
        jobs_finished: count(|s| s == JobStatus::Finished),
        jobs_cancelled: count(|s| s == JobStatus::Canceled),
        jobs_failed: count(|s| s == JobStatus::Failed),
        flink_version: format!("holdfast-{version}"),
        flink_commit: String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture;
    use super::*;

    #[test]
    fn the_cluster_answer_has_the_contracts_shape() {
        let (state, live) = fixture::running();
        let scene = Scene {
            state: &state,
            live: &live,
            now_ms: 10_500,
        };
        let raft = RaftView {
            own_id: 2,
            leader: None,
            term: 7,
            coordinators: vec![CoordinatorInfo {
                id: 1,
                rpc: "127.0.0.1:7101".into(),
                rest: "127.0.0.1:8081".into(),
                role: "follower".into(),
                last_log: Some(40),
                applied: None,
            }],
        };
        let json = serde_json::to_value(cluster(scene, raft, "0.1.0")).unwrap();
        assert_eq!(json["leader"], serde_json::Value::Null);
        assert_eq!(json["term"], 7);
        assert_eq!(json["cluster_id"], "00000000000000000000000000000009");
        assert_eq!(
            json["coordinators"][0],
            serde_json::json!({"id":1,"rpc":"127.0.0.1:7101","rest":"127.0.0.1:8081","role":"follower","last_log":40,"applied":null})
        );
        assert_eq!(json["supported_feature_level"], FEATURE_LEVEL);
        assert_eq!(json["workers"][0]["resource_id"], "worker-1");
        assert_eq!(json["workers"][0]["heartbeat_age_ms"], 500);
        assert_eq!(json["workers"][0]["pid"], 4711);
    }

    #[test]
    fn the_overview_counts_slots_and_jobs() {
        let (state, live) = fixture::running();
        let scene = Scene {
            state: &state,
            live: &live,
            now_ms: 10_500,
        };
        let json = serde_json::to_value(overview(scene, "0.1.0")).unwrap();
        assert_eq!(json["taskmanagers"], 1);
        assert_eq!(json["slots-total"], 2);
        assert_eq!(json["slots-available"], 0);
        assert_eq!(json["jobs-running"], 1);
        assert_eq!(json["jobs-finished"], 0);
    }
}
