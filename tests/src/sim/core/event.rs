//! What can happen, and to whom.

use super::ops::OpResult;
use super::tasks::{Item, TaskId};
use super::worker::{Said, WorkerDone};
use holdfast_common::{AttemptId, Incarnation, JobId};
use holdfast_coordinator::leader::input::Input;
use holdfast_proto::control::Register;
use holdfast_proto::control::coordinator_message::Body;
use std::cmp::Ordering;
use std::pin::Pin;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Proc {
    Node(usize),
    Worker(usize),
}

/// Something that will happen.
#[derive(Debug)]
pub(super) enum Event {
    /// Consensus looks after its leader.
    Watch,
    /// The leader's entries may be committed.
    Commit,
    Apply {
        node: usize,
        upto: u64,
    },
    /// A node learns that it does not lead any more.
    Deposed {
        node: usize,
        term: u64,
    },
    Claim {
        node: usize,
        term: u64,
    },
    /// A proposal without an answer is made again.
    Again {
        node: usize,
        run: u64,
        ticket: u64,
        tries: u32,
    },
    Input {
        node: usize,
        run: u64,
        input: Box<Input>,
    },
    Tick {
        node: usize,
        run: u64,
        at_us: u64,
    },
    Redial {
        node: usize,
        run: u64,
        incarnation: Incarnation,
        dials: usize,
    },
    /// An operation outside takes effect.
    Effect {
        op: u64,
    },
    /// Whoever asked for it learns of it.
    Told {
        op: u64,
        result: Box<OpResult>,
    },
    /// A worker's registration reaches a coordinator.
    Attach {
        stream: u64,
        register: Box<Register>,
    },
    /// A message to a worker; `None` is the stream's end.
    Down {
        stream: u64,
        body: Option<Box<Body>>,
    },
    /// A message to a leader; `None` is the stream's end.
    Up {
        stream: u64,
        said: Option<Box<Said>>,
    },
    Seek {
        worker: usize,
    },
    Beat {
        worker: usize,
        stream: u64,
    },
    Emit {
        worker: usize,
        task: TaskId,
    },
    Deliver {
        worker: usize,
        from: (usize, u32, TaskId),
        task: TaskId,
        split: u32,
        item: Item,
    },
    /// A task's connection to another broke.
    Broken {
        worker: usize,
        task: TaskId,
    },
    Gone {
        worker: usize,
        job: JobId,
        attempt: AttemptId,
    },
    Client {
        client: usize,
        request: u64,
    },
    Ask {
        node: usize,
        client: usize,
        request: u64,
    },
    Submit {
        job: usize,
    },
    Cancel {
        job: usize,
    },
    Fault,
    Thaw(Proc),
    Start(Proc),
    /// A worker that said that it leaves ends.
    Exit(usize),
    Heal,
    Storage,
}

/// What a future ends with.
pub(super) enum Completion {
    Leader(usize, u64, Option<Input>),
    Worker(usize, Box<WorkerDone>),
}

pub(super) type Task = Pin<Box<dyn Future<Output = Completion> + Send>>;

/// An event with its time and owner.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) at_us: u64,
    pub(super) order: u64,
    /// The process to which it happens, if it still lives.
    pub(super) owner: Option<(Proc, u32)>,
    pub(super) event: Event,
}

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Queued {}

impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Queued {
    /// The earliest is the greatest, as [`BinaryHeap`] wants it.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at_us, other.order).cmp(&(self.at_us, self.order))
    }
}
