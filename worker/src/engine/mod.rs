//! The task engine of a worker: deploys an attempt's tasks onto slot threads, connects their channels, and passes the
//! agent's commands to them. Knows neither the control protocol nor snapshot storage nor SQL.

mod aligner;
mod api;
mod build;
mod capture;
pub(crate) mod cell;
pub(crate) mod channel;
pub(crate) mod event;
mod events;
mod input;
mod output;
mod partition;
mod restore;
mod slot;
mod task;
pub(crate) mod waker;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads_tests;

pub use aligner::{Aligner, Verdict};
pub use api::{
    Deployment, EngineConfig, EngineError, EngineEvent, EngineEvents, RestoreState, SlotPlace, VertexRestore,
};
pub use capture::{CapturedOperator, CapturedState};

use crate::exchange::{Hub, Peer};
use build::{Built, Site, build};
use cell::{Mail, TaskCell};
use events::EventQueue;
use holdfast_common::clock::SharedClock;
use holdfast_common::limits::CANCEL_DEADLINE;
use holdfast_common::{AttemptId, CheckpointId, JobId, VertexId};
use holdfast_dataflow::connector::{Committable, ConnectorRegistry};
use holdfast_proto::control::{AttemptReport, TaskStatus};
use parking_lot::Mutex;
use slot::Slot;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Handle of the engine; cheap to clone. When the last one is dropped, the slot threads end.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

struct Inner {
    config: EngineConfig,
    me: Peer,
    registry: Arc<dyn ConnectorRegistry>,
    clock: SharedClock,
    runtime: Handle,
    hub: Arc<Hub>,
    slots: Vec<Slot>,
    events: EventQueue,
    attempts: Mutex<BTreeMap<(JobId, AttemptId), Attempt>>,
    gone: Arc<Notify>,
}

/// An attempt's tasks here.
struct Attempt {
    cells: Vec<Arc<TaskCell>>,
    /// Ends its links, and its deployment if that is still going on.
    stop: CancellationToken,
    started: bool,
    checkpoint_seen: CheckpointId,
}

impl Engine {
    /// Binds the data port and starts the slot threads.
    ///
    /// # Errors
    /// [`EngineError::Start`].
    pub async fn start(
        config: EngineConfig,
        registry: Arc<dyn ConnectorRegistry>,
        clock: SharedClock,
        runtime: Handle,
    ) -> Result<(Self, EngineEvents), EngineError> {
        let bind = std::net::SocketAddr::from((config.bind, config.data_port));
        let cannot = |e: std::io::Error| EngineError::Start(format!("data port {bind}: {e}"));
        let listener = holdfast_runtime::listen(&bind.to_string())
            .await
            .map_err(cannot)?;
        let port = listener.port().map_err(cannot)?;
        let me = Peer {
            incarnation: config.incarnation,
            addr: format!("{}:{port}", config.advertise_host),
        };
        let gone = Arc::new(Notify::new());
        let slots = (0..config.slots)
            .map(|i| Slot::start(i, gone.clone()))
            .collect::<std::io::Result<Vec<_>>>()
            .map_err(|e| EngineError::Start(format!("no thread for a slot: {e}")))?;
        let events = EventQueue::default();
        let receiver = events.deliver(&runtime);
        let hub = Hub::start(listener, me.clone(), runtime.clone());
        let inner = Inner {
            config,
            me,
            registry,
            clock,
            runtime,
            hub,
            slots,
            events,
            attempts: Mutex::default(),
            gone,
        };
        Ok((
            Self {
                inner: Arc::new(inner),
            },
            receiver,
        ))
    }

    /// Where peers reach this engine, `host:port`.
    #[must_use]
    pub fn data_addr(&self) -> String {
        self.inner.me.addr.clone()
    }

    /// Builds the attempt's tasks, restores their state and connects them. They emit nothing before
    /// [`Self::start_attempt`].
    ///
    /// # Errors
    /// The attempt is not deployed; nothing of it remains.
    pub async fn deploy(&self, deployment: Deployment) -> Result<(), EngineError> {
        let key = (deployment.job, deployment.attempt);
        let stop = CancellationToken::new();
        {
            let mut attempts = self.inner.attempts.lock();
            if attempts.contains_key(&key) {
                return Err(EngineError::Invalid(format!(
                    "attempt {} of job {} is deployed already",
                    key.1, key.0
                )));
            }
            let checkpoint_seen = deployment
                .restore
                .as_ref()
                .map_or(CheckpointId(0), |r| r.checkpoint);
            let attempt = Attempt {
                cells: Vec::new(),
                stop: stop.clone(),
                started: false,
                checkpoint_seen,
            };
            attempts.insert(key, attempt);
        }
        let result = tokio::select! {
            result = self.try_deploy(deployment, stop.clone()) => result,
            () = stop.cancelled() => Err(EngineError::Invalid("the attempt was cancelled meanwhile".to_owned())),
        };
        if result.is_err() {
            stop.cancel();
            self.inner.hub.forget(key.0, key.1);
            self.inner.attempts.lock().remove(&key);
        }
        result
    }

    async fn try_deploy(&self, d: Deployment, stop: CancellationToken) -> Result<(), EngineError> {
        let inner = self.inner.clone();
        let (job, attempt) = (d.job, d.attempt);
        let placed = inner.place(&d.my_slots);
        let site = Site {
            incarnation: inner.me.incarnation,
            registry: inner.registry.clone(),
            clock: inner.clock.clone(),
            events: inner.events.clone(),
            tmp_dir: inner.config.tmp_dir.clone(),
            wakers: placed
                .iter()
                .map(|(slot, thread)| (*slot, inner.slots[*thread].waker()))
                .collect(),
            stop,
        };
        // Connectors open files here, and state is decoded: not on a thread that serves sockets.
        let built = holdfast_runtime::blocking_on(&inner.runtime, move || build(&d, &site)).await;
        let Built {
            tasks,
            inbound,
            outbound,
        } = built.map_err(|e| EngineError::Connector(format!("building the tasks failed: {e}")))??;
        inner.hub.expect(job, attempt, inbound);
        // All at once: the deadline is one for the whole deployment.
        let dialled = outbound.into_iter().map(|(peer, link)| {
            let hub = inner.hub.clone();
            async move { hub.dial(job, attempt, &peer, link).await }
        });
        futures::future::try_join_all(dialled)
            .await
            .map_err(EngineError::Connect)?;
        let cells: Vec<Arc<TaskCell>> = tasks.iter().map(|(_, task)| task.cell().clone()).collect();
        {
            let mut attempts = inner.attempts.lock();
            let Some(entry) = attempts
                .get_mut(&(job, attempt))
                .filter(|a| !a.stop.is_cancelled())
            else {
                return Err(EngineError::Invalid(
                    "the attempt was cancelled meanwhile".to_owned(),
                ));
            };
            entry.cells = cells.clone();
            // Under the lock, so that a cancel finds the tasks either not at all or in their slots.
            let mut by_thread: BTreeMap<usize, Vec<task::Task>> = BTreeMap::new();
            for (slot, task) in tasks {
                by_thread
                    .entry(placed.get(&slot).copied().unwrap_or(0))
                    .or_default()
                    .push(task);
            }
            for (thread, tasks) in by_thread {
                inner.slots[thread].add(tasks);
            }
        }
        for cell in &cells {
            inner.events.status(&cell.id, cell.status(), None);
        }
        Ok(())
    }

    /// Sources begin.
    pub fn start_attempt(&self, job: JobId, attempt: AttemptId) {
        self.inner.with(job, attempt, |a| {
            a.started = true;
            a.cells.iter().for_each(|c| c.send(Mail::Start));
        });
    }

    /// Injects a barrier into the attempt's sources, and into tasks whose inputs have all ended. A final checkpoint is
    /// an ordinary one for tasks: what makes it final is that all of them have ended.
    pub fn trigger(&self, job: JobId, attempt: AttemptId, checkpoint: CheckpointId, _is_final: bool) {
        self.inner.with(job, attempt, |a| {
            a.checkpoint_seen = a.checkpoint_seen.max(checkpoint);
            a.cells.iter().for_each(|c| c.send(Mail::Trigger(checkpoint)));
        });
    }

    /// The checkpoint will not complete.
    pub fn abort_checkpoint(&self, job: JobId, attempt: AttemptId, checkpoint: CheckpointId) {
        self.inner.with(job, attempt, |a| {
            a.cells.iter().for_each(|c| c.send(Mail::Abort(checkpoint)));
        });
    }

    /// The checkpoint is complete in the log.
    pub fn settled(&self, job: JobId, attempt: AttemptId, checkpoint: CheckpointId) {
        self.inner.with(job, attempt, |a| {
            a.cells.iter().for_each(|c| c.send(Mail::Settled(checkpoint)));
        });
    }

    /// Stops the attempt's tasks; returns when they are gone, or after [`CANCEL_DEADLINE`]. Tasks that are then still
    /// there hang in a connector; they stay in [`Self::report`].
    pub async fn cancel(&self, job: JobId, attempt: AttemptId) {
        let inner = &self.inner;
        let mut cells = Vec::new();
        inner.with(job, attempt, |a| {
            a.stop.cancel();
            cells.clone_from(&a.cells);
        });
        inner.hub.forget(job, attempt);
        cells.iter().for_each(|c| c.cancel());
        let all_gone = async {
            loop {
                let next = inner.gone.notified();
                if cells.iter().all(|c| c.is_gone()) {
                    return;
                }
                next.await;
            }
        };
        if tokio::time::timeout(CANCEL_DEADLINE, all_gone).await.is_err() {
            let leaked: Vec<String> = cells
                .iter()
                .filter(|c| !c.is_gone())
                .map(|c| c.id.to_string())
                .collect();
            tracing::error!(
                ?leaked,
                "tasks did not stop in time: a connector blocks their slot"
            );
            return;
        }
        inner.attempts.lock().remove(&(job, attempt));
        for cell in cells.iter().filter(|c| c.status() == TaskStatus::Canceled) {
            inner.events.status(&cell.id, TaskStatus::Canceled, None);
        }
    }

    /// Every attempt here with its tasks and counters.
    #[must_use]
    pub fn report(&self) -> Vec<AttemptReport> {
        let attempts = self.inner.attempts.lock();
        attempts
            .iter()
            .map(|((job, attempt), a)| AttemptReport {
                job_id: job.to_bytes().to_vec().into(),
                attempt: attempt.0,
                tasks: a.cells.iter().map(|c| c.report()).collect(),
                checkpoint_seen: a.checkpoint_seen.0,
                started: a.started,
            })
            .collect()
    }

    /// A prepare job's result: it rides into the next checkpoint if this one is aborted.
    #[allow(clippy::too_many_arguments)]
    pub fn prepared(
        &self,
        job: JobId,
        attempt: AttemptId,
        checkpoint: CheckpointId,
        vertex: VertexId,
        subtask: u32,
        sink_uid: &str,
        committables: Vec<Committable>,
    ) {
        let mail = Mail::Prepared {
            checkpoint,
            sink_uid: sink_uid.to_owned(),
            committables,
        };
        self.inner
            .with_task(job, attempt, vertex, subtask, |c| c.send(mail));
    }

    /// Fails a task from outside, for instance because a prepare job failed: its output would otherwise be lost.
    pub fn fail_task(&self, job: JobId, attempt: AttemptId, vertex: VertexId, subtask: u32, error: String) {
        self.inner
            .with_task(job, attempt, vertex, subtask, |c| c.send(Mail::Fail(error)));
    }
}

impl Inner {
    fn with(&self, job: JobId, attempt: AttemptId, f: impl FnOnce(&mut Attempt)) {
        match self.attempts.lock().get_mut(&(job, attempt)) {
            Some(entry) => f(entry),
            None => tracing::debug!(%job, %attempt, "a command for an attempt that is not here"),
        }
    }

    fn with_task(
        &self,
        job: JobId,
        attempt: AttemptId,
        vertex: VertexId,
        subtask: u32,
        f: impl FnOnce(&TaskCell),
    ) {
        self.with(job, attempt, |a| {
            if let Some(cell) = a
                .cells
                .iter()
                .find(|c| c.id.vertex == vertex && c.id.subtask == subtask)
            {
                f(cell);
            }
        });
    }

    /// A thread for every slot of a job: the least loaded ones.
    fn place(&self, my_slots: &[u32]) -> BTreeMap<u32, usize> {
        let mut load: Vec<usize> = self.slots.iter().map(Slot::load).collect();
        // What one slot of the job adds does not matter, only that slots of one job spread.
        let step = load.iter().max().copied().unwrap_or(0) + 1;
        let mut placed = BTreeMap::new();
        for &slot in my_slots {
            let least = (0..load.len()).min_by_key(|i| load[*i]).unwrap_or(0);
            load[least] += step;
            placed.insert(slot, least);
        }
        placed
    }
}
