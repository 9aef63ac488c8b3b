//! The canonical byte form of keys: versioned, order preserving, ours, and safe to keep on disk.
//!
//! Every field starts with one byte, 0 for NULL and 1 otherwise; the value follows. Integers are big-endian with the
//! sign bit flipped; floats are mapped to their total order with one zero and one NaN; strings and bytes are escaped
//! (0x00 → 0x00 0xFF) and closed by 0x00 0x00, so that concatenated fields compare field by field.

/// Names the codec in manifests; a restore refuses another one.
pub const KEY_CODEC_VERSION: u32 = 1;

/// Appends a NULL field.
pub fn put_null(out: &mut Vec<u8>) {
    out.push(0);
}

/// Appends a signed integer of any width (also dates, times and timestamps in their own unit).
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.push(1);
    out.extend_from_slice(&((value as u64) ^ (1 << 63)).to_be_bytes());
}

/// Appends a boolean.
pub fn put_bool(out: &mut Vec<u8>, value: bool) {
    out.extend_from_slice(&[1, u8::from(value)]);
}

/// Appends a decimal's unscaled value; the scale belongs to the column.
pub fn put_i128(out: &mut Vec<u8>, value: i128) {
    out.push(1);
    out.extend_from_slice(&((value as u128) ^ (1 << 127)).to_be_bytes());
}

/// Appends a float; -0.0 equals 0.0 and all NaNs are one value, greater than all others.
pub fn put_f64(out: &mut Vec<u8>, value: f64) {
    let value = if value.is_nan() {
        f64::NAN
    } else if value == 0.0 {
        0.0
    } else {
        value
    };
    let bits = value.to_bits();
    let ordered = if bits >> 63 == 1 { !bits } else { bits ^ (1 << 63) };
    out.push(1);
    out.extend_from_slice(&ordered.to_be_bytes());
}

/// Appends a string or byte string.
pub fn put_bytes(out: &mut Vec<u8>, value: &[u8]) {
    out.push(1);
    for &byte in value {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn enc(f: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        f(&mut out);
        out
    }

    proptest! {
        #[test]
        fn integers_keep_their_order(a: i64, b: i64) {
            prop_assert_eq!(enc(|o| put_i64(o, a)).cmp(&enc(|o| put_i64(o, b))), a.cmp(&b));
        }

        #[test]
        fn strings_keep_their_order_field_by_field(a: Vec<u8>, b: Vec<u8>, x: i64, y: i64) {
            let left = enc(|o| { put_bytes(o, &a); put_i64(o, x) });
            let right = enc(|o| { put_bytes(o, &b); put_i64(o, y) });
            prop_assert_eq!(left.cmp(&right), (a, x).cmp(&(b, y)));
        }

        #[test]
        fn floats_keep_their_order(a: f64, b: f64) {
            prop_assume!(!a.is_nan() && !b.is_nan());
            let order = a.partial_cmp(&b).expect("no NaN");
            prop_assert_eq!(enc(|o| put_f64(o, a)).cmp(&enc(|o| put_f64(o, b))), order);
        }
    }

    #[test]
    fn zeros_and_nans_are_one_key_each() {
        assert_eq!(enc(|o| put_f64(o, 0.0)), enc(|o| put_f64(o, -0.0)));
        assert_eq!(enc(|o| put_f64(o, f64::NAN)), enc(|o| put_f64(o, -f64::NAN)));
    }
}
