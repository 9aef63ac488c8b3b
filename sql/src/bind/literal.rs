//! Constants: numbers, strings, typed strings and intervals.

use super::Typed;
use crate::error::{PlanError, Pos, Result};
use crate::functions::{java_time, time};
use crate::types;
use arrow::datatypes::{DataType, TimeUnit};
use datafusion_common::ScalarValue;
use sqlparser::ast::{DateTimeField, Expr as AstExpr, Interval, TypedString, Value};

/// A constant of the grammar.
pub(crate) fn value(value: &Value, pos: Pos) -> Result<Typed> {
    let scalar = match value {
        Value::Number(text, _) => return number(text, pos),
        Value::SingleQuotedString(text) => ScalarValue::Utf8(Some(text.clone())),
        Value::Boolean(b) => ScalarValue::Boolean(Some(*b)),
        Value::Null => ScalarValue::Null,
        Value::HexStringLiteral(text) => ScalarValue::Binary(Some(hex(text, pos)?)),
        other => {
            return Err(PlanError::new(
                pos,
                format!("syntax error: {other} is no constant of Flink's SQL"),
            ));
        }
    };
    Ok(Typed::literal(scalar, pos))
}

fn hex(text: &str, pos: Pos) -> Result<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok()))
        .collect();
    match digits {
        Some(digits) if digits.len().is_multiple_of(2) => {
            Ok(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
        }
        _ => Err(PlanError::new(
            pos,
            format!("X'{text}' is no even number of hexadecimal digits"),
        )),
    }
}

/// INT if it fits, else BIGINT; DECIMAL with a point; DOUBLE with an exponent.
fn number(text: &str, pos: Pos) -> Result<Typed> {
    let bad = || PlanError::new(pos, format!("the number {text} is not possible"));
    if text.contains(['e', 'E']) {
        let value = text.parse().map_err(|_| bad())?;
        return Ok(Typed::literal(ScalarValue::Float64(Some(value)), pos));
    }
    if let Some((whole, fraction)) = text.split_once('.')
        && !fraction.is_empty()
    {
        let precision = u8::try_from(whole.len() + fraction.len()).map_err(|_| bad())?;
        let scale = i8::try_from(fraction.len()).map_err(|_| bad())?;
        let unscaled = format!("{whole}{fraction}").parse().map_err(|_| bad())?;
        if precision > types::DECIMAL_MAX {
            return Err(bad());
        }
        return Ok(Typed::literal(
            ScalarValue::Decimal128(Some(unscaled), precision, scale),
            pos,
        ));
    }
    let digits = text.trim_end_matches('.');
    let scalar = if let Ok(value) = digits.parse::<i32>() {
        ScalarValue::Int32(Some(value))
    } else if let Ok(value) = digits.parse::<i64>() {
        ScalarValue::Int64(Some(value))
    } else {
        let precision = u8::try_from(digits.len()).map_err(|_| bad())?;
        let value = digits.parse().map_err(|_| bad())?;
        if precision > types::DECIMAL_MAX {
            return Err(bad());
        }
        ScalarValue::Decimal128(Some(value), precision, 0)
    };
    Ok(Typed::literal(scalar, pos))
}

/// The negative of a constant, if it has one.
pub(crate) fn negate(value: &ScalarValue) -> Option<ScalarValue> {
    Some(match value {
        ScalarValue::Int32(Some(v)) => ScalarValue::Int32(Some(v.checked_neg()?)),
        // 2147483648 is no INT, but its negative is.
        ScalarValue::Int64(Some(v)) => match i32::try_from(-i128::from(*v)) {
            Ok(v) => ScalarValue::Int32(Some(v)),
            Err(_) => ScalarValue::Int64(Some(v.checked_neg()?)),
        },
        ScalarValue::Float64(Some(v)) => ScalarValue::Float64(Some(-v)),
        ScalarValue::Decimal128(Some(v), p, s) => match i64::try_from(-v) {
            Ok(v) if *s == 0 && *p == 19 => ScalarValue::Int64(Some(v)),
            _ => ScalarValue::Decimal128(Some(-v), *p, *s),
        },
        ScalarValue::IntervalMonthDayNano(Some(v)) => {
            let (months, millis) = interval_parts(v);
            interval_scalar(-months, -millis)
        }
        _ => return None,
    })
}

/// `DATE '...'`, `TIME '...'`, `TIMESTAMP '...'`
pub(crate) fn typed_string(typed: &TypedString, pos: Pos) -> Result<Typed> {
    let Value::SingleQuotedString(text) = &typed.value.value else {
        return Err(PlanError::new(
            pos,
            "syntax error: expected a string in single quotes",
        ));
    };
    let pos = pos.or_span(typed.value.span);
    let digits = text.rsplit_once('.').map_or(0, |(_, fraction)| fraction.len());
    let (ty, form) = match &typed.data_type {
        sqlparser::ast::DataType::Date => (DataType::Date32, "DATE 'yyyy-MM-dd'"),
        sqlparser::ast::DataType::Time(..) => {
            (DataType::Time32(TimeUnit::Millisecond), "TIME 'HH:mm:ss[.SSS]'")
        }
        sqlparser::ast::DataType::Timestamp(..) => {
            let unit = match digits {
                0..=3 => TimeUnit::Millisecond,
                4..=6 => TimeUnit::Microsecond,
                _ => TimeUnit::Nanosecond,
            };
            (
                DataType::Timestamp(unit, None),
                "TIMESTAMP 'yyyy-MM-dd HH:mm:ss[.SSS]'",
            )
        }
        other => {
            return Err(PlanError::unsupported(
                pos,
                &format!("a constant {other} '{text}'"),
                "write CAST('...' AS ...)",
            ));
        }
    };
    let value = temporal(text, &ty).ok_or_else(|| {
        PlanError::new(
            pos,
            format!("'{text}' is no {}: the form is {form}", types::name(&ty)),
        )
    })?;
    Ok(Typed::literal(value, pos))
}

/// A text as a constant date, time or timestamp.
pub(crate) fn temporal(text: &str, ty: &DataType) -> Option<ScalarValue> {
    let at = match ty {
        DataType::Date32 => java_time::parse_date(text)?.and_time(chrono::NaiveTime::MIN),
        DataType::Time32(_) => {
            chrono::NaiveDate::from_ymd_opt(1970, 1, 1)?.and_time(java_time::parse_time(text)?)
        }
        _ => java_time::parse_timestamp(text)?,
    };
    let array = time::from_instants(std::iter::once(Some(at)), ty).ok()?;
    ScalarValue::try_from_array(&array, 0).ok()
}

/// Months and milliseconds of an interval constant.
pub(crate) fn interval_parts(value: &arrow::datatypes::IntervalMonthDayNano) -> (i64, i64) {
    (
        i64::from(value.months),
        i64::from(value.days) * 86_400_000 + value.nanoseconds / 1_000_000,
    )
}

fn interval_scalar(months: i64, millis: i64) -> ScalarValue {
    let months = i32::try_from(months).unwrap_or(i32::MAX);
    let days = i32::try_from(millis / 86_400_000).unwrap_or(i32::MAX);
    let nanos = millis % 86_400_000 * 1_000_000;
    ScalarValue::new_interval_mdn(months, days, nanos)
}

/// `INTERVAL '...' unit [TO unit]`
pub(crate) fn interval(interval: &Interval, pos: Pos) -> Result<Typed> {
    let text = match interval.value.as_ref() {
        AstExpr::Value(v) => match &v.value {
            Value::SingleQuotedString(text) => text.as_str(),
            _ => return Err(interval_form(pos)),
        },
        _ => return Err(interval_form(pos)),
    };
    let Some(leading) = &interval.leading_field else {
        return Err(interval_form(pos));
    };
    let (negative, body) = match text.trim().strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.trim()),
    };
    let parts = match &interval.last_field {
        None => single(body, leading),
        Some(last) => range(body, leading, last),
    };
    let (months, millis) = parts.ok_or_else(|| {
        let unit = match &interval.last_field {
            Some(last) => format!("{leading} TO {last}"),
            None => leading.to_string(),
        };
        PlanError::new(pos, format!("'{text}' is no INTERVAL {unit}"))
    })?;
    let sign = if negative { -1 } else { 1 };
    if i32::try_from(months).is_err() || i32::try_from(millis / 86_400_000).is_err() {
        return Err(PlanError::new(pos, format!("INTERVAL '{text}' is too long")));
    }
    Ok(Typed::literal(interval_scalar(sign * months, sign * millis), pos))
}

fn interval_form(pos: Pos) -> PlanError {
    PlanError::new(
        pos,
        "an interval is written INTERVAL '1' HOUR or INTERVAL '1:30' HOUR TO MINUTE",
    )
}

/// Months or milliseconds of a unit.
fn unit(field: &DateTimeField) -> Option<(i64, i64)> {
    Some(match field.to_string().to_uppercase().as_str() {
        "YEAR" | "YEARS" => (12, 0),
        "QUARTER" => (3, 0),
        "MONTH" | "MONTHS" => (1, 0),
        "WEEK" | "WEEKS" => (0, 7 * 86_400_000),
        "DAY" | "DAYS" => (0, 86_400_000),
        "HOUR" | "HOURS" => (0, 3_600_000),
        "MINUTE" | "MINUTES" => (0, 60_000),
        "SECOND" | "SECONDS" => (0, 1000),
        _ => return None,
    })
}

fn single(text: &str, field: &DateTimeField) -> Option<(i64, i64)> {
    let (months, millis) = unit(field)?;
    if millis == 1000 {
        return Some((0, seconds(text)?));
    }
    let n = digits(text)?;
    Some((n.checked_mul(months)?, n.checked_mul(millis)?))
}

fn digits(text: &str) -> Option<i64> {
    let ok = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    ok.then(|| text.parse().ok()).flatten()
}

/// Seconds with up to three digits of fraction, in milliseconds.
fn seconds(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let ok = !fraction.is_empty() && fraction.len() <= 9 && fraction.bytes().all(|b| b.is_ascii_digit());
    let millis: i64 = ok
        .then(|| format!("{fraction:0<9}")[..3].parse().ok())
        .flatten()?;
    digits(whole)?.checked_mul(1000)?.checked_add(millis)
}

/// `y-m`, or a run of `d h:m:s` from the leading to the last unit.
fn range(text: &str, leading: &DateTimeField, last: &DateTimeField) -> Option<(i64, i64)> {
    let name = |field: &DateTimeField| field.to_string().to_uppercase();
    if (name(leading).as_str(), name(last).as_str()) == ("YEAR", "MONTH") {
        let (years, months) = text.split_once('-')?;
        return Some((digits(years)?.checked_mul(12)?.checked_add(digits(months)?)?, 0));
    }
    const UNITS: [&str; 4] = ["DAY", "HOUR", "MINUTE", "SECOND"];
    let from = UNITS.iter().position(|u| *u == name(leading))?;
    let to = UNITS.iter().position(|u| *u == name(last))?;
    let parts: Vec<&str> = text.split([' ', ':']).collect();
    if from >= to || parts.len() != to - from + 1 {
        return None;
    }
    let mut millis = 0i64;
    for (unit_name, part) in UNITS[from..=to].iter().zip(parts) {
        millis = millis.checked_add(match *unit_name {
            "DAY" => digits(part)?.checked_mul(86_400_000)?,
            "HOUR" => digits(part)?.checked_mul(3_600_000)?,
            "MINUTE" => digits(part)?.checked_mul(60_000)?,
            _ => seconds(part)?,
        })?;
    }
    Some((0, millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals() {
        use DateTimeField::{Day, Hour, Minute, Month, Second, Year};
        assert_eq!(single("24", &Hour), Some((0, 86_400_000)));
        assert_eq!(single("1.5", &Second), Some((0, 1500)));
        assert_eq!(single("2", &Year), Some((24, 0)));
        assert_eq!(single("x", &Hour), None);
        assert_eq!(range("1:30", &Hour, &Minute), Some((0, 5_400_000)));
        assert_eq!(range("1 02:03:04.5", &Day, &Second), Some((0, 93_784_500)));
        assert_eq!(range("1-6", &Year, &Month), Some((18, 0)));
        assert_eq!(range("1", &Hour, &Minute), None);
    }
}
