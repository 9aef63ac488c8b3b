//! Simulated tasks of an attempt on a worker: sources that count, sinks that check that nothing is missing and write
//! files. Alignment and what a sink keeps until a checkpoint is settled are the real aligner and the real sink operator.

use super::files::{decode_file, encode_file, names, numbers};
use super::ops::{Op, OpResult, OutputFile, Outside, Rows};
use super::worker::AttemptKey;
use super::world::{Event, Proc, World};
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId, VertexId};
use holdfast_dataflow::arrow::record_batch::RecordBatch;
use holdfast_dataflow::connector::{Committable, ConnectorError, PrepareJob, SinkWriter};
use holdfast_proto::control::TaskStatus;
use holdfast_worker::engine::Aligner;
use holdfast_worker::operators::{Operator, SinkOperator};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// Vertex and subtask.
pub(super) type TaskKey = (VertexId, u32);
/// A task of an attempt.
pub(super) type TaskId = (AttemptKey, TaskKey);

pub(super) const SOURCE: VertexId = VertexId(0);
pub(super) const SINK: VertexId = VertexId(1);

/// What flows from a source to a sink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Item {
    Rows(Rows),
    /// Checkpoint, and the newest one that is settled.
    Barrier(CheckpointId, CheckpointId),
    End,
}

/// An attempt's share on this worker.
pub(super) struct Local {
    /// Of the plan.
    pub(super) plan: usize,
    pub(super) started: bool,
    pub(super) seen: CheckpointId,
    /// Slot i runs subtask i.
    pub(super) slots: Vec<Incarnation>,
    pub(super) tasks: BTreeMap<TaskKey, Task>,
}

pub(super) struct Task {
    pub(super) status: TaskStatus,
    pub(super) triggered: Option<CheckpointId>,
    pub(super) settled: CheckpointId,
    /// Files prepared so far: part of their names.
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    Source { next: u64, last: CheckpointId },
    Sink(Box<Sink>),
}

pub(super) struct Sink {
    pub(super) aligner: Aligner,
    /// The split that each input brings.
    pub(super) splits: Vec<u32>,
    inputs: Vec<VecDeque<Item>>,
    /// The next row of each split.
    expected: BTreeMap<u32, u64>,
    open: Open,
    pub(super) operator: SinkOperator,
}

/// Rows written since the last barrier.
type Open = Arc<Mutex<Vec<Rows>>>;

/// A state on its way to storage.
pub(super) struct Captured {
    pub(super) id: TaskId,
    pub(super) checkpoint: CheckpointId,
    pub(super) state: Vec<u8>,
    pub(super) committables: Vec<Committable>,
    pub(super) prepare: Option<PrepareJob>,
}

/// What a task wants after it has worked.
pub(super) enum Wish {
    Capture(Captured, CheckpointId),
    Declined(CheckpointId, String),
    Finished,
    Failed(String),
    Wrong(String),
}

/// Hides rows in a file when the barrier comes. The file comes into being when the prepare job's result is awaited.
struct Writer {
    open: Open,
    job: JobId,
    attempt: AttemptId,
    subtask: u32,
}

impl SinkWriter for Writer {
    fn write(&mut self, _: &RecordBatch) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn prepare(&mut self, checkpoint: CheckpointId) -> Result<PrepareJob, ConnectorError> {
        let file = OutputFile {
            job: self.job,
            attempt: self.attempt,
            checkpoint,
            subtask: self.subtask,
            visible: false,
            rows: std::mem::take(&mut *self.open.lock()),
        };
        Ok(Box::new(move || {
            if file.rows.is_empty() {
                return Ok(Vec::new());
            }
            Ok(vec![Committable {
                checkpoint,
                subtask: file.subtask,
                data: encode_file(&file),
            }])
        }))
    }
}

impl Task {
    /// A task that starts from a captured state, or from nothing.
    pub(super) fn new(id: TaskId, splits: Vec<u32>, restored: CheckpointId, state: &[u8]) -> Self {
        let ((job, attempt), (vertex, subtask)) = id;
        let n = numbers(state);
        let kind = if vertex == SOURCE {
            Kind::Source {
                next: n.first().copied().unwrap_or(0),
                last: restored,
            }
        } else {
            let open = Open::default();
            let writer = Writer {
                open: Arc::clone(&open),
                job,
                attempt,
                subtask,
            };
            let stored = n.chunks_exact(2).map(|c| (c[0] as u32, c[1]));
            Kind::Sink(Box::new(Sink {
                aligner: Aligner::new(splits.len(), restored),
                inputs: vec![VecDeque::new(); splits.len()],
                // A sink always has state, so that a missing part is noticed.
                expected: splits.iter().map(|split| (*split, 0)).chain(stored).collect(),
                splits,
                open,
                operator: SinkOperator::new(Box::new(writer), true),
            }))
        };
        Self {
            status: TaskStatus::Initializing,
            triggered: None,
            settled: restored,
            kind,
        }
    }

    pub(super) fn settle(&mut self, checkpoint: CheckpointId) {
        if checkpoint > self.settled {
            self.settled = checkpoint;
            if let Kind::Sink(sink) = &mut self.kind {
                sink.operator.settled(checkpoint);
            }
        }
    }

    pub(super) fn abort(&mut self, checkpoint: CheckpointId) {
        match &mut self.kind {
            Kind::Source { last, .. } => *last = (*last).max(checkpoint),
            Kind::Sink(sink) => sink.aligner.on_abort(checkpoint),
        }
    }

    /// Takes an item from a source.
    pub(super) fn take(&mut self, split: u32, item: Item) {
        if let Kind::Sink(sink) = &mut self.kind
            && let Some(channel) = sink.splits.iter().position(|s| *s == split)
        {
            sink.inputs[channel].push_back(item);
        }
    }

    /// Works until there is nothing to do.
    pub(super) fn work(&mut self, id: TaskId) -> Vec<Wish> {
        let mut wishes = Vec::new();
        if !matches!(
            self.status,
            TaskStatus::Initializing | TaskStatus::Running | TaskStatus::Finished
        ) {
            return wishes;
        }
        while self.turn(id, &mut wishes) {}
        if let Some(checkpoint) = self.due_trigger() {
            self.triggered = None;
            let asked = match &mut self.kind {
                Kind::Source { last, .. } => {
                    *last = checkpoint;
                    true
                }
                Kind::Sink(sink) => sink.aligner.on_trigger(checkpoint).is_some(),
            };
            if asked {
                self.capture(id, checkpoint, &mut wishes);
            }
        }
        wishes
    }

    /// Sources capture when they are asked to; sinks only once their inputs have ended.
    fn due_trigger(&mut self) -> Option<CheckpointId> {
        let (last, able) = match &self.kind {
            Kind::Source { last, .. } => (*last, true),
            Kind::Sink(sink) => (sink.aligner.last(), self.status == TaskStatus::Finished),
        };
        self.triggered.take_if(|c| *c <= last);
        self.triggered.filter(|_| able)
    }

    fn turn(&mut self, id: TaskId, wishes: &mut Vec<Wish>) -> bool {
        let Kind::Sink(sink) = &mut self.kind else {
            return false;
        };
        let ready = (0..sink.inputs.len()).find(|c| sink.aligner.is_open(*c) && !sink.inputs[*c].is_empty());
        let Some(channel) = ready else { return false };
        let verdict = match sink.inputs[channel].pop_front() {
            Some(Item::Rows(rows)) => {
                let expected = sink.expected.entry(rows.split).or_default();
                if rows.from != *expected {
                    wishes.push(Wish::Wrong(format!(
                        "sink {} of attempt {} gets rows {}..{} of split {} and expects {expected}",
                        id.1.1, id.0.1, rows.from, rows.to, rows.split
                    )));
                }
                *expected = rows.to;
                sink.write(rows);
                return true;
            }
            Some(Item::Barrier(checkpoint, settled)) => {
                let verdict = sink.aligner.on_barrier(channel, checkpoint);
                if verdict.capture.is_some() {
                    self.settle(settled);
                }
                verdict
            }
            Some(Item::End) => sink.aligner.on_end(channel),
            None => return false,
        };
        if let Some(declined) = verdict.declined {
            wishes.push(Wish::Declined(declined, "a newer barrier overtook it".to_owned()));
        }
        if let Some(checkpoint) = verdict.capture {
            self.capture(id, checkpoint, wishes);
        }
        if let Kind::Sink(sink) = &self.kind
            && sink.aligner.all_ended()
            && self.status == TaskStatus::Running
        {
            self.status = TaskStatus::Finished;
            wishes.push(Wish::Finished);
        }
        true
    }

    fn capture(&mut self, id: TaskId, checkpoint: CheckpointId, wishes: &mut Vec<Wish>) {
        let settled = self.settled;
        let (state, prepare, committables) = match &mut self.kind {
            Kind::Source { next, .. } => (next.to_le_bytes().to_vec(), None, Vec::new()),
            Kind::Sink(sink) => match sink.operator.snapshot(checkpoint) {
                Ok(snapshot) => (sink.state(), snapshot.prepare, snapshot.pending),
                Err(error) => {
                    wishes.push(match error {
                        holdfast_worker::operators::SnapshotError::Declined(reason) => {
                            Wish::Declined(checkpoint, reason)
                        }
                        holdfast_worker::operators::SnapshotError::Failed(error) => Wish::Failed(error.0),
                    });
                    return;
                }
            },
        };
        let captured = Captured {
            id,
            checkpoint,
            state,
            committables,
            prepare,
        };
        wishes.push(Wish::Capture(captured, settled));
    }
}

impl Sink {
    fn write(&self, rows: Rows) {
        let mut open = self.open.lock();
        match open
            .iter_mut()
            .find(|r| r.split == rows.split && r.to == rows.from)
        {
            Some(known) => known.to = rows.to,
            None => open.push(rows),
        }
    }

    fn state(&self) -> Vec<u8> {
        let numbers = self
            .expected
            .iter()
            .flat_map(|(split, next)| [u64::from(*split), *next]);
        numbers.flat_map(u64::to_le_bytes).collect()
    }
}

/// Runs what a sink has to do for its output to be durable.
pub(super) async fn prepare(outside: &Outside, job: Option<PrepareJob>) -> Result<Vec<Committable>, String> {
    let Some(job) = job else { return Ok(Vec::new()) };
    let committables = job().map_err(|e| e.to_string())?;
    for committable in &committables {
        let file = decode_file(&committable.data).ok_or("a sink's record does not parse")?;
        let (name, _) = names(&file);
        if let OpResult::Conflict(reason) = outside.run(Op::Prepare { name, file }).await {
            return Err(reason);
        }
    }
    Ok(committables)
}

impl World {
    /// A source sends on.
    pub(super) fn emit(&mut self, worker: usize, id: TaskId) {
        let Some(local) = self.workers[worker].engine.get(&id.0) else {
            return;
        };
        let plan = local.plan;
        let limit = self.limits[plan];
        let split = id.1.1;
        let many = 1 + self.rng.below(4);
        let wait = self.rng.range((8_000, 30_000));
        let Some(task) = self.task_mut(worker, id) else {
            return;
        };
        let Kind::Source { next, .. } = &mut task.kind else {
            return;
        };
        if task.status != TaskStatus::Running {
            return;
        }
        let from = *next;
        let to = (from + many).min(limit.unwrap_or(u64::MAX)).max(from);
        *next = to;
        self.furthest[plan] = self.furthest[plan].max(to);
        if to > from {
            self.send_item(worker, id, Item::Rows(Rows { split, from, to }));
        }
        if limit.is_some_and(|limit| to >= limit) {
            self.send_item(worker, id, Item::End);
            if let Some(task) = self.task_mut(worker, id) {
                task.status = TaskStatus::Finished;
            }
            self.wish(worker, id, Wish::Finished);
            return self.work(worker, id);
        }
        self.after(wait, Some(Proc::Worker(worker)), Event::Emit { worker, task: id });
    }

    pub(super) fn task_mut(&mut self, worker: usize, id: TaskId) -> Option<&mut Task> {
        self.workers[worker].engine.get_mut(&id.0)?.tasks.get_mut(&id.1)
    }

    pub(super) fn work(&mut self, worker: usize, id: TaskId) {
        let Some(task) = self.task_mut(worker, id) else {
            return;
        };
        for wish in task.work(id) {
            self.wish(worker, id, wish);
        }
    }

    /// From a source to its sink, in order: nothing overtakes on one connection.
    pub(super) fn send_item(&mut self, worker: usize, id: TaskId, item: Item) {
        let Some(local) = self.workers[worker].engine.get(&id.0) else {
            return;
        };
        let split = id.1.1;
        let sink = split % self.plan.jobs[local.plan].sinks;
        let Some(target) = local.slots.get(sink as usize).copied() else {
            return;
        };
        let task = (id.0, (SINK, sink));
        let from = (worker, self.workers[worker].generation, id);
        let to = self
            .workers
            .iter()
            .position(|w| w.incarnation == target && w.alive);
        let Some(to) = to else {
            return self.after(
                1_000,
                Some(Proc::Worker(worker)),
                Event::Broken { worker, task: id },
            );
        };
        let wait = if to == worker { 10 } else { self.latency() };
        let last = self.wires.entry((id, target)).or_default();
        *last = (self.now_us + wait).max(*last + 1);
        let at_us = *last;
        let event = Event::Deliver {
            worker: to,
            from,
            task,
            split,
            item,
        };
        self.at(at_us, Some(Proc::Worker(to)), event);
    }

    pub(super) fn deliver(
        &mut self,
        worker: usize,
        (sender, generation, from): (usize, u32, TaskId),
        id: TaskId,
        split: u32,
        item: Item,
    ) {
        match self.task_mut(worker, id) {
            Some(task) if task.status != TaskStatus::Failed => {
                task.take(split, item);
                self.work(worker, id);
            }
            _ => {
                if self.workers[sender].generation == generation {
                    let event = Event::Broken {
                        worker: sender,
                        task: from,
                    };
                    self.after(500, Some(Proc::Worker(sender)), event);
                }
            }
        }
    }
}
