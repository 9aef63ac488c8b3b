//! Proof on real processes: a cluster in network namespaces with disk images of its own, faults by seed, workloads whose
//! histories are checked, and a harness that is itself proven to catch bugs.

pub mod history;
