//! How results are printed: lines for people, or one JSON object.

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// Form of the results on standard output. Progress goes to standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Form {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object.
    Json,
}

impl Form {
    /// Prints a result.
    ///
    /// # Errors
    /// If it cannot be written as JSON.
    pub fn print<T: Serialize>(self, result: &T, text: impl FnOnce(&T) -> String) -> Result<()> {
        match self {
            Self::Text => println!("{}", text(result)),
            Self::Json => println!("{}", serde_json::to_string_pretty(result)?),
        }
        Ok(())
    }
}

/// The machine that the numbers are from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    /// Logical processors.
    pub cpus: usize,
    /// Their model, as the kernel names it.
    pub model: String,
    /// Kernel.
    pub kernel: String,
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn this() -> Self {
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpuinfo
            .lines()
            .find(|l| l.starts_with("model name"))
            .and_then(|l| l.split(": ").nth(1));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            model: model.unwrap_or("unknown").to_owned(),
            kernel: kernel.trim().to_owned(),
        }
    }
}
