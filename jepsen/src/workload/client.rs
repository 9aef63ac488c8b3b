//! A client process: runs in a namespace of its own, prints events (JSON lines) on its standard output and takes
//! commands, one JSON line each, on its standard input. It ends when its input ends.

use super::{jobs, observe, register};
use crate::history::{Event, Kind};
use crate::world::monotonic_ns;
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;

/// A coordinator as a client knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// `c1`.
    pub name: String,
    /// gRPC.
    pub rpc: SocketAddr,
    /// REST.
    pub rest: SocketAddr,
}

/// What a client process is told when it is started, as its only argument.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spec {
    /// `register`, `jobs` or `observe`.
    pub kind: String,
    /// Which of several.
    pub index: u32,
    /// Draws.
    pub seed: u64,
    /// `CLOCK_MONOTONIC` at the beginning of the run.
    pub epoch_ns: u64,
    /// The first of the operation numbers that are its own.
    pub op_base: u64,
    /// The coordinators.
    pub nodes: Vec<Node>,
    /// Whatever else the kind needs.
    pub params: BTreeMap<String, Value>,
}

/// What the harness tells a client.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Command {
    /// Issue no more operations of the fault phase.
    Stop,
    /// Everything is healed: do the last reads, then end.
    Final,
    /// Submit a job, watch it, and tell its end.
    Submit {
        /// Names it in replies.
        tag: String,
        /// The script.
        sql: String,
        /// Whether its end is expected.
        bounded: bool,
    },
    /// Cancel a job.
    Cancel {
        /// Its id.
        job: String,
    },
}

/// What a client tells the harness besides events.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reply {
    /// Of the submission.
    pub tag: String,
    /// The job.
    pub job: String,
    /// How it ended; absent: it was accepted.
    pub state: Option<String>,
    /// Why it failed.
    pub reason: Option<String>,
}

/// A line of a client's output.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// An event.
    Event(Event),
    /// A reply.
    Reply(Reply),
}

struct Inner {
    spec: Spec,
    next_op: AtomicU64,
    stopping: AtomicBool,
    finishing: AtomicBool,
}

/// What the tasks of a client process share. Cheap to clone.
#[derive(Clone)]
pub struct Client(Arc<Inner>);

/// An operation that has been invoked.
pub struct Pending {
    process: String,
    workload: &'static str,
    f: String,
    op: u64,
}

impl Client {
    fn new(spec: Spec) -> Self {
        let next_op = AtomicU64::new(spec.op_base);
        let (stopping, finishing) = (AtomicBool::new(false), AtomicBool::new(false));
        Self(Arc::new(Inner {
            spec,
            next_op,
            stopping,
            finishing,
        }))
    }

    /// How it was started.
    #[must_use]
    pub fn spec(&self) -> &Spec {
        &self.0.spec
    }

    /// A parameter that is a number.
    #[must_use]
    pub fn param(&self, name: &str, default: u64) -> u64 {
        self.0
            .spec
            .params
            .get(name)
            .and_then(Value::as_u64)
            .unwrap_or(default)
    }

    /// Time since the run began.
    #[must_use]
    pub fn now(&self) -> u64 {
        monotonic_ns().saturating_sub(self.0.spec.epoch_ns)
    }

    /// Whether the fault phase is over.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.0.stopping.load(Ordering::SeqCst)
    }

    /// Whether the last reads are wanted.
    #[must_use]
    pub fn finishing(&self) -> bool {
        self.0.finishing.load(Ordering::SeqCst)
    }

    fn obey(&self, command: &Command) {
        match command {
            Command::Stop => self.0.stopping.store(true, Ordering::SeqCst),
            Command::Final => {
                self.0.stopping.store(true, Ordering::SeqCst);
                self.0.finishing.store(true, Ordering::SeqCst);
            }
            Command::Submit { .. } | Command::Cancel { .. } => {}
        }
    }

    /// Records that an operation is about to be sent.
    #[must_use]
    pub fn invoke(
        &self,
        process: &str,
        workload: &'static str,
        f: &str,
        value: BTreeMap<String, Value>,
    ) -> Pending {
        let op = self.0.next_op.fetch_add(1, Ordering::Relaxed);
        let pending = Pending {
            process: process.to_owned(),
            workload,
            f: f.to_owned(),
            op,
        };
        self.print_event(&pending, Kind::Invoke, value, None);
        pending
    }

    /// Records what became of it.
    pub fn complete(
        &self,
        pending: &Pending,
        kind: Kind,
        value: BTreeMap<String, Value>,
        error: Option<String>,
    ) {
        self.print_event(pending, kind, value, error);
    }

    fn print_event(&self, of: &Pending, kind: Kind, value: BTreeMap<String, Value>, error: Option<String>) {
        print_line(&Line::Event(Event {
            t: self.now(),
            process: of.process.clone(),
            kind,
            workload: of.workload.to_owned(),
            f: of.f.clone(),
            op: of.op,
            value,
            error,
        }));
    }

    /// Tells the harness something.
    pub fn reply(&self, reply: Reply) {
        print_line(&Line::Reply(reply));
    }
}

/// One line, whole: several tasks print.
fn print_line(line: &Line) {
    let Ok(mut text) = serde_json::to_vec(line) else {
        return;
    };
    text.push(b'\n');
    let mut out = std::io::stdout().lock();
    // The harness has gone: nobody needs the rest.
    if out.write_all(&text).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Pairs of names and values.
#[must_use]
pub fn values<const N: usize>(pairs: [(&str, Value); N]) -> BTreeMap<String, Value> {
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// `jepsen client SPEC`.
///
/// # Errors
/// If the specification does not parse or names no kind.
pub async fn client_main(args: &[String]) -> Result<()> {
    let text = args.first().context("a client needs its specification")?;
    let spec: Spec = serde_json::from_str(text).context("a client's specification")?;
    let client = Client::new(spec);
    let (commands, inbox) = mpsc::channel(64);
    let listener = client.clone();
    let input = tokio::spawn(async move {
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            let Ok(command) = serde_json::from_str::<Command>(&line) else {
                continue;
            };
            listener.obey(&command);
            if commands.send(command).await.is_err() {
                return;
            }
        }
    });
    let work = async {
        match client.spec().kind.as_str() {
            "register" => register::client(&client).await,
            "jobs" => jobs::client(&client).await,
            "observe" => observe::client(&client, inbox).await,
            other => bail!("there is no client '{other}'"),
        }
    };
    tokio::select! {
        done = work => done,
        // The harness is gone, or has no use for this client any more. A client that does not read its inbox goes on
        // until then.
        _ = input => Ok(()),
    }
}
