//! A cluster of real processes: started by `holdfast up`, hurt by signals, looked at through REST.
//!
//! One cluster at a time on a machine: suites measure times, and two clusters on two cores would measure each other.

mod faults;
mod lock;
mod report;

pub use faults::CommandLine;
pub use lock::OnlyOne;

use crate::binary;
use crate::process::{ClusterFile, Process};
use crate::rest::{Call, Rest};
use crate::wait::{self, LATER, SOON};
use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// What cluster to start.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of coordinators.
    pub coordinators: u32,
    /// Number of workers.
    pub workers: u32,
    /// Slots of each worker.
    pub slots: u32,
    /// Lines of the configuration file.
    pub config: Vec<(String, String)>,
    /// Whether `up` starts a dead child again.
    pub restart: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            coordinators: 3,
            workers: 3,
            slots: 2,
            config: Vec::new(),
            restart: true,
        }
    }
}

impl Options {
    /// With a line of configuration.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.config.push((key.to_owned(), value.to_owned()));
        self
    }

    /// `up --no-restart`.
    #[must_use]
    pub fn no_restart(mut self) -> Self {
        self.restart = false;
        self
    }
}

/// A running cluster. Dropping it kills every process of it; its directory is removed unless the test panicked.
pub struct Cluster {
    name: String,
    options: Options,
    home: Option<TempDir>,
    supervisor: Option<Child>,
    by_hand: Vec<(String, Child)>,
    rest: Rest,
    _only_one: OnlyOne,
}

/// Runs a test against a cluster of its own. A failing test prints the tail of every log and keeps the directory.
///
/// # Panics
/// If the cluster does not start or the test fails.
#[track_caller]
pub fn with_cluster(name: &str, options: Options, test: impl FnOnce(&mut Cluster) -> Result<()>) {
    match Cluster::start(name, options) {
        Ok(mut cluster) => {
            if let Err(error) = test(&mut cluster) {
                // The cluster is dropped while unwinding, which prints the logs.
                panic!("{name}: {error:?}");
            }
        }
        Err(error) => panic!("{name}: {error:?}"),
    }
}

impl Cluster {
    /// Starts a cluster and waits until it has a leader and all its workers.
    ///
    /// # Errors
    /// If it does not come up; prints its logs.
    pub fn start(name: &str, options: Options) -> Result<Self> {
        Self::start_in(&std::env::temp_dir(), name, options)
    }

    /// As [`Self::start`], with its files below `dir`: chooses the disk.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_in(dir: &Path, name: &str, options: Options) -> Result<Self> {
        let mut cluster = Self::prepare(dir, name, options)?;
        cluster.up().inspect_err(|_| cluster.keep_and_report())?;
        Ok(cluster)
    }

    /// The directory and the lock of a cluster that is not started yet.
    ///
    /// # Errors
    /// If there is no binary, or another cluster holds the machine for too long.
    pub fn prepare(dir: &Path, name: &str, options: Options) -> Result<Self> {
        binary::holdfast()?;
        let only_one = OnlyOne::acquire()?;
        let home = tempfile::Builder::new()
            .prefix(&format!("holdfast-{name}-"))
            .tempdir_in(dir)?;
        let text: String = options
            .config
            .iter()
            .map(|(key, value)| format!("{key}: \"{value}\"\n"))
            .collect();
        std::fs::write(home.path().join("holdfast.yaml"), text)?;
        std::fs::create_dir(home.path().join("out"))?;
        Ok(Self {
            name: name.to_owned(),
            options,
            home: Some(home),
            supervisor: None,
            by_hand: Vec::new(),
            rest: Rest::new()?,
            _only_one: only_one,
        })
    }

    /// `holdfast up` on the cluster's directory, as a child that the harness owns; waits until all is healthy.
    ///
    /// # Errors
    /// If it does not become healthy in time.
    pub fn up(&mut self) -> Result<()> {
        self.up_without_waiting()?;
        self.wait_healthy()
    }

    /// `holdfast up` without waiting for anything.
    ///
    /// # Errors
    /// If it cannot be started or still runs.
    pub fn up_without_waiting(&mut self) -> Result<()> {
        ensure!(self.supervisor.is_none(), "`up` runs already");
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home().join("up.log"))?;
        let mut command = Command::new(binary::holdfast()?);
        command
            .args(["up", "--coordinators", &self.options.coordinators.to_string()])
            .args(["--workers", &self.options.workers.to_string()])
            .args(["--slots", &self.options.slots.to_string()])
            .arg("--dir")
            .arg(self.dir())
            .current_dir(self.home())
            .env_remove("HOLDFAST_REST")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log);
        if !self.options.config.is_empty() {
            command.arg("--config").arg(self.home().join("holdfast.yaml"));
        }
        if !self.options.restart {
            command.arg("--no-restart");
        }
        self.supervisor = Some(command.spawn().context("cannot start `holdfast up`")?);
        Ok(())
    }

    /// Waits for a leader, all coordinators and all workers.
    ///
    /// # Errors
    /// If they do not come in time, or `up` has ended.
    pub fn wait_healthy(&mut self) -> Result<()> {
        let (coordinators, workers) = (self.options.coordinators as usize, self.options.workers as usize);
        wait::until_true("a healthy cluster", LATER, || {
            if let Some(status) = self
                .supervisor
                .as_mut()
                .map(Child::try_wait)
                .transpose()?
                .flatten()
            {
                bail!("`up` has ended: {status}");
            }
            let file = self.file()?;
            ensure!(
                file.role("coordinator").len() >= coordinators,
                "cluster.json lists too few coordinators"
            );
            self.refresh_addresses()?;
            let view = self.rest.get("/v1/cluster", Duration::from_secs(2))?;
            ensure!(view["leader"].as_u64().is_some(), "no leader: {view}");
            // By pid: after a restart of everything the log still lists the workers of before.
            let attached = attached_pids(&view);
            let expected: Vec<i32> = file.role("worker").iter().map(|p| p.pid).collect();
            ensure!(
                expected.len() >= workers,
                "cluster.json lists {} of {workers} workers",
                expected.len()
            );
            ensure!(
                expected.iter().all(|pid| attached.contains(pid)),
                "attached are {attached:?} of {expected:?}"
            );
            for address in self.rest.addresses() {
                self.rest
                    .call_at(&address, &Call::get("/health"), Duration::from_secs(2))?
                    .ok()?;
            }
            Ok(true)
        })
    }

    /// The temporary directory that holds everything of this cluster.
    #[must_use]
    pub fn home(&self) -> &Path {
        self.home
            .as_ref()
            .map_or(Path::new("/nonexistent"), TempDir::path)
    }

    /// The cluster's directory (`--dir`).
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        self.home().join("cluster")
    }

    /// A directory for a sink.
    #[must_use]
    pub fn out(&self, name: &str) -> PathBuf {
        self.home().join("out").join(name)
    }

    /// The REST client.
    #[must_use]
    pub fn rest(&self) -> &Rest {
        &self.rest
    }

    /// `cluster.json`.
    ///
    /// # Errors
    /// If it cannot be read for a while (it may be replaced just now).
    pub fn file(&self) -> Result<ClusterFile> {
        let mut result = ClusterFile::read(&self.dir());
        for _ in 0..10 {
            if result.is_ok() {
                break;
            }
            std::thread::sleep(wait::POLL);
            result = ClusterFile::read(&self.dir());
        }
        let mut file = result?;
        for process in &mut file.processes {
            let place = process.place();
            if let Some((_, child)) = self.by_hand.iter().rev().find(|(p, _)| *p == place) {
                process.pid = i32::try_from(child.id())?;
            }
        }
        Ok(file)
    }

    /// Reads the coordinators' REST addresses anew.
    ///
    /// # Errors
    /// If `cluster.json` names none.
    pub fn refresh_addresses(&self) -> Result<()> {
        let addresses: Vec<String> = self.coordinators()?.into_iter().filter_map(|p| p.rest).collect();
        ensure!(!addresses.is_empty(), "cluster.json names no REST address");
        self.rest.set_addresses(addresses);
        Ok(())
    }

    /// The coordinators as `cluster.json` has them now.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn coordinators(&self) -> Result<Vec<Process>> {
        Ok(self.file()?.role("coordinator"))
    }

    /// The workers as `cluster.json` has them now.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn workers(&self) -> Result<Vec<Process>> {
        Ok(self.file()?.role("worker"))
    }

    /// Every file that a worker logs or prints into: those beside its log whose names begin as its log's does.
    ///
    /// # Errors
    /// As [`Self::file`].
    pub fn worker_logs(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for log in self.workers()?.into_iter().filter_map(|p| p.log) {
            let stem = log
                .file_stem()
                .map(|s| s.to_string_lossy().into_owned())
                .unwrap_or_default();
            let beside = log
                .parent()
                .map(std::fs::read_dir)
                .transpose()?
                .into_iter()
                .flatten()
                .flatten();
            let ours = beside.filter(|e| e.file_name().to_string_lossy().starts_with(&stem));
            files.extend(ours.map(|e| e.path()).filter(|p| p.is_file()));
        }
        files.sort();
        files.dedup();
        Ok(files)
    }

    /// `GET /v1/cluster` as the leader answers it: only the leader hears heartbeats.
    ///
    /// # Errors
    /// If there is no leader in time.
    pub fn leader_view(&self) -> Result<Value> {
        wait::until("the leader's view of the cluster", SOON, || {
            let leader = self.leader()?;
            let address = leader
                .rest
                .clone()
                .ok_or_else(|| anyhow!("{} has no REST", leader.name()))?;
            let call = Call::get("/v1/cluster");
            let view = self
                .rest
                .call_at(&address, &call, Duration::from_secs(2))?
                .ok()?
                .json()?;
            Ok((view["leader"] == leader.number()?).then_some(view))
        })
    }

    /// `GET /v1/cluster` of any coordinator.
    ///
    /// # Errors
    /// If no coordinator answers.
    pub fn view(&self) -> Result<Value> {
        self.rest.get("/v1/cluster", SOON)
    }

    /// The leading coordinator, as soon as there is one that is alive.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn leader(&self) -> Result<Process> {
        wait::until("a living leader", SOON, || {
            let view = self.rest.get("/v1/cluster", Duration::from_secs(2))?;
            let Some(leader) = view["leader"].as_u64() else {
                return Ok(None);
            };
            let coordinators = self.coordinators()?;
            let found = coordinators
                .into_iter()
                .find(|p| p.number().is_ok_and(|n| n == leader));
            Ok(found.filter(Process::alive))
        })
    }

    /// The other coordinators.
    ///
    /// # Errors
    /// As [`Self::leader`].
    pub fn followers(&self) -> Result<Vec<Process>> {
        let leader = self.leader()?;
        Ok(self
            .coordinators()?
            .into_iter()
            .filter(|p| !p.same_place(&leader))
            .collect())
    }

    /// Waits until every coordinator of `cluster.json` answers, has applied the log, and all agree on a leader.
    ///
    /// # Errors
    /// If they do not in time.
    pub fn wait_coordinators_agree(&self) -> Result<()> {
        wait::until_true("all coordinators to agree on a leader", SOON, || {
            let mut leaders = Vec::new();
            for process in self.coordinators()? {
                let address = process
                    .rest
                    .clone()
                    .ok_or_else(|| anyhow!("{} has no REST", process.name()))?;
                let call = Call::get("/v1/cluster");
                let view = self
                    .rest
                    .call_at(&address, &call, Duration::from_secs(2))?
                    .ok()?
                    .json()?;
                leaders.push(view["leader"].as_u64());
            }
            ensure!(leaders.windows(2).all(|l| l[0] == l[1]), "they name {leaders:?}");
            Ok(leaders.first().is_some_and(Option::is_some))
        })
    }

    /// Waits until so many workers are attached.
    ///
    /// # Errors
    /// If they are not in time.
    pub fn wait_workers(&self, count: usize) -> Result<()> {
        wait::until_true(format!("{count} attached workers"), SOON, || {
            let view = self.rest.get("/v1/cluster", Duration::from_secs(2))?;
            let attached = view["workers"].as_array().map_or(0, Vec::len);
            ensure!(attached == count, "{attached} are attached: {}", view["workers"]);
            Ok(true)
        })
    }

    /// Runs `holdfast ARGS --dir DIR` against this cluster.
    ///
    /// # Errors
    /// If it does not end within a minute.
    pub fn cli(&self, args: &[&str]) -> Result<binary::Said> {
        let dir = self.dir().to_string_lossy().into_owned();
        let mut all = args.to_vec();
        all.extend(["--dir", &dir]);
        binary::run(self.home(), &all, Duration::from_secs(60))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() && self.home.is_some() {
            self.keep_and_report();
            return;
        }
        if let Err(error) = self.kill_all() {
            println!("==== {}: {error:#}", self.name);
        }
    }
}

/// Pids of the registered workers that `GET /v1/cluster` shows.
#[must_use]
pub fn attached_pids(view: &Value) -> Vec<i32> {
    let workers = view["workers"].as_array().into_iter().flatten();
    workers
        .filter_map(|w| i32::try_from(w["pid"].as_i64()?).ok())
        .collect()
}
