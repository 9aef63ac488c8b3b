//! The small key-value space. Knows nothing of jobs.

use crate::apply::Outcome;
use crate::command::{Rejection, Response};
use crate::state::{KvEntry, State};
use holdfast_common::inject::{self, bugs};
use holdfast_common::limits::{KV_ENTRIES_MAX, KV_KEY_BYTES_MAX, KV_VALUE_BYTES_MAX};
use prost::bytes::Bytes;

/// Writes a key, if its revision is the expected one.
pub(crate) fn put(
    state: &mut State,
    index: u64,
    key: &str,
    value: &Bytes,
    if_revision: Option<u64>,
) -> Outcome {
    if key.is_empty() || key.len() > KV_KEY_BYTES_MAX {
        let text = format!(
            "a key has 1 to {KV_KEY_BYTES_MAX} bytes, this one has {}",
            key.len()
        );
        return Err(Rejection::Limit(text));
    }
    if value.len() > KV_VALUE_BYTES_MAX {
        let text = format!(
            "a value has up to {KV_VALUE_BYTES_MAX} bytes, this one has {}",
            value.len()
        );
        return Err(Rejection::Limit(text));
    }
    let full = state.kv.len() >= KV_ENTRIES_MAX;
    let mut place = state.kv.get_mut(key);
    let current = place.as_ref().map_or(0, |entry| entry.revision);
    if let Some(expected) = if_revision
        && expected != current
        && !inject::bug(bugs::CAS_IGNORES_VERSION)
    {
        return Err(Rejection::Revision { expected, current });
    }
    if place.is_none() && full {
        return Err(Rejection::Limit(format!(
            "there are {KV_ENTRIES_MAX} keys already: delete some"
        )));
    }
    let entry = KvEntry {
        value: value.clone(),
        revision: index,
    };
    match &mut place {
        Some(place) => place.clone_from(&entry),
        None => {
            state.kv.insert(key.to_owned(), entry.clone());
        }
    }
    Ok(Response::Kv(entry))
}

/// Deletes a key; one that is absent stays so.
pub(crate) fn delete(state: &mut State, key: &str) -> Outcome {
    state.kv.remove(key);
    Ok(Response::Done)
}
