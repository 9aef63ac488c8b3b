//! The simulated cluster: hosts that run the product's own processes, their disks, clocks and settings, and the faults
//! that are done to them.

use super::clients;
use super::determinism::{Dice, EPOCH_MS};
use super::faults::{Fault, Host, Planned};
use super::trace;
use holdfast_common::NodeId;
use holdfast_common::clock::{Clock, Random, SharedClock, SharedRandom};
use holdfast_common::config::{ConfigError, Configuration};
use holdfast_raft::testing;
use holdfast_storage::testing::{Fate, set_faults};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use turmoil::Sim;

const RPC_PORT: u16 = 7101;
const DATA_PORT: u16 = 7201;
/// A process that has ended by itself is started again after this, as a supervisor would.
const RESTART_MS: u64 = 300;

/// What a cluster is made of; drawn from the seed.
#[derive(Debug, Clone)]
pub struct Shape {
    /// Coordinators.
    pub coordinators: u64,
    /// Workers.
    pub workers: u64,
    /// Slots of each.
    pub slots: u64,
    /// Clients of the key-value service.
    pub clients: usize,
    /// Entries between snapshots of the state.
    pub snapshot_after: u64,
}

impl Shape {
    /// The shape of a seed's cluster.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut dice = Dice::new(seed, "shape");
        let (workers, slots) = *dice.choose(&[(2, 2), (3, 1), (2, 2)]);
        Self {
            coordinators: if dice.percent(20) { 5 } else { 3 },
            workers,
            slots,
            clients: 2,
            snapshot_after: *dice.choose(&[60, 200, 8192]),
        }
    }
}

/// Wall-clock time on a host: virtual, and wrong by a constant.
struct HostClock {
    skew_ms: u64,
}

impl Clock for HostClock {
    fn now_ms(&self) -> u64 {
        EPOCH_MS + trace::now_ms() + self.skew_ms
    }
}

struct HostRandom(Mutex<Dice>);

impl Random for HostRandom {
    fn next_u64(&self) -> u64 {
        self.0.lock().roll()
    }
}

/// What a start of a process differs in from the one before.
struct Starts {
    seed: u64,
    name: Host,
    skew_ms: u64,
    count: std::cell::Cell<u64>,
}

impl Starts {
    fn new(seed: u64, name: &str) -> Self {
        let skew_ms = Dice::new(seed, &format!("skew of {name}")).below(400);
        Self {
            seed,
            name: name.to_owned(),
            skew_ms,
            count: std::cell::Cell::new(0),
        }
    }

    fn next(&self) -> (SharedClock, SharedRandom) {
        let count = self.count.get() + 1;
        self.count.set(count);
        let dice = Dice::new(self.seed, &format!("{} start {count}", self.name));
        let clock = HostClock {
            skew_ms: self.skew_ms,
        };
        (Arc::new(clock), Arc::new(HostRandom(Mutex::new(dice))))
    }
}

/// See the module.
pub struct Cluster {
    sim: Sim<'static>,
    dir: PathBuf,
    dice: Dice,
    coordinators: Vec<Host>,
    workers: Vec<Host>,
    everybody: Vec<Host>,
    plan: Vec<Planned>,
    active: Vec<Planned>,
    /// Who is down, and since when it may come back.
    down: BTreeMap<Host, u64>,
    /// Those whose disk was broken since their last start.
    broken: BTreeSet<Host>,
    restarted: Vec<NodeId>,
}

impl Cluster {
    /// Builds the hosts; nothing runs yet.
    ///
    /// # Errors
    /// If a setting is refused.
    pub fn new(
        sim: Sim<'static>,
        seed: u64,
        shape: &Shape,
        dir: &Path,
        shared: &clients::Shared,
    ) -> Result<Self, ConfigError> {
        let names =
            |letter: char, count: u64| (1..=count).map(|n| format!("{letter}{n}")).collect::<Vec<_>>();
        let (coordinators, workers) = (names('c', shape.coordinators), names('w', shape.workers));
        let mut cluster = Self {
            sim,
            dir: dir.to_owned(),
            dice: Dice::new(seed, "cluster"),
            everybody: coordinators.iter().chain(&workers).cloned().collect(),
            coordinators,
            workers,
            plan: Vec::new(),
            active: Vec::new(),
            down: BTreeMap::new(),
            broken: BTreeSet::new(),
            restarted: Vec::new(),
        };
        cluster.add_coordinators(seed, shape)?;
        cluster.add_workers(seed, shape)?;
        cluster.add_clients(seed, shape, shared);
        Ok(cluster)
    }

    fn peers(&self) -> String {
        let peer =
            |(i, name): (usize, &Host)| format!("{}@{}:{RPC_PORT}", i + 1, self.sim.lookup(name.as_str()));
        let peers: Vec<String> = self.coordinators.iter().enumerate().map(peer).collect();
        peers.join(",")
    }

    fn common(&self) -> Result<Configuration, ConfigError> {
        let mut config = Configuration::new();
        config.set("high-availability.raft.peers", &self.peers())?;
        config.set("execution.checkpointing.dir", "memory://simulated")?;
        Ok(config)
    }

    fn add_coordinators(&mut self, seed: u64, shape: &Shape) -> Result<(), ConfigError> {
        for (i, name) in self.coordinators.clone().into_iter().enumerate() {
            let mut config = self.common()?;
            let dir = self.data_dir(&name);
            config.set("high-availability.raft.id", &(i + 1).to_string())?;
            config.set("high-availability.storageDir", &dir.display().to_string())?;
            config.set("high-availability.raft.log-store", "simulated")?;
            let after = shape.snapshot_after.to_string();
            config.set("high-availability.raft.snapshot-after-logs", &after)?;
            let starts = Starts::new(seed, &name);
            let host = name.clone();
            self.sim.host(name.as_str(), move || {
                let (config, host, dir) = (config.clone(), host.clone(), dir.clone());
                let (clock, random) = starts.next();
                async move {
                    std::fs::create_dir_all(&dir)?;
                    let registry = holdfast_connectors::registry();
                    let ended =
                        holdfast_coordinator::run(&config, registry, clock, random, std::future::pending())
                            .await;
                    trace::event(&format!("{host} has ended: {ended:?}"));
                    Ok(())
                }
            });
        }
        Ok(())
    }

    fn add_workers(&mut self, seed: u64, shape: &Shape) -> Result<(), ConfigError> {
        for name in self.workers.clone() {
            let mut config = self.common()?;
            let address = self.sim.lookup(name.as_str()).to_string();
            config.set("taskmanager.host", &address)?;
            config.set("taskmanager.data.port", &DATA_PORT.to_string())?;
            config.set("taskmanager.numberOfTaskSlots", &shape.slots.to_string())?;
            config.set("taskmanager.resource-id", &name)?;
            config.set("io.tmp.dirs", &self.data_dir(&name).display().to_string())?;
            let starts = Starts::new(seed, &name);
            let host = name.clone();
            self.sim.host(name.as_str(), move || {
                let (config, host) = (config.clone(), host.clone());
                let (clock, random) = starts.next();
                async move {
                    let registry = holdfast_connectors::registry();
                    let ended =
                        holdfast_worker::run(&config, registry, clock, random, std::future::pending()).await;
                    trace::event(&format!("{host} has ended: {ended:?}"));
                    Ok(())
                }
            });
        }
        Ok(())
    }

    fn add_clients(&mut self, seed: u64, shape: &Shape, shared: &clients::Shared) {
        let addresses: Vec<String> = self
            .coordinators
            .iter()
            .map(|name| format!("{}:{RPC_PORT}", self.sim.lookup(name.as_str())))
            .collect();
        for number in 0..shape.clients {
            let client = clients::run(number, addresses.clone(), seed, shared.clone());
            self.sim.client(format!("k{number}"), async move {
                client.await;
                Ok(())
            });
        }
    }

    fn data_dir(&self, host: &str) -> PathBuf {
        self.dir.join(host)
    }

    /// The coordinators' numbers.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        (1..=self.coordinators.len() as u64).map(NodeId).collect()
    }

    /// Names of coordinators and of workers.
    #[must_use]
    pub fn names(&self) -> (&[Host], &[Host]) {
        (&self.coordinators, &self.workers)
    }

    /// Sets what is going to go wrong.
    pub fn set_plan(&mut self, plan: Vec<Planned>) {
        self.plan = plan;
        self.plan.reverse();
    }

    /// Whether a fault was made that ends this coordinator's consensus.
    #[must_use]
    pub fn may_fail(&self, id: NodeId) -> bool {
        self.broken.contains(&format!("c{id}"))
    }

    /// Coordinators that were started since the last call.
    pub fn take_restarted(&mut self) -> Vec<NodeId> {
        std::mem::take(&mut self.restarted)
    }

    /// One tick of everything.
    ///
    /// # Errors
    /// As turmoil has it.
    pub fn step(&mut self) -> Result<(), String> {
        self.sim.step().map(|_| ()).map_err(|error| error.to_string())
    }

    /// Virtual time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// Begins and ends faults, and starts again whoever ended by itself.
    pub fn act(&mut self, now_ms: u64) {
        let over: Vec<Planned> = {
            let (over, on): (Vec<_>, Vec<_>) = std::mem::take(&mut self.active)
                .into_iter()
                .partition(|p| p.at_ms + p.for_ms <= now_ms);
            self.active = on;
            over
        };
        for planned in over {
            self.undo(&planned.fault);
        }
        while self.plan.last().is_some_and(|p| p.at_ms <= now_ms) {
            if let Some(planned) = self.plan.pop()
                && self.make(&planned.fault)
            {
                trace::event(&format!("FAULT {:?} for {} ms", planned.fault, planned.for_ms));
                trace::count(kind(&planned.fault), 1);
                self.active.push(planned);
            }
        }
        self.supervise(now_ms);
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.plan.clear();
        for planned in std::mem::take(&mut self.active) {
            self.undo(&planned.fault);
        }
        for (i, a) in self.everybody.iter().enumerate() {
            for b in &self.everybody[i + 1..] {
                self.sim.release(a.as_str(), b.as_str());
                self.sim.repair(a.as_str(), b.as_str());
            }
        }
        trace::event("HEALED");
    }

    fn supervise(&mut self, now_ms: u64) {
        for host in self.everybody.clone() {
            let up = self.sim.is_host_running(host.as_str());
            if up || self.active.iter().any(|p| is_down(&p.fault, &host)) {
                continue;
            }
            match self.down.get(&host) {
                None => {
                    self.down.insert(host, now_ms + RESTART_MS);
                }
                Some(at) if *at <= now_ms => {
                    if self.broken.contains(&host) {
                        // The operator has replaced the controller; what was not synced is lost.
                        self.lose_unsynced(&host);
                    }
                    self.start(&host);
                }
                Some(_) => {}
            }
        }
    }

    fn start(&mut self, host: &Host) {
        trace::event(&format!("{host} starts"));
        self.down.remove(host);
        self.broken.remove(host);
        self.sim.bounce(host.as_str());
        if let Some(id) = host.strip_prefix('c').and_then(|n| n.parse().ok()) {
            self.restarted.push(NodeId(id));
        }
    }

    fn lose_unsynced(&mut self, host: &Host) {
        let dice = &mut self.dice;
        let lost = testing::lose_power(&self.dir.join(host), |unsynced| {
            usize::try_from(dice.below(unsynced as u64 + 1)).unwrap_or(0)
        });
        trace::count("unsynced writes lost", lost as u64);
    }

    fn others<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = &'a Host> {
        self.everybody.iter().filter(move |other| *other != host)
    }

    /// Makes a fault; false if it cannot be made now.
    fn make(&mut self, fault: &Fault) -> bool {
        match fault {
            Fault::Kill(host) | Fault::PowerLoss(host) => {
                if !self.sim.is_host_running(host.as_str()) {
                    return false;
                }
                let power = matches!(fault, Fault::PowerLoss(_));
                if power {
                    for other in self.others(host) {
                        self.sim.partition(host.as_str(), other.as_str());
                    }
                }
                self.sim.crash(host.as_str());
                if power {
                    self.lose_unsynced(host);
                }
            }
            Fault::Partition(a, b) => self.sim.partition(a.as_str(), b.as_str()),
            Fault::OneWay(a, b) => self.sim.partition_oneway(a.as_str(), b.as_str()),
            Fault::Isolate(host) => {
                for other in self.others(host) {
                    self.sim.partition(host.as_str(), other.as_str());
                }
            }
            Fault::Hold(a, b) => self.sim.hold(a.as_str(), b.as_str()),
            Fault::Slow(a, b, ms) => {
                let latency = Duration::from_millis(*ms);
                self.sim
                    .set_link_max_message_latency(a.as_str(), b.as_str(), latency);
            }
            Fault::SlowDisk(host, ms) => {
                let times = (0..16).map(|_| Duration::from_millis(1 + self.dice.below(*ms)));
                testing::set_sync_times(&self.dir.join(host), times.collect());
            }
            Fault::BrokenDisk(host) => {
                if !self.sim.is_host_running(host.as_str()) {
                    return false;
                }
                self.broken.insert(host.clone());
                testing::fail_syncs(&self.dir.join(host));
            }
            Fault::Storage(percent) => {
                let (percent, mut dice) = (*percent, Dice::new(self.dice.roll(), "storage"));
                set_faults(Some(Box::new(move |_: &str, _: &str| Fate {
                    delay: Duration::from_millis(dice.below(200)),
                    fails_before: dice.percent(percent),
                    fails_after: dice.percent(percent / 3),
                })));
            }
        }
        true
    }

    fn undo(&mut self, fault: &Fault) {
        match fault {
            Fault::Kill(host) => self.start(host),
            Fault::PowerLoss(host) => {
                for other in self.others(host) {
                    self.sim.repair(host.as_str(), other.as_str());
                }
                self.start(host);
            }
            Fault::Partition(a, b) | Fault::OneWay(a, b) => self.sim.repair(a.as_str(), b.as_str()),
            Fault::Isolate(host) => {
                for other in self.others(host) {
                    self.sim.repair(host.as_str(), other.as_str());
                }
            }
            Fault::Hold(a, b) => self.sim.release(a.as_str(), b.as_str()),
            Fault::Slow(a, b, _) => {
                let latency = super::LATENCY_MAX;
                self.sim
                    .set_link_max_message_latency(a.as_str(), b.as_str(), latency);
            }
            Fault::SlowDisk(host, _) => {
                testing::set_sync_times(&self.dir.join(host), vec![Duration::from_millis(1)]);
            }
            // Its process has ended, and the supervisor brings it back.
            Fault::BrokenDisk(_) => {}
            Fault::Storage(_) => set_faults(None),
        }
    }
}

fn is_down(fault: &Fault, host: &Host) -> bool {
    matches!(fault, Fault::Kill(h) | Fault::PowerLoss(h) if h == host)
}

/// What it is counted as.
fn kind(fault: &Fault) -> &'static str {
    match fault {
        Fault::Kill(host) if host.starts_with('w') => "worker kills",
        Fault::Kill(_) => "coordinator kills",
        Fault::PowerLoss(_) => "power losses",
        Fault::Partition(..) => "partitions",
        Fault::OneWay(..) => "one-way partitions",
        Fault::Isolate(_) => "isolations",
        Fault::Hold(..) => "holds",
        Fault::Slow(..) => "slow links",
        Fault::SlowDisk(..) => "slow disks",
        Fault::BrokenDisk(_) => "broken disks",
        Fault::Storage(_) => "storage faults",
    }
}
