//! Client sessions: a request is applied once however often it is proposed. Knows nothing of what requests do.

use crate::apply::bounded;
use crate::command::{Command, Rejection, Response, SessionSeq};
use crate::state::{KvEntry, Session, State};
use holdfast_common::limits::{NAME_BYTES_MAX, SESSION_WINDOW, SESSIONS_MAX};
use prost::bytes::Bytes;

/// Opens a session; the least recently used one makes room beyond the limit.
pub(crate) fn open(state: &mut State, index: u64, client: &str) -> Response {
    if state.sessions.len() >= SESSIONS_MAX {
        let oldest = state
            .sessions
            .iter()
            .min_by_key(|(id, s)| (s.used_at, **id))
            .map(|(id, _)| *id);
        if let Some(id) = oldest {
            state.sessions.remove(&id);
        }
    }
    let session = Session {
        client: bounded(client, NAME_BYTES_MAX),
        acked_up_to: 0,
        responses: std::collections::BTreeMap::new(),
        used_at: index,
    };
    state.sessions.insert(index, session);
    Response::Session(index)
}

/// Applies a session's request unless it was applied before; then its first answer is given again.
pub(crate) fn apply_once(state: &mut State, index: u64, request: SessionSeq, command: &Command) -> Response {
    match admit(state, index, request) {
        Ok(None) => {}
        Ok(Some(earlier)) => return recalled(earlier, command),
        Err(rejection) => return Response::Rejected(rejection),
    }
    let response = state.execute(index, command);
    // The command itself may have evicted the session (a flood of OpenSession); then nobody can ask again.
    if let Some(session) = state.sessions.get_mut(&request.session) {
        session.responses.insert(request.seq, remembered(&response));
    }
    response
}

/// `Ok(None)`: apply it. `Ok(Some)`: it was applied, with this answer.
fn admit(state: &mut State, index: u64, request: SessionSeq) -> Result<Option<Response>, Rejection> {
    let SessionSeq {
        session: id,
        seq,
        acked_up_to,
    } = request;
    let session = state.sessions.get_mut(&id).ok_or_else(|| {
        Rejection::NotFound(format!(
            "session {id} is unknown: it never existed or was unused for too long"
        ))
    })?;
    if acked_up_to >= seq {
        return Err(Rejection::Conflict(format!(
            "request {seq} of session {id} acknowledges {acked_up_to}, an answer that cannot have been given yet"
        )));
    }
    session.used_at = index;
    if acked_up_to > session.acked_up_to {
        session.acked_up_to = acked_up_to;
        while session
            .responses
            .first_key_value()
            .is_some_and(|(seq, _)| *seq <= acked_up_to)
        {
            session.responses.pop_first();
        }
    }
    if seq <= session.acked_up_to {
        return Err(Rejection::Forgotten { session: id, seq });
    }
    if let Some(earlier) = session.responses.get(&seq) {
        return Ok(Some(earlier.clone()));
    }
    if session.responses.len() >= SESSION_WINDOW {
        return Err(Rejection::Limit(format!(
            "session {id} has {SESSION_WINDOW} answers that it has not acknowledged: raise acked_up_to"
        )));
    }
    Ok(None)
}

/// Values are not kept a second time in the session: a retry carries the value again.
fn remembered(response: &Response) -> Response {
    match response {
        Response::Kv(entry) => Response::Kv(KvEntry {
            value: Bytes::new(),
            revision: entry.revision,
        }),
        other => other.clone(),
    }
}

fn recalled(earlier: Response, command: &Command) -> Response {
    match (earlier, command) {
        (Response::Kv(entry), Command::KvPut { value, .. }) => Response::Kv(KvEntry {
            value: value.clone(),
            revision: entry.revision,
        }),
        (other, _) => other,
    }
}
