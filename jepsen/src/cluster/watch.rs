//! The threads that watch: ends of processes, their logs, and what each coordinator says of itself.

use super::{Shared, Start, Status, http};
use crate::check::words::note;
use crate::env::{Role, netns};
use anyhow::Result;
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often processes are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// How often a coordinator is asked.
const ASK: Duration = Duration::from_millis(50);
/// How long an answer may take.
const ANSWER: Duration = Duration::from_millis(300);
/// After how long a process that ended by itself is started again, as a service manager does.
const AGAIN: Duration = Duration::from_millis(300);
/// Log lines that are recorded of one node at most.
const LINES_MAX: usize = 2_000;

pub(super) fn start(shared: &Arc<Shared>) -> Result<Vec<JoinHandle<()>>> {
    let mut threads = Vec::new();
    let own = Arc::clone(shared);
    let name = std::thread::Builder::new().name("watch".into());
    threads.push(name.spawn(move || processes(&own))?);
    for place in shared.env.places().iter().filter(|p| p.role == Role::Coordinator) {
        let (own, place) = (Arc::clone(shared), place.clone());
        let name = std::thread::Builder::new().name(format!("ask-{}", place.name));
        threads.push(name.spawn(move || {
            let entered = place.namespace.as_ref().map(|namespace| {
                let file = File::open(netns::path(namespace))?;
                setns(file, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
            });
            if let Some(Err(error)) = entered {
                eprintln!("jepsen: {}: {error}", place.name);
                return;
            }
            ask(&own, &place.name, place.rest);
        })?);
    }
    Ok(threads)
}

fn processes(shared: &Shared) {
    while !shared.stop.load(Ordering::Relaxed) {
        for node in shared.nodes.values() {
            let mut node = node.lock().unwrap_or_else(PoisonError::into_inner);
            if node.look(&shared.world) {
                node.again_at = Some(Instant::now() + AGAIN);
            }
            let due = node.again_at.is_some_and(|at| at <= Instant::now());
            if due && !shared.closing.load(Ordering::Relaxed) {
                node.again_at = None;
                if let Err(error) = node.start(&shared.env, &shared.world, Start::default()) {
                    eprintln!("jepsen: {}: {error:#}", node.name());
                }
            }
            let lines = new_lines(node.log(), node.read);
            node.read += lines.0;
            let process = format!("node:{}", node.name());
            drop(node);
            for line in lines.1 {
                shared
                    .world
                    .record(note(shared.world.now(), &process, "cluster", "log").with("line", line));
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Whole lines that were added to a log since `from`, and of them those that checkers read.
fn new_lines(log: &Path, from: u64) -> (u64, Vec<String>) {
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        if file.metadata()?.len() <= from {
            return Ok(Vec::new());
        }
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(1024 * 1024).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let mut bytes = read().unwrap_or_default();
    let whole = bytes.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
    bytes.truncate(whole);
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().filter(|line| telling(line)).take(LINES_MAX);
    (
        whole as u64,
        lines.map(|line| line.chars().take(600).collect()).collect(),
    )
}

fn telling(line: &str) -> bool {
    const WORDS: [&str; 8] = [
        "ERROR",
        "panicked at",
        "invariant",
        "digest",
        "fenc",
        "stale",
        "refus",
        "snapshot",
    ];
    WORDS.iter().any(|word| line.contains(word))
}

fn ask(shared: &Shared, name: &str, rest: SocketAddr) {
    let mut known = (0, None, String::new());
    while !shared.stop.load(Ordering::Relaxed) {
        std::thread::sleep(ASK);
        let Ok((200, body)) = http::request(rest, "GET", "/v1/cluster?stale=true", ANSWER) else {
            continue;
        };
        let Some(status) = read_status(&body, shared.world.now()) else {
            continue;
        };
        let now = (status.term, status.leader, status.role.clone());
        if now != known {
            let event = note(status.at, &format!("node:{name}"), "cluster", "role");
            shared.world.record(
                event
                    .with("role", status.role.clone())
                    .with("term", status.term)
                    .with("leader", status.leader),
            );
            known = now;
        }
        let mut statuses = shared.status.lock().unwrap_or_else(PoisonError::into_inner);
        statuses.insert(name.to_owned(), status);
    }
}

fn read_status(body: &str, at: u64) -> Option<Status> {
    let view: Value = serde_json::from_str(body).ok()?;
    let own = view["answered_by"].as_u64();
    let members = view["coordinators"].as_array()?;
    let role = members.iter().find(|member| member["id"].as_u64() == own);
    Some(Status {
        term: view["term"].as_u64()?,
        leader: view["leader"].as_u64(),
        role: role
            .and_then(|m| m["role"].as_str())
            .unwrap_or("outside")
            .to_owned(),
        at,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_whole_lines_are_read_and_each_once() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        std::fs::write(&log, "INFO fine\nERROR one\nthread 'x' panicked at y\nERROR tw").unwrap();
        let (read, lines) = new_lines(&log, 0);
        assert_eq!(lines, ["ERROR one", "thread 'x' panicked at y"]);
        std::fs::write(
            &log,
            "INFO fine\nERROR one\nthread 'x' panicked at y\nERROR two\n",
        )
        .unwrap();
        assert_eq!(new_lines(&log, read).1, ["ERROR two"]);
    }

    #[test]
    fn a_coordinator_tells_its_role() {
        let body = r#"{"leader":2,"term":7,"answered_by":2,"coordinators":[{"id":1,"role":"follower"},
            {"id":2,"role":"leader"}]}"#;
        let status = read_status(body, 5).unwrap();
        assert_eq!(
            (status.term, status.leader, status.role.as_str()),
            (7, Some(2), "leader")
        );
    }
}
