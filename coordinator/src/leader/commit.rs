//! One commit: the committables of a checkpoint are handed to one worker after another until one has made them visible.
//! Pure; its owner reads the manifest, sends the command and tells what came of it.

use super::input::ReadFailure;
use holdfast_common::limits::COMMIT_DEADLINE;
use holdfast_common::{AttemptId, CheckpointId, Incarnation};
use holdfast_proto::snapshot::SinkCommittables;

/// Waits between tries, doubling from the first to the second.
const BACKOFF_MS: (u64, u64) = (50, 5_000);

/// What is to be committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Want {
    /// The checkpoint; `None` when a job starts from nothing.
    pub checkpoint: Option<CheckpointId>,
    /// The attempt on whose behalf.
    pub attempt: AttemptId,
    /// A restore follows: sinks undo what later checkpoints and abandoned attempts left.
    pub recover: bool,
}

/// The next thing to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitStep {
    /// Read the manifest.
    Read,
    /// Ask this worker.
    Ask(Incarnation),
}

/// A commit under way.
#[derive(Debug, Clone)]
pub struct CommitTask {
    /// What is to be committed.
    pub want: Want,
    sinks: Option<Vec<SinkCommittables>>,
    reading: bool,
    asked: Option<(Incarnation, u64)>,
    tries: u32,
    retry_at_ms: u64,
    trouble: Option<String>,
}

impl CommitTask {
    /// A commit; `sinks` if the committables are known already.
    #[must_use]
    pub fn new(want: Want, sinks: Option<Vec<SinkCommittables>>) -> Self {
        Self {
            want,
            sinks,
            reading: false,
            asked: None,
            tries: 0,
            retry_at_ms: 0,
            trouble: None,
        }
    }

    /// What is to be done now. `workers` can be asked, best first.
    pub fn poll(&mut self, now_ms: u64, workers: &[Incarnation]) -> Option<CommitStep> {
        if let Some((worker, until_ms)) = self.asked {
            if now_ms < until_ms {
                return None;
            }
            self.asked = None;
            self.delay(now_ms, format!("worker {worker} did not answer in time"));
        }
        if now_ms < self.retry_at_ms || self.reading {
            return None;
        }
        if self.sinks.is_none() {
            self.reading = true;
            return Some(CommitStep::Read);
        }
        if workers.is_empty() {
            return None;
        }
        let worker = workers[self.tries as usize % workers.len()];
        let deadline = u64::try_from(COMMIT_DEADLINE.as_millis()).unwrap_or(u64::MAX);
        self.asked = Some((worker, now_ms.saturating_add(deadline)));
        Some(CommitStep::Ask(worker))
    }

    /// The committables, once known.
    #[must_use]
    pub fn sinks(&self) -> &[SinkCommittables] {
        self.sinks.as_deref().unwrap_or_default()
    }

    /// The manifest was read. `Err` if it is damaged.
    ///
    /// # Errors
    /// What was found, if the manifest is damaged; the commit can then never be done.
    pub fn read(
        &mut self,
        now_ms: u64,
        result: Result<Vec<SinkCommittables>, ReadFailure>,
    ) -> Result<(), String> {
        self.reading = false;
        match result {
            Ok(sinks) => {
                self.sinks = Some(sinks);
                Ok(())
            }
            Err(ReadFailure::Unavailable(reason)) => {
                self.delay(now_ms, reason);
                Ok(())
            }
            Err(ReadFailure::Damaged(reason)) => Err(reason),
        }
    }

    /// The worker asked has failed in a way that may pass.
    pub fn failed(&mut self, now_ms: u64, reason: String) {
        self.asked = None;
        self.delay(now_ms, reason);
    }

    /// A worker is gone, or its connection is new: if it was asked, ask again at once.
    pub fn ask_again(&mut self, worker: Incarnation) {
        if self.asked.is_some_and(|(asked, _)| asked == worker) {
            self.asked = None;
            self.retry_at_ms = 0;
        }
    }

    fn delay(&mut self, now_ms: u64, reason: String) {
        let (first, most) = BACKOFF_MS;
        let wait = first.saturating_mul(1 << self.tries.min(16)).min(most);
        self.retry_at_ms = now_ms.saturating_add(wait);
        self.tries = self.tries.saturating_add(1);
        self.trouble = Some(reason);
    }

    /// How often it has failed, and why the last time.
    #[must_use]
    pub fn trouble(&self) -> Option<(u32, &str)> {
        self.trouble.as_deref().map(|reason| (self.tries, reason))
    }

    /// When [`Self::poll`] has something to do next.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        match self.asked {
            Some((_, until)) => Some(until),
            None if self.reading => None,
            None => Some(self.retry_at_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: Incarnation = Incarnation(1);
    const B: Incarnation = Incarnation(2);

    fn task(sinks: Option<Vec<SinkCommittables>>) -> CommitTask {
        let want = Want {
            checkpoint: Some(CheckpointId(3)),
            attempt: AttemptId(9),
            recover: false,
        };
        CommitTask::new(want, sinks)
    }

    #[test]
    fn asks_one_worker_after_another_for_ever() {
        let mut task = task(Some(Vec::new()));
        let mut now = 0;
        let mut asked = Vec::new();
        for _ in 0..20 {
            if let Some(CommitStep::Ask(worker)) = task.poll(now, &[A, B]) {
                asked.push(worker);
                task.failed(now, "disk full".into());
            }
            now = task.next_deadline().unwrap();
        }
        assert!(asked.len() >= 19);
        assert_eq!(&asked[..4], &[A, B, A, B]);
        assert_eq!(task.trouble().unwrap().1, "disk full");
    }

    #[test]
    fn a_silent_worker_is_given_up_and_a_lost_one_at_once() {
        let mut task = task(Some(Vec::new()));
        assert_eq!(task.poll(0, &[A, B]), Some(CommitStep::Ask(A)));
        assert_eq!(task.poll(1000, &[A, B]), None);
        task.ask_again(A);
        assert_eq!(task.poll(1000, &[B]), Some(CommitStep::Ask(B)));
        let late = task.next_deadline().unwrap();
        assert_eq!(task.poll(late, &[A]), None);
        assert_eq!(task.poll(late + 50, &[A]), Some(CommitStep::Ask(A)));
    }

    #[test]
    fn reads_the_manifest_first_and_tells_damage_from_absence() {
        let mut task = task(None);
        assert_eq!(task.poll(0, &[A]), Some(CommitStep::Read));
        assert_eq!(task.poll(0, &[A]), None);
        task.read(0, Err(ReadFailure::Unavailable("no route".into())))
            .unwrap();
        assert_eq!(task.poll(0, &[A]), None);
        assert_eq!(task.poll(50, &[A]), Some(CommitStep::Read));
        assert!(task.read(60, Err(ReadFailure::Damaged("crc".into()))).is_err());
        task.read(60, Ok(Vec::new())).unwrap();
        assert_eq!(task.poll(60, &[A]), Some(CommitStep::Ask(A)));
    }
}
