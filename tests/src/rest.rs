//! A small HTTP/1.1 client with deadlines that asks one coordinator after the other, as any client of the cluster may.
//!
//! A fresh connection per request: a kept one would hide what a new client sees after a failure.

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

/// Longest that one coordinator is waited for before the next one is asked.
const ONE_TRY: Duration = Duration::from_secs(1);

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Status.
    pub status: StatusCode,
    /// Content type, if any.
    pub content_type: String,
    /// Body.
    pub body: Bytes,
    /// Who answered.
    pub from: String,
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| {
            format!(
                "{} answered {} with no JSON: {}",
                self.from,
                self.status,
                self.text()
            )
        })
    }

    /// Refuses an answer that is not 2xx.
    ///
    /// # Errors
    /// See above.
    pub fn ok(self) -> Result<Self> {
        if !self.status.is_success() {
            bail!("{} answered {}: {}", self.from, self.status, self.text());
        }
        Ok(self)
    }
}

/// A request that can be sent more than once.
#[derive(Debug, Clone)]
pub struct Call {
    /// GET, PUT, ...
    pub method: Method,
    /// Path with query.
    pub path: String,
    /// Header lines.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Bytes,
}

impl Call {
    /// A call without a body.
    pub fn new(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// With a body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// With a header line.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// Sends a call to one address and waits for the whole answer.
///
/// # Errors
/// If there is no answer within the deadline.
pub async fn send(address: &str, call: &Call, deadline: Duration) -> Result<Reply> {
    tokio::time::timeout(deadline, exchange(address, call))
        .await
        .map_err(|_| {
            anyhow!(
                "{} {} at {address}: no answer within {deadline:?}",
                call.method,
                call.path
            )
        })?
        .with_context(|| format!("{} {} at {address}", call.method, call.path))
}

async fn exchange(address: &str, call: &Call) -> Result<Reply> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    let mut request = Request::builder()
        .method(call.method.clone())
        .uri(&call.path)
        .header("host", address);
    for (name, value) in &call.headers {
        request = request.header(name, value);
    }
    let answer = sender
        .send_request(request.body(Full::new(call.body.clone()))?)
        .await;
    let reply = match answer {
        Ok(response) => {
            let status = response.status();
            let content_type = response
                .headers()
                .get("content-type")
                .and_then(|v| v.to_str().ok())
                .unwrap_or_default()
                .to_owned();
            let body = response.into_body().collect().await?.to_bytes();
            Ok(Reply {
                status,
                content_type,
                body,
                from: address.to_owned(),
            })
        }
        Err(error) => Err(error.into()),
    };
    drop(sender);
    driver.abort();
    reply
}

/// Asks the cluster: any coordinator that answers will do.
#[derive(Clone)]
pub struct Rest {
    runtime: Arc<Runtime>,
    addresses: Arc<Mutex<Vec<String>>>,
    answered: Arc<AtomicUsize>,
}

impl Rest {
    /// A client of coordinators that are not known yet.
    ///
    /// # Errors
    /// If its runtime cannot be started.
    pub fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("rest-client")
            .enable_all()
            .build()?;
        Ok(Self {
            runtime: Arc::new(runtime),
            addresses: Arc::default(),
            answered: Arc::default(),
        })
    }

    /// The runtime, for probes.
    #[must_use]
    pub fn runtime(&self) -> &Arc<Runtime> {
        &self.runtime
    }

    /// Replaces the coordinators' addresses.
    pub fn set_addresses(&self, addresses: Vec<String>) {
        *self.addresses.lock().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// The coordinators' addresses.
    #[must_use]
    pub fn addresses(&self) -> Vec<String> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// One coordinator's answer, whatever its status.
    ///
    /// # Errors
    /// If it gives none in time.
    pub fn call_at(&self, address: &str, call: &Call, deadline: Duration) -> Result<Reply> {
        self.runtime.block_on(send(address, call, deadline))
    }

    /// The first answer below 500 of any coordinator; asks again until the deadline.
    ///
    /// # Errors
    /// If there is none in time: the last answer or error of each coordinator.
    pub fn call(&self, call: &Call, deadline: Duration) -> Result<Reply> {
        let start = Instant::now();
        loop {
            let mut said = Vec::new();
            let addresses = self.addresses();
            // Whoever answered last is asked first: a paused coordinator is waited for once, not every time.
            let first = self.answered.load(Ordering::Relaxed);
            for turn in 0..addresses.len() {
                let at = (first + turn) % addresses.len();
                let left = deadline
                    .saturating_sub(start.elapsed())
                    .max(Duration::from_millis(50));
                match self.call_at(&addresses[at], call, left.min(ONE_TRY)) {
                    Ok(reply) if !reply.status.is_server_error() => {
                        self.answered.store(at, Ordering::Relaxed);
                        return Ok(reply);
                    }
                    Ok(reply) => said.push(format!("{}: {} {}", addresses[at], reply.status, reply.text())),
                    Err(error) => said.push(format!("{error:#}")),
                }
            }
            if start.elapsed() >= deadline {
                bail!(
                    "{} {}: no coordinator served it within {deadline:?}: {}",
                    call.method,
                    call.path,
                    said.join("; ")
                );
            }
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// GET of a JSON document from any coordinator.
    ///
    /// # Errors
    /// If no coordinator gives a 2xx answer in time.
    pub fn get(&self, path: &str, deadline: Duration) -> Result<Value> {
        self.call(&Call::get(path), deadline)?.ok()?.json()
    }
}
