//! The world outside the processes: snapshot storage and the output directory, both with faults, reached through
//! futures that the simulator polls by hand. An operation begins when its future is first polled; the world decides
//! when it takes effect, whether it fails before or after that, and when its caller learns of it.

use async_trait::async_trait;
use bytes::Bytes;
use holdfast_common::{AttemptId, CheckpointId, JobId};
use holdfast_coordinator::leader::ports::Snapshots;
use holdfast_storage::StorageError;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// What is to be done outside.
#[derive(Debug, Clone)]
pub(super) enum Op {
    Put {
        path: String,
        body: Bytes,
    },
    Get {
        path: String,
    },
    List {
        prefix: String,
    },
    Delete {
        paths: Vec<String>,
    },
    /// Nothing, for a while.
    Pause {
        us: u64,
    },
    /// A sink's prepared file comes into being under its hidden name.
    Prepare {
        name: String,
        file: OutputFile,
    },
    /// A prepared file becomes visible.
    Publish {
        pending: String,
        visible: String,
        file: OutputFile,
    },
    /// Files of a job.
    Files {
        job: JobId,
    },
    Remove {
        name: String,
    },
}

/// What came of it.
#[derive(Debug, Clone)]
pub(super) enum OpResult {
    Done,
    Bytes(Bytes),
    Names(Vec<String>),
    Files(Vec<(String, OutputFile)>),
    Storage(StorageFailure),
    /// The output directory refuses; trying again cannot help.
    Conflict(String),
}

/// [`StorageError`] in a form that can be copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StorageFailure {
    NotFound(String),
    Conflict(String),
    Unavailable(String),
}

impl From<StorageFailure> for StorageError {
    fn from(failure: StorageFailure) -> Self {
        match failure {
            StorageFailure::NotFound(path) => Self::NotFound(path),
            StorageFailure::Conflict(path) => Self::Conflict(path),
            StorageFailure::Unavailable(text) => Self::Unavailable(text),
        }
    }
}

/// A file of a sink: rows `from..to` of some splits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OutputFile {
    pub(super) job: JobId,
    pub(super) attempt: AttemptId,
    pub(super) checkpoint: CheckpointId,
    pub(super) subtask: u32,
    pub(super) visible: bool,
    pub(super) rows: Vec<Rows>,
}

/// Rows `from..to` of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rows {
    pub(super) split: u32,
    pub(super) from: u64,
    pub(super) to: u64,
}

/// Operations between those who ask and the world.
#[derive(Debug, Default)]
pub(super) struct Desk {
    next: u64,
    /// Asked for, not yet seen by the world.
    pub(super) asked: Vec<(u64, Op)>,
    /// Done, not yet seen by whoever asked.
    pub(super) done: BTreeMap<u64, OpResult>,
}

/// Shared with every future.
#[derive(Debug, Clone, Default)]
pub(super) struct Outside(pub(super) Arc<Mutex<Desk>>);

impl Outside {
    /// Does something outside and waits for it.
    pub(super) fn run(&self, op: Op) -> Running {
        Running {
            desk: self.clone(),
            op: Some(op),
            id: 0,
        }
    }

    pub(super) async fn pause(&self, us: u64) {
        let _ = self.run(Op::Pause { us }).await;
    }
}

/// An operation as a future.
#[derive(Debug)]
pub(super) struct Running {
    desk: Outside,
    op: Option<Op>,
    id: u64,
}

impl Future for Running {
    type Output = OpResult;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<OpResult> {
        let desk = self.desk.0.clone();
        let mut desk = desk.lock();
        if let Some(op) = self.op.take() {
            desk.next += 1;
            self.id = desk.next;
            let id = self.id;
            desk.asked.push((id, op));
            return Poll::Pending;
        }
        match desk.done.remove(&self.id) {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

fn unexpected() -> StorageError {
    StorageError::Invalid("the simulator mixed up two operations".to_owned())
}

#[async_trait]
impl Snapshots for Outside {
    async fn put_new(&self, path: &str, body: Bytes) -> Result<(), StorageError> {
        let path = path.to_owned();
        match self.run(Op::Put { path, body }).await {
            OpResult::Done => Ok(()),
            OpResult::Storage(failure) => Err(failure.into()),
            _ => Err(unexpected()),
        }
    }

    async fn get(&self, path: &str) -> Result<Bytes, StorageError> {
        let path = path.to_owned();
        match self.run(Op::Get { path }).await {
            OpResult::Bytes(bytes) => Ok(bytes),
            OpResult::Storage(failure) => Err(failure.into()),
            _ => Err(unexpected()),
        }
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, StorageError> {
        let prefix = prefix.to_owned();
        match self.run(Op::List { prefix }).await {
            OpResult::Names(names) => Ok(names),
            OpResult::Storage(failure) => Err(failure.into()),
            _ => Err(unexpected()),
        }
    }

    async fn delete(&self, paths: Vec<String>) -> Result<(), StorageError> {
        match self.run(Op::Delete { paths }).await {
            OpResult::Done => Ok(()),
            OpResult::Storage(failure) => Err(failure.into()),
            _ => Err(unexpected()),
        }
    }
}

/// How snapshot storage behaves now.
#[derive(Debug, Clone, Default)]
pub(super) struct StoreHealth {
    pub(super) down: bool,
    /// Failures before taking effect, and after it, in a thousand.
    pub(super) flaky: (u64, u64),
    pub(super) slow: bool,
}

/// Snapshot storage: objects are created once.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) objects: BTreeMap<String, Bytes>,
    pub(super) health: StoreHealth,
}

impl Store {
    /// Takes effect, unless the storage is out of order.
    pub(super) fn apply(&mut self, op: &Op, fails_before: bool, fails_after: bool) -> OpResult {
        let unavailable = || OpResult::Storage(StorageFailure::Unavailable("no route to storage".into()));
        if self.health.down || fails_before {
            return unavailable();
        }
        let result = match op {
            Op::Put { path, body } => match self.objects.get(path) {
                Some(found) if found != body => OpResult::Storage(StorageFailure::Conflict(path.clone())),
                _ => {
                    self.objects.insert(path.clone(), body.clone());
                    OpResult::Done
                }
            },
            Op::Get { path } => match self.objects.get(path) {
                Some(body) => OpResult::Bytes(body.clone()),
                None => OpResult::Storage(StorageFailure::NotFound(path.clone())),
            },
            Op::List { prefix } => OpResult::Names(
                self.objects
                    .range(prefix.clone()..)
                    .map(|(path, _)| path)
                    .take_while(|path| path.starts_with(prefix))
                    .cloned()
                    .collect(),
            ),
            Op::Delete { paths } => {
                for path in paths {
                    self.objects.remove(path);
                }
                OpResult::Done
            }
            _ => OpResult::Done,
        };
        if fails_after { unavailable() } else { result }
    }
}

/// The sinks' output directory, which every worker shares.
#[derive(Debug, Default)]
pub(super) struct Directory {
    pub(super) files: BTreeMap<String, OutputFile>,
}

impl Directory {
    /// As the file sink: gives a prepared file its visible name, or finds that it has it already. True if it changed
    /// what readers see.
    pub(super) fn publish(&mut self, pending: &str, visible: &str, file: &OutputFile) -> (OpResult, bool) {
        let expected = OutputFile {
            visible: true,
            ..file.clone()
        };
        if let Some(found) = self.files.get(visible) {
            if *found != expected {
                return (
                    OpResult::Conflict(format!("'{visible}' exists with other content")),
                    false,
                );
            }
            self.files.remove(pending);
            return (OpResult::Done, false);
        }
        if self.files.remove(pending).is_none() {
            let text = format!("neither '{pending}' nor '{visible}' exists: committed rows are lost");
            return (OpResult::Conflict(text), false);
        }
        self.files.insert(visible.to_owned(), expected);
        (OpResult::Done, true)
    }
}
