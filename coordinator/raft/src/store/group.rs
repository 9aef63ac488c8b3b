//! Group commit: while one sync is under way, whoever wants the next one waits for it together. Nobody waits for company:
//! the first one is synced at once, and the longer that takes, the more the next sync serves. Knows no store.
//!
//! D. DeWitt et al., "Implementation techniques for main memory database systems", SIGMOD 1984.

use super::Flushed;
use parking_lot::{Condvar, Mutex};
use std::io;

/// Bytes that may wait for a sync, or be under way, before writers are held up.
const BYTES_MAX: usize = 64 << 20;

#[derive(Default)]
struct State {
    under_way: bool,
    bytes_under_way: usize,
    next: Batch,
}

impl State {
    fn is_full(&self) -> bool {
        self.bytes_under_way + self.next.bytes >= BYTES_MAX
    }
}

/// What one sync serves.
#[derive(Default)]
pub(super) struct Batch {
    waiting: Vec<Flushed>,
    bytes: usize,
    /// Whether anybody needs it on disk, and not only written.
    pub(super) sync: bool,
    /// Whether anybody asked at all.
    asked: bool,
}

impl Batch {
    /// Tells everybody how it went.
    pub(super) fn tell(self, result: &io::Result<()>) {
        for flushed in self.waiting {
            flushed.done(match result {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
    }
}

/// Who waits for which sync.
#[derive(Default)]
pub(super) struct Group {
    state: Mutex<State>,
    ended: Condvar,
}

impl Group {
    /// Holds the caller up for as long as too much waits for the disk.
    pub(super) fn wait_for_room(&self) {
        self.ended.wait_while(&mut self.state.lock(), |s| s.is_full());
    }

    /// Wants what was written until now, `bytes` of it new, to be handed to the disk, and to be told.
    pub(super) fn ask(&self, flushed: Option<Flushed>, sync: bool, bytes: usize) {
        let next = &mut self.state.lock().next;
        next.waiting.extend(flushed);
        next.bytes += bytes;
        next.sync |= sync;
        next.asked = true;
    }

    /// Whether a sync should begin.
    pub(super) fn is_due(&self) -> bool {
        let state = self.state.lock();
        state.next.asked && !state.under_way
    }

    /// Whether a sync is under way or asked for.
    pub(super) fn is_busy(&self) -> bool {
        let state = self.state.lock();
        state.next.asked || state.under_way
    }

    /// Whether writers are held up.
    #[cfg(test)]
    pub(super) fn is_full(&self) -> bool {
        self.state.lock().is_full()
    }

    /// Waits until no sync is under way.
    pub(super) fn wait_for_end(&self) {
        self.ended
            .wait_while(&mut self.state.lock(), |state| state.under_way);
    }

    /// Begins a sync if it is due; [`Self::ended`] must follow.
    pub(super) fn begin(&self) -> Option<Batch> {
        let mut state = self.state.lock();
        if !state.next.asked || state.under_way {
            return None;
        }
        let batch = std::mem::take(&mut state.next);
        state.under_way = true;
        state.bytes_under_way = batch.bytes;
        Some(batch)
    }

    /// The sync is over, however it went.
    pub(super) fn ended(&self) {
        let mut state = self.state.lock();
        state.under_way = false;
        state.bytes_under_way = 0;
        self.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::{Receiver, channel};

    fn flushed() -> (Flushed, Receiver<bool>) {
        let (tx, rx) = channel();
        (Flushed::new(move |r| tx.send(r.is_ok()).unwrap()), rx)
    }

    #[test]
    fn who_comes_during_a_sync_waits_for_the_next_one() {
        let group = Group::default();
        assert!(!group.is_due() && group.begin().is_none());
        let (a, told_a) = flushed();
        group.ask(Some(a), false, 10);
        let first = group.begin().unwrap();
        assert!(!first.sync);
        let (b, told_b) = flushed();
        let (c, told_c) = flushed();
        group.ask(Some(b), true, 10);
        group.ask(Some(c), false, 10);
        assert!(!group.is_due() && group.begin().is_none());
        first.tell(&Ok(()));
        assert!(told_a.recv().unwrap());
        assert!(told_b.try_recv().is_err());
        group.ended();
        let second = group.begin().unwrap();
        assert!(second.sync, "one of them needs the disk");
        second.tell(&Err(io::Error::other("disk gone")));
        assert_eq!((told_b.recv().unwrap(), told_c.recv().unwrap()), (false, false));
        group.ended();
        assert!(!group.is_due());
    }

    #[test]
    fn too_much_that_waits_holds_writers_up() {
        let group = Arc::new(Group::default());
        group.wait_for_room();
        group.ask(None, true, BYTES_MAX - 1);
        assert!(!group.state.lock().is_full());
        group.ask(None, true, 1);
        let batch = group.begin().unwrap();
        assert!(group.state.lock().is_full(), "what is under way counts");
        let has_ended = Arc::new(AtomicBool::new(false));
        let writer = {
            let (group, has_ended) = (Arc::clone(&group), Arc::clone(&has_ended));
            std::thread::spawn(move || {
                group.wait_for_room();
                has_ended.load(Ordering::SeqCst)
            })
        };
        batch.tell(&Ok(()));
        has_ended.store(true, Ordering::SeqCst);
        group.ended();
        assert!(writer.join().unwrap(), "it went on before there was room");
    }
}
