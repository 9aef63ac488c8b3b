//! What this machine can do, found out by doing it.

use super::{cgroup, command, disk::Disk, netns, sys};
use crate::plan::Mode;
use std::net::Ipv4Addr;

/// One ability.
#[derive(Debug, Clone)]
pub struct Ability {
    /// What.
    pub name: &'static str,
    /// Why not, if not.
    pub trouble: Option<String>,
    /// What cannot be done without it.
    pub without: &'static str,
}

/// What a machine can do.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// Every ability that was tried.
    pub abilities: Vec<Ability>,
}

impl Preflight {
    /// Tries everything.
    #[must_use]
    pub fn look() -> Self {
        let root = nix::unistd::geteuid().is_root();
        let mut abilities = vec![Ability {
            name: "root",
            trouble: (!root).then(|| "this process is not root".to_owned()),
            without: "everything but kill, pause, membership, and partitions by relays in front of coordinators (rows between workers \
                      and snapshot storage cannot be cut off)",
        }];
        if root {
            abilities.push(ability(
                "network namespaces and TAP",
                "partitions, delay, loss",
                try_network(),
            ));
            abilities.push(ability(
                "ext4 on loop",
                "power loss, full and stalled disks",
                try_disk(),
            ));
            let groups = cgroup::available();
            abilities.push(Ability {
                name: "cgroups",
                trouble: (groups.len() < 3).then(|| format!("there are only {groups:?}")),
                without: "CPU and memory squeeze, freezer",
            });
        }
        Self { abilities }
    }

    /// The mode that this machine allows.
    #[must_use]
    pub fn mode(&self) -> Mode {
        let fine = |ability: &Ability| ability.trouble.is_none() || ability.name == "cgroups";
        if self.abilities.iter().all(fine) {
            Mode::Isolated
        } else {
            Mode::Loopback
        }
    }

    /// What is left out, one sentence each.
    #[must_use]
    pub fn left_out(&self) -> Vec<String> {
        let missing = self.abilities.iter().filter_map(|ability| {
            let trouble = ability.trouble.as_ref()?;
            Some(format!(
                "no {} ({trouble}): left out is {}",
                ability.name, ability.without
            ))
        });
        missing.collect()
    }
}

fn ability(name: &'static str, without: &'static str, tried: anyhow::Result<()>) -> Ability {
    Ability {
        name,
        trouble: tried.err().map(|error| format!("{error:#}")),
        without,
    }
}

fn try_network() -> anyhow::Result<()> {
    let namespace = format!("{}{:06x}-try", super::PREFIX, std::process::id());
    let port = netns::Port {
        node: "try".into(),
        namespace: namespace.clone(),
        ip: Ipv4Addr::new(10, 77, 0, 1),
    };
    let made = netns::create(std::slice::from_ref(&port)).map(drop);
    netns::remove(std::iter::once(namespace.as_str()));
    made
}

fn try_disk() -> anyhow::Result<()> {
    let dir = tempfile::tempdir()?;
    let disk = Disk::create(&dir.path().join("try.img"), &dir.path().join("try"), 32)?;
    std::fs::write(disk.path().join("x"), b"x")?;
    sys::shut_down_ext4(disk.path())?;
    drop(disk);
    command::run("ip", &["-V"]).map(drop)
}
