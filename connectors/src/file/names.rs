//! Names of a sink's files. What may be deleted is decided from names alone, so they carry job, sink, attempt and
//! checkpoint, and nothing else ever matches. Pure.
//!
//! ```text
//! .part-<job>-<sink>-<attempt>-<subtask>-<n>.inprogress               being written
//! .part-<job>-<sink>-<attempt>-<subtask>-<n>-c<checkpoint>.pending    durable, waiting for the checkpoint's log entry
//! part-<job>-<sink>-<checkpoint>-<attempt>-<subtask>-<n>.csv          committed
//! ```
//! The attempt is there so that a clean-up that a stalled worker runs too late can only hit what came before it.

use holdfast_common::{AttemptId, CheckpointId, JobId};

/// First eight hexadecimal digits of the job.
pub(super) fn short_job(job: JobId) -> String {
    job.to_string()[..8].to_owned()
}

/// Whether a visible file's name says that this job wrote it.
#[must_use]
pub fn is_result_of(name: &str, job: JobId) -> bool {
    name.strip_prefix("part-")
        .and_then(|rest| rest.strip_prefix(short_job(job).as_str()))
        .is_some_and(|rest| rest.starts_with('-'))
}

/// Eight hexadecimal digits for a sink's uid, whatever it is made of.
pub(super) fn short_uid(uid: &str) -> String {
    format!("{:08x}", xxhash_rust::xxh3::xxh3_64(uid.as_bytes()) >> 32)
}

/// What all names of one writer share.
#[derive(Debug, Clone)]
pub(super) struct WriterNames {
    job: String,
    uid: String,
    attempt: AttemptId,
    subtask: u32,
    extension: &'static str,
}

impl WriterNames {
    pub(super) fn new(
        job: JobId,
        uid: &str,
        attempt: AttemptId,
        subtask: u32,
        extension: &'static str,
    ) -> Self {
        Self {
            job: short_job(job),
            uid: short_uid(uid),
            attempt,
            subtask,
            extension,
        }
    }

    pub(super) fn in_progress(&self, number: u64) -> String {
        let Self {
            job,
            uid,
            attempt,
            subtask,
            ..
        } = self;
        format!(".part-{job}-{uid}-{attempt}-{subtask}-{number}.inprogress")
    }

    pub(super) fn pending(&self, number: u64, checkpoint: CheckpointId) -> String {
        let Self {
            job,
            uid,
            attempt,
            subtask,
            ..
        } = self;
        format!(".part-{job}-{uid}-{attempt}-{subtask}-{number}-c{checkpoint}.pending")
    }

    pub(super) fn committed(&self, checkpoint: CheckpointId, number: usize) -> String {
        let Self {
            job,
            uid,
            attempt,
            subtask,
            extension,
        } = self;
        format!(
            "part-{job}-{uid}-{:08}-{attempt}-{subtask}-{number}.{extension}",
            checkpoint.0
        )
    }
}

/// What a name says, if it is one of this job's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Name {
    /// Who wrote it.
    pub(super) attempt: AttemptId,
    /// The checkpoint it was prepared for; none while it is being written.
    pub(super) checkpoint: Option<CheckpointId>,
}

impl Name {
    /// Whether the file belongs to work that `restored` does not know. Files of `attempt` itself and of later ones are
    /// never abandoned. A pending file of the restored checkpoint or before stays, too: another sink of the job may
    /// write to the same place and have its commit still ahead.
    pub(super) fn is_abandoned(self, attempt: AttemptId, restored: Option<CheckpointId>) -> bool {
        let unknown = self.checkpoint.is_none_or(|c| restored.is_none_or(|r| c > r));
        self.attempt < attempt && unknown
    }
}

/// Reads a name; `None` for every file that is not exactly one of `job`'s.
pub(super) fn parse(name: &str, job: JobId, extension: &str) -> Option<Name> {
    let job = short_job(job);
    let (attempt, checkpoint, rest) = if let Some(hidden) = name.strip_prefix(".part-") {
        if let Some(stem) = hidden.strip_suffix(".inprogress") {
            let [attempt, subtask, n] = fields(stem, &job)?.try_into().ok()?;
            (attempt, None, [subtask, n])
        } else {
            let [attempt, subtask, n, checkpoint] =
                fields(hidden.strip_suffix(".pending")?, &job)?.try_into().ok()?;
            (attempt, Some(checkpoint.strip_prefix('c')?), [subtask, n])
        }
    } else {
        let stem = name
            .strip_prefix("part-")?
            .strip_suffix(extension)?
            .strip_suffix('.')?;
        let [checkpoint, attempt, subtask, n] = fields(stem, &job)?.try_into().ok()?;
        (attempt, Some(checkpoint), [subtask, n])
    };
    for text in rest {
        number(text)?;
    }
    let checkpoint = match checkpoint {
        Some(text) => Some(CheckpointId(number(text)?)),
        None => None,
    };
    Some(Name {
        attempt: AttemptId(number(attempt)?),
        checkpoint,
    })
}

/// What follows job and sink.
fn fields<'n>(rest: &'n str, job: &str) -> Option<Vec<&'n str>> {
    let mut parts = rest.split('-');
    let is_job = parts.next()? == job;
    let uid = parts.next()?;
    let is_uid = uid.len() == 8 && uid.bytes().all(|b| b.is_ascii_hexdigit());
    (is_job && is_uid).then(|| parts.collect())
}

fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_not_ours() {
        let job = JobId(0x1234_5678 << 96);
        let names = WriterNames::new(job, "sink-1: weird/uid", AttemptId(7), 3, "csv");
        let (in_progress, pending) = (names.in_progress(4), names.pending(4, CheckpointId(12)));
        let committed = names.committed(CheckpointId(12), 0);
        let name = |checkpoint| {
            Some(Name {
                attempt: AttemptId(7),
                checkpoint,
            })
        };
        assert_eq!(parse(&in_progress, job, "csv"), name(None));
        assert_eq!(parse(&pending, job, "csv"), name(Some(CheckpointId(12))));
        assert_eq!(parse(&committed, job, "csv"), name(Some(CheckpointId(12))));
        let other = JobId(1);
        for name in [&in_progress, &pending, &committed] {
            assert_eq!(parse(name, other, "csv"), None);
        }
        assert_eq!(parse(&committed, job, "json"), None);
        for name in [
            "part-1.csv",
            "x.csv",
            ".part-12345678-x.inprogress",
            "part-12345678-00000000-a-1-0-0.csv",
            "part-12345678-00000000-1-1-0.csv",
            ".hidden",
        ] {
            assert_eq!(parse(name, job, "csv"), None, "{name}");
        }
    }

    #[test]
    fn only_older_attempts_are_abandoned() {
        let abandoned = |of: u64, checkpoint: Option<u64>, restored: Option<u64>| {
            let name = Name {
                attempt: AttemptId(of),
                checkpoint: checkpoint.map(CheckpointId),
            };
            name.is_abandoned(AttemptId(5), restored.map(CheckpointId))
        };
        assert!(
            abandoned(4, None, Some(9)) && abandoned(4, Some(10), Some(9)) && abandoned(4, Some(1), None)
        );
        assert!(!abandoned(4, Some(9), Some(9)));
        for checkpoint in [None, Some(10)] {
            assert!(!abandoned(5, checkpoint, Some(9)) && !abandoned(6, checkpoint, None));
        }
    }
}
