//! Timestamps of any unit as milliseconds, and back. Must not know windows or watermarks.

use super::OperatorError;
use arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use arrow::buffer::{NullBuffer, ScalarBuffer};
use arrow::datatypes::{
    ArrowTimestampType, DataType, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType,
};
use std::sync::Arc;

/// A timestamp column in milliseconds, rounded down, with its nulls.
///
/// # Errors
/// If the column is no timestamp, or out of range in milliseconds.
pub fn to_millis(array: &ArrayRef) -> Result<(ScalarBuffer<i64>, Option<NullBuffer>), OperatorError> {
    let nulls = array.nulls().filter(|n| n.null_count() > 0).cloned();
    let values = match array.data_type() {
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array.as_primitive::<TimestampMillisecondType>().values().clone()
        }
        DataType::Timestamp(TimeUnit::Second, _) => {
            let values = array.as_primitive::<TimestampSecondType>().values();
            values.iter().map(|v| v.saturating_mul(1000)).collect()
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let values = array.as_primitive::<TimestampMicrosecondType>().values();
            values.iter().map(|v| v.div_euclid(1000)).collect()
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let values = array.as_primitive::<TimestampNanosecondType>().values();
            values.iter().map(|v| v.div_euclid(1_000_000)).collect()
        }
        other => {
            return Err(OperatorError(format!(
                "an event-time column must be a timestamp, not {other}"
            )));
        }
    };
    Ok((values, nulls))
}

/// The greatest value of a timestamp column in milliseconds; nulls do not count.
///
/// # Errors
/// As [`to_millis`].
pub fn max_millis(array: &ArrayRef) -> Result<Option<i64>, OperatorError> {
    let (values, nulls) = to_millis(array)?;
    Ok(match nulls {
        None => values.iter().copied().max(),
        Some(nulls) => nulls.valid_indices().map(|i| values[i]).max(),
    })
}

fn scaled<T: ArrowTimestampType>(
    values: &[i64],
    zone: Option<&Arc<str>>,
    scale: impl Fn(i64) -> Option<i64>,
) -> Result<ArrayRef, OperatorError> {
    let values = values
        .iter()
        .map(|v| {
            scale(*v).ok_or_else(|| OperatorError(format!("{v} ms is out of range for {}", T::DATA_TYPE)))
        })
        .collect::<Result<Vec<i64>, _>>()?;
    Ok(Arc::new(
        PrimitiveArray::<T>::new(values.into(), None).with_timezone_opt(zone.cloned()),
    ))
}

/// A timestamp array of the wanted type from milliseconds.
///
/// # Errors
/// If the type is no timestamp, or a value out of its range.
pub fn from_millis(values: &[i64], data_type: &DataType) -> Result<ArrayRef, OperatorError> {
    let DataType::Timestamp(unit, zone) = data_type else {
        return Err(OperatorError(format!(
            "a window bound must be a timestamp, not {data_type}"
        )));
    };
    let zone = zone.as_ref();
    match unit {
        TimeUnit::Second => scaled::<TimestampSecondType>(values, zone, |v| Some(v.div_euclid(1000))),
        TimeUnit::Millisecond => scaled::<TimestampMillisecondType>(values, zone, Some),
        TimeUnit::Microsecond => scaled::<TimestampMicrosecondType>(values, zone, |v| v.checked_mul(1000)),
        TimeUnit::Nanosecond => scaled::<TimestampNanosecondType>(values, zone, |v| v.checked_mul(1_000_000)),
    }
}
