//! Frames on the wire. Little endian: u32 length of what follows the header, u8 type, u32 channel, u64 sequence,
//! u32 CRC-32C over type, channel, sequence and payload; then the payload. Must not know sockets' owners.

use crate::engine::event::{Barrier, Event};
use bytes::{BufMut, Bytes, BytesMut};
use holdfast_common::limits::{EXCHANGE_FRAME_BYTES_MAX, EXCHANGE_HELLO_BYTES_MAX};
use holdfast_common::{AttemptId, CheckpointId, Incarnation, JobId};
use tokio::io::{AsyncRead, AsyncReadExt};

/// Version of the protocol; the first thing that is compared.
pub const PROTOCOL_VERSION: u32 = 2;
const HEADER: usize = 21;

const HELLO: u8 = 1;
const WELCOME: u8 = 2;
const REFUSED: u8 = 3;
const DATA: u8 = 4;
const WATERMARK: u8 = 5;
const IDLE: u8 = 6;
const BARRIER: u8 = 7;
const END: u8 = 8;
const CREDIT: u8 = 9;
const ALIVE: u8 = 10;

/// The first frame of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The job.
    pub job: JobId,
    /// The attempt; others are refused.
    pub attempt: AttemptId,
    /// Who connects.
    pub from: Incarnation,
    /// Who is meant.
    pub to: Incarnation,
    /// Where the connecting worker takes data, for people.
    pub from_addr: String,
}

/// A frame.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    /// See [`Hello`].
    Hello(Hello),
    /// The connection is accepted.
    Welcome,
    /// It is not.
    Refused {
        /// The attempt may yet be deployed here.
        later: bool,
        /// Why.
        reason: String,
    },
    /// Rows.
    Data {
        /// The channel.
        channel: u32,
        /// Its place among the channel's frames.
        seq: u64,
        /// Credit that it took.
        charge: u32,
        /// See [`super::encode_rows`].
        body: Bytes,
    },
    /// Anything else that flows through a channel.
    Event {
        /// The channel.
        channel: u32,
        /// Its place among the channel's frames.
        seq: u64,
        /// What flows.
        event: Signal,
    },
    /// Room returned to the sender.
    Credit {
        /// The channel.
        channel: u32,
        /// How much.
        bytes: u64,
    },
    /// The sender has nothing to say, and lives.
    Alive,
}

/// An event without rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// See [`Event::Watermark`].
    Watermark(i64),
    /// See [`Event::Idle`].
    Idle,
    /// See [`Event::Barrier`].
    Barrier(Barrier),
    /// See [`Event::End`].
    End,
}

impl From<Signal> for Event {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Watermark(at) => Self::Watermark(at),
            Signal::Idle => Self::Idle,
            Signal::Barrier(barrier) => Self::Barrier(barrier),
            Signal::End => Self::End,
        }
    }
}

/// Why no frame could be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The peer closed the connection between two frames.
    #[error("the connection was closed")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] std::io::Error),
    /// The bytes are not what was sent, or not of this protocol.
    #[error("a frame is damaged: {0}")]
    Damaged(String),
}

fn finish(kind: u8, channel: u32, seq: u64, payload: &[u8]) -> Bytes {
    finish_two(kind, channel, seq, payload, &[])
}

/// A frame whose payload lies in two places.
fn finish_two(kind: u8, channel: u32, seq: u64, first: &[u8], second: &[u8]) -> Bytes {
    let length = first.len() + second.len();
    let mut out = BytesMut::with_capacity(HEADER + length);
    out.put_u32_le(length as u32);
    out.put_u8(kind);
    out.put_u32_le(channel);
    out.put_u64_le(seq);
    let crc = crc32c::crc32c_append(crc32c::crc32c(&out[4..]), first);
    out.put_u32_le(crc32c::crc32c_append(crc, second));
    out.put_slice(first);
    out.put_slice(second);
    out.freeze()
}

impl Frame {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut p = BytesMut::new();
        match self {
            Self::Hello(hello) => {
                p.put_u32_le(PROTOCOL_VERSION);
                p.put_slice(&hello.job.to_bytes());
                p.put_u64_le(hello.attempt.0);
                p.put_slice(&hello.from.to_bytes());
                p.put_slice(&hello.to.to_bytes());
                p.put_slice(hello.from_addr.as_bytes());
                finish(HELLO, 0, 0, &p)
            }
            Self::Welcome => finish(WELCOME, 0, 0, &PROTOCOL_VERSION.to_le_bytes()),
            Self::Refused { later, reason } => {
                p.put_u8(u8::from(*later));
                p.put_slice(reason.as_bytes());
                finish(REFUSED, 0, 0, &p)
            }
            Self::Data {
                channel,
                seq,
                charge,
                body,
            } => finish_two(DATA, *channel, *seq, &charge.to_le_bytes(), body),
            Self::Event { channel, seq, event } => match event {
                Signal::Watermark(at) => finish(WATERMARK, *channel, *seq, &at.to_le_bytes()),
                Signal::Idle => finish(IDLE, *channel, *seq, &[]),
                Signal::Barrier(barrier) => {
                    p.put_u64_le(barrier.checkpoint.0);
                    p.put_u64_le(barrier.settled.0);
                    finish(BARRIER, *channel, *seq, &p)
                }
                Signal::End => finish(END, *channel, *seq, &[]),
            },
            Self::Credit { channel, bytes } => finish(CREDIT, *channel, 0, &bytes.to_le_bytes()),
            Self::Alive => finish(ALIVE, 0, 0, &[]),
        }
    }

    /// Reads the next frame. Not cancel safe: a reader that stops half way must drop the connection.
    ///
    /// # Errors
    /// See [`FrameError`].
    pub async fn read<R: AsyncRead + Unpin>(from: &mut R) -> Result<Self, FrameError> {
        let mut header = [0; HEADER];
        match from.read(&mut header[..1]).await? {
            0 => return Err(FrameError::Closed),
            _ => from.read_exact(&mut header[1..]).await?,
        };
        let mut fields = &header[..];
        let length = take_u32(&mut fields)? as usize;
        let kind = take::<1>(&mut fields)?[0];
        let channel = take_u32(&mut fields)?;
        let seq = take_u64(&mut fields)?;
        let crc = take_u32(&mut fields)?;
        let limit = if kind == DATA {
            EXCHANGE_FRAME_BYTES_MAX
        } else {
            EXCHANGE_HELLO_BYTES_MAX
        };
        if length > limit {
            return Err(FrameError::Damaged(format!(
                "{length} bytes are more than {limit}"
            )));
        }
        // The charge of data goes to a buffer of its own: what follows it must lie aligned.
        let mut charge = [0; 4];
        let mut computed = crc32c::crc32c(&header[4..HEADER - 4]);
        let mut rest = length;
        if kind == DATA {
            rest = rest
                .checked_sub(4)
                .ok_or_else(|| FrameError::Damaged("data without charge".to_owned()))?;
            from.read_exact(&mut charge).await?;
            computed = crc32c::crc32c_append(computed, &charge);
        }
        let mut payload = vec![0; rest];
        from.read_exact(&mut payload).await?;
        computed = crc32c::crc32c_append(computed, &payload);
        if computed != crc {
            return Err(FrameError::Damaged(format!(
                "checksum {computed:#010x} instead of {crc:#010x}"
            )));
        }
        decode(kind, channel, seq, u32::from_le_bytes(charge), payload.into())
    }
}

fn decode(kind: u8, channel: u32, seq: u64, charge: u32, payload: Bytes) -> Result<Frame, FrameError> {
    let mut rest = &payload[..];
    let event = |event| Frame::Event { channel, seq, event };
    let frame = match kind {
        HELLO => return decode_hello(rest),
        WELCOME => match take_u32(&mut rest)? {
            PROTOCOL_VERSION => Frame::Welcome,
            other => return Err(FrameError::Damaged(format!("protocol version {other}"))),
        },
        REFUSED => {
            let later = take::<1>(&mut rest)?[0] != 0;
            return Ok(Frame::Refused {
                later,
                reason: String::from_utf8_lossy(rest).into_owned(),
            });
        }
        DATA => {
            return Ok(Frame::Data {
                channel,
                seq,
                charge,
                body: payload,
            });
        }
        WATERMARK => event(Signal::Watermark(take_u64(&mut rest)? as i64)),
        IDLE => event(Signal::Idle),
        BARRIER => event(Signal::Barrier(Barrier {
            checkpoint: CheckpointId(take_u64(&mut rest)?),
            settled: CheckpointId(take_u64(&mut rest)?),
        })),
        END => event(Signal::End),
        CREDIT => Frame::Credit {
            channel,
            bytes: take_u64(&mut rest)?,
        },
        ALIVE => Frame::Alive,
        other => return Err(FrameError::Damaged(format!("unknown type {other}"))),
    };
    if rest.is_empty() {
        Ok(frame)
    } else {
        Err(FrameError::Damaged(format!("{} bytes too many", rest.len())))
    }
}

fn decode_hello(mut rest: &[u8]) -> Result<Frame, FrameError> {
    let version = take_u32(&mut rest)?;
    if version != PROTOCOL_VERSION {
        return Err(FrameError::Damaged(format!(
            "the peer speaks protocol version {version}, this worker {PROTOCOL_VERSION}"
        )));
    }
    let job = JobId(u128::from_be_bytes(take(&mut rest)?));
    let attempt = AttemptId(take_u64(&mut rest)?);
    let from = Incarnation(u128::from_be_bytes(take(&mut rest)?));
    let to = Incarnation(u128::from_be_bytes(take(&mut rest)?));
    let from_addr = String::from_utf8_lossy(rest).into_owned();
    Ok(Frame::Hello(Hello {
        job,
        attempt,
        from,
        to,
        from_addr,
    }))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (head, tail) = rest
        .split_first_chunk::<N>()
        .ok_or_else(|| FrameError::Damaged("it ends early".to_owned()))?;
    *rest = tail;
    Ok(*head)
}

fn take_u32(rest: &mut &[u8]) -> Result<u32, FrameError> {
    take(rest).map(u32::from_le_bytes)
}

fn take_u64(rest: &mut &[u8]) -> Result<u64, FrameError> {
    take(rest).map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn frames() -> Vec<Frame> {
        let barrier = Barrier {
            checkpoint: CheckpointId(9),
            settled: CheckpointId(7),
        };
        let hello = Hello {
            job: JobId(1),
            attempt: AttemptId(2),
            from: Incarnation(3),
            to: Incarnation(4),
            from_addr: "host:1".to_owned(),
        };
        let mut all = vec![
            Frame::Hello(hello),
            Frame::Welcome,
            Frame::Refused {
                later: true,
                reason: "not yet".to_owned(),
            },
            Frame::Data {
                channel: 5,
                seq: 6,
                charge: 7,
                body: Bytes::from_static(b"rows"),
            },
            Frame::Credit {
                channel: 5,
                bytes: 1 << 40,
            },
        ];
        for event in [
            Signal::Watermark(-5),
            Signal::Idle,
            Signal::Barrier(barrier),
            Signal::End,
        ] {
            all.push(Frame::Event {
                channel: 8,
                seq: 9,
                event,
            });
        }
        all
    }

    async fn read(bytes: &[u8]) -> Result<Frame, FrameError> {
        Frame::read(&mut { bytes }).await
    }

    #[tokio::test]
    async fn frames_come_back() {
        for frame in frames() {
            assert_eq!(read(&frame.encode()).await.unwrap(), frame);
        }
        assert!(matches!(read(&[]).await, Err(FrameError::Closed)));
    }

    proptest! {
        #[test]
        fn a_changed_byte_is_noticed(which in 0usize..9, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = frames()[which].encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            prop_assert!(runtime.block_on(read(&bytes)).is_err());
        }
    }
}
