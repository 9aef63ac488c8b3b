//! What can be done to a cluster: signals, kills, processes by hand, the orderly end.

use super::Cluster;
use crate::binary;
use crate::process::{self, Process};
use crate::wait::{self, SOON};
use anyhow::{Context, Result, anyhow, ensure};
use nix::sys::signal::Signal;
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How a process is called.
#[derive(Debug, Clone)]
pub struct CommandLine {
    /// Role and id, see [`Process::place`].
    pub place: String,
    /// Arguments without the program.
    pub args: Vec<String>,
    /// Working directory.
    pub cwd: PathBuf,
    /// Where its output goes.
    pub log: PathBuf,
}

impl Cluster {
    /// Sends a signal to a process of this cluster.
    ///
    /// # Errors
    /// If the pid is not (or no longer) a process of this cluster.
    pub fn signal(&self, process: &Process, signal: Signal) -> Result<()> {
        let ours = process::runs_binary(process.pid, &binary::holdfast()?)
            || process::belongs_to(process.pid, self.home());
        ensure!(ours, "{} is no process of this cluster", process.name());
        println!("    {signal} -> {}", process.name());
        process::send(process.pid, signal)
    }

    /// `kill -9`, and waits until the process is gone. Answers when the signal was sent.
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub fn kill_9(&self, process: &Process) -> Result<Instant> {
        let at = Instant::now();
        self.signal(process, Signal::SIGKILL)?;
        wait::until_true(format!("the end of {}", process.name()), SOON, || {
            Ok(!process.alive())
        })?;
        Ok(at)
    }

    /// Waits until `up` has started a dead process again (another pid in `cluster.json`), and it lives.
    ///
    /// # Errors
    /// If it does not in time.
    pub fn wait_restarted(&self, dead: &Process) -> Result<Process> {
        wait::until(format!("the restart of {}", dead.name()), SOON, || {
            let now = self.file()?.processes;
            Ok(now
                .into_iter()
                .find(|p| p.same_place(dead) && p.pid != dead.pid && p.alive()))
        })
    }

    /// `kill -9` of the supervisor and every process at once.
    ///
    /// # Errors
    /// If one of them survives.
    pub fn kill_all(&mut self) -> Result<()> {
        // The supervisor first, or it would start again what is killed after it.
        self.kill_supervisor();
        let mut pids: Vec<i32> = Vec::new();
        if let Ok(file) = self.file() {
            pids.extend(file.supervisor_pid());
            pids.extend(file.processes.iter().map(|p| p.pid));
        }
        let binary = binary::holdfast()?;
        pids.retain(|pid| process::runs_binary(*pid, &binary));
        pids.extend(process::all_of(self.home()));
        pids.sort_unstable();
        pids.dedup();
        for pid in &pids {
            process::send(*pid, Signal::SIGKILL)?;
        }
        wait::until_true("the end of every process", SOON, || {
            let left: Vec<i32> = pids.iter().copied().filter(|p| process::alive(*p)).collect();
            ensure!(left.is_empty(), "still there: {left:?}");
            Ok(process::all_of(self.home()).is_empty())
        })
    }

    /// How a running process was called, to start it again by hand after its death.
    ///
    /// # Errors
    /// If it does not run.
    pub fn command_line(&self, process: &Process) -> Result<CommandLine> {
        let proc = PathBuf::from(format!("/proc/{}", process.pid));
        let bytes = std::fs::read(proc.join("cmdline")).with_context(|| process.name())?;
        let words = bytes.split(|b| *b == 0).filter(|w| !w.is_empty());
        let words: Vec<String> = words.map(|w| String::from_utf8_lossy(w).into_owned()).collect();
        ensure!(words.len() > 1, "{} has no command line", process.name());
        let cwd = std::fs::read_link(proc.join("cwd"))?;
        let log = process
            .log
            .clone()
            .unwrap_or_else(|| self.home().join("by-hand.log"));
        Ok(CommandLine {
            place: process.place(),
            args: words[1..].to_vec(),
            cwd,
            log,
        })
    }

    /// Starts a process that the supervisor does not know, or no longer starts.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start_by_hand(&mut self, command_line: &CommandLine) -> Result<()> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(&command_line.log)?;
        let child = Command::new(binary::holdfast()?)
            .args(&command_line.args)
            .current_dir(&command_line.cwd)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", command_line.place))?;
        println!("    by hand: {} (pid {})", command_line.place, child.id());
        self.by_hand.push((command_line.place.clone(), child));
        Ok(())
    }

    /// Waits until a process that was started by hand has ended, and answers its exit code (`None`: by a signal).
    ///
    /// # Errors
    /// If it was never started, or does not end within the deadline.
    pub fn wait_end_by_hand(&mut self, place: &str, deadline: Duration) -> Result<Option<i32>> {
        let found = self.by_hand.iter_mut().rev().find(|(p, _)| p == place);
        let (_, child) = found.ok_or_else(|| anyhow!("{place} was never started by hand"))?;
        let status = wait::until(format!("the end of {place}"), deadline, || Ok(child.try_wait()?))?;
        Ok(status.code())
    }

    /// `kill -9` of `up` alone: its children go on.
    pub fn kill_up_alone(&mut self) {
        if let Some(mut child) = self.supervisor.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// Sends a signal to `up` and waits for its end.
    ///
    /// # Errors
    /// If it does not run or does not end.
    pub fn signal_up(&mut self, signal: Signal) -> Result<()> {
        let mut child = self
            .supervisor
            .take()
            .ok_or_else(|| anyhow!("`up` does not run"))?;
        process::send(i32::try_from(child.id())?, signal)?;
        let ended = wait::until("the end of `up`", SOON, || Ok(child.try_wait()?));
        if ended.is_err() {
            child.kill().ok();
            child.wait().ok();
        }
        ended.map(drop)
    }

    pub(super) fn kill_supervisor(&mut self) {
        self.kill_up_alone();
        for (_, mut child) in self.by_hand.drain(..) {
            child.kill().ok();
            child.wait().ok();
        }
    }

    /// `holdfast down`: waits until it and the supervisor have ended and no process is left.
    ///
    /// # Errors
    /// If something is left.
    pub fn down(&mut self) -> Result<()> {
        self.cli(&["down"])?.expect_code(0)?;
        if let Some(mut child) = self.supervisor.take() {
            let ended = wait::until("the end of `up` after `down`", SOON, || Ok(child.try_wait()?));
            if ended.is_err() {
                child.kill().ok();
                child.wait().ok();
            }
            ended?;
        }
        wait::until_true("the end of every process after `down`", SOON, || {
            let left = process::all_of(self.home());
            ensure!(left.is_empty(), "still there: {left:?}");
            Ok(true)
        })
    }
}
