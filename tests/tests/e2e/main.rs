//! End-to-end suites: each file is one story of a user, on real processes of the release binary.
//!
//! `cargo build --release && cargo test --release -p tests --test e2e STORY` runs one of them.
#![allow(clippy::unwrap_used)]

mod bad_input;
mod bad_process;
mod cancel;
mod commands;
mod corrupt_snapshot;
mod first_run;
mod full_disk;
mod handover;
mod hung;
mod idempotent_submit;
mod kill_everything;
mod leader_kill;
mod leader_sigterm;
mod members;
mod quorum_lost;
mod random_faults;
mod s3;
mod storage_outage;
mod up_interrupted;
mod wire;
mod worker_kill;
mod worker_sigstop;
