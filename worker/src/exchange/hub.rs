//! Makes connections: accepts those of peers whose attempt is deployed here, and dials peers during a deployment.
//! Must not know what flows.

use super::frame::{Frame, Hello};
use super::link::Link;
use super::socket;
use holdfast_common::limits::{
    CONNECT_DEADLINE, EXCHANGE_CONNECT_DEADLINE, EXCHANGE_CONNECT_RETRY, RPC_DEADLINE,
};
use holdfast_common::{AttemptId, Incarnation, JobId};
use holdfast_runtime::{Listener, Stream};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// A worker at the other end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its process.
    pub incarnation: Incarnation,
    /// Where it takes data.
    pub addr: String,
}

/// The links that peers will dial, by peer. A link is given away once.
pub type InboundChannels = BTreeMap<Incarnation, Arc<Link>>;

struct Expected {
    links: InboundChannels,
    /// Peers that have connected.
    connected: Vec<Incarnation>,
}

/// See the module.
pub struct Hub {
    me: Peer,
    runtime: Handle,
    attempts: Mutex<BTreeMap<(JobId, AttemptId), Expected>>,
}

impl Hub {
    /// Accepts connections on `listener` as long as the runtime lives.
    #[must_use]
    pub fn start(listener: impl Into<Listener>, me: Peer, runtime: Handle) -> Arc<Self> {
        let listener = listener.into();
        let hub = Arc::new(Self {
            me,
            runtime: runtime.clone(),
            attempts: Mutex::default(),
        });
        let weak = Arc::downgrade(&hub);
        runtime.spawn(async move {
            loop {
                let accepted = listener.accept().await;
                let Some(hub) = weak.upgrade() else { return };
                match accepted {
                    Ok(stream) => {
                        hub.runtime.clone().spawn(async move { hub.greet(stream).await });
                    }
                    Err(error) => {
                        // Out of descriptors, most likely: trying at once would only spin.
                        tracing::warn!(%error, "cannot accept a data connection");
                        sleep(EXCHANGE_CONNECT_RETRY).await;
                    }
                }
            }
        });
        hub
    }

    /// Expects the peers of an attempt.
    pub fn expect(&self, job: JobId, attempt: AttemptId, links: InboundChannels) {
        let expected = Expected {
            links,
            connected: Vec::new(),
        };
        self.attempts.lock().insert((job, attempt), expected);
    }

    /// Expects them no longer.
    pub fn forget(&self, job: JobId, attempt: AttemptId) {
        self.attempts.lock().remove(&(job, attempt));
    }

    async fn greet(&self, mut stream: Stream) {
        let _ = stream.set_nodelay();
        let hello = match timeout(RPC_DEADLINE, Frame::read(&mut stream)).await {
            Ok(Ok(Frame::Hello(hello))) => hello,
            Ok(Ok(_)) => return refuse(stream, "the first frame was no hello".to_owned(), false).await,
            Ok(Err(error)) => return refuse(stream, error.to_string(), false).await,
            Err(_) => return,
        };
        let link = match self.admit(&hello) {
            Ok(link) => link,
            Err((later, reason)) => return refuse(stream, reason, later).await,
        };
        let welcome = Frame::Welcome.encode();
        // If this fails, so will the first read: the link reports it.
        let _ = timeout(RPC_DEADLINE, stream.write_all(&welcome)).await;
        run(link, stream).await;
    }

    /// The link of a peer that may connect; otherwise why not, and whether it may try again.
    fn admit(&self, hello: &Hello) -> Result<Arc<Link>, (bool, String)> {
        if hello.to != self.me.incarnation {
            return Err((
                false,
                format!(
                    "process {} is gone; this address belongs to process {}",
                    hello.to, self.me.incarnation
                ),
            ));
        }
        let mut attempts = self.attempts.lock();
        let Some(expected) = attempts.get_mut(&(hello.job, hello.attempt)) else {
            let reason = format!(
                "attempt {} of job {} is not deployed here",
                hello.attempt, hello.job
            );
            return Err((true, reason));
        };
        if expected.connected.contains(&hello.from) {
            return Err((false, format!("process {} is connected already", hello.from)));
        }
        let Some(link) = expected.links.get(&hello.from) else {
            let reason = format!(
                "process {} has no part in attempt {} of job {}",
                hello.from, hello.attempt, hello.job
            );
            return Err((false, reason));
        };
        expected.connected.push(hello.from);
        Ok(link.clone())
    }

    /// Dials a peer until it accepts, and runs the link.
    ///
    /// # Errors
    /// If the peer refuses for good, or cannot be reached in time.
    pub async fn dial(
        &self,
        job: JobId,
        attempt: AttemptId,
        peer: &Peer,
        link: Arc<Link>,
    ) -> Result<(), String> {
        let hello = Frame::Hello(Hello {
            job,
            attempt,
            from: self.me.incarnation,
            to: peer.incarnation,
            from_addr: self.me.addr.clone(),
        })
        .encode();
        let deadline = Instant::now() + EXCHANGE_CONNECT_DEADLINE;
        let mut last = "no answer".to_owned();
        while Instant::now() < deadline {
            match timeout_at(deadline, shake_hands(&peer.addr, &hello)).await {
                Ok(Ok(stream)) => {
                    self.runtime.spawn(run(link, stream));
                    return Ok(());
                }
                Ok(Err((true, reason))) => last = reason,
                Ok(Err((false, reason))) => return Err(format!("worker {} refuses: {reason}", peer.addr)),
                Err(_) => break,
            }
            sleep(EXCHANGE_CONNECT_RETRY).await;
        }
        Err(format!(
            "worker {} did not accept within {} s: {last}",
            peer.addr,
            EXCHANGE_CONNECT_DEADLINE.as_secs()
        ))
    }
}

/// Moves a link's frames over a connection.
async fn run(link: Arc<Link>, stream: Stream) {
    if let Err(error) = socket::prepare(&stream, link.silence()) {
        // The link notices a silent peer by itself; the kernel would only notice it on its own side too.
        tracing::warn!(%error, "the system refuses an option of a data connection");
    }
    match stream {
        Stream::Tcp(stream) => {
            let (reader, writer) = stream.into_split();
            link.run(reader, writer).await;
        }
        Stream::Simulated(stream) => {
            let (reader, writer) = tokio::io::split(stream);
            link.run(reader, writer).await;
        }
    }
}

async fn refuse(mut stream: Stream, reason: String, later: bool) {
    let frame = Frame::Refused { later, reason }.encode();
    let _ = timeout(RPC_DEADLINE, stream.write_all(&frame)).await;
    let _ = timeout(RPC_DEADLINE, stream.shutdown()).await;
}

/// One try. The error says whether another may help.
async fn shake_hands(addr: &str, hello: &[u8]) -> Result<Stream, (bool, String)> {
    let late = |what: &str| (true, format!("{what} took too long"));
    let mut stream = timeout(CONNECT_DEADLINE, holdfast_runtime::connect(addr))
        .await
        .map_err(|_| late("connecting"))?
        .map_err(|e| (true, format!("cannot connect: {e}")))?;
    stream.set_nodelay().map_err(|e| (true, e.to_string()))?;
    stream.write_all(hello).await.map_err(|e| (true, e.to_string()))?;
    match timeout(RPC_DEADLINE, Frame::read(&mut stream)).await {
        Ok(Ok(Frame::Welcome)) => Ok(stream),
        Ok(Ok(Frame::Refused { later, reason })) => Err((later, reason)),
        Ok(Ok(_)) => Err((false, "the answer was neither welcome nor refusal".to_owned())),
        Ok(Err(error)) => Err((true, error.to_string())),
        Err(_) => Err(late("the answer")),
    }
}
