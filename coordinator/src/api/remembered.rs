//! The last task counters of jobs that have ended: the leader drops them from its live view, people still look.
//!
//! Memory of this process alone; another leader does not have it.

use crate::live::{LiveJob, LiveReceiver, LiveView};
use holdfast_common::JobId;
use holdfast_common::limits::REST_REMEMBERED_JOBS_MAX;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Counters by job.
#[derive(Default)]
pub(crate) struct Remembered {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    jobs: BTreeMap<JobId, LiveJob>,
    /// Jobs in the order in which they were last seen first.
    order: VecDeque<JobId>,
}

impl Remembered {
    /// Takes in what the leader sees now.
    pub(crate) fn see(&self, live: &LiveView) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, job) in &live.jobs {
            if job.tasks.is_empty() {
                continue;
            }
            if kept.jobs.insert(*id, job.clone()).is_none() {
                kept.order.push_back(*id);
            }
        }
        let running = live.jobs.len();
        while kept.order.len() > REST_REMEMBERED_JOBS_MAX + running {
            if let Some(oldest) = kept.order.pop_front() {
                if live.jobs.contains_key(&oldest) {
                    kept.order.push_back(oldest);
                } else {
                    kept.jobs.remove(&oldest);
                }
            }
        }
    }

    /// The live view with the remembered jobs that it no longer has.
    pub(crate) fn complete(&self, live: &LiveView) -> LiveView {
        let mut whole = live.clone();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, job) in &kept.jobs {
            let missing = whole
                .jobs
                .get(id)
                .is_none_or(|l| l.tasks.is_empty() && l.attempt == job.attempt);
            if missing {
                let mut job = job.clone();
                job.pending = whole.jobs.get(id).and_then(|l| l.pending.clone());
                whole.jobs.insert(*id, job);
            }
        }
        whole
    }

    /// Follows the leader's view until its sender is gone.
    pub(crate) async fn follow(&self, mut live: LiveReceiver) {
        loop {
            let now = live.borrow_and_update().clone();
            self.see(&now);
            if live.changed().await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::view::fixture;
    use super::*;

    #[test]
    fn an_ended_jobs_counters_outlive_the_live_view() {
        let (_, live) = fixture::running();
        let remembered = Remembered::default();
        remembered.see(&live);
        let whole = remembered.complete(&LiveView::default());
        assert_eq!(whole.jobs[&fixture::JOB].tasks.len(), 4);
        let mut emptied = live.clone();
        emptied.jobs.get_mut(&fixture::JOB).unwrap().tasks.clear();
        remembered.see(&emptied);
        assert_eq!(remembered.complete(&emptied).jobs[&fixture::JOB].tasks.len(), 4);
    }

    #[test]
    fn memory_is_bounded() {
        let (_, live) = fixture::running();
        let remembered = Remembered::default();
        for number in 0..200u128 {
            let job = live.jobs[&fixture::JOB].clone();
            remembered.see(&LiveView {
                jobs: [(JobId(number), job)].into(),
                ..LiveView::default()
            });
        }
        let whole = remembered.complete(&LiveView::default());
        assert!(whole.jobs.len() <= REST_REMEMBERED_JOBS_MAX + 1);
        assert!(whole.jobs.contains_key(&JobId(199)));
    }
}
