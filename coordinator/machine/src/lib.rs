//! The replicated state machine: what every coordinator computes from the log, and nothing else.
//!
//! [`State::apply`] is a pure function of (state, log index, proposal): no clock, no randomness, no IO, no floats, no
//! iteration over unordered maps. Time enters only as the proposer's stamp, and never runs backwards.

pub mod command;
pub mod state;
