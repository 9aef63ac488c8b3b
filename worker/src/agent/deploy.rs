//! Deploys an attempt's tasks on this worker: plan, read the state back, hand both to the engine.

use super::actor::AgentConfig;
use super::plans::Plans;
use super::restore::{RestoreError, fetch};
use crate::engine::{Deployment, Engine, EngineError, SlotPlace};
use holdfast_common::config::Configuration;
use holdfast_common::inject::{self, points};
use holdfast_common::{AttemptId, Incarnation, JobId, VertexId};
use holdfast_dataflow::graph::JobGraph;
use holdfast_proto::control::worker_message::Body;
use holdfast_proto::control::{Deploy, DeployFailed, Deployed};
use holdfast_storage::SnapshotStore;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Why an attempt was not deployed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeployError {
    /// What happened, to what.
    pub reason: String,
    /// The restored checkpoint is missing or damaged.
    pub damaged: bool,
}

impl From<String> for DeployError {
    fn from(reason: String) -> Self {
        Self {
            reason,
            damaged: false,
        }
    }
}

impl From<RestoreError> for DeployError {
    fn from(error: RestoreError) -> Self {
        Self {
            reason: error.reason,
            damaged: error.damaged,
        }
    }
}

impl From<EngineError> for DeployError {
    fn from(error: EngineError) -> Self {
        Self::from(error.to_string())
    }
}

/// What a deployment needs.
pub struct DeployWork {
    /// Runs the tasks.
    pub engine: Engine,
    /// Plans the script.
    pub plans: Plans,
    /// Holds the state.
    pub store: SnapshotStore,
    /// This worker.
    pub config: Arc<AgentConfig>,
    /// The attempt that runs here and is replaced.
    pub old: Option<AttemptId>,
    /// The leader's command.
    pub command: Deploy,
}

/// Deploys.
///
/// # Errors
/// Nothing of the attempt runs here then.
pub async fn deploy(work: DeployWork, job: JobId, attempt: AttemptId) -> Result<(), DeployError> {
    if let Some(old) = work.old {
        work.engine.cancel(job, old).await;
    }
    inject::point(points::WORKER_DEPLOY).map_err(|e| e.to_string())?;
    let command = &work.command;
    let graph = work
        .plans
        .get(&command.sql, &command.config, &command.plan_fingerprint)
        .await?;
    let (slots, my_slots) = slots(command, work.config.incarnation)?;
    let restore = match &command.restore {
        Some(restore) => Some(fetch(&work.store, restore, &vertices_here(&graph, &my_slots)).await?),
        None => None,
    };
    let mut settings = work.config.settings.clone();
    let over = Configuration::from_pairs(&command.config).map_err(|e| e.to_string())?;
    settings.merge(&over);
    let deployment = Deployment {
        job,
        attempt,
        graph,
        settings,
        slots,
        my_slots,
        restore,
    };
    Ok(work.engine.deploy(deployment).await?)
}

/// All slots of the job, and which of them are this process's.
fn slots(command: &Deploy, own: Incarnation) -> Result<(Vec<SlotPlace>, Vec<u32>), String> {
    let mut slots = Vec::with_capacity(command.slots.len());
    let mut mine = Vec::new();
    for (index, slot) in (0u32..).zip(&command.slots) {
        let incarnation = Incarnation::from_bytes(&slot.incarnation).map_err(|e| e.to_string())?;
        if incarnation == own {
            mine.push(index);
        }
        slots.push(SlotPlace {
            incarnation,
            data_addr: slot.data_addr.clone(),
        });
    }
    if mine.is_empty() {
        return Err("the deployment has no slot on this worker".to_owned());
    }
    Ok((slots, mine))
}

/// Vertices with a subtask in one of this worker's slots.
fn vertices_here(graph: &JobGraph, my_slots: &[u32]) -> BTreeSet<VertexId> {
    graph
        .vertices
        .iter()
        .filter(|v| my_slots.iter().any(|slot| *slot < v.parallelism))
        .map(|v| v.id)
        .collect()
}

/// What the leader is told.
#[must_use]
pub fn answer(job: JobId, attempt: AttemptId, result: Result<(), DeployError>) -> Body {
    let job_id = job.to_bytes().to_vec().into();
    match result {
        Ok(()) => Body::Deployed(Deployed {
            job_id,
            attempt: attempt.0,
        }),
        Err(error) => Body::DeployFailed(DeployFailed {
            job_id,
            attempt: attempt.0,
            reason: error.reason,
            checkpoint_damaged: error.damaged,
        }),
    }
}
