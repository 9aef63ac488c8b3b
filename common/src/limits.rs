//! Every limit of the project, each with its reason. A limit is never written anywhere else.

use std::time::Duration;

/// Largest gRPC message in either direction: a full Raft batch (2 MiB) or a large acknowledgement, with room.
pub const RPC_MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Largest entry of the replicated log. Larger metadata goes to snapshot storage, with its digest in the log.
pub const LOG_ENTRY_BYTES_MAX: usize = 1 << 20;
/// Largest SQL script that is accepted: half a log entry, since the script is stored in one.
pub const SQL_TEXT_BYTES_MAX: usize = 512 << 10;
/// Largest body of a REST request.
pub const REST_BODY_BYTES_MAX: usize = 1 << 20;
/// Largest frame between workers; a batch that is larger is split before it is sent.
pub const EXCHANGE_FRAME_BYTES_MAX: usize = 64 << 20;
/// Credit that a receiver grants per channel. Two full batches keep a sender busy for a round trip.
pub const EXCHANGE_CREDIT_BYTES: usize = 1 << 20;
/// Rows that a batch aims at: large enough to amortise per-batch work, small enough to stay in cache.
pub const BATCH_ROWS: usize = 4096;
/// Keys that a window firing merges or sorts in one step: a millisecond's work, so that other tasks of the slot go on.
pub const FIRING_KEYS_PER_STEP: u32 = 16_384;
/// Responses remembered per client session, for retries of requests that were in flight together.
pub const SESSION_WINDOW: usize = 256;
/// Client sessions in the replicated state; the least recently used one is dropped beyond it.
pub const SESSIONS_MAX: usize = 10_000;
/// Exceptions kept per job, as in Flink (`web.exception-history-size`).
pub const EXCEPTIONS_PER_JOB: usize = 16;
/// Ended jobs kept in the replicated state, oldest dropped first (Flink: `jobstore.max-capacity`, unbounded there).
pub const ENDED_JOBS_MAX: usize = 1000;
/// Finished checkpoints whose statistics are kept per job (Flink: `web.checkpoints.history` = 10).
pub const CHECKPOINT_HISTORY: usize = 10;
/// Checkpoint numbers that a leader reserves at once, so that a trigger needs no log entry.
pub const CHECKPOINT_ID_BLOCK: u64 = 1000;
/// Deadline of a control call between processes on a healthy network.
pub const RPC_DEADLINE: Duration = Duration::from_secs(5);
/// Deadline for opening a connection between processes.
pub const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// Pending proposals at the leader; more are refused as busy, so that memory stays bounded.
pub const PROPOSALS_PENDING_MAX: usize = 4096;
/// Coordinators' user-visible key-value space: largest key and value.
pub const KV_KEY_BYTES_MAX: usize = 1024;
/// See [`KV_KEY_BYTES_MAX`].
pub const KV_VALUE_BYTES_MAX: usize = 256 << 10;
/// Deadline of one call to snapshot storage or an object store that moves no data to speak of.
pub const STORAGE_DEADLINE: Duration = Duration::from_secs(15);
/// Slowest transfer that is waited for: a large object's deadline grows by its size over this.
pub const STORAGE_BYTES_PER_SECOND_MIN: u64 = 2 << 20;
/// Deletions that run at once, so that collecting many objects neither takes for ever nor floods the store.
pub const STORAGE_DELETES_CONCURRENT: usize = 8;
/// Keys in that space: it is for people and drills, not a database.
pub const KV_ENTRIES_MAX: usize = 1_000_000;
/// Names, keys, addresses and paths in the replicated state.
pub const NAME_BYTES_MAX: usize = 1024;
/// Text of one stored exception: a long stack, and small enough that a job's whole history fits a REST answer.
pub const EXCEPTION_TEXT_BYTES_MAX: usize = 16 << 10;
/// Times of failures kept per job; restart strategies count fewer.
pub const FAILURE_TIMES_PER_JOB: usize = 1000;
/// Registered workers.
pub const WORKERS_MAX: usize = 10_000;
/// Jobs that have not ended.
pub const ACTIVE_JOBS_MAX: usize = 10_000;
/// Key groups of a job, as in Flink (`pipeline.max-parallelism`).
pub const MAX_PARALLELISM_MAX: u32 = 1 << 15;
/// Checkpoints of a job in the catalogue, retired ones included: far beyond any retention, so that a collector that
/// stands still is noticed.
pub const CHECKPOINTS_PER_JOB_MAX: usize = 10_000;
/// Checkpoint numbers reserved by one entry.
pub const CHECKPOINT_RESERVE_MAX: u64 = 1_000_000;
/// Time that a deployment waits for its peers to have deployed the same attempt: a peer may still be restoring.
pub const EXCHANGE_CONNECT_DEADLINE: Duration = Duration::from_secs(30);
/// Pause between two attempts to reach a peer that has not deployed yet.
pub const EXCHANGE_CONNECT_RETRY: Duration = Duration::from_millis(20);
/// Largest handshake between workers: ids and an address, nothing else.
pub const EXCHANGE_HELLO_BYTES_MAX: usize = 4096;
/// Time that a cancelled attempt's tasks have to stop; a connector that blocks longer is reported as leaked.
pub const CANCEL_DEADLINE: Duration = Duration::from_secs(5);
/// Events that an engine holds for its agent before it keeps them on its own side.
pub const ENGINE_EVENTS_MAX: usize = 1024;
/// Commands that wait in one task's mailbox; a task that falls behind this far does not step and fails.
pub const TASK_MAIL_MAX: usize = 4096;
/// Turns that a task takes before the next task of its slot has its turn: one slow task must not delay barriers.
pub const TASK_TURNS_PER_STEP: usize = 16;
/// Longest time that an idle slot thread sleeps: bounds the harm of a connector that forgets to name its deadline.
pub const SLOT_PARK_MAX: Duration = Duration::from_secs(1);
/// Destinations' worth of full batches that a hash partitioner collects before it sends, so that memory stays bounded
/// at high parallelism.
pub const PARTITION_BATCHES_MAX: usize = 8;
/// Committables that a sink subtask keeps for checkpoints that never complete; beyond it the attempt fails.
pub const COMMITTABLES_UNSETTLED_MAX: usize = 100_000;
/// What one task's sinks may have waiting for a checkpoint to complete, encoded: it travels in one acknowledgement, so
/// half a message. Beyond it the attempt fails, and its output is made anew from the last checkpoint.
pub const COMMITTABLES_TASK_BYTES_MAX: usize = 8 << 20;
/// The same of a whole job: the leader holds it in memory and writes it into one manifest.
pub const COMMITTABLES_JOB_BYTES_MAX: usize = 128 << 20;
/// Committables in one Commit message, encoded: a quarter of a message, since the script and its settings go with them.
pub const COMMIT_SLICE_BYTES: usize = 4 << 20;
/// Committables in one Commit message: on an object store each costs two calls, and all of them have
/// [`COMMIT_DEADLINE`].
pub const COMMIT_SLICE_COUNT: usize = 256;
/// How long a REST request waits for a leader before it is answered with 503: several elections under load, and less
/// than the patience of any HTTP client.
pub const REST_LEADER_WAIT: Duration = Duration::from_secs(2);
/// Deadline of a REST request that reads, or proposes one entry to the log.
pub const REST_DEADLINE: Duration = Duration::from_secs(15);
/// Deadline of a REST request that changes the members: a learner must first receive the whole state.
pub const REST_MEMBERS_DEADLINE: Duration = Duration::from_secs(60);
/// Time for a client to send a request's headers, so that idle connections do not pile up.
pub const REST_HEADER_DEADLINE: Duration = Duration::from_secs(10);
/// Open REST connections of one coordinator; further ones wait in the kernel's backlog.
pub const REST_CONNECTIONS_MAX: usize = 1024;
/// Planned job graphs that a coordinator keeps for REST: a plan takes milliseconds, a page asks every second.
pub const REST_PLANS_MAX: usize = 64;
/// Longest `Idempotency-Key`: room for a UUID with a prefix; it is stored in the log.
pub const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// What the log keeps of an ended job's task counters: some seven hundred subtasks. More is not kept at all.
pub const LAST_REPORTS_BYTES_MAX: usize = 64 << 10;
/// What a file source reads at once: large enough to amortise the system call, small enough to stay in cache.
pub const SOURCE_CHUNK_BYTES: usize = 256 << 10;
/// Input that one poll of a source parses at most, so that barriers wait for milliseconds only.
pub const SOURCE_POLL_BYTES_MAX: usize = 4 << 20;
/// Largest record of a file source; beyond it a quote was probably never closed.
pub const RECORD_BYTES_MAX: usize = 8 << 20;
/// Files of one source table; every one has an entry in every checkpoint.
pub const SOURCE_FILES_MAX: usize = 100_000;
/// Files that one reader of a table with event time reads side by side: each has a buffer and a descriptor.
pub const SOURCE_FILES_OPEN_MAX: usize = 64;
/// What a file sink gathers before it writes.
pub const SINK_BUFFER_BYTES: usize = 256 << 10;
/// One part of an upload to an object store; S3 wants at least 5 MiB and at most 10,000 parts.
pub const SINK_PART_BYTES: usize = 8 << 20;
/// Deadline of one try to commit a checkpoint's sinks on one worker; then another worker is asked. Commits are
/// idempotent, so a slow one that goes on does no harm.
pub const COMMIT_DEADLINE: Duration = Duration::from_secs(30);
/// Deadline for a worker to restore and build its share of an attempt. State of some gigabytes must fit in.
pub const DEPLOY_DEADLINE: Duration = Duration::from_secs(600);
/// How long a new attempt waits for the tasks of the old one to be gone. They are fenced anyway; waiting only spares
/// them the company.
pub const CANCEL_WAIT: Duration = Duration::from_secs(1);
/// How long the end of a job waits for its tasks to be gone.
pub const END_WAIT: Duration = Duration::from_secs(5);
/// How long after a job's end, or after the last worker has said that it has stopped, storage is searched once more for
/// objects that nobody refers to. Uploads that were under way then have ended: each has [`STORAGE_DEADLINE`].
pub const LATE_SWEEP_AFTER: Duration = Duration::from_secs(2 * STORAGE_DEADLINE.as_secs());
/// How long a cancelled job waits for its sinks to commit what its newest checkpoint holds.
pub const CANCEL_COMMIT_WAIT: Duration = Duration::from_secs(30);
/// Commands queued for one worker. A worker that lags behind by more is disconnected and comes back.
pub const WORKER_QUEUE_MAX: usize = 4096;
/// Inputs queued for the leader's services; beyond it workers' streams are read more slowly.
pub const LEADER_QUEUE_MAX: usize = 8192;
/// Least time between two publications of the live view.
pub const LIVE_VIEW_INTERVAL: Duration = Duration::from_millis(50);
/// Messages that a worker keeps for the next leader while it has none; more means that something is very wrong, and the
/// oldest are dropped (a checkpoint then times out).
pub const AGENT_LEDGER_MAX: usize = 65_536;
/// Deadline of one try to plan a job's script.
pub const PLAN_DEADLINE: Duration = Duration::from_secs(60);
