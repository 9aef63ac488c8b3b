//! Where a run's nodes live: a network namespace, a disk image and a cgroup each, all named after the run and removed
//! with it. Knows nothing of what runs in them.

pub mod cgroup;
pub mod clean;
pub mod command;
pub mod disk;
pub mod frame;
pub mod links;
pub mod netns;
pub mod preflight;
pub mod relay;
pub mod switch;
mod sys;

use crate::plan::{Mode, Swarm};
use anyhow::{Context, Result};
use cgroup::Cgroup;
use disk::Disk;
use links::Rule;
use netns::Port;
use relay::Relays;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use switch::Switch;

/// What every name of a run begins with.
pub const PREFIX: &str = "jxn";
/// Size of a coordinator's disk in MiB.
const DISK_MIB: u64 = 192;
/// Size of the disk that sinks and file snapshots share, in MiB.
const SHARED_MIB: u64 = 2048;
/// Name of the shared disk.
pub const SHARED: &str = "shared";
/// Name of the object server's node.
pub const OBJECTS: &str = "obj";

/// What a node is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A coordinator.
    Coordinator,
    /// A worker.
    Worker,
    /// The object server.
    Objects,
    /// A client.
    Client,
}

/// A node's addresses.
#[derive(Debug, Clone)]
pub struct Place {
    /// `c1`, `w1`, `obj`, `k1`.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// A coordinator's or worker's number, from 1.
    pub number: u32,
    /// Its namespace, if it has one.
    pub namespace: Option<String>,
    /// Coordinators: RPC. Workers: rows. The object server: HTTP.
    pub main: SocketAddr,
    /// Coordinators: REST.
    pub rest: SocketAddr,
}

/// A run's nodes, as far as the system knows them. Everything goes when it is dropped; processes must be gone by then.
pub struct Env {
    tag: String,
    home: PathBuf,
    places: Vec<Place>,
    switch: Option<Switch>,
    relays: Option<Relays>,
    disks: BTreeMap<String, Mutex<Disk>>,
    cgroups: BTreeMap<String, Cgroup>,
}

impl Env {
    /// Makes everything for a swarm.
    ///
    /// # Errors
    /// If something cannot be made; what was made is removed again.
    pub fn create(mode: Mode, swarm: &Swarm, seed: u64) -> Result<Self> {
        let tag = format!(
            "{PREFIX}{:x}{:03x}",
            std::process::id(),
            crate::world::monotonic_ns() % 0xfff
        );
        let home = std::env::temp_dir().join(&tag);
        std::fs::create_dir_all(&home).with_context(|| home.display().to_string())?;
        std::fs::write(home.join("owner"), std::process::id().to_string())?;
        // From here on everything is removed by dropping it.
        let mut env = Self {
            places: places(mode, swarm, &tag)?,
            tag,
            home,
            switch: None,
            relays: None,
            disks: BTreeMap::new(),
            cgroups: BTreeMap::new(),
        };
        if mode == Mode::Isolated {
            env.isolate(seed)?;
        } else {
            env.relays = Some(Relays::start(&env.places, seed)?);
        }
        for place in env.places.iter().filter(|p| p.role == Role::Coordinator) {
            std::fs::create_dir_all(env.data_dir(&place.name))?;
        }
        std::fs::create_dir_all(env.shared_dir())?;
        Ok(env)
    }

    fn isolate(&mut self, seed: u64) -> Result<()> {
        let ports: Vec<Port> = self.places.iter().filter_map(port_of).collect();
        let taps = netns::create(&ports)?;
        let macs: Vec<[u8; 6]> = ports.iter().map(Port::mac).collect();
        self.switch = Some(Switch::start(taps, &macs, seed)?);
        let coordinators = self.places.iter().filter(|p| p.role == Role::Coordinator);
        let mut disks: Vec<(String, u64)> = coordinators.map(|p| (p.name.clone(), DISK_MIB)).collect();
        disks.push((SHARED.to_owned(), SHARED_MIB));
        for (name, mib) in disks {
            let image = self.home.join(format!("{name}.img"));
            let disk = Disk::create(&image, &self.home.join(&name), mib)?;
            self.disks.insert(name, Mutex::new(disk));
        }
        for place in &self.places {
            if matches!(place.role, Role::Coordinator | Role::Worker) {
                let cgroup = Cgroup::create(&self.tag, &place.name)?;
                self.cgroups.insert(place.name.clone(), cgroup);
            }
        }
        Ok(())
    }

    /// The run's tag, with which every name begins.
    #[must_use]
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// All nodes, in the order of the switch's ports.
    #[must_use]
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// A node.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn place(&self, name: &str) -> Result<&Place> {
        let found = self.places.iter().find(|place| place.name == name);
        found.with_context(|| format!("there is no node {name}"))
    }

    /// A node's port on the switch.
    #[must_use]
    pub fn port(&self, name: &str) -> Option<usize> {
        self.places.iter().position(|place| place.name == name)
    }

    /// What carries the messages between nodes and can be told not to.
    #[must_use]
    pub fn net(&self) -> Option<Net<'_>> {
        let switch = self.switch.as_ref().map(Net::Switch);
        switch.or_else(|| self.relays.as_ref().map(Net::Relays))
    }

    /// Where a node connects to reach an address of another: the address itself, or a relay before it.
    #[must_use]
    pub fn reach(&self, from: &str, target: SocketAddr) -> SocketAddr {
        let door = self
            .port(from)
            .and_then(|port| self.relays.as_ref()?.door(port, target));
        door.unwrap_or(target)
    }

    /// A disk by its node's name, if nodes have disks of their own.
    #[must_use]
    pub fn disk(&self, name: &str) -> Option<MutexGuard<'_, Disk>> {
        self.disks
            .get(name)
            .map(|disk| disk.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A node's cgroup, if it has one.
    #[must_use]
    pub fn cgroup(&self, name: &str) -> Option<&Cgroup> {
        self.cgroups.get(name)
    }

    /// The run's directory for temporary things.
    #[must_use]
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A coordinator's data directory, on its own disk.
    #[must_use]
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.home.join(name).join("data")
    }

    /// Where sinks write.
    #[must_use]
    pub fn shared_dir(&self) -> PathBuf {
        self.home.join(SHARED).join("out")
    }

    /// Where file snapshots lie.
    #[must_use]
    pub fn checkpoint_dir(&self) -> PathBuf {
        self.home.join(SHARED).join("checkpoints")
    }

    /// Does something where a node's sockets live.
    ///
    /// # Errors
    /// If its namespace cannot be entered.
    pub fn inside<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
        match &self.place(name)?.namespace {
            Some(namespace) => netns::inside(namespace, work),
            None => Ok(work()),
        }
    }
}

/// What carries the messages between nodes: frames on a switch, or streams through relays. Ports are the nodes' places.
#[derive(Clone, Copy)]
pub enum Net<'e> {
    /// Of namespaces.
    Switch(&'e Switch),
    /// On loopback.
    Relays(&'e Relays),
}

impl Net<'_> {
    /// Adds rules to directed links in one moment.
    pub fn add(&self, rules: &[(usize, usize, Rule)]) {
        match self {
            Self::Switch(switch) => switch.add(rules),
            Self::Relays(relays) => relays.add(rules),
        }
    }

    /// Removes the rules of a fault.
    pub fn remove(&self, fault: u64) {
        match self {
            Self::Switch(switch) => switch.remove(fault),
            Self::Relays(relays) => relays.remove(fault),
        }
    }

    /// Removes all rules.
    pub fn clear(&self) {
        match self {
            Self::Switch(switch) => switch.clear(),
            Self::Relays(relays) => relays.clear(),
        }
    }

    /// What was met by rules on these links so far, and how much of it was dropped.
    #[must_use]
    pub fn met(&self, links: &[(usize, usize)]) -> (u64, u64) {
        match self {
            Self::Switch(switch) => switch.met(links),
            Self::Relays(relays) => relays.met(links),
        }
    }
}

impl Drop for Env {
    fn drop(&mut self) {
        self.switch = None;
        self.relays = None;
        self.disks.clear();
        self.cgroups.clear();
        cgroup::remove_run(&self.tag);
        netns::remove(self.places.iter().filter_map(|place| place.namespace.as_deref()));
        // A mount that could not be released must not have its content deleted.
        let mounted = clean::mounts_below(&self.home);
        if mounted.is_empty() {
            let _ = std::fs::remove_dir_all(&self.home);
        } else {
            eprintln!("jepsen: still mounted, `jepsen clean` removes it later: {mounted:?}");
        }
    }
}

fn port_of(place: &Place) -> Option<Port> {
    let IpAddr::V4(ip) = place.main.ip() else {
        return None;
    };
    Some(Port {
        node: place.name.clone(),
        namespace: place.namespace.clone()?,
        ip,
    })
}

fn places(mode: Mode, swarm: &Swarm, tag: &str) -> Result<Vec<Place>> {
    let mut places = Vec::new();
    let groups = [
        (
            Role::Coordinator,
            "c",
            swarm.voters + swarm.spares,
            10,
            frame::RPC_PORT,
        ),
        (Role::Worker, "w", swarm.workers, 30, frame::DATA_PORT),
        (Role::Objects, OBJECTS, 1, 50, frame::OBJECT_PORT),
        (Role::Client, "k", swarm.clients, 60, 0),
    ];
    for (role, letter, count, first, port) in groups {
        for number in 1..=count {
            let name = if role == Role::Objects {
                letter.to_owned()
            } else {
                format!("{letter}{number}")
            };
            let (namespace, ip) = match mode {
                Mode::Isolated => (
                    Some(format!("{tag}-{name}")),
                    Ipv4Addr::new(10, 77, 0, (first + number) as u8),
                ),
                Mode::Loopback => (None, Ipv4Addr::LOCALHOST),
            };
            let (main, rest) = match mode {
                Mode::Isolated => (port, frame::REST_PORT),
                Mode::Loopback => (free_port()?, free_port()?),
            };
            places.push(Place {
                name,
                role,
                number,
                namespace,
                main: SocketAddr::new(ip.into(), main),
                rest: SocketAddr::new(ip.into(), rest),
            });
        }
    }
    Ok(places)
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a free port")?;
    Ok(listener.local_addr()?.port())
}
