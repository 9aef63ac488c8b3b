//! The first example, checked: finds its input and output from the script itself and compares every row.

use crate::oracle::{self, FlightRow, FlightTime};
use crate::output::visible_lines;
use crate::script::options_of;
use anyhow::{Context, Result, anyhow, ensure};
use std::path::{Path, PathBuf};

/// The script, from the directory in which it is run.
pub const SCRIPT: &str = "examples/flights.sql";

/// Where the example reads and writes.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The data file.
    pub input: PathBuf,
    /// The sink's directory.
    pub output: PathBuf,
}

/// Reads the paths from the script below `home`: the sink's table is the one that an INSERT names.
///
/// # Errors
/// If the script is not as expected.
pub fn paths(home: &Path) -> Result<Paths> {
    let script = std::fs::read_to_string(home.join(SCRIPT)).with_context(|| SCRIPT)?;
    let tables = options_of(&script, "path");
    let words: Vec<&str> = script.split_whitespace().collect();
    let inserted = |table: &str| {
        words.windows(3).any(|w| {
            w[0].eq_ignore_ascii_case("INSERT")
                && w[1].eq_ignore_ascii_case("INTO")
                && w[2].trim_matches('`') == table
        })
    };
    let local = |value: &str| home.join(value.trim_start_matches("file://"));
    let sink = tables
        .iter()
        .find(|t| inserted(&t.table))
        .ok_or_else(|| anyhow!("{SCRIPT} has no sink"))?;
    let source = tables
        .iter()
        .find(|t| !inserted(&t.table))
        .ok_or_else(|| anyhow!("{SCRIPT} has no source"))?;
    Ok(Paths {
        input: data_file(&local(&source.value))?,
        output: local(&sink.value),
    })
}

/// The file itself, or the only file of a directory.
fn data_file(path: &Path) -> Result<PathBuf> {
    if path.is_dir() {
        let mut files: Vec<PathBuf> = std::fs::read_dir(path)?.flatten().map(|e| e.path()).collect();
        ensure!(
            files.len() == 1,
            "{} holds {} files, not one",
            path.display(),
            files.len()
        );
        return files.pop().ok_or_else(|| anyhow!("no file"));
    }
    ensure!(path.exists(), "{} is not there", path.display());
    Ok(path.to_path_buf())
}

/// Compares the committed output below `home` with an independent computation. Answers the lines of the output.
///
/// # Errors
/// Names what differs.
pub fn check(home: &Path) -> Result<Vec<String>> {
    let paths = paths(home)?;
    let lines = visible_lines(&paths.output)?;
    ensure!(!lines.is_empty(), "{} holds no rows", paths.output.display());
    let rows: Vec<FlightRow> = lines
        .iter()
        .map(|line| FlightRow::parse(line))
        .collect::<Result<_>>()?;
    oracle::check_rows(rows, oracle::flights(&paths.input, FlightTime::Departed)?)?;
    Ok(lines)
}
