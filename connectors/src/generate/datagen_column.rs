//! How `datagen` makes the values of one column. Pure: a value depends on the seed, the column and the row number only.

use super::datagen::RowNumbers;
use super::hash::Draws;
use crate::format::time;
use crate::options::Options;
use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, StringArray, Time32MillisecondArray, Time32SecondArray,
    Time64MicrosecondArray, Time64NanosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray,
};
use arrow::datatypes::{DataType, Field, TimeUnit};
use holdfast_common::config::ConfigValue;
use holdfast_dataflow::connector::ConnectorError;
use std::sync::Arc;
use std::time::Duration;

/// 2025-01-01 00:00:00: where generated time begins. Not the clock, or a replay would differ from the first run.
const BASE_MS: i64 = 1_735_689_600_000;
const MS_PER_DAY: i64 = 86_400_000;
const LENGTH_MAX: usize = 1 << 20;

/// The rule of one column.
pub(super) struct ColumnRule {
    data_type: DataType,
    kind: Kind,
    seed: u64,
    stream: u64,
    /// Of 2^32.
    null_share: u64,
}

enum Kind {
    /// `start + row`.
    Sequence {
        start: i64,
        end: i64,
    },
    Integer {
        min: i64,
        max: i64,
    },
    Float {
        min: f64,
        max: f64,
    },
    Decimal {
        min: i128,
        max: i128,
    },
    Bool,
    Text {
        length: usize,
        variable: bool,
    },
    Bytes {
        length: usize,
        variable: bool,
    },
    /// The moment at which the row would be generated at the table's rate, less a random part of `past_ms`.
    Moment {
        rate: u64,
        past_ms: u64,
    },
}

/// One column's options.
struct Keys<'o, 'a> {
    options: &'o Options<'a>,
    column: &'o str,
}

impl Keys<'_, '_> {
    fn key(&self, what: &str) -> String {
        format!("fields.{}.{what}", self.column)
    }

    fn value<T: ConfigValue>(&self, what: &str) -> Result<Option<T>, ConnectorError> {
        self.options.value(&self.key(what))
    }

    fn number<T: std::str::FromStr>(&self, what: &str) -> Result<Option<T>, ConnectorError> {
        let key = self.key(what);
        self.options
            .text(&key)
            .map(|text| {
                text.trim()
                    .parse()
                    .map_err(|_| self.options.wrong(&key, "is no number of this column's type"))
            })
            .transpose()
    }

    fn wrong(&self, what: &str, reason: &str) -> ConnectorError {
        self.options.wrong(&self.key(what), reason)
    }

    fn refuse(&self, whats: &[&str], why: &str) -> Result<(), ConnectorError> {
        match whats.iter().find(|w| self.options.text(&self.key(w)).is_some()) {
            Some(what) => Err(self.wrong(what, why)),
            None => Ok(()),
        }
    }
}

impl ColumnRule {
    pub(super) fn new(
        options: &Options<'_>,
        field: &Field,
        seed: u64,
        stream: u64,
        rate: u64,
    ) -> Result<Self, ConnectorError> {
        let keys = Keys {
            options,
            column: field.name(),
        };
        let null_rate: f64 = keys.number("null-rate")?.unwrap_or(0.0);
        if !(0.0..=1.0).contains(&null_rate) || (null_rate > 0.0 && !field.is_nullable()) {
            return Err(keys.wrong(
                "null-rate",
                "must be between 0 and 1, and 0 for a NOT NULL column",
            ));
        }
        let kind = if options.choice(&keys.key("kind"), &["random", "sequence"])? == "sequence" {
            sequence(&keys, field.data_type())?
        } else {
            keys.refuse(&["start", "end"], "is for 'kind' = 'sequence' only")?;
            random(&keys, field.data_type(), rate)?
        };
        Ok(Self {
            data_type: field.data_type().clone(),
            kind,
            seed,
            stream,
            // Exact for every rate that is written in decimal digits, up to the last of 32 bits.
            null_share: (null_rate * 4_294_967_296.0) as u64,
        })
    }

    /// Rows until a sequence ends.
    pub(super) fn sequence_length(&self) -> Option<u64> {
        match self.kind {
            Kind::Sequence { start, end } => {
                let length = i128::from(end) - i128::from(start) + 1;
                Some(u64::try_from(length).unwrap_or(u64::MAX))
            }
            _ => None,
        }
    }

    fn draws(&self, row: u64) -> Option<Draws> {
        let mut draws = Draws::new(self.seed, self.stream, row);
        if self.null_share > 0 && draws.next() >> 32 < self.null_share {
            return None;
        }
        Some(draws)
    }

    fn integer(&self, row: u64) -> Option<i64> {
        let mut draws = self.draws(row)?;
        Some(match self.kind {
            Kind::Sequence { start, .. } => start.wrapping_add(row.cast_signed()),
            Kind::Integer { min, max } => {
                let offset = match u64::try_from(i128::from(max) - i128::from(min) + 1) {
                    Ok(width) => draws.below(width),
                    Err(_) => draws.next(),
                };
                min.wrapping_add(offset.cast_signed())
            }
            _ => 0,
        })
    }

    /// Milliseconds since the epoch.
    fn moment(&self, row: u64) -> Option<i64> {
        let mut draws = self.draws(row)?;
        let Kind::Moment { rate, past_ms } = self.kind else {
            return None;
        };
        let forward = u128::from(row) * 1000 / u128::from(rate);
        let back = if past_ms > 0 { draws.below(past_ms + 1) } else { 0 };
        Some(BASE_MS + i64::try_from(forward).unwrap_or(i64::MAX / 2) - back.cast_signed())
    }

    fn float(&self, row: u64) -> Option<f64> {
        if let Kind::Sequence { .. } = self.kind {
            return self.integer(row).map(|v| v as f64);
        }
        let mut draws = self.draws(row)?;
        let Kind::Float { min, max } = self.kind else {
            return None;
        };
        let unit = draws.unit();
        Some(min * (1.0 - unit) + max * unit)
    }

    fn decimal(&self, row: u64, scale: i8) -> Option<i128> {
        match self.kind {
            Kind::Sequence { .. } => {
                let factor = 10i128.pow(u32::try_from(scale).unwrap_or(0));
                self.integer(row).map(|v| i128::from(v) * factor)
            }
            Kind::Decimal { min, max } => {
                let mut draws = self.draws(row)?;
                let wide = (u128::from(draws.next()) << 64) | u128::from(draws.next());
                Some(min + i128::try_from(wide % u128::try_from(max - min + 1).unwrap_or(1)).unwrap_or(0))
            }
            _ => None,
        }
    }

    fn text(&self, row: u64) -> Option<String> {
        if let Kind::Sequence { .. } = self.kind {
            return self.integer(row).map(|v| v.to_string());
        }
        let mut draws = self.draws(row)?;
        let Kind::Text { length, variable } = self.kind else {
            return None;
        };
        let length = drawn_length(&mut draws, length, variable);
        let mut text = String::with_capacity(length + 16);
        while text.len() < length {
            text.push_str(&format!("{:016x}", draws.next()));
        }
        text.truncate(length);
        Some(text)
    }

    fn bytes(&self, row: u64) -> Option<Vec<u8>> {
        let mut draws = self.draws(row)?;
        let Kind::Bytes { length, variable } = self.kind else {
            return None;
        };
        let length = drawn_length(&mut draws, length, variable);
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend_from_slice(&draws.next().to_le_bytes());
        }
        bytes.truncate(length);
        Some(bytes)
    }

    /// Whole numbers without NULLs, the usual column: no decision per row.
    fn plain_integers(&self, rows: RowNumbers) -> Option<Vec<i64>> {
        if self.null_share > 0 {
            return None;
        }
        match self.kind {
            Kind::Sequence { start, .. } => Some(rows.map(|r| start.wrapping_add(r.cast_signed())).collect()),
            Kind::Integer { min, max } => {
                let width = u64::try_from(i128::from(max) - i128::from(min) + 1).ok()?;
                let cell = |row| Draws::new(self.seed, self.stream, row).below(width);
                Some(rows.map(|r| min.wrapping_add(cell(r).cast_signed())).collect())
            }
            _ => None,
        }
    }

    /// The values of these rows.
    pub(super) fn array(&self, rows: RowNumbers) -> ArrayRef {
        if self.data_type == DataType::Int64
            && let Some(values) = self.plain_integers(rows.clone())
        {
            return Arc::new(Int64Array::from(values));
        }
        if self.data_type == DataType::Int32
            && let Some(values) = self.plain_integers(rows.clone())
        {
            // The column's bounds lie within its type.
            return Arc::new(Int32Array::from_iter_values(values.into_iter().map(|v| v as i32)));
        }
        match &self.data_type {
            DataType::Boolean => {
                let bits = rows.map(|r| self.draws(r).map(|mut d| d.next() & 1 == 1));
                Arc::new(bits.collect::<BooleanArray>())
            }
            DataType::Int8 => Arc::new(self.integers::<i8>(rows).collect::<Int8Array>()),
            DataType::Int16 => Arc::new(self.integers::<i16>(rows).collect::<Int16Array>()),
            DataType::Int32 => Arc::new(self.integers::<i32>(rows).collect::<Int32Array>()),
            DataType::Int64 => Arc::new(rows.map(|r| self.integer(r)).collect::<Int64Array>()),
            DataType::Float32 => Arc::new(
                rows.map(|r| self.float(r).map(|v| v as f32))
                    .collect::<Float32Array>(),
            ),
            DataType::Float64 => Arc::new(rows.map(|r| self.float(r)).collect::<Float64Array>()),
            DataType::Decimal128(_, scale) => {
                let values: Decimal128Array = rows.map(|r| self.decimal(r, *scale)).collect();
                Arc::new(values.with_data_type(self.data_type.clone()))
            }
            DataType::Binary => {
                let values: Vec<_> = rows.map(|r| self.bytes(r)).collect();
                Arc::new(BinaryArray::from_iter(values))
            }
            DataType::Date32 => Arc::new(
                rows.map(|r| {
                    self.moment(r)
                        .and_then(|ms| i32::try_from(ms.div_euclid(MS_PER_DAY)).ok())
                })
                .collect::<Date32Array>(),
            ),
            DataType::Time32(unit) | DataType::Time64(unit) => self.times(*unit, rows),
            DataType::Timestamp(unit, zone) => self.timestamps(*unit, zone.clone(), rows),
            _ => {
                let values: Vec<_> = rows.map(|r| self.text(r)).collect();
                Arc::new(StringArray::from_iter(values))
            }
        }
    }

    fn integers<'r, T: TryFrom<i64> + 'r>(
        &'r self,
        rows: RowNumbers,
    ) -> impl Iterator<Item = Option<T>> + 'r {
        rows.map(|r| self.integer(r).and_then(|v| T::try_from(v).ok()))
    }

    fn times(&self, unit: TimeUnit, rows: RowNumbers) -> ArrayRef {
        let factor = time::per_second(unit);
        let values = rows.map(|r| self.moment(r).map(|ms| ms.rem_euclid(MS_PER_DAY) * factor / 1000));
        let small = |v: Option<i64>| v.and_then(|v| i32::try_from(v).ok());
        match unit {
            TimeUnit::Second => Arc::new(values.map(small).collect::<Time32SecondArray>()),
            TimeUnit::Millisecond => Arc::new(values.map(small).collect::<Time32MillisecondArray>()),
            TimeUnit::Microsecond => Arc::new(values.collect::<Time64MicrosecondArray>()),
            TimeUnit::Nanosecond => Arc::new(values.collect::<Time64NanosecondArray>()),
        }
    }

    fn timestamps(&self, unit: TimeUnit, zone: Option<Arc<str>>, rows: RowNumbers) -> ArrayRef {
        let values = rows.map(|r| {
            let ms = self.moment(r)?;
            let nanos = u32::try_from(ms.rem_euclid(1000)).ok()? * 1_000_000;
            time::to_unit(ms.div_euclid(1000), nanos, unit)
        });
        match unit {
            TimeUnit::Second => Arc::new(values.collect::<TimestampSecondArray>().with_timezone_opt(zone)),
            TimeUnit::Millisecond => Arc::new(
                values
                    .collect::<TimestampMillisecondArray>()
                    .with_timezone_opt(zone),
            ),
            TimeUnit::Microsecond => Arc::new(
                values
                    .collect::<TimestampMicrosecondArray>()
                    .with_timezone_opt(zone),
            ),
            TimeUnit::Nanosecond => Arc::new(
                values
                    .collect::<TimestampNanosecondArray>()
                    .with_timezone_opt(zone),
            ),
        }
    }
}

fn drawn_length(draws: &mut Draws, length: usize, variable: bool) -> usize {
    if variable && length > 0 {
        usize::try_from(draws.below(length as u64)).unwrap_or(0) + 1
    } else {
        length
    }
}

fn integer_range(data_type: &DataType) -> Option<(i64, i64)> {
    match data_type {
        DataType::Int8 => Some((i64::from(i8::MIN), i64::from(i8::MAX))),
        DataType::Int16 => Some((i64::from(i16::MIN), i64::from(i16::MAX))),
        DataType::Int32 => Some((i64::from(i32::MIN), i64::from(i32::MAX))),
        DataType::Int64 => Some((i64::MIN, i64::MAX)),
        _ => None,
    }
}

fn sequence(keys: &Keys<'_, '_>, data_type: &DataType) -> Result<Kind, ConnectorError> {
    keys.refuse(
        &["min", "max", "max-past", "length", "var-len"],
        "is for 'kind' = 'random' only",
    )?;
    let missing = |what: &str| {
        keys.options.wrong_column(
            keys.column,
            &format!("is a sequence and needs '{}'", keys.key(what)),
        )
    };
    let start: i64 = keys.number("start")?.ok_or_else(|| missing("start"))?;
    let end: i64 = keys.number("end")?.ok_or_else(|| missing("end"))?;
    if end < start {
        return Err(keys.wrong("end", "lies before 'start'"));
    }
    let limit = match data_type {
        DataType::Utf8 | DataType::Float32 | DataType::Float64 => (i64::MIN, i64::MAX),
        DataType::Decimal128(p, s) => {
            let whole = u32::from(*p)
                .saturating_sub(u32::try_from(*s).unwrap_or(0))
                .min(18);
            let most = 10i64.pow(whole) - 1;
            (-most, most)
        }
        other => integer_range(other).ok_or_else(|| {
            keys.options.wrong_column(
                keys.column,
                &format!("has type {other}, which cannot be a sequence"),
            )
        })?,
    };
    if start < limit.0 || end > limit.1 {
        return Err(keys.wrong("end", "makes the sequence leave the column's type"));
    }
    Ok(Kind::Sequence { start, end })
}

fn random(keys: &Keys<'_, '_>, data_type: &DataType, rate: u64) -> Result<Kind, ConnectorError> {
    let only = |allowed: &[&str]| {
        let others: Vec<&str> = ["min", "max", "max-past", "length", "var-len"]
            .into_iter()
            .filter(|k| !allowed.contains(k))
            .collect();
        keys.refuse(&others, "does not fit the column's type")
    };
    let ordered = |fits: bool| {
        if fits {
            Ok(())
        } else {
            Err(keys.wrong("max", "lies below 'min'"))
        }
    };
    if let Some((least, most)) = integer_range(data_type) {
        only(&["min", "max"])?;
        let min = keys.number("min")?.unwrap_or(least);
        let max = keys.number("max")?.unwrap_or(most);
        if min < least || max > most {
            return Err(keys.wrong(
                if min < least { "min" } else { "max" },
                "leaves the column's type",
            ));
        }
        ordered(min <= max)?;
        return Ok(Kind::Integer { min, max });
    }
    match data_type {
        DataType::Boolean => only(&[]).map(|()| Kind::Bool),
        DataType::Float32 | DataType::Float64 => {
            only(&["min", "max"])?;
            let most = if *data_type == DataType::Float32 {
                f64::from(f32::MAX)
            } else {
                f64::MAX
            };
            let min: f64 = keys.number("min")?.unwrap_or(0.0);
            let max: f64 = keys.number("max")?.unwrap_or(most);
            ordered(min.is_finite() && max.is_finite() && min <= max)?;
            Ok(Kind::Float { min, max })
        }
        DataType::Decimal128(p, s) => {
            only(&["min", "max"])?;
            let scale = 10i128.pow(u32::try_from(*s).unwrap_or(0));
            let most = 10i128.pow(u32::from(*p)) - 1;
            let bound = |n: Option<i64>| n.map(|n| i128::from(n) * scale);
            let min = bound(keys.number("min")?).unwrap_or(0);
            let max = bound(keys.number("max")?).unwrap_or(most);
            ordered(-most <= min && min <= max && max <= most)?;
            Ok(Kind::Decimal { min, max })
        }
        DataType::Utf8 | DataType::Binary => {
            only(&["length", "var-len"])?;
            random_length(keys, *data_type == DataType::Utf8)
        }
        DataType::Date32 | DataType::Time32(_) | DataType::Time64(_) | DataType::Timestamp(..) => {
            only(&["max-past"])?;
            let past: Duration = keys.value("max-past")?.unwrap_or_default();
            let past_ms = u64::try_from(past.as_millis()).unwrap_or(u64::MAX / 4);
            Ok(Kind::Moment { rate, past_ms })
        }
        other => Err(keys.options.wrong_column(
            keys.column,
            &format!("has type {other}, which cannot be generated"),
        )),
    }
}

fn random_length(keys: &Keys<'_, '_>, is_text: bool) -> Result<Kind, ConnectorError> {
    let length = keys.number("length")?.unwrap_or(100);
    if length > LENGTH_MAX {
        return Err(keys.wrong("length", &format!("is more than {LENGTH_MAX}")));
    }
    let variable = keys.value("var-len")?.unwrap_or(false);
    Ok(if is_text {
        Kind::Text { length, variable }
    } else {
        Kind::Bytes { length, variable }
    })
}
