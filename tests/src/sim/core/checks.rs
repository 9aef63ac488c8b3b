//! What must hold, each under a name: the one registry of the fast simulator's invariants. The state machine's own stand
//! in `holdfast_machine::invariants` and are checked after every entry.

use super::plan::{Plan, Profile};
use holdfast_common::{AttemptId, JobId};
use holdfast_machine::command::Response;
use holdfast_machine::state::State;
use std::collections::{BTreeMap, BTreeSet};

use crate::sim::Violation;

/// Names and sentences.
pub const INVARIANTS: &[(&str, &str)] = &[
    (
        "machine",
        "the state machine's own invariants hold after every entry",
    ),
    (
        "epochs-go-forward",
        "every claim of leadership gets a greater epoch than all before",
    ),
    (
        "claims-are-granted",
        "the log never refuses a claim of leadership",
    ),
    (
        "copies-are-equal",
        "all copies of the state machine are equal after the same entry",
    ),
    ("snapshots-restore", "a snapshot restores the state of its entry"),
    (
        "messages-are-understood",
        "what a worker says, the leader understands",
    ),
    (
        "one-attempt-at-a-time",
        "attempts go forward, and only the current one completes checkpoints",
    ),
    (
        "newest-checkpoint-is-restored",
        "an attempt starts from the newest undamaged checkpoint that ever completed",
    ),
    (
        "leader-change-restarts-nothing",
        "while only coordinators suffer, an attempt that runs is never replaced",
    ),
    ("smooth-without-faults", "without faults no attempt is replaced"),
    (
        "cancelled-stays-cancelled",
        "a cancelled job never starts another attempt",
    ),
    (
        "checkpoints-are-complete",
        "a completed checkpoint's manifest lists a part of every task, all of one attempt, all there",
    ),
    (
        "aborted-never-completes",
        "a checkpoint that a leader told workers to abort never completes, nor the other way round",
    ),
    (
        "commit-after-entry",
        "sinks are told to commit only checkpoints that are in the log",
    ),
    (
        "visible-after-entry",
        "a file becomes visible only once a checkpoint of its attempt that covers it is in the log",
    ),
    (
        "settled-after-commit",
        "workers are told that a checkpoint is settled only after its sinks have committed",
    ),
    (
        "commit-done-is-visible",
        "a checkpoint counts as committed only when all its files are visible",
    ),
    (
        "deployed-after-recovery",
        "a later attempt is deployed only after its restored checkpoint was committed and sinks recovered",
    ),
    (
        "committed-output-can-be-committed",
        "what a completed checkpoint lists can be made visible",
    ),
    ("no-row-twice", "no row is visible twice, at any moment"),
    (
        "output-is-a-prefix",
        "what is visible of each split is a prefix of it, at any moment",
    ),
    (
        "rows-vanish-only-after-damage",
        "visible rows are taken back only when a checkpoint is damaged",
    ),
    (
        "streams-have-no-gaps",
        "a sink gets every row of a split once and in order, counted from what it restored",
    ),
    (
        "objects-are-kept",
        "no object of a checkpoint that is neither retired nor damaged is deleted",
    ),
    (
        "newest-is-never-lost",
        "while a job lives, the newest undamaged checkpoint is in the catalogue and retained",
    ),
    (
        "request-is-applied-once",
        "a request that was made again changes nothing and gets the same answer",
    ),
    (
        "kv-follows-the-log",
        "the key-value space is what the writes in the log make of it",
    ),
    ("submit-is-idempotent", "one idempotency key names one job"),
    ("submissions-are-taken", "a sound submission is never refused"),
    (
        "no-older-leader-is-obeyed",
        "a worker that has obeyed a leader obeys no older one",
    ),
    (
        "no-older-attempt-is-obeyed",
        "a worker that runs an attempt obeys no command for an older one",
    ),
    ("jobs-do-not-fail", "no job fails for good"),
    (
        "jobs-recover",
        "after everything heals every job runs and completes checkpoints",
    ),
    ("jobs-finish", "after its input has ended a job finishes"),
    (
        "result-is-complete",
        "a finished job's output is its input, each row once",
    ),
    (
        "nothing-is-left-behind",
        "an ended job leaves neither tasks nor checkpoints in the log nor any object, however late it was written",
    ),
    (
        "only-the-current-attempt-runs",
        "after everything heals workers run current attempts only",
    ),
    ("no-panic", "nothing panics"),
];

/// A checkpoint that is, or was, in the log.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Completed {
    pub(super) attempt: u64,
    pub(super) damaged: bool,
    pub(super) retired: bool,
}

/// What the simulator has seen of a job.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) completed: BTreeMap<u64, Completed>,
    pub(super) aborted: BTreeSet<u64>,
    pub(super) attempt: u64,
    pub(super) ran: bool,
    pub(super) cancelled: bool,
    /// Visible rows were taken back and are not all there again.
    pub(super) undoing: bool,
    /// Visible rows by split and first row.
    pub(super) visible: BTreeMap<u32, Visible>,
}

/// Visible rows of a split.
#[derive(Debug, Default)]
pub(super) struct Visible {
    /// First row of each piece, and the row after its last.
    pub(super) pieces: BTreeMap<u64, u64>,
    pub(super) rows: u64,
}

impl Visible {
    pub(super) fn end(&self) -> u64 {
        self.pieces.values().next_back().copied().unwrap_or(0)
    }

    pub(super) fn is_prefix(&self) -> bool {
        self.rows == self.end()
    }

    /// Adds a piece. False if some of it is there already.
    pub(super) fn add(&mut self, from: u64, to: u64) -> bool {
        let before = self
            .pieces
            .range(..=from)
            .next_back()
            .is_none_or(|(_, end)| *end <= from);
        let after = self
            .pieces
            .range(from..)
            .next()
            .is_none_or(|(start, _)| *start >= to);
        if before && after {
            self.pieces.insert(from, to);
            self.rows += to - from;
        }
        before && after
    }

    pub(super) fn remove(&mut self, from: u64) {
        if let Some(to) = self.pieces.remove(&from) {
            self.rows -= to - from;
        }
    }
}

/// See the module.
pub(super) struct Checks {
    pub(super) violations: Vec<Violation>,
    /// The state after every committed entry.
    pub(super) reference: State,
    pub(super) jobs: BTreeMap<JobId, Record>,
    /// Answers by session and request.
    pub(super) answers: BTreeMap<(u64, u64), Response>,
    /// Key-value pairs as a model has them: value and revision.
    pub(super) kv: BTreeMap<String, (bytes::Bytes, u64)>,
    /// Objects that were damaged on purpose.
    pub(super) hurt: BTreeSet<String>,
    pub(super) epoch: u64,
    pub(super) profile: Profile,
    recovered: BTreeSet<(JobId, AttemptId)>,
    digests: BTreeMap<u64, (usize, String)>,
}

impl Checks {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            violations: Vec::new(),
            reference: State::default(),
            jobs: BTreeMap::new(),
            answers: BTreeMap::new(),
            kv: BTreeMap::new(),
            hurt: BTreeSet::new(),
            epoch: 0,
            profile: plan.profile,
            recovered: BTreeSet::new(),
            digests: BTreeMap::new(),
        }
    }

    pub(super) fn violated(&mut self, invariant: &'static str, detail: String, at_ms: u64) {
        debug_assert!(
            INVARIANTS.iter().any(|(name, _)| *name == invariant),
            "{invariant}"
        );
        self.violations.push(Violation {
            invariant: invariant.to_owned(),
            detail,
            at_ms,
        });
    }

    /// Something did not hold: the life ends here.
    pub(super) fn is_broken(&self) -> bool {
        !self.violations.is_empty()
    }

    /// A node's copy after an entry.
    ///
    /// # Errors
    /// If another node's was different.
    pub(super) fn digest(&mut self, index: u64, node: usize, digest: String) -> Result<(), String> {
        let (first, known) = self
            .digests
            .entry(index)
            .or_insert_with(|| (node, digest.clone()));
        if *known == digest {
            return Ok(());
        }
        Err(format!(
            "after entry {index} node {node} has {digest}, node {first} had {known}"
        ))
    }

    /// An attempt's sinks have committed and removed what was abandoned.
    pub(super) fn recovered(&mut self, job: JobId, attempt: AttemptId) {
        self.recovered.insert((job, attempt));
    }

    pub(super) fn has_recovered(&self, job: JobId, attempt: AttemptId) -> bool {
        self.recovered.contains(&(job, attempt))
    }

    /// The newest checkpoint of a job that is neither known to be damaged nor retired.
    pub(super) fn newest(&self, job: JobId) -> Option<u64> {
        let record = self.jobs.get(&job)?;
        let sound = record
            .completed
            .iter()
            .rev()
            .find(|(_, c)| !c.damaged && !c.retired);
        sound.map(|(id, _)| *id)
    }
}
