//! Runs simulated lives of clusters by seed. Exit code 0: every seed holds; 1: some invariant did not; 2: the simulator
//! itself could not do what was asked. The last line is the verdict.
//!
//! ```text
//! sim --core --seed 7 --trace           one life of the fast simulator, told event by event
//! sim --core --seeds 0..5000            many, on as many threads as --jobs says
//! sim --core --until-stopped            goes on until it is stopped
//! sim --seeds 0..500                    the full stack, a process per seed
//! sim --core --seeds 0..50 --check-determinism
//! sim --core --mutants                  every seeded bug that it reaches must be noticed
//! ```

// Randomness and time of a full-stack seed's process come from the seed.
#[path = "../sim/full/symbols.rs"]
mod symbols;

use clap::Parser;
use std::process::ExitCode;
use tests::sim::command::{Command, run};

fn main() -> ExitCode {
    if tests::sim::full::child_main() {
        return ExitCode::SUCCESS;
    }
    run(&Command::parse())
}
