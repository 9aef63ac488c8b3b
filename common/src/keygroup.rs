//! Key groups: the unit in which keyed state is split, moved and restored.
//!
//! The scheme is Flink's (key → key group → subtask, by contiguous ranges); the hash is ours: xxh3-64 with a fixed
//! seed over the canonical key bytes of [`crate::keys`]. Changing anything here makes old snapshots unreadable,
//! so the golden vectors in the tests must never change.

use std::ops::Range;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Names the hash in manifests; a restore refuses another one.
pub const HASH_ID: &str = "xxh3-64/1";

/// The seed of the key hash. Part of the format.
const SEED: u64 = 0x486f_6c64_6661_7374;

/// The hash of a key's canonical bytes.
#[must_use]
pub fn key_hash(canonical: &[u8]) -> u64 {
    xxh3_64_with_seed(canonical, SEED)
}

/// The key group of a hashed key, in `0..max_parallelism`.
#[must_use]
pub fn key_group(hash: u64, max_parallelism: u32) -> u32 {
    debug_assert!(max_parallelism > 0);
    (hash % u64::from(max_parallelism.max(1))) as u32
}

/// The subtask that owns a key group.
#[must_use]
pub fn subtask_of(group: u32, max_parallelism: u32, parallelism: u32) -> u32 {
    (u64::from(group) * u64::from(parallelism) / u64::from(max_parallelism)) as u32
}

/// The key groups that a subtask owns.
#[must_use]
pub fn range_of(subtask: u32, max_parallelism: u32, parallelism: u32) -> Range<u32> {
    let (i, m, p) = (
        u64::from(subtask),
        u64::from(max_parallelism),
        u64::from(parallelism),
    );
    ((i * m).div_ceil(p) as u32)..(((i + 1) * m).div_ceil(p) as u32)
}

/// The default of `pipeline.max-parallelism` for a job of parallelism `p`, as in Flink: 128 up to 85, then the next
/// power of two of 1.5 p, at most 32768.
#[must_use]
pub fn default_max_parallelism(p: u32) -> u32 {
    let wanted = u64::from(p) + u64::from(p) / 2;
    wanted.next_power_of_two().clamp(128, 32_768) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_hash_never_changes() {
        let golden: [(&[u8], u64); 3] = [
            (b"", 0xa622_c237_874a_b529),
            (b"UA", 0x3f77775cffa74276),
            (&[1, 0x80, 0, 0, 0, 0, 0, 0, 7], 0x89e840af38d85d9e),
        ];
        for (bytes, expected) in golden {
            assert_eq!(key_hash(bytes), expected, "{bytes:?} {:#x}", key_hash(bytes));
        }
    }

    proptest! {
        #[test]
        fn ranges_partition_all_groups(max in 1u32..=32_768, p in 1u32..=256) {
            prop_assume!(p <= max);
            let mut next = 0;
            for subtask in 0..p {
                let range = range_of(subtask, max, p);
                prop_assert_eq!(range.start, next);
                for group in range.clone() {
                    prop_assert_eq!(subtask_of(group, max, p), subtask);
                }
                next = range.end;
            }
            prop_assert_eq!(next, max);
        }
    }
}
