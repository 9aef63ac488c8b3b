//! Free ports, and keeping other local clusters away from them.
//!
//! A port is ours while we hold the lock of its file in the system's temporary directory: between choosing it and the
//! child's bind, and between a child's death and its restart, the port itself is not bound.

use anyhow::{Context, Result};
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// First REST port: Flink's.
pub const REST_FIRST: u16 = 8081;
/// First RPC port.
pub const RPC_FIRST: u16 = 7101;
/// Ports that are tried from the first on.
const TRIES: u16 = 900;

/// The first `count` ports from `first` on that `take` takes, in order.
pub fn pick(first: u16, count: usize, mut take: impl FnMut(u16) -> bool) -> Option<Vec<u16>> {
    let candidates = first..first.saturating_add(TRIES);
    let ports: Vec<u16> = candidates.filter(|port| take(*port)).take(count).collect();
    (ports.len() == count).then_some(ports)
}

/// Locks on ports; dropped, they are free for others.
#[derive(Debug, Default)]
pub struct PortLocks {
    held: Vec<File>,
}

impl PortLocks {
    /// Picks free ports and holds them.
    ///
    /// # Errors
    /// If there are not enough.
    pub fn pick(&mut self, first: u16, count: usize) -> Result<Vec<u16>> {
        pick(first, count, |port| self.take(port)).with_context(|| {
            format!(
                "there are no {count} free ports on 127.0.0.1 from {first} to {}",
                first.saturating_add(TRIES)
            )
        })
    }

    /// Takes one port if nobody listens on it and no other cluster holds it.
    pub fn take(&mut self, port: u16) -> bool {
        let Some(lock) = lock(port) else { return false };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            return false;
        }
        self.held.push(lock);
        true
    }
}

fn lock(port: u16) -> Option<File> {
    // Per user: another user's files cannot be opened.
    let user = nix::unistd::getuid();
    let dir: PathBuf = std::env::temp_dir().join(format!("holdfast-ports-{user}"));
    std::fs::create_dir_all(&dir).ok()?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(dir.join(format!("{port}.lock")))
        .ok()?;
    file.try_lock().ok()?;
    Some(file)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_free_ports_are_picked_in_order() {
        assert_eq!(pick(8081, 3, |p| p != 8082), Some(vec![8081, 8083, 8084]));
        assert_eq!(pick(8081, 1, |_| false), None);
        assert_eq!(pick(65_500, 100, |_| true), None);
    }

    #[test]
    fn a_port_in_use_or_held_is_passed_over() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut locks = PortLocks::default();
        assert!(!locks.take(port));
        drop(listener);
        assert!(locks.take(port));
        assert!(!PortLocks::default().take(port), "held by another cluster");
        drop(locks);
        assert!(PortLocks::default().take(port));
    }
}
