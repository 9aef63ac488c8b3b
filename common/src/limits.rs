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
