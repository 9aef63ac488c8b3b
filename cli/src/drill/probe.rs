//! Open-loop probes of the coordinators' client service: one request every few milliseconds, whatever became of those
//! before, so that a stall is measured by every request that it delays. A probe behaves as a client that knows all
//! addresses: it remembers who served it last, goes where that one sends it, and looks at all of them when that fails.

use super::time::Timebase;
use holdfast_proto::client as pb;
use holdfast_proto::client::client_client::ClientClient;
use serde::Serialize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::transport::{Channel, Endpoint};

/// Between two requests.
pub const EVERY: Duration = Duration::from_millis(10);
/// From the moment at which a request should have been sent; one that takes longer has failed.
pub const DEADLINE: Duration = Duration::from_millis(250);
/// Patience with a coordinator that served the last request and says nothing, before the others are looked at.
const ATTEMPT: Duration = Duration::from_millis(100);
/// Between two looks at all coordinators while none serves.
const LOOK: Duration = Duration::from_millis(5);
/// Keys that are written in turn.
const KEYS: u64 = 256;

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A put that is committed.
    Write,
    /// A linearizable read.
    Read,
}

/// A finished request.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Sample {
    /// When it should have been sent, microseconds of the drill.
    pub sent: i64,
    /// When its answer came, or it was given up.
    pub done: i64,
    /// Whether it was served.
    pub ok: bool,
}

/// What became of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Served,
    /// Refused, and sent to another coordinator.
    SentTo(usize),
    Failed,
}

/// Who serves, as far as a probe knows.
#[derive(Debug, Clone, Copy)]
struct Believed {
    leader: Option<usize>,
    /// Another coordinator said so. Who is sent on twice looks at all of them.
    hearsay: bool,
    /// Counts the changes, so that an old failure does not spoil a new belief.
    turn: u64,
}

struct Shared {
    kind: Kind,
    addresses: Vec<String>,
    clients: Vec<ClientClient<Channel>>,
    believed: watch::Sender<Believed>,
    samples: Mutex<Vec<Sample>>,
    time: Timebase,
    number: AtomicU64,
}

/// A running probe; dropped, it ends.
pub struct Probe {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Probe {
    /// Starts probing the coordinators at `addresses` (RPC, `host:port`).
    ///
    /// # Errors
    /// If an address is none.
    pub fn start(kind: Kind, addresses: &[String], time: Timebase) -> anyhow::Result<Self> {
        let clients: Result<Vec<_>, tonic::transport::Error> =
            addresses.iter().map(|address| client(address)).collect();
        let shared = Arc::new(Shared {
            kind,
            addresses: addresses.to_vec(),
            clients: clients?,
            believed: watch::Sender::new(Believed {
                leader: None,
                hearsay: false,
                turn: 0,
            }),
            samples: Mutex::new(Vec::new()),
            time,
            number: AtomicU64::new(0),
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(find(Arc::clone(&shared)));
        tasks.spawn(drive(Arc::clone(&shared)));
        Ok(Self {
            shared,
            _tasks: tasks,
        })
    }

    /// Requests that finished, in no order, sent at `from` or later.
    #[must_use]
    pub fn since(&self, from: i64) -> Vec<Sample> {
        let samples = self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().filter(|s| s.sent >= from).copied().collect()
    }

    /// Forgets requests sent before `at`.
    pub fn forget_before(&self, at: i64) {
        let mut samples = self.shared.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|s| s.sent >= at);
    }
}

fn client(address: &str) -> Result<ClientClient<Channel>, tonic::transport::Error> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .connect_timeout(DEADLINE);
    Ok(ClientClient::new(endpoint.connect_lazy()))
}

/// Sends on schedule: a late timer sends what is due at once, and latency counts from when it was due.
async fn drive(shared: Arc<Shared>) {
    let mut requests = JoinSet::new();
    let mut due = shared.time.now();
    loop {
        tokio::time::sleep_until(shared.time.instant(due).into()).await;
        let each = Arc::clone(&shared);
        requests.spawn(async move { each.request(due).await });
        due += i64::try_from(EVERY.as_micros()).unwrap_or(10_000);
        while requests.try_join_next().is_some() {}
    }
}

/// While nobody is believed to serve: asks all, each as soon as it has answered, until one serves.
async fn find(shared: Arc<Shared>) {
    let mut believed = shared.believed.subscribe();
    loop {
        if believed.wait_for(|b| b.leader.is_none()).await.is_err() {
            return;
        }
        let mut asked = JoinSet::new();
        for index in 0..shared.clients.len() {
            let each = Arc::clone(&shared);
            asked.spawn(async move {
                loop {
                    if let Ok(Outcome::Served) = timeout(DEADLINE, each.attempt(index)).await {
                        return index;
                    }
                    tokio::time::sleep(LOOK).await;
                }
            });
        }
        if let Some(Ok(index)) = asked.join_next().await {
            shared
                .believed
                .send_modify(|b| (b.leader, b.hearsay) = (Some(index), false));
        }
    }
}

impl Shared {
    async fn request(&self, sent: i64) {
        let give_up = Instant::from_std(self.time.instant(sent) + DEADLINE);
        let ok = timeout_at(give_up, self.until_served()).await.is_ok();
        let done = self.time.now();
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.push(Sample { sent, done, ok });
    }

    async fn until_served(&self) {
        let mut believed = self.believed.subscribe();
        loop {
            // The sender is this very object: the wait does not fail.
            let now = believed.wait_for(|b| b.leader.is_some()).await.ok().map(|b| *b);
            let Some((now, leader)) = now.and_then(|now| Some((now, now.leader?))) else {
                continue;
            };
            let mut attempt = std::pin::pin!(self.attempt(leader));
            let mut served = timeout(ATTEMPT, &mut attempt).await;
            if served.is_err() {
                // Others are looked at, but a slow answer is one.
                self.doubt(now, None);
                served = tokio::select! {
                    served = &mut attempt => Ok(served),
                    _ = believed.wait_for(|b| b.turn != now.turn && b.leader.is_some()) => Ok(Outcome::Failed),
                };
            }
            match served {
                Ok(Outcome::Served) => return,
                Ok(Outcome::SentTo(index)) if !now.hearsay => self.doubt(now, Some(index)),
                _ => self.doubt(now, None),
            }
        }
    }

    /// Whoever was believed to serve does not, as far as one request can tell; another one may have been named instead.
    fn doubt(&self, then: Believed, instead: Option<usize>) {
        self.believed.send_if_modified(|b| {
            let mine = b.turn == then.turn && b.leader.is_some();
            if mine {
                b.leader = instead;
                b.hearsay = instead.is_some();
                b.turn += 1;
            }
            mine
        });
    }

    fn sent_to(&self, other: &pb::NotLeader) -> Outcome {
        let index = self.addresses.iter().position(|a| *a == other.leader_rpc);
        index.map_or(Outcome::Failed, Outcome::SentTo)
    }

    /// One request to one coordinator.
    async fn attempt(&self, index: usize) -> Outcome {
        let mut client = self.clients[index].clone();
        let key = |n: u64| format!("drill/{}", n % KEYS);
        match self.kind {
            Kind::Write => {
                let n = self.number.fetch_add(1, Ordering::Relaxed);
                let put = pb::KvPut {
                    key: key(n),
                    value: n.to_be_bytes().to_vec().into(),
                    if_revision: None,
                };
                let request = pb::ExecuteRequest {
                    session: 0,
                    seq: 0,
                    acked_up_to: 0,
                    command: Some(pb::execute_request::Command::KvPut(put)),
                };
                use pb::execute_response::Result as Answer;
                match client
                    .execute(request)
                    .await
                    .ok()
                    .and_then(|a| a.into_inner().result)
                {
                    Some(Answer::Applied(_)) => Outcome::Served,
                    Some(Answer::NotLeader(other)) => self.sent_to(&other),
                    _ => Outcome::Failed,
                }
            }
            Kind::Read => {
                let request = pb::ReadRequest {
                    key: key(0),
                    consistency: pb::Consistency::Linearizable.into(),
                };
                use pb::read_response::Result as Answer;
                match client
                    .read(request)
                    .await
                    .ok()
                    .and_then(|a| a.into_inner().result)
                {
                    Some(Answer::Value(_)) => Outcome::Served,
                    Some(Answer::NotLeader(other)) => self.sent_to(&other),
                    None => Outcome::Failed,
                }
            }
        }
    }
}

/// The longest time without a served request that touches `from..to`: its beginning and end.
#[must_use]
pub fn gap(samples: &[Sample], from: i64, to: i64) -> (i64, i64) {
    let mut ends: Vec<i64> = samples.iter().filter(|s| s.ok).map(|s| s.done).collect();
    ends.sort_unstable();
    super::stats::longest_silence(ends, from, to)
}

/// When the first request that was due at `at` or later was served.
#[must_use]
pub fn first_served(samples: &[Sample], at: i64) -> Option<i64> {
    samples
        .iter()
        .filter(|s| s.ok && s.sent >= at)
        .map(|s| s.done)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_lies_between_served_requests() {
        let sample = |sent, done, ok| Sample { sent, done, ok };
        let samples = [
            sample(0, 1, true),
            sample(10, 260, false),
            sample(20, 205, true),
            sample(30, 203, true),
            sample(210, 211, true),
        ];
        assert_eq!(gap(&samples, 5, 211), (1, 203));
        assert_eq!(first_served(&samples, 5), Some(203));
        assert_eq!(first_served(&samples, 500), None);
    }
}
