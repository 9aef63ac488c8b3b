//! Reading requests: find the thing, show it.

use super::view::{
    checkpoints as checkpoint_views, cluster as cluster_views, jobs as job_views, plan as plan_views,
};
use super::view::{tasks as task_views, workers as worker_views};
use super::{Api, ApiError, Moment};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use holdfast_common::JobId;
use holdfast_common::limits::EXCEPTIONS_PER_JOB;
use holdfast_dataflow::graph::JobGraph;
use holdfast_machine::state::Job;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

type Shared = State<Arc<Api>>;
type Answer<T> = Result<Json<T>, ApiError>;

/// The job's id from a path.
pub(crate) fn job_id(text: &str) -> Result<JobId, ApiError> {
    text.parse()
        .map_err(|e: holdfast_common::ids::ParseIdError| ApiError::bad_request(e.to_string()))
}

fn find_job<'a>(moment: &'a Moment, text: &str) -> Result<&'a Job, ApiError> {
    let id = job_id(text)?;
    let job = moment.state.jobs.get(&id).map(AsRef::as_ref);
    job.ok_or_else(|| {
        ApiError::not_found(format!(
            "there is no job {id}: it was never submitted here, or ended long ago"
        ))
    })
}

pub(crate) async fn cluster(State(api): Shared) -> Json<cluster_views::ClusterInfo> {
    let moment = api.moment();
    Json(cluster_views::cluster(
        moment.scene(),
        api.raft_view(),
        api.deps.version,
    ))
}

/// 200 while this coordinator works and knows a leader that a majority follows.
pub(crate) async fn health(State(api): Shared) -> Response {
    let metrics = api.deps.handle.metrics();
    let trouble = if let Some(fatal) = metrics.fatal {
        Some(format!("this coordinator has failed: {fatal}"))
    } else if metrics.leadership.is_leader && !metrics.leadership.quorum_ok {
        Some("this coordinator leads, but a majority no longer answers it".to_owned())
    } else if metrics.leadership.leader.is_none() {
        Some("no leader is known: a majority of the coordinators must be up and reach each other".to_owned())
    } else {
        None
    };
    match trouble {
        None => {
            let leader = metrics.leadership.leader.map(|id| id.0);
            Json(json!({ "status": "ok", "id": metrics.id.0, "leader": leader })).into_response()
        }
        Some(reason) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(json!({ "errors": [reason] })),
        )
            .into_response(),
    }
}

pub(crate) async fn overview(State(api): Shared) -> Json<cluster_views::Overview> {
    Json(cluster_views::overview(api.moment().scene(), api.deps.version))
}

/// What Flink's dashboard asks first.
pub(crate) async fn dashboard_config(State(api): Shared) -> Json<Value> {
    Json(json!({
        "refresh-interval": 3000,
        "timezone-name": "UTC",
        "timezone-offset": 0,
        "flink-version": format!("holdfast-{}", api.deps.version),
        "flink-revision": "",
        "features": { "web-submit": false, "web-cancel": true, "web-rescale": false, "web-history": false },
    }))
}

pub(crate) async fn process_config(State(api): Shared) -> Json<Vec<super::config::Setting>> {
    Json(super::config::shown(&api.deps.config))
}

pub(crate) async fn jobs(State(api): Shared) -> Json<job_views::JobIds> {
    Json(job_views::ids(api.moment().scene()))
}

pub(crate) async fn jobs_overview(State(api): Shared) -> Json<job_views::JobsOverview> {
    let moment = api.moment();
    let mut jobs = Vec::new();
    for job in moment.state.jobs.values() {
        let graph = api.graph(job).await;
        jobs.push(job_views::summary(moment.scene(), job, graph.as_deref()));
    }
    Json(job_views::JobsOverview { jobs })
}

pub(crate) async fn job(State(api): Shared, Path(id): Path<String>) -> Answer<job_views::JobDetails> {
    let moment = api.moment();
    let job = find_job(&moment, &id)?;
    let graph = api.graph(job).await;
    Ok(Json(job_views::details(moment.scene(), job, graph.as_deref())))
}

pub(crate) async fn job_status(
    State(api): Shared,
    Path(id): Path<String>,
) -> Answer<job_views::StatusAnswer> {
    let moment = api.moment();
    let status = find_job(&moment, &id)?.status.as_str().to_owned();
    Ok(Json(job_views::StatusAnswer { status }))
}

async fn graph_of(api: &Api, job: &Job) -> Result<Arc<JobGraph>, ApiError> {
    api.graph(job).await.ok_or_else(|| {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!(
                "job {} cannot be planned by this build ({}); see this coordinator's log",
                job.id, api.deps.version
            ),
        )
    })
}

pub(crate) async fn job_plan(State(api): Shared, Path(id): Path<String>) -> Answer<plan_views::PlanAnswer> {
    let moment = api.moment();
    let job = find_job(&moment, &id)?;
    let graph = graph_of(&api, job).await?;
    Ok(Json(plan_views::PlanAnswer {
        plan: plan_views::plan(&job.id.to_string(), &job.name, &graph),
    }))
}

pub(crate) async fn job_config(State(api): Shared, Path(id): Path<String>) -> Answer<job_views::JobConfig> {
    let moment = api.moment();
    Ok(Json(job_views::config(find_job(&moment, &id)?)))
}

pub(crate) async fn vertex(
    State(api): Shared,
    Path((id, vertex)): Path<(String, String)>,
) -> Answer<task_views::VertexInfo> {
    let moment = api.moment();
    let job = find_job(&moment, &id)?;
    let graph = graph_of(&api, job).await?;
    let found = graph
        .vertices
        .iter()
        .find(|v| v.id.to_rest() == vertex || v.id.to_string() == vertex);
    let found = found.ok_or_else(|| ApiError::not_found(format!("job {id} has no vertex {vertex}")))?;
    Ok(Json(task_views::vertex(moment.scene(), job, found)))
}

pub(crate) async fn checkpoints(
    State(api): Shared,
    Path(id): Path<String>,
) -> Answer<checkpoint_views::Checkpoints> {
    let moment = api.moment();
    Ok(Json(checkpoint_views::checkpoints(
        moment.scene(),
        find_job(&moment, &id)?,
    )))
}

pub(crate) async fn checkpoint_config(
    State(api): Shared,
    Path(id): Path<String>,
) -> Answer<checkpoint_views::CheckpointConfig> {
    let moment = api.moment();
    Ok(Json(checkpoint_views::config(find_job(&moment, &id)?)))
}

#[derive(Deserialize)]
pub(crate) struct ExceptionsQuery {
    #[serde(rename = "maxExceptions")]
    max_exceptions: Option<usize>,
}

pub(crate) async fn exceptions(
    State(api): Shared,
    Path(id): Path<String>,
    Query(query): Query<ExceptionsQuery>,
) -> Answer<job_views::Exceptions> {
    let moment = api.moment();
    let limit = query.max_exceptions.unwrap_or(EXCEPTIONS_PER_JOB);
    Ok(Json(job_views::exceptions(find_job(&moment, &id)?, limit)))
}

pub(crate) async fn task_managers(State(api): Shared) -> Json<worker_views::TaskManagers> {
    Json(worker_views::task_managers(api.moment().scene()))
}

pub(crate) async fn task_manager(
    State(api): Shared,
    Path(id): Path<String>,
) -> Answer<worker_views::TaskManager> {
    let moment = api.moment();
    let worker = moment.state.workers.get(&id);
    let worker = worker.ok_or_else(|| ApiError::not_found(format!("no worker '{id}' is registered")))?;
    Ok(Json(worker_views::task_manager(moment.scene(), worker)))
}

/// A value as JSON: text where it is UTF-8, hexadecimal digits where not.
pub(crate) fn kv_json(key: &str, value: &[u8], revision: u64) -> Value {
    match std::str::from_utf8(value) {
        Ok(text) => json!({ "key": key, "value": text, "revision": revision }),
        Err(_) => {
            let hex: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            json!({ "key": key, "value_hex": hex, "revision": revision })
        }
    }
}

pub(crate) async fn kv_get(
    State(api): Shared,
    Path(key): Path<String>,
    Query(_): Query<BTreeMap<String, String>>,
) -> Answer<Value> {
    let state = api.deps.handle.state();
    let entry = state
        .kv
        .get(&key)
        .ok_or_else(|| ApiError::not_found(format!("there is no key '{key}'")))?;
    Ok(Json(kv_json(&key, &entry.value, entry.revision)))
}
