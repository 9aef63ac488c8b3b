//! The checkpoint tracker of one job: Triggered → Writing → Proposing → Completed → Committing → Done.
//!
//! A pure state machine: its owner tells it the time, what tasks acknowledge and what the log says, and carries out the
//! steps that it returns. Named rules, each tested:
//! - *one at a time*: a checkpoint is triggered only when none is in flight;
//! - *abort before proposing only*: from Proposing on, only the log decides;
//! - *all of one attempt*: a checkpoint is written only when every expected task of its attempt has acknowledged it.

use super::input::{TaskAck, TaskKey};
use holdfast_common::clock::UnixMillis;
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::CHECKPOINT_ID_BLOCK;
use holdfast_common::{AttemptId, CheckpointId};
use std::collections::{BTreeMap, BTreeSet};

/// Least and greatest wait before a failed final checkpoint is tried again.
const FINAL_RETRY_MS: (u64, u64) = (200, 10_000);

/// A job's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrackerSettings {
    /// Time between the starts of two checkpoints; 0: none but the final one.
    pub interval_ms: u64,
    /// Longest time to Proposing.
    pub timeout_ms: u64,
    /// Least time between the end of one and the start of the next.
    pub min_pause_ms: u64,
}

/// Where a checkpoint stands. Done is its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Tasks are being asked.
    Triggered,
    /// All have acknowledged; its manifest is being written.
    Writing,
    /// Its entry is proposed; nobody but the log may decide now.
    Proposing,
    /// It is in the log, and its sinks have to commit.
    Committing,
}

impl Phase {
    /// For people.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Triggered => "Triggered",
            Self::Writing => "Writing",
            Self::Proposing => "Proposing",
            Self::Committing => "Committing",
        }
    }
}

/// The checkpoint in flight.
#[derive(Debug, Clone, PartialEq)]
pub struct InFlight {
    /// Number.
    pub id: CheckpointId,
    /// Of which attempt.
    pub attempt: AttemptId,
    /// Where it stands.
    pub phase: Phase,
    /// Every task had ended when it was triggered.
    pub is_final: bool,
    /// When it was triggered, for people.
    pub triggered_ms: UnixMillis,
    /// Tasks that must acknowledge.
    pub expected: BTreeSet<TaskKey>,
    /// Those that have.
    pub acks: BTreeMap<TaskKey, TaskAck>,
    deadline_ms: u64,
}

/// What the owner has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    /// Reserve the next block of numbers in the log.
    Reserve,
    /// Send Trigger to every worker of the attempt.
    Trigger {
        /// Number.
        checkpoint: CheckpointId,
        /// Every task has ended.
        is_final: bool,
    },
    /// Write the manifest of the checkpoint in flight.
    Write,
    /// Propose the checkpoint in flight, whose manifest has this digest.
    Propose([u8; 32]),
    /// It has failed: tell the workers and the log.
    Fail {
        /// Number.
        checkpoint: CheckpointId,
        /// When it was triggered.
        triggered_ms: UnixMillis,
        /// Why.
        reason: String,
    },
    /// It is in the log and its sinks have committed: tell the workers.
    Settled {
        /// Number.
        checkpoint: CheckpointId,
    },
}

/// The tracker of one attempt under one leader.
#[derive(Debug, Clone)]
pub struct Tracker {
    settings: TrackerSettings,
    in_flight: Option<InFlight>,
    ids: (u64, u64),
    reserving: bool,
    grid_ms: u64,
    earliest_ms: u64,
    final_earliest_ms: u64,
    failures_in_a_row: u32,
}

impl Tracker {
    /// Nothing in flight; the first checkpoint comes an interval from now.
    #[must_use]
    pub fn new(settings: TrackerSettings, now_ms: u64) -> Self {
        Self {
            settings,
            in_flight: None,
            ids: (0, 0),
            reserving: false,
            grid_ms: now_ms.saturating_add(settings.interval_ms),
            earliest_ms: now_ms,
            final_earliest_ms: now_ms,
            failures_in_a_row: 0,
        }
    }

    /// A new attempt runs. What was in flight of the old one is forgotten, unless the log has yet to decide on it;
    /// what is forgotten is answered.
    pub fn restart(&mut self, now_ms: u64) {
        self.grid_ms = now_ms.saturating_add(self.settings.interval_ms);
        self.earliest_ms = now_ms;
        self.final_earliest_ms = now_ms;
        self.failures_in_a_row = 0;
    }

    /// The attempt is over. A checkpoint that was not proposed can never complete: its failure is returned.
    pub fn attempt_over(&mut self) -> Option<Step> {
        match self.in_flight.as_ref().map(|c| c.phase)? {
            Phase::Proposing => None,
            Phase::Committing => {
                self.in_flight = None;
                None
            }
            Phase::Triggered | Phase::Writing => {
                let c = self.in_flight.take()?;
                Some(Step::Fail {
                    checkpoint: c.id,
                    triggered_ms: c.triggered_ms,
                    reason: "its attempt ended".to_owned(),
                })
            }
        }
    }

    /// The checkpoint in flight.
    #[must_use]
    pub fn in_flight(&self) -> Option<&InFlight> {
        self.in_flight.as_ref()
    }

    /// The log has yet to decide on a proposed checkpoint.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.in_flight
            .as_ref()
            .is_some_and(|c| c.phase == Phase::Proposing)
    }

    /// Failed checkpoints since the last completed one, in this attempt.
    #[must_use]
    pub fn failures_in_a_row(&self) -> u32 {
        self.failures_in_a_row
    }

    /// Every number below this one is decided for good: completed, or never to be.
    #[must_use]
    pub fn floor(&self) -> Option<CheckpointId> {
        match &self.in_flight {
            Some(c) => Some(c.id),
            None if self.ids.0 < self.ids.1 => Some(CheckpointId(self.ids.0)),
            None => None,
        }
    }

    /// A block of numbers was reserved; it starts here.
    pub fn reserved(&mut self, first: CheckpointId) {
        self.reserving = false;
        let first = first.0.max(1);
        self.ids = (first, first + CHECKPOINT_ID_BLOCK);
    }

    /// The reservation was refused; it may be asked for again.
    pub fn not_reserved(&mut self) {
        self.reserving = false;
    }

    /// Time goes on: a checkpoint may time out or become due.
    pub fn tick(
        &mut self,
        now_ms: u64,
        wall_ms: UnixMillis,
        attempt: AttemptId,
        tasks: &BTreeSet<TaskKey>,
        all_finished: bool,
    ) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.ids.0 >= self.ids.1 && !self.reserving {
            self.reserving = true;
            steps.push(Step::Reserve);
        }
        if let Some(c) = &self.in_flight {
            if c.phase <= Phase::Writing && now_ms >= c.deadline_ms {
                let reason = format!(
                    "it did not complete within {} ms: {} of {} tasks have acknowledged",
                    self.settings.timeout_ms,
                    c.acks.len(),
                    c.expected.len()
                );
                steps.extend(self.fail(now_ms, reason));
            }
            return steps;
        }
        if !self.is_due(now_ms, all_finished) || self.ids.0 >= self.ids.1 || tasks.is_empty() {
            return steps;
        }
        let id = CheckpointId(self.ids.0);
        self.ids.0 += 1;
        self.advance_grid(now_ms);
        self.in_flight = Some(InFlight {
            id,
            attempt,
            phase: Phase::Triggered,
            is_final: all_finished,
            triggered_ms: wall_ms,
            expected: tasks.clone(),
            acks: BTreeMap::new(),
            deadline_ms: now_ms.saturating_add(self.settings.timeout_ms),
        });
        steps.push(Step::Trigger {
            checkpoint: id,
            is_final: all_finished,
        });
        steps
    }

    fn is_due(&self, now_ms: u64, all_finished: bool) -> bool {
        if all_finished {
            return now_ms >= self.final_earliest_ms;
        }
        self.settings.interval_ms > 0 && now_ms >= self.grid_ms && now_ms >= self.earliest_ms
    }

    /// The phase of the interval is kept: a late checkpoint does not shift those after it.
    fn advance_grid(&mut self, now_ms: u64) {
        let interval_ms = self.settings.interval_ms;
        if interval_ms == 0 || now_ms < self.grid_ms {
            return;
        }
        let missed = (now_ms - self.grid_ms) / interval_ms;
        self.grid_ms = self
            .grid_ms
            .saturating_add((missed + 1).saturating_mul(interval_ms));
    }

    /// A task has acknowledged. Late, repeated and foreign acknowledgements change nothing.
    pub fn ack(
        &mut self,
        attempt: AttemptId,
        checkpoint: CheckpointId,
        task: TaskKey,
        ack: TaskAck,
    ) -> Vec<Step> {
        let Some(c) = self.in_flight.as_mut().filter(|c| {
            c.id == checkpoint
                && (c.attempt == attempt || inject::bug(bugs::TWO_ATTEMPTS))
                && c.phase == Phase::Triggered
                && c.expected.contains(&task)
        }) else {
            return Vec::new();
        };
        c.acks.entry(task).or_insert(ack);
        let missing = c.expected.len() - c.acks.len();
        if missing > usize::from(inject::bug(bugs::COMPLETE_BEFORE_ALL_ACKS)) {
            return Vec::new();
        }
        c.phase = Phase::Writing;
        vec![Step::Write]
    }

    /// A task could not take part.
    pub fn declined(
        &mut self,
        now_ms: u64,
        attempt: AttemptId,
        checkpoint: CheckpointId,
        reason: String,
    ) -> Vec<Step> {
        let concerned = self
            .in_flight
            .as_ref()
            .is_some_and(|c| c.id == checkpoint && c.attempt == attempt && c.phase == Phase::Triggered);
        if concerned {
            return self.fail(now_ms, reason);
        }
        Vec::new()
    }

    /// The manifest was written, or not.
    pub fn written(
        &mut self,
        now_ms: u64,
        checkpoint: CheckpointId,
        result: Result<[u8; 32], String>,
    ) -> Vec<Step> {
        let Some(c) = self
            .in_flight
            .as_mut()
            .filter(|c| c.id == checkpoint && c.phase == Phase::Writing)
        else {
            return Vec::new();
        };
        match result {
            Ok(sha256) => {
                c.phase = Phase::Proposing;
                vec![Step::Propose(sha256)]
            }
            Err(reason) => self.fail(now_ms, reason),
        }
    }

    /// The log has decided on the proposed checkpoint: it is there (with its commit done or not), or it never will be.
    pub fn decided(&mut self, now_ms: u64, checkpoint: CheckpointId, entry: Decided) -> Vec<Step> {
        if !self.is_undecided() || self.in_flight.as_ref().is_none_or(|c| c.id != checkpoint) {
            return Vec::new();
        }
        match entry {
            Decided::Refused(reason) => self.fail(now_ms, reason),
            Decided::Complete { committed } => {
                self.failures_in_a_row = 0;
                if let Some(c) = self.in_flight.as_mut() {
                    c.phase = Phase::Committing;
                    c.acks.clear();
                }
                if committed {
                    return self.committed(now_ms, checkpoint);
                }
                Vec::new()
            }
        }
    }

    /// The log says that the checkpoint's sinks have committed.
    pub fn committed(&mut self, now_ms: u64, checkpoint: CheckpointId) -> Vec<Step> {
        let concerned = self
            .in_flight
            .as_ref()
            .is_some_and(|c| c.id == checkpoint && c.phase == Phase::Committing);
        if !concerned {
            return Vec::new();
        }
        self.in_flight = None;
        self.earliest_ms = now_ms.saturating_add(self.settings.min_pause_ms);
        vec![Step::Settled { checkpoint }]
    }

    /// A new leader found a complete checkpoint whose sinks have not committed: nothing is triggered before that.
    pub fn resume_committing(&mut self, id: CheckpointId, attempt: AttemptId, triggered_ms: UnixMillis) {
        if self.in_flight.is_none() {
            self.in_flight = Some(InFlight {
                id,
                attempt,
                phase: Phase::Committing,
                is_final: false,
                triggered_ms,
                expected: BTreeSet::new(),
                acks: BTreeMap::new(),
                deadline_ms: u64::MAX,
            });
        }
    }

    fn fail(&mut self, now_ms: u64, reason: String) -> Vec<Step> {
        let Some(c) = self.in_flight.take() else {
            return Vec::new();
        };
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.earliest_ms = now_ms.saturating_add(self.settings.min_pause_ms);
        let (least, most) = FINAL_RETRY_MS;
        self.final_earliest_ms = now_ms.saturating_add(self.settings.interval_ms.clamp(least, most));
        vec![Step::Fail {
            checkpoint: c.id,
            triggered_ms: c.triggered_ms,
            reason,
        }]
    }

    /// When [`Self::tick`] has something to do next.
    #[must_use]
    pub fn next_deadline(&self, all_finished: bool) -> Option<u64> {
        match &self.in_flight {
            Some(c) if c.phase <= Phase::Writing => Some(c.deadline_ms),
            Some(_) => None,
            None if self.ids.0 >= self.ids.1 => None,
            None if all_finished => Some(self.final_earliest_ms),
            None if self.settings.interval_ms > 0 => Some(self.grid_ms.max(self.earliest_ms)),
            None => None,
        }
    }
}

/// What the log says of a proposed checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// It is there.
    Complete {
        /// Its sinks have committed, or there is nothing to commit.
        committed: bool,
    },
    /// It was refused, and can never come.
    Refused(String),
}

#[cfg(test)]
#[path = "tracker_tests.rs"]
mod tests;
