//! `/v1/taskmanagers`: the workers, in Flink's words and in ours.

use super::Scene;
use holdfast_common::clock::UnixMillis;
use holdfast_machine::state::Worker;
use serde::{Deserialize, Serialize};

/// Answer of `/v1/taskmanagers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskManagers {
    /// All registered workers.
    pub taskmanagers: Vec<TaskManager>,
}

/// One worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskManager {
    /// Its stable name.
    pub id: String,
    /// Where other workers reach it.
    pub path: String,
    /// Port of that address.
    pub data_port: u16,
    /// When its last heartbeat came, in milliseconds since the epoch (a stamp in Flink too, despite the name); 0 if
    /// none has come to this leader.
    pub time_since_last_heartbeat: u64,
    /// Slots.
    pub slots_number: u32,
    /// Slots without a task.
    pub free_slots: u32,
    /// Flink's field; workers are never blocked.
    pub blocked: bool,
    /// Whether a stream to this leader is open.
    pub attached: bool,
    /// One start of its process.
    pub incarnation: String,
    /// Its operating-system process.
    pub pid: u32,
    /// Its build.
    pub version: String,
    /// When it registered.
    pub registered: u64,
    /// What runs in its slots.
    #[serde(default)]
    pub allocated_slots: Vec<AllocatedSlot>,
}

/// A slot that a job has taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AllocatedSlot {
    /// The job.
    pub job_id: String,
    /// Index of the subtasks that run there.
    pub subtask: u32,
}

/// When the last heartbeat of exactly this process came, if this coordinator leads and has heard one.
#[must_use]
pub fn heartbeat_ms(scene: Scene<'_>, worker: &Worker) -> Option<UnixMillis> {
    scene
        .live
        .workers
        .get(&worker.resource_id)
        .filter(|live| live.incarnation == worker.incarnation)
        .map(|live| live.heartbeat_ms)
}

/// Slots that no unfinished attempt holds: what the leader hears, or else what the log implies.
#[must_use]
pub fn free_slots(scene: Scene<'_>, worker: &Worker) -> u32 {
    let live = scene.live.workers.get(&worker.resource_id);
    if let Some(live) = live.filter(|live| live.incarnation == worker.incarnation) {
        return live.free_slots;
    }
    let taken = allocated(scene, worker).len();
    worker
        .slots
        .saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX))
}

fn allocated(scene: Scene<'_>, worker: &Worker) -> Vec<AllocatedSlot> {
    let mut slots = Vec::new();
    for job in scene.state.jobs.values().filter(|j| !j.status.is_terminal()) {
        let Some(attempt) = &job.attempt else { continue };
        for (subtask, place) in attempt.assignment.iter().enumerate() {
            if place.incarnation == worker.incarnation {
                slots.push(AllocatedSlot {
                    job_id: job.id.to_string(),
                    subtask: u32::try_from(subtask).unwrap_or(u32::MAX),
                });
            }
        }
    }
    slots
}

/// One worker in full.
#[must_use]
pub fn task_manager(scene: Scene<'_>, worker: &Worker) -> TaskManager {
    let heartbeat = heartbeat_ms(scene, worker);
    let port = worker.data_addr.rsplit(':').next().and_then(|p| p.parse().ok());
    TaskManager {
        id: worker.resource_id.clone(),
        path: worker.data_addr.clone(),
        data_port: port.unwrap_or(0),
        time_since_last_heartbeat: heartbeat.unwrap_or(0),
        slots_number: worker.slots,
        free_slots: free_slots(scene, worker),
        blocked: false,
        attached: heartbeat.is_some(),
        incarnation: worker.incarnation.to_string(),
        pid: worker.pid,
        version: worker.version.clone(),
        registered: worker.registered_ms,
        allocated_slots: allocated(scene, worker),
    }
}

/// All workers.
#[must_use]
pub fn task_managers(scene: Scene<'_>) -> TaskManagers {
    TaskManagers {
        taskmanagers: scene
            .state
            .workers
            .values()
            .map(|w| task_manager(scene, w))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::fixture;
    use super::*;
    use crate::live::LiveView;

    #[test]
    fn a_follower_counts_free_slots_from_the_log() {
        let (state, _) = fixture::running();
        let nothing = LiveView::default();
        let scene = Scene {
            state: &state,
            live: &nothing,
            now_ms: 10_500,
        };
        let json = serde_json::to_value(task_managers(scene)).unwrap();
        let worker = &json["taskmanagers"][0];
        assert_eq!(worker["id"], "worker-1");
        assert_eq!(worker["freeSlots"], 0);
        assert_eq!(worker["slotsNumber"], 2);
        assert_eq!(worker["dataPort"], 9001);
        assert_eq!(worker["attached"], false);
        assert_eq!(worker["allocatedSlots"][1]["subtask"], 1);
    }
}
