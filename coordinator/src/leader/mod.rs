//! The leader's work: registry, scheduling, checkpoint coordination, dispatch. It runs only while this coordinator
//! leads, has claimed its epoch in the log and has contact with a quorum.
//!
//! A pure core ([`core::Core`]) decides; everything else carries out. What must survive the leader is in the log; what
//! the core holds besides, a new leader learns from the workers.
//!
//! ```text
//! control stream ─┐                                  ┌─► workers' streams
//! log applied ────┼─► Input ─► Core::step ─► Effect ─┼─► proposals
//! timers, IO ─────┘                                  └─► snapshot storage, planning
//! ```

pub mod cleaner;
pub mod collect;
pub mod commit;
pub mod core;
mod crash;
mod greeting;
pub mod input;
pub mod io;
pub mod lifecycle;
pub mod log;
pub mod placement;
pub mod ports;
pub mod registry;
pub mod restart;
pub mod services;
pub mod shape;
pub mod supervisor;
pub mod tracker;
pub mod wire;

#[cfg(test)]
pub(crate) mod tests;
