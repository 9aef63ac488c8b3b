//! `jepsen`: reads the command line, does what it says, and answers with the verdict in its exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    jepsen::cli::main()
}
