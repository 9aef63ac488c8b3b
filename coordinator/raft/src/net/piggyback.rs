//! Commits travel with the next entries.
//!
//! A leader that has committed an entry tells its followers, and openraft does so in a message of its own, unless there
//! are entries to send. With one client after another each write would cost every follower two messages, and the second
//! would take processors from the next write. So a message without entries waits for a moment: entries that come carry
//! what it says, and it is not sent.

use crate::types::TypeConfig;
use futures::Stream;
use futures::stream::{Fuse, StreamExt};
use openraft::raft::AppendEntriesRequest;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// How long a message without entries waits for some. Followers apply by so much later when nothing follows; nobody waits
/// for them.
const WAIT: Duration = Duration::from_millis(10);

type Request = AppendEntriesRequest<TypeConfig>;

/// Requests of one log stream, behind its first one. An answer acknowledges all that was sent before it, so that openraft
/// does not miss the answer to a request that was left out.
pub(super) struct Piggyback<S> {
    input: Fuse<S>,
    /// A request without entries, and until when it waits.
    held: Option<(Request, Pin<Box<Sleep>>)>,
}

impl<S: Stream<Item = Request> + Unpin> Piggyback<S> {
    pub(super) fn new(input: S) -> Self {
        Self {
            input: input.fuse(),
            held: None,
        }
    }

    /// Keeps a request without entries, in the place of one that is kept.
    fn hold(&mut self, request: Request) {
        let timer = match self.held.take() {
            Some((_, timer)) => timer,
            None => Box::pin(tokio::time::sleep_until(Instant::now() + WAIT)),
        };
        self.held = Some((request, timer));
    }
}

impl<S: Stream<Item = Request> + Unpin> Stream for Piggyback<S> {
    type Item = Request;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        let this = self.get_mut();
        loop {
            match this.input.poll_next_unpin(cx) {
                Poll::Ready(Some(request)) if request.entries.is_empty() => this.hold(request),
                Poll::Ready(Some(request)) => {
                    this.held = None;
                    return Poll::Ready(Some(request));
                }
                Poll::Ready(None) => return Poll::Ready(this.held.take().map(|(request, _)| request)),
                Poll::Pending => break,
            }
        }
        let due = match &mut this.held {
            Some((_, timer)) => timer.as_mut().poll(cx).is_ready(),
            None => false,
        };
        match due {
            true => Poll::Ready(this.held.take().map(|(request, _)| request)),
            false => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::{Entry, LeaderId, LogId, Payload, Vote};
    use futures::channel::mpsc::{UnboundedReceiver, UnboundedSender, unbounded};

    fn log_id(index: u64) -> LogId {
        LogId::new(LeaderId { term: 1, node_id: 1 }, index)
    }

    fn request(committed: u64, entry: Option<u64>) -> Request {
        Request {
            vote: Vote::new_committed(1, 1),
            prev_log_id: None,
            leader_commit: Some(log_id(committed)),
            entries: entry
                .map(|index| Entry {
                    log_id: log_id(index),
                    payload: Payload::Blank,
                })
                .into_iter()
                .collect(),
        }
    }

    fn stream() -> (UnboundedSender<Request>, Piggyback<UnboundedReceiver<Request>>) {
        let (sender, receiver) = unbounded();
        (sender, Piggyback::new(receiver))
    }

    fn commit_of(request: Option<Request>) -> u64 {
        request.unwrap().leader_commit.unwrap().index()
    }

    #[tokio::test(start_paused = true)]
    async fn entries_carry_the_commit() {
        let (sender, mut sent) = stream();
        sender.unbounded_send(request(7, None)).unwrap();
        sender.unbounded_send(request(7, Some(8))).unwrap();
        drop(sender);
        let only = sent.next().await.unwrap();
        assert_eq!((only.entries.len(), only.leader_commit), (1, Some(log_id(7))));
        assert!(sent.next().await.is_none(), "nothing else was sent");
    }

    #[tokio::test(start_paused = true)]
    async fn without_entries_the_newest_commit_is_sent_soon() {
        let (sender, mut sent) = stream();
        let start = Instant::now();
        sender.unbounded_send(request(7, None)).unwrap();
        let newer = async {
            tokio::time::sleep(WAIT / 2).await;
            sender.unbounded_send(request(8, None)).unwrap();
        };
        let (first, ()) = tokio::join!(sent.next(), newer);
        assert_eq!(commit_of(first), 8);
        let waited = start.elapsed();
        assert!(
            waited >= WAIT && waited < WAIT + WAIT / 2,
            "{waited:?}, counted from the first one"
        );
        sender.unbounded_send(request(9, None)).unwrap();
        drop(sender);
        assert_eq!(
            commit_of(sent.next().await),
            9,
            "what is held when the stream ends is sent"
        );
        assert!(sent.next().await.is_none());
    }
}
