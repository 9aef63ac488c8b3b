//! Where a file split goes on, and how to notice that the file is no longer the one that was read. Pure.

use holdfast_dataflow::connector::ConnectorError;

const VERSION: u8 = 1;
const ENCODED_BYTES: usize = 1 + 4 * 8 + 1 + 2 + 4;
/// Bytes before the position that are remembered by their checksum.
pub(super) const TAIL_BYTES: u16 = 1024;

/// Position of the next record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// Offset in the (decompressed) content, at the beginning of a record.
    pub offset: u64,
    /// Line there; the first is 1.
    pub line: u64,
    /// The file's size when it was last looked at.
    pub size: u64,
    /// The file's modification time then, in nanoseconds.
    pub mtime_ns: i64,
    /// The split ended without a line end.
    pub mid_line: bool,
    /// Length and checksum of the bytes just before the offset, of an uncompressed file.
    pub tail: Option<(u16, u32)>,
}

impl Default for Position {
    fn default() -> Self {
        Self {
            offset: 0,
            line: 1,
            size: 0,
            mtime_ns: 0,
            mid_line: false,
            tail: None,
        }
    }
}

impl Position {
    /// The form that checkpoints hold.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(ENCODED_BYTES);
        out.push(VERSION);
        for number in [self.offset, self.line, self.size, self.mtime_ns.cast_unsigned()] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(u8::from(self.mid_line) | u8::from(self.tail.is_some()) << 1);
        let (length, crc) = self.tail.unwrap_or_default();
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads [`Self::encode`]'s form.
    pub(super) fn decode(split: &str, bytes: &[u8]) -> Result<Self, ConnectorError> {
        let wrong = |reason: &str| ConnectorError::Conflict(format!("position of split '{split}': {reason}"));
        if bytes.first() != Some(&VERSION) {
            return Err(wrong("written by another version"));
        }
        if bytes.len() != ENCODED_BYTES {
            return Err(wrong("it has the wrong length"));
        }
        let number = |at: usize, width: usize| {
            bytes[at..at + width]
                .iter()
                .rev()
                .fold(0u64, |value, byte| (value << 8) | u64::from(*byte))
        };
        let flags = bytes[33];
        let tail_length = u16::try_from(number(34, 2)).unwrap_or(0);
        let tail_crc = u32::try_from(number(36, 4)).unwrap_or(0);
        Ok(Self {
            offset: number(1, 8),
            line: number(9, 8),
            size: number(17, 8),
            mtime_ns: number(25, 8).cast_signed(),
            mid_line: flags & 1 != 0,
            tail: (flags & 2 != 0).then_some((tail_length, tail_crc)),
        })
    }
}

/// The file that a split belongs to: continuations of a file that grew are called `name//offset`.
pub(super) fn file_of(split: &str) -> &str {
    split.split_once("//").map_or(split, |(name, _)| name)
}

/// The subtask that reads a file, a pure function of its name.
pub(super) fn owner(name: &str, parallelism: u32) -> u32 {
    let hash = xxhash_rust::xxh3::xxh3_64(name.as_bytes());
    u32::try_from(hash % u64::from(parallelism.max(1))).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn positions_read_back(
            offset in any::<u64>(), line in any::<u64>(), size in any::<u64>(), mtime_ns in any::<i64>(),
            mid_line in any::<bool>(), tail in any::<Option<(u16, u32)>>()
        ) {
            let position = Position { offset, line, size, mtime_ns, mid_line, tail };
            let bytes = position.encode();
            prop_assert_eq!(Position::decode("x", &bytes).unwrap(), position);
            prop_assert!(Position::decode("x", &bytes[..bytes.len() - 1]).is_err());
        }
    }

    #[test]
    fn a_continuation_belongs_to_its_file() {
        assert_eq!(file_of("a/b.csv//17"), "a/b.csv");
        assert_eq!(owner(file_of("a/b.csv//17"), 7), owner("a/b.csv", 7));
    }
}
