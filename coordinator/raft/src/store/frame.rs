//! A record of a key-value log store: version (1 byte), crc32c of the body (4, little-endian), body.

use std::io;

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 5;

pub(super) fn seal(body: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD_BYTES + body.len());
    record.push(VERSION);
    record.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    record.extend_from_slice(body);
    record
}

pub(super) fn open<'a>(what: &str, record: &'a [u8]) -> io::Result<&'a [u8]> {
    let damaged = |why: &str| {
        Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{what}: {why}"),
        ))
    };
    let Some((head, body)) = record.split_at_checked(HEAD_BYTES) else {
        return damaged("the record is cut short");
    };
    if head[0] != VERSION {
        return damaged("the record has another version than this build reads");
    }
    if head[1..] != crc32c::crc32c(body).to_le_bytes() {
        return damaged("the record's checksum does not hold");
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_record_is_whole_or_refused() {
        let record = seal(b"abc");
        assert_eq!(open("r", &record).unwrap(), b"abc");
        for bit in 0..record.len() * 8 {
            let mut bad = record.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(open("r", &bad).is_err(), "bit {bit}");
        }
        for end in 0..record.len() {
            assert!(open("r", &record[..end]).is_err(), "cut at {end}");
        }
    }
}
