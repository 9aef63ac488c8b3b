//! One commit: the committables of a checkpoint are handed to one worker after another until one has made them visible.
//! What is too large for one message goes in slices, one after the other; a slice that is done stays done, whoever did it.
//! Pure; its owner reads the manifest, sends the command and tells what came of it.

use super::input::{CommitPart, ReadFailure};
use holdfast_common::limits::{COMMIT_DEADLINE, COMMIT_SLICE_BYTES, COMMIT_SLICE_COUNT};
use holdfast_common::{AttemptId, CheckpointId, Incarnation};
use holdfast_proto::snapshot::{Committable, SinkCommittables};
use prost::Message;

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
    /// Known once the manifest is; never empty.
    slices: Option<Vec<Vec<SinkCommittables>>>,
    /// Slices that are done.
    done: usize,
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
            slices: sinks.map(slices_of),
            done: 0,
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
        if self.slices.is_none() {
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

    /// The slice that is to be committed now.
    #[must_use]
    pub fn slice(&self) -> (CommitPart, &[SinkCommittables]) {
        let slices = self.slices.as_deref().unwrap_or_default();
        let sinks = slices.get(self.done).map(Vec::as_slice).unwrap_or_default();
        let count = u32::try_from(slices.len()).unwrap_or(u32::MAX);
        let slice = u32::try_from(self.done).unwrap_or(u32::MAX);
        let part = CommitPart {
            slice,
            slices: count,
            recover: self.want.recover && slice.saturating_add(1) >= count,
        };
        (part, sinks)
    }

    /// A worker has committed a slice. True if that was the last one.
    pub fn committed(&mut self, part: CommitPart) -> bool {
        let Some(slices) = &self.slices else {
            return false;
        };
        if part != self.slice().0 {
            return false;
        }
        self.done += 1;
        if self.done >= slices.len() {
            return true;
        }
        self.asked = None;
        self.retry_at_ms = 0;
        false
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
                self.slices = Some(slices_of(sinks));
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

/// Cuts committables into slices that fit a message each, in their order. There is always one: with nothing to commit,
/// sinks may still have to undo.
fn slices_of(sinks: Vec<SinkCommittables>) -> Vec<Vec<SinkCommittables>> {
    let mut slices: Vec<Vec<SinkCommittables>> = vec![Vec::new()];
    let (mut bytes, mut count) = (0, 0);
    for sink in sinks {
        let mut open: Option<Vec<Committable>> = None;
        for committable in sink.committables {
            let size = committable.encoded_len() + sink.uid.len();
            if count > 0 && (count >= COMMIT_SLICE_COUNT || bytes + size > COMMIT_SLICE_BYTES) {
                push(&mut slices, &sink.uid, open.take());
                slices.push(Vec::new());
                (bytes, count) = (0, 0);
            }
            bytes += size;
            count += 1;
            open.get_or_insert_default().push(committable);
        }
        push(&mut slices, &sink.uid, open);
    }
    slices
}

fn push(slices: &mut [Vec<SinkCommittables>], uid: &str, committables: Option<Vec<Committable>>) {
    if let (Some(slice), Some(committables)) = (slices.last_mut(), committables) {
        slice.push(SinkCommittables {
            uid: uid.to_owned(),
            committables,
        });
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

    fn sink(uid: &str, count: u64, bytes: usize) -> SinkCommittables {
        let committable = |n| Committable {
            checkpoint: n,
            subtask: 0,
            data: vec![7; bytes].into(),
        };
        SinkCommittables {
            uid: uid.into(),
            committables: (0..count).map(committable).collect(),
        }
    }

    #[test]
    fn every_slice_fits_a_message_and_together_they_are_everything_in_order() {
        let large = COMMIT_SLICE_BYTES / 3;
        let all = vec![
            sink("a", 1000, 10),
            sink("b", 0, 0),
            sink("c", 7, large),
            sink("d", 1, 2 * large * 3),
        ];
        let slices = slices_of(all.clone());
        assert_eq!(
            slices.len(),
            8,
            "3 full ones of a, the rest of a with 2 of c, 2 + 2 + 1 of c, d"
        );
        let mut again: Vec<SinkCommittables> = Vec::new();
        for slice in &slices {
            let count: usize = slice.iter().map(|s| s.committables.len()).sum();
            let bytes: usize = slice.iter().map(Message::encoded_len).sum();
            assert!((1..=COMMIT_SLICE_COUNT).contains(&count), "{count}");
            assert!(count == 1 || bytes <= COMMIT_SLICE_BYTES, "{bytes}");
            for part in slice {
                match again.last_mut().filter(|last| last.uid == part.uid) {
                    Some(last) => last.committables.extend(part.committables.iter().cloned()),
                    None => again.push(part.clone()),
                }
            }
        }
        let expected: Vec<SinkCommittables> =
            all.into_iter().filter(|s| !s.committables.is_empty()).collect();
        assert_eq!(again, expected);
        assert_eq!(slices_of(Vec::new()), vec![Vec::new()]);
    }

    #[test]
    fn a_commit_is_done_after_its_last_slice_and_undoes_only_then() {
        let mut task = task(Some(vec![sink("a", 600, 1)]));
        task.want.recover = true;
        for slice in 0..3u32 {
            assert!(
                matches!(task.poll(0, &[A]), Some(CommitStep::Ask(A))),
                "slice {slice}"
            );
            let (part, sinks) = task.slice();
            assert_eq!((part.slice, part.slices, part.recover), (slice, 3, slice == 2));
            assert!(!sinks.is_empty());
            let stale = CommitPart {
                slice: slice.wrapping_sub(1),
                ..part
            };
            assert!(
                !task.committed(stale),
                "an answer to another slice changes nothing"
            );
            assert!(
                !task.committed(CommitPart { slices: 1, ..part }),
                "nor one of another cut"
            );
            assert_eq!(task.committed(part), slice == 2);
        }
    }

    #[test]
    fn another_worker_goes_on_with_the_slice_that_failed() {
        let mut task = task(Some(vec![sink("a", 300, 1)]));
        assert_eq!(task.poll(0, &[A, B]), Some(CommitStep::Ask(A)));
        assert!(!task.committed(task.slice().0));
        assert_eq!(task.poll(0, &[A, B]), Some(CommitStep::Ask(A)));
        task.failed(0, "disk full".into());
        assert_eq!(task.poll(50, &[A, B]), Some(CommitStep::Ask(B)));
        assert_eq!(task.slice().0.slice, 1);
        assert!(task.committed(task.slice().0));
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
