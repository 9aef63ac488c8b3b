//! The one thread that syncs a key-value store: it waits for writers, syncs once for all of them, and tells them.
//! It also deletes what is purged, since that can take long. Knows no store.

use super::Flushed;
use std::io;
use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Writers that one sync serves at most.
const BATCH: usize = 4096;
/// Entries deleted between two looks for writers.
const DELETE_ENTRIES: u64 = 256;

/// What the thread does to the store.
pub(super) trait Durable: Send + Sync + 'static {
    /// Makes everything written before the call durable.
    fn sync(&self) -> io::Result<()>;
    /// Deletes entries.
    fn delete(&self, range: Range<u64>) -> io::Result<()>;
}

enum Job {
    Sync(Flushed),
    Delete(Range<u64>),
}

/// Ends, and waits for its thread, when dropped.
pub(super) struct Flusher {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Flusher {
    pub(super) fn spawn(store: impl Durable) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let thread = std::thread::Builder::new()
            .name("raft-log-sync".to_owned())
            .spawn(move || {
                run(&store, &queue);
            })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Calls back once everything written until now is durable.
    pub(super) fn sync(&self, flushed: Flushed) -> io::Result<()> {
        self.send(Job::Sync(flushed))
    }

    /// Deletes entries when there is time.
    pub(super) fn delete(&self, range: Range<u64>) -> io::Result<()> {
        self.send(Job::Delete(range))
    }

    fn send(&self, job: Job) -> io::Result<()> {
        let gone = || io::Error::other("the log's writer has stopped");
        self.jobs.as_ref().ok_or_else(gone)?.send(job).map_err(|_| gone())
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            // It only panics if a callback does; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

fn run(store: &impl Durable, queue: &Receiver<Job>) {
    // After a failed sync the kernel may have dropped what was written: nothing is durable any more.
    let mut failed: Option<String> = None;
    let mut purging: Option<Range<u64>> = None;
    loop {
        let first = match purging.is_some() {
            true => queue.try_recv().ok(),
            false => match queue.recv() {
                Ok(job) => Some(job),
                Err(_) => return,
            },
        };
        let mut waiting = Vec::new();
        let arrived = first
            .into_iter()
            .chain(std::iter::from_fn(|| queue.try_recv().ok()))
            .take(BATCH);
        for job in arrived {
            match job {
                Job::Sync(flushed) => waiting.push(flushed),
                Job::Delete(range) => {
                    let start = purging.map_or(range.start, |p| p.start.min(range.start));
                    purging = Some(start..range.end);
                }
            }
        }
        if !waiting.is_empty() {
            if failed.is_none() {
                failed = store.sync().err().map(|error| error.to_string());
            }
            for flushed in waiting {
                flushed.done(failed.clone().map_or(Ok(()), |text| Err(io::Error::other(text))));
            }
        }
        if let Some(range) = purging.take().filter(|_| failed.is_none()) {
            let end = range.end.min(range.start.saturating_add(DELETE_ENTRIES));
            if let Err(error) = store.delete(range.start..end) {
                failed = Some(error.to_string());
            } else if end < range.end {
                purging = Some(end..range.end);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use parking_lot::Mutex;
    use std::sync::Arc;

    #[derive(Default)]
    struct Fake {
        syncs: Mutex<u32>,
        fail_from: u32,
        deleted: Mutex<Vec<u64>>,
    }

    impl Durable for Arc<Fake> {
        fn sync(&self) -> io::Result<()> {
            let mut syncs = self.syncs.lock();
            *syncs += 1;
            if *syncs >= self.fail_from {
                Err(io::Error::other("disk gone"))
            } else {
                Ok(())
            }
        }

        fn delete(&self, range: Range<u64>) -> io::Result<()> {
            self.deleted.lock().extend(range);
            Ok(())
        }
    }

    #[test]
    fn a_failed_sync_fails_everything_after_it_and_is_not_tried_again() {
        let fake = Arc::new(Fake {
            fail_from: 2,
            ..Fake::default()
        });
        let flusher = Flusher::spawn(Arc::clone(&fake)).unwrap();
        let outcome = || {
            let (tx, rx) = channel();
            flusher
                .sync(Flushed::new(move |r| tx.send(r.is_ok()).unwrap()))
                .unwrap();
            rx.recv().unwrap()
        };
        assert_eq!([outcome(), outcome(), outcome()], [true, false, false]);
        assert_eq!(*fake.syncs.lock(), 2);
    }

    #[test]
    fn everything_purged_is_deleted_once() {
        let fake = Arc::new(Fake {
            fail_from: 99,
            ..Fake::default()
        });
        let flusher = Flusher::spawn(Arc::clone(&fake)).unwrap();
        flusher.delete(0..1000).unwrap();
        while fake.deleted.lock().len() < 1000 {
            std::thread::yield_now();
        }
        drop(flusher);
        assert_eq!(*fake.deleted.lock(), (0..1000).collect::<Vec<_>>());
    }
}
