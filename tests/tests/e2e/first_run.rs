//! The first thing that a newcomer does: `holdfast up --job examples/flights.sql`, and the result is exactly right.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;
use tests::cluster::OnlyOne;
use tests::{binary, flights, oracle, process};

fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

#[test]
fn first_run_of_the_flights_example() -> Result<()> {
    let _only_one = OnlyOne::acquire()?;
    let home = tempfile::Builder::new().prefix("holdfast-first-run-").tempdir()?;
    copy(
        &binary::workspace().join("examples"),
        &home.path().join("examples"),
    )?;
    let paths = flights::paths(home.path())?;
    if paths.output.exists() {
        std::fs::remove_dir_all(&paths.output)?;
    }
    let said = binary::run(
        home.path(),
        &["up", "--job", flights::SCRIPT],
        Duration::from_secs(300),
    );
    let left = process::all_of(home.path());
    for pid in &left {
        process::send(*pid, Signal::SIGKILL)?;
    }
    let said = said?.expect_code(0)?;
    println!(
        "    {} lines of output in {:?}",
        said.stdout.lines().count(),
        said.took
    );
    ensure!(left.is_empty(), "processes were left behind: {left:?}\n{said}");
    let lines = flights::check(home.path()).with_context(|| said.to_string())?;
    println!("    {} rows, all exact", lines.len());
    let name = paths
        .output
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    said.expect_text(&name)
        .context("the output does not say where the result lies")?;
    // Rows may be shown as a table: all fields of one row must appear.
    let shown = lines.iter().any(|line| {
        oracle::split_csv(line)
            .iter()
            .all(|field| said.stdout.contains(field.as_str()))
    });
    ensure!(shown, "the output shows none of the rows\n{said}");
    Ok(())
}
