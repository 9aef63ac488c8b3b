//! One supervisor per directory, and what a dead one left behind.

use super::policy::stop_order;
use crate::exit::Failure;
use crate::files::{PidStamp, SupervisorFile, read_json, supervisor_path};
use crate::pids;
use anyhow::Context;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

/// Patience with processes that a dead supervisor left running.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(10);

/// The right to supervise a directory; gone when the process ends, however it does.
#[derive(Debug)]
pub struct Claim {
    _lock: File,
}

/// What stands against a claim.
#[derive(Debug)]
pub enum Held {
    /// Another supervisor has it.
    By(Option<PidStamp>),
    /// The directory cannot be used.
    Broken(Failure),
}

impl Claim {
    /// Takes the directory.
    ///
    /// # Errors
    /// If another supervisor has it, or the disk refuses.
    pub fn take(dir: &Path) -> Result<Self, Held> {
        let path = dir.join("lock");
        let open = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path);
        let file = open
            .with_context(|| format!("cannot open {}", path.display()))
            .map_err(|e| Held::Broken(e.into()))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { _lock: file }),
            Err(std::fs::TryLockError::WouldBlock) => Err(Held::By(supervisor(dir))),
            Err(std::fs::TryLockError::Error(error)) => Err(Held::Broken(Failure::error(format!(
                "cannot lock {}: {error}",
                path.display()
            )))),
        }
    }

    /// Takes the directory, waiting for another process that is just letting go.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn take_soon(dir: &Path, patience: Duration) -> Result<Self, Held> {
        let give_up = tokio::time::Instant::now() + patience;
        loop {
            match Self::take(dir) {
                Err(Held::By(_)) if tokio::time::Instant::now() < give_up => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                outcome => return outcome,
            }
        }
    }
}

/// The supervisor that a directory names, if it lives.
#[must_use]
pub fn supervisor(dir: &Path) -> Option<PidStamp> {
    let file: SupervisorFile = read_json(&supervisor_path(dir)).ok().flatten()?;
    Some(file.supervisor).filter(|stamp| pids::alive(*stamp))
}

/// Processes that a supervisor started and that still run, workers first. One that was killed just after it had started
/// a child could not write that down any more: such a child is known by its configuration file.
#[must_use]
pub fn left_running(dir: &Path) -> Vec<Vec<PidStamp>> {
    let file: Option<SupervisorFile> = read_json(&supervisor_path(dir)).ok().flatten();
    let listed = file.into_iter().flat_map(|f| f.children);
    let mut children: Vec<(String, PidStamp)> = listed.filter(|(_, stamp)| pids::alive(*stamp)).collect();
    for found in pids::configured_in(&dir.join("conf")) {
        if children.iter().all(|(_, known)| known.pid != found.1.pid) {
            children.push(found);
        }
    }
    let roles: Vec<(&str, u64)> = children.iter().map(|(role, _)| (role.as_str(), 0)).collect();
    let stages = stop_order(&roles, None);
    stages
        .into_iter()
        .map(|s| {
            s.into_iter()
                .filter_map(|i| children.get(i))
                .map(|(_, stamp)| *stamp)
                .collect()
        })
        .collect()
}

/// Stops what a dead supervisor left running; returns how many there were. Only with the claim in hand.
pub async fn stop_left_running(dir: &Path) -> usize {
    let stages = left_running(dir);
    for stage in &stages {
        pids::stop(stage, ORPHAN_PATIENCE).await;
    }
    stages.iter().map(Vec::len).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::files::write_json;

    #[test]
    fn a_directory_has_one_supervisor() {
        let dir = tempfile::tempdir().unwrap();
        let claim = Claim::take(dir.path()).unwrap();
        assert!(matches!(Claim::take(dir.path()), Err(Held::By(_))));
        drop(claim);
        assert!(Claim::take(dir.path()).is_ok());
    }

    #[tokio::test]
    async fn orphans_are_stopped_and_strangers_with_their_pids_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut orphan = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let stamp = pids::stamp(orphan.id());
        let own = pids::stamp(std::process::id());
        let stranger = PidStamp {
            pid: own.pid,
            started: own.started.map(|s| s + 1),
        };
        let file = SupervisorFile {
            supervisor: stranger,
            children: vec![("worker".into(), stamp), ("coordinator".into(), stranger)],
        };
        write_json(&supervisor_path(dir.path()), &file).unwrap();
        if own.started.is_some() {
            assert_eq!(supervisor(dir.path()), None);
            assert_eq!(stop_left_running(dir.path()).await, 1);
            assert!(!pids::alive(stamp));
        }
        orphan.kill().ok();
        orphan.wait().unwrap();
    }
}
