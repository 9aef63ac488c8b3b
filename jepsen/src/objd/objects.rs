//! The objects: what is there, what was there a moment ago, uploads in parts.

use bytes::{Bytes, BytesMut};
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

/// How long deleted objects are remembered, for listings that lag behind.
const REMEMBERED: Duration = Duration::from_secs(30);

/// An object.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) body: Bytes,
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    created: Instant,
}

/// All objects, by `bucket/key`.
#[derive(Debug, Default)]
pub(crate) struct Objects {
    all: BTreeMap<String, Object>,
    deleted: Vec<(String, Object, Instant)>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    next_upload: u64,
}

/// A part of a listing.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) objects: Vec<(String, Object)>,
    pub(crate) prefixes: Vec<String>,
    /// Where the next part begins.
    pub(crate) next: Option<String>,
}

fn etag(body: &[u8]) -> String {
    format!("\"{:032x}\"", xxhash_rust::xxh3::xxh3_128(body))
}

impl Objects {
    /// Writes an object; `None` if it is there already and must not be.
    pub(crate) fn put(
        &mut self,
        path: &str,
        body: Bytes,
        only_new: bool,
        now: (Instant, SystemTime),
    ) -> Option<String> {
        if only_new && self.all.contains_key(path) {
            return None;
        }
        let etag = etag(&body);
        let object = Object {
            body,
            etag: etag.clone(),
            modified: now.1,
            created: now.0,
        };
        self.all.insert(path.to_owned(), object);
        Some(etag)
    }

    pub(crate) fn get(&self, path: &str) -> Option<&Object> {
        self.all.get(path)
    }

    pub(crate) fn delete(&mut self, path: &str, now: Instant) {
        self.deleted
            .retain(|(_, _, at)| now.duration_since(*at) < REMEMBERED);
        if let Some(object) = self.all.remove(path) {
            self.deleted.push((path.to_owned(), object, now));
        }
    }

    /// Lists keys of `bucket/` that begin with a prefix, after `after`, at most `most`; those with the delimiter behind the
    /// prefix are folded. `stale`: as it was so long ago.
    pub(crate) fn list(&self, wanted: &Wanted<'_>, now: Instant) -> Listing {
        let mut keys: BTreeMap<&str, &Object> = BTreeMap::new();
        let start = format!("{}/", wanted.bucket);
        let old_enough = |object: &Object| {
            wanted
                .stale
                .is_none_or(|age| now.duration_since(object.created) >= age)
        };
        for (path, object) in self
            .all
            .range(start.clone()..)
            .take_while(|(path, _)| path.starts_with(&start))
        {
            if old_enough(object) {
                keys.insert(&path[start.len()..], object);
            }
        }
        for (path, object, at) in &self.deleted {
            let still_seen = wanted.stale.is_some_and(|age| now.duration_since(*at) < age);
            if let Some(key) = path.strip_prefix(&start)
                && still_seen
                && old_enough(object)
            {
                keys.entry(key).or_insert(object);
            }
        }
        keys.retain(|key, _| key.starts_with(wanted.prefix));
        let mut listing = Listing::default();
        let mut last_prefix: Option<String> = None;
        for (key, object) in keys {
            if wanted.after.is_some_and(|after| key <= after) {
                continue;
            }
            let rest = &key[wanted.prefix.len()..];
            let folded = wanted
                .delimiter
                .and_then(|delimiter| rest.find(delimiter).map(|at| at + delimiter.len()));
            let folded = folded.map(|at| format!("{}{}", wanted.prefix, &rest[..at]));
            if folded.is_some() && folded == last_prefix {
                listing.next = listing.next.map(|_| key.to_owned());
                continue;
            }
            if listing.objects.len() + listing.prefixes.len() >= wanted.most {
                // The key before this one: the next part begins behind it.
                return listing;
            }
            listing.next = Some(key.to_owned());
            match folded {
                Some(prefix) => {
                    last_prefix = Some(prefix.clone());
                    listing.prefixes.push(prefix);
                }
                None => listing.objects.push((key.to_owned(), object.clone())),
            }
        }
        listing.next = None;
        listing
    }

    pub(crate) fn begin_upload(&mut self) -> String {
        self.next_upload += 1;
        let id = format!("upload-{}", self.next_upload);
        self.uploads.insert(id.clone(), BTreeMap::new());
        id
    }

    /// `None` if there is no such upload.
    pub(crate) fn put_part(&mut self, upload: &str, part: u32, body: Bytes) -> Option<String> {
        let etag = etag(&body);
        self.uploads.get_mut(upload)?.insert(part, body);
        Some(etag)
    }

    /// The parts in one; `None` if there is no such upload.
    pub(crate) fn end_upload(&mut self, upload: &str) -> Option<Bytes> {
        let parts = self.uploads.remove(upload)?;
        let mut whole = BytesMut::new();
        for part in parts.values() {
            whole.extend_from_slice(part);
        }
        Some(whole.freeze())
    }
}

/// What a listing asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) prefix: &'a str,
    pub(crate) delimiter: Option<&'a str>,
    pub(crate) after: Option<&'a str>,
    pub(crate) most: usize,
    pub(crate) stale: Option<Duration>,
}
