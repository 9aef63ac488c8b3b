//! What the rest of the coordinator sees of consensus: configuration, answers, errors and metrics. No openraft type
//! appears here.

use holdfast_common::error::Retry;
use holdfast_common::{ClusterId, Incarnation, NodeId};
use holdfast_machine::Response;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Where a coordinator is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberAddr {
    /// `host:port` of gRPC: other coordinators, workers and clients.
    pub rpc: String,
    /// `host:port` of REST.
    pub rest: String,
}

impl fmt::Display for MemberAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rpc {}, rest {}", self.rpc, self.rest)
    }
}

/// An entry that was applied, and its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Its log index.
    pub index: u64,
    /// What the state machine answered; may be a rejection.
    pub response: Response,
}

/// Why a proposal or a read has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// This coordinator does not lead (or cannot show that it does). The proposal was certainly not applied.
    #[error("this coordinator does not lead; the leader is {}", leader.map_or("unknown".to_owned(), |l| format!("coordinator {l}")))]
    NotLeader {
        /// Who leads, as far as this one knows; `None` also while leadership is being handed over.
        leader: Option<NodeId>,
    },
    /// Too many proposals are pending. Not applied.
    #[error("too many proposals are pending: try again shortly")]
    Busy,
    /// The entry is larger than the log takes. Not applied.
    #[error("the entry has {bytes} bytes, the log takes at most {limit}")]
    TooLarge {
        /// Encoded size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It may or may not be applied, now or later.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Consensus has stopped on this coordinator; the process must end.
    #[error("consensus has stopped: {0}")]
    Stopped(String),
}

impl ProposeError {
    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotLeader { .. } | Self::Busy => Retry::Later,
            Self::Unknown(_) => Retry::Unknown,
            Self::TooLarge { .. } | Self::Stopped(_) => Retry::Never,
        }
    }
}

/// Why the set of coordinators was not changed, or leadership not handed over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes members.
    #[error("this coordinator does not lead; the leader is {}", leader.map_or("unknown".to_owned(), |l| format!("coordinator {l}")))]
    NotLeader {
        /// Who leads, as far as this one knows.
        leader: Option<NodeId>,
    },
    /// The request contradicts the membership as it is.
    #[error("{0}")]
    Invalid(String),
    /// Another change is under way, or a member is not caught up.
    #[error("{0}: try again later")]
    Later(String),
    /// It may still happen.
    #[error("the outcome is unknown: {0}")]
    Unknown(String),
    /// Consensus has stopped on this coordinator.
    #[error("consensus has stopped: {0}")]
    Stopped(String),
}

impl MembershipError {
    /// Whether trying again can help.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::NotLeader { .. } | Self::Later(_) => Retry::Later,
            Self::Unknown(_) => Retry::Unknown,
            Self::Invalid(_) | Self::Stopped(_) => Retry::Never,
        }
    }
}

/// Why a coordinator cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process holds the directory.
    #[error(
        "the data directory {} is in use by another coordinator{}: stop that one, or configure another directory",
        path.display(), holder.map_or(String::new(), |pid| format!(" (process {pid})"))
    )]
    Locked {
        /// The directory.
        path: PathBuf,
        /// Who holds it, if it says so.
        holder: Option<u32>,
    },
    /// The directory belongs to another coordinator or cluster.
    #[error("{0}")]
    Identity(String),
    /// The configuration contradicts itself.
    #[error("{0}")]
    Config(String),
    /// This build has no such log store.
    #[error("log store '{0}' is not part of this build: build with --features {0}")]
    LogStore(LogStoreKind),
    /// What lies on disk is damaged or cannot be read.
    #[error("cannot open the consensus data in {}: {reason}", path.display())]
    Storage {
        /// What was opened.
        path: PathBuf,
        /// What was found, and what to do.
        reason: String,
    },
    /// The network or the runtime cannot be set up.
    #[error("cannot start consensus: {0}")]
    Setup(String),
}

/// How fast a dead leader is replaced, against how much stalling is forgiven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimingProfile {
    /// Heartbeats every 25 ms, elections after 100 to 200: one data centre, shared machines.
    #[default]
    Standard,
    /// 15/50/100 ms: one data centre, fast disks.
    Fast,
    /// 100/400/800 ms: between data centres, slow disks.
    Relaxed,
}

impl TimingProfile {
    /// Between two heartbeats.
    #[must_use]
    pub fn heartbeat(self) -> Duration {
        Duration::from_millis(self.millis().0)
    }

    /// Lower bound of the randomised part of the election timeout.
    #[must_use]
    pub fn election_min(self) -> Duration {
        Duration::from_millis(self.millis().1)
    }

    /// The leader's lease, and the upper bound of the randomised part.
    #[must_use]
    pub fn election_max(self) -> Duration {
        Duration::from_millis(self.millis().2)
    }

    /// How long a leader may be silent before a follower asks to be elected in its place, unless its process is known
    /// to be gone: four times [`Self::election_max`]. On two processors, beside three processes that compute, three that
    /// sync all the time, and a fault campaign at a higher priority, leaders were not heard for up to 400 ms.
    #[must_use]
    pub fn patience(self) -> Duration {
        self.election_max() * 4
    }

    pub(crate) fn millis(self) -> (u64, u64, u64) {
        match self {
            Self::Standard => (25, 100, 200),
            Self::Fast => (15, 50, 100),
            Self::Relaxed => (100, 400, 800),
        }
    }
}

/// A name in the configuration that stands for nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{given}' is none of: {expected}")]
pub struct UnknownName {
    given: String,
    expected: &'static str,
}

impl FromStr for TimingProfile {
    type Err = UnknownName;

    fn from_str(s: &str) -> Result<Self, UnknownName> {
        match s {
            "standard" => Ok(Self::Standard),
            "fast" => Ok(Self::Fast),
            "relaxed" => Ok(Self::Relaxed),
            other => Err(UnknownName {
                given: other.to_owned(),
                expected: "standard, fast, relaxed",
            }),
        }
    }
}

/// What keeps the log on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogStoreKind {
    /// Pure Rust, group fdatasync.
    #[default]
    RaftLog,
    /// Feature `rocksdb`.
    RocksDb,
    /// Feature `sled`.
    Sled,
    /// A simulator's disk; exists nowhere else.
    Simulated,
}

impl fmt::Display for LogStoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::RaftLog => "raft-log",
            Self::RocksDb => "rocksdb",
            Self::Sled => "sled",
            Self::Simulated => "simulated",
        })
    }
}

impl FromStr for LogStoreKind {
    type Err = UnknownName;

    fn from_str(s: &str) -> Result<Self, UnknownName> {
        match s {
            "raft-log" => Ok(Self::RaftLog),
            "rocksdb" => Ok(Self::RocksDb),
            "sled" => Ok(Self::Sled),
            "simulated" if holdfast_runtime::is_simulated() => Ok(Self::Simulated),
            other => Err(UnknownName {
                given: other.to_owned(),
                expected: "raft-log, rocksdb, sled",
            }),
        }
    }
}

/// How to start a coordinator's consensus.
#[derive(Debug, Clone)]
pub struct RaftConfig {
    /// This coordinator. Never reused: one that lost its disk comes back under another number.
    pub id: NodeId,
    /// Only coordinators with the same name talk to each other.
    pub cluster_name: String,
    /// The coordinators that form the cluster at first, this one included. A coordinator that is to be added later
    /// lists itself and those that are there.
    pub peers: BTreeMap<NodeId, MemberAddr>,
    /// Holds log, snapshots and identity; created if absent.
    pub data_dir: PathBuf,
    /// Timing.
    pub profile: TimingProfile,
    /// Log store.
    pub log_store: LogStoreKind,
    /// A snapshot is taken after this many entries, and as many bytes of entries as the last snapshot has.
    pub snapshot_after_logs: u64,
    /// This process.
    pub incarnation: Incarnation,
}

impl RaftConfig {
    /// Entries between snapshots, by default: replay of so many takes well under a second.
    pub const SNAPSHOT_AFTER_LOGS: u64 = 8192;
}

/// Who leads, as this coordinator sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// It is this one.
    pub is_leader: bool,
    /// The term.
    pub term: u64,
    /// This one leads, and a quorum has acknowledged it within the last [`TimingProfile::patience`].
    pub quorum_ok: bool,
}

/// A coordinator in the membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Number.
    pub id: NodeId,
    /// Where it is reached.
    pub addr: MemberAddr,
    /// It votes.
    pub voter: bool,
    /// `leader`, `follower` or `learner`.
    pub role: &'static str,
    /// Its last log entry, as far as this coordinator knows (of others: only while leading).
    pub last_log: Option<u64>,
    /// What it has applied; of others, what has been replicated to them.
    pub applied: Option<u64>,
}

/// A look at consensus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RaftMetrics {
    /// This coordinator.
    pub id: NodeId,
    /// Who leads.
    pub leadership: Leadership,
    /// Last entry in the local log.
    pub last_log: u64,
    /// Last entry applied here.
    pub applied: u64,
    /// Last entry in the local snapshot.
    pub snapshot: u64,
    /// Last entry purged from the local log.
    pub purged: u64,
    /// Voters and learners.
    pub members: Vec<MemberInfo>,
    /// Why consensus has stopped here; the process must end.
    pub fatal: Option<String>,
    /// Another coordinator computed another state from the same log: a defect, or a broken machine.
    pub digest_mismatch: Option<String>,
}

/// What the data directory says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirIdentity {
    /// The configured name of the cluster.
    pub cluster_name: String,
    /// Drawn by the first leader; known once the first entry is applied.
    pub cluster_id: Option<ClusterId>,
    /// The coordinator.
    pub node_id: NodeId,
    /// The process that created the directory.
    pub first_incarnation: Incarnation,
}
