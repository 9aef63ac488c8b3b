//! The way into a task: its channels, their watermarks, and the alignment of barriers. Must not know operators.

use super::aligner::{Aligner, Verdict};
use super::channel::{Inbox, Payload};
use super::event::{Barrier, Event, batch_bytes};
use crate::exchange::decode_rows;
use crate::operators::{END_WATERMARK, NO_WATERMARK, OperatorError};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use holdfast_common::CheckpointId;
use std::sync::Arc;

/// One channel into a task.
pub struct InputChannel {
    inbox: Arc<Inbox>,
    schema: SchemaRef,
    watermark_ms: i64,
    idle: bool,
}

impl InputChannel {
    /// A channel whose rows have `schema`.
    #[must_use]
    pub fn new(inbox: Arc<Inbox>, schema: SchemaRef) -> Self {
        Self {
            inbox,
            schema,
            watermark_ms: NO_WATERMARK,
            idle: false,
        }
    }
}

/// What the inputs brought.
#[derive(Debug)]
pub enum InputTurn {
    /// Rows, with what they took in the channel: to be given back by [`InputGate::release`].
    Rows {
        /// The rows.
        batch: RecordBatch,
        /// Bytes of the rows.
        bytes: usize,
        /// Which channel.
        channel: usize,
        /// What to give back.
        charge: u32,
    },
    /// Event time has advanced, or the inputs are back after silence.
    Watermark(i64),
    /// Every input that has not ended is silent.
    Idle,
    /// A barrier or an end: see the verdict.
    Verdict(Verdict),
    /// Something that changes nothing; ask again.
    Again,
    /// Nothing can be read now.
    Empty,
}

/// See the module.
pub struct InputGate {
    channels: Vec<InputChannel>,
    aligner: Aligner,
    next: usize,
    combined_ms: i64,
    idle: bool,
    aligning_since_ms: u64,
    alignment_ms: u32,
    /// The barrier that is being aligned, as it came.
    barrier: Option<Barrier>,
}

impl InputGate {
    /// Over the task's channels; checkpoints up to `last` are over and event time had reached `watermark_ms`.
    #[must_use]
    pub fn new(channels: Vec<InputChannel>, last: CheckpointId, watermark_ms: i64) -> Self {
        let aligner = Aligner::new(channels.len(), last);
        Self {
            channels,
            aligner,
            next: 0,
            combined_ms: watermark_ms,
            idle: false,
            aligning_since_ms: 0,
            alignment_ms: 0,
            barrier: None,
        }
    }

    /// The state of alignment.
    pub fn aligner(&mut self) -> &mut Aligner {
        &mut self.aligner
    }

    /// How long the last alignment took.
    #[must_use]
    pub fn alignment_ms(&self) -> u32 {
        self.alignment_ms
    }

    /// The newest barrier that came.
    #[must_use]
    pub fn barrier(&self) -> Option<Barrier> {
        self.barrier
    }

    /// Gives the credit of consumed rows back.
    pub fn release(&self, channel: usize, charge: u32) {
        if let Some(channel) = self.channels.get(channel) {
            channel.inbox.release(charge);
        }
    }

    /// Takes one event from the next open channel that has one.
    ///
    /// # Errors
    /// If rows cannot be decoded.
    pub fn turn(&mut self, now_ms: u64) -> Result<InputTurn, OperatorError> {
        let count = self.channels.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            if !self.aligner.is_open(at) {
                continue;
            }
            let Some((payload, charge)) = self.channels[at].inbox.pop() else {
                continue;
            };
            self.next = (at + 1) % count;
            let event = match payload {
                Payload::Event(event) => event,
                Payload::Encoded(body) => {
                    Event::Data(decode_rows(&body, &self.channels[at].schema).map_err(OperatorError)?)
                }
            };
            return Ok(self.take(at, event, charge, now_ms));
        }
        Ok(InputTurn::Empty)
    }

    fn take(&mut self, at: usize, event: Event, charge: u32, now_ms: u64) -> InputTurn {
        match event {
            Event::Data(batch) => {
                let bytes = batch_bytes(&batch);
                InputTurn::Rows {
                    batch,
                    bytes,
                    channel: at,
                    charge,
                }
            }
            Event::Watermark(watermark_ms) => {
                let channel = &mut self.channels[at];
                channel.watermark_ms = channel.watermark_ms.max(watermark_ms);
                channel.idle = false;
                self.combine()
            }
            Event::Idle => {
                self.channels[at].idle = true;
                self.combine()
            }
            Event::Barrier(barrier) => {
                if self.aligner.aligning().is_none() {
                    self.aligning_since_ms = now_ms;
                }
                let verdict = self.aligner.on_barrier(at, barrier.checkpoint);
                if verdict.declined.is_some() {
                    self.aligning_since_ms = now_ms;
                }
                let newest = self
                    .barrier
                    .map_or(CheckpointId(0), |b| b.settled)
                    .max(barrier.settled);
                if self.barrier.is_none_or(|b| b.checkpoint <= barrier.checkpoint) {
                    self.barrier = Some(Barrier {
                        settled: newest,
                        ..barrier
                    });
                }
                self.judged(verdict, now_ms)
            }
            Event::End => {
                let verdict = self.aligner.on_end(at);
                self.judged(verdict, now_ms)
            }
        }
    }

    fn judged(&mut self, verdict: Verdict, now_ms: u64) -> InputTurn {
        if verdict.capture.is_some() {
            let took = now_ms.saturating_sub(self.aligning_since_ms);
            self.alignment_ms = u32::try_from(took).unwrap_or(u32::MAX);
        }
        InputTurn::Verdict(verdict)
    }

    /// The least watermark of channels that have neither ended nor fallen silent. Never goes back.
    fn combine(&mut self) -> InputTurn {
        let open = |i: &usize| !self.aligner.has_ended(*i);
        let mut active = (0..self.channels.len())
            .filter(open)
            .filter(|i| !self.channels[*i].idle)
            .peekable();
        if active.peek().is_none() {
            let newly = !self.idle && !self.aligner.all_ended();
            self.idle = true;
            return if newly { InputTurn::Idle } else { InputTurn::Again };
        }
        let least = active
            .map(|i| self.channels[i].watermark_ms)
            .min()
            .unwrap_or(NO_WATERMARK);
        let back = std::mem::take(&mut self.idle);
        if least > self.combined_ms {
            self.combined_ms = least;
            return InputTurn::Watermark(least);
        }
        if back {
            InputTurn::Watermark(self.combined_ms)
        } else {
            InputTurn::Again
        }
    }

    /// What follows for event time from an input's end, which may have held it back.
    pub fn after_end(&mut self) -> InputTurn {
        if self.aligner.all_ended() {
            self.combined_ms = END_WATERMARK;
            return InputTurn::Watermark(END_WATERMARK);
        }
        self.combine()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::engine::channel::Credit;

    /// A gate over `count` channels, and the channels' sending ends.
    fn gate(count: usize, watermark_ms: i64) -> (InputGate, Vec<Arc<Inbox>>) {
        let inboxes: Vec<Arc<Inbox>> = (0..count)
            .map(|_| Arc::new(Inbox::new(Arc::default(), Arc::new(Credit::new(Arc::default())))))
            .collect();
        let schema = crate::testing::Input::schema();
        let channels = inboxes
            .iter()
            .map(|i| InputChannel::new(i.clone(), schema.clone()))
            .collect();
        (InputGate::new(channels, CheckpointId(0), watermark_ms), inboxes)
    }

    fn send(gate: &mut InputGate, inbox: &Inbox, event: Event) -> String {
        assert!(inbox.push(Payload::Event(event), 0));
        match gate.turn(0).unwrap() {
            InputTurn::Watermark(at) => format!("watermark {at}"),
            InputTurn::Verdict(_) => match gate.after_end() {
                InputTurn::Watermark(at) => format!("end, watermark {at}"),
                InputTurn::Idle => "end, idle".to_owned(),
                _ => "end".to_owned(),
            },
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn the_least_watermark_counts_and_never_goes_back() {
        let (mut gate, i) = gate(2, 10);
        assert_eq!(send(&mut gate, &i[0], Event::Watermark(50)), "Again");
        assert_eq!(send(&mut gate, &i[1], Event::Watermark(5)), "Again");
        assert_eq!(send(&mut gate, &i[1], Event::Watermark(20)), "watermark 20");
        assert_eq!(send(&mut gate, &i[1], Event::Watermark(7)), "Again");
        assert_eq!(send(&mut gate, &i[1], Event::End), "end, watermark 50");
        assert_eq!(
            send(&mut gate, &i[0], Event::End),
            format!("end, watermark {END_WATERMARK}")
        );
    }

    #[test]
    fn silent_inputs_hold_nobody_back_and_announce_their_return() {
        let (mut gate, i) = gate(3, NO_WATERMARK);
        assert_eq!(send(&mut gate, &i[0], Event::Watermark(50)), "Again");
        assert_eq!(send(&mut gate, &i[1], Event::Idle), "Again");
        assert_eq!(send(&mut gate, &i[2], Event::Idle), "watermark 50");
        assert_eq!(send(&mut gate, &i[0], Event::Idle), "Idle");
        assert_eq!(send(&mut gate, &i[1], Event::Watermark(30)), "watermark 50");
        assert_eq!(send(&mut gate, &i[1], Event::End), "end, idle");
        assert_eq!(send(&mut gate, &i[0], Event::Watermark(60)), "watermark 60");
    }
}
