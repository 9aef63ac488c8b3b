//! A node's cgroups (version 1): CPU quota, memory limit, freezer.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "freezer"];
/// The scheduler's period of a quota, in microseconds.
const PERIOD_US: u32 = 20_000;

/// The cgroups of one node.
#[derive(Debug)]
pub struct Cgroup {
    group: String,
    controllers: Vec<&'static str>,
}

/// The controllers that this machine has.
#[must_use]
pub fn available() -> Vec<&'static str> {
    let has = |controller: &&'static str| Path::new(ROOT).join(controller).join("cgroup.procs").is_file();
    CONTROLLERS.into_iter().filter(has).collect()
}

impl Cgroup {
    /// Makes `RUN/NODE` under every controller that there is.
    ///
    /// # Errors
    /// If a directory cannot be made.
    pub fn create(run: &str, node: &str) -> Result<Self> {
        let cgroup = Self {
            group: format!("{run}/{node}"),
            controllers: available(),
        };
        for controller in &cgroup.controllers {
            let dir = cgroup.dir(controller);
            std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        }
        Ok(cgroup)
    }

    fn dir(&self, controller: &str) -> PathBuf {
        Path::new(ROOT).join(controller).join(&self.group)
    }

    fn write(&self, controller: &str, file: &str, value: &str) -> Result<()> {
        let path = self.dir(controller).join(file);
        std::fs::write(&path, value).with_context(|| format!("{value} to {}", path.display()))
    }

    /// Moves a process here.
    ///
    /// # Errors
    /// If it is gone.
    pub fn adopt(&self, pid: u32) -> Result<()> {
        for controller in &self.controllers {
            self.write(controller, "cgroup.procs", &pid.to_string())?;
        }
        Ok(())
    }

    /// Allows so many percent of one CPU; `None` takes the limit away.
    ///
    /// # Errors
    /// If there is no such controller.
    pub fn cpu_percent(&self, percent: Option<u32>) -> Result<()> {
        let quota = percent.map_or_else(
            || "-1".to_owned(),
            |p| (PERIOD_US * p / 100).max(1000).to_string(),
        );
        self.write("cpu", "cpu.cfs_period_us", &PERIOD_US.to_string())?;
        self.write("cpu", "cpu.cfs_quota_us", &quota)
    }

    /// How often the quota has stopped it.
    #[must_use]
    pub fn throttled(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir("cpu").join("cpu.stat")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("nr_throttled "));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// Bytes of anonymous memory in use.
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir("memory").join("memory.stat")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("total_rss "));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// How often the memory limit was met.
    #[must_use]
    pub fn memory_failures(&self) -> u64 {
        let text = std::fs::read_to_string(self.dir("memory").join("memory.failcnt")).unwrap_or_default();
        text.trim().parse().unwrap_or(0)
    }

    /// Limits memory; `None` takes the limit away.
    ///
    /// # Errors
    /// If there is no such controller.
    pub fn memory_limit(&self, bytes: Option<u64>) -> Result<()> {
        let value = bytes.map_or_else(|| "-1".to_owned(), |b| b.to_string());
        self.write("memory", "memory.limit_in_bytes", &value)
    }

    /// Freezes or thaws every process here.
    ///
    /// # Errors
    /// If there is no such controller.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        self.write(
            "freezer",
            "freezer.state",
            if frozen { "FROZEN" } else { "THAWED" },
        )
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.controllers.contains(&"freezer") {
            let _ = self.freeze(false);
        }
        for controller in &self.controllers {
            remove(&self.dir(controller));
        }
    }
}

/// Removes an empty cgroup; its last process may need a moment to go.
fn remove(dir: &Path) {
    for _ in 0..200 {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => return,
        }
    }
}

/// The processes in the cgroups of a run.
#[must_use]
pub fn processes_of(run: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for controller in CONTROLLERS {
        let dir = Path::new(ROOT).join(controller).join(run);
        for node in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            let text = std::fs::read_to_string(node.path().join("cgroup.procs")).unwrap_or_default();
            pids.extend(text.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
        }
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// Removes the cgroups of a run, whose processes must be gone; frozen ones are thawed first.
pub fn remove_run(run: &str) {
    for controller in CONTROLLERS {
        let dir = Path::new(ROOT).join(controller).join(run);
        for node in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            if node.path().is_dir() {
                let _ = std::fs::write(node.path().join("freezer.state"), "THAWED");
                remove(&node.path());
            }
        }
        if dir.exists() {
            remove(&dir);
        }
    }
}
