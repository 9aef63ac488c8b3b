//! One connection: a queue of frames out, a reader of frames in, and what its loss means. The sending worker of a
//! connection dials it; credit comes back the other way. Must not know how connections are made.

use super::codec::encode_rows;
use super::frame::{Frame, FrameError, Signal};
use super::life::Heard;
use crate::engine::cell::{Mail, TaskCell};
use crate::engine::channel::{Credit, CreditReturn, Inbox, Payload};
use crate::engine::event::{Event, batch_bytes};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use holdfast_common::limits::EXCHANGE_FRAME_BYTES_MAX;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, BufWriter};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// What a link knows of one of its channels.
pub enum LinkChannel {
    /// Rows come in.
    In {
        /// Where they go.
        inbox: Arc<Inbox>,
        /// Who takes them.
        task: Arc<TaskCell>,
    },
    /// Rows go out.
    Out {
        /// The window.
        credit: Arc<Credit>,
        /// Who sends them.
        task: Arc<TaskCell>,
    },
}

struct ChannelState {
    channel: LinkChannel,
    next_seq: u64,
    ended: bool,
}

#[derive(Default)]
struct Outgoing {
    frames: VecDeque<Bytes>,
    /// Credit to return, summed up until the writer comes by.
    credit: BTreeMap<u32, u64>,
}

/// See the module.
pub struct Link {
    /// The peer, for errors.
    peer: String,
    outgoing: Mutex<Outgoing>,
    bell: Notify,
    channels: Mutex<BTreeMap<u32, ChannelState>>,
    /// Silence after which the peer is gone.
    silence: Duration,
    stop: CancellationToken,
}

/// Returns a channel's credit over its link.
pub struct LinkCredit {
    /// Weak: the link owns the inbox that owns this.
    link: Weak<Link>,
    channel: u32,
}

impl CreditReturn for LinkCredit {
    fn give_back(&self, charge: u32) {
        if let Some(link) = self.link.upgrade() {
            *link.outgoing.lock().credit.entry(self.channel).or_default() += u64::from(charge);
            link.bell.notify_one();
        }
    }
}

/// The sending end of a channel to another worker.
pub struct RemoteOutlet {
    link: Arc<Link>,
    channel: u32,
    credit: Arc<Credit>,
    seq: u64,
}

impl RemoteOutlet {
    /// Sends over `link`, which must know the channel.
    #[must_use]
    pub fn new(link: Arc<Link>, channel: u32, credit: Arc<Credit>) -> Self {
        Self {
            link,
            channel,
            credit,
            seq: 0,
        }
    }

    /// The channel's window.
    #[must_use]
    pub fn credit(&self) -> &Credit {
        &self.credit
    }

    /// Queues an event; rows have taken `charge` of credit.
    ///
    /// # Errors
    /// If the rows cannot be encoded.
    pub fn send(&mut self, event: Event, charge: u32) -> Result<(), String> {
        let signal = match event {
            Event::Data(rows) => return self.send_rows(&rows, charge),
            Event::Watermark(at) => Signal::Watermark(at),
            Event::Idle => Signal::Idle,
            Event::Barrier(barrier) => Signal::Barrier(barrier),
            Event::End => Signal::End,
        };
        let frame = Frame::Event {
            channel: self.channel,
            seq: self.take_seq(),
            event: signal,
        };
        self.link.queue(frame.encode());
        if signal == Signal::End {
            self.link.set_ended(self.channel);
        }
        Ok(())
    }

    fn take_seq(&mut self) -> u64 {
        self.seq += 1;
        self.seq - 1
    }

    fn send_rows(&mut self, rows: &RecordBatch, charge: u32) -> Result<(), String> {
        // Half of the limit leaves room for what the estimate does not see: message, padding, validity.
        if batch_bytes(rows) > EXCHANGE_FRAME_BYTES_MAX / 2 && rows.num_rows() > 1 {
            let half = rows.num_rows() / 2;
            self.send_rows(&rows.slice(0, half), charge / 2)?;
            return self.send_rows(&rows.slice(half, rows.num_rows() - half), charge - charge / 2);
        }
        let body = Bytes::from(encode_rows(rows)?);
        if body.len() + 4 > EXCHANGE_FRAME_BYTES_MAX {
            return Err(format!(
                "one row takes {} bytes; at most {EXCHANGE_FRAME_BYTES_MAX} can be sent to another worker",
                body.len()
            ));
        }
        let frame = Frame::Data {
            channel: self.channel,
            seq: self.take_seq(),
            charge,
            body,
        };
        self.link.queue(frame.encode());
        Ok(())
    }
}

impl Link {
    /// A link that is not connected yet; it is lost when nothing comes for `silence`, and `stop` ends it.
    #[must_use]
    pub fn new(peer: String, silence: Duration, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            peer,
            outgoing: Mutex::default(),
            bell: Notify::new(),
            channels: Mutex::default(),
            silence,
            stop,
        })
    }

    /// Silence after which the peer is gone.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.silence
    }

    /// Adds a channel. All are added before the link runs.
    pub fn add(&self, id: u32, channel: LinkChannel) {
        let state = ChannelState {
            channel,
            next_seq: 0,
            ended: false,
        };
        self.channels.lock().insert(id, state);
    }

    /// What returns a channel's credit over this link.
    #[must_use]
    pub fn credit_return(self: &Arc<Self>, channel: u32) -> Arc<LinkCredit> {
        Arc::new(LinkCredit {
            link: Arc::downgrade(self),
            channel,
        })
    }

    fn queue(&self, frame: Bytes) {
        self.outgoing.lock().frames.push_back(frame);
        self.bell.notify_one();
    }

    fn set_ended(&self, channel: u32) {
        if let Some(state) = self.channels.lock().get_mut(&channel) {
            state.ended = true;
        }
    }

    /// Moves frames until the connection is lost or the link is stopped. A loss fails every task that still needs it.
    pub async fn run<R, W>(self: Arc<Self>, reader: R, writer: W)
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let heard = Heard::new();
        let reader = heard.listen(reader);
        let lost = tokio::select! {
            () = self.stop.cancelled() => return,
            error = self.read_frames(BufReader::with_capacity(64 << 10, reader)) => error.to_string(),
            error = self.write_frames(BufWriter::with_capacity(64 << 10, writer)) => {
                FrameError::Io(error).to_string()
            }
            () = heard.lost(self.silence, || self.say_alive()) => {
                format!("nothing was heard of it for {} ms", self.silence.as_millis())
            }
        };
        self.lose(&lost);
    }

    /// Whatever else waits to be sent is a sign of life itself.
    fn say_alive(&self) {
        let mut outgoing = self.outgoing.lock();
        if outgoing.frames.is_empty() {
            outgoing.frames.push_back(Frame::Alive.encode());
            self.bell.notify_one();
        }
    }

    /// The connection is gone.
    fn lose(&self, reason: &str) {
        if self.stop.is_cancelled() {
            return;
        }
        let mut failed: Vec<Arc<TaskCell>> = Vec::new();
        for state in self.channels.lock().values().filter(|s| !s.ended) {
            let (LinkChannel::In { task, .. } | LinkChannel::Out { task, .. }) = &state.channel;
            if !failed.iter().any(|t| t.id == task.id) {
                failed.push(task.clone());
            }
        }
        for task in failed {
            task.send(Mail::Fail(format!(
                "lost the data connection with worker {}: {reason}",
                self.peer
            )));
        }
    }

    async fn write_frames<W: AsyncWrite + Unpin>(&self, mut writer: BufWriter<W>) -> std::io::Error {
        loop {
            let (frames, credit) = {
                let mut outgoing = self.outgoing.lock();
                (
                    std::mem::take(&mut outgoing.frames),
                    std::mem::take(&mut outgoing.credit),
                )
            };
            if frames.is_empty() && credit.is_empty() {
                if let Err(error) = writer.flush().await {
                    return error;
                }
                self.bell.notified().await;
                continue;
            }
            let credit = credit
                .into_iter()
                .map(|(channel, bytes)| Frame::Credit { channel, bytes }.encode());
            // Credit first: it is what a blocked peer waits for.
            for frame in credit.chain(frames) {
                if let Err(error) = writer.write_all(&frame).await {
                    return error;
                }
            }
        }
    }

    async fn read_frames<R: AsyncRead + Unpin>(&self, mut reader: R) -> FrameError {
        loop {
            let taken = match Frame::read(&mut reader).await {
                Ok(frame) => self.take(frame),
                Err(error) => return error,
            };
            if let Err(reason) = taken {
                return FrameError::Damaged(reason);
            }
        }
    }

    fn take(&self, frame: Frame) -> Result<(), String> {
        let mut channels = self.channels.lock();
        let (channel, seq, payload, charge) = match frame {
            Frame::Credit { channel, bytes } => {
                let Some(LinkChannel::Out { credit, .. }) = channels.get(&channel).map(|s| &s.channel) else {
                    return Err(format!("credit for channel {channel}, which does not go out"));
                };
                return match usize::try_from(bytes).is_ok_and(|b| credit.give(b)) {
                    true => Ok(()),
                    false => Err(format!("more credit for channel {channel} than was used")),
                };
            }
            Frame::Data {
                channel,
                seq,
                charge,
                body,
            } => (channel, seq, Payload::Encoded(body), charge),
            Frame::Event { channel, seq, event } => (channel, seq, Payload::Event(event.into()), 0),
            Frame::Alive => return Ok(()),
            other => return Err(format!("{other:?} after the handshake")),
        };
        let Some(state) = channels.get_mut(&channel) else {
            return Err(format!("rows for channel {channel}, which does not exist"));
        };
        let LinkChannel::In { inbox, .. } = &state.channel else {
            return Err(format!("rows for channel {channel}, which does not come in"));
        };
        if seq != state.next_seq || state.ended {
            return Err(format!(
                "frame {seq} of channel {channel} where {} was due",
                if state.ended {
                    "none".to_owned()
                } else {
                    state.next_seq.to_string()
                }
            ));
        }
        state.next_seq += 1;
        state.ended = matches!(payload, Payload::Event(Event::End));
        if !inbox.push(payload, charge) {
            return Err(format!("more rows for channel {channel} than it had credit for"));
        }
        Ok(())
    }
}
