//! Functions over dates, times and timestamps. The session's time zone is UTC.

use super::java_time::{self, Pattern};
use super::{Arg, Call, Def, Evaluated, Ret, collect_text, def, int_at, long_at, string_at};
use arrow::array::{Array, ArrayRef, AsArray, Date32Array, Int32Array, Int64Array, PrimitiveArray};
use arrow::datatypes::{
    ArrowTimestampType, DataType, Date32Type, Time32MillisecondType, TimeUnit, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Timelike};
use std::sync::Arc;

/// The functions of this file with fixed types.
pub(crate) const DEFS: &[Def] = &[
    Def {
        fallible: true,
        ..def(
            "DATE_FORMAT",
            &[Arg::Time, Arg::OnlyText],
            0,
            Ret::Text,
            date_format,
        )
    },
    Def {
        fallible: true,
        ..def(
            "FROM_UNIXTIME",
            &[Arg::Long, Arg::OnlyText],
            1,
            Ret::Text,
            from_unixtime,
        )
    },
    Def {
        fallible: true,
        ..def(
            "UNIX_TIMESTAMP",
            &[Arg::OnlyText, Arg::OnlyText],
            1,
            Ret::Long,
            unix_timestamp,
        )
    },
];

/// A part of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Year,
    Quarter,
    Month,
    Week,
    Day,
    DayOfYear,
    DayOfWeek,
    Hour,
    Minute,
    Second,
    Millisecond,
    Microsecond,
    Nanosecond,
    Epoch,
}

const PARTS: &[(&str, Part)] = &[
    ("YEAR", Part::Year),
    ("QUARTER", Part::Quarter),
    ("MONTH", Part::Month),
    ("WEEK", Part::Week),
    ("DAY", Part::Day),
    ("DOY", Part::DayOfYear),
    ("DOW", Part::DayOfWeek),
    ("HOUR", Part::Hour),
    ("MINUTE", Part::Minute),
    ("SECOND", Part::Second),
    ("MILLISECOND", Part::Millisecond),
    ("MICROSECOND", Part::Microsecond),
    ("NANOSECOND", Part::Nanosecond),
    ("EPOCH", Part::Epoch),
];

impl Part {
    /// The part of a name, also with Flink's `SQL_TSI_` prefix.
    pub(crate) fn parse(name: &str) -> Option<Part> {
        let name = name.to_uppercase();
        let name = name.strip_prefix("SQL_TSI_").unwrap_or(&name);
        PARTS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, part)| *part)
    }

    /// Its name.
    pub(crate) fn name(self) -> &'static str {
        PARTS
            .iter()
            .find(|(_, part)| *part == self)
            .map_or("", |(name, _)| name)
    }
}

fn split(ticks: i64, per_second: i64) -> Option<NaiveDateTime> {
    let seconds = ticks.div_euclid(per_second);
    let nanos = ticks.rem_euclid(per_second) * (1_000_000_000 / per_second);
    DateTime::from_timestamp(seconds, u32::try_from(nanos).ok()?).map(|t| t.naive_utc())
}

fn ticks_per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// A timestamp array's ticks.
fn ticks(array: &ArrayRef) -> Option<(&[i64], i64)> {
    let DataType::Timestamp(unit, _) = array.data_type() else {
        return None;
    };
    let values: &[i64] = match unit {
        TimeUnit::Second => array.as_primitive::<TimestampSecondType>().values(),
        TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().values(),
        TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().values(),
        TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().values(),
    };
    Some((values, ticks_per_second(*unit)))
}

/// Row `i` of a date, time or timestamp array.
pub(crate) fn instant_at(array: &ArrayRef, i: usize) -> Option<NaiveDateTime> {
    if array.is_null(i) {
        return None;
    }
    match array.data_type() {
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(i);
            split(i64::from(days).checked_mul(86_400)?, 1)
        }
        DataType::Time32(_) => split(
            i64::from(array.as_primitive::<Time32MillisecondType>().value(i)),
            1000,
        ),
        _ => {
            let (values, per_second) = ticks(array)?;
            split(values[i], per_second)
        }
    }
}

fn timestamps<T: ArrowTimestampType>(values: Vec<Option<i64>>, ty: &DataType) -> ArrayRef {
    Arc::new(
        values
            .into_iter()
            .collect::<PrimitiveArray<T>>()
            .with_data_type(ty.clone()),
    )
}

fn timestamp_array(values: Vec<Option<i64>>, ty: &DataType) -> Evaluated {
    match ty {
        DataType::Timestamp(TimeUnit::Second, _) => Ok(timestamps::<TimestampSecondType>(values, ty)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            Ok(timestamps::<TimestampMillisecondType>(values, ty))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            Ok(timestamps::<TimestampMicrosecondType>(values, ty))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => Ok(timestamps::<TimestampNanosecondType>(values, ty)),
        other => Err(format!("{other} is no timestamp")),
    }
}

/// Dates or timestamps from instants; a value outside of the type's range fails.
pub(crate) fn from_instants(values: impl Iterator<Item = Option<NaiveDateTime>>, ty: &DataType) -> Evaluated {
    match ty {
        DataType::Date32 => {
            let days: Date32Array = values
                .map(|at| at.map(|at| at.date().num_days_from_ce() - EPOCH_DAYS_FROM_CE))
                .collect();
            Ok(Arc::new(days))
        }
        DataType::Time32(_) => {
            let millis: PrimitiveArray<Time32MillisecondType> = values
                .map(|at| {
                    at.map(|at| (at.num_seconds_from_midnight() * 1000 + at.nanosecond() / 1_000_000) as i32)
                })
                .collect();
            Ok(Arc::new(millis))
        }
        DataType::Timestamp(unit, _) => {
            let per_second = ticks_per_second(*unit);
            let mut out = Vec::new();
            for at in values {
                out.push(match at {
                    Some(at) => {
                        Some(to_ticks(at, per_second).ok_or_else(|| format!("{at} does not fit {ty}"))?)
                    }
                    None => None,
                });
            }
            timestamp_array(out, ty)
        }
        other => Err(format!("{other} is no date or timestamp")),
    }
}

/// Days from the first of January of the year 1 to the epoch.
const EPOCH_DAYS_FROM_CE: i32 = 719_163;

/// Ticks since the epoch.
pub(crate) fn to_ticks(at: NaiveDateTime, per_second: i64) -> Option<i64> {
    let at = at.and_utc();
    let nanos = i64::from(at.timestamp_subsec_nanos());
    at.timestamp()
        .checked_mul(per_second)?
        .checked_add(nanos / (1_000_000_000 / per_second))
}

/// `time + interval`: `params` are months and milliseconds.
pub(crate) fn add_interval(call: &Call<'_>) -> Evaluated {
    let (months, millis) = (call.params[0], call.params[1]);
    let array = &call.args[0];
    if months == 0
        && let Some((values, per_second)) = ticks(array)
    {
        return shift(array, values, millis, per_second);
    }
    let mut out = Vec::with_capacity(call.rows);
    for i in 0..call.rows {
        out.push(match instant_at(array, i) {
            Some(at) => Some(
                add_parts(at, months, millis).ok_or_else(|| format!("{at} plus the interval overflows"))?,
            ),
            None => None,
        });
    }
    from_instants(out.into_iter(), call.result)
}

fn shift(array: &ArrayRef, values: &[i64], millis: i64, per_second: i64) -> Evaluated {
    let delta = if per_second >= 1000 {
        millis.checked_mul(per_second / 1000)
    } else {
        Some(millis / 1000)
    };
    let mut out = Vec::with_capacity(values.len());
    for (i, value) in values.iter().enumerate() {
        out.push(if array.is_null(i) {
            None
        } else {
            let sum = delta.and_then(|d| value.checked_add(d));
            Some(sum.ok_or("a timestamp plus the interval overflows")?)
        });
    }
    timestamp_array(out, array.data_type())
}

fn add_parts(at: NaiveDateTime, months: i64, millis: i64) -> Option<NaiveDateTime> {
    let count = Months::new(u32::try_from(months.unsigned_abs()).ok()?);
    let at = if months >= 0 {
        at.checked_add_months(count)?
    } else {
        at.checked_sub_months(count)?
    };
    at.checked_add_signed(TimeDelta::try_milliseconds(millis)?)
}

fn part_of(at: NaiveDateTime, part: Part) -> i64 {
    match part {
        Part::Year => i64::from(at.year()),
        Part::Quarter => i64::from(at.month0() / 3 + 1),
        Part::Month => i64::from(at.month()),
        Part::Week => i64::from(at.iso_week().week()),
        Part::Day => i64::from(at.day()),
        Part::DayOfYear => i64::from(at.ordinal()),
        Part::DayOfWeek => i64::from(at.weekday().number_from_sunday()),
        Part::Hour => i64::from(at.hour()),
        Part::Minute => i64::from(at.minute()),
        Part::Second => i64::from(at.second()),
        Part::Millisecond => i64::from(at.nanosecond() / 1_000_000),
        Part::Microsecond => i64::from(at.nanosecond() / 1_000),
        Part::Nanosecond => i64::from(at.nanosecond()),
        Part::Epoch => at.and_utc().timestamp(),
    }
}

/// `EXTRACT(part FROM time)`; `text` is the part.
pub(crate) fn extract(call: &Call<'_>) -> Evaluated {
    let part = Part::parse(call.text).ok_or("no such part of a time")?;
    let values: Int64Array = (0..call.rows)
        .map(|i| instant_at(&call.args[0], i).map(|at| part_of(at, part)))
        .collect();
    Ok(Arc::new(values))
}

fn floor_to(at: NaiveDateTime, part: Part) -> Option<NaiveDateTime> {
    let date = at.date();
    let day = |date: NaiveDate| Some(date.and_time(NaiveTime::MIN));
    match part {
        Part::Year => day(date.with_ordinal(1)?),
        Part::Quarter => day(date.with_day(1)?.with_month(date.month0() / 3 * 3 + 1)?),
        Part::Month => day(date.with_day(1)?),
        Part::Week => {
            day(date.checked_sub_days(Days::new(u64::from(date.weekday().num_days_from_sunday())))?)
        }
        Part::Day => day(date),
        Part::Hour => date.and_hms_opt(at.hour(), 0, 0),
        Part::Minute => date.and_hms_opt(at.hour(), at.minute(), 0),
        Part::Second => date.and_hms_opt(at.hour(), at.minute(), at.second()),
        Part::Millisecond => at.with_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000),
        _ => Some(at),
    }
}

fn next(at: NaiveDateTime, part: Part) -> Option<NaiveDateTime> {
    match part {
        Part::Year => at.checked_add_months(Months::new(12)),
        Part::Quarter => at.checked_add_months(Months::new(3)),
        Part::Month => at.checked_add_months(Months::new(1)),
        Part::Week => at.checked_add_days(Days::new(7)),
        Part::Day => at.checked_add_days(Days::new(1)),
        Part::Hour => at.checked_add_signed(TimeDelta::hours(1)),
        Part::Minute => at.checked_add_signed(TimeDelta::minutes(1)),
        Part::Second => at.checked_add_signed(TimeDelta::seconds(1)),
        _ => at.checked_add_signed(TimeDelta::milliseconds(1)),
    }
}

/// `FLOOR(time TO part)` and, with `params[0]` = 1, `CEIL`.
pub(crate) fn round_to(call: &Call<'_>) -> Evaluated {
    let part = Part::parse(call.text).ok_or("no such part of a time")?;
    let up = call.params.first() == Some(&1);
    let values = (0..call.rows).map(|i| {
        let at = instant_at(&call.args[0], i)?;
        let floor = floor_to(at, part)?;
        if up && floor < at {
            next(floor, part)
        } else {
            Some(floor)
        }
    });
    from_instants(values, call.result)
}

fn step(part: Part, n: i64) -> Option<(i64, i64)> {
    Some(match part {
        Part::Year => (n.checked_mul(12)?, 0),
        Part::Quarter => (n.checked_mul(3)?, 0),
        Part::Month => (n, 0),
        Part::Week => (0, n.checked_mul(7 * 86_400_000)?),
        Part::Day => (0, n.checked_mul(86_400_000)?),
        Part::Hour => (0, n.checked_mul(3_600_000)?),
        Part::Minute => (0, n.checked_mul(60_000)?),
        Part::Second => (0, n.checked_mul(1000)?),
        _ => return None,
    })
}

/// `TIMESTAMPADD(part, n, time)`; the arguments are n and time.
pub(crate) fn timestamp_add(call: &Call<'_>) -> Evaluated {
    let part = Part::parse(call.text).ok_or("no such part of a time")?;
    let mut out = Vec::with_capacity(call.rows);
    for i in 0..call.rows {
        let (Some(n), Some(at)) = (long_at(&call.args[0], i), instant_at(&call.args[1], i)) else {
            out.push(None);
            continue;
        };
        let sum = step(part, n).and_then(|(months, millis)| add_parts(at, months, millis));
        out.push(Some(
            sum.ok_or_else(|| format!("{at} plus {n} {} overflows", call.text))?,
        ));
    }
    from_instants(out.into_iter(), call.result)
}

fn months_between(from: NaiveDateTime, to: NaiveDateTime) -> i64 {
    let count = |at: NaiveDateTime| i64::from(at.year()) * 12 + i64::from(at.month0());
    let months = count(to) - count(from);
    let key = |at: NaiveDateTime| (at.day(), at.time());
    if months > 0 && key(to) < key(from) {
        months - 1
    } else if months < 0 && key(to) > key(from) {
        months + 1
    } else {
        months
    }
}

/// `TIMESTAMPDIFF(part, from, to)`: whole parts, as INT.
pub(crate) fn timestamp_diff(call: &Call<'_>) -> Evaluated {
    let part = Part::parse(call.text).ok_or("no such part of a time")?;
    let values: Int32Array = (0..call.rows)
        .map(|i| {
            let (from, to) = (instant_at(&call.args[0], i)?, instant_at(&call.args[1], i)?);
            let seconds = (to - from).num_milliseconds() / 1000;
            let whole = match part {
                Part::Year => months_between(from, to) / 12,
                Part::Quarter => months_between(from, to) / 3,
                Part::Month => months_between(from, to),
                Part::Week => seconds / (7 * 86_400),
                Part::Day => seconds / 86_400,
                Part::Hour => seconds / 3600,
                Part::Minute => seconds / 60,
                _ => seconds,
            };
            Some(whole as i32)
        })
        .collect();
    Ok(Arc::new(values))
}

/// The last pattern compiled.
#[derive(Default)]
struct Compiled(Option<(String, Pattern)>);

impl Compiled {
    fn get(&mut self, pattern: &str) -> Result<&Pattern, String> {
        if self.0.as_ref().is_none_or(|(known, _)| known != pattern) {
            self.0 = Some((pattern.to_owned(), Pattern::compile(pattern)?));
        }
        self.0.as_ref().map(|(_, p)| p).ok_or_else(String::new)
    }
}

/// Flink's default pattern.
const DEFAULT_PATTERN: &str = "yyyy-MM-dd HH:mm:ss";

/// The pattern of row `i`: argument `n`, the default if the call has none, `None` if it is NULL.
fn pattern_at<'c>(call: &'c Call<'_>, n: usize, i: usize) -> Option<&'c str> {
    match call.args.get(n) {
        Some(pattern) => string_at(pattern, i),
        None => Some(DEFAULT_PATTERN),
    }
}

fn formatted(call: &Call<'_>, pattern_arg: usize, at: impl Fn(usize) -> Option<NaiveDateTime>) -> Evaluated {
    let mut compiled = Compiled::default();
    let mut failure = None;
    let array = collect_text(call, |i| {
        let (at, pattern) = (at(i)?, pattern_at(call, pattern_arg, i)?);
        match compiled.get(pattern) {
            Ok(pattern) => Some(pattern.format(at)),
            Err(reason) => {
                failure = Some(reason);
                None
            }
        }
    });
    failure.map_or(array, Err)
}

fn date_format(call: &Call<'_>) -> Evaluated {
    formatted(call, 1, |i| instant_at(&call.args[0], i))
}

fn from_unixtime(call: &Call<'_>) -> Evaluated {
    formatted(call, 1, |i| split(long_at(&call.args[0], i)?, 1))
}

/// Instants that texts name by a pattern, or by the plain form without one.
fn parsed(call: &Call<'_>) -> Result<Vec<Option<NaiveDateTime>>, String> {
    let mut compiled = Compiled::default();
    let mut out = Vec::with_capacity(call.rows);
    for i in 0..call.rows {
        let (Some(text), Some(pattern)) = (string_at(&call.args[0], i), pattern_at(call, 1, i)) else {
            out.push(None);
            continue;
        };
        out.push(if call.args.len() == 1 {
            java_time::parse_timestamp(text)
        } else {
            compiled.get(pattern)?.parse(text)
        });
    }
    Ok(out)
}

/// `TO_TIMESTAMP` and `TO_DATE`: NULL for a text that does not fit.
pub(crate) fn to_time(call: &Call<'_>) -> Evaluated {
    from_instants(parsed(call)?.into_iter(), call.result)
}

/// Seconds since the epoch; the least BIGINT for a text that does not fit, as in Flink.
fn unix_timestamp(call: &Call<'_>) -> Evaluated {
    let values: Int64Array = parsed(call)?
        .into_iter()
        .enumerate()
        .map(|(i, at)| {
            string_at(&call.args[0], i)?;
            pattern_at(call, 1, i)?;
            Some(at.map_or(i64::MIN, |at| at.and_utc().timestamp()))
        })
        .collect();
    Ok(Arc::new(values))
}

/// `TO_TIMESTAMP_LTZ(number, precision)`, precision 0 (seconds) or 3 (milliseconds).
pub(crate) fn to_timestamp_ltz(call: &Call<'_>) -> Evaluated {
    let mut out = Vec::with_capacity(call.rows);
    for i in 0..call.rows {
        let precision = match call.args.get(1) {
            Some(precision) => int_at(precision, i),
            None => Some(3),
        };
        let (Some(number), Some(precision)) = (long_at(&call.args[0], i), precision) else {
            out.push(None);
            continue;
        };
        out.push(match precision {
            0 => Some(number.checked_mul(1000).ok_or("the timestamp overflows")?),
            3 => Some(number),
            other => {
                return Err(format!(
                    "the precision of TO_TIMESTAMP_LTZ is 0 or 3, not {other}"
                ));
            }
        });
    }
    timestamp_array(out, call.result)
}
