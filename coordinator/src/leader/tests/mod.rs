//! Tests of the leader: its core against a small world of fake workers, and its services over a log in memory with
//! workers that attach over gRPC.
#![allow(clippy::unwrap_used)]

pub(crate) mod fakes;
mod random;
mod returning;
mod runtime;
mod scenarios;
mod sweeps;
mod world;
