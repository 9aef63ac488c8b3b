//! Channels: the receiving end of every channel, and the credit that bounds what lies in it. Must not know sockets:
//! a remote channel's frames are put in by the exchange, and its credit goes back through a [`CreditReturn`].

use super::event::Event;
use super::waker::Waker;
use bytes::Bytes;
use holdfast_common::limits::EXCHANGE_CREDIT_BYTES;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// What a batch of `bytes` is charged: an oversized one takes the whole window, so that it passes when the channel is
/// empty.
#[must_use]
pub fn charge_of(bytes: usize) -> u32 {
    bytes.clamp(1, EXCHANGE_CREDIT_BYTES) as u32
}

/// The sender's view of a channel's window.
#[derive(Debug)]
pub struct Credit {
    used: AtomicUsize,
    waiting: AtomicBool,
    sender: Arc<Waker>,
}

impl Credit {
    /// A full window; `sender` is woken when room returns.
    #[must_use]
    pub fn new(sender: Arc<Waker>) -> Self {
        Self {
            used: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            sender,
        }
    }

    /// Takes room for a charge, if there is enough. Only the sender calls this.
    pub fn take(&self, charge: u32) -> bool {
        let charge = charge as usize;
        // The flag goes up before the second look: a release in between either is seen or sees the flag.
        for last_look in [false, true] {
            if self.used.load(Ordering::SeqCst) + charge <= EXCHANGE_CREDIT_BYTES {
                self.used.fetch_add(charge, Ordering::SeqCst);
                self.waiting.store(false, Ordering::SeqCst);
                return true;
            }
            if !last_look {
                self.waiting.store(true, Ordering::SeqCst);
            }
        }
        false
    }

    /// Gives room back. False if more comes back than was taken: the peer is wrong.
    #[must_use]
    pub fn give(&self, charge: usize) -> bool {
        let before = self.used.fetch_sub(charge, Ordering::SeqCst);
        if before < charge {
            self.used.store(0, Ordering::SeqCst);
            return false;
        }
        if self.waiting.swap(false, Ordering::SeqCst) {
            self.sender.wake();
        }
        true
    }

    /// Bytes on the way.
    #[must_use]
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }
}

/// Takes back the credit of what a task has consumed.
pub trait CreditReturn: Send + Sync {
    /// `charge` bytes of the channel are free again.
    fn give_back(&self, charge: u32);
}

impl CreditReturn for Credit {
    fn give_back(&self, charge: u32) {
        let _ = self.give(charge as usize);
    }
}

/// An event as it lies in a channel.
#[derive(Debug)]
pub enum Payload {
    /// From a task of this process.
    Event(Event),
    /// Rows from another process, still encoded: the task decodes them on its own thread.
    Encoded(Bytes),
}

#[derive(Default)]
struct Queue {
    events: VecDeque<(Payload, u32)>,
    /// Sum of the events' charges.
    charged: usize,
}

/// The receiving end of a channel.
pub struct Inbox {
    queue: Mutex<Queue>,
    receiver: Arc<Waker>,
    credit: Arc<dyn CreditReturn>,
}

impl Inbox {
    /// An empty channel.
    #[must_use]
    pub fn new(receiver: Arc<Waker>, credit: Arc<dyn CreditReturn>) -> Self {
        Self {
            queue: Mutex::default(),
            receiver,
            credit,
        }
    }

    /// Puts an event in; rows have taken their credit before, so that the window bounds the queue. False, and nothing
    /// is put in, if a sender ignores its credit.
    #[must_use]
    pub fn push(&self, payload: Payload, charge: u32) -> bool {
        let mut queue = self.queue.lock();
        let charged = queue.charged + charge as usize;
        if charged > EXCHANGE_CREDIT_BYTES {
            return false;
        }
        queue.charged = charged;
        queue.events.push_back((payload, charge));
        drop(queue);
        self.receiver.wake();
        true
    }

    /// Takes the next event with its charge, which the caller gives back by [`Self::release`] once it is consumed.
    #[must_use]
    pub fn pop(&self) -> Option<(Payload, u32)> {
        let mut queue = self.queue.lock();
        let event = queue.events.pop_front()?;
        queue.charged -= event.1 as usize;
        Some(event)
    }

    /// Gives credit back.
    pub fn release(&self, charge: u32) {
        if charge > 0 {
            self.credit.give_back(charge);
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.lock().events.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oversized_batch_passes_only_through_an_empty_channel() {
        let credit = Credit::new(Arc::default());
        assert!(credit.take(charge_of(10)));
        assert!(!credit.take(charge_of(usize::MAX)));
        assert!(credit.give(10));
        assert!(credit.take(charge_of(usize::MAX)));
        assert!(!credit.take(1));
        assert!(credit.give(EXCHANGE_CREDIT_BYTES));
        assert_eq!(credit.used(), 0);
        assert!(!credit.give(1));
        assert_eq!(credit.used(), 0);
    }
}
