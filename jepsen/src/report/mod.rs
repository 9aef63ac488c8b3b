//! What a person reads of a run: one self-contained page per run, an index over runs, and a summary in Markdown. All
//! numbers come from the stored history.

mod axis;
mod html;
mod index;
mod lanes;
mod latency;
mod operations;
mod page;

pub use index::{RunSummary, summarise, write_index};

use crate::history::{Event, Finding};
use crate::runner::RunInfo;
use anyhow::{Context, Result};
use std::path::Path;

/// Writes `report.html`, `findings.json` and `summary.json` into a run's directory.
///
/// # Errors
/// If a file cannot be written.
pub fn write_report(dir: &Path, run: &RunInfo, history: &[Event], findings: &[Finding]) -> Result<()> {
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.join(name);
        std::fs::write(&path, bytes).with_context(|| path.display().to_string())
    };
    write("report.html", page::page(run, history, findings).as_bytes())?;
    write(
        "summary.json",
        &serde_json::to_vec_pretty(&summarise(run, history, findings))?,
    )
}
