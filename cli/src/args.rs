//! The command line: names, flags and help. Does nothing.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Where `up` keeps a cluster if nobody says otherwise.
pub const DEFAULT_DIR: &str = "./holdfast-data";

/// A stream-processing cluster in one binary: no ZooKeeper, nothing beside it.
#[derive(Debug, Parser)]
#[command(name = "holdfast", version, max_term_width = 100, after_help = crate::exit::CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start a cluster on this machine: coordinators and workers as processes of this binary
    Up(UpArgs),
    /// Stop the cluster of a directory: workers, then followers, then the leader
    Down(DirArgs),
    /// Run one coordinator
    Coordinator(ProcessArgs),
    /// Run one worker
    Worker(ProcessArgs),
    /// Submit a job and follow it until it ends
    Run(RunArgs),
    /// List jobs
    Jobs(Target),
    /// Show a job
    Job(JobArgs),
    /// Cancel a job
    Cancel(JobArgs),
    /// Show a job's checkpoints
    Checkpoints(JobArgs),
    /// Show what went wrong with a job
    Exceptions(JobArgs),
    /// Show the plan of a script without running it
    Explain(ExplainArgs),
    /// Show leader, coordinators, workers and slots
    Status(Target),
    /// Change the set of coordinators, or hand leadership over
    #[command(subcommand)]
    Members(MembersCommand),
    /// About the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Make a cluster fail, again and again, and measure what its clients and its output notice of it
    Drill(DrillArgs),
    /// Print the version
    Version,
    /// What `up --detach` leaves running
    #[command(hide = true)]
    Supervise(SuperviseArgs),
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Table,
    /// For programs: the REST interface's JSON.
    Json,
}

/// Which cluster, and how to answer.
#[derive(Debug, Clone, Args)]
pub struct Target {
    /// Directory of a cluster that `up` started [default: ./holdfast-data]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// REST addresses of coordinators, separated by commas; otherwise HOLDFAST_REST
    #[arg(long, value_name = "URL[,URL…]", conflicts_with = "dir")]
    pub rest: Option<String>,
    /// How to answer
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: Output,
}

/// What `drill` does to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum DrillCase {
    /// kill -9 of the leading coordinator
    Leader,
    /// SIGTERM to the leading coordinator
    LeaderGraceful,
    /// kill -9 of a coordinator that follows
    Follower,
    /// kill -9 of a worker that has tasks
    Worker,
    /// A worker that has tasks falls silent (SIGSTOP), its connections stay open
    WorkerSilent,
    /// The leader is cut off from all coordinators and workers for 3 s
    PartitionLeader,
    /// The leader stands still (SIGSTOP) for 3 s
    PauseLeader,
    /// All of them
    All,
    /// Snapshot storage fails for 5 s
    StorageOutage,
    /// One link is cut for 1 s: from the leader to a follower or to a worker, in turn
    Blip,
}

/// Of `drill`.
#[derive(Debug, Clone, Args)]
pub struct DrillArgs {
    /// What is to fail
    #[arg(value_enum, default_value = "leader")]
    pub case: DrillCase,
    /// Failures of each case
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub runs: u32,
    /// Rows per second of the job that runs meanwhile
    #[arg(long, value_name = "ROWS_PER_S", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(16..=1_000_000))]
    pub load: u64,
    /// Directory of a cluster that `up` started and that nobody needs right now [default: a cluster of its own]
    #[arg(long, value_name = "DIR")]
    pub against: Option<PathBuf>,
    /// Where to write a page with all distributions and a timeline of every failure (HTML)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Where to write everything that was measured (JSON)
    #[arg(long, value_name = "FILE")]
    pub details: Option<PathBuf>,
    /// Settings of its own cluster's processes (YAML)
    #[arg(long, value_name = "FILE", conflicts_with = "against")]
    pub config: Option<PathBuf>,
    /// A setting of its own cluster's processes; may be repeated
    #[arg(long, value_name = "KEY=VALUE", conflicts_with = "against")]
    pub set: Vec<String>,
    /// Directory below which its own cluster lives, for as long as the drill does [default: the system's]
    #[arg(long, value_name = "DIR", conflicts_with = "against")]
    pub scratch: Option<PathBuf>,
    /// How to answer
    #[arg(long, short, value_enum, default_value = "table")]
    pub output: Output,
}

/// A cluster's directory.
#[derive(Debug, Args)]
pub struct DirArgs {
    /// The cluster's directory
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    pub dir: PathBuf,
}

/// Of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    /// Number of coordinators, an odd one [default: 3, or as the directory has it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=9))]
    pub coordinators: Option<u32>,
    /// Number of workers [default: 3, or as the directory has it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=256))]
    pub workers: Option<u32>,
    /// Slots of each worker [default: 2, or as the directory has it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub slots: Option<u32>,
    /// Where the cluster keeps everything; one that holds a cluster is started again with its jobs
    #[arg(long, value_name = "DIR", default_value = DEFAULT_DIR)]
    pub dir: PathBuf,
    /// SQL script to submit and follow; may be repeated. When all have ended the cluster is stopped
    #[arg(long = "job", value_name = "FILE")]
    pub jobs: Vec<PathBuf>,
    /// Leave the cluster running in the background
    #[arg(long)]
    pub detach: bool,
    /// Settings for all processes (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Do not start processes again that die
    #[arg(long)]
    pub no_restart: bool,
}

/// Of the hidden `supervise`.
#[derive(Debug, Args)]
pub struct SuperviseArgs {
    /// The cluster's directory
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Do not start processes again that die
    #[arg(long)]
    pub no_restart: bool,
}

/// Of `coordinator` and `worker`.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// A setting over the file and the environment; may be repeated
    #[arg(short = 'D', value_name = "KEY=VALUE")]
    pub define: Vec<String>,
}

/// Of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The SQL script
    #[arg(value_name = "FILE.sql")]
    pub file: PathBuf,
    /// Submit only
    #[arg(long)]
    pub detach: bool,
    /// A job setting, over which the script's SET goes; may be repeated
    #[arg(short = 'D', value_name = "KEY=VALUE")]
    pub define: Vec<String>,
    /// Key under which a repeated submission is recognised [default: a fresh one]
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Which cluster
    #[command(flatten)]
    pub target: Target,
}

/// Of commands on one job.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job's id, or enough of its beginning
    #[arg(value_name = "ID")]
    pub id: String,
    /// Which cluster
    #[command(flatten)]
    pub target: Target,
}

/// Of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    /// The SQL script
    #[arg(value_name = "FILE.sql")]
    pub file: PathBuf,
    /// Which cluster; without a running one, the plan is made here
    #[command(flatten)]
    pub target: Target,
}

/// Of `members`.
#[derive(Debug, Subcommand)]
pub enum MembersCommand {
    /// Add a coordinator: it runs already, under a number that was never used
    Add {
        /// Its number
        id: u64,
        /// Its RPC address, host:port
        addr: String,
        /// Its REST address [default: as cluster.json has it, or the same host with port 8081]
        rest_addr: Option<String>,
        /// Which cluster
        #[command(flatten)]
        target: Target,
    },
    /// Remove a coordinator for good: its number must never come back
    Remove {
        /// Its number
        id: u64,
        /// Which cluster
        #[command(flatten)]
        target: Target,
    },
    /// Hand leadership over
    Transfer {
        /// The new leader's number
        id: u64,
        /// Which cluster
        #[command(flatten)]
        target: Target,
    },
}

/// Of `config`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print docs/configuration.md: every key with its type, default and meaning
    Docs,
    /// Check a configuration file and print the settings in force
    Check(ProcessArgs),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contracts_commands_parse() {
        for line in [
            "up",
            "up --coordinators 3 --workers 3 --slots 2 --dir d --job a.sql --job b.sql --detach --config f --no-restart",
            "down --dir d",
            "coordinator --config f -D rest.port=1",
            "worker --config f",
            "run a.sql --detach --dir d",
            "run a.sql --rest http://127.0.0.1:8081,http://127.0.0.1:8082",
            "jobs --output json",
            "job abc --dir d --output json",
            "cancel abc",
            "checkpoints abc --output json",
            "exceptions abc",
            "explain a.sql",
            "status --output json",
            "members add 4 127.0.0.1:7104",
            "members remove 4",
            "members transfer 2 --dir d",
            "config docs",
            "drill",
            "drill worker-silent --runs 3 --load 20000 --against d --report r.html --output json",
            "drill all --config f --set high-availability.raft.profile=fast",
            "version",
        ] {
            let words = std::iter::once("holdfast").chain(line.split(' '));
            Cli::try_parse_from(words).unwrap_or_else(|e| panic!("{line}: {e}"));
        }
    }
}
