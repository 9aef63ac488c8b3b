//! A client of the coordinators' REST interface: any of them will do, a dead one is passed over, and nothing is sent
//! twice that must not be.

mod retry;
pub mod target;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client as Http;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use retry::{Next, next};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

pub use retry::{Outcome, Safety};

/// Largest answer that is read.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// Pause after all coordinators have been tried in vain.
const ROUND_PAUSE: Duration = Duration::from_millis(100);
/// Longest wait for one coordinator's answer: more than it waits for a leader itself.
const ONE_ANSWER: Duration = Duration::from_secs(20);

/// Why there is no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No coordinator answered, or none had a leader, for the whole deadline. The request had no effect, as far as can
    /// be known.
    #[error("no coordinator of {endpoints} gave an answer within {} s: {last}", deadline.as_secs_f32())]
    Unreachable {
        /// Who was tried.
        endpoints: String,
        /// For how long.
        deadline: Duration,
        /// The last thing that went wrong.
        last: String,
    },
    /// The cluster refuses.
    #[error("{message}")]
    Refused {
        /// HTTP status.
        status: StatusCode,
        /// Its reason.
        message: String,
    },
    /// It may or may not have taken effect.
    #[error("the outcome is unknown: {0}; look before you repeat it")]
    Unknown(String),
    /// The answer is not what the interface promises.
    #[error("unexpected answer: {0}")]
    Strange(String),
}

/// One request.
#[derive(Debug, Clone)]
pub struct Call {
    method: Method,
    path: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    safety: Safety,
    deadline: Duration,
    retry_for: Duration,
}

impl Call {
    /// A read: repeated freely.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path, Safety::Repeatable)
    }

    /// Anything else.
    pub fn new(method: Method, path: impl Into<String>, safety: Safety) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
            safety,
            deadline: Duration::from_secs(10),
            retry_for: Duration::MAX,
        }
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With an end to trying again before the deadline: for what takes long once it is under way, but is refused at once
    /// for a reason that somebody has to see to.
    #[must_use]
    pub fn retry_for(mut self, retry_for: Duration) -> Self {
        self.retry_for = retry_for;
        self
    }

    /// With a deadline over all tries.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// A client for one cluster.
pub struct Client {
    endpoints: Vec<String>,
    preferred: AtomicUsize,
    http: Http<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client for these `host:port`s.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(1)));
        connector.set_nodelay(true);
        // A connection per request: an idle one to a coordinator that dies would only blur what was sent.
        let http = Http::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Self {
            endpoints,
            preferred: AtomicUsize::new(0),
            http,
        }
    }

    /// Asks until there is an answer or the deadline has passed.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn call(&self, call: &Call) -> Result<Value, ClientError> {
        let started = Instant::now();
        let give_up = started + call.deadline;
        let trying = call.deadline.min(call.retry_for);
        let mut last = "nothing was tried".to_owned();
        loop {
            // Whoever answers knows more than one that is not there.
            let (mut said, mut silent) = (None, None);
            for offset in 0..self.endpoints.len() {
                let index = (self.preferred.load(Ordering::Relaxed) + offset) % self.endpoints.len();
                let endpoint = &self.endpoints[index];
                let left = give_up.saturating_duration_since(Instant::now());
                let patience = patience(call.safety, left);
                let outcome = self.ask(endpoint, call, patience).await;
                match next(call.safety, &outcome) {
                    Next::Done => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return answer(outcome);
                    }
                    Next::Unknown => return Err(ClientError::Unknown(outcome.to_string())),
                    Next::Elsewhere => {
                        let what = match outcome {
                            Outcome::Answer { .. } => &mut said,
                            Outcome::NotSent(_) | Outcome::NoAnswer(_) => &mut silent,
                        };
                        *what = Some(format!("{endpoint}: {outcome}"));
                    }
                }
                if Instant::now() >= give_up {
                    break;
                }
            }
            last = said.or(silent).unwrap_or(last);
            if started.elapsed() + ROUND_PAUSE >= trying || self.endpoints.is_empty() {
                return Err(ClientError::Unreachable {
                    endpoints: self.endpoints.join(", "),
                    deadline: trying,
                    last,
                });
            }
            tokio::time::sleep(ROUND_PAUSE).await;
        }
    }

    /// Asks, and reads the answer as a type.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn read<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ClientError> {
        let value = self.call(call).await?;
        serde_json::from_value(value).map_err(|e| ClientError::Strange(e.to_string()))
    }

    /// Asks one coordinator once.
    pub async fn ask(&self, endpoint: &str, call: &Call, patience: Duration) -> Outcome {
        let request = match request(endpoint, call) {
            Ok(request) => request,
            Err(error) => return Outcome::NotSent(format!("{error:#}")),
        };
        let exchange = async {
            let response = match self.http.request(request).await {
                Ok(response) => response,
                Err(error) if error.is_connect() => return Outcome::NotSent(chain(&error)),
                Err(error) => return Outcome::NoAnswer(chain(&error)),
            };
            let status = response.status();
            let unknown = response.headers().contains_key("x-holdfast-outcome-unknown");
            match Limited::new(response.into_body(), ANSWER_BYTES_MAX)
                .collect()
                .await
            {
                Ok(body) => {
                    let body = body.to_bytes();
                    Outcome::Answer {
                        status,
                        unknown,
                        body,
                    }
                }
                Err(error) => Outcome::NoAnswer(error.to_string()),
            }
        };
        tokio::time::timeout(patience, exchange)
            .await
            .unwrap_or_else(|_| Outcome::NoAnswer(format!("no answer within {} ms", patience.as_millis())))
    }
}

/// How long one coordinator is waited for. What must not be sent twice is not given up early: nobody else could be asked
/// instead, and adding a coordinator takes a while.
fn patience(safety: Safety, left: Duration) -> Duration {
    match safety {
        Safety::Once => left,
        Safety::Repeatable => left.min(ONE_ANSWER),
    }
}

fn request(endpoint: &str, call: &Call) -> Result<Request<Full<Bytes>>> {
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(format!("http://{endpoint}{}", call.path));
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    request
        .body(Full::new(call.body.clone()))
        .with_context(|| format!("cannot ask {endpoint}{}", call.path))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

fn answer(outcome: Outcome) -> Result<Value, ClientError> {
    let Outcome::Answer { status, body, .. } = outcome else {
        return Err(ClientError::Strange(outcome.to_string()));
    };
    let value: Result<Value, _> = if body.is_empty() {
        Ok(Value::Null)
    } else {
        serde_json::from_slice(&body)
    };
    if status.is_success() {
        return value.map_err(|e| ClientError::Strange(e.to_string()));
    }
    let message = value.ok().and_then(|v| errors(&v));
    let message = message.unwrap_or_else(|| format!("{status}: {}", String::from_utf8_lossy(&body)));
    Err(ClientError::Refused { status, message })
}

/// Flink's shape of a refusal.
pub(crate) fn errors(value: &Value) -> Option<String> {
    let list = value.get("errors")?.as_array()?;
    let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
    (!texts.is_empty()).then(|| texts.join("\n"))
}

/// Percent-encodes what stands in a path or query.
#[must_use]
pub fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A server that gives the same answer to every request, and counts them.
    async fn server(answer: &'static str) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::SeqCst);
                let mut buffer = [0; 4096];
                let _ = stream.read(&mut buffer).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        (address, count)
    }

    async fn closed_port() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    }

    const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\nconnection: close\r\n\r\n{\"a\": 1}";
    const NO_LEADER: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 19\r\nconnection: close\r\n\r\n{\"errors\":[\"none\"]}";
    const REFUSED: &str =
        "HTTP/1.1 400 Bad Request\r\ncontent-length: 20\r\nconnection: close\r\n\r\n{\"errors\":[\"wrong\"]}";

    #[tokio::test]
    async fn a_dead_coordinator_is_passed_over_and_the_living_one_remembered() {
        let (fine, count) = server(FINE).await;
        let client = Client::new(vec![closed_port().await, fine]);
        let call = Call::new(Method::POST, "/v1/x", Safety::Once);
        assert_eq!(client.call(&call).await.unwrap()["a"], 1);
        assert_eq!(client.call(&call).await.unwrap()["a"], 1);
        assert_eq!(count.load(Ordering::SeqCst), 2);
        assert_eq!(client.preferred.load(Ordering::Relaxed), 1);
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_carries_its_reason() {
        let (refusing, count) = server(REFUSED).await;
        let client = Client::new(vec![refusing]);
        let error = client.call(&Call::get("/v1/x")).await.unwrap_err();
        assert_eq!(error.to_string(), "wrong");
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn without_a_leader_the_deadline_ends_it() {
        let (leaderless, count) = server(NO_LEADER).await;
        let client = Client::new(vec![leaderless]);
        let call = Call::get("/v1/x").deadline(Duration::from_millis(350));
        let error = client.call(&call).await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("none"), "{error}");
        assert!(count.load(Ordering::SeqCst) >= 2);
    }

    #[tokio::test]
    async fn a_refusal_that_may_pass_is_told_before_the_deadline() {
        let (leaderless, _) = server(NO_LEADER).await;
        let client = Client::new(vec![leaderless]);
        let call = Call::new(Method::POST, "/v1/x", Safety::Once)
            .deadline(Duration::from_secs(90))
            .retry_for(Duration::from_millis(250));
        let begun = Instant::now();
        let error = client.call(&call).await.unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }

    #[tokio::test]
    async fn a_dead_coordinator_does_not_hide_what_another_says() {
        let (leaderless, _) = server(NO_LEADER).await;
        let client = Client::new(vec![leaderless, closed_port().await]);
        let call = Call::get("/v1/x").deadline(Duration::from_millis(350));
        let error = client.call(&call).await.unwrap_err();
        assert!(error.to_string().contains("none"), "{error}");
    }

    #[test]
    fn what_cannot_be_repeated_is_waited_for() {
        let left = Duration::from_secs(90);
        assert_eq!(patience(Safety::Once, left), left);
        assert_eq!(patience(Safety::Repeatable, left), ONE_ANSWER);
    }

    #[test]
    fn paths_are_encoded() {
        assert_eq!(encode("a b/ü&"), "a%20b%2F%C3%BC%26");
    }
}
