//! Where things lie in snapshot storage. No path is spelled anywhere else.
//!
//! ```text
//! <root>/<cluster>/jobs/<job>/chk/<checkpoint>/a<attempt>/v<vertex>-<subtask>.part   one subtask's state
//! <root>/<cluster>/jobs/<job>/chk/<checkpoint>/a<attempt>/manifest                   the self-contained manifest
//! ```
//! A zombie can only write under its own attempt, where nobody will ever read.

use crate::{AttemptId, CheckpointId, ClusterId, JobId, VertexId};

/// Everything of one job.
#[must_use]
pub fn job_prefix(cluster: ClusterId, job: JobId) -> String {
    format!("{cluster}/jobs/{job}")
}

/// Everything of one checkpoint by one attempt.
#[must_use]
pub fn checkpoint_prefix(
    cluster: ClusterId,
    job: JobId,
    checkpoint: CheckpointId,
    attempt: AttemptId,
) -> String {
    format!(
        "{}/chk/{:010}/a{}",
        job_prefix(cluster, job),
        checkpoint.0,
        attempt.0
    )
}

/// The state of one subtask in one checkpoint.
#[must_use]
pub fn part(
    cluster: ClusterId,
    job: JobId,
    checkpoint: CheckpointId,
    attempt: AttemptId,
    vertex: VertexId,
    subtask: u32,
) -> String {
    format!(
        "{}/v{}-{}.part",
        checkpoint_prefix(cluster, job, checkpoint, attempt),
        vertex.0,
        subtask
    )
}

/// The manifest of one checkpoint.
#[must_use]
pub fn manifest(cluster: ClusterId, job: JobId, checkpoint: CheckpointId, attempt: AttemptId) -> String {
    format!(
        "{}/manifest",
        checkpoint_prefix(cluster, job, checkpoint, attempt)
    )
}

/// The checkpoint and attempt that an object's path names, if it lies under a checkpoint of `job`.
#[must_use]
pub fn parse_checkpoint_path(
    cluster: ClusterId,
    job: JobId,
    path: &str,
) -> Option<(CheckpointId, AttemptId)> {
    let rest = path.strip_prefix(&format!("{}/chk/", job_prefix(cluster, job)))?;
    let mut parts = rest.split('/');
    let checkpoint = parts.next()?.parse().ok()?;
    let attempt = parts.next()?.strip_prefix('a')?.parse().ok()?;
    parts.next()?;
    Some((CheckpointId(checkpoint), AttemptId(attempt)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_their_checkpoint_and_attempt() {
        let (cluster, job) = (ClusterId(7), JobId(9));
        let path = part(cluster, job, CheckpointId(12), AttemptId(345), VertexId(1), 3);
        assert_eq!(
            parse_checkpoint_path(cluster, job, &path),
            Some((CheckpointId(12), AttemptId(345)))
        );
        assert_eq!(parse_checkpoint_path(cluster, JobId(8), &path), None);
    }
}
