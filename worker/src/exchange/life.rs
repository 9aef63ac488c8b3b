//! Whether a peer is still there: a connection on which nothing has come for too long is lost, also if nobody ever resets
//! it. Must not know frames.

use parking_lot::Mutex;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// Signs of life in one bearable silence, so that a lost one or two do no harm.
const SIGNS_PER_SILENCE: u32 = 4;

/// When a peer was last heard.
#[derive(Clone)]
pub struct Heard(Arc<Mutex<Instant>>);

/// A reader that notes when something comes.
pub struct Listening<R> {
    inner: R,
    heard: Heard,
}

impl Heard {
    /// Just now.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    /// A reader that notes here when something comes.
    pub fn listen<R>(&self, inner: R) -> Listening<R> {
        Listening {
            inner,
            heard: self.clone(),
        }
    }

    /// Gives signs of life through `sign`; returns when nothing was heard for `silence`.
    pub async fn lost(&self, silence: Duration, sign: impl Fn()) {
        let pace = (silence / SIGNS_PER_SILENCE).max(Duration::from_millis(1));
        let mut next_sign = Instant::now() + pace;
        loop {
            let until = *self.0.lock() + silence;
            let wake = until.min(next_sign);
            sleep_until(wake).await;
            let now = Instant::now();
            if now.duration_since(wake) >= pace {
                // This process stood still itself: what has come meanwhile is yet to be read.
                *self.0.lock() = now;
            } else if *self.0.lock() + silence <= now {
                return;
            }
            if now >= next_sign {
                sign();
                next_sign = now + pace;
            }
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Listening<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            *self.heard.0.lock() = Instant::now();
        }
        polled
    }
}
