//! The files of a local cluster's directory: `cluster.json` for everybody, `layout.json` and `supervisor.json` for `up`
//! and `down` alone. All are replaced whole: a reader never sees half of one.

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::Write;
use std::path::{Path, PathBuf};

/// `cluster.json`: a contract with scripts outside the project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterFile {
    /// Every process of the cluster that should run.
    pub processes: Vec<ProcessEntry>,
}

/// A process in `cluster.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessEntry {
    /// `coordinator` or `worker`.
    pub role: String,
    /// Its number within the role, from 1.
    pub id: u64,
    /// 0 while it is not running.
    pub pid: u32,
    /// A coordinator's RPC address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rpc: Option<String>,
    /// A coordinator's REST address.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rest: Option<String>,
    /// A worker's name in the cluster.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub resource_id: Option<String>,
    /// Its own directory.
    pub data_dir: String,
    /// Its log file.
    pub log: String,
}

/// `layout.json`: what a cluster of a directory consists of. Coordinators' addresses stand in the replicated log, so
/// they are kept for its life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layout {
    /// The cluster's name: drawn once, so that processes of different directories refuse each other.
    pub name: String,
    /// The coordinators.
    pub coordinators: Vec<CoordinatorPlace>,
    /// Number of workers.
    pub workers: u32,
    /// Slots of each.
    pub slots: u32,
}

/// A coordinator of a layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoordinatorPlace {
    /// Its number.
    pub id: u64,
    /// RPC port on 127.0.0.1.
    pub rpc_port: u16,
    /// REST port on 127.0.0.1.
    pub rest_port: u16,
}

impl CoordinatorPlace {
    /// RPC address.
    #[must_use]
    pub fn rpc(&self) -> String {
        format!("127.0.0.1:{}", self.rpc_port)
    }

    /// REST address.
    #[must_use]
    pub fn rest(&self) -> String {
        format!("127.0.0.1:{}", self.rest_port)
    }
}

/// `supervisor.json`: which processes were started, with the kernel's start times, so that a reused pid is not taken
/// for one of them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupervisorFile {
    /// The supervisor.
    pub supervisor: PidStamp,
    /// Its children, with their role.
    pub children: Vec<(String, PidStamp)>,
}

/// A process that cannot be mistaken for another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PidStamp {
    /// The pid.
    pub pid: u32,
    /// Its start in the kernel's clock ticks; `None` where the system does not say.
    pub started: Option<u64>,
}

/// Path of `cluster.json`.
#[must_use]
pub fn cluster_path(dir: &Path) -> PathBuf {
    dir.join("cluster.json")
}

/// Path of `layout.json`.
#[must_use]
pub fn layout_path(dir: &Path) -> PathBuf {
    dir.join("layout.json")
}

/// Path of `supervisor.json`.
#[must_use]
pub fn supervisor_path(dir: &Path) -> PathBuf {
    dir.join("supervisor.json")
}

/// Replaces a file whole, durably.
///
/// # Errors
/// If the disk refuses; names the path.
pub fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("not expressible as JSON")?;
    text.push('\n');
    let temporary = path.with_extension("json.tmp");
    let write = || -> std::io::Result<()> {
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Reads a file; `None` if it is not there.
///
/// # Errors
/// If it cannot be read or is damaged; names the path.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    serde_json::from_str(&text)
        .map(Some)
        .with_context(|| format!("{} is damaged", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn cluster_json_has_the_contracts_shape() {
        let file = ClusterFile {
            processes: vec![
                ProcessEntry {
                    role: "coordinator".into(),
                    id: 1,
                    pid: 4711,
                    rpc: Some("127.0.0.1:7101".into()),
                    rest: Some("127.0.0.1:8081".into()),
                    resource_id: None,
                    data_dir: "/d/coordinator-1".into(),
                    log: "/d/log/coordinator-1.log".into(),
                },
                ProcessEntry {
                    role: "worker".into(),
                    id: 1,
                    pid: 4712,
                    rpc: None,
                    rest: None,
                    resource_id: Some("worker-1".into()),
                    data_dir: "/d/worker-1".into(),
                    log: "/d/log/worker-1.log".into(),
                },
            ],
        };
        assert_eq!(
            serde_json::to_value(&file).unwrap(),
            json!({"processes":[
                {"role":"coordinator","id":1,"pid":4711,"rpc":"127.0.0.1:7101","rest":"127.0.0.1:8081",
                 "data_dir":"/d/coordinator-1","log":"/d/log/coordinator-1.log"},
                {"role":"worker","id":1,"pid":4712,"resource_id":"worker-1",
                 "data_dir":"/d/worker-1","log":"/d/log/worker-1.log"},
            ]})
        );
    }

    #[test]
    fn files_are_replaced_whole_and_missing_ones_are_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = cluster_path(dir.path());
        assert_eq!(read_json::<ClusterFile>(&path).unwrap(), None);
        write_json(&path, &ClusterFile::default()).unwrap();
        assert_eq!(
            read_json::<ClusterFile>(&path).unwrap(),
            Some(ClusterFile::default())
        );
        std::fs::write(&path, "{").unwrap();
        let error = format!("{:#}", read_json::<ClusterFile>(&path).unwrap_err());
        assert!(error.contains("cluster.json is damaged"), "{error}");
        let names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 1, "no temporary file is left: {names:?}");
    }
}
