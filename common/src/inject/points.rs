//! The crash points: every place at which the sweep ends, stalls or fails a process.

/// Which process passes a point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A coordinator, leading or not.
    Coordinator,
    /// A worker.
    Worker,
}

/// A named place in the code.
#[derive(Debug, Clone, Copy)]
pub struct Point {
    /// Its name: room, then step.
    pub name: &'static str,
    /// Who passes it.
    pub role: Role,
    /// Whether an injected error is answered by the code (else `error` means abort).
    pub can_fail: bool,
    /// What has just happened, or is about to.
    pub what: &'static str,
}

macro_rules! points {
    ($($constant:ident = $name:literal, $role:ident, $can_fail:literal, $what:literal;)*) => {
        $(#[doc = $what] pub const $constant: &str = $name;)*
        /// All of them.
        pub const POINTS: &[Point] = &[
            $(Point { name: $name, role: Role::$role, can_fail: $can_fail, what: $what },)*
        ];
    };
}

points! {
    // Coordinators: consensus and its disk (coordinator/raft).
    RAFT_APPEND_BEFORE = "raft.append.before", Coordinator, true, "entries are about to be written to the log";
    RAFT_APPEND_AFTER = "raft.append.after", Coordinator, false, "entries are written, not yet synced";
    RAFT_FLUSHED = "raft.append.flushed", Coordinator, false, "entries are durable, nobody has been told";
    RAFT_VOTE_BEFORE = "raft.vote.before", Coordinator, true, "a vote is about to be saved";
    RAFT_VOTE_AFTER = "raft.vote.after", Coordinator, false, "a vote is durable, not yet answered";
    RAFT_TRUNCATE_BEFORE = "raft.truncate.before", Coordinator, true, "conflicting entries are about to be cut off";
    RAFT_PURGE_BEFORE = "raft.purge.before", Coordinator, true, "entries behind a snapshot are about to be dropped";
    RAFT_APPLY_BEFORE = "raft.apply.before", Coordinator, false, "committed entries are about to be applied";
    RAFT_APPLY_AFTER = "raft.apply.after", Coordinator, false, "entries are applied, clients not yet answered";
    RAFT_SNAPSHOT_BUILD = "raft.snapshot.build", Coordinator, true, "a snapshot is about to be written";
    RAFT_SNAPSHOT_WRITTEN = "raft.snapshot.written", Coordinator, true, "a snapshot's file is written, not renamed";
    RAFT_SNAPSHOT_RENAMED = "raft.snapshot.renamed", Coordinator, true, "a snapshot's file has its name, directory not synced";
    RAFT_SNAPSHOT_INSTALL = "raft.snapshot.install", Coordinator, true, "a received snapshot is about to replace the state";
    RAFT_MEMBERSHIP = "raft.membership", Coordinator, true, "a membership change is about to be proposed";
    RAFT_BOOTSTRAP = "raft.bootstrap", Coordinator, true, "a new cluster is about to be formed";
    RAFT_VOTE_ANSWER = "raft.vote.answer", Coordinator, false, "a vote request is about to be answered";
    RAFT_REPLICATED = "raft.replicated", Coordinator, false, "entries from the leader are stored, not yet acknowledged";

    // Coordinators: the leader's services (coordinator/src).
    LEADER_CLAIM = "leader.claim", Coordinator, false, "a new leader is about to claim its epoch";
    LEADER_CLAIMED = "leader.claimed", Coordinator, false, "the epoch is claimed, workers not yet greeted";
    LEADER_WELCOME = "leader.welcome", Coordinator, false, "a worker is about to be welcomed";
    LEADER_SUBMIT = "leader.submit", Coordinator, false, "a submitted job is about to be proposed";
    LEADER_START_ATTEMPT = "leader.start-attempt", Coordinator, false, "an attempt is about to be proposed";
    LEADER_DEPLOY = "leader.deploy", Coordinator, false, "an attempt is in the log, about to be deployed";
    LEADER_TRIGGER = "leader.trigger", Coordinator, false, "a checkpoint is about to be triggered";
    LEADER_ACK = "leader.ack", Coordinator, false, "an acknowledgement has arrived";
    LEADER_MANIFEST_BEFORE = "leader.manifest.before", Coordinator, true, "a manifest is about to be written";
    LEADER_MANIFEST_AFTER = "leader.manifest.after", Coordinator, false, "a manifest is written, completion not yet proposed";
    LEADER_COMPLETE = "leader.complete", Coordinator, false, "a checkpoint's completion is about to be proposed";
    LEADER_COMPLETED = "leader.completed", Coordinator, false, "a checkpoint is complete, commits not yet sent";
    LEADER_COMMIT_DONE = "leader.commit-done", Coordinator, false, "every sink has committed, not yet in the log";
    LEADER_COLLECT = "leader.collect", Coordinator, true, "objects of retired checkpoints are about to be deleted";
    LEADER_END_JOB = "leader.end-job", Coordinator, false, "a job's end is about to be proposed";
    LEADER_CANCEL = "leader.cancel", Coordinator, false, "a cancellation is in the log, workers not yet told";

    // Workers.
    WORKER_REGISTER = "worker.register", Worker, false, "a worker is about to register";
    WORKER_DEPLOY = "worker.deploy", Worker, true, "tasks are about to be built";
    WORKER_RESTORE = "worker.restore", Worker, true, "state is about to be read for a restore";
    WORKER_RUNNING = "worker.running", Worker, false, "tasks begin to run";
    WORKER_TRIGGER = "worker.trigger", Worker, false, "a checkpoint's trigger has arrived";
    WORKER_BARRIER = "worker.barrier", Worker, false, "a task has aligned a barrier, not yet captured its state";
    WORKER_CAPTURED = "worker.captured", Worker, false, "state is captured, not yet uploaded";
    WORKER_UPLOAD_BEFORE = "worker.upload.before", Worker, true, "state is about to be uploaded";
    WORKER_UPLOAD_AFTER = "worker.upload.after", Worker, false, "state is uploaded, not yet acknowledged";
    WORKER_PREPARE_BEFORE = "worker.prepare.before", Worker, true, "a sink is about to close and sync its files";
    WORKER_PREPARE_AFTER = "worker.prepare.after", Worker, true, "a sink's files are synced, not yet acknowledged";
    WORKER_COMMIT_BEFORE = "worker.commit.before", Worker, true, "a commit has arrived, nothing is visible yet";
    WORKER_COMMIT_BETWEEN = "worker.commit.between", Worker, true, "one file of a commit is visible, the next is not";
    WORKER_COMMIT_AFTER = "worker.commit.after", Worker, false, "a commit is done, not yet acknowledged";
    WORKER_RECOVER = "worker.recover", Worker, true, "a sink is about to remove what no checkpoint knows";
    WORKER_CANCEL = "worker.cancel", Worker, false, "an attempt is about to be cancelled";
    WORKER_REATTACH = "worker.reattach", Worker, false, "the leader's stream has ended, a new leader is looked for";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_there_are_enough() {
        let names: BTreeSet<&str> = POINTS.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), POINTS.len());
        assert!(names.len() >= 40, "{}", names.len());
    }
}
