//! SQL types: Flink's names, their Arrow forms, common types and the casts that INSERT does by itself.
//! Knows nothing of expressions.

use crate::error::{PlanError, Pos, Result};
use arrow::datatypes::{DataType, IntervalUnit, TimeUnit};
use sqlparser::ast::{self, CharacterLength, ExactNumberInfo};

/// The largest precision of a decimal.
pub(crate) const DECIMAL_MAX: u8 = 38;

/// The time zone of every TIMESTAMP_LTZ.
pub(crate) const UTC: &str = "UTC";

/// A declared type.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SqlType {
    pub data: DataType,
    pub nullable: bool,
    pub length: Option<Length>,
}

/// What CHAR(n) and VARCHAR(n) ask of a CAST.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// Cut and filled with blanks.
    Fixed(u64),
    /// Cut.
    Max(u64),
}

impl SqlType {
    fn plain(data: DataType) -> Self {
        SqlType {
            data,
            nullable: true,
            length: None,
        }
    }
}

/// The type of `TIMESTAMP(p)` or `TIMESTAMP_LTZ(p)`.
pub(crate) fn timestamp(precision: u64, local: bool, pos: Pos) -> Result<SqlType> {
    let unit = match precision {
        0..=3 => TimeUnit::Millisecond,
        4..=6 => TimeUnit::Microsecond,
        7..=9 => TimeUnit::Nanosecond,
        _ => {
            return Err(PlanError::new(
                pos,
                format!("the precision of a timestamp is 0 to 9, not {precision}"),
            ));
        }
    };
    Ok(SqlType::plain(DataType::Timestamp(
        unit,
        local.then(|| UTC.into()),
    )))
}

/// The Arrow form of a type that the parser read.
pub(crate) fn from_ast(ty: &ast::DataType, pos: Pos) -> Result<SqlType> {
    use ast::DataType as T;
    let plain = |data| Ok(SqlType::plain(data));
    match ty {
        T::Boolean | T::Bool => plain(DataType::Boolean),
        T::TinyInt(None) => plain(DataType::Int8),
        T::SmallInt(None) => plain(DataType::Int16),
        T::Int(None) | T::Integer(None) => plain(DataType::Int32),
        T::BigInt(None) => plain(DataType::Int64),
        T::Float(ExactNumberInfo::None) => plain(DataType::Float32),
        T::Double(ExactNumberInfo::None) | T::DoublePrecision => plain(DataType::Float64),
        T::Decimal(info) | T::Dec(info) | T::Numeric(info) => decimal(*info, pos).map(SqlType::plain),
        T::String(None) => plain(DataType::Utf8),
        T::Char(length) | T::Character(length) => text(*length, true, pos),
        T::Varchar(length) | T::CharacterVarying(length) | T::CharVarying(length) => {
            text(*length, false, pos)
        }
        T::Bytes(None) | T::Binary(_) | T::Varbinary(_) => plain(DataType::Binary),
        T::Date => plain(DataType::Date32),
        T::Time(precision, ast::TimezoneInfo::None | ast::TimezoneInfo::WithoutTimeZone) => {
            if precision.unwrap_or(0) > 3 {
                return Err(PlanError::unsupported(
                    pos,
                    "TIME with a precision above 3",
                    "use TIME(3)",
                ));
            }
            plain(DataType::Time32(TimeUnit::Millisecond))
        }
        T::Timestamp(precision, ast::TimezoneInfo::None | ast::TimezoneInfo::WithoutTimeZone) => {
            timestamp(precision.unwrap_or(6), false, pos)
        }
        T::Timestamp(..) => Err(PlanError::unsupported(
            pos,
            "TIMESTAMP WITH TIME ZONE",
            "use TIMESTAMP_LTZ",
        )),
        T::Custom(name, arguments) if name.to_string().eq_ignore_ascii_case("TIMESTAMP_LTZ") => {
            let precision = match arguments.as_slice() {
                [] => 6,
                [digits] => digits.parse().unwrap_or(u64::MAX),
                _ => u64::MAX,
            };
            timestamp(precision, true, pos)
        }
        other => Err(PlanError::new(
            pos,
            format!(
                "unknown or unsupported type {other}; the types are BOOLEAN, TINYINT, SMALLINT, INT, BIGINT, FLOAT, \
                 DOUBLE, DECIMAL(p, s), CHAR(n), VARCHAR(n), STRING, BYTES, DATE, TIME, TIMESTAMP(p) and TIMESTAMP_LTZ(p)"
            ),
        )),
    }
}

fn decimal(info: ExactNumberInfo, pos: Pos) -> Result<DataType> {
    let (precision, scale) = match info {
        ExactNumberInfo::None => (10, 0),
        ExactNumberInfo::Precision(p) => (p, 0),
        ExactNumberInfo::PrecisionAndScale(p, s) => (p, s),
    };
    let fits = (1..=u64::from(DECIMAL_MAX)).contains(&precision);
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p), Ok(s)) if fits && s >= 0 && scale.unsigned_abs() <= precision => {
            Ok(DataType::Decimal128(p, s))
        }
        _ => Err(PlanError::new(
            pos,
            format!(
                "DECIMAL({precision}, {scale}): the precision is 1 to 38 and the scale 0 to the precision"
            ),
        )),
    }
}

fn text(length: Option<CharacterLength>, fixed: bool, pos: Pos) -> Result<SqlType> {
    let count = match length {
        None => 1,
        Some(CharacterLength::IntegerLength { length, .. }) => length,
        Some(CharacterLength::Max) => u64::from(i32::MAX.unsigned_abs()),
    };
    if count == 0 {
        return Err(PlanError::new(
            pos,
            "the length of a CHAR or VARCHAR is at least 1",
        ));
    }
    Ok(SqlType {
        length: Some(if fixed {
            Length::Fixed(count)
        } else {
            Length::Max(count)
        }),
        ..SqlType::plain(DataType::Utf8)
    })
}

/// A type as Flink writes it.
pub(crate) fn name(ty: &DataType) -> String {
    match ty {
        DataType::Null => "NULL".into(),
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "FLOAT".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::Utf8 => "STRING".into(),
        DataType::Binary => "BYTES".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Time32(_) => "TIME".into(),
        DataType::Timestamp(unit, zone) => {
            let kind = if zone.is_some() {
                "TIMESTAMP_LTZ"
            } else {
                "TIMESTAMP"
            };
            format!("{kind}({})", precision(*unit))
        }
        DataType::Interval(_) => "INTERVAL".into(),
        other => other.to_string(),
    }
}

/// Digits of a second's fraction.
pub(crate) fn precision(unit: TimeUnit) -> u32 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 3,
        TimeUnit::Microsecond => 6,
        TimeUnit::Nanosecond => 9,
    }
}

/// Whether a type is the literal interval's.
pub(crate) fn is_interval(ty: &DataType) -> bool {
    matches!(ty, DataType::Interval(IntervalUnit::MonthDayNano))
}

/// TINYINT to BIGINT.
pub(crate) fn is_integer(ty: &DataType) -> bool {
    matches!(
        ty,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64
    )
}

/// FLOAT and DOUBLE.
pub(crate) fn is_float(ty: &DataType) -> bool {
    matches!(ty, DataType::Float32 | DataType::Float64)
}

/// Any number.
pub(crate) fn is_numeric(ty: &DataType) -> bool {
    is_integer(ty) || is_float(ty) || matches!(ty, DataType::Decimal128(..))
}

/// A date, time or timestamp.
pub(crate) fn is_temporal(ty: &DataType) -> bool {
    matches!(
        ty,
        DataType::Date32 | DataType::Time32(_) | DataType::Timestamp(..)
    )
}

/// Precision and scale of a number that is exact.
pub(crate) fn as_decimal(ty: &DataType) -> Option<(u8, i8)> {
    match ty {
        DataType::Int8 => Some((3, 0)),
        DataType::Int16 => Some((5, 0)),
        DataType::Int32 => Some((10, 0)),
        DataType::Int64 => Some((19, 0)),
        DataType::Decimal128(p, s) => Some((*p, *s)),
        _ => None,
    }
}

fn integer_rank(ty: &DataType) -> u8 {
    match ty {
        DataType::Int8 => 1,
        DataType::Int16 => 2,
        DataType::Int32 => 3,
        _ => 4,
    }
}

/// The type that both can be compared or combined in, without loss where there is one.
pub(crate) fn common(a: &DataType, b: &DataType) -> Option<DataType> {
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (DataType::Null, other) | (other, DataType::Null) => Some(other.clone()),
        _ if is_integer(a) && is_integer(b) => Some(if integer_rank(a) >= integer_rank(b) {
            a.clone()
        } else {
            b.clone()
        }),
        _ if is_numeric(a) && is_numeric(b) => Some(common_number(a, b)),
        (DataType::Timestamp(u, za), DataType::Timestamp(v, zb)) => {
            let unit = if precision(*u) >= precision(*v) { u } else { v };
            Some(DataType::Timestamp(*unit, za.clone().or_else(|| zb.clone())))
        }
        (DataType::Date32, ts @ DataType::Timestamp(..))
        | (ts @ DataType::Timestamp(..), DataType::Date32) => Some(ts.clone()),
        _ => None,
    }
}

fn common_number(a: &DataType, b: &DataType) -> DataType {
    match (as_decimal(a), as_decimal(b)) {
        (Some((p1, s1)), Some((p2, s2))) => {
            let scale = s1.max(s2);
            let digits = (p1 as i8 - s1).max(p2 as i8 - s2);
            let precision = (digits + scale).unsigned_abs().min(DECIMAL_MAX);
            DataType::Decimal128(precision, scale)
        }
        _ if matches!((a, b), (DataType::Float64, _) | (_, DataType::Float64))
            || matches!(
                (a, b),
                (DataType::Decimal128(..), _) | (_, DataType::Decimal128(..))
            ) =>
        {
            DataType::Float64
        }
        _ => DataType::Float32,
    }
}

/// Whether INSERT casts a value of `from` into a column of `to` without being asked, by Flink's rules.
pub(crate) fn implicit(from: &DataType, to: &DataType) -> bool {
    if from == to || *from == DataType::Null {
        return true;
    }
    match to {
        DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            is_integer(from) && integer_rank(from) <= integer_rank(to)
        }
        DataType::Decimal128(..) | DataType::Float64 => is_numeric(from),
        DataType::Float32 => is_numeric(from) && *from != DataType::Float64,
        DataType::Date32 | DataType::Time32(_) => matches!(from, DataType::Timestamp(_, None)),
        DataType::Timestamp(..) => matches!(from, DataType::Timestamp(..)),
        _ => false,
    }
}

/// Whether CAST exists between two types.
pub(crate) fn castable(from: &DataType, to: &DataType) -> bool {
    if from == to || matches!(from, DataType::Null) {
        return true;
    }
    match (from, to) {
        (DataType::Interval(_), _) | (_, DataType::Interval(_)) => false,
        (_, DataType::Utf8) => true,
        (DataType::Utf8, _) => true,
        (DataType::Binary, _) | (_, DataType::Binary) => false,
        (DataType::Boolean, to) => is_numeric(to),
        (from, DataType::Boolean) => is_numeric(from),
        (DataType::Timestamp(..), to) => is_temporal(to),
        (DataType::Date32, to) => matches!(to, DataType::Timestamp(..)),
        (DataType::Time32(_), _) => false,
        (from, to) => is_numeric(from) && is_numeric(to),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_types_are_flinks() {
        let decimal = DataType::Decimal128;
        for (a, b, expected) in [
            (DataType::Int8, DataType::Int32, Some(DataType::Int32)),
            (DataType::Int32, decimal(4, 3), Some(decimal(13, 3))),
            (DataType::Float32, decimal(4, 3), Some(DataType::Float64)),
            (DataType::Float32, DataType::Int64, Some(DataType::Float32)),
            (DataType::Utf8, DataType::Int64, None),
            (DataType::Null, DataType::Utf8, Some(DataType::Utf8)),
        ] {
            assert_eq!(common(&a, &b), expected, "{a} {b}");
            assert_eq!(common(&b, &a), expected, "{b} {a}");
        }
    }

    #[test]
    fn insert_never_narrows_integers() {
        assert!(implicit(&DataType::Int32, &DataType::Int64));
        assert!(!implicit(&DataType::Int64, &DataType::Int32));
        assert!(!implicit(&DataType::Float64, &DataType::Float32));
        assert!(!implicit(&DataType::Utf8, &DataType::Int32));
    }
}
