//! Keeps the processes of a local cluster alive, and `cluster.json` true. Executes what [`super::policy`] decides.

use super::layout::ChildSpec;
use super::logs;
use super::policy::{Death, Decision, History, stop_order};
use crate::client::{Call, Client};
use crate::exit::Failure;
use crate::files::{ClusterFile, PidStamp, SupervisorFile, cluster_path, supervisor_path, write_json};
use crate::news::News;
use crate::pids;
use anyhow::{Context, Result};
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;

/// Patience with a process that was told to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
/// How often log files are measured.
const ROTATE_EVERY: Duration = Duration::from_secs(5);
/// Lines of a log that are shown when its process is given up.
const TAIL_LINES: usize = 12;
/// Lines of news that wait for whoever shows them; the oldest are passed over.
const NEWS_MAX: usize = 64;

enum Event {
    Died { index: usize, pid: u32, death: Death },
    Respawn { index: usize },
}

struct Child {
    spec: ChildSpec,
    running: Option<(PidStamp, Instant)>,
    history: History,
}

/// The task that watches the children.
struct Supervisor {
    dir: PathBuf,
    binary: PathBuf,
    children: Vec<Child>,
    restarts: bool,
    log_bytes_max: u64,
    events: mpsc::UnboundedSender<Event>,
    given_up: watch::Sender<Vec<String>>,
    news: broadcast::Sender<String>,
}

/// A supervised cluster. Dropped without [`Self::stop`], its processes go on.
pub struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    given_up: watch::Receiver<Vec<String>>,
    news: News,
}

impl Running {
    /// Starts every process.
    ///
    /// # Errors
    /// If one cannot be started at all; those that were are stopped.
    pub async fn start(
        dir: &Path,
        specs: Vec<ChildSpec>,
        restarts: bool,
        log_bytes_max: u64,
    ) -> Result<Self, Failure> {
        let (events, inbox) = mpsc::unbounded_channel();
        let (given_up, given_up_reader) = watch::channel(Vec::new());
        let (news, news_reader) = broadcast::channel(NEWS_MAX);
        let (stop, stop_reader) = watch::channel(false);
        let children = specs.into_iter().map(|spec| Child {
            spec,
            running: None,
            history: History::default(),
        });
        let mut supervisor = Supervisor {
            dir: dir.to_owned(),
            binary: std::env::current_exe().context("cannot find this program's own file")?,
            children: children.collect(),
            restarts,
            log_bytes_max,
            events,
            given_up,
            news,
        };
        for index in 0..supervisor.children.len() {
            // Told after each one: should this process be killed now, the next start finds and stops those that run.
            if let Err(error) = supervisor.spawn(index).and_then(|()| supervisor.publish()) {
                supervisor.stop_all().await;
                return Err(error.into());
            }
        }
        let task = tokio::spawn(supervisor.watch(inbox, stop_reader));
        Ok(Self {
            stop,
            task,
            given_up: given_up_reader,
            news: news_reader,
        })
    }

    /// A line for every process that died and for every one that runs again, from now on.
    #[must_use]
    pub fn news(&self) -> News {
        self.news.resubscribe()
    }

    /// Why processes were given up; grows.
    #[must_use]
    pub fn given_up(&self) -> watch::Receiver<Vec<String>> {
        self.given_up.clone()
    }

    /// Stops every process in order, and waits.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        let _ = self.task.await;
    }
}

impl Supervisor {
    async fn watch(mut self, mut inbox: mpsc::UnboundedReceiver<Event>, mut stop: watch::Receiver<bool>) {
        let mut rotate = tokio::time::interval(ROTATE_EVERY);
        rotate.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = inbox.recv() => match event {
                    Event::Died { index, pid, death } => self.died(index, pid, death),
                    Event::Respawn { index } => self.respawn(index),
                },
                _ = rotate.tick() => self.rotate(),
                _ = stop.wait_for(|stop| *stop) => break,
            }
        }
        self.stop_all().await;
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let Some(child) = self.children.get_mut(index) else {
            return Ok(());
        };
        let entry = &child.spec.entry;
        let log = File::options()
            .create(true)
            .append(true)
            .open(&entry.log)
            .with_context(|| format!("cannot open log file {}", entry.log))?;
        let mut process = Command::new(&self.binary)
            .arg(&entry.role)
            .arg("--config")
            .arg(&child.spec.config_file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the log file")?)
            .stderr(log)
            // Ctrl-C on the terminal reaches the supervisor alone, which stops all in order.
            .process_group(0)
            .kill_on_drop(false)
            .spawn()
            .with_context(|| format!("cannot start {} {}", entry.role, entry.id))?;
        let pid = process.id().context("the process has ended before it began")?;
        child.running = Some((pids::stamp(pid), Instant::now()));
        tracing::info!(role = entry.role, id = entry.id, pid, "started");
        let events = self.events.clone();
        tokio::spawn(async move {
            let death = match process.wait().await {
                Ok(status) => Death::of(status),
                Err(_) => Death::Signal(0),
            };
            let _ = events.send(Event::Died { index, pid, death });
        });
        Ok(())
    }

    fn died(&mut self, index: usize, pid: u32, death: Death) {
        let restarts = self.restarts;
        let Some(child) = self.children.get_mut(index) else {
            return;
        };
        let Some((_, since)) = child.running.take_if(|(stamp, _)| stamp.pid == pid) else {
            return;
        };
        let entry = &child.spec.entry;
        let (history, decision) = child.history.decide(death, since.elapsed(), restarts);
        child.history = history;
        tracing::warn!(role = entry.role, id = entry.id, pid, %death, ?decision, "a process has died");
        if let Some(news) = news_of_death(&entry.role, entry.id, pid, death, decision) {
            // Nobody may be looking.
            let _ = self.news.send(news);
        }
        match decision {
            Decision::Restart(pause) => {
                let events = self.events.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(pause).await;
                    let _ = events.send(Event::Respawn { index });
                });
            }
            Decision::GiveUp => {
                let reason = format!(
                    "{} {} cannot run ({death}, five times in a row); the end of {}:\n{}",
                    entry.role,
                    entry.id,
                    entry.log,
                    logs::tail(Path::new(&entry.log), TAIL_LINES)
                );
                self.given_up.send_modify(|reasons| reasons.push(reason));
            }
            Decision::Leave | Decision::Removed => {}
        }
        self.publish_or_warn();
    }

    fn respawn(&mut self, index: usize) {
        if let Err(error) = self.spawn(index) {
            tracing::error!("{error:#}");
            // No file handles, no memory: later perhaps.
            let events = self.events.clone();
            tokio::spawn(async move {
                tokio::time::sleep(STOP_PATIENCE).await;
                let _ = events.send(Event::Respawn { index });
            });
        } else if let Some(child) = self.children.get(index)
            && let Some((stamp, _)) = child.running
        {
            let entry = &child.spec.entry;
            let news = format!(
                "{} {} was started again as pid {}",
                entry.role, entry.id, stamp.pid
            );
            let _ = self.news.send(news);
        }
        self.publish_or_warn();
    }

    fn rotate(&self) {
        for child in &self.children {
            if let Err(error) = logs::rotate(Path::new(&child.spec.entry.log), self.log_bytes_max) {
                tracing::warn!(log = child.spec.entry.log, %error, "a log file could not be rotated");
            }
        }
    }

    fn publish_or_warn(&self) {
        if let Err(error) = self.publish() {
            tracing::error!("{error:#}");
        }
    }

    fn publish(&self) -> Result<()> {
        let processes = self.children.iter().map(|child| {
            let mut entry = child.spec.entry.clone();
            entry.pid = child.running.map_or(0, |(stamp, _)| stamp.pid);
            entry
        });
        write_json(
            &cluster_path(&self.dir),
            &ClusterFile {
                processes: processes.collect(),
            },
        )?;
        let children = self.children.iter().filter_map(|child| {
            let (stamp, _) = child.running?;
            Some((child.spec.entry.role.clone(), stamp))
        });
        let file = SupervisorFile {
            supervisor: pids::stamp(std::process::id()),
            children: children.collect(),
        };
        write_json(&supervisor_path(&self.dir), &file)
    }

    /// Workers, then followers, then the leader.
    async fn stop_all(&mut self) {
        let rest: Vec<String> = self
            .children
            .iter()
            .filter_map(|c| c.spec.entry.rest.clone())
            .collect();
        let leader = leader(rest).await;
        let processes: Vec<(&str, u64)> = self
            .children
            .iter()
            .map(|c| (c.spec.entry.role.as_str(), c.spec.entry.id))
            .collect();
        for stage in stop_order(&processes, leader) {
            let stamps: Vec<PidStamp> = stage
                .iter()
                .filter_map(|i| self.children.get(*i)?.running)
                .map(|(stamp, _)| stamp)
                .collect();
            pids::stop(&stamps, STOP_PATIENCE).await;
        }
        let nothing = write_json(&cluster_path(&self.dir), &ClusterFile::default())
            .and_then(|()| write_json(&supervisor_path(&self.dir), &SupervisorFile::default()));
        if let Err(error) = nothing {
            tracing::error!("{error:#}");
        }
    }
}

/// What people are told of a death; of one that is given up they are told more, with the end of its log.
fn news_of_death(role: &str, id: u64, pid: u32, death: Death, decision: Decision) -> Option<String> {
    let what = match decision {
        Decision::Restart(_) => format!("has died ({death})"),
        Decision::Leave => format!("has died ({death}) and is not started again: --no-restart"),
        Decision::Removed => "was removed from the cluster and has ended; it is not started again".to_owned(),
        Decision::GiveUp => return None,
    };
    Some(format!("{role} {id} (pid {pid}) {what}"))
}

/// The leader, if it says so quickly.
async fn leader(rest: Vec<String>) -> Option<u64> {
    let call = Call::get("/v1/cluster").deadline(Duration::from_millis(500));
    Client::new(rest).read::<ClusterInfo>(&call).await.ok()?.leader
}
