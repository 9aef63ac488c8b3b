//! When the next snapshot is due: not before as much was logged as the last snapshot holds. Writing a large state anew
//! every few thousand entries would cost more than everything else; so the work on snapshots is in proportion to the
//! work on entries, and a restart replays about as much as it loads.

use crate::core::Core;
use crate::types::Raft;
use std::sync::Weak;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::Notify;

/// So many bytes of entries are enough, however few they are: they have to be read again after a restart.
const AFTER_BYTES: u64 = 64 << 20;

/// What was applied since the last snapshot.
pub(crate) struct Growth {
    /// Entries that one waits for at least.
    after_entries: u64,
    entries: AtomicU64,
    bytes: AtomicU64,
    /// Size of the last snapshot.
    snapshot_bytes: AtomicU64,
    asked: AtomicBool,
    due: Notify,
}

impl Growth {
    pub(crate) fn new(after_entries: u64) -> Self {
        Self {
            after_entries,
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            snapshot_bytes: AtomicU64::new(0),
            asked: AtomicBool::new(false),
            due: Notify::new(),
        }
    }

    /// Entries were applied. Only the state machine calls this, from one task at a time.
    pub(crate) fn applied(&self, entries: u64, bytes: u64) {
        let entries = self.entries.fetch_add(entries, Ordering::Relaxed) + entries;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let enough = (entries >= self.after_entries || bytes >= AFTER_BYTES)
            && bytes >= self.snapshot_bytes.load(Ordering::Relaxed);
        if enough && !self.asked.swap(true, Ordering::Relaxed) {
            self.due.notify_one();
        }
    }

    /// A snapshot of what is applied now begins.
    pub(crate) fn begins(&self) {
        self.entries.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.asked.store(false, Ordering::Relaxed);
    }

    /// A snapshot is there.
    pub(crate) fn stored(&self, bytes: usize) {
        self.snapshot_bytes
            .store(u64::try_from(bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Asks for snapshots when they are due.
pub(crate) async fn run(core: Weak<Core>) {
    loop {
        let growth = match core.upgrade() {
            Some(core) => core.view.growth.clone(),
            None => return,
        };
        growth.due.notified().await;
        let Some(core) = core.upgrade() else { return };
        // It fails only when consensus has stopped, which is told elsewhere.
        let snapshot = async |raft: &Raft| raft.trigger().snapshot().await;
        if core.raft.ask(snapshot).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_due(growth: &Growth) -> bool {
        growth.asked.load(Ordering::Relaxed)
    }

    #[test]
    fn a_large_state_is_not_written_again_before_as_much_was_logged() {
        let growth = Growth::new(10);
        growth.applied(9, 5000);
        assert!(!is_due(&growth));
        growth.applied(1, 100);
        assert!(is_due(&growth));
        growth.begins();
        growth.stored(4000);
        growth.applied(20, 3999);
        assert!(!is_due(&growth));
        growth.applied(1, 1);
        assert!(is_due(&growth));
        growth.begins();
        growth.applied(1, AFTER_BYTES);
        assert!(is_due(&growth), "few, but large");
    }
}
