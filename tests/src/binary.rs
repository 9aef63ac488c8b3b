//! Finds the binary under test and runs its short commands.

use crate::wait;
use anyhow::{Context, Result, anyhow, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// Environment variable that names another binary.
pub const BINARY_VARIABLE: &str = "HOLDFAST_BIN";

/// The workspace's root.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The release binary `holdfast`: `HOLDFAST_BIN`, or `release/holdfast` in the target directory of this very program.
/// Tests of a release build bring the latter up to date first: `cargo test` alone builds no plain binaries.
///
/// # Errors
/// If there is none; says how to build it.
pub fn holdfast() -> Result<PathBuf> {
    static FOUND: Mutex<Option<PathBuf>> = Mutex::new(None);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = found.as_ref() {
        return Ok(path.clone());
    }
    let path = match std::env::var_os(BINARY_VARIABLE) {
        Some(path) => PathBuf::from(path),
        None => {
            let target = target_dir()?;
            let path = target.join("release").join("holdfast");
            if let Some(reason) = out_of_date(&path) {
                build(&target, &reason)?;
            }
            path
        }
    };
    ensure!(
        path.is_file(),
        "there is no binary at {}: build it with `cargo build --release`, or name one with {BINARY_VARIABLE}",
        path.display()
    );
    let path = path.canonicalize().with_context(|| path.display().to_string())?;
    Ok(found.insert(path).clone())
}

/// Builds the binary as `cargo build --release` does. Its dependencies are compiled already if the tests are.
fn build(target: &Path, reason: &str) -> Result<()> {
    if cfg!(debug_assertions) {
        // A release build from scratch takes minutes; who tests a debug build may not want it.
        eprintln!("warning: {reason}: cargo build --release");
        return Ok(());
    }
    eprintln!("{reason}: cargo build --release");
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .args(["build", "--release", "--locked", "-p", "holdfast", "--target-dir"])
        .arg(target);
    command.current_dir(workspace()).stdin(Stdio::null());
    let said = run_command(command, "cargo build --release".into(), Duration::from_secs(1800))?;
    said.expect_code(0).map(drop)
}

/// Why the binary must be built; `None` if it is newer than every source.
fn out_of_date(binary: &Path) -> Option<String> {
    let Ok(built) = std::fs::metadata(binary).and_then(|m| m.modified()) else {
        return Some(format!("there is no {}", binary.display()));
    };
    let crates = [
        "common",
        "proto",
        "dataflow",
        "storage",
        "sql",
        "connectors",
        "coordinator",
        "worker",
        "cli",
    ];
    let (changed, path) = crates
        .iter()
        .filter_map(|name| newest_source(&workspace().join(name)))
        .max()?;
    (changed > built).then(|| format!("{} is older than {}", binary.display(), path.display()))
}

fn newest_source(dir: &Path) -> Option<(SystemTime, PathBuf)> {
    let entries = std::fs::read_dir(dir).ok()?.flatten();
    entries
        .filter_map(|entry| {
            let path = entry.path();
            if path.is_dir() {
                return newest_source(&path);
            }
            let ours = path.extension().is_some_and(|e| e == "rs" || e == "proto");
            ours.then(|| entry.metadata().and_then(|m| m.modified()).ok())
                .flatten()
                .map(|at| (at, path))
        })
        .max()
}

/// `<target>/<profile>/deps/<this program>` or `<target>/<profile>/<this program>`: the directory that is marked.
fn target_dir() -> Result<PathBuf> {
    let me = std::env::current_exe().context("cannot tell where this program lies")?;
    me.ancestors()
        .skip(1)
        .find(|dir| dir.join("CACHEDIR.TAG").is_file() || dir.file_name().is_some_and(|n| n == "target"))
        .map(Path::to_path_buf)
        .ok_or_else(|| {
            anyhow!(
                "{} does not lie in a target directory; set {BINARY_VARIABLE}",
                me.display()
            )
        })
}

/// What a finished command said.
#[derive(Debug)]
pub struct Said {
    /// How it was called, for messages.
    pub call: String,
    /// Exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Said {
    /// Refuses any exit code but `code`, with everything that was said.
    ///
    /// # Errors
    /// See above.
    pub fn expect_code(self, code: i32) -> Result<Self> {
        if self.code != Some(code) {
            bail!("exit code {:?}, not {code}: {self}", self.code);
        }
        Ok(self)
    }

    /// Refuses an output (of both streams together) in which `part` does not occur, whatever its case.
    ///
    /// # Errors
    /// See above.
    pub fn expect_text(&self, part: &str) -> Result<()> {
        let all = format!("{}\n{}", self.stdout, self.stderr).to_lowercase();
        if !all.contains(&part.to_lowercase()) {
            bail!("the output does not contain '{part}': {self}");
        }
        Ok(())
    }
}

impl std::fmt::Display for Said {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "`{}` (exit code {:?} after {:?})\n--- stdout\n{}\n--- stderr\n{}",
            self.call, self.code, self.took, self.stdout, self.stderr
        )
    }
}

/// Runs `holdfast ARGS` in `cwd` to its end.
///
/// # Errors
/// If it cannot be started, or does not end within `deadline` (it is killed then).
pub fn run(cwd: &Path, args: &[&str], deadline: Duration) -> Result<Said> {
    let binary = holdfast()?;
    let call = format!("holdfast {}", args.join(" "));
    let mut command = Command::new(&binary);
    command
        .args(args)
        .current_dir(cwd)
        .env_remove("HOLDFAST_REST")
        .stdin(Stdio::null());
    run_command(command, call, deadline)
}

/// Runs any command to its end, as [`run`].
///
/// # Errors
/// As [`run`].
pub fn run_command(mut command: Command, call: String, deadline: Duration) -> Result<Said> {
    let start = Instant::now();
    // Files, not pipes: a grandchild that inherits a pipe would keep it open after the command's end.
    let dir = tempfile::tempdir()?;
    let (out_path, err_path) = (dir.path().join("out"), dir.path().join("err"));
    command
        .stdout(std::fs::File::create(&out_path)?)
        .stderr(std::fs::File::create(&err_path)?);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start `{call}`"))?;
    let ended = wait::until(format!("the end of `{call}`"), deadline, || Ok(child.try_wait()?));
    let read = |path: &Path| std::fs::read(path).map(|b| String::from_utf8_lossy(&b).into_owned());
    let (stdout, stderr) = (read(&out_path)?, read(&err_path)?);
    match ended {
        Ok(status) => Ok(Said {
            call,
            code: status.code(),
            stdout,
            stderr,
            took: start.elapsed(),
        }),
        Err(error) => {
            child.kill().ok();
            child.wait().ok();
            Err(error.context(format!("--- stdout\n{stdout}\n--- stderr\n{stderr}")))
        }
    }
}
