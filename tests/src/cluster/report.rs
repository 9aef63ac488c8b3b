//! What a failing test leaves behind for people: the tail of every log.

use super::Cluster;
use anyhow::Result;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// Bytes of every log that a failing test prints.
const LOG_TAIL_BYTES: u64 = 6_000;

impl Cluster {
    /// Prints the tail of every log.
    pub fn report(&self) {
        println!("==== {}: logs of {}", self.name, self.home().display());
        if let Ok(text) = std::fs::read_to_string(self.dir().join("cluster.json")) {
            println!("---- cluster.json\n{}", text.trim_end());
        }
        let mut logs = vec![self.home().join("up.log")];
        if let Ok(file) = self.file() {
            logs.extend(file.processes.into_iter().filter_map(|p| p.log));
        }
        for log in logs {
            let tail = tail(&log).unwrap_or_else(|e| format!("cannot be read: {e}"));
            println!("---- {}\n{}", log.display(), tail.trim_end());
        }
        println!("==== end of logs");
    }

    /// What `up` has printed so far.
    ///
    /// # Errors
    /// If its log cannot be read.
    pub fn printed(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.home().join("up.log"))?)
    }

    /// Ends every process and leaves the directory, logs and data, where it is.
    pub fn keep(&mut self) -> Option<PathBuf> {
        self.kill_all().ok();
        self.home.take().map(TempDir::keep)
    }

    pub(super) fn keep_and_report(&mut self) {
        self.report();
        if let Some(home) = self.keep() {
            println!("==== {}: kept {}", self.name, home.display());
        }
    }
}

fn tail(path: &Path) -> Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
