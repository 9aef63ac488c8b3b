//! When the next snapshot is due: not before as much was logged as the last snapshot holds. Writing a large state anew
//! every few thousand entries would cost more than everything else; so the work on snapshots is in proportion to the
//! work on entries, and a restart replays about as much as it loads.

use crate::core::Core;
use crate::types::Raft;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// So many bytes of entries are enough, however few they are: they have to be read again after a restart.
const AFTER_BYTES: u64 = 64 << 20;

/// openraft passes over a request for a snapshot while one is being built. So it is asked again, as often as this,
/// until one begins.
const ASK_AGAIN: Duration = Duration::from_secs(1);

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
    /// Of coordinator `id`. The coordinators begin at different distances from their first snapshot, and so do not
    /// write all at once later either: a quorum is always free of it.
    pub(crate) fn new(id: u64, after_entries: u64) -> Self {
        // Multiples of the golden ratio: any few that follow one another lie well apart.
        let ahead = u128::from(id.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let part = |of: u64| u64::try_from((u128::from(of) * ahead) >> 64).unwrap_or(0);
        Self {
            after_entries,
            entries: AtomicU64::new(part(after_entries)),
            bytes: AtomicU64::new(part(AFTER_BYTES)),
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

    /// One is due, and none has begun since.
    fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
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
        let ask = || ask(core.upgrade());
        if ask_until_begun(&growth, ask).await.is_none() {
            return;
        }
    }
}

async fn ask(core: Option<Arc<Core>>) -> Option<()> {
    // It fails only when consensus has stopped, which is told elsewhere.
    let snapshot = async |raft: &Raft| raft.trigger().snapshot().await;
    core?.raft.ask(snapshot).await.ok().map(drop)
}

/// `None`: there is nobody any more who could be asked.
async fn ask_until_begun<F: Future<Output = Option<()>>>(growth: &Growth, ask: impl Fn() -> F) -> Option<()> {
    while growth.is_asked() {
        ask().await?;
        tokio::time::sleep(ASK_AGAIN).await;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_state_is_not_written_again_before_as_much_was_logged() {
        let growth = Growth::new(0, 10);
        growth.applied(9, 5000);
        assert!(!growth.is_asked());
        growth.applied(1, 100);
        assert!(growth.is_asked());
        growth.begins();
        growth.stored(4000);
        growth.applied(20, 3999);
        assert!(!growth.is_asked());
        growth.applied(1, 1);
        assert!(growth.is_asked());
        growth.begins();
        growth.applied(1, AFTER_BYTES);
        assert!(growth.is_asked(), "few, but large");
    }

    /// Three, five or seven coordinators that apply the same entries have their snapshots due well apart, and each one
    /// as often as is asked.
    #[test]
    fn coordinators_take_turns() {
        for members in [3, 5, 7] {
            let mut due = Vec::new();
            for id in 1..=members {
                let growth = Growth::new(id, 1000);
                let mut at = Vec::new();
                for entry in 1..=3000 {
                    growth.applied(1, 100);
                    if growth.is_asked() {
                        growth.begins();
                        growth.stored(500);
                        at.push(entry);
                    }
                }
                assert_eq!(at[1] - at[0], 1000);
                assert_eq!(at[2] - at[1], 1000);
                due.extend(at);
            }
            due.sort_unstable();
            let apart = due.windows(2).map(|pair| pair[1] - pair[0]).min();
            assert!(apart >= Some(1000 / (3 * members)), "{members}: {due:?}");
        }
    }

    /// While a snapshot was being built for longer than it took for the next one to be due, the request for that one
    /// was lost, and so was every later one: the log grew until the next start.
    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_passed_over_is_made_again() {
        let growth = Growth::new(0, 10);
        growth.applied(10, 10);
        let asked = AtomicU64::new(0);
        let ask = || {
            if asked.fetch_add(1, Ordering::Relaxed) == 2 {
                growth.begins();
            }
            std::future::ready(Some(()))
        };
        assert_eq!(ask_until_begun(&growth, ask).await, Some(()));
        assert_eq!(asked.load(Ordering::Relaxed), 3);
        growth.applied(10, 10);
        assert_eq!(ask_until_begun(&growth, || std::future::ready(None)).await, None);
    }
}
