//! Arrow values as text, as Flink writes them: timestamps without trailing zeros, floating-point numbers as Java does
//! (shortest digits that read back). Pure.

use super::time;
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, PrimitiveArray, StringArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, Time32MillisecondType, Time32SecondType, Time64MicrosecondType, Time64NanosecondType,
    TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType,
};
use base64::Engine as _;
use holdfast_dataflow::connector::ConnectorError;
use std::io::Write as _;

/// Where texts differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// Timestamps with a space, bytes in base64.
    Sql,
    /// Timestamps with a `T`, bytes in base64.
    Iso8601,
    /// As Java's `toString` has it, for the `print` sink: no seconds if they are zero, fractions in groups of three digits,
    /// bytes as a list of numbers.
    Java,
}

/// One column of a batch, ready to be written.
pub(crate) struct TextColumn<'a> {
    values: Values<'a>,
    array: &'a dyn Array,
}

enum Values<'a> {
    Bool(&'a BooleanArray),
    I8(&'a PrimitiveArray<Int8Type>),
    I16(&'a PrimitiveArray<Int16Type>),
    I32(&'a PrimitiveArray<Int32Type>),
    I64(&'a PrimitiveArray<Int64Type>),
    F32(&'a PrimitiveArray<Float32Type>),
    F64(&'a PrimitiveArray<Float64Type>),
    Decimal(&'a PrimitiveArray<Decimal128Type>, u32),
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
    Date(&'a PrimitiveArray<Date32Type>),
    Time32(&'a [i32], TimeUnit),
    Time64(&'a [i64], TimeUnit),
    Timestamp(&'a [i64], TimeUnit, bool),
}

/// How a value is quoted in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Numbers and booleans stand bare.
    Bare,
    /// Text that may need escapes.
    Text,
    /// Text that never does.
    PlainText,
}

impl<'a> TextColumn<'a> {
    /// The column of an array.
    pub(crate) fn new(array: &'a ArrayRef) -> Result<Self, ConnectorError> {
        use DataType as D;
        let values = match array.data_type() {
            D::Boolean => Values::Bool(array.as_boolean()),
            D::Int8 => Values::I8(array.as_primitive()),
            D::Int16 => Values::I16(array.as_primitive()),
            D::Int32 => Values::I32(array.as_primitive()),
            D::Int64 => Values::I64(array.as_primitive()),
            D::Float32 => Values::F32(array.as_primitive()),
            D::Float64 => Values::F64(array.as_primitive()),
            D::Decimal128(_, scale) => {
                Values::Decimal(array.as_primitive(), u32::try_from(*scale).unwrap_or(0))
            }
            D::Utf8 => Values::Text(array.as_string()),
            D::Binary => Values::Bytes(array.as_binary()),
            D::Date32 => Values::Date(array.as_primitive()),
            D::Time32(TimeUnit::Second) => Values::Time32(
                array.as_primitive::<Time32SecondType>().values(),
                TimeUnit::Second,
            ),
            D::Time32(unit) => Values::Time32(array.as_primitive::<Time32MillisecondType>().values(), *unit),
            D::Time64(TimeUnit::Microsecond) => Values::Time64(
                array.as_primitive::<Time64MicrosecondType>().values(),
                TimeUnit::Microsecond,
            ),
            D::Time64(unit) => Values::Time64(array.as_primitive::<Time64NanosecondType>().values(), *unit),
            D::Timestamp(unit, zone) => Values::Timestamp(timestamps(array, *unit), *unit, zone.is_some()),
            other => {
                return Err(ConnectorError::Definition(format!(
                    "columns of type {other} cannot be written as text"
                )));
            }
        };
        Ok(Self {
            values,
            array: array.as_ref(),
        })
    }

    pub(crate) fn is_null(&self, row: usize) -> bool {
        self.array.is_null(row)
    }

    /// How JSON quotes the value.
    pub(crate) fn kind(&self, row: usize) -> Kind {
        match &self.values {
            Values::Text(_) => Kind::Text,
            Values::F32(a) if !a.value(row).is_finite() => Kind::PlainText,
            Values::F64(a) if !a.value(row).is_finite() => Kind::PlainText,
            Values::Bool(_)
            | Values::I8(_)
            | Values::I16(_)
            | Values::I32(_)
            | Values::I64(_)
            | Values::F32(_)
            | Values::F64(_)
            | Values::Decimal(..) => Kind::Bare,
            _ => Kind::PlainText,
        }
    }

    /// The text itself, for string columns.
    pub(crate) fn str(&self, row: usize) -> Option<&'a str> {
        match &self.values {
            Values::Text(array) => Some(array.value(row)),
            _ => None,
        }
    }

    /// Appends a value that is not NULL.
    pub(crate) fn write(&self, out: &mut Vec<u8>, row: usize, style: Style) {
        match &self.values {
            Values::Bool(a) => out.extend_from_slice(if a.value(row) { b"true" } else { b"false" }),
            Values::I8(a) => write_integer(out, i64::from(a.value(row))),
            Values::I16(a) => write_integer(out, i64::from(a.value(row))),
            Values::I32(a) => write_integer(out, i64::from(a.value(row))),
            Values::I64(a) => write_integer(out, a.value(row)),
            Values::F32(a) => write_float(out, &format!("{:e}", a.value(row)), f64::from(a.value(row))),
            Values::F64(a) => write_float(out, &format!("{:e}", a.value(row)), a.value(row)),
            Values::Decimal(a, scale) => write_decimal(out, a.value(row), *scale),
            Values::Text(a) => out.extend_from_slice(a.value(row).as_bytes()),
            Values::Bytes(a) => write_bytes(out, a.value(row), style),
            Values::Date(a) => time::write_date(out, i64::from(a.value(row))),
            Values::Time32(v, unit) => write_time(out, i64::from(v[row]), *unit, style),
            Values::Time64(v, unit) => write_time(out, v[row], *unit, style),
            Values::Timestamp(v, unit, zoned) => write_timestamp(out, v[row], *unit, *zoned, style),
        }
    }
}

fn timestamps(array: &ArrayRef, unit: TimeUnit) -> &[i64] {
    match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    }
}

fn write_integer(out: &mut Vec<u8>, value: i64) {
    let mut buffer = [0u8; lexical_core::BUFFER_SIZE];
    out.extend_from_slice(lexical_core::write(value, &mut buffer));
}

/// `scientific` is Rust's shortest form like `-1.25e-7`; Java writes plain digits between 1e-3 and 1e7.
fn write_float(out: &mut Vec<u8>, scientific: &str, value: f64) {
    if !value.is_finite() {
        let text: &[u8] = if value.is_nan() {
            b"NaN"
        } else if value > 0.0 {
            b"Infinity"
        } else {
            b"-Infinity"
        };
        out.extend_from_slice(text);
        return;
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let mantissa = match mantissa.strip_prefix('-') {
        Some(rest) => {
            out.push(b'-');
            rest
        }
        None => mantissa,
    };
    let digits: Vec<u8> = mantissa.bytes().filter(u8::is_ascii_digit).collect();
    if value == 0.0 {
        out.extend_from_slice(b"0.0");
    } else if (-3..7).contains(&exponent) {
        write_plain(out, &digits, exponent);
    } else {
        out.push(digits[0]);
        out.push(b'.');
        out.extend_from_slice(if digits.len() > 1 { &digits[1..] } else { b"0" });
        let _ = write!(out, "E{exponent}");
    }
}

fn write_plain(out: &mut Vec<u8>, digits: &[u8], exponent: i32) {
    let whole = usize::try_from(exponent + 1).unwrap_or(0);
    if whole == 0 {
        out.extend_from_slice(b"0.");
        let zeros = usize::try_from(-exponent - 1).unwrap_or(0);
        out.resize(out.len() + zeros, b'0');
        out.extend_from_slice(digits);
        return;
    }
    let head = whole.min(digits.len());
    out.extend_from_slice(&digits[..head]);
    out.resize(out.len() + whole - head, b'0');
    out.push(b'.');
    out.extend_from_slice(if digits.len() > whole {
        &digits[whole..]
    } else {
        b"0"
    });
}

fn write_decimal(out: &mut Vec<u8>, value: i128, scale: u32) {
    let digits = value.unsigned_abs().to_string();
    let scale = scale as usize;
    if value < 0 {
        out.push(b'-');
    }
    if scale == 0 {
        out.extend_from_slice(digits.as_bytes());
        return;
    }
    let padded = format!("{digits:0>width$}", width = scale + 1);
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    out.extend_from_slice(whole.as_bytes());
    out.push(b'.');
    out.extend_from_slice(fraction.as_bytes());
}

fn write_bytes(out: &mut Vec<u8>, value: &[u8], style: Style) {
    if style == Style::Java {
        let list: Vec<String> = value.iter().map(|b| b.cast_signed().to_string()).collect();
        let _ = write!(out, "[{}]", list.join(", "));
    } else {
        let text = base64::engine::general_purpose::STANDARD.encode(value);
        out.extend_from_slice(text.as_bytes());
    }
}

fn write_time(out: &mut Vec<u8>, value: i64, unit: TimeUnit, style: Style) {
    let (seconds, nanos) = time::from_unit(value, unit);
    let seconds = u32::try_from(seconds).unwrap_or(0);
    let start = out.len();
    time::write_time(out, seconds, nanos);
    if style == Style::Java {
        like_java(out, start, false);
    }
}

fn write_timestamp(out: &mut Vec<u8>, value: i64, unit: TimeUnit, zoned: bool, style: Style) {
    let separator = if style == Style::Sql { b' ' } else { b'T' };
    let start = out.len();
    time::write_timestamp(out, value, unit, separator);
    if style == Style::Java {
        like_java(out, start, zoned);
    }
    if zoned {
        out.push(b'Z');
    }
}

/// Turns `…HH:mm:ss[.f]` at the end of `out` into Java's form.
fn like_java(out: &mut Vec<u8>, start: usize, keep_seconds: bool) {
    match out[start..].iter().rposition(|b| *b == b'.') {
        Some(dot) => {
            let digits = out.len() - start - dot - 1;
            out.resize(out.len() + (3 - digits % 3) % 3, b'0');
        }
        None if !keep_seconds && out.ends_with(b":00") => out.truncate(out.len() - 3),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn float(value: f64) -> String {
        let mut out = Vec::new();
        write_float(&mut out, &format!("{value:e}"), value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn floats_look_like_java() {
        for (value, text) in [
            (12.0, "12.0"),
            (-0.5, "-0.5"),
            (0.001, "0.001"),
            (0.00012, "1.2E-4"),
            (1e7, "1.0E7"),
            (9_999_999.5, "9999999.5"),
            (123_456.0, "123456.0"),
            (-0.0, "-0.0"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn decimals_keep_their_scale() {
        for (value, scale, text) in [
            (5i128, 2, "0.05"),
            (-12345, 2, "-123.45"),
            (7, 0, "7"),
            (0, 3, "0.000"),
        ] {
            let mut out = Vec::new();
            write_decimal(&mut out, value, scale);
            assert_eq!(String::from_utf8(out).unwrap(), text);
        }
    }

    #[test]
    fn java_timestamps() {
        let java = |value: i64, zoned: bool| {
            let mut out = Vec::new();
            write_timestamp(&mut out, value, TimeUnit::Millisecond, zoned, Style::Java);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(java(1_357_017_300_000, false), "2013-01-01T05:15");
        assert_eq!(java(1_357_017_300_000, true), "2013-01-01T05:15:00Z");
        assert_eq!(java(1_357_017_301_250, false), "2013-01-01T05:15:01.250");
    }

    proptest! {
        #[test]
        fn floats_read_back(value in any::<f64>()) {
            let back: f64 = float(value).parse().unwrap();
            prop_assert!(back == value || (back.is_nan() && value.is_nan()));
        }
    }
}
