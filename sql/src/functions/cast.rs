//! CAST and TRY_CAST with Flink's rules: strings are trimmed before they are read, integers wrap and floats saturate
//! when they are narrowed, a decimal that does not fit is NULL, a text that is no value fails (or is NULL in TRY_CAST).

use super::java_time::{self, parse_date, parse_time, parse_timestamp};
use super::text::fit;
use super::{Call, Evaluated, Native, string_at, time};
use crate::types::{self, Length, SqlType};
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, Float32Array, Float64Array,
    Int8Array, Int16Array, Int32Array, Int64Array, StringArray,
};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{
    DataType, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
};
use chrono::{DateTime, NaiveDateTime};
use std::sync::Arc;

/// The cast to a type.
pub(crate) fn cast(from: &DataType, to: &SqlType, is_try: bool) -> Native {
    let (kind, length) = match to.length {
        None => (0, 0),
        Some(Length::Fixed(n)) => (1, n),
        Some(Length::Max(n)) => (2, n),
    };
    let name = match to.length {
        None => types::name(&to.data),
        Some(Length::Fixed(n)) => format!("CHAR({n})"),
        Some(Length::Max(n)) => format!("VARCHAR({n})"),
    };
    Native::new(
        if is_try { "TRY_CAST" } else { "CAST" },
        to.data.clone(),
        evaluate,
    )
    .params(vec![
        i64::from(is_try),
        kind,
        i64::try_from(length).unwrap_or(i64::MAX),
    ])
    .text(name)
    .fallible(!is_try && *from == DataType::Utf8 && to.data != DataType::Utf8)
}

fn evaluate(call: &Call<'_>) -> Evaluated {
    let is_try = call.params[0] == 1;
    let array = &call.args[0];
    let out = match (array.data_type(), call.result) {
        (from, to) if from == to => Arc::clone(array),
        (DataType::Null, to) => arrow::array::new_null_array(to, call.rows),
        (DataType::Utf8, to) => from_text(array, to, is_try)?,
        (_, DataType::Utf8) => to_text(array)?,
        (from, to) if types::is_integer(from) && types::implicit(from, to) => arrow_cast(array, to, true)?,
        (from, to) if types::is_numeric(from) && types::is_integer(to) => to_integer(array, to)?,
        (from, DataType::Boolean) if types::is_numeric(from) => to_boolean(array)?,
        (_, to @ DataType::Decimal128(..)) => arrow_cast(array, to, true)?,
        (from, to) if types::is_temporal(from) && types::is_temporal(to) => {
            time::from_instants((0..array.len()).map(|i| time::instant_at(array, i)), to)?
        }
        (_, to) => arrow_cast(array, to, is_try)?,
    };
    Ok(match (call.params[1], usize::try_from(call.params[2])) {
        (1, Ok(length)) => fit(&out, true, length),
        (2, Ok(length)) => fit(&out, false, length),
        _ => out,
    })
}

fn arrow_cast(array: &ArrayRef, to: &DataType, safe: bool) -> Evaluated {
    let options = CastOptions {
        safe,
        ..CastOptions::default()
    };
    cast_with_options(array, to, &options).map_err(|e| e.to_string())
}

/// Reads every string; one that is no value fails, or is NULL with `is_try`.
fn read<T>(
    array: &ArrayRef,
    to: &DataType,
    is_try: bool,
    f: impl Fn(&str) -> Option<T>,
) -> Result<Vec<Option<T>>, String> {
    let mut out = Vec::with_capacity(array.len());
    for i in 0..array.len() {
        let Some(text) = string_at(array, i) else {
            out.push(None);
            continue;
        };
        let value = f(text.trim());
        if value.is_none() && !is_try {
            return Err(format!("'{text}' is no {}", types::name(to)));
        }
        out.push(value);
    }
    Ok(out)
}

fn from_text(array: &ArrayRef, to: &DataType, is_try: bool) -> Evaluated {
    let instants = |f: fn(&str) -> Option<NaiveDateTime>| {
        read(array, to, is_try, f).and_then(|values| time::from_instants(values.into_iter(), to))
    };
    Ok(match to {
        DataType::Boolean => Arc::new(BooleanArray::from(read(array, to, is_try, parse_bool)?)),
        DataType::Int8 => Arc::new(Int8Array::from(read(array, to, is_try, parse_integer)?)),
        DataType::Int16 => Arc::new(Int16Array::from(read(array, to, is_try, parse_integer)?)),
        DataType::Int32 => Arc::new(Int32Array::from(read(array, to, is_try, parse_integer)?)),
        DataType::Int64 => Arc::new(Int64Array::from(read(array, to, is_try, parse_integer)?)),
        DataType::Float32 => Arc::new(Float32Array::from(read(array, to, is_try, |t| t.parse().ok())?)),
        DataType::Float64 => Arc::new(Float64Array::from(read(array, to, is_try, |t| t.parse().ok())?)),
        DataType::Decimal128(p, s) => {
            let values = read(array, to, is_try, |t| parse_decimal(t, *p, *s))?;
            Arc::new(
                Decimal128Array::from_iter(values.into_iter().map(Option::flatten))
                    .with_data_type(to.clone()),
            )
        }
        DataType::Binary => Arc::new(
            array
                .as_string::<i32>()
                .iter()
                .map(|t| t.map(str::as_bytes))
                .collect::<BinaryArray>(),
        ),
        DataType::Date32 => instants(|t| {
            let date = t.split_once([' ', 'T']).map_or(t, |(date, _)| date);
            Some(parse_date(date)?.and_time(chrono::NaiveTime::MIN))
        })?,
        DataType::Time32(_) => instants(|t| {
            let clock = t.split_once([' ', 'T']).map_or(t, |(_, clock)| clock);
            Some(DateTime::UNIX_EPOCH.date_naive().and_time(parse_time(clock)?))
        })?,
        DataType::Timestamp(..) => instants(parse_timestamp)?,
        other => return Err(format!("a string cannot become {}", types::name(other))),
    })
}

fn parse_bool(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "t" | "true" | "y" | "yes" | "1" => Some(true),
        "f" | "false" | "n" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// A whole number; a fraction is checked and cut off.
fn parse_integer<T: std::str::FromStr>(text: &str) -> Option<T> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    whole.parse().ok()
}

/// A decimal at a scale, rounded half away from zero: `None` if the text is no number, `Some(None)` if the number does
/// not fit.
fn parse_decimal(text: &str, precision: u8, scale: i8) -> Option<Option<i128>> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (negative, digits) = match mantissa.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, mantissa.strip_prefix('+').unwrap_or(mantissa)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    if all.is_empty() || !all.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let keep = i64::try_from(whole.len()).ok()? + i64::from(exponent) + i64::from(scale);
    Some(unscaled(&all, keep, negative).filter(|v| v.unsigned_abs() < 10u128.pow(u32::from(precision))))
}

/// The first `keep` digits as a number (zeros are appended), rounded by the next one.
fn unscaled(digits: &str, keep: i64, negative: bool) -> Option<i128> {
    let significant = digits.trim_start_matches('0');
    let keep = keep - (digits.len() - significant.len()) as i64;
    let value = if significant.is_empty() || keep < 0 {
        0
    } else {
        let keep = usize::try_from(keep).ok()?;
        if keep > 39 {
            return None;
        }
        let head: String = significant
            .chars()
            .chain(std::iter::repeat('0'))
            .take(keep)
            .collect();
        let value: i128 = if head.is_empty() { 0 } else { head.parse().ok()? };
        let up = significant.as_bytes().get(keep).is_some_and(|d| *d >= b'5');
        value + i128::from(up)
    };
    Some(if negative { -value } else { value })
}

/// The value of every row as text.
fn to_text(array: &ArrayRef) -> Evaluated {
    let rows = 0..array.len();
    let texts: StringArray = match array.data_type() {
        DataType::Boolean => array
            .as_boolean()
            .iter()
            .map(|b| b.map(|b| if b { "TRUE" } else { "FALSE" }))
            .collect(),
        DataType::Float32 => array
            .as_primitive::<Float32Type>()
            .iter()
            .map(|x| x.map(|x| java_double(&format!("{x:e}"), f64::from(x))))
            .collect(),
        DataType::Float64 => array
            .as_primitive::<Float64Type>()
            .iter()
            .map(|x| x.map(|x| java_double(&format!("{x:e}"), x)))
            .collect(),
        DataType::Timestamp(unit, _) => rows
            .map(|i| {
                time::instant_at(array, i).map(|at| java_time::format_timestamp(at, types::precision(*unit)))
            })
            .collect(),
        DataType::Date32 => rows
            .map(|i| time::instant_at(array, i).map(|at| at.date().to_string()))
            .collect(),
        DataType::Time32(_) => rows
            .map(|i| time::instant_at(array, i).map(|at| java_time::format_time(at.time(), 0)))
            .collect(),
        DataType::Binary => array
            .as_binary::<i32>()
            .iter()
            .map(|b| b.map(|b| String::from_utf8_lossy(b).into_owned()))
            .collect(),
        _ => return arrow_cast(array, &DataType::Utf8, false),
    };
    Ok(Arc::new(texts))
}

/// A double as Java writes it, from its shortest scientific form: `0.1`, `100.0`, `1.0E10`.
fn java_double(scientific: &str, value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    let magnitude = value.abs();
    if magnitude == 0.0 || (1e-3..1e7).contains(&magnitude) {
        let plain = plain_form(scientific);
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let point = if mantissa.contains('.') { "" } else { ".0" };
    format!("{mantissa}{point}E{exponent}")
}

/// `1.25e2` as `125`.
fn plain_form(scientific: &str) -> String {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    let point = whole.len() as i32 + exponent;
    if point <= 0 {
        let zeros = "0".repeat(point.unsigned_abs() as usize);
        return format!("{sign}0.{zeros}{digits}");
    }
    let point = point.unsigned_abs() as usize;
    if point >= digits.len() {
        format!("{sign}{digits:0<point$}")
    } else {
        format!("{sign}{}.{}", &digits[..point], &digits[point..])
    }
}

/// Numbers as integers: Java's narrowing.
fn to_integer(array: &ArrayRef, to: &DataType) -> Evaluated {
    let wide: Vec<Option<i64>> = match array.data_type() {
        DataType::Int8 => array
            .as_primitive::<Int8Type>()
            .iter()
            .map(|x| x.map(i64::from))
            .collect(),
        DataType::Int16 => array
            .as_primitive::<Int16Type>()
            .iter()
            .map(|x| x.map(i64::from))
            .collect(),
        DataType::Int32 => array
            .as_primitive::<Int32Type>()
            .iter()
            .map(|x| x.map(i64::from))
            .collect(),
        DataType::Int64 => array.as_primitive::<Int64Type>().iter().collect(),
        DataType::Float32 => array
            .as_primitive::<Float32Type>()
            .iter()
            .map(|x| x.map(|x| saturate(f64::from(x), to)))
            .collect(),
        DataType::Float64 => array
            .as_primitive::<Float64Type>()
            .iter()
            .map(|x| x.map(|x| saturate(x, to)))
            .collect(),
        DataType::Decimal128(_, s) => {
            let one = 10i128.pow(u32::from(s.unsigned_abs()));
            array
                .as_primitive::<Decimal128Type>()
                .iter()
                .map(|x| x.map(|x| (x / one) as i64))
                .collect()
        }
        other => return Err(format!("{other} is no number")),
    };
    let wide = wide.into_iter();
    Ok(match to {
        DataType::Int8 => Arc::new(wide.map(|x| x.map(|x| x as i8)).collect::<Int8Array>()),
        DataType::Int16 => Arc::new(wide.map(|x| x.map(|x| x as i16)).collect::<Int16Array>()),
        DataType::Int32 => Arc::new(wide.map(|x| x.map(|x| x as i32)).collect::<Int32Array>()),
        _ => Arc::new(wide.collect::<Int64Array>()),
    })
}

fn saturate(x: f64, to: &DataType) -> i64 {
    if *to == DataType::Int64 {
        x as i64
    } else {
        i64::from(x as i32)
    }
}

fn to_boolean(array: &ArrayRef) -> Evaluated {
    let doubles = arrow_cast(array, &DataType::Float64, false)?;
    let values: BooleanArray = doubles
        .as_primitive::<Float64Type>()
        .iter()
        .map(|x| x.map(|x| x != 0.0))
        .collect();
    Ok(Arc::new(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_as_java_writes_them() {
        for (value, expected) in [
            (0.1, "0.1"),
            (100.0, "100.0"),
            (-0.001, "-0.001"),
            (1e7, "1.0E7"),
            (1.5e-5, "1.5E-5"),
            (123_456.789, "123456.789"),
            (0.0, "0.0"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ] {
            assert_eq!(java_double(&format!("{value:e}"), value), expected);
        }
    }

    #[test]
    fn decimals_are_read_and_rounded() {
        assert_eq!(parse_decimal("1.255", 5, 2), Some(Some(126)));
        assert_eq!(parse_decimal("-0.005", 5, 2), Some(Some(-1)));
        assert_eq!(parse_decimal("12e2", 5, 2), Some(None));
        assert_eq!(parse_decimal("12e1", 5, 2), Some(Some(12000)));
        assert_eq!(parse_decimal("abc", 5, 2), None);
        assert_eq!(parse_decimal("", 5, 2), None);
        assert_eq!(parse_decimal("0.001", 5, 2), Some(Some(0)));
    }

    #[test]
    fn integers_are_read_with_their_fraction_cut_off() {
        assert_eq!(parse_integer::<i32>("42.9"), Some(42));
        assert_eq!(parse_integer::<i32>("42.x"), None);
        assert_eq!(parse_integer::<i8>("300"), None);
    }
}
