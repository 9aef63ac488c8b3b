//! Other processes: whether one is still the same, and signals to it.

use crate::files::PidStamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How often the end of a process that is not our child is looked for.
const POLL: Duration = Duration::from_millis(20);

/// The stamp of a running process.
#[must_use]
pub fn stamp(pid: u32) -> PidStamp {
    PidStamp {
        pid,
        started: stat(pid).map(|s| s.started),
    }
}

struct Stat {
    zombie: bool,
    started: u64,
}

/// From `/proc/PID/stat`; the command's name may contain anything, so fields are counted after its closing bracket.
fn stat(pid: u32) -> Option<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_stat(&text)
}

fn parse_stat(text: &str) -> Option<Stat> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    // The state is field 3, the start time field 22.
    let started = fields.nth(18)?.parse().ok()?;
    Some(Stat {
        zombie: matches!(state, "Z" | "X"),
        started,
    })
}

/// Processes of this user that were called `PROGRAM ROLE --config FILE` with a file in this directory, with their roles.
/// Empty on a system without `/proc`.
#[must_use]
pub fn configured_in(dir: &Path) -> Vec<(String, PidStamp)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let line = std::fs::read(entry.path().join("cmdline")).ok()?;
            Some((role_of(&line, dir)?, stamp(pid)))
        })
        .collect()
}

/// The role in a command line as `/proc` has it, if its configuration lies in this directory.
fn role_of(line: &[u8], dir: &Path) -> Option<String> {
    let mut words = line.split(|byte| *byte == 0).skip(1);
    let role = std::str::from_utf8(words.next()?).ok()?;
    let (flag, file) = (words.next()?, words.next()?);
    let ours = flag == b"--config" && Path::new(OsStr::from_bytes(file)).parent() == Some(dir);
    (ours && matches!(role, "coordinator" | "worker")).then(|| role.to_owned())
}

/// Whether this very process still runs.
#[must_use]
pub fn alive(stamp: PidStamp) -> bool {
    let Some(pid) = as_pid(stamp.pid) else {
        return false;
    };
    if kill(pid, None) == Err(nix::errno::Errno::ESRCH) {
        return false;
    }
    match stat(stamp.pid) {
        Some(stat) => !stat.zombie && stamp.started.is_none_or(|started| started == stat.started),
        // No /proc on this system, or the process has just gone: the signal above has the last word.
        None => kill(pid, None).is_ok() && !cfg!(target_os = "linux"),
    }
}

fn as_pid(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|p| *p > 0).map(Pid::from_raw)
}

/// Sends a signal if this very process still runs.
pub fn send(stamp: PidStamp, signal: Signal) {
    if let Some(pid) = as_pid(stamp.pid).filter(|_| alive(stamp))
        && let Err(error) = kill(pid, signal)
    {
        tracing::debug!(pid = stamp.pid, %signal, %error, "signal not delivered");
    }
}

/// Waits until all are gone; returns those that are not.
pub async fn wait_gone(stamps: &[PidStamp], patience: Duration) -> Vec<PidStamp> {
    let give_up = Instant::now() + patience;
    loop {
        let left: Vec<PidStamp> = stamps.iter().copied().filter(|s| alive(*s)).collect();
        if left.is_empty() || Instant::now() >= give_up {
            return left;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// SIGTERM, patience, SIGKILL.
pub async fn stop(stamps: &[PidStamp], patience: Duration) {
    for stamp in stamps {
        send(*stamp, Signal::SIGTERM);
        // A stopped process takes its SIGTERM only when it goes on.
        send(*stamp, Signal::SIGCONT);
    }
    let left = wait_gone(stamps, patience).await;
    for stamp in &left {
        tracing::warn!(pid = stamp.pid, "did not stop in time; killed");
        send(*stamp, Signal::SIGKILL);
    }
    wait_gone(&left, patience).await;
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_strange_command_name_does_not_shift_the_fields() {
        let fields: Vec<String> = (4..=52).map(|n| n.to_string()).collect();
        let stat = parse_stat(&format!("12 (a b) c) S {}", fields.join(" "))).unwrap();
        assert_eq!(stat.started, 22);
        assert!(!stat.zombie);
        assert!(parse_stat("nonsense").is_none());
    }

    #[test]
    fn a_process_is_known_by_its_configuration() {
        let dir = Path::new("/d/conf");
        let role = |words: &[&str]| role_of(words.join("\0").as_bytes(), dir);
        let ours = ["/bin/holdfast", "worker", "--config", "/d/conf/worker-1.yaml", ""];
        assert_eq!(role(&ours).as_deref(), Some("worker"));
        assert_eq!(
            role(&["holdfast", "worker", "--config", "/d/conf2/worker-1.yaml"]),
            None
        );
        assert_eq!(role(&["vi", "/d/conf/worker-1.yaml"]), None);
        assert_eq!(role(&["holdfast", "run", "--config", "/d/conf/x.yaml"]), None);
    }

    #[test]
    fn a_process_is_itself_and_a_reused_pid_is_not() {
        let own = stamp(std::process::id());
        assert!(alive(own));
        if let Some(started) = own.started {
            assert!(!alive(PidStamp {
                pid: own.pid,
                started: Some(started + 1)
            }));
        }
        assert!(!alive(PidStamp {
            pid: 0,
            started: None
        }));
    }

    #[tokio::test]
    async fn a_stopped_child_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let stamp = stamp(child.id());
        assert!(alive(stamp));
        stop(&[stamp], Duration::from_secs(5)).await;
        assert!(!alive(stamp));
        child.wait().unwrap();
    }
}
