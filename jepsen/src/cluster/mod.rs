//! The product's processes in their places: started, watched, asked who leads, signalled, started again.

pub mod config;
pub mod http;
mod process;
mod watch;

pub use process::{Start, clock_file};

use crate::env::{Env, Net, OBJECTS, Place, Role};
use crate::plan::{Plan, SnapshotStorage};
use crate::world::World;
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use process::Node;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// What a coordinator says of itself, without asking anybody.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    /// Its term.
    pub term: u64,
    /// Whom it takes for the leader.
    pub leader: Option<u64>,
    /// `leader`, `follower`, `learner`.
    pub role: String,
    /// When it said so, in nanoseconds of the run.
    pub at: u64,
}

/// Everything that a cluster is started with.
pub struct Setup<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The binary under test.
    pub binary: &'a Path,
    /// The other release's binary, for upgrades.
    pub other_binary: Option<&'a Path>,
    /// The library with faults of disk and clock.
    pub shim: Option<&'a Path>,
    /// Where logs go.
    pub logs: &'a Path,
}

/// What all threads of a cluster share.
pub(crate) struct Shared {
    pub(crate) env: Arc<Env>,
    pub(crate) world: World,
    pub(crate) nodes: BTreeMap<String, Mutex<Node>>,
    pub(crate) status: Mutex<BTreeMap<String, Status>>,
    pub(crate) stop: AtomicBool,
    /// While set, processes that end are not started again.
    pub(crate) closing: AtomicBool,
}

/// Longest until a cluster on loopback is formed.
const FORMED: Duration = Duration::from_secs(20);

/// The running cluster. Dropping it kills every process.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) shared: Arc<Shared>,
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    owner: Arc<Owner>,
}

/// Ends everything when the last handle goes.
struct Owner(Arc<Shared>, Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.closing.store(true, Ordering::SeqCst);
        self.0.stop.store(true, Ordering::SeqCst);
        for node in self.0.nodes.values() {
            node.lock().unwrap_or_else(PoisonError::into_inner).end();
        }
        for thread in self.1.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = thread.join();
        }
    }
}

impl Cluster {
    /// Starts the object server if the plan wants it, the coordinators of the beginning and the workers.
    ///
    /// # Errors
    /// If a process cannot be started.
    pub fn start(env: Arc<Env>, world: World, setup: &Setup<'_>) -> Result<Self> {
        let mut nodes = BTreeMap::new();
        for place in env.places().iter().filter(|place| place.role != Role::Client) {
            let node = Node::new(&env, place, setup)?;
            nodes.insert(place.name.clone(), Mutex::new(node));
        }
        let shared = Arc::new(Shared {
            env,
            world,
            nodes,
            status: Mutex::default(),
            stop: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        });
        let threads = Arc::new(Mutex::new(Vec::new()));
        let cluster = Self {
            owner: Arc::new(Owner(Arc::clone(&shared), Arc::clone(&threads))),
            shared,
            threads,
        };
        let swarm = &setup.plan.swarm;
        if swarm.storage == SnapshotStorage::S3 {
            cluster.start_node(OBJECTS, Start::default())?;
        }
        let places: Vec<Place> = cluster.env().places().to_vec();
        for place in &places {
            let begins = match place.role {
                Role::Coordinator => place.number <= swarm.voters,
                Role::Worker => true,
                Role::Objects | Role::Client => false,
            };
            if begins {
                let extra = setup
                    .plan
                    .first_start
                    .get(&place.name)
                    .cloned()
                    .unwrap_or_default();
                cluster.start_node(
                    &place.name,
                    Start {
                        extra,
                        ..Start::default()
                    },
                )?;
            }
        }
        cluster.watch()?;
        if let Some(Net::Relays(_)) = cluster.env().net() {
            cluster.go_through_relays(swarm.workers as usize, swarm.voters)?;
        }
        Ok(cluster)
    }

    /// The cluster is formed; its coordinators start again, one after the other, with relays between them.
    fn go_through_relays(&self, workers: usize, voters: u32) -> Result<()> {
        self.wait_ready(workers, FORMED)?;
        let places = self.env().places().iter();
        for place in places.filter(|p| p.role == Role::Coordinator && p.number <= voters) {
            self.kill(&place.name)?;
            self.node(&place.name)?.use_relays(self.env())?;
            self.start_node(&place.name, Start::default())?;
            self.wait_ready(workers, FORMED)?;
        }
        Ok(())
    }

    fn watch(&self) -> Result<()> {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        threads.extend(watch::start(&self.shared)?);
        Ok(())
    }

    /// The places of the nodes.
    #[must_use]
    pub fn env(&self) -> &Env {
        &self.shared.env
    }

    /// The world that events go to.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.shared.world
    }

    pub(crate) fn node(&self, name: &str) -> Result<MutexGuard<'_, Node>> {
        let node = self
            .shared
            .nodes
            .get(name)
            .with_context(|| format!("there is no process {name}"))?;
        Ok(node.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a process.
    ///
    /// # Errors
    /// If it runs already or cannot be started.
    pub fn start_node(&self, name: &str, start: Start) -> Result<()> {
        self.node(name)?
            .start(&self.shared.env, &self.shared.world, start)
    }

    /// The id that a coordinator has now.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn member_id(&self, name: &str) -> Result<u32> {
        Ok(self.node(name)?.id())
    }

    /// Gives a coordinator that is down an empty disk and a new id, and answers the id.
    ///
    /// # Errors
    /// If it runs, or its directory cannot be emptied.
    pub fn renew(&self, name: &str) -> Result<u32> {
        let mut ids = config::Ids::new();
        for place in self.env().places().iter().filter(|p| p.role == Role::Coordinator) {
            ids.insert(place.name.clone(), self.member_id(&place.name)?);
        }
        self.node(name)?.renew(&self.shared.env, &self.shared.world, ids)
    }

    /// Whether a process runs.
    #[must_use]
    pub fn runs(&self, name: &str) -> bool {
        self.node(name).is_ok_and(|mut node| node.runs())
    }

    /// Its pid.
    #[must_use]
    pub fn pid(&self, name: &str) -> Option<u32> {
        self.node(name).ok()?.pid()
    }

    /// Kills a process and waits until it is gone. It stays down until it is started.
    ///
    /// # Errors
    /// If it does not go.
    pub fn kill(&self, name: &str) -> Result<()> {
        self.node(name)?.kill(&self.shared.world)
    }

    /// Sends a signal to a running process.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, name: &str, signal: Signal) -> Result<()> {
        self.node(name)?.signal(signal)
    }

    /// The end of a process is expected from now on: it stays down and is no finding.
    ///
    /// # Errors
    /// If there is no such process.
    pub fn expect_exit(&self, name: &str, expected: bool) -> Result<()> {
        self.node(name)?.expect_exit(expected);
        Ok(())
    }

    /// Waits until a process has ended by itself.
    ///
    /// # Errors
    /// If it has not in time.
    pub fn wait_exit(&self, name: &str, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while self.runs(name) {
            if Instant::now() > end {
                bail!("{name} has not ended within {deadline:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// What the coordinators said of themselves lately, within `age`.
    #[must_use]
    pub fn statuses(&self, age: Duration) -> BTreeMap<String, Status> {
        let since = self.world().now().saturating_sub(age.as_nanos() as u64);
        let status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = status.iter().filter(|(_, s)| s.at >= since);
        fresh.map(|(name, s)| (name.clone(), s.clone())).collect()
    }

    /// The coordinator that leads by its own word, at the highest term.
    #[must_use]
    pub fn leader(&self) -> Option<String> {
        let statuses = self.statuses(Duration::from_secs(1));
        let leading = statuses
            .iter()
            .filter(|(name, s)| s.role == "leader" && self.runs(name));
        leading.max_by_key(|(_, s)| s.term).map(|(name, _)| name.clone())
    }

    /// The highest term that was ever heard.
    #[must_use]
    pub fn term(&self) -> u64 {
        let status = self.shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.values().map(|s| s.term).max().unwrap_or(0)
    }

    /// Coordinators that run, by name.
    #[must_use]
    pub fn coordinators(&self) -> Vec<String> {
        self.running(Role::Coordinator)
    }

    /// Workers that run, by name.
    #[must_use]
    pub fn workers(&self) -> Vec<String> {
        self.running(Role::Worker)
    }

    fn running(&self, role: Role) -> Vec<String> {
        let places = self.env().places().iter().filter(|place| place.role == role);
        places
            .filter(|place| self.runs(&place.name))
            .map(|place| place.name.clone())
            .collect()
    }

    /// Asks a coordinator over REST from inside its own namespace.
    ///
    /// # Errors
    /// If there is no answer in time.
    pub fn rest(&self, name: &str, method: &str, path: &str, deadline: Duration) -> Result<(u16, String)> {
        let address: SocketAddr = self.env().place(name)?.rest;
        self.env()
            .inside(name, || http::request(address, method, path, deadline))?
    }

    /// The same, for an answer of 2xx in JSON, of whichever coordinator gives one.
    ///
    /// # Errors
    /// If none does: what each said.
    pub fn ask(&self, path: &str, deadline: Duration) -> Result<Value> {
        let mut said = Vec::new();
        for name in self.coordinators() {
            match self.rest(&name, "GET", path, deadline) {
                Ok((200..300, body)) => return Ok(serde_json::from_str(&body)?),
                Ok((status, body)) => said.push(format!("{name}: {status} {body}")),
                Err(error) => said.push(format!("{name}: {error:#}")),
            }
        }
        bail!("{path}: {}", said.join("; "))
    }

    /// A line to the object server, which answers with one.
    ///
    /// # Errors
    /// If it does not run.
    pub fn tell_objects(&self, line: &str) -> Result<()> {
        self.node(OBJECTS)?.tell(line)
    }

    /// Waits until there is a leader whose workers are all attached.
    ///
    /// # Errors
    /// If that does not come in time: what was missing.
    pub fn wait_ready(&self, workers: usize, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        loop {
            let missing = match self.ready(workers) {
                Ok(()) => return Ok(()),
                Err(missing) => missing,
            };
            if Instant::now() > end {
                return Err(missing.context(format!("the cluster is not ready within {deadline:?}")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn ready(&self, workers: usize) -> Result<()> {
        let leader = self.leader().context("nobody leads")?;
        let (status, body) = self.rest(&leader, "GET", "/v1/cluster", Duration::from_millis(500))?;
        let view: Value = serde_json::from_str(&body).with_context(|| format!("{status} {body}"))?;
        let all = view["workers"].as_array().cloned().unwrap_or_default();
        let mut pids: Vec<u64> = self
            .workers()
            .iter()
            .filter_map(|name| self.pid(name))
            .map(u64::from)
            .collect();
        pids.retain(|pid| {
            !all.iter()
                .any(|w| w["pid"].as_u64() == Some(*pid) && w["attached"].as_bool() == Some(true))
        });
        if !pids.is_empty() || all.len() < workers {
            bail!(
                "{} workers of {workers}, not attached: {pids:?}: {}",
                all.len(),
                view["workers"]
            );
        }
        Ok(())
    }

    /// From now on nothing is started again: the run is over.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
    }

    /// Ends every process in order, workers first, then kills what is left. Answers what did not end by itself.
    #[must_use]
    pub fn stop(&self, deadline: Duration) -> Vec<String> {
        self.close();
        let names: Vec<String> = self.shared.nodes.keys().rev().cloned().collect();
        for name in &names {
            let _ = self.expect_exit(name, true);
            let _ = self.signal(name, Signal::SIGTERM);
        }
        let end = Instant::now() + deadline;
        let mut stubborn = Vec::new();
        for name in names.iter().filter(|name| *name != OBJECTS) {
            if self
                .wait_exit(name, end.saturating_duration_since(Instant::now()))
                .is_err()
            {
                stubborn.push(name.clone());
            }
            let _ = self.kill(name);
        }
        let _ = self.kill(OBJECTS);
        stubborn
    }

    /// How many handles there are; the last one ends the processes.
    #[must_use]
    pub fn handles(&self) -> usize {
        Arc::strong_count(&self.owner)
    }

    /// Logs by node.
    #[must_use]
    pub fn logs(&self) -> Vec<(String, Role, PathBuf)> {
        let all = self.shared.nodes.iter();
        all.map(|(name, node)| {
            let node = node.lock().unwrap_or_else(PoisonError::into_inner);
            (name.clone(), node.role(), node.log().to_owned())
        })
        .collect()
    }
}
