//! Other processes: whether one is still the same, and signals to it.

use crate::files::PidStamp;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
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
