//! What workloads see of a run: the clock, the history, the coordinators, the clients' namespaces.

use crate::history::{Event, Kind, Nanos};
use anyhow::{Context, Result};
use nix::time::{ClockId, clock_gettime};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A coordinator as clients reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAddr {
    /// `c1`, `c2`, ...
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// Where it serves gRPC.
    pub rpc: SocketAddr,
    /// Where it serves REST.
    pub rest: SocketAddr,
}

/// What a world is made of.
#[derive(Debug, Clone)]
pub struct WorldSpec {
    /// The run's seed.
    pub seed: u64,
    /// The coordinators at the beginning.
    pub coordinators: Vec<NodeAddr>,
    /// Namespaces of the clients; empty where there are none (loopback mode).
    pub clients: Vec<String>,
    /// Where sinks write.
    pub shared_dir: PathBuf,
    /// Where snapshots lie, as `execution.checkpointing.dir` has it.
    pub snapshot_url: String,
    /// Settings for clients that read the snapshot storage themselves (`s3.endpoint`, ...).
    pub storage_settings: BTreeMap<String, String>,
    /// Interval of checkpoints that jobs shall ask for, in milliseconds.
    pub checkpoint_ms: u64,
    /// Slots of all workers together.
    pub slots: u32,
}

struct Inner {
    spec: WorldSpec,
    epoch_ns: u64,
    history: Mutex<Record>,
    next_op: AtomicU64,
    stopping: AtomicBool,
}

struct Record {
    events: Vec<Event>,
    file: BufWriter<File>,
    broken: Option<String>,
}

/// A run, as its workloads may use it. Cheap to clone.
#[derive(Clone)]
pub struct World {
    inner: Arc<Inner>,
}

impl World {
    /// A world whose time begins now and whose history is also written to a file, line by line.
    ///
    /// # Errors
    /// If the file cannot be created.
    pub fn new(spec: WorldSpec, history: &Path) -> Result<Self> {
        let file = File::create(history).with_context(|| history.display().to_string())?;
        Ok(Self {
            inner: Arc::new(Inner {
                spec,
                epoch_ns: monotonic_ns(),
                history: Mutex::new(Record {
                    events: Vec::new(),
                    file: BufWriter::new(file),
                    broken: None,
                }),
                next_op: AtomicU64::new(1),
                stopping: AtomicBool::new(false),
            }),
        })
    }

    /// Time since the run began.
    #[must_use]
    pub fn now(&self) -> Nanos {
        monotonic_ns().saturating_sub(self.inner.epoch_ns)
    }

    /// `CLOCK_MONOTONIC` at the beginning, in nanoseconds: what client processes take off their own times.
    #[must_use]
    pub fn epoch_ns(&self) -> u64 {
        self.inner.epoch_ns
    }

    /// Adds an event to the history. It is in the file before this returns for notes, else soon after.
    pub fn record(&self, event: Event) {
        let mut record = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        let written = serde_json::to_vec(&event)
            .map_err(std::io::Error::other)
            .and_then(|mut line| {
                line.push(b'\n');
                record.file.write_all(&line)
            });
        if let Err(error) = written
            && record.broken.is_none()
        {
            record.broken = Some(error.to_string());
        }
        if event.kind == Kind::Note {
            let _ = record.file.flush();
        }
        record.events.push(event);
    }

    /// Adds a note with values.
    pub fn note(&self, process: &str, workload: &str, f: &str, value: BTreeMap<String, serde_json::Value>) {
        self.record(Event {
            t: self.now(),
            process: process.to_owned(),
            kind: Kind::Note,
            workload: workload.to_owned(),
            f: f.to_owned(),
            op: 0,
            value,
            error: None,
        });
    }

    /// A number for an operation that no other has.
    #[must_use]
    pub fn next_op(&self) -> u64 {
        self.inner.next_op.fetch_add(1, Ordering::Relaxed)
    }

    /// Reserves `count` numbers for a client process and answers the first.
    #[must_use]
    pub fn reserve_ops(&self, count: u64) -> u64 {
        self.inner.next_op.fetch_add(count, Ordering::Relaxed)
    }

    /// The coordinators at the beginning.
    #[must_use]
    pub fn coordinators(&self) -> Vec<NodeAddr> {
        self.inner.spec.coordinators.clone()
    }

    /// The network namespace of a client; `None` where clients run on the host (loopback mode).
    #[must_use]
    pub fn client_netns(&self, index: u32) -> Option<String> {
        let clients = &self.inner.spec.clients;
        let at = (index as usize).checked_rem(clients.len())?;
        clients.get(at).cloned()
    }

    /// A command that runs this program as `jepsen client ARGS` where client `index` lives; killed with its handle.
    ///
    /// # Errors
    /// If this program's own path is not known.
    pub fn client_command(&self, index: u32, args: &[String]) -> Result<tokio::process::Command> {
        let me = std::env::current_exe().context("cannot tell where this program lies")?;
        let mut command = match self.client_netns(index) {
            Some(namespace) => {
                // Not `ip netns exec`: that copies every mount into a namespace of its own, and a disk whose power is
                // taken away could not be unmounted while a client holds such a copy.
                let mut command = tokio::process::Command::new("nsenter");
                command.arg(format!("--net=/var/run/netns/{namespace}")).arg(me);
                command
            }
            None => tokio::process::Command::new(me),
        };
        command.arg("client").args(args).kill_on_drop(true);
        Ok(command)
    }

    /// Where sinks write, on the host's file system (or an image of the run's own).
    #[must_use]
    pub fn shared_dir(&self) -> PathBuf {
        self.inner.spec.shared_dir.clone()
    }

    /// Where snapshots lie.
    #[must_use]
    pub fn snapshot_url(&self) -> String {
        self.inner.spec.snapshot_url.clone()
    }

    /// Settings with which snapshot storage is opened.
    #[must_use]
    pub fn storage_settings(&self) -> BTreeMap<String, String> {
        self.inner.spec.storage_settings.clone()
    }

    /// The interval of checkpoints that the plan asks for, in milliseconds.
    #[must_use]
    pub fn checkpoint_ms(&self) -> u64 {
        self.inner.spec.checkpoint_ms
    }

    /// Slots of all workers together.
    #[must_use]
    pub fn slots(&self) -> u32 {
        self.inner.spec.slots
    }

    /// The run's seed.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.inner.spec.seed
    }

    /// Whether clients must stop issuing operations.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.inner.stopping.load(Ordering::SeqCst)
    }

    /// Tells clients to stop issuing operations.
    pub fn stop(&self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
    }

    /// Lets clients issue operations again (after a phase that ended early).
    pub fn resume(&self) {
        self.inner.stopping.store(false, Ordering::SeqCst);
    }

    /// Whether an operation of a workload was answered since a moment.
    #[must_use]
    pub fn answered_since(&self, since: Nanos, workload: &str) -> bool {
        let record = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = record.events.iter().rev().take(20_000);
        let mut answered = recent.filter(|e| e.kind == Kind::Ok && e.workload == workload);
        answered.any(|e| e.t >= since)
    }

    /// The history so far, in the order of time.
    ///
    /// # Errors
    /// If a line could not be written: the stored history would be less than this one.
    pub fn history(&self) -> Result<Vec<Event>> {
        let mut record = self.inner.history.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reason) = &record.broken {
            anyhow::bail!("the history could not be written: {reason}");
        }
        record.file.flush().context("the history")?;
        let mut events = record.events.clone();
        // Client processes hand their events over with a delay of their own.
        events.sort_by_key(|event| event.t);
        Ok(events)
    }
}

/// `CLOCK_MONOTONIC` in nanoseconds; one kernel, hence one clock for all processes of a run.
#[must_use]
pub fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
        u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec()).unwrap_or(0)
    })
}

/// The wall clock, since 1970.
#[must_use]
pub fn unix_time() -> std::time::Duration {
    clock_gettime(ClockId::CLOCK_REALTIME).map_or(std::time::Duration::ZERO, std::time::Duration::from)
}
