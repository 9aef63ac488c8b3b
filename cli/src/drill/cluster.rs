//! The cluster that is hurt: one of the drill's own, or one that `up` started. Says who is who, and whether all is well.

use super::relay::Net;
use crate::args::{DrillArgs, UpArgs};
use crate::client::{Call, Client, Outcome, Safety, target};
use crate::commands::submit_file;
use crate::config_file;
use crate::exit::Failure;
use crate::files::{ClusterFile, PidStamp, ProcessEntry, cluster_path, read_json};
use crate::pids;
use crate::random::SystemRandom;
use crate::up::local::{self, ChildSpec, Local};
use anyhow::Context;
use holdfast_common::clock::Random;
use holdfast_common::config::{Configuration, options};
use holdfast_coordinator::api::view::checkpoints::Checkpoints;
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use holdfast_coordinator::api::view::jobs::JobDetails;
use hyper::Method;
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Patience with one coordinator's answer about the cluster.
const ANSWER: Duration = Duration::from_millis(500);
/// Workers and their slots of an own cluster: one worker's loss leaves room for the job.
const WORKERS: u32 = 3;
const SLOTS: u32 = 2;

/// A cluster under drill.
pub struct Cluster {
    /// Its directory.
    pub dir: PathBuf,
    /// Settings that all processes share, as far as they are known.
    pub settings: Configuration,
    /// Where clients reach the coordinators' RPC.
    pub rpc: Vec<String>,
    /// The links, if they can be cut.
    pub net: Option<Net>,
    rest: Vec<String>,
    client: Client,
    own: Option<(Local, PathBuf)>,
}

/// A process's name among links: `c1`, `w2`.
#[must_use]
pub fn place(entry: &ProcessEntry) -> String {
    format!("{}{}", entry.role.chars().next().unwrap_or('x'), entry.id)
}

impl Cluster {
    /// Starts a cluster of the drill's own, below a fresh directory.
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn own(args: &DrillArgs, relays: bool) -> Result<Self, Failure> {
        let settings = config_file::load(args.config.as_deref(), &args.set)?;
        let scratch = args.scratch.clone().unwrap_or_else(std::env::temp_dir);
        let home = scratch.join(format!("holdfast-drill-{:016x}", SystemRandom.next_u64()));
        let up = UpArgs {
            coordinators: Some(3),
            workers: Some(WORKERS),
            slots: Some(SLOTS),
            dir: home.join("cluster"),
            jobs: Vec::new(),
            detach: false,
            config: None,
            no_restart: false,
        };
        let mut net = None;
        if relays {
            // Coordinators form a cluster only if all are told the same addresses; afterwards each one's own
            // configuration goes.
            let (formed, _) = local::prepare(&up, &settings)?.start().await?;
            formed.stop().await;
        }
        let mut prepared = local::prepare(&up, &settings)?;
        if relays {
            net = Some(through_relays(&mut prepared.specs).await?);
        }
        let dir = prepared.dir.clone();
        let addresses = |of: fn(&ProcessEntry) -> Option<&String>| -> Vec<(String, String)> {
            let entries = prepared.specs.iter().map(|s| &s.entry);
            entries.filter_map(|e| Some((place(e), of(e)?.clone()))).collect()
        };
        let rest: Vec<String> = addresses(|e| e.rest.as_ref())
            .into_iter()
            .map(|(_, a)| a)
            .collect();
        // A client that is cut off together with the leader would measure the cut, not the cluster.
        let rpc = addresses(|e| e.rpc.as_ref())
            .into_iter()
            .map(|(to, address)| match &net {
                Some(net) => net.address("client", &to).unwrap_or(&address).to_owned(),
                None => address,
            })
            .collect();
        let (running, _) = prepared.start().await?;
        Ok(Self {
            dir,
            settings,
            rpc,
            net,
            client: Client::new(rest.clone()),
            rest,
            own: Some((running, home)),
        })
    }

    /// A cluster that `up` started.
    ///
    /// # Errors
    /// If none runs there.
    pub fn of_directory(dir: &Path) -> Result<Self, Failure> {
        let dir = std::fs::canonicalize(dir)
            .map_err(|e| Failure::usage(format!("cannot use {}: {e}", dir.display())))?;
        let rest = target::of_directory(&dir)?;
        let file: ClusterFile = read_json(&cluster_path(&dir))?.unwrap_or_default();
        let base = dir.join("conf").join("base.yaml");
        let settings = if base.exists() {
            config_file::load_file(&base)?
        } else {
            Configuration::new()
        };
        Ok(Self {
            dir,
            settings,
            rpc: file.processes.into_iter().filter_map(|p| p.rpc).collect(),
            net: None,
            client: Client::new(rest.clone()),
            rest,
            own: None,
        })
    }

    /// Where the drill keeps what the job writes.
    #[must_use]
    pub fn out(&self) -> PathBuf {
        match &self.own {
            Some((_, home)) => home.join("out"),
            None => std::env::temp_dir().join(format!("holdfast-drill-{:016x}", SystemRandom.next_u64())),
        }
    }

    /// Its processes now.
    ///
    /// # Errors
    /// If `cluster.json` cannot be read.
    pub fn processes(&self) -> Result<Vec<ProcessEntry>, Failure> {
        let file: Option<ClusterFile> = read_json(&cluster_path(&self.dir))?;
        Ok(file.unwrap_or_default().processes)
    }

    /// The cluster as its leader sees it; an older leader that does not know better is not believed.
    pub async fn view(&self) -> Option<ClusterInfo> {
        let mut newest: Option<ClusterInfo> = None;
        for address in &self.rest {
            let Some(info) = self.ask::<ClusterInfo>(address, "/v1/cluster").await else {
                continue;
            };
            let leads = info.leader == Some(info.answered_by);
            if leads && newest.as_ref().is_none_or(|n| n.term < info.term) {
                newest = Some(info);
            }
        }
        newest
    }

    async fn ask<T: DeserializeOwned>(&self, address: &str, path: &str) -> Option<T> {
        match self.client.ask(address, &Call::get(path), ANSWER).await {
            Outcome::Answer { status, body, .. } if status.is_success() => serde_json::from_slice(&body).ok(),
            _ => None,
        }
    }

    /// Whether every process is well: all coordinators follow one leader, all workers are attached to it.
    ///
    /// # Errors
    /// What is missing.
    pub async fn whole(&self) -> Result<ClusterInfo, String> {
        let processes = self.processes().map_err(|f| f.message)?;
        let leader = self.view().await.ok_or("there is no leader")?;
        for process in &processes {
            let name = format!("{} {}", process.role, process.id);
            if process.pid == 0 {
                return Err(format!("{name} does not run"));
            }
            if let Some(rest) = &process.rest {
                let info = self.ask::<ClusterInfo>(rest, "/v1/cluster").await;
                let info = info.ok_or_else(|| format!("{name} does not answer"))?;
                if (info.leader, info.term) != (leader.leader, leader.term) {
                    return Err(format!("{name} does not follow the leader"));
                }
                let health = self.client.ask(rest, &Call::get("/health"), ANSWER).await;
                if !matches!(health, Outcome::Answer { status, .. } if status.is_success()) {
                    return Err(format!("{name} is not well: {health}"));
                }
            }
            if let Some(resource) = &process.resource_id {
                let worker = leader.workers.iter().find(|w| w.resource_id == *resource);
                let attached = worker.filter(|w| w.pid == process.pid && w.attached == Some(true));
                attached.ok_or_else(|| format!("{name} is not attached"))?;
            }
        }
        Ok(leader)
    }

    /// The job.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn job(&self, id: &str) -> Result<JobDetails, Failure> {
        Ok(self.client.read(&Call::get(format!("/v1/jobs/{id}"))).await?)
    }

    /// The job's checkpoints.
    ///
    /// # Errors
    /// If nobody answers.
    pub async fn checkpoints(&self, id: &str) -> Result<Checkpoints, Failure> {
        let call = Call::get(format!("/v1/jobs/{id}/checkpoints"));
        Ok(self.client.read(&call).await?)
    }

    /// Submits the job.
    ///
    /// # Errors
    /// If it is refused.
    pub async fn submit(&self, sql: &str) -> Result<String, Failure> {
        let job = submit_file(&self.client, Path::new("the drill's job"), sql, "", None).await?;
        Ok(job.id)
    }

    /// Cancels the job, if the cluster can.
    pub async fn cancel(&self, id: &str) {
        let call = Call::new(Method::PATCH, format!("/v1/jobs/{id}"), Safety::Repeatable);
        if let Err(error) = self.client.call(&call).await {
            eprintln!("the drill's job {id} could not be cancelled: {error}");
        }
    }

    /// The process of a coordinator.
    ///
    /// # Errors
    /// If it is not listed or does not run.
    pub fn coordinator(&self, id: u64) -> Result<ProcessEntry, Failure> {
        self.process(
            |p| p.role == "coordinator" && p.id == id,
            &format!("coordinator {id}"),
        )
    }

    /// The process of a worker.
    ///
    /// # Errors
    /// If it is not listed or does not run.
    pub fn worker(&self, resource: &str) -> Result<ProcessEntry, Failure> {
        self.process(|p| p.resource_id.as_deref() == Some(resource), resource)
    }

    fn process(&self, chosen: impl Fn(&ProcessEntry) -> bool, name: &str) -> Result<ProcessEntry, Failure> {
        let mut processes = self.processes()?.into_iter();
        processes
            .find(|p| chosen(p) && p.pid != 0)
            .ok_or_else(|| Failure::error(format!("{name} does not run")))
    }

    /// The process that cannot be mistaken for a later one.
    #[must_use]
    pub fn stamp(entry: &ProcessEntry) -> PidStamp {
        pids::stamp(entry.pid)
    }

    /// The directory of snapshot storage, of an own cluster.
    #[must_use]
    pub fn storage(&self) -> Option<PathBuf> {
        let url = self
            .settings
            .get_optional(&options::CHECKPOINT_DIR)
            .ok()
            .flatten();
        match url {
            None => Some(self.dir.join("checkpoints")),
            Some(url) => url.strip_prefix("file://").map(PathBuf::from),
        }
    }

    /// Stops an own cluster; its files are removed unless they may explain something.
    pub async fn stop(self, keep: bool) {
        let Some((running, home)) = self.own else { return };
        running.stop().await;
        if keep {
            eprintln!("the cluster's files and logs are kept in {}", home.display());
        } else if let Err(error) = std::fs::remove_dir_all(&home) {
            eprintln!("cannot remove {}: {error}", home.display());
        }
    }
}

/// Gives every process its own way to every coordinator.
async fn through_relays(specs: &mut [ChildSpec]) -> Result<Net, Failure> {
    let mut net = Net::default();
    let coordinators: Vec<(String, u64, String)> = specs
        .iter()
        .filter_map(|s| Some((place(&s.entry), s.entry.id, s.entry.rpc.clone()?)))
        .collect();
    for (to, _, address) in &coordinators {
        net.link("client", to, address.clone()).await?;
    }
    for spec in specs.iter_mut() {
        let from = place(&spec.entry);
        let mut peers = Vec::new();
        for (to, id, address) in &coordinators {
            let seen = if *to == from {
                address.clone()
            } else {
                net.link(&from, to, address.clone()).await?
            };
            peers.push(format!("{id}@{seen}"));
        }
        spec.config
            .set(options::RAFT_PEERS.info.key, &peers.join(","))
            .context("the relays' addresses are refused")?;
    }
    Ok(net)
}
