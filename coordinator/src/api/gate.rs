//! Where a request that needs the leader is answered: here, at the leader, or not at all.
//!
//! A read is answered after ReadIndex. A request is sent again only when it certainly had no effect, or when it reads.

use super::error::NOT_LEADER;
use super::forward::{Buffered, FORWARDED, ForwardError};
use super::{Api, ApiError};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use holdfast_common::NodeId;
use holdfast_common::limits;
use holdfast_raft::{Leadership, ProposeError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Pause before a coordinator that did not answer is tried again, if Raft reports no change meanwhile.
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What to do with a request now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// This coordinator leads.
    Here,
    /// Another one does.
    To(NodeId),
    /// Nobody is known to.
    Nobody,
}

fn way(leadership: &Leadership, own: NodeId) -> Way {
    if leadership.is_leader {
        return Way::Here;
    }
    match leadership.leader {
        Some(leader) if leader != own => Way::To(leader),
        // Raft still calls this node leader, but it no longer acts as one.
        _ => Way::Nobody,
    }
}

/// The middleware around every route that needs the leader.
pub(crate) async fn gate(State(api): State<Arc<Api>>, request: Request, next: Next) -> Response {
    if reads(request.method()) && asks_for_stale(request.uri().query()) {
        return next.run(request).await;
    }
    let forwarded = request.headers().contains_key(FORWARDED);
    match buffer(request).await {
        Ok(buffered) => through(&api, &buffered, forwarded, next)
            .await
            .unwrap_or_else(ApiError::into_response),
        Err(error) => error.into_response(),
    }
}

/// Reads, HEAD among them, are answered after ReadIndex and may be sent again; everything else may have an effect.
fn reads(method: &Method) -> bool {
    method.is_safe()
}

fn asks_for_stale(query: Option<&str>) -> bool {
    query.is_some_and(|q| q.split('&').any(|part| part == "stale=true" || part == "stale"))
}

async fn buffer(request: Request) -> Result<Buffered, ApiError> {
    let (parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, limits::REST_BODY_BYTES_MAX)
        .await
        .map_err(|error| {
            ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!(
                    "the body could not be read or has over {} bytes: {error}",
                    limits::REST_BODY_BYTES_MAX
                ),
            )
        })?;
    Ok(Buffered {
        method: parts.method,
        path_and_query: parts
            .uri
            .path_and_query()
            .map_or_else(|| "/".to_owned(), ToString::to_string),
        headers: parts.headers,
        extensions: parts.extensions,
        body,
    })
}

fn replay(request: &Buffered) -> Result<Request, ApiError> {
    let mut copy = Request::builder()
        .method(request.method.clone())
        .uri(request.path_and_query.as_str())
        .body(Body::from(request.body.clone()))
        .map_err(|e| ApiError::bad_request(e.to_string()))?;
    *copy.headers_mut() = request.headers.clone();
    // The router's captures (`/jobs/{job}`) lie in the extensions.
    *copy.extensions_mut() = request.extensions.clone();
    Ok(copy)
}

/// How long the leader may take for it.
fn deadline_of(request: &Buffered) -> Duration {
    let members = request.path_and_query.contains("/members/") || request.path_and_query.contains("/leader/");
    if members {
        limits::REST_MEMBERS_DEADLINE
    } else {
        limits::REST_DEADLINE
    }
}

async fn through(api: &Api, request: &Buffered, forwarded: bool, next: Next) -> Result<Response, ApiError> {
    let mut leadership = api.deps.handle.watch_leadership();
    let own = api.deps.handle.metrics().id;
    let give_up = Instant::now() + limits::REST_LEADER_WAIT;
    let mut last_failure = String::new();
    loop {
        let now = leadership.borrow_and_update().clone();
        match way(&now, own) {
            Way::Here => match here(api, request, next.clone(), give_up).await? {
                Some(answer) => return Ok(answer),
                None => last_failure = "this coordinator has just lost its leadership".to_owned(),
            },
            _ if forwarded => {
                return Err(ApiError::not_leader(
                    "the request was passed on to a coordinator that does not lead",
                ));
            }
            Way::To(leader) => match there(api, request, leader).await {
                Ok(Some(answer)) => return Ok(answer),
                Ok(None) => last_failure = format!("coordinator {leader} does not lead any more"),
                Err(ForwardError::NotSent(reason)) => last_failure = reason,
                Err(ForwardError::Unanswered(reason)) if reads(&request.method) => last_failure = reason,
                Err(ForwardError::Unanswered(reason)) => {
                    return Err(ApiError::outcome_unknown(format!(
                        "the leader gave no answer ({reason}); the request may or may not have taken effect"
                    )));
                }
            },
            Way::Nobody => {}
        }
        if Instant::now() >= give_up {
            return Err(no_leader(&last_failure));
        }
        tokio::select! {
            changed = leadership.changed() => {
                if changed.is_err() {
                    return Err(ApiError::unavailable("this coordinator is stopping"));
                }
            }
            () = tokio::time::sleep(RETRY_PAUSE) => {}
        }
    }
}

fn no_leader(last_failure: &str) -> ApiError {
    let waited = limits::REST_LEADER_WAIT.as_secs();
    let detail = if last_failure.is_empty() {
        String::new()
    } else {
        format!(" ({last_failure})")
    };
    ApiError::unavailable(format!(
        "no leader was found within {waited} s{detail}; a majority of the coordinators must be up. Running jobs go on \
         meanwhile. Try again, or read with ?stale=true"
    ))
}

/// Answers on this coordinator; `None` if it turns out not to lead and nothing has happened.
async fn here(
    api: &Api,
    request: &Buffered,
    next: Next,
    give_up: Instant,
) -> Result<Option<Response>, ApiError> {
    if reads(&request.method) {
        match tokio::time::timeout_at(give_up, api.deps.handle.read_index()).await {
            Ok(Ok(_)) => {}
            Ok(Err(ProposeError::Stopped(reason))) => {
                return Err(ApiError::unavailable(format!(
                    "this coordinator is stopping or has failed: {reason}"
                )));
            }
            // Reading has no effect: whatever the reason, the next try may find a leader.
            Ok(Err(error)) => {
                tracing::debug!(%error, "a read waits for a leader");
                return Ok(None);
            }
            Err(_) => {
                return Err(no_leader(
                    "no majority confirmed that this coordinator still leads",
                ));
            }
        }
    }
    let answer = tokio::time::timeout(deadline_of(request), next.run(replay(request)?)).await;
    let answer = answer.map_err(|_| {
        ApiError::outcome_unknown("the request took too long here; it may or may not have taken effect")
    })?;
    Ok((!answer.headers().contains_key(NOT_LEADER)).then_some(answer))
}

/// Answers through the leader; `None` if that one says that it does not lead.
async fn there(api: &Api, request: &Buffered, leader: NodeId) -> Result<Option<Response>, ForwardError> {
    let rest = api
        .members()
        .into_iter()
        .find(|m| m.id == leader)
        .map(|m| m.addr.rest)
        .filter(|rest| !rest.is_empty());
    let Some(rest) = rest else {
        return Err(ForwardError::NotSent(format!(
            "the REST address of coordinator {leader} is not known"
        )));
    };
    let answer = api.forwarder.send(&rest, request, deadline_of(request)).await?;
    Ok((!answer.headers().contains_key(NOT_LEADER)).then_some(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leadership(leader: Option<u64>, is_leader: bool) -> Leadership {
        Leadership {
            leader: leader.map(NodeId),
            is_leader,
            term: 3,
            quorum_ok: true,
        }
    }

    #[test]
    fn the_way_follows_from_leadership_alone() {
        let own = NodeId(2);
        assert_eq!(way(&leadership(Some(2), true), own), Way::Here);
        assert_eq!(way(&leadership(Some(1), false), own), Way::To(NodeId(1)));
        assert_eq!(way(&leadership(None, false), own), Way::Nobody);
        assert_eq!(way(&leadership(Some(2), false), own), Way::Nobody);
    }

    #[test]
    fn every_safe_method_reads_linearizably() {
        assert!([Method::GET, Method::HEAD, Method::OPTIONS].iter().all(reads));
        let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
        assert!(!writes.iter().any(reads));
    }

    #[test]
    fn only_who_asks_for_it_reads_stale() {
        assert!(asks_for_stale(Some("a=b&stale=true")));
        assert!(!asks_for_stale(Some("stale=false")));
        assert!(!asks_for_stale(None));
    }
}
