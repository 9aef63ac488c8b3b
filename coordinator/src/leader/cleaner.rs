//! Retention: which checkpoints of a job are kept, which are retired, and which objects may be deleted. A pure function
//! of the log's record. Collection follows references and the log, never age.

use super::input::{CollectWork, StoredCheckpoint};
use holdfast_common::CheckpointId;
use holdfast_machine::state::{Checkpoint, Job, JobStatus};

/// A job's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Completed checkpoints that are kept while the job lives.
    pub retained: u32,
    /// Keep them when the job is cancelled.
    pub keep_on_cancel: bool,
}

/// Checkpoints to be retired now.
#[must_use]
pub fn to_retire(job: &Job, retention: Retention) -> Vec<CheckpointId> {
    let live = || job.checkpoints.values().filter(|c| !c.retired);
    let drop_all = match job.status {
        JobStatus::Finished => true,
        JobStatus::Canceled => !retention.keep_on_cancel,
        JobStatus::Failed => return Vec::new(),
        _ => false,
    };
    if drop_all {
        return live().map(|c| c.id).collect();
    }
    if live().any(|c| !c.damaged && !c.committed) {
        return Vec::new();
    }
    let wanted = retention.retained.max(1) as usize;
    let good: Vec<CheckpointId> = live().rev().filter(|c| !c.damaged).map(|c| c.id).collect();
    let Some(oldest_kept) = good.get(wanted - 1).copied() else {
        return Vec::new();
    };
    let restoring = job
        .attempt
        .as_ref()
        .filter(|a| a.running_ms.is_none())
        .and_then(|a| a.restored);
    live()
        .filter(|c| c.id < oldest_kept && Some(c.id) != restoring)
        .map(|c| c.id)
        .collect()
}

/// What may be deleted now: objects of retired checkpoints, and orphans below `orphans_below`. `None` if nothing.
#[must_use]
pub fn to_collect(job: &Job, orphans_below: Option<CheckpointId>) -> Option<CollectWork> {
    let (retired, kept): (Vec<&Checkpoint>, Vec<&Checkpoint>) =
        job.checkpoints.values().partition(|c| c.retired);
    if retired.is_empty() && orphans_below.is_none() {
        return None;
    }
    Some(CollectWork {
        retired: retired.into_iter().map(stored).collect(),
        kept: kept.into_iter().map(stored).collect(),
        orphans_below,
    })
}

fn stored(checkpoint: &Checkpoint) -> StoredCheckpoint {
    StoredCheckpoint {
        id: checkpoint.id,
        attempt: checkpoint.attempt,
        manifest_path: checkpoint.manifest_path.clone(),
        sha256: checkpoint.manifest_sha256,
        damaged: checkpoint.damaged,
    }
}

/// Whether an object of a job may be deleted as an orphan: it names a checkpoint that is not in the log and never can
/// be any more.
#[must_use]
pub fn is_orphan(work: &CollectWork, checkpoint: CheckpointId, attempt: holdfast_common::AttemptId) -> bool {
    let owned = work
        .kept
        .iter()
        .chain(&work.retired)
        .any(|c| c.id == checkpoint && c.attempt == attempt);
    !owned && work.orphans_below.is_some_and(|floor| checkpoint < floor)
}
