//! Distinct values per key, in flat columns: copying them copies a few vectors, however many keys there are. Must not
//! know what the values mean.

use crate::state::interner::Interner;
use holdfast_common::keygroup::key_hash;

/// Sets of byte strings by dense key number.
#[derive(Debug, Clone, Default)]
pub struct DistinctValues {
    /// Entries of all keys: four bytes of key number, then the value.
    entries: Interner,
    /// By entry: the entry of the same key that came before it, plus one; 0 ends the list.
    before: Vec<u32>,
    /// By key: its newest entry plus one, and how many it has.
    newest: Vec<(u32, u32)>,
    /// Reused from value to value.
    entry: Vec<u8>,
}

impl DistinctValues {
    /// Makes room for keys up to `len`.
    pub fn resize(&mut self, len: usize) {
        self.newest.resize(len, (0, 0));
    }

    /// Adds a value to a key, if the key does not have it.
    pub fn add(&mut self, key: usize, value: &[u8]) {
        self.entry.clear();
        self.entry.extend_from_slice(&(key as u32).to_be_bytes());
        self.entry.extend_from_slice(value);
        if let (number, true) = self.entries.intern(key_hash(&self.entry), &self.entry) {
            let (newest, count) = self.newest[key];
            self.before.push(newest);
            self.newest[key] = (number + 1, count + 1);
        }
    }

    /// How many values a key has.
    #[must_use]
    pub fn count(&self, key: usize) -> u32 {
        self.newest[key].1
    }

    /// A key's values, the newest first.
    pub fn of(&self, key: usize) -> impl Iterator<Item = &[u8]> {
        let mut next = self.newest[key].0;
        std::iter::from_fn(move || {
            let number = next.checked_sub(1)?;
            next = self.before[number as usize];
            Some(&self.entries.get(number)[4..])
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_mix_and_nothing_counts_twice() {
        let mut values = DistinctValues::default();
        values.resize(3);
        for (key, value) in [(0, "a"), (2, "a"), (0, "b"), (0, "a"), (2, "")] {
            values.add(key, value.as_bytes());
        }
        let of = |key| values.of(key).map(<[u8]>::to_vec).collect::<Vec<_>>();
        assert_eq!(of(0), [b"b".to_vec(), b"a".to_vec()]);
        assert_eq!(of(1), Vec::<Vec<u8>>::new());
        assert_eq!(of(2), [b"".to_vec(), b"a".to_vec()]);
        assert_eq!([0, 1, 2].map(|k| values.count(k)), [2, 0, 2]);
    }
}
