//! Proof on real processes: a cluster in network namespaces with disk images of its own, faults by seed, workloads whose
//! histories are checked, and a harness that is itself proven to catch bugs.

pub mod check;
pub mod cli;
pub mod cluster;
pub mod env;
pub mod fault;
pub mod history;
pub mod judge;
pub mod model;
pub mod mutant_recipes;
pub mod mutants;
pub mod nightly;
pub mod objd;
pub mod plan;
pub mod report;
pub mod runner;
pub mod seed;
pub mod sweep;
pub mod workload;
pub mod world;
