//! The cluster's identity, the leader's claim, the feature level and the registered workers.

use crate::apply::{Outcome, bounded};
use crate::command::{Command, Rejection, Response};
use crate::state::{Cluster, JobStatus, LeaderClaim, State, Worker};
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::{NAME_BYTES_MAX, WORKERS_MAX};
use holdfast_common::{ClusterId, Incarnation, LeaderEpoch, NodeId};
use std::sync::Arc;

pub(crate) fn dispatch(state: &mut State, index: u64, command: &Command) -> Outcome {
    match command {
        Command::InitCluster { cluster_id, name } => Ok(init_cluster(state, *cluster_id, name)),
        Command::ClaimLeader { node, incarnation } => Ok(claim(state, index, *node, *incarnation)),
        Command::SetFeatureLevel { level, .. } => {
            state.feature_level = state.feature_level.max(*level);
            Ok(Response::Done)
        }
        Command::RegisterWorker { worker, .. } => register(state, worker),
        Command::RemoveWorker {
            resource_id,
            incarnation,
            ..
        } => {
            if state
                .workers
                .get(resource_id)
                .is_some_and(|w| w.incarnation == *incarnation)
            {
                state.workers.remove(resource_id);
            }
            Ok(Response::Done)
        }
        other => unreachable!("not a command of this module: {other:?}"),
    }
}

fn init_cluster(state: &mut State, id: ClusterId, name: &str) -> Response {
    let now_ms = state.now_ms;
    let cluster = state.cluster.get_or_insert_with(|| Cluster {
        id,
        name: bounded(name, NAME_BYTES_MAX),
        created_ms: now_ms,
    });
    Response::Cluster(cluster.id)
}

fn claim(state: &mut State, index: u64, node: NodeId, incarnation: Incarnation) -> Response {
    let epoch = LeaderEpoch(index);
    if inject::bug(bugs::RESURRECT_CANCELLED) {
        let cancelled = [JobStatus::Cancelling, JobStatus::Canceled];
        for job in state.jobs.values_mut().filter(|j| cancelled.contains(&j.status)) {
            Arc::make_mut(job).status = JobStatus::Restarting;
        }
    }
    state.leader = Some(LeaderClaim {
        epoch,
        node,
        incarnation,
    });
    Response::Epoch(epoch)
}

fn register(state: &mut State, worker: &Worker) -> Outcome {
    if worker.resource_id.is_empty() || worker.resource_id.len() > NAME_BYTES_MAX {
        let text = format!("a worker's resource id has 1 to {NAME_BYTES_MAX} bytes");
        return Err(Rejection::Limit(text));
    }
    let known = state.workers.get(&worker.resource_id);
    if known.is_none() && state.workers.len() >= WORKERS_MAX {
        return Err(Rejection::Limit(format!(
            "{WORKERS_MAX} workers are registered already"
        )));
    }
    // The same process registering again keeps its time: a repeated proposal changes nothing.
    let registered_ms = match known {
        Some(k) if k.incarnation == worker.incarnation => k.registered_ms,
        _ => state.now_ms,
    };
    let worker = Worker {
        registered_ms,
        ..worker.clone()
    };
    state.workers.insert(worker.resource_id.clone(), worker);
    Ok(Response::Done)
}
