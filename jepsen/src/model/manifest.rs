//! The manifest of a checkpoint, read without the product's code: a few fields of a protobuf message behind a magic number.
//!
//! `"HFM1" | version: u32 LE | body | crc32c of all before: u32 LE`. Varints and length-delimited fields as in the
//! protobuf encoding guide; CRC-32C is RFC 3720's (Castagnoli).

/// An object that a manifest refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// Its path below the snapshot storage's root.
    pub path: String,
    /// Its length.
    pub size: u64,
    /// Its checksum.
    pub crc32c: u32,
}

/// What the checkers ask of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The checkpoint.
    pub checkpoint: u64,
    /// The attempt.
    pub attempt: u64,
    /// The leader's epoch.
    pub epoch: u64,
    /// All objects that it needs.
    pub objects: Vec<Object>,
}

/// CRC-32C of some bytes.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut table = [0_u32; 256];
    for (byte, entry) in (0_u32..).zip(table.iter_mut()) {
        *entry = (0..8).fold(byte, |crc, _| {
            (crc >> 1) ^ (0x82f6_3b78 & 0_u32.wrapping_sub(crc & 1))
        });
    }
    let crc = bytes.iter().fold(!0_u32, |crc, byte| {
        let at = (crc ^ u32::from(*byte)) & 0xff;
        (crc >> 8) ^ table[at as usize]
    });
    !crc
}

/// A field of a protobuf message.
enum Field<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn take<'b>(bytes: &mut &'b [u8], len: usize) -> Option<&'b [u8]> {
    let (head, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(head)
}

fn number_le(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u64::from(*byte))
}

fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    let mut fields = Vec::new();
    while !bytes.is_empty() {
        let tag = varint(&mut bytes)?;
        let field = match tag & 7 {
            0 => Field::Number(varint(&mut bytes)?),
            1 => Field::Number(number_le(take(&mut bytes, 8)?)),
            2 => {
                let len = usize::try_from(varint(&mut bytes)?).ok()?;
                Field::Bytes(take(&mut bytes, len)?)
            }
            5 => Field::Number(number_le(take(&mut bytes, 4)?)),
            _ => return None,
        };
        fields.push((tag >> 3, field));
    }
    Some(fields)
}

fn object(bytes: &[u8]) -> Option<Object> {
    let mut object = Object {
        path: String::new(),
        size: 0,
        crc32c: 0,
    };
    for field in fields(bytes)? {
        match field {
            (1, Field::Bytes(path)) => object.path = String::from_utf8(path.to_vec()).ok()?,
            (2, Field::Number(size)) => object.size = size,
            (3, Field::Number(crc)) => object.crc32c = u32::try_from(crc).ok()?,
            _ => {}
        }
    }
    Some(object)
}

/// Objects of a vertex: field 4 holds the parts, whose field 2 is the object.
fn objects(vertex: &[u8]) -> Option<Vec<Object>> {
    let mut found = Vec::new();
    for field in fields(vertex)? {
        let (4, Field::Bytes(part)) = field else { continue };
        for field in fields(part)? {
            if let (2, Field::Bytes(bytes)) = field {
                found.push(object(bytes)?);
            }
        }
    }
    Some(found)
}

/// Reads a manifest.
///
/// # Errors
/// In words, if it is damaged.
pub fn read(bytes: &[u8]) -> Result<Manifest, String> {
    let (covered, trailer) = bytes
        .split_at_checked(bytes.len().saturating_sub(4))
        .unwrap_or_default();
    let body = covered.strip_prefix(b"HFM1").and_then(|rest| rest.get(4..));
    let body = body.ok_or_else(|| format!("{} bytes that do not begin as a manifest", bytes.len()))?;
    let (computed, stored) = (crc32c(covered), number_le(trailer));
    if u64::from(computed) != stored {
        return Err(format!("checksum {computed:08x} instead of {stored:08x}"));
    }
    let parse = || {
        let mut manifest = Manifest::default();
        for field in fields(body)? {
            match field {
                (3, Field::Number(n)) => manifest.checkpoint = n,
                (4, Field::Number(n)) => manifest.attempt = n,
                (5, Field::Number(n)) => manifest.epoch = n,
                (12, Field::Bytes(vertex)) => manifest.objects.extend(objects(vertex)?),
                _ => {}
            }
        }
        Some(manifest)
    };
    parse().ok_or_else(|| "its body does not parse".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_checksum_is_castagnoli_s() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn a_manifest_is_read_and_a_flipped_bit_is_noticed() {
        let mut bytes = b"HFM1\x01\0\0\0".to_vec();
        // checkpoint 7, attempt 300, epoch 5, one vertex with one part "a" of 9 bytes.
        bytes.extend([0x18, 7, 0x20, 0xac, 2, 0x28, 5]);
        let part = [0x12, 7, 0x0a, 1, b'a', 0x10, 9, 0x18, 3];
        bytes.extend([0x62, 11, 0x22, 9]);
        bytes.extend(part);
        let crc = crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        let object = Object {
            path: "a".into(),
            size: 9,
            crc32c: 3,
        };
        let expected = Manifest {
            checkpoint: 7,
            attempt: 300,
            epoch: 5,
            objects: vec![object],
        };
        assert_eq!(read(&bytes).unwrap(), expected);
        bytes[12] ^= 1;
        assert!(read(&bytes).is_err());
        assert!(read(b"").is_err() && read(b"HFM1").is_err());
    }
}
