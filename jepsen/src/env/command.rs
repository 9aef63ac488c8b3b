//! Running the system's tools, with a deadline and their words in the error.

use anyhow::{Context, Result, bail};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Longest that a tool may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs a program to its end and answers what it printed.
///
/// # Errors
/// If it cannot be started, fails, or takes too long.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    run_with_input(program, args, "")
}

/// The same with something on its standard input.
///
/// # Errors
/// See above.
pub fn run_with_input(program: &str, args: &[&str], input: &str) -> Result<String> {
    let said = || format!("{program} {}", args.join(" "));
    let mut child = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(said)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).with_context(said)?;
    }
    let end = Instant::now() + DEADLINE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > end {
            child.kill().ok();
            child.wait().ok();
            bail!("{}: not done within {DEADLINE:?}", said());
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let (mut out, mut err) = (String::new(), String::new());
    if let Some(mut pipe) = child.stdout.take() {
        pipe.read_to_string(&mut out).ok();
    }
    if let Some(mut pipe) = child.stderr.take() {
        pipe.read_to_string(&mut err).ok();
    }
    if !status.success() {
        bail!("{}: {status}: {}", said(), err.trim());
    }
    Ok(out)
}
