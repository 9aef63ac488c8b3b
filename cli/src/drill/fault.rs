//! Faults: how each case is brought about, and how it is taken back.

use super::cases;
use super::cluster::{Cluster, place};
use crate::args::DrillCase as Case;
use crate::exit::Failure;
use crate::files::{PidStamp, ProcessEntry};
use crate::pids;
use crate::random::SystemRandom;
use anyhow::Context;
use holdfast_common::clock::Random;
use holdfast_coordinator::api::view::cluster::ClusterInfo;
use nix::sys::signal::Signal;
use std::path::{Path, PathBuf};

/// A fault that is ready to be brought about.
pub struct Fault {
    /// What it hits, for people.
    pub victim: String,
    act: Act,
}

enum Act {
    Signal(PidStamp, Signal),
    /// Links to and from a place, or between two.
    Cut(String, Option<String>),
    Storage(PathBuf),
}

fn pick<T>(list: &[T]) -> Option<&T> {
    let length = u64::try_from(list.len()).ok().filter(|n| *n > 0)?;
    list.get(usize::try_from(SystemRandom.next_u64() % length).ok()?)
}

/// Chooses the victim of a case's run number `number` in the cluster as `view` shows it.
///
/// # Errors
/// If there is nobody to hurt.
pub fn choose(case: Case, number: u32, cluster: &Cluster, view: &ClusterInfo) -> Result<Fault, Failure> {
    let leader = view.leader.ok_or_else(|| Failure::error("there is no leader"))?;
    let signal = |entry: &ProcessEntry, signal| Fault {
        victim: format!("{} {}", entry.role, entry.id),
        act: Act::Signal(Cluster::stamp(entry), signal),
    };
    Ok(match case {
        Case::Leader => signal(&cluster.coordinator(leader)?, Signal::SIGKILL),
        Case::LeaderGraceful => signal(&cluster.coordinator(leader)?, Signal::SIGTERM),
        Case::PauseLeader => signal(&cluster.coordinator(leader)?, Signal::SIGSTOP),
        Case::Follower => {
            let others: Vec<u64> = view
                .coordinators
                .iter()
                .map(|c| c.id)
                .filter(|id| *id != leader)
                .collect();
            let id = pick(&others).ok_or_else(|| Failure::error("nobody follows"))?;
            signal(&cluster.coordinator(*id)?, Signal::SIGKILL)
        }
        Case::Worker => signal(&busy_worker(cluster, view)?, Signal::SIGKILL),
        Case::WorkerSilent => signal(&busy_worker(cluster, view)?, Signal::SIGSTOP),
        Case::PartitionLeader => Fault {
            victim: format!("coordinator {leader}"),
            act: Act::Cut(format!("c{leader}"), None),
        },
        Case::Blip => {
            let other = if number.is_multiple_of(2) {
                place(&busy_worker(cluster, view)?)
            } else {
                let others: Vec<u64> = view
                    .coordinators
                    .iter()
                    .map(|c| c.id)
                    .filter(|id| *id != leader)
                    .collect();
                format!(
                    "c{}",
                    pick(&others).ok_or_else(|| Failure::error("nobody follows"))?
                )
            };
            Fault {
                victim: format!("the link between c{leader} (leader) and {other}"),
                act: Act::Cut(format!("c{leader}"), Some(other)),
            }
        }
        Case::StorageOutage => {
            let dir = cluster.storage();
            Fault {
                victim: "snapshot storage".to_owned(),
                act: Act::Storage(dir.ok_or_else(|| {
                    Failure::usage("storage-outage needs snapshot storage in a local directory (file://)")
                })?),
            }
        }
        Case::All => return Err(Failure::error("'all' is no fault")),
    })
}

/// A worker that runs tasks.
fn busy_worker(cluster: &Cluster, view: &ClusterInfo) -> Result<ProcessEntry, Failure> {
    let busy: Vec<&str> = view
        .workers
        .iter()
        .filter(|w| w.free_slots < w.slots)
        .map(|w| w.resource_id.as_str())
        .collect();
    let name = pick(&busy).ok_or_else(|| Failure::error("no worker runs tasks"))?;
    cluster.worker(name)
}

impl Fault {
    /// Brings it about.
    ///
    /// # Errors
    /// If that fails: the run does not count.
    pub fn strike(&self, cluster: &Cluster) -> Result<(), Failure> {
        match &self.act {
            Act::Signal(stamp, signal) => {
                if !pids::alive(*stamp) {
                    return Err(Failure::error(format!("{} has gone by itself", self.victim)));
                }
                pids::send(*stamp, *signal);
                Ok(())
            }
            Act::Cut(..) => self.links(cluster, false),
            Act::Storage(dir) => take_away(dir),
        }
    }

    /// Takes it back; does nothing for one that cannot be.
    ///
    /// # Errors
    /// If that fails.
    pub fn heal(&self, cluster: &Cluster) -> Result<(), Failure> {
        match &self.act {
            Act::Signal(stamp, Signal::SIGSTOP) => {
                pids::send(*stamp, Signal::SIGCONT);
                Ok(())
            }
            Act::Signal(..) => Ok(()),
            Act::Cut(..) => self.links(cluster, true),
            Act::Storage(dir) => give_back(dir),
        }
    }

    fn links(&self, cluster: &Cluster, open: bool) -> Result<(), Failure> {
        let Act::Cut(place, other) = &self.act else {
            return Ok(());
        };
        let net = cluster
            .net
            .as_ref()
            .ok_or_else(|| Failure::error("this cluster's links cannot be cut"))?;
        net.set(open, |from, to| match other {
            None => from == place || to == place,
            Some(other) => (from == place && to == other) || (from == other && to == place),
        });
        Ok(())
    }
}

/// A file in place of the directory. Permissions would not do: the cluster may run as root.
fn take_away(dir: &Path) -> Result<(), Failure> {
    std::fs::rename(dir, dir.with_extension("aside"))
        .and_then(|()| std::fs::write(dir, "storage is out of order\n"))
        .with_context(|| format!("cannot take {} away", dir.display()))?;
    Ok(())
}

fn give_back(dir: &Path) -> Result<(), Failure> {
    std::fs::remove_file(dir)
        .and_then(|()| std::fs::rename(dir.with_extension("aside"), dir))
        .with_context(|| format!("cannot give {} back", dir.display()))?;
    Ok(())
}

/// Whether a case makes sense on this cluster.
///
/// # Errors
/// Why not.
pub fn possible(case: Case, cluster: &Cluster, own: bool) -> Result<(), String> {
    if !own && !cases::runs_against_others(case) {
        return Err(format!(
            "{} needs a cluster of the drill's own: leave --against out",
            cases::name(case)
        ));
    }
    if case == Case::StorageOutage && cluster.storage().is_none() {
        return Err("storage-outage needs snapshot storage in a local directory (file://)".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn storage_comes_back_as_it_was() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("checkpoints");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("a"), "1").unwrap();
        take_away(&dir).unwrap();
        assert!(std::fs::write(dir.join("b"), "2").is_err());
        assert!(std::fs::create_dir_all(dir.join("c")).is_err());
        give_back(&dir).unwrap();
        assert_eq!(std::fs::read_to_string(dir.join("a")).unwrap(), "1");
    }

    #[test]
    fn everyone_is_picked_sooner_or_later() {
        assert_eq!(pick::<u8>(&[]), None);
        let picked: std::collections::BTreeSet<u8> =
            (0..200).filter_map(|_| pick(&[1, 2, 3]).copied()).collect();
        assert_eq!(picked.len(), 3);
    }
}
