//! Rows between workers: frames over TCP, one connection per ordered pair of workers and attempt, with credit and
//! sequence numbers per channel. Runs on the tokio runtime; tasks only put encoded frames into a queue. Must not know
//! operators.

mod codec;
mod frame;
mod hub;
mod life;
mod link;
mod socket;

pub use codec::{decode_rows, encode_rows};
pub use hub::{Hub, InboundChannels, Peer};
pub use link::{Link, LinkChannel, RemoteOutlet};

#[cfg(test)]
mod tests;
