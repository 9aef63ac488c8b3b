//! `holdfast`: the one binary. Reads the command line and hands over to the command.

mod args;
mod client;
mod commands;
mod config_file;
mod drill;
mod exit;
mod files;
mod follow;
mod news;
mod output;
mod pids;
mod process;
mod random;
mod results;
mod up;

use args::{Cli, Command, ConfigCommand};
use clap::Parser;
use exit::{Exit, Failure};
use holdfast_common::config::Configuration;
use process::Role;
use std::process::ExitCode;

/// Consensus and exchange allocate small and free elsewhere: glibc's allocator took a fifth of a busy leader's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match &cli.command {
        Command::Coordinator(args) => process::run(Role::Coordinator, args),
        Command::Worker(args) => process::run(Role::Worker, args),
        Command::Config(ConfigCommand::Docs) => {
            commands::print(&holdfast_common::config::docs::markdown());
            Ok(Exit::Ok)
        }
        Command::Config(ConfigCommand::Check(args)) => {
            config_file::load(args.config.as_deref(), &args.define).map(|config| {
                commands::print(&config.to_string());
                Exit::Ok
            })
        }
        Command::Drill(args) => drill::drill(args),
        Command::Version => {
            commands::print(concat!("holdfast ", env!("CARGO_PKG_VERSION"), "\n"));
            Ok(Exit::Ok)
        }
        command => with_runtime(command),
    };
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("holdfast: {}", failure.message);
            failure.exit.into()
        }
    }
}

/// The commands of a client and of the supervisor: one thread is enough.
fn with_runtime(command: &Command) -> Result<Exit, Failure> {
    let mut quiet = Configuration::new();
    // The supervisor's log is a file; the others talk to people and only warn.
    if !matches!(command, Command::Supervise(_)) {
        quiet
            .set("env.log.level", "error")
            .map_err(|e| Failure::error(e.to_string()))?;
    }
    process::init_log(&quiet)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::error(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(run(command))
}

async fn run(command: &Command) -> Result<Exit, Failure> {
    match command {
        Command::Up(args) => up::up(args).await,
        Command::Down(args) => up::down(args).await,
        Command::Supervise(args) => up::supervise(args).await,
        Command::Run(args) => commands::run(args).await,
        Command::Jobs(target) => commands::jobs(target).await,
        Command::Job(args) => commands::job(args).await,
        Command::Cancel(args) => commands::cancel(args).await,
        Command::Checkpoints(args) => commands::checkpoints(args).await,
        Command::Exceptions(args) => commands::exceptions(args).await,
        Command::Explain(args) => commands::explain(args).await,
        Command::Status(target) => commands::status(target).await,
        Command::Members(command) => commands::members(command).await,
        Command::Coordinator(_)
        | Command::Worker(_)
        | Command::Config(_)
        | Command::Drill(_)
        | Command::Version => Err(Failure::error(
            "this command needs no runtime; it was handled before",
        )),
    }
}
