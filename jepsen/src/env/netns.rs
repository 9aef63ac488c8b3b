//! Network namespaces: one per node, with one interface on the run's switch and no way out.

use super::{command, sys};
use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use std::fmt::Write;
use std::fs::File;
use std::net::Ipv4Addr;
use std::path::PathBuf;

/// Large frames: fewer of them for the same bytes.
const MTU: u32 = 9000;

/// A node's place in the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The node's name.
    pub node: String,
    /// The namespace's name.
    pub namespace: String,
    /// The node's address.
    pub ip: Ipv4Addr,
}

impl Port {
    /// The interface's address: made from the IP, so that neighbours can be written down instead of asked for.
    #[must_use]
    pub fn mac(&self) -> [u8; 6] {
        let [a, b, c, d] = self.ip.octets();
        [2, 0, a, b, c, d]
    }

    fn mac_text(&self) -> String {
        let bytes: Vec<String> = self.mac().iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.join(":")
    }
}

/// The file by which a namespace is known.
#[must_use]
pub fn path(namespace: &str) -> PathBuf {
    PathBuf::from("/var/run/netns").join(namespace)
}

/// Runs something on a thread that sits in a namespace. Sockets opened and processes started there belong to it.
///
/// # Errors
/// If there is no such namespace or the caller may not enter it.
pub fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(path(namespace)).with_context(|| format!("network namespace {namespace}"))?;
    std::thread::scope(|scope| {
        scope
            .spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("setns {namespace}"))?;
                Ok(work())
            })
            .join()
            .map_err(|_| anyhow!("the thread in {namespace} broke"))?
    })
}

/// Makes the namespaces with their interfaces and answers one TAP file per port, in the same order. Neighbours are
/// permanent entries: a cut link swallows packets, it does not answer "no route".
///
/// # Errors
/// If a tool fails.
pub fn create(ports: &[Port]) -> Result<Vec<File>> {
    let mut batch = String::new();
    for port in ports {
        let _ = writeln!(batch, "netns add {}", port.namespace);
    }
    command::run_with_input("ip", &["-batch", "-"], &batch)?;
    let mut taps = Vec::with_capacity(ports.len());
    for port in ports {
        taps.push(inside(&port.namespace, || sys::open_tap("eth0"))??);
        configure(port, ports)?;
    }
    Ok(taps)
}

fn configure(port: &Port, all: &[Port]) -> Result<()> {
    let mut batch = String::from("link set lo up\n");
    let _ = writeln!(batch, "link set eth0 address {} mtu {MTU}", port.mac_text());
    let _ = writeln!(batch, "addr add {}/24 dev eth0", port.ip);
    let _ = writeln!(batch, "link set eth0 up");
    for other in all.iter().filter(|other| other.ip != port.ip) {
        let _ = writeln!(
            batch,
            "neigh replace {} lladdr {} nud permanent dev eth0",
            other.ip,
            other.mac_text()
        );
    }
    command::run_with_input("ip", &["-n", &port.namespace, "-batch", "-"], &batch).map(drop)
}

/// Removes namespaces; those that are gone already are no error.
pub fn remove<'a>(namespaces: impl Iterator<Item = &'a str>) {
    for namespace in namespaces {
        if path(namespace).exists()
            && let Err(error) = command::run("ip", &["netns", "del", namespace])
        {
            eprintln!("jepsen: {error:#}");
        }
    }
}

/// The namespaces whose names begin with a prefix.
#[must_use]
pub fn with_prefix(prefix: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/var/run/netns")
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    names.sort();
    names
}
