//! A hash table from byte strings to dense numbers: the first string is 0, the next 1, and so on. The strings lie one
//! after the other in one arena. Must not know what the strings mean.

/// Byte strings by dense number.
#[derive(Debug, Clone, Default)]
pub struct Interner {
    /// Number plus one, or 0 for a free place. A power of two long, at most seven eighths full.
    table: Vec<u32>,
    hashes: Vec<u64>,
    arena: Vec<u8>,
    /// End of every string in the arena.
    ends: Vec<usize>,
}

/// Spreads a hash over a table: its low bits are the key group, which is the same for a whole subtask's keys.
fn place(hash: u64, mask: usize) -> usize {
    ((hash.wrapping_mul(0x9e37_79b9_7f4a_7c15)) >> 32) as usize & mask
}

impl Interner {
    /// Number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.hashes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.hashes.is_empty()
    }

    /// The string of a number.
    #[must_use]
    pub fn get(&self, number: u32) -> &[u8] {
        let i = number as usize;
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.arena[start..self.ends[i]]
    }

    /// The hash of a number's string.
    #[must_use]
    pub fn hash(&self, number: u32) -> u64 {
        self.hashes[number as usize]
    }

    /// The number of a string, and whether it is new. `hash` must be a function of `bytes`.
    pub fn intern(&mut self, hash: u64, bytes: &[u8]) -> (u32, bool) {
        if (self.hashes.len() + 1) * 8 > self.table.len() * 7 {
            self.grow();
        }
        let mask = self.table.len() - 1;
        let mut at = place(hash, mask);
        loop {
            let entry = self.table[at];
            if entry == 0 {
                let number = self.hashes.len() as u32;
                self.table[at] = number + 1;
                self.hashes.push(hash);
                self.arena.extend_from_slice(bytes);
                self.ends.push(self.arena.len());
                return (number, true);
            }
            if self.hashes[entry as usize - 1] == hash && self.get(entry - 1) == bytes {
                return (entry - 1, false);
            }
            at = (at + 1) & mask;
        }
    }

    /// The number of a string that is there.
    #[must_use]
    pub fn find(&self, hash: u64, bytes: &[u8]) -> Option<u32> {
        let mask = self.table.len().checked_sub(1)?;
        let mut at = place(hash, mask);
        loop {
            let number = self.table[at].checked_sub(1)?;
            if self.hashes[number as usize] == hash && self.get(number) == bytes {
                return Some(number);
            }
            at = (at + 1) & mask;
        }
    }

    fn grow(&mut self) {
        let len = (self.table.len() * 2).max(16);
        let mask = len - 1;
        let mut table = vec![0; len];
        for (number, &hash) in self.hashes.iter().enumerate() {
            let mut at = place(hash, mask);
            while table[at] != 0 {
                at = (at + 1) & mask;
            }
            table[at] = number as u32 + 1;
        }
        self.table = table;
    }
}

/// The first sixteen bytes as a number: it orders strings as they do, but for those that share so many bytes.
#[must_use]
pub fn prefix(bytes: &[u8]) -> u128 {
    let mut head = [0; 16];
    let len = bytes.len().min(16);
    head[..len].copy_from_slice(&bytes[..len]);
    u128::from_be_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_common::keygroup::key_hash;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn numbers_strings_densely_and_finds_them(words: Vec<Vec<u8>>) {
            let mut interner = Interner::default();
            let mut model: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            for word in &words {
                let next = model.len() as u32;
                let expected = *model.entry(word.clone()).or_insert(next);
                let (number, new) = interner.intern(key_hash(word), word);
                prop_assert_eq!(number, expected);
                prop_assert_eq!(new, expected == next);
                prop_assert_eq!(interner.get(number), &word[..]);
            }
            for (word, number) in &model {
                prop_assert_eq!(interner.find(key_hash(word), word), Some(*number));
                let longer = [&word[..], b"x"].concat();
                prop_assert_eq!(interner.find(key_hash(&longer), &longer), model.get(&longer).copied());
            }
        }
    }

    #[test]
    fn keeps_apart_strings_of_equal_hash() {
        let mut interner = Interner::default();
        assert_eq!(interner.intern(7, b"a"), (0, true));
        assert_eq!(interner.intern(7, b"b"), (1, true));
        assert_eq!(interner.intern(7, b"a"), (0, false));
    }
}
