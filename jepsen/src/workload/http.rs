//! One HTTP/1.1 request on a connection of its own, with a deadline. Tells what certainly was not sent.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpStream;

/// Answers are no larger than this.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// The product says that the request certainly had no effect.
    pub(super) not_leader: bool,
    pub(super) body: Bytes,
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// Status and reason in one line.
    pub(super) fn told(&self) -> String {
        let text: String = String::from_utf8_lossy(&self.body).chars().take(200).collect();
        format!("{} {text}", self.status.as_u16())
    }
}

/// Why there is none.
pub(super) enum Lost {
    /// No connection: the request never left.
    NotSent(String),
    /// It may have arrived.
    Unknown(String),
}

/// A request.
pub(super) struct Call<'c> {
    pub(super) method: Method,
    pub(super) path: &'c str,
    pub(super) key: Option<&'c str>,
    pub(super) body: &'c str,
}

impl<'c> Call<'c> {
    pub(super) fn get(path: &'c str) -> Self {
        Self {
            method: Method::GET,
            path,
            key: None,
            body: "",
        }
    }
}

/// Sends it to one address.
pub(super) async fn send(to: SocketAddr, call: &Call<'_>, deadline: Duration) -> Result<Answer, Lost> {
    let connected = tokio::time::timeout(deadline, TcpStream::connect(to)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(Lost::NotSent(format!("{to}: {error}"))),
        Err(_) => return Err(Lost::NotSent(format!("{to}: no connection within {deadline:?}"))),
    };
    match tokio::time::timeout(deadline, exchange(stream, to, call)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Lost::Unknown(format!("{to}: {error:#}"))),
        Err(_) => Err(Lost::Unknown(format!("{to}: no answer within {deadline:?}"))),
    }
}

async fn exchange(stream: TcpStream, to: SocketAddr, call: &Call<'_>) -> anyhow::Result<Answer> {
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(call.path)
        .header("host", to.to_string());
    if let Some(key) = call.key {
        request = request.header("idempotency-key", key);
    }
    if !call.body.is_empty() {
        request = request.header("content-type", "text/plain");
    }
    let body = Full::new(Bytes::copy_from_slice(call.body.as_bytes()));
    let result = async {
        let response = sender.send_request(request.body(body)?).await?;
        let status = response.status();
        let not_leader = response.headers().contains_key("x-holdfast-not-leader");
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await;
        let body = body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
        Ok(Answer {
            status,
            not_leader,
            body,
        })
    }
    .await;
    driver.abort();
    result
}
