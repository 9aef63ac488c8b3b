//! The manifest's form on disk. Pure; knows no store.
//!
//! ```text
//! "HFM1" | version: u32 LE | protobuf body | crc32c of all before: u32 LE
//! ```

use crate::StorageError;
use bytes::{BufMut, Bytes, BytesMut};
use holdfast_proto::snapshot::Manifest;
use prost::Message;
use sha2::{Digest, Sha256};

/// The version that this build writes; it reads no other.
pub const MANIFEST_VERSION: u32 = 1;

const MAGIC: &[u8; 4] = b"HFM1";
const HEADER_BYTES: usize = 8;
const TRAILER_BYTES: usize = 4;

/// The manifest as an object.
#[must_use]
pub fn manifest_encode(manifest: &Manifest) -> Bytes {
    let body = manifest.encode_to_vec();
    let mut out = BytesMut::with_capacity(HEADER_BYTES + body.len() + TRAILER_BYTES);
    out.put_slice(MAGIC);
    out.put_u32_le(MANIFEST_VERSION);
    out.put_slice(&body);
    let crc = crc32c::crc32c(&out);
    out.put_u32_le(crc);
    out.freeze()
}

/// The digest that the replicated log holds of a manifest.
#[must_use]
pub fn manifest_sha256(encoded: &[u8]) -> [u8; 32] {
    Sha256::digest(encoded).into()
}

/// Reads [`manifest_encode`]'s form back.
///
/// # Errors
/// [`StorageError::Damaged`] if digest, magic, checksum or body do not fit; [`StorageError::Invalid`] if it is whole but
/// of another version.
pub fn manifest_decode(encoded: &[u8], expected_sha256: Option<[u8; 32]>) -> Result<Manifest, StorageError> {
    if expected_sha256.is_some_and(|expected| expected != manifest_sha256(encoded)) {
        return Err(damaged("its sha256 is not the one in the replicated log".into()));
    }
    if encoded.len() < HEADER_BYTES + TRAILER_BYTES {
        return Err(damaged(format!("{} bytes are too short", encoded.len())));
    }
    let (covered, trailer) = encoded.split_at(encoded.len() - TRAILER_BYTES);
    let (header, body) = covered.split_at(HEADER_BYTES);
    let (magic, version) = header.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(damaged("it does not begin with HFM1".into()));
    }
    let (computed, stored) = (crc32c::crc32c(covered), u32_le(trailer));
    if computed != stored {
        return Err(damaged(format!(
            "checksum {computed:08x} instead of {stored:08x}"
        )));
    }
    let version = u32_le(version);
    if version != MANIFEST_VERSION {
        return Err(StorageError::Invalid(format!(
            "manifest of version {version}: this build reads version {MANIFEST_VERSION} only; use the release that wrote it"
        )));
    }
    Manifest::decode(body).map_err(|e| damaged(format!("its body does not parse: {e}")))
}

fn u32_le(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| (value << 8) | u32::from(*byte))
}

fn damaged(reason: String) -> StorageError {
    StorageError::Damaged {
        path: "manifest".to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn sample(checkpoint: u64, text: String) -> Manifest {
        Manifest {
            job_id: vec![7; 16].into(),
            checkpoint,
            plan_fingerprint: text,
            ..Manifest::default()
        }
    }

    #[test]
    fn another_version_is_refused_as_such() {
        let mut bytes = manifest_encode(&sample(1, "x".into())).to_vec();
        bytes[4] = 2;
        let end = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..end]);
        bytes[end..].copy_from_slice(&crc.to_le_bytes());
        let error = manifest_decode(&bytes, None).unwrap_err();
        assert!(
            matches!(&error, StorageError::Invalid(m) if m.contains("version 2")),
            "{error}"
        );
    }

    #[test]
    fn a_whole_manifest_with_another_digest_is_refused() {
        let bytes = manifest_encode(&sample(1, "x".into()));
        let other = manifest_sha256(&manifest_encode(&sample(2, "x".into())));
        assert!(manifest_decode(&bytes, Some(manifest_sha256(&bytes))).is_ok());
        assert!(matches!(
            manifest_decode(&bytes, Some(other)),
            Err(StorageError::Damaged { .. })
        ));
    }

    proptest! {
        #[test]
        fn reads_back_and_notices_every_flipped_bit_and_every_cut(
            checkpoint in any::<u64>(), text in ".{0,40}", at in any::<prop::sample::Index>(), bit in 0u8..8
        ) {
            let manifest = sample(checkpoint, text);
            let bytes = manifest_encode(&manifest);
            prop_assert_eq!(manifest_decode(&bytes, None).unwrap(), manifest);
            let position = at.index(bytes.len());
            let mut flipped = bytes.to_vec();
            flipped[position] ^= 1 << bit;
            prop_assert!(manifest_decode(&flipped, None).is_err());
            prop_assert!(manifest_decode(&bytes[..position], None).is_err());
        }
    }
}
