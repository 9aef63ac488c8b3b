//! Passing a request on to the leader's REST interface, once.
//!
//! Knows HTTP only; whether and where to pass on is decided in the gate.

use axum::body::Body;
use axum::http::{Extensions, HeaderMap, HeaderValue, Method, Request, Response, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::time::Duration;

/// Marks a request that another coordinator has passed on: it is not passed on again.
pub(crate) const FORWARDED: &str = "x-holdfast-forwarded";

/// Largest answer that is passed back: a job with thousands of subtasks fits.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A request whose body is in memory, so that it can be sent again when it certainly had no effect.
#[derive(Debug, Clone)]
pub(crate) struct Buffered {
    pub(crate) method: Method,
    pub(crate) path_and_query: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// What the router has found out (path parameters); for this process only.
    pub(crate) extensions: Extensions,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ForwardError {
    /// The leader was not reached: no effect.
    NotSent(String),
    /// Sent, but no whole answer came.
    Unanswered(String),
}

/// A client for the other coordinators' REST interfaces.
pub(crate) struct Forwarder {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Forwarder {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(holdfast_common::limits::CONNECT_DEADLINE));
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(8)
            .pool_idle_timeout(Duration::from_secs(5))
            .build(connector);
        Self { client }
    }

    /// Sends the request to `rest` and returns its whole answer.
    pub(crate) async fn send(
        &self,
        rest: &str,
        request: &Buffered,
        deadline: Duration,
    ) -> Result<Response<Body>, ForwardError> {
        if holdfast_runtime::is_simulated() {
            return Err(ForwardError::NotSent(
                "there is no HTTP in a simulator".to_owned(),
            ));
        }
        let outgoing = outgoing(rest, request).map_err(|e| ForwardError::NotSent(e.to_string()))?;
        let exchange = async {
            let answer = self.client.request(outgoing).await.map_err(|error| {
                let text = format!("coordinator at {rest}: {error}");
                if error.is_connect() {
                    ForwardError::NotSent(text)
                } else {
                    ForwardError::Unanswered(text)
                }
            })?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX)
                .collect()
                .await
                .map_err(|e| ForwardError::Unanswered(format!("coordinator at {rest}: {e}")))?;
            let mut response = Response::new(Body::from(body.to_bytes()));
            *response.status_mut() = parts.status;
            *response.headers_mut() = parts.headers;
            response.headers_mut().remove(header::CONNECTION);
            response.headers_mut().remove(header::TRANSFER_ENCODING);
            Ok(response)
        };
        tokio::time::timeout(deadline, exchange)
            .await
            .unwrap_or_else(|_| {
                Err(ForwardError::Unanswered(format!(
                    "coordinator at {rest} gave no answer within {} ms",
                    deadline.as_millis()
                )))
            })
    }
}

fn outgoing(rest: &str, request: &Buffered) -> Result<Request<Full<Bytes>>, axum::http::Error> {
    let mut outgoing = Request::builder()
        .method(request.method.clone())
        .uri(format!("http://{rest}{}", request.path_and_query))
        .body(Full::new(request.body.clone()))?;
    for (name, value) in &request.headers {
        let hop_by_hop = [
            header::HOST,
            header::CONNECTION,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::EXPECT,
            header::UPGRADE,
        ];
        if !hop_by_hop.contains(name) {
            outgoing.headers_mut().append(name.clone(), value.clone());
        }
    }
    outgoing
        .headers_mut()
        .insert(FORWARDED, HeaderValue::from_static("1"));
    Ok(outgoing)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_forwarded_request_keeps_its_headers_but_not_the_hops() {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static("follower:8082"));
        headers.insert("idempotency-key", HeaderValue::from_static("k1"));
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        let request = Buffered {
            method: Method::POST,
            path_and_query: "/v1/jobs?parallelism.default=2".into(),
            headers,
            extensions: Extensions::new(),
            body: Bytes::from_static(b"SELECT 1"),
        };
        let sent = outgoing("127.0.0.1:8081", &request).unwrap();
        assert_eq!(sent.uri(), "http://127.0.0.1:8081/v1/jobs?parallelism.default=2");
        assert_eq!(sent.headers()["idempotency-key"], "k1");
        assert_eq!(sent.headers()[FORWARDED], "1");
        assert!(!sent.headers().contains_key(header::HOST));
        assert!(!sent.headers().contains_key(header::TRANSFER_ENCODING));
    }
}
