//! The harness of the end-to-end suites: real processes of the one binary, faults by signal, independent oracles.
//!
//! Nothing here may know how Holdfast works inside: it sees what a user sees (commands, files, REST) and nothing else,
//! so that a suite that passes says something about the product and not about the harness.

pub mod binary;
pub mod cluster;
pub mod disk;
pub mod flights;
pub mod job;
pub mod oracle;
pub mod output;
pub mod probe;
pub mod process;
pub mod rest;
pub mod scenario;
pub mod script;
pub mod sim;
pub mod stats;
pub mod wait;
