//! Which attempts may still write to snapshot storage. An attempt that is over begins no more uploads: nobody would ever
//! refer to them, and the leader, once it has heard that the attempt has stopped, searches storage a last time when those
//! that had begun must have ended.

use super::ledger::Ledger;
use holdfast_common::{AttemptId, JobId};
use std::collections::BTreeMap;
use tokio_util::sync::CancellationToken;

/// One token per attempt that has captured state here, until the attempt is over.
#[derive(Debug, Default)]
pub(super) struct Uploads {
    open: BTreeMap<(JobId, AttemptId), CancellationToken>,
}

impl Uploads {
    /// For one upload: it is not to begin once the token is cancelled, which it is if the attempt is over already.
    pub(super) fn token(&mut self, ledger: &Ledger, job: JobId, attempt: AttemptId) -> CancellationToken {
        if ledger.require_current(job, attempt).is_ok() {
            return self.open.entry((job, attempt)).or_default().clone();
        }
        let over = CancellationToken::new();
        over.cancel();
        over
    }

    /// Every attempt of a job up to this one is over.
    pub(super) fn end(&mut self, job: JobId, up_to: AttemptId) {
        self.open.retain(|(j, attempt), token| {
            let over = *j == job && *attempt <= up_to;
            if over {
                token.cancel();
            }
            !over
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_attempt_that_is_over_begins_no_upload_and_another_one_does() {
        let (job, other) = (JobId(1), JobId(2));
        let (mut ledger, mut uploads) = (Ledger::default(), Uploads::default());
        ledger.deploy(job, AttemptId(5)).unwrap();
        ledger.deploy(other, AttemptId(4)).unwrap();
        let first = uploads.token(&ledger, job, AttemptId(5));
        let elsewhere = uploads.token(&ledger, other, AttemptId(4));
        assert!(!first.is_cancelled());
        ledger.cancel(job, AttemptId(5));
        uploads.end(job, AttemptId(5));
        assert!(first.is_cancelled() && !elsewhere.is_cancelled());
        // A task of it captures once more before it is gone.
        assert!(uploads.token(&ledger, job, AttemptId(5)).is_cancelled());
        ledger.deploy(job, AttemptId(7)).unwrap();
        assert!(!uploads.token(&ledger, job, AttemptId(7)).is_cancelled());
        assert_eq!(uploads.open.len(), 2);
    }
}
