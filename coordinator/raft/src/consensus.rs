//! The only hold on openraft that the crate's tasks and services have: it is asked nothing more once it has stopped.
//!
//! A call that finds openraft's core gone waits for that task to end, and the first such call takes the task's handle
//! with it. If that call is dropped before the task has ended, since its deadline has passed or its caller is gone, the
//! handle is lost, and every later call panics (openraft 0.10.0-alpha.37, `RaftInner::join_core_task`). So whether
//! openraft has stopped is looked at before each step of a call: it says so in its metrics before it closes the channels
//! by which a call would find out. What is left is a stop in the instant between a look and its step, by a call that is
//! dropped right then; the process is ending in that case.

use crate::types::{Metrics, Raft, TypeConfig};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::raft::{AppendEntriesRequest, StreamAppendResult};
use openraft::type_config::alias::WatchReceiverOf;
use std::pin::pin;
use std::task::Poll;

/// openraft, running or stopped.
pub(crate) struct Consensus {
    raft: Raft,
    metrics: WatchReceiverOf<TypeConfig, Metrics>,
}

impl Consensus {
    pub(crate) fn new(raft: Raft) -> Self {
        let metrics = raft.metrics();
        Self { raft, metrics }
    }

    /// Makes a call, which may be dropped at any time.
    ///
    /// # Errors
    /// The call's own; and why openraft has stopped, as soon as it has.
    pub(crate) async fn ask<'a, T, E, F>(&'a self, call: impl FnOnce(&'a Raft) -> F) -> Result<T, E>
    where
        E: From<Fatal<TypeConfig>>,
        F: Future<Output = Result<T, E>> + 'a,
    {
        let mut asked = pin!(call(&self.raft));
        std::future::poll_fn(|cx| match stopped(&self.metrics) {
            Some(fatal) => Poll::Ready(Err(fatal.into())),
            None => asked.as_mut().poll(cx),
        })
        .await
    }

    /// Appends a leader's messages; answered in their order. Why openraft has stopped is the last answer.
    pub(crate) fn append(
        &self,
        requests: impl Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + 'static,
    ) -> BoxStream<'static, Result<StreamAppendResult<TypeConfig>, Fatal<TypeConfig>>> {
        let (mut answers, metrics) = (self.raft.stream_append(requests).boxed(), self.metrics.clone());
        let mut ended = false;
        let answers = futures::stream::poll_fn(move |cx| match stopped(&metrics) {
            Some(_) if ended => Poll::Ready(None),
            Some(fatal) => {
                ended = true;
                Poll::Ready(Some(Err(fatal)))
            }
            None => answers.poll_next_unpin(cx),
        });
        answers.boxed()
    }

    /// Whether this one may ask to be elected.
    pub(crate) fn allow_elections(&self, allow: bool) {
        self.raft.runtime_config().elect(allow);
    }

    /// What openraft tells of itself, whenever it changes; copied, since holding it would block consensus.
    pub(crate) fn metrics(&self) -> Metrics {
        self.metrics.borrow_watched().clone()
    }

    /// To wait for any change.
    pub(crate) fn watch(&self) -> WatchReceiverOf<TypeConfig, Metrics> {
        self.metrics.clone()
    }

    /// To wait for changes of who leads.
    pub(crate) fn watch_leader(
        &self,
    ) -> WatchReceiverOf<TypeConfig, openraft::metrics::RaftServerMetrics<TypeConfig>> {
        self.raft.server_metrics()
    }

    /// Why it has stopped, if it has.
    pub(crate) fn stopped(&self) -> Option<Fatal<TypeConfig>> {
        stopped(&self.metrics)
    }

    /// Stops openraft, and waits until it has.
    pub(crate) async fn stop(&self) {
        // That it has stopped before is no failure.
        let _ = self.raft.shutdown().await;
    }
}

fn stopped(metrics: &WatchReceiverOf<TypeConfig, Metrics>) -> Option<Fatal<TypeConfig>> {
    metrics.borrow_watched().running_state.clone().err()
}
