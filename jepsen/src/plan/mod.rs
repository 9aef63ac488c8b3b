//! Plans: everything that a run does, drawn from its seed and written down before it begins.

pub mod generate;
pub mod shrink;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use std::path::Path;

/// Every fault that a plan may ask for by name (`--faults`), by group. A group's name asks for all of its members.
pub const FAULTS: &[(&str, &[&str])] = &[
    (
        "kill",
        &[
            "kill-leader",
            "kill-follower",
            "kill-majority",
            "kill-all",
            "kill-double",
            "kill-worker",
            "kill-workers",
        ],
    ),
    (
        "restart",
        &["term-leader", "term-worker", "rolling-restart", "upgrade"],
    ),
    (
        "pause",
        &[
            "pause-leader",
            "pause-follower",
            "pause-worker",
            "freeze-leader",
            "freeze-worker",
        ],
    ),
    (
        "partition",
        &[
            "partition-leader",
            "partition-follower",
            "partition-halves",
            "partition-ring",
            "partition-bridge",
            "partition-one-way-in",
            "partition-one-way-out",
            "partition-flapping",
            "partition-control",
            "partition-data",
            "partition-workers",
            "partition-worker",
            "partition-storage",
        ],
    ),
    ("packets", &["delay", "loss", "duplicate", "reorder", "slow-link"]),
    ("clock", &["clock-jump", "clock-drift", "clock-strobe"]),
    (
        "disk",
        &[
            "power-loss",
            "power-loss-all",
            "torn-write",
            "fsync-error",
            "fsync-slow",
            "disk-full",
            "disk-stall",
            "bit-flip",
            "bit-flip-leader",
        ],
    ),
    (
        "storage",
        &[
            "storage-slow",
            "storage-errors",
            "storage-hang",
            "storage-apply-drop",
            "storage-late-list",
            "storage-outage",
        ],
    ),
    (
        "membership",
        &[
            "member-remove-follower",
            "member-remove-leader",
            "member-add",
            "transfer-leader",
        ],
    ),
    ("resources", &["cpu-squeeze", "memory-squeeze"]),
];

/// How nodes and links are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A namespace, a disk image and a cgroup per node; needs root.
    Isolated,
    /// Processes on loopback; faults are kills, pauses and a proxy between them.
    Loopback,
}

/// Where snapshots lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotStorage {
    /// A shared directory.
    File,
    /// The harness's own object server.
    S3,
}

/// What a cluster of a run is like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swarm {
    /// Coordinators that vote at the beginning: 3 or 5.
    pub voters: u32,
    /// Coordinators that do not run at first and may be added.
    pub spares: u32,
    /// Workers.
    pub workers: u32,
    /// Slots of each.
    pub slots: u32,
    /// `high-availability.raft.snapshot-after-logs`.
    pub snapshot_after_logs: u64,
    /// Interval of checkpoints in milliseconds.
    pub checkpoint_ms: u64,
    /// `high-availability.raft.profile`.
    pub profile: String,
    /// `heartbeat.timeout` in milliseconds.
    pub heartbeat_timeout_ms: u64,
    /// Snapshot storage.
    pub storage: SnapshotStorage,
    /// Namespaces for clients.
    pub clients: u32,
}

/// Whom a fault meets. Resolved when the step begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// The coordinator that leads.
    Leader,
    /// A coordinator that does not lead; the number chooses among them.
    Follower(u64),
    /// More than half of the coordinators, the leader among them.
    Majority,
    /// Every coordinator.
    Coordinators,
    /// A worker; the number chooses.
    Worker(u64),
    /// Every worker.
    Workers,
    /// Every coordinator and worker.
    All,
    /// By name.
    Node(String),
}

/// Which traffic a network fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Plane {
    /// Everything.
    Any,
    /// The coordinators' RPC: consensus and the workers' streams.
    Control,
    /// Rows between workers.
    Data,
    /// Snapshot storage.
    Storage,
}

/// The shape of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// The targets on one side, every other node and client on the other.
    Alone(Target),
    /// The targets alone among the coordinators; workers and clients still reach them.
    AmongCoordinators(Target),
    /// Two halves of coordinators and workers; the flag puts the leader into the smaller one.
    Halves {
        /// Whether the leader is in the smaller half.
        leader_minor: bool,
    },
    /// Each coordinator sees its two neighbours only (as a partition: of 5; of 3 it is a bridge).
    Ring,
    /// The first and the last coordinator do not see each other; those between see both. The leader is the first.
    Bridge,
    /// Nothing reaches the targets; what they send arrives.
    OneWayIn(Target),
    /// Nothing that the targets send arrives; they hear everything.
    OneWayOut(Target),
    /// Workers from coordinators.
    WorkersFromCoordinators(Target),
    /// Workers from each other.
    WorkersApart,
    /// The targets from snapshot storage.
    FromStorage(Target),
}

/// A fault and its parameters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Fault {
    /// `SIGKILL`; started again when the step ends.
    Kill {
        /// Whom.
        target: Target,
        /// A second kill, so many milliseconds after the first restart.
        again_after_ms: Option<u64>,
    },
    /// `SIGTERM`, and started again when the process has ended.
    Term {
        /// Whom.
        target: Target,
    },
    /// `SIGTERM` to one coordinator and worker after the other.
    Rolling {
        /// Pause between two, in milliseconds.
        pause_ms: u64,
        /// Whether the binary is exchanged for the other release's.
        upgrade: bool,
    },
    /// `SIGSTOP`, then `SIGCONT`.
    Pause {
        /// Whom.
        target: Target,
    },
    /// The cgroup freezer.
    Freeze {
        /// Whom.
        target: Target,
    },
    /// Frames between nodes are dropped.
    Partition {
        /// Between whom.
        shape: Shape,
        /// Which traffic.
        plane: Plane,
        /// Cut and healed in turns of so many milliseconds.
        flap_ms: Option<u64>,
    },
    /// Frames are held up, lost, doubled or overtaken.
    Packets {
        /// To and from whom.
        target: Target,
        /// Milliseconds that each frame is held.
        delay_ms: u32,
        /// Up to so many more.
        jitter_ms: u32,
        /// Frames of a thousand that are lost.
        loss: u32,
        /// Frames of a thousand that arrive twice.
        duplicate: u32,
        /// Frames of a thousand that are held back behind later ones.
        reorder: u32,
    },
    /// The wall clock of a process is wrong.
    Clock {
        /// Whose.
        target: Target,
        /// By so many milliseconds.
        jump_ms: i64,
        /// Growing by so many parts per million.
        drift_ppm: i64,
        /// There and back every so many milliseconds.
        strobe_ms: Option<u64>,
    },
    /// Power loss: what was not synced is gone. Started again when the step ends.
    PowerLoss {
        /// Whose.
        target: Target,
        /// Whether the last page of the newest log file is torn.
        torn: bool,
    },
    /// A process is started anew with a disk whose syncs fail.
    FsyncError {
        /// Whose.
        target: Target,
        /// The sync of this number fails.
        nth: u64,
        /// Microseconds that each sync takes longer; no failure if this is above 0.
        delay_us: u64,
    },
    /// No space is left.
    DiskFull {
        /// Whose.
        target: Target,
    },
    /// The file system is frozen.
    DiskStall {
        /// Whose.
        target: Target,
    },
    /// A bit of a log or snapshot file is flipped while the process is down.
    BitFlip {
        /// Whose.
        target: Target,
        /// Chooses file and place.
        at: u64,
    },
    /// The object server misbehaves.
    Storage {
        /// `slow`, `errors`, `hang`, `apply-drop`, `late-list` or `outage`.
        mode: String,
        /// Of a thousand requests that are met.
        share: u32,
        /// Milliseconds, for `slow`, `late-list`.
        ms: u32,
    },
    /// A coordinator is removed, and added again when the step ends.
    MemberRemove {
        /// Whom.
        target: Target,
    },
    /// A spare coordinator is started and added, and removed when the step ends.
    MemberAdd,
    /// Leadership is handed over.
    Transfer,
    /// A CPU quota.
    Cpu {
        /// Whose.
        target: Target,
        /// Of one CPU, in percent.
        percent: u32,
    },
    /// A memory limit a little above what is used.
    Memory {
        /// Whose.
        target: Target,
        /// MiB above the present use.
        above_mib: u32,
    },
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number, kept by shrinking.
    pub id: u32,
    /// The name by which [`FAULTS`] has it.
    pub name: String,
    /// When it begins, in milliseconds of the fault phase.
    pub at_ms: u64,
    /// How long it lasts; it is healed then.
    pub for_ms: u64,
    /// What happens.
    pub fault: Fault,
}

/// A run, written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Of this format: 1.
    pub version: u32,
    /// The seed that it was drawn from.
    pub seed: u64,
    /// How nodes are made.
    pub mode: Mode,
    /// The cluster.
    pub swarm: Swarm,
    /// The workloads.
    pub workloads: Vec<String>,
    /// Length of the fault phase in milliseconds.
    pub fault_phase_ms: u64,
    /// The faults.
    pub steps: Vec<Step>,
    /// Environment of every node (`HOLDFAST_BUG`, ...).
    #[serde(default)]
    pub environment: std::collections::BTreeMap<String, String>,
    /// Environment of one node, by its name, for its first start only (`HOLDFAST_INJECT`).
    #[serde(default)]
    pub first_start: std::collections::BTreeMap<String, std::collections::BTreeMap<String, String>>,
}

impl Plan {
    /// Reads a plan.
    ///
    /// # Errors
    /// If the file cannot be read or is of another format.
    pub fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let plan: Self = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        ensure!(
            plan.version == 1,
            "{}: a plan of version {}",
            path.display(),
            plan.version
        );
        Ok(plan)
    }

    /// Writes it.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}

/// The faults that a list of names and groups means (`all` means all).
///
/// # Errors
/// For a name that there is not.
pub fn expand(names: &[String]) -> Result<Vec<&'static str>> {
    let mut found = Vec::new();
    for name in names {
        match name.as_str() {
            "none" => {}
            "all" => found.extend(FAULTS.iter().flat_map(|(_, members)| members.iter().copied())),
            name => {
                let group = FAULTS.iter().find(|(group, _)| *group == name);
                let single = || {
                    let all = FAULTS.iter().flat_map(|(_, members)| members.iter().copied());
                    all.into_iter().find(|member| *member == name)
                };
                match group {
                    Some((_, members)) => found.extend(members.iter().copied()),
                    None => found.push(single().with_context(|| {
                        let groups: Vec<&str> = FAULTS.iter().map(|(group, _)| *group).collect();
                        format!("there is no fault '{name}'; groups are {groups:?}")
                    })?),
                }
            }
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}
