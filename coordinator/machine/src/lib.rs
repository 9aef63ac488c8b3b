//! The replicated state machine: what every coordinator computes from the log, and nothing else.
//!
//! [`State::apply`] is a pure function of (state, log index, proposal): no clock, no randomness, no IO, no floats, no
//! iteration over unordered maps. Time enters only as the proposer's stamp, and never runs backwards.

mod apply;
mod checkpoints;
mod codec;
pub mod command;
pub mod invariants;
mod jobs;
mod kv;
mod sessions;
pub mod state;
mod workers;

pub use codec::{CodecError, Digest};
pub use command::{Command, Proposal, Rejection, Response, SessionSeq};
pub use state::State;
