//! A worker: runs the tasks of jobs on slot threads, exchanges rows with other workers, and follows the leader.
//!
//! Must not know the replicated log or the coordinators' code; the two sides meet in `proto` and `common`.

pub mod agent;
pub mod engine;
pub mod exchange;
pub mod operators;
pub mod state;

pub use agent::run::{RunError, run};

#[cfg(test)]
mod testing;
