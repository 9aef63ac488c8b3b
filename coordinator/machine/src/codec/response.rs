//! Answers as bytes: they stand in snapshots, where sessions remember them.

use super::{Result, unknown, wide, wide_bytes};
use crate::command::{Rejection, Response};
use crate::state::KvEntry;
use holdfast_common::{AttemptId, CheckpointId, ClusterId, JobId, LeaderEpoch};
use holdfast_proto::command as pb;
use pb::rejection::Body as Why;
use pb::response::Body as Wire;

pub(super) fn response_to(response: &Response) -> pb::Response {
    let body = match response {
        Response::Done => Wire::Done(pb::Empty {}),
        Response::Cluster(id) => Wire::Cluster(wide_bytes(id.0)),
        Response::Epoch(epoch) => Wire::Epoch(epoch.0),
        Response::Session(session) => Wire::Session(*session),
        Response::Submitted { job, existing } => Wire::Submitted(pb::Submitted {
            job: wide_bytes(job.0),
            existing: *existing,
        }),
        Response::Attempt(attempt) => Wire::Attempt(attempt.0),
        Response::Checkpoints(first) => Wire::Checkpoints(first.0),
        Response::Kv(entry) => Wire::Kv(pb::KvEntry {
            value: entry.value.clone(),
            revision: entry.revision,
        }),
        Response::Rejected(rejection) => Wire::Rejected(pb::Rejection {
            body: Some(rejection_to(rejection)),
        }),
    };
    pb::Response { body: Some(body) }
}

fn rejection_to(rejection: &Rejection) -> Why {
    match rejection {
        Rejection::StaleEpoch { given, current } => Why::StaleEpoch(pb::StaleEpoch {
            given: given.0,
            current: current.0,
        }),
        Rejection::StaleAttempt { given, current } => Why::StaleAttempt(pb::StaleAttempt {
            given: given.map(|a| a.0),
            current: current.map(|a| a.0),
        }),
        Rejection::NotFound(text) => Why::NotFound(text.clone()),
        Rejection::Conflict(text) => Why::Conflict(text.clone()),
        Rejection::Limit(text) => Why::Limit(text.clone()),
        Rejection::Forgotten { session, seq } => Why::Forgotten(pb::Forgotten {
            session: *session,
            seq: *seq,
        }),
        Rejection::Revision { expected, current } => Why::Revision(pb::WrongRevision {
            expected: *expected,
            current: *current,
        }),
    }
}

pub(super) fn response_from(wire: pb::Response) -> Result<Response> {
    Ok(match wire.body.ok_or(unknown("response"))? {
        Wire::Done(pb::Empty {}) => Response::Done,
        Wire::Cluster(id) => Response::Cluster(ClusterId(wide("cluster id", &id)?)),
        Wire::Epoch(epoch) => Response::Epoch(LeaderEpoch(epoch)),
        Wire::Session(session) => Response::Session(session),
        Wire::Submitted(s) => Response::Submitted {
            job: JobId(wide("job id", &s.job)?),
            existing: s.existing,
        },
        Wire::Attempt(attempt) => Response::Attempt(AttemptId(attempt)),
        Wire::Checkpoints(first) => Response::Checkpoints(CheckpointId(first)),
        Wire::Kv(entry) => Response::Kv(KvEntry {
            value: entry.value,
            revision: entry.revision,
        }),
        Wire::Rejected(r) => Response::Rejected(rejection_from(r)?),
    })
}

fn rejection_from(wire: pb::Rejection) -> Result<Rejection> {
    Ok(match wire.body.ok_or(unknown("rejection"))? {
        Why::StaleEpoch(s) => Rejection::StaleEpoch {
            given: LeaderEpoch(s.given),
            current: LeaderEpoch(s.current),
        },
        Why::StaleAttempt(s) => Rejection::StaleAttempt {
            given: s.given.map(AttemptId),
            current: s.current.map(AttemptId),
        },
        Why::NotFound(text) => Rejection::NotFound(text),
        Why::Conflict(text) => Rejection::Conflict(text),
        Why::Limit(text) => Rejection::Limit(text),
        Why::Forgotten(f) => Rejection::Forgotten {
            session: f.session,
            seq: f.seq,
        },
        Why::Revision(r) => Rejection::Revision {
            expected: r.expected,
            current: r.current,
        },
    })
}
