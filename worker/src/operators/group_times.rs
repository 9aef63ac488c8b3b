//! Key groups whose event time had gone further than that of the subtask which now owns them: after a restore at another
//! parallelism their windows must not fire again, although the subtask goes on from the least of what its key groups had
//! reached. Pure. Must not know panes.

use super::NO_WATERMARK;
use crate::state::StateError;
use crate::state::bytes::{Reader, Writer};
use std::collections::BTreeMap;
use std::ops::Range;

/// Version of the bytes.
const VERSION: u8 = 1;

/// Event time by key group, where it is ahead of the subtask's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupTimes {
    /// By key group; [`NO_WATERMARK`] for those that are not ahead. Empty if none is.
    ahead: Vec<i64>,
    greatest_ms: i64,
}

impl GroupTimes {
    /// Those of `reached` that are ahead of `watermark_ms`.
    #[must_use]
    pub fn new(reached: &BTreeMap<u32, i64>, watermark_ms: i64) -> Self {
        let ahead = || reached.iter().filter(|(_, at)| **at > watermark_ms);
        let Some((last, _)) = ahead().next_back() else {
            return Self::default();
        };
        let mut times = Self {
            ahead: vec![NO_WATERMARK; *last as usize + 1],
            greatest_ms: NO_WATERMARK,
        };
        for (group, at) in ahead() {
            times.ahead[*group as usize] = *at;
            times.greatest_ms = times.greatest_ms.max(*at);
        }
        times
    }

    /// Whether there is nothing to heed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ahead.is_empty()
    }

    /// What a key group had reached, if it is ahead.
    #[must_use]
    pub fn of(&self, group: u32) -> i64 {
        self.ahead.get(group as usize).copied().unwrap_or(NO_WATERMARK)
    }

    /// The subtask has reached a time: once nobody is ahead of it any more, nothing is left to heed.
    pub fn advance(&mut self, watermark_ms: i64) {
        if watermark_ms >= self.greatest_ms {
            self.ahead = Vec::new();
        }
    }

    /// As bytes; none if empty.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let ahead = || (0u32..).zip(&self.ahead).filter(|(_, at)| **at != NO_WATERMARK);
        let mut out = Writer::default();
        if !self.is_empty() {
            out.u8(VERSION);
            out.u32(ahead().count() as u32);
            for (group, at) in ahead() {
                out.u32(group);
                out.i64(*at);
            }
        }
        out.out
    }

    /// Adds what [`Self::encode`] wrote to `reached`, as far as it lies in `range`.
    ///
    /// # Errors
    /// If the bytes are damaged or of another version.
    pub fn decode(
        bytes: &[u8],
        range: &Range<u32>,
        reached: &mut BTreeMap<u32, i64>,
    ) -> Result<(), StateError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let mut from = Reader::new(bytes);
        let version = from.u8()?;
        if version != VERSION {
            return Err(StateError(format!(
                "event times of version {version}; this program reads {VERSION}"
            )));
        }
        for _ in 0..from.u32()? {
            let (group, at) = (from.u32()?, from.i64()?);
            if range.contains(&group) {
                let reached = reached.entry(group).or_insert(at);
                *reached = (*reached).max(at);
            }
        }
        from.finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_is_ahead_is_kept_and_it_comes_back() {
        let reached = BTreeMap::from([(1, 50), (3, 90), (4, 20)]);
        let mut times = GroupTimes::new(&reached, 20);
        assert_eq!(
            [0, 1, 3, 4].map(|g| times.of(g)),
            [NO_WATERMARK, 50, 90, NO_WATERMARK]
        );
        let mut back = BTreeMap::from([(3, 70)]);
        GroupTimes::decode(&times.encode(), &(2..9), &mut back).unwrap();
        assert_eq!(back, BTreeMap::from([(3, 90)]));
        times.advance(89);
        assert!(!times.is_empty());
        times.advance(90);
        assert!(times.is_empty() && times.encode().is_empty());
        assert!(GroupTimes::decode(&[9, 0], &(0..9), &mut back).is_err());
        assert!(GroupTimes::new(&reached, 90).is_empty());
    }
}
