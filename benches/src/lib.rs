//! What the benchmarks share: clients of both key-value services, a closed-loop load, an etcd to compare with, and how
//! results are printed. No benchmark is a test: none fails because a machine is slow.

pub mod etcd;
pub mod failover;
pub mod holdfast;
pub mod load;
pub mod output;
pub mod queries;
