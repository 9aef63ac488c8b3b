//! Snapshot files under crashes at every step and damage at every bit.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::disk::{NoFaults, Step};
use crate::types::{LeaderId, LogId, StoredMembership};
use std::sync::atomic::{AtomicUsize, Ordering};

/// Fails at the n-th step, and at every one after it, as a crash does.
struct CrashAt {
    left: Arc<AtomicUsize>,
}

impl Faults for CrashAt {
    fn before(&self, step: Step) -> io::Result<()> {
        let left = self.left.load(Ordering::Relaxed);
        if left == 0 {
            return Err(io::Error::other(format!("crash before {step:?}")));
        }
        self.left.store(left - 1, Ordering::Relaxed);
        Ok(())
    }
}

fn meta(index: u64) -> SnapshotMeta {
    SnapshotMeta {
        last_log_id: Some(LogId::new(LeaderId { term: 1, node_id: 1 }, index)),
        last_membership: StoredMembership::default(),
    }
}

fn reopened(dir: &Path) -> Option<(SnapshotMeta, Bytes)> {
    SnapshotDir::open(dir, "c", Box::new(NoFaults))
        .unwrap()
        .read_current()
        .unwrap()
}

#[test]
fn a_crash_at_any_step_leaves_the_old_snapshot_or_the_new_one() {
    for steps in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let faults = CrashAt {
            left: Arc::clone(&left),
        };
        let snapshots = SnapshotDir::open(dir.path(), "c", Box::new(faults)).unwrap();
        snapshots.store(&meta(5), b"five").unwrap();
        left.store(steps, Ordering::Relaxed);
        let stored = snapshots.store(&meta(9), b"nine");
        let found = reopened(dir.path()).unwrap();
        let new = (meta(9), Bytes::from_static(b"nine"));
        if stored.is_ok() {
            assert_eq!(found, new, "after {steps} steps");
        } else {
            assert!(
                found == new || found == (meta(5), Bytes::from_static(b"five")),
                "after {steps} steps"
            );
        }
        // Nothing half written is left.
        let files = std::fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(files, 1, "after {steps} steps");
    }
}

#[test]
fn an_older_snapshot_never_replaces_a_newer_one() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path(), "c", Box::new(NoFaults)).unwrap();
    assert_eq!(snapshots.read_current().unwrap(), None);
    snapshots.store(&meta(9), b"nine").unwrap();
    snapshots.store(&meta(5), b"five").unwrap();
    assert_eq!(reopened(dir.path()).unwrap().0, meta(9));
}

#[test]
fn every_flipped_bit_and_every_cut_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let snapshots = SnapshotDir::open(dir.path(), "c", Box::new(NoFaults)).unwrap();
    snapshots.store(&meta(9), b"nine").unwrap();
    let path = std::fs::read_dir(dir.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let good = Bytes::from(std::fs::read(path).unwrap());
    assert!(decode(&good, "c").is_ok());
    assert!(decode(&good, "other").is_err(), "another cluster's");
    for bit in 0..good.len() * 8 {
        let mut bad = good.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bad.into(), "c").is_err(), "bit {bit}");
    }
    for end in 0..good.len() {
        assert!(decode(&good.slice(..end), "c").is_err(), "cut at {end}");
    }
}
