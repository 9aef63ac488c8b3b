//! The vocabulary that both sides of Holdfast share: identities, fencing numbers, key groups, configuration,
//! limits and the layout of snapshot storage.
//!
//! Nothing here does IO, reads a clock or draws a random number, and nothing here knows coordinators from
//! workers.

pub mod clock;
pub mod config;
pub mod error;
pub mod ids;
pub mod inject;
pub mod keygroup;
pub mod keys;
pub mod layout;
pub mod limits;

pub use ids::{AttemptId, CheckpointId, ClusterId, Incarnation, JobId, LeaderEpoch, NodeId, VertexId};
