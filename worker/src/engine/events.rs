//! Events on their way to the agent. Slot threads must not wait for the agent, so events lie here until it takes them;
//! tasks bring one event per checkpoint and status change, and the leader has one checkpoint in flight, so that the
//! queue is bounded by the tasks. Must not know what the events mean.

use super::api::{EngineEvent, EngineEvents};
use super::cell::TaskId;
use holdfast_common::CheckpointId;
use holdfast_common::limits::ENGINE_EVENTS_MAX;
use holdfast_proto::control::TaskStatus;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::Notify;

/// A shared queue of events.
#[derive(Clone, Default)]
pub struct EventQueue {
    inner: Arc<(Mutex<VecDeque<EngineEvent>>, Notify)>,
}

impl EventQueue {
    /// Adds an event; never waits.
    pub fn push(&self, event: EngineEvent) {
        self.inner.0.lock().push_back(event);
        self.inner.1.notify_one();
    }

    /// Adds a change of status.
    pub fn status(&self, id: &TaskId, status: TaskStatus, error: Option<String>) {
        self.push(EngineEvent::TaskStatus {
            job: id.job,
            attempt: id.attempt,
            vertex: id.vertex,
            subtask: id.subtask,
            status,
            error,
        });
    }

    /// Adds a refusal of a checkpoint.
    pub fn declined(&self, id: &TaskId, checkpoint: CheckpointId, reason: String) {
        self.push(EngineEvent::Declined {
            job: id.job,
            attempt: id.attempt,
            checkpoint,
            vertex: id.vertex,
            subtask: id.subtask,
            reason,
        });
    }

    /// Takes the oldest event.
    #[must_use]
    pub fn pop(&self) -> Option<EngineEvent> {
        self.inner.0.lock().pop_front()
    }

    /// The agent's end; events are moved there as fast as it takes them, until it is dropped.
    #[must_use]
    pub fn deliver(&self, runtime: &tokio::runtime::Handle) -> EngineEvents {
        let (sender, receiver) = tokio::sync::mpsc::channel(ENGINE_EVENTS_MAX);
        let queue = self.clone();
        runtime.spawn(async move {
            loop {
                while let Some(event) = queue.pop() {
                    if sender.send(event).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    () = queue.inner.1.notified() => {}
                    () = sender.closed() => return,
                }
            }
        });
        receiver
    }
}
