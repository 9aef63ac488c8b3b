//! A coordinator: the replicated log's member, the leader's work, and the interfaces for workers and people.

pub mod api;
pub mod control;
pub mod features;
pub mod leader;
pub mod live;
pub mod planner;
mod run;

pub use run::{RunError, run};
