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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn contents(state: &State) -> BTreeMap<String, KvEntry> {
        state.kv.iter().map(|(k, e)| (k.clone(), e.clone())).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// Snapshots and digests are taken of copies that share with the state what did not change: whatever is
        /// written and deleted afterwards, and however many keys there are, a copy stays what it was, and so do its
        /// snapshot's bytes.
        #[test]
        fn a_copy_never_changes(
            keys in 1_u32..2000,
            writes in prop::collection::vec((any::<u32>(), 0_u8..4), 1..4000),
            copied_at in prop::collection::btree_set(0_usize..4000, 0..6),
        ) {
            let mut state = State::default();
            let mut plain = BTreeMap::new();
            let mut copies = Vec::new();
            for (at, (n, what)) in writes.into_iter().enumerate() {
                let (key, index) = (format!("key-{}", n % keys), at as u64 + 1);
                if what == 0 {
                    delete(&mut state, &key).unwrap();
                    plain.remove(&key);
                } else {
                    let value = Bytes::from(n.to_le_bytes().to_vec());
                    put(&mut state, index, &key, &value, None).unwrap();
                    plain.insert(key, KvEntry { value, revision: index });
                }
                if copied_at.contains(&at) {
                    copies.push((state.clone(), state.digest(), plain.clone()));
                }
            }
            prop_assert_eq!(contents(&state), plain);
            for (copy, digest, was) in copies {
                prop_assert_eq!(copy.digest(), digest);
                let read = State::from_snapshot_bytes(&copy.snapshot_bytes()).unwrap();
                prop_assert_eq!(&read, &copy);
                prop_assert_eq!(contents(&read), was);
            }
        }
    }
}
