//! A task: one subtask of one vertex, as a state machine that a slot thread (or a test) steps. A step never waits:
//! everything comes through the mailbox and the channels. Must not know threads or sockets.

use super::api::EngineEvent;
use super::capture::{CapturedOperator, CapturedState};
use super::cell::{Mail, TaskCell};
use super::event::Barrier;
use super::events::EventQueue;
use super::input::{InputGate, InputTurn};
use super::output::Output;
use crate::operators::{
    Chain, END_WATERMARK, NO_WATERMARK, OperatorError, SnapshotError, SourceHead, SourceTurn,
};
use holdfast_common::CheckpointId;
use holdfast_common::clock::SharedClock;
use holdfast_common::inject::{self, points};
use holdfast_dataflow::connector::{Committable, PrepareJob};
use holdfast_proto::control::TaskStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// What a step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It worked, and may go on at once.
    Busy,
    /// There is no room downstream.
    Blocked,
    /// There is nothing to do before a wake, or before this time has passed.
    Idle(Option<Duration>),
    /// It has failed and will do nothing more.
    Failed,
}

/// Where a task's rows come from.
pub enum Head {
    /// A reader, with the uid of its state.
    Source(String, Box<SourceHead>),
    /// Channels.
    Inputs(InputGate),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Sources wait for the start.
    Created,
    Running,
    /// Every input has ended; what is due is being emitted.
    Ending,
    /// Everything was emitted.
    Ended,
    Failed,
}

/// See the module.
pub struct Task {
    cell: Arc<TaskCell>,
    head: Head,
    chain: Chain,
    output: Output,
    events: EventQueue,
    clock: SharedClock,
    phase: Phase,
    /// Newest checkpoint asked for directly.
    triggered: Option<CheckpointId>,
    /// Newest checkpoint that is over here, for sources.
    last: CheckpointId,
    settled: CheckpointId,
    watermark_ms: i64,
    /// Silence to pass on, once what is due is emitted.
    fall_idle: bool,
}

/// What a task is made of.
pub struct TaskParts {
    /// Mailbox, status, counters.
    pub cell: Arc<TaskCell>,
    /// Where rows come from.
    pub head: Head,
    /// The operators.
    pub chain: Chain,
    /// Where rows go.
    pub output: Output,
    /// Where events for the agent go.
    pub events: EventQueue,
    /// Stamps.
    pub clock: SharedClock,
    /// Checkpoint of the restore.
    pub last: CheckpointId,
    /// Event time of the restore.
    pub watermark_ms: i64,
}

impl Task {
    /// A task that has not started.
    #[must_use]
    pub fn new(parts: TaskParts) -> Self {
        Self {
            cell: parts.cell,
            head: parts.head,
            chain: parts.chain,
            output: parts.output,
            events: parts.events,
            clock: parts.clock,
            phase: Phase::Created,
            triggered: None,
            last: parts.last,
            settled: parts.last,
            watermark_ms: parts.watermark_ms,
            fall_idle: false,
        }
    }

    /// The shared part.
    #[must_use]
    pub fn cell(&self) -> &Arc<TaskCell> {
        &self.cell
    }

    /// Does at most `turns` pieces of work.
    pub fn step(&mut self, turns: usize) -> Progress {
        if self.phase == Phase::Failed {
            return Progress::Failed;
        }
        match self.try_step(turns) {
            Ok(progress) => progress,
            Err(error) => {
                self.fail(error.0);
                Progress::Failed
            }
        }
    }

    /// Ends the task with an error.
    pub fn fail(&mut self, error: String) {
        self.phase = Phase::Failed;
        if self.cell.set_status(TaskStatus::Failed) {
            tracing::warn!(task = %self.cell.id, error, "task failed");
            self.events.status(&self.cell.id, TaskStatus::Failed, Some(error));
        }
    }

    fn try_step(&mut self, turns: usize) -> Result<Progress, OperatorError> {
        let now_ms = self.clock.now_ms();
        self.read_mail()?;
        for turn in 0..turns {
            if !self.output.flush(now_ms)? {
                return Ok(Progress::Blocked);
            }
            if let Some(idle) = self.turn(now_ms)? {
                let wait = match (idle, self.output.linger_left_ms(now_ms)) {
                    (Some(wait), Some(linger)) => Some(wait.min(Duration::from_millis(linger.max(1)))),
                    (wait, linger) => wait.or(linger.map(|l| Duration::from_millis(l.max(1)))),
                };
                self.count_late();
                return Ok(if turn == 0 {
                    Progress::Idle(wait)
                } else {
                    Progress::Busy
                });
            }
        }
        self.count_late();
        Ok(Progress::Busy)
    }

    fn count_late(&mut self) {
        let late = self.chain.take_late_rows();
        if late > 0 {
            self.cell.counters.late.fetch_add(late, Ordering::Relaxed);
        }
    }

    fn read_mail(&mut self) -> Result<(), OperatorError> {
        for mail in self.cell.receive() {
            match mail {
                Mail::Start => {
                    if self.phase == Phase::Created {
                        self.phase = Phase::Running;
                        if self.cell.set_status(TaskStatus::Running) {
                            self.events.status(&self.cell.id, TaskStatus::Running, None);
                        }
                    }
                }
                Mail::Trigger(checkpoint) => self.triggered = self.triggered.max(Some(checkpoint)),
                Mail::Abort(checkpoint) => {
                    self.last = self.last.max(checkpoint);
                    if let Head::Inputs(gate) = &mut self.head {
                        gate.aligner().on_abort(checkpoint);
                    }
                }
                Mail::Settled(checkpoint) => self.settle(checkpoint),
                Mail::Prepared {
                    checkpoint,
                    sink_uid,
                    committables,
                } => {
                    self.chain.prepared(&sink_uid, checkpoint, committables);
                }
                Mail::Fail(reason) => return Err(OperatorError(reason)),
            }
        }
        Ok(())
    }

    fn settle(&mut self, checkpoint: CheckpointId) {
        if checkpoint <= self.settled {
            return;
        }
        self.settled = checkpoint;
        self.chain.settled(checkpoint);
        if let Head::Source(_, head) = &mut self.head {
            head.settled(checkpoint);
        }
    }

    /// One piece of work; `Some` if there was none, with the time until there may be.
    fn turn(&mut self, now_ms: u64) -> Result<Option<Option<Duration>>, OperatorError> {
        if self.chain.is_busy() {
            self.chain.resume(&mut self.output)?;
            return Ok(None);
        }
        if std::mem::take(&mut self.fall_idle) {
            self.output.idle()?;
            return Ok(None);
        }
        match self.phase {
            Phase::Ending => {
                self.output.end()?;
                self.phase = Phase::Ended;
                if self.cell.set_status(TaskStatus::Finished) {
                    self.events.status(&self.cell.id, TaskStatus::Finished, None);
                }
                Ok(None)
            }
            Phase::Ended => match self.due_trigger() {
                Some(checkpoint) => self.on_trigger(checkpoint).map(|()| None),
                None => Ok(Some(None)),
            },
            Phase::Created | Phase::Running => match &self.head {
                Head::Source(..) => self.source_turn(now_ms),
                Head::Inputs(_) => self.input_turn(now_ms),
            },
            Phase::Failed => Ok(Some(None)),
        }
    }

    /// A checkpoint that was asked for and is not over.
    fn due_trigger(&mut self) -> Option<CheckpointId> {
        let last = match &mut self.head {
            Head::Source(..) => self.last,
            Head::Inputs(gate) => gate.aligner().last(),
        };
        self.triggered.take_if(|c| *c <= last);
        self.triggered
    }

    fn on_trigger(&mut self, checkpoint: CheckpointId) -> Result<(), OperatorError> {
        self.triggered = None;
        self.last = self.last.max(checkpoint);
        if let Head::Inputs(gate) = &mut self.head
            && gate.aligner().on_trigger(checkpoint).is_none()
        {
            return Ok(());
        }
        let barrier = Barrier {
            checkpoint,
            settled: self.settled,
        };
        self.capture(barrier, 0)
    }

    fn source_turn(&mut self, now_ms: u64) -> Result<Option<Option<Duration>>, OperatorError> {
        let Head::Source(_, head) = &self.head else {
            return Ok(Some(None));
        };
        if !head.holds_rows()
            && let Some(checkpoint) = self.due_trigger()
        {
            self.on_trigger(checkpoint)?;
            return Ok(None);
        }
        if self.phase == Phase::Created {
            return Ok(Some(None));
        }
        let Head::Source(_, head) = &mut self.head else {
            return Ok(Some(None));
        };
        match head.turn(now_ms)? {
            SourceTurn::Rows(batch) => {
                if batch.num_rows() > 0 {
                    let bytes = super::event::batch_bytes(&batch);
                    self.count_in(batch.num_rows(), bytes);
                    self.chain.process(batch, &mut self.output)?;
                }
            }
            SourceTurn::Watermark(watermark_ms) => self.advance(watermark_ms),
            SourceTurn::Idle => self.fall_idle = true,
            SourceTurn::Again => {}
            SourceTurn::Wait(wait) => return Ok(Some(Some(wait))),
            SourceTurn::End => {
                self.phase = Phase::Ending;
                self.advance(END_WATERMARK);
            }
        }
        Ok(None)
    }

    fn count_in(&self, rows: usize, bytes: usize) {
        let counters = &self.cell.counters;
        counters.records_in.fetch_add(rows as u64, Ordering::Relaxed);
        counters.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn advance(&mut self, watermark_ms: i64) {
        self.watermark_ms = self.watermark_ms.max(watermark_ms);
        self.chain.advance(watermark_ms);
    }

    fn input_turn(&mut self, now_ms: u64) -> Result<Option<Option<Duration>>, OperatorError> {
        let Head::Inputs(gate) = &mut self.head else {
            return Ok(Some(None));
        };
        match gate.turn(now_ms)? {
            InputTurn::Rows {
                batch,
                bytes,
                channel,
                charge,
            } => {
                self.count_in(batch.num_rows(), bytes);
                let done = self.chain.process(batch, &mut self.output);
                if let Head::Inputs(gate) = &self.head {
                    gate.release(channel, charge);
                }
                done?;
            }
            InputTurn::Watermark(watermark_ms) => self.advance(watermark_ms),
            InputTurn::Idle => self.fall_idle = true,
            InputTurn::Verdict(verdict) => {
                let barrier = gate.barrier();
                let alignment_ms = gate.alignment_ms();
                if let Some(declined) = verdict.declined {
                    let reason = "the barrier of a newer checkpoint overtook it".to_owned();
                    self.events.declined(&self.cell.id, declined, reason);
                }
                if let Some(checkpoint) = verdict.capture {
                    let settled = barrier.map_or(self.settled, |b| b.settled);
                    self.settle(settled);
                    let barrier = Barrier {
                        checkpoint,
                        settled: self.settled,
                    };
                    self.capture(barrier, alignment_ms)?;
                }
                self.after_verdict();
            }
            InputTurn::Again => {}
            InputTurn::Empty => return Ok(Some(None)),
        }
        Ok(None)
    }

    fn after_verdict(&mut self) {
        let Head::Inputs(gate) = &mut self.head else {
            return;
        };
        match gate.after_end() {
            InputTurn::Watermark(watermark_ms) => {
                if gate.aligner().all_ended() {
                    self.phase = Phase::Ending;
                }
                self.advance(watermark_ms);
            }
            InputTurn::Idle => self.fall_idle = true,
            _ => {}
        }
    }

    /// Captures the state, reports it, and passes the barrier on.
    fn capture(&mut self, barrier: Barrier, alignment_ms: u32) -> Result<(), OperatorError> {
        inject::pass(points::WORKER_BARRIER);
        let began = Instant::now();
        let checkpoint = barrier.checkpoint;
        match self.snapshot(checkpoint) {
            Ok((state, prepares, pending)) => {
                inject::pass(points::WORKER_CAPTURED);
                let id = self.cell.id;
                self.events.push(EngineEvent::Snapshot {
                    job: id.job,
                    attempt: id.attempt,
                    checkpoint,
                    vertex: id.vertex,
                    subtask: id.subtask,
                    state,
                    prepares,
                    pending,
                    sync_us: u32::try_from(began.elapsed().as_micros()).unwrap_or(u32::MAX),
                    alignment_ms,
                });
                if self.phase != Phase::Ended {
                    self.output.barrier(barrier)?;
                }
                Ok(())
            }
            Err(SnapshotError::Declined(reason)) => {
                self.events.declined(&self.cell.id, checkpoint, reason);
                Ok(())
            }
            Err(SnapshotError::Failed(error)) => Err(error),
        }
    }

    fn snapshot(&mut self, checkpoint: CheckpointId) -> Result<Captured, SnapshotError> {
        let mut operators = Vec::new();
        if let Head::Source(uid, head) = &mut self.head {
            operators.push(CapturedOperator {
                uid: uid.clone(),
                keyed: None,
                operator: Vec::new(),
                splits: head.snapshot().map_err(SnapshotError::Declined)?,
            });
        }
        let (mut prepares, mut pending) = (Vec::new(), Vec::new());
        for (uid, snapshot) in self.chain.snapshot(checkpoint)? {
            prepares.extend(snapshot.prepare.map(|job| (uid.clone(), job)));
            if !snapshot.pending.is_empty() {
                pending.push((uid.clone(), snapshot.pending));
            }
            operators.push(CapturedOperator {
                uid,
                keyed: snapshot.keyed,
                operator: snapshot.operator,
                splits: Vec::new(),
            });
        }
        let state = CapturedState {
            operators,
            watermark_ms: (self.watermark_ms != NO_WATERMARK).then_some(self.watermark_ms),
            ended: self.phase == Phase::Ended,
        };
        Ok((state, prepares, pending))
    }
}

type Captured = (
    CapturedState,
    Vec<(String, PrepareJob)>,
    Vec<(String, Vec<Committable>)>,
);
