//! How a slot thread sleeps and is woken. Must not know tasks.

use parking_lot::{Condvar, Mutex};
use std::time::Duration;
use tokio::sync::Notify;

/// A flag with a bell. A ring between two sleeps is never lost: the next sleep returns at once.
#[derive(Debug, Default)]
pub struct Waker {
    rung: Mutex<bool>,
    bell: Condvar,
    /// Rung beside the bell in a simulator, where a slot is a task.
    chime: Notify,
}

impl Waker {
    /// Ends the current or the next sleep.
    pub fn wake(&self) {
        let mut rung = self.rung.lock();
        if !*rung {
            *rung = true;
            self.bell.notify_one();
            if holdfast_runtime::is_simulated() {
                self.chime.notify_one();
            }
        }
    }

    /// Forgets rings so far: what they announced is about to be looked at.
    pub fn reset(&self) {
        *self.rung.lock() = false;
    }

    /// As [`Self::sleep`], for a task in a simulator.
    pub async fn rest(&self, limit: Duration) {
        while !*self.rung.lock() {
            // An old ring of the chime ends a wait early; then the flag is looked at again.
            if tokio::time::timeout(limit, self.chime.notified()).await.is_err() {
                return;
            }
        }
    }

    /// Sleeps until a ring, at most for `limit`.
    pub fn sleep(&self, limit: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            self.bell.wait_for(&mut rung, limit);
        }
    }
}
