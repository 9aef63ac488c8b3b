//! Writing requests: plan, propose, and say what the log answered.

use super::config::with_request;
use super::handlers::{job_id, kv_json};
use super::plans::plan;
use super::view::plan::{Explanation, explanation};
use super::{Api, ApiError};
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use holdfast_common::inject::{self, bugs, points};
use holdfast_common::limits::{
    IDEMPOTENCY_KEY_BYTES_MAX, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX, SQL_TEXT_BYTES_MAX,
};
use holdfast_common::{JobId, NodeId};
use holdfast_dataflow::graph::JobGraph;
use holdfast_machine::command::{Command, Response as Answered};
use holdfast_raft::MemberAddr;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

type Shared = State<Arc<Api>>;
type Settings = Query<BTreeMap<String, String>>;

/// The body as SQL text.
fn sql_text(headers: &HeaderMap, body: &Bytes) -> Result<String, ApiError> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    if kind.starts_with("application/json") || kind.starts_with("multipart/") {
        return Err(ApiError::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("the body is the SQL text itself (text/plain or application/sql), not {kind}"),
        ));
    }
    if body.len() > SQL_TEXT_BYTES_MAX {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the script has {} bytes; at most {SQL_TEXT_BYTES_MAX} are possible",
                body.len()
            ),
        ));
    }
    let text = std::str::from_utf8(body).map_err(|e| {
        ApiError::bad_request(format!(
            "the script is not UTF-8: byte {} is no character",
            e.valid_up_to()
        ))
    })?;
    if text.trim().is_empty() {
        return Err(ApiError::bad_request(
            "the script is empty: the body must be SQL text",
        ));
    }
    Ok(text.to_owned())
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = value.to_str().map(str::trim).unwrap_or_default();
    if text.is_empty() || text.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return Err(ApiError::bad_request(format!(
            "Idempotency-Key must have 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters"
        )));
    }
    Ok(Some(text.to_owned()))
}

async fn planned(api: &Api, sql: String, settings: &BTreeMap<String, String>) -> Result<JobGraph, ApiError> {
    let pairs = settings.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let base = with_request(&api.deps.config, pairs)?;
    let outcome = plan(sql, base, api.deps.registry.clone()).await;
    Ok(outcome.map_err(|e| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, e))??)
}

fn accepted(job: JobId, existing: bool) -> Response {
    let body = json!({ "jobid": job.to_string(), "jobUrl": format!("/v1/jobs/{job}"), "existing": existing });
    (StatusCode::ACCEPTED, Json(body)).into_response()
}

/// `POST /v1/jobs`: the script is planned here, so that a wrong one is refused with its line and column.
pub(crate) async fn submit(
    State(api): Shared,
    Query(settings): Settings,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    // A retry is answered from the log without planning: what the script reads may be gone by now.
    if let Some(job) = key
        .as_ref()
        .and_then(|k| api.deps.handle.state().submissions.get(k).copied())
        .filter(|_| !inject::bug(bugs::SUBMIT_TWICE))
    {
        return Ok(accepted(job, true));
    }
    let sql = sql_text(&headers, &body)?;
    let graph = planned(&api, sql.clone(), &settings).await?;
    let fingerprint = graph.fingerprint();
    let command = Command::SubmitJob {
        job: JobId(api.deps.random.next_u128()),
        name: graph.name.clone(),
        sql,
        settings: graph.settings.clone(),
        fingerprint: fingerprint.clone(),
        parallelism: graph.parallelism,
        max_parallelism: graph.max_parallelism,
        idempotency_key: key,
    };
    inject::pass(points::LEADER_SUBMIT);
    match api.propose(command).await? {
        Answered::Submitted { job, existing } => {
            if !existing {
                api.plans.put(&fingerprint, Arc::new(graph));
                tracing::info!(%job, "job submitted");
            }
            Ok(accepted(job, existing))
        }
        other => Err(unexpected(&other)),
    }
}

fn unexpected(answer: &Answered) -> ApiError {
    ApiError::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        format!("the log gave an unexpected answer: {answer:?}"),
    )
}

/// `POST /v1/sql/explain`.
pub(crate) async fn explain(
    State(api): Shared,
    Query(settings): Settings,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Explanation>, ApiError> {
    let sql = sql_text(&headers, &body)?;
    let graph = planned(&api, sql, &settings).await?;
    Ok(Json(explanation(
        &graph,
        api.deps.registry.as_ref(),
        holdfast_sql::explain(&graph),
    )))
}

/// `PATCH /v1/jobs/:id?mode=cancel`.
pub(crate) async fn patch_job(
    State(api): Shared,
    Path(id): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, ApiError> {
    let mode = query.get("mode").map_or("cancel", String::as_str);
    if mode != "cancel" {
        return Err(ApiError::bad_request(format!(
            "mode '{mode}' is not possible; only mode=cancel is"
        )));
    }
    let job = job_id(&id)?;
    api.propose(Command::CancelJob { job }).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({}))).into_response())
}

/// `PUT /v1/kv/:key[?if_revision=N]`.
pub(crate) async fn kv_put(
    State(api): Shared,
    Path(key): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    body: Bytes,
) -> Result<Response, ApiError> {
    if key.len() > KV_KEY_BYTES_MAX || body.len() > KV_VALUE_BYTES_MAX {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("a key has at most {KV_KEY_BYTES_MAX} bytes and a value {KV_VALUE_BYTES_MAX}"),
        ));
    }
    let if_revision = query
        .get("if_revision")
        .map(|text| text.parse::<u64>())
        .transpose()
        .map_err(|_| ApiError::bad_request("if_revision must be a whole number"))?;
    let command = Command::KvPut {
        key: key.clone(),
        value: body,
        if_revision,
    };
    match api.propose(command).await? {
        Answered::Kv(entry) => Ok(Json(kv_json(&key, &entry.value, entry.revision)).into_response()),
        other => Err(unexpected(&other)),
    }
}

/// `DELETE /v1/kv/:key`.
pub(crate) async fn kv_delete(State(api): Shared, Path(key): Path<String>) -> Result<Response, ApiError> {
    api.propose(Command::KvDelete { key }).await?;
    Ok(Json(json!({})).into_response())
}

fn node_id(text: &str) -> Result<NodeId, ApiError> {
    let number = text.parse::<u64>().ok().filter(|n| *n > 0);
    number.map(NodeId).ok_or_else(|| {
        ApiError::bad_request(format!(
            "'{text}' is not a coordinator's number: expected 1, 2, 3, …"
        ))
    })
}

fn address(query: &BTreeMap<String, String>, name: &str) -> Result<String, ApiError> {
    let text = query.get(name).map(|t| t.trim()).unwrap_or_default();
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        (!host.is_empty())
            .then(|| port.parse::<u16>().ok())
            .flatten()
            .filter(|p| *p > 0)
    });
    if port.is_none() {
        return Err(ApiError::bad_request(format!(
            "'{name}' must be an address like 10.0.0.4:7101, not '{text}'"
        )));
    }
    Ok(text.to_owned())
}

/// `POST /v1/members/:id?rpc=…&rest=…`: first a learner, then a voter.
pub(crate) async fn add_member(
    State(api): Shared,
    Path(id): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, ApiError> {
    let id = node_id(&id)?;
    let addr = MemberAddr {
        rpc: address(&query, "rpc")?,
        rest: address(&query, "rest")?,
    };
    api.deps.handle.add_member(id, addr).await?;
    tracing::info!(%id, "coordinator added");
    Ok(Json(json!({ "added": id.0 })).into_response())
}

/// `DELETE /v1/members/:id`.
pub(crate) async fn remove_member(State(api): Shared, Path(id): Path<String>) -> Result<Response, ApiError> {
    let id = node_id(&id)?;
    api.deps.handle.remove_member(id).await?;
    tracing::info!(%id, "coordinator removed");
    Ok(Json(json!({ "removed": id.0 })).into_response())
}

/// `POST /v1/leader/transfer[?to=N]`: without a number, to the best follower.
pub(crate) async fn transfer(
    State(api): Shared,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, ApiError> {
    let to = query.get("to").map(|text| node_id(text)).transpose()?;
    let leader = api.deps.handle.transfer_leader(to).await?;
    tracing::info!(%leader, "leadership handed over");
    Ok(Json(json!({ "leader": leader.0 })).into_response())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_text_is_taken_for_a_script() {
        let mut headers = HeaderMap::new();
        assert!(sql_text(&headers, &Bytes::from_static(b"SELECT 1")).is_ok());
        assert!(sql_text(&headers, &Bytes::from_static(b"  \n")).is_err());
        assert!(sql_text(&headers, &Bytes::from_static(b"SELECT '\xff'")).is_err());
        assert!(sql_text(&headers, &Bytes::from(vec![b'x'; SQL_TEXT_BYTES_MAX + 1])).is_err());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        assert!(sql_text(&headers, &Bytes::from_static(b"{}")).is_err());
    }

    #[test]
    fn an_idempotency_key_is_bounded() {
        let mut headers = HeaderMap::new();
        assert!(idempotency_key(&headers).unwrap().is_none());
        headers.insert("idempotency-key", HeaderValue::from_static("k-1"));
        assert_eq!(idempotency_key(&headers).unwrap().as_deref(), Some("k-1"));
        headers.insert(
            "idempotency-key",
            HeaderValue::from_str(&"k".repeat(300)).unwrap(),
        );
        assert!(idempotency_key(&headers).is_err());
    }

    #[test]
    fn addresses_and_numbers_are_checked() {
        assert!(node_id("0").is_err());
        assert_eq!(node_id("4").unwrap(), NodeId(4));
        let query = |text: &str| BTreeMap::from([("rpc".to_owned(), text.to_owned())]);
        assert_eq!(
            address(&query("127.0.0.1:7104"), "rpc").unwrap(),
            "127.0.0.1:7104"
        );
        for bad in ["", "7104", ":7104", "host:", "host:0", "host:x"] {
            assert!(address(&query(bad), "rpc").is_err(), "{bad}");
        }
        assert!(address(&BTreeMap::new(), "rest").is_err());
    }
}
