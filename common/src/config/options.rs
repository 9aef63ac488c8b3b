//! The registry: every configuration key that Holdfast knows.
//!
//! Defaults that differ from Flink's say why.

use super::value::MemorySize;
use super::{ConfigOption, ConfigValue, OptionInfo, Scope, ValueError};
use std::marker::PhantomData;
use std::time::Duration;

fn check<T: ConfigValue>(text: &str) -> Result<(), ValueError> {
    T::parse(text).map(|_| ())
}

macro_rules! options {
    ($($name:ident: $ty:ty = $key:literal, $default:expr, $scope:ident, $doc:literal;)*) => {
        $(
            #[doc = $doc]
            pub static $name: ConfigOption<$ty> = ConfigOption {
                info: OptionInfo {
                    key: $key,
                    type_name: <$ty as ConfigValue>::NAME,
                    default: $default,
                    scope: Scope::$scope,
                    doc: $doc,
                    check: check::<$ty>,
                },
                marker: PhantomData,
            };
        )*
        static ALL: &[&OptionInfo] = &[$(&$name.info),*];
    };
}

options! {
    // Cluster and coordinators
    HA_TYPE: String = "high-availability.type", Some("raft"), Process, "How coordinators agree. `raft` is the only type: the log is embedded.";
    CLUSTER_NAME: String = "high-availability.cluster-id", Some("holdfast"), Process, "Name of the cluster. Coordinators and workers of different names refuse each other.";
    RAFT_ID: u64 = "high-availability.raft.id", None, Process, "This coordinator's number. Never reuse the number of a coordinator that lost its disk.";
    RAFT_PEERS: String = "high-availability.raft.peers", None, Process, "The first members, the same list on every coordinator: `1@host:port,2@host:port,3@host:port` (RPC addresses). Workers use it to find the coordinators.";
    RAFT_REST_PEERS: String = "high-availability.raft.rest-peers", None, Process, "REST addresses of the first members, `1@host:port,2@host:port,3@host:port`, for passing requests on to the leader. By default the host of each one's RPC address with this coordinator's `rest.port`.";
    RAFT_PROFILE: String = "high-availability.raft.profile", Some("standard"), Process, "Election timing: `standard` (heartbeat 25 ms, election 100 to 200 ms), `fast` (15, 50 to 100) or `relaxed` (100, 400 to 800). Elections begin that soon after a leader whose process is gone; one that only falls silent is waited for four times as long.";
    RAFT_LOG_STORE: String = "high-availability.raft.log-store", Some("raft-log"), Process, "Where the log lies: `raft-log`, or `rocksdb` or `sled` in a binary that was built with that feature.";
    RAFT_SNAPSHOT_LOGS: u64 = "high-availability.raft.snapshot-after-logs", Some("65536"), Process, "Log entries after which a coordinator snapshots its state and drops older entries; 64 MiB of them are enough too, and as many bytes as the last snapshot holds are needed.";
    STORAGE_DIR: String = "high-availability.storageDir", None, Process, "Directory of this coordinator's log, snapshots and identity.";
    JOBMANAGER_BIND: String = "jobmanager.rpc.address", Some("127.0.0.1"), Process, "Address that a coordinator advertises to its peers and workers.";
    JOBMANAGER_PORT: u16 = "jobmanager.rpc.port", Some("6123"), Process, "Port of a coordinator's RPC.";
    REST_ADDRESS: String = "rest.address", Some("127.0.0.1"), Process, "Address that a coordinator's REST interface binds and advertises.";
    REST_PORT: u16 = "rest.port", Some("8081"), Process, "Port of a coordinator's REST interface.";
    HEARTBEAT_INTERVAL: Duration = "heartbeat.interval", Some("200 ms"), Process, "How often workers report to the leader. Flink: 10 s.";
    HEARTBEAT_TIMEOUT: Duration = "heartbeat.timeout", Some("2 s"), Process, "Silence after which the leader counts a worker as lost. A broken connection whose worker refuses a new one is noticed at once. Flink: 50 s.";

    // Workers
    TM_RESOURCE_ID: String = "taskmanager.resource-id", None, Process, "The worker's name, stable over its restarts.";
    TM_BIND: String = "taskmanager.host", Some("127.0.0.1"), Process, "Address that a worker binds and advertises for data.";
    TM_DATA_PORT: u16 = "taskmanager.data.port", Some("0"), Process, "Port for data between workers; 0 picks a free one.";
    TM_SLOTS: u32 = "taskmanager.numberOfTaskSlots", Some("1"), Process, "Slots of a worker. Each runs one subtask of every vertex of a job, on a thread of its own.";
    TM_TMP_DIR: String = "io.tmp.dirs", None, Process, "A worker's directory for temporary files.";

    // Jobs
    JOB_NAME: String = "pipeline.name", None, Job, "The job's name; by default made from its sinks.";
    PARALLELISM: u32 = "parallelism.default", Some("1"), Job, "Parallelism of a job: the slots that it takes.";
    MAX_PARALLELISM: u32 = "pipeline.max-parallelism", None, Job, "Number of key groups, fixed for the life of the job's state. By default 128, or more for a parallelism above 85, as in Flink.";
    STATE_BACKEND: String = "state.backend.type", Some("hashmap"), Job, "Where working state lies: `hashmap` (memory).";
    RUNTIME_MODE: String = "execution.runtime-mode", Some("STREAMING"), Job, "Only STREAMING.";
    CHECKPOINT_INTERVAL: Duration = "execution.checkpointing.interval", Some("1 s"), Job, "Time between the starts of two checkpoints; `0 ms` turns periodic checkpoints off. Flink has no default.";
    CHECKPOINT_MODE: String = "execution.checkpointing.mode", Some("EXACTLY_ONCE"), Job, "Only EXACTLY_ONCE.";
    CHECKPOINT_TIMEOUT: Duration = "execution.checkpointing.timeout", Some("10 min"), Job, "A checkpoint that takes longer is aborted.";
    CHECKPOINT_MIN_PAUSE: Duration = "execution.checkpointing.min-pause", Some("0 ms"), Job, "Least time between the end of one checkpoint and the start of the next.";
    CHECKPOINT_TOLERABLE: u32 = "execution.checkpointing.tolerable-failed-checkpoints", Some("2147483647"), Job, "Consecutive failed checkpoints that a job bears before it is restarted. Flink: 0; here a healthy job outlives its storage.";
    CHECKPOINT_RETAINED: u32 = "execution.checkpointing.num-retained", Some("3"), Job, "Completed checkpoints that are kept. Flink: 1; here older ones are the way back when the newest is damaged.";
    CHECKPOINT_DIR: String = "execution.checkpointing.dir", None, Process, "Snapshot storage: file:///path, s3://bucket/prefix or memory:// (one process, tests only).";
    CHECKPOINT_RETENTION: String = "execution.checkpointing.externalized-checkpoint-retention", Some("DELETE_ON_CANCELLATION"), Job, "RETAIN_ON_CANCELLATION or DELETE_ON_CANCELLATION: what happens to a cancelled job's checkpoints.";
    WATERMARK_INTERVAL: Duration = "pipeline.auto-watermark-interval", Some("200 ms"), Job, "Least time between two watermarks of a source.";
    IDLE_TIMEOUT: Duration = "table.exec.source.idle-timeout", Some("0 ms"), Job, "A source split that is silent for this long no longer holds the watermark back; 0 turns it off.";
    BUFFER_TIMEOUT: Duration = "execution.buffer-timeout.interval", Some("10 ms"), Job, "Longest time that rows wait for a batch to fill before they are sent to the next worker. Flink: 100 ms.";

    // Restart strategies
    RESTART_TYPE: String = "restart-strategy.type", Some("exponential-delay"), Job, "none, fixed-delay, failure-rate or exponential-delay.";
    RESTART_FIXED_ATTEMPTS: u32 = "restart-strategy.fixed-delay.attempts", Some("1"), Job, "Restarts before the job fails.";
    RESTART_FIXED_DELAY: Duration = "restart-strategy.fixed-delay.delay", Some("1 s"), Job, "Delay before each restart.";
    RESTART_RATE_MAX: u32 = "restart-strategy.failure-rate.max-failures-per-interval", Some("1"), Job, "Failures in an interval that are borne.";
    RESTART_RATE_INTERVAL: Duration = "restart-strategy.failure-rate.failure-rate-interval", Some("1 min"), Job, "The interval over which failures are counted.";
    RESTART_RATE_DELAY: Duration = "restart-strategy.failure-rate.delay", Some("1 s"), Job, "Delay before each restart.";
    RESTART_EXP_INITIAL: Duration = "restart-strategy.exponential-delay.initial-backoff", Some("20 ms"), Job, "First delay. Flink: 1 s.";
    RESTART_EXP_MULTIPLIER: f64 = "restart-strategy.exponential-delay.backoff-multiplier", Some("1.5"), Job, "Factor from one delay to the next.";
    RESTART_EXP_MAX: Duration = "restart-strategy.exponential-delay.max-backoff", Some("1 min"), Job, "Longest delay.";
    RESTART_EXP_JITTER: f64 = "restart-strategy.exponential-delay.jitter-factor", Some("0.1"), Job, "Random share that is added to or taken from a delay.";
    RESTART_EXP_RESET: Duration = "restart-strategy.exponential-delay.reset-backoff-threshold", Some("1 h"), Job, "Healthy time after which the delay starts from the first again.";
    RESTART_EXP_ATTEMPTS: u64 = "restart-strategy.exponential-delay.attempts-before-reset-backoff", Some("2147483647"), Job, "Restarts before the job fails, unless the delay is reset first.";

    // S3-compatible stores
    S3_ENDPOINT: String = "s3.endpoint", None, Process, "Endpoint of an S3-compatible store.";
    S3_ACCESS_KEY: String = "s3.access-key", None, Process, "Access key; otherwise the environment's.";
    S3_SECRET_KEY: String = "s3.secret-key", None, Process, "Secret key; otherwise the environment's.";
    S3_PATH_STYLE: bool = "s3.path.style.access", Some("true"), Process, "Bucket in the path instead of the host name.";
    S3_REGION: String = "s3.endpoint.region", Some("us-east-1"), Process, "Region of the store.";

    // Observability
    LOG_LEVEL: String = "env.log.level", Some("info"), Process, "Level of the log: error, warn, info, debug, trace, or a tracing filter.";
    LOG_MAX: MemorySize = "env.log.max", Some("64 mb"), Process, "Size at which a process's log file is rotated; two are kept.";
}

/// Every key, sorted.
#[must_use]
pub fn all() -> Vec<&'static OptionInfo> {
    let mut all = ALL.to_vec();
    all.sort_by_key(|info| info.key);
    all
}

/// A key's entry. Keys are compared exactly.
#[must_use]
pub fn lookup(key: &str) -> Option<&'static OptionInfo> {
    ALL.iter().copied().find(|info| info.key == key)
}

/// The known key that is most like `key`, if any is at all like it.
#[must_use]
pub fn nearest(key: &str) -> Option<&'static str> {
    ALL.iter()
        .map(|info| (strsim::normalized_damerau_levenshtein(key, info.key), info.key))
        .filter(|(likeness, _)| *likeness > 0.4)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, key)| key)
}

#[cfg(test)]
mod tests {
    use super::super::{ConfigError, Configuration};
    use super::*;

    #[test]
    fn keys_are_unique_and_defaults_have_their_type() {
        let all = all();
        for pair in all.windows(2) {
            assert_ne!(pair[0].key, pair[1].key);
        }
        for info in all {
            if let Some(default) = info.default {
                assert_eq!((info.check)(default), Ok(()), "{}", info.key);
            }
        }
    }

    #[test]
    fn a_typo_is_answered_with_the_nearest_key() {
        let mut config = Configuration::new();
        let error = config
            .set("execution.checkpoint.interval", "1 s")
            .expect_err("a typo");
        assert_eq!(
            error,
            ConfigError::UnknownKey {
                key: "execution.checkpoint.interval".into(),
                nearest: Some("execution.checkpointing.interval".into())
            }
        );
        assert!(config.set("parallelism.default", "two").is_err());
        config.set("parallelism.default", "2").expect("valid");
        assert_eq!(config.get(&PARALLELISM), Ok(2));
    }
}
