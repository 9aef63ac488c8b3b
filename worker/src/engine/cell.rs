//! What a task shares with the rest of the engine: its mailbox, its status and its counters. Must not know what the
//! task does.

use super::waker::Waker;
use holdfast_common::limits::TASK_MAIL_MAX;
use holdfast_common::{AttemptId, CheckpointId, JobId, VertexId};
use holdfast_dataflow::connector::Committable;
use holdfast_proto::control::{TaskReport, TaskStatus};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering};

/// Which task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId {
    /// The job.
    pub job: JobId,
    /// The attempt.
    pub attempt: AttemptId,
    /// The vertex.
    pub vertex: VertexId,
    /// The subtask.
    pub subtask: u32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "task {}/{} of job {} attempt {}",
            self.vertex, self.subtask, self.job, self.attempt
        )
    }
}

/// A command to a task.
#[derive(Debug)]
pub enum Mail {
    /// Sources begin.
    Start,
    /// Take part in a checkpoint.
    Trigger(CheckpointId),
    /// A checkpoint is given up.
    Abort(CheckpointId),
    /// A checkpoint is complete in the log.
    Settled(CheckpointId),
    /// A prepare job's result.
    Prepared {
        /// The checkpoint.
        checkpoint: CheckpointId,
        /// The sink.
        sink_uid: String,
        /// What it prepared.
        committables: Vec<Committable>,
    },
    /// The task cannot go on: a peer is gone, or the agent says so.
    Fail(String),
}

/// Counters of a task since its start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Rows taken.
    pub records_in: AtomicU64,
    /// Rows emitted.
    pub records_out: AtomicU64,
    /// Bytes taken.
    pub bytes_in: AtomicU64,
    /// Bytes emitted.
    pub bytes_out: AtomicU64,
    /// Event time reached.
    pub watermark_ms: AtomicI64,
    /// Rows dropped because they came too late.
    pub late: AtomicU64,
    /// Rows that did not parse and were skipped by option.
    pub bad: Arc<AtomicU64>,
    /// Microseconds in which the task worked.
    pub busy_us: AtomicU64,
    /// Microseconds in which it waited for room downstream.
    pub blocked_us: AtomicU64,
}

/// See the module.
#[derive(Debug)]
pub struct TaskCell {
    /// Which task.
    pub id: TaskId,
    /// Counters.
    pub counters: Counters,
    /// Rings the task's slot.
    pub waker: Arc<Waker>,
    started_ms: u64,
    status: AtomicI32,
    cancelled: AtomicBool,
    /// The task is gone from its slot.
    gone: AtomicBool,
    mail: Mutex<VecDeque<Mail>>,
    has_mail: AtomicBool,
}

impl TaskCell {
    /// A task that is being built.
    #[must_use]
    pub fn new(id: TaskId, waker: Arc<Waker>, now_ms: u64) -> Self {
        let counters = Counters::default();
        counters.watermark_ms.store(i64::MIN, Ordering::Relaxed);
        Self {
            id,
            counters,
            waker,
            started_ms: now_ms,
            status: AtomicI32::new(TaskStatus::Initializing as i32),
            cancelled: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            mail: Mutex::new(VecDeque::new()),
            has_mail: AtomicBool::new(false),
        }
    }

    /// Sends a command. A mailbox that overflows keeps only the news that it did.
    pub fn send(&self, mail: Mail) {
        let mut queue = self.mail.lock();
        if queue.len() >= TASK_MAIL_MAX {
            queue.clear();
            queue.push_back(Mail::Fail(format!(
                "{TASK_MAIL_MAX} commands wait: the task does not step"
            )));
        } else {
            queue.push_back(mail);
        }
        drop(queue);
        self.has_mail.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Takes all commands.
    pub fn receive(&self) -> VecDeque<Mail> {
        if !self.has_mail.swap(false, Ordering::Acquire) {
            return VecDeque::new();
        }
        std::mem::take(&mut *self.mail.lock())
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> TaskStatus {
        TaskStatus::try_from(self.status.load(Ordering::Acquire)).unwrap_or(TaskStatus::Unspecified)
    }

    /// Changes the status, unless the task is over. True if it did.
    pub fn set_status(&self, status: TaskStatus) -> bool {
        let over = [TaskStatus::Failed as i32, TaskStatus::Canceled as i32];
        self.status
            .try_update(Ordering::AcqRel, Ordering::Acquire, |now| {
                (!over.contains(&now) && now != status as i32).then_some(status as i32)
            })
            .is_ok()
    }

    /// Asks the slot to drop the task.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether the slot shall drop the task.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// The slot has dropped the task.
    pub fn set_gone(&self) {
        self.gone.store(true, Ordering::Release);
    }

    /// Whether the task is gone from its slot.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }

    /// Status and counters for a heartbeat.
    #[must_use]
    pub fn report(&self) -> TaskReport {
        let c = &self.counters;
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        TaskReport {
            vertex: self.id.vertex.0,
            subtask: self.id.subtask,
            status: self.status.load(Ordering::Acquire),
            started_ms: self.started_ms,
            records_in: read(&c.records_in),
            records_out: read(&c.records_out),
            bytes_in: read(&c.bytes_in),
            bytes_out: read(&c.bytes_out),
            watermark_ms: c.watermark_ms.load(Ordering::Relaxed),
            late_records_dropped: read(&c.late),
            bad_records_skipped: read(&c.bad),
            busy_ms: read(&c.busy_us) / 1000,
            backpressured_ms: read(&c.blocked_us) / 1000,
        }
    }
}
