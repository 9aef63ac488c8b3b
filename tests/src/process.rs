//! What `cluster.json` says of the cluster's processes, and signals to them.
//!
//! A signal is only ever sent to a pid that runs the binary under test or whose command line names this cluster's
//! directory: a pid may have been reused.

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{self, Signal};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// One line of `cluster.json`.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Process {
    /// `coordinator` or `worker`.
    pub role: String,
    /// A number, or a worker's name.
    #[serde(default)]
    id: Value,
    /// The operating system's number; 0 if it does not run.
    #[serde(default)]
    pub pid: i32,
    /// Address of its RPC.
    #[serde(default)]
    pub rpc: Option<String>,
    /// Address of its REST interface.
    #[serde(default)]
    pub rest: Option<String>,
    /// Where its data lies.
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// Its log file.
    #[serde(default)]
    pub log: Option<PathBuf>,
}

/// The file as a whole.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct ClusterFile {
    /// All processes.
    #[serde(default)]
    pub processes: Vec<Process>,
    /// The supervisor, if the file names it.
    #[serde(default)]
    pub supervisor: Option<Value>,
}

impl ClusterFile {
    /// Reads `DIR/cluster.json`.
    ///
    /// # Errors
    /// If it is not there or is torn.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join("cluster.json");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| format!("{}: {text}", path.display()))
    }

    /// The supervisor's pid, whether the file gives a number or an object with one.
    #[must_use]
    pub fn supervisor_pid(&self) -> Option<i32> {
        let value = self.supervisor.as_ref()?;
        let number = value
            .as_i64()
            .or_else(|| value.get("pid").and_then(Value::as_i64))?;
        i32::try_from(number).ok().filter(|pid| *pid > 0)
    }

    /// Processes of a role.
    #[must_use]
    pub fn role(&self, role: &str) -> Vec<Process> {
        self.processes
            .iter()
            .filter(|p| p.role == role)
            .cloned()
            .collect()
    }
}

impl Process {
    /// Its id as text.
    #[must_use]
    pub fn id(&self) -> String {
        match &self.id {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        }
    }

    /// A coordinator's number.
    ///
    /// # Errors
    /// If the id is not a number.
    pub fn number(&self) -> Result<u64> {
        self.id()
            .parse()
            .with_context(|| format!("{} has no number", self.name()))
    }

    /// Role and id, whatever the pid: `coordinator 1`.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{} {}", self.role, self.id())
    }

    /// For messages: `coordinator 1 (pid 4711)`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {} (pid {})", self.role, self.id(), self.pid)
    }

    /// Whether both lines mean the same role and id, whatever the pid.
    #[must_use]
    pub fn same_place(&self, other: &Self) -> bool {
        self.role == other.role && self.id == other.id
    }

    /// Whether the process exists and is no zombie.
    #[must_use]
    pub fn alive(&self) -> bool {
        alive(self.pid)
    }

    /// The state letter of `/proc/PID/stat` (R, S, T, Z, ...); `None` if the process is gone.
    #[must_use]
    pub fn state(&self) -> Option<char> {
        state_of(self.pid)
    }

    /// CPU time that the process has used so far, user and system.
    ///
    /// # Errors
    /// If it is gone.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))
            .with_context(|| format!("{} is gone", self.name()))?;
        let fields: Vec<&str> = after_command(&stat).split_whitespace().collect();
        // Fields 14 and 15 of proc(5), counted from the state, which is field 3.
        let ticks: u64 = fields
            .get(11..13)
            .unwrap_or_default()
            .iter()
            .filter_map(|f| f.parse::<u64>().ok())
            .sum();
        // USER_HZ is 100 on every Linux that this runs on.
        Ok(Duration::from_millis(ticks * 10))
    }
}

fn after_command(stat: &str) -> &str {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest)
}

fn state_of(pid: i32) -> Option<char> {
    if pid <= 0 {
        return None;
    }
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    after_command(&stat).trim_start().chars().next()
}

/// Whether a process exists and is no zombie. A killed process whose first thread has ended lives on as long as another
/// one does: until then its ports are not free.
#[must_use]
pub fn alive(pid: i32) -> bool {
    match state_of(pid) {
        None | Some('X') => false,
        Some('Z') => std::fs::read_dir(format!("/proc/{pid}/task")).is_ok_and(|threads| threads.count() > 1),
        Some(_) => true,
    }
}

/// Whether the command line of `pid` names `dir`.
#[must_use]
pub fn belongs_to(pid: i32, dir: &Path) -> bool {
    if pid <= 1 {
        return false;
    }
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let needle = dir.as_os_str().as_encoded_bytes();
    !needle.is_empty() && command_line.windows(needle.len()).any(|part| part == needle)
}

/// Whether `pid` runs the binary under test (also after the file was replaced).
#[must_use]
pub fn runs_binary(pid: i32, binary: &Path) -> bool {
    let Ok(link) = std::fs::read_link(format!("/proc/{pid}/exe")) else {
        return false;
    };
    let link = link.to_string_lossy().into_owned();
    Path::new(link.trim_end_matches(" (deleted)")) == binary
}

/// Every process of this machine whose command line names `dir`, except this one.
#[must_use]
pub fn all_of(dir: &Path) -> Vec<i32> {
    let me = std::process::id() as i32;
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<i32> = entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != me && belongs_to(*pid, dir))
        .collect();
    pids.sort_unstable();
    pids
}

/// Sends a signal. A process that is gone already is no error for `SIGKILL`.
///
/// # Errors
/// If the signal cannot be sent.
pub fn send(pid: i32, signal: Signal) -> Result<()> {
    if pid <= 1 {
        bail!("refusing to signal pid {pid}");
    }
    match signal::kill(Pid::from_raw(pid), signal) {
        Ok(()) => Ok(()),
        Err(Errno::ESRCH) if signal == Signal::SIGKILL => Ok(()),
        Err(error) => Err(error).with_context(|| format!("{signal} to {pid}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_contract_file_is_understood() {
        let text = r#"{"processes":[
            {"role":"coordinator","id":1,"pid":4711,"rpc":"127.0.0.1:7101","rest":"127.0.0.1:8081","data_dir":"/d","log":"/l"},
            {"role":"worker","id":"w-2","pid":4712}],"supervisor":{"pid":9}}"#;
        let file: ClusterFile = serde_json::from_str(text).unwrap();
        assert_eq!(file.supervisor_pid(), Some(9));
        assert_eq!(file.role("coordinator")[0].number().unwrap(), 1);
        assert_eq!(file.role("worker")[0].name(), "worker w-2 (pid 4712)");
        assert!(file.role("worker")[0].number().is_err());
    }

    #[test]
    fn this_process_is_alive_and_uses_time() {
        let me = std::process::id() as i32;
        let line = format!(r#"{{"role":"worker","id":1,"pid":{me}}}"#);
        let process: Process = serde_json::from_str(&line).unwrap();
        assert!(process.alive());
        process.cpu_time().unwrap();
        assert!(!alive(0));
        assert!(!belongs_to(me, Path::new("/no/such/directory/anywhere")));
    }
}
