//! The fast simulator: the product's pure parts over an ideal replicated log, a whole life of a cluster per seed.
//!
//! Real: the state machine and its snapshots, the leader's core with everything below it, manifests, collection of
//! objects, the wire's records, and the worker's ledger, aligner and sink operator. Simulated: consensus, connections,
//! clocks, snapshot storage, the output directory, tasks, clients. A life has three parts: faults, healing, and the proof
//! that everything goes on and ends as it must.

mod checks;
mod clients;
mod clock;
mod consensus;
mod coordinator;
mod engine;
mod event;
mod faults;
mod files;
mod judge;
mod life;
mod log;
mod ops;
mod plan;
mod rng;
mod streams;
mod tasks;
mod trace;
mod worker;
mod world;

pub use checks::INVARIANTS;
pub use life::run_seed;

#[cfg(test)]
mod tests;
