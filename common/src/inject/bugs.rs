//! The seeded bugs: each breaks one promise in one place, so that the checkers can show that they notice.

/// A seeded bug.
#[derive(Debug, Clone, Copy)]
pub struct Bug {
    /// Its name.
    pub name: &'static str,
    /// What is wrong while it is on.
    pub what: &'static str,
}

macro_rules! bugs {
    ($($constant:ident = $name:literal, $what:literal;)*) => {
        $(#[doc = $what] pub const $constant: &str = $name;)*
        /// All of them.
        pub const BUGS: &[Bug] = &[$(Bug { name: $name, what: $what },)*];
    };
}

bugs! {
    // Consensus, its disk, the state machine (coordinator/raft, coordinator/machine).
    ACK_BEFORE_FSYNC = "ack-before-fsync", "appended entries are acknowledged before they are durable, and never synced";
    VOTE_NOT_SAVED = "vote-not-saved", "a vote is answered without being written";
    FSYNC_ERROR_IGNORED = "fsync-error-ignored", "a failed write or sync of the log is taken for a success";
    STALE_READ = "stale-read", "a linearizable read answers from local state without asking a quorum";
    NO_DEDUP = "no-dedup", "a retried request is applied again";
    DEDUP_NOT_IN_SNAPSHOT = "dedup-not-in-snapshot", "client sessions are left out of snapshots";
    CAS_IGNORES_VERSION = "cas-ignores-version", "a compare-and-set writes whatever it finds";
    APPLY_TWICE = "apply-twice", "after a restart an old entry is applied again behind a new one, without the request number that would show it";
    LOST_TAIL_ACCEPTED = "lost-tail-accepted", "a damaged log (of raft-log) is cut off silently before the damage although it was acknowledged";
    // The leader's services (coordinator/src).
    COMPLETE_BEFORE_ALL_ACKS = "complete-before-all-acks", "a checkpoint is completed when all subtasks but one have acknowledged";
    COMMIT_BEFORE_ENTRY = "commit-before-entry", "sinks are told to commit before the checkpoint's entry is in the log";
    NO_COMMIT_REPLAY = "no-commit-replay", "a new attempt's repetition of the restored checkpoint's commit leaves out what it is to commit";
    COMMIT_AFTER_START = "commit-after-start", "a new attempt starts without waiting for the restored checkpoint's commit, which its own next one then supersedes";
    STALE_ABORT = "stale-abort", "a new leader's abort of the newest checkpoint is accepted although the log has it complete";
    COLLECT_BY_AGE = "collect-by-age", "objects of the newest checkpoint are collected too";
    DELETE_ON_STEP_DOWN = "delete-on-step-down", "a leader that steps down deletes its jobs' checkpoints";
    RESTART_ON_LEADER_CHANGE = "restart-on-leader-change", "a new leader restarts every job";
    TWO_ATTEMPTS = "two-attempts", "a lost worker's attempt is replaced without telling anybody to stop, and its messages are still taken";
    RESURRECT_CANCELLED = "resurrect-cancelled", "a cancelled job is started again by the next leader";
    SUBMIT_TWICE = "submit-twice", "the idempotency key of a submission is ignored";
    WRONG_CHECKPOINT = "wrong-checkpoint", "tasks restore the checkpoint before the one that the log says";
    // Workers and connectors.
    SKIP_ALIGNMENT = "skip-alignment", "the first barrier is taken for all, without waiting for the other inputs";
    STALE_ATTEMPT_ACCEPTED = "stale-attempt-accepted", "a worker obeys commands of older attempts and epochs";
    SOURCE_OFFSET_AHEAD = "source-offset-ahead", "a source saves an offset one batch ahead of what it has sent";
    SOURCE_OFFSET_BEHIND = "source-offset-behind", "a source saves the offset of its last checkpoint";
    VISIBLE_ON_PREPARE = "visible-on-prepare", "a sink's file becomes visible when it is closed";
    PREPARE_NOT_SYNCED = "prepare-not-synced", "a sink's file is acknowledged before it is written out";
    COMMIT_NOT_IDEMPOTENT = "commit-not-idempotent", "a repeated commit writes the rows again";
    STATE_LOST_ON_RESTORE = "state-lost-on-restore", "one key group's state is not restored";
    TIMER_LOST_ON_RESTORE = "timer-lost-on-restore", "open windows are not fired after a restore";
    BARRIER_OVERTAKES = "barrier-overtakes", "a barrier is sent before the rows that wait in the output buffer";
    PENDING_DROPPED = "pending-dropped", "what a sink had prepared for an aborted checkpoint is dropped";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_there_are_enough() {
        let names: BTreeSet<&str> = BUGS.iter().map(|bug| bug.name).collect();
        assert_eq!(names.len(), BUGS.len());
        assert!(names.len() >= 25, "{}", names.len());
    }
}
