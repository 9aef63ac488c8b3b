//! The listening side: routes, connections and their limits.

use super::{Api, ApiDeps, ApiError, gate, handlers, metrics, submit};
use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{Method, Uri};
use axum::middleware::from_fn_with_state;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use holdfast_common::limits;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tower::Service;

/// Serves REST until the future is dropped; open connections end with it.
///
/// # Errors
/// If the listener is closed under it.
pub async fn serve(listener: TcpListener, deps: ApiDeps) -> std::io::Result<()> {
    let api = Arc::new(Api::new(deps));
    let router = router(api.clone());
    let room = Arc::new(Semaphore::new(limits::REST_CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else {
            return Ok(());
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let router = router.clone();
                connections.spawn(async move {
                    connection(stream, router).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Too many open files and the like: others close theirs in time.
                tracing::warn!(%error, "a REST connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, router: Router) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY on a REST connection");
    }
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let mut router = router.clone();
        async move {
            let answer = router.call(request.map(Body::new));
            let deadline = limits::REST_MEMBERS_DEADLINE + limits::REST_LEADER_WAIT;
            Ok::<_, Infallible>(match tokio::time::timeout(deadline, answer).await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => ApiError::outcome_unknown("the request took too long").into_response(),
            })
        }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits::REST_HEADER_DEADLINE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a REST connection ended early");
    }
}

/// Every path stands under `/v1` and, as in Flink, without it.
fn router(api: Arc<Api>) -> Router {
    let leaders = needs_leader().route_layer(from_fn_with_state(api.clone(), gate::gate));
    let routes = leaders.merge(local());
    Router::new()
        .nest("/v1", routes.clone())
        .merge(routes)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(limits::REST_BODY_BYTES_MAX))
        .with_state(api)
}

async fn unknown_path(method: Method, uri: Uri) -> ApiError {
    ApiError::not_found(format!("there is no {method} {}", uri.path()))
}

async fn wrong_method(request: Request) -> ApiError {
    ApiError::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        format!("{} is not possible on {}", request.method(), request.uri().path()),
    )
}

/// Answered by whichever coordinator is asked, at once.
fn local() -> Router<Arc<Api>> {
    Router::new()
        .route("/cluster", get(handlers::cluster))
        .route("/health", get(handlers::health))
        .route("/metrics", get(metrics::metrics))
        .route("/config", get(handlers::dashboard_config))
        .route("/jobmanager/config", get(handlers::process_config))
        .route("/sql/explain", post(submit::explain))
}

/// Answered by the leader.
fn needs_leader() -> Router<Arc<Api>> {
    Router::new()
        .route("/overview", get(handlers::overview))
        .route("/jobs", get(handlers::jobs).post(submit::submit))
        .route("/jobs/overview", get(handlers::jobs_overview))
        .route("/jobs/{job}", get(handlers::job).patch(submit::patch_job))
        .route("/jobs/{job}/status", get(handlers::job_status))
        .route("/jobs/{job}/plan", get(handlers::job_plan))
        .route("/jobs/{job}/config", get(handlers::job_config))
        .route("/jobs/{job}/vertices/{vertex}", get(handlers::vertex))
        .route("/jobs/{job}/checkpoints", get(handlers::checkpoints))
        .route("/jobs/{job}/checkpoints/config", get(handlers::checkpoint_config))
        .route("/jobs/{job}/exceptions", get(handlers::exceptions))
        .route("/taskmanagers", get(handlers::task_managers))
        .route("/taskmanagers/{worker}", get(handlers::task_manager))
        .route(
            "/kv/{*key}",
            get(handlers::kv_get)
                .put(submit::kv_put)
                .delete(submit::kv_delete),
        )
        .route(
            "/members/{id}",
            post(submit::add_member).delete(submit::remove_member),
        )
        .route("/leader/transfer", post(submit::transfer))
}
