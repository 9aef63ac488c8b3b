//! Columns reduced to five kinds of values, so that keys and aggregates need five loops instead of thirty. Must not
//! know operators.

use super::StateError;
use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal32Array, Decimal64Array, Decimal128Array,
    Float32Array, Float64Array, PrimitiveArray, StringArray, UInt64Array,
};
use arrow::buffer::{BooleanBuffer, Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::*;

/// The values of a column; where it is null, any value stands.
#[derive(Debug, Clone)]
pub enum Lane {
    /// Integers up to 64 bits, dates, times, timestamps.
    I64(ScalarBuffer<i64>),
    /// Floats.
    F64(ScalarBuffer<f64>),
    /// Decimals and unsigned 64-bit integers.
    I128(ScalarBuffer<i128>),
    /// Booleans.
    Bool(BooleanBuffer),
    /// Strings and byte strings.
    Bytes(OffsetBuffer<i32>, Buffer),
}

/// A column's values and where they are.
#[derive(Debug, Clone)]
pub struct Column {
    /// The values.
    pub lane: Lane,
    /// Where there is one.
    pub nulls: Option<NullBuffer>,
}

/// Which [`Lane`] a type has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// See [`Lane::I64`].
    I64,
    /// See [`Lane::F64`].
    F64,
    /// See [`Lane::I128`].
    I128,
    /// See [`Lane::Bool`].
    Bool,
    /// See [`Lane::Bytes`].
    Bytes,
}

impl Kind {
    /// The kind of a type.
    ///
    /// # Errors
    /// If values of the type can be neither keys nor aggregated.
    pub fn of(data_type: &DataType) -> Result<Self, StateError> {
        use DataType as T;
        Ok(match data_type {
            T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => Self::I64,
            T::Date32 | T::Date64 | T::Time32(_) | T::Time64(_) | T::Timestamp(..) | T::Duration(_) => {
                Self::I64
            }
            T::Float32 | T::Float64 => Self::F64,
            T::UInt64 | T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) => Self::I128,
            T::Boolean => Self::Bool,
            T::Utf8 | T::Binary => Self::Bytes,
            other => {
                return Err(StateError(format!(
                    "type {other} is not supported as a key or in an aggregate"
                )));
            }
        })
    }
}

impl Lane {
    /// The byte string of a row.
    #[must_use]
    pub fn slice<'a>(offsets: &OffsetBuffer<i32>, data: &'a Buffer, row: usize) -> &'a [u8] {
        &data[offsets[row] as usize..offsets[row + 1] as usize]
    }
}

fn widen<T: ArrowPrimitiveType>(array: &dyn Array) -> Lane
where
    T::Native: Into<i64>,
{
    Lane::I64(
        array
            .as_primitive::<T>()
            .values()
            .iter()
            .map(|v| (*v).into())
            .collect(),
    )
}

fn same<T: ArrowPrimitiveType<Native = i64>>(array: &dyn Array) -> Lane {
    Lane::I64(array.as_primitive::<T>().values().clone())
}

impl Column {
    /// Reads an array.
    ///
    /// # Errors
    /// As [`Kind::of`].
    pub fn new(array: &ArrayRef) -> Result<Self, StateError> {
        use DataType as T;
        use TimeUnit as U;
        let lane = match array.data_type() {
            T::Int8 => widen::<Int8Type>(array),
            T::Int16 => widen::<Int16Type>(array),
            T::Int32 => widen::<Int32Type>(array),
            T::UInt8 => widen::<UInt8Type>(array),
            T::UInt16 => widen::<UInt16Type>(array),
            T::UInt32 => widen::<UInt32Type>(array),
            T::Date32 => widen::<Date32Type>(array),
            T::Time32(U::Second) => widen::<Time32SecondType>(array),
            T::Time32(_) => widen::<Time32MillisecondType>(array),
            T::Int64 => same::<Int64Type>(array),
            T::Date64 => same::<Date64Type>(array),
            T::Time64(U::Nanosecond) => same::<Time64NanosecondType>(array),
            T::Time64(_) => same::<Time64MicrosecondType>(array),
            T::Timestamp(U::Second, _) => same::<TimestampSecondType>(array),
            T::Timestamp(U::Millisecond, _) => same::<TimestampMillisecondType>(array),
            T::Timestamp(U::Microsecond, _) => same::<TimestampMicrosecondType>(array),
            T::Timestamp(U::Nanosecond, _) => same::<TimestampNanosecondType>(array),
            T::Duration(U::Second) => same::<DurationSecondType>(array),
            T::Duration(U::Millisecond) => same::<DurationMillisecondType>(array),
            T::Duration(U::Microsecond) => same::<DurationMicrosecondType>(array),
            T::Duration(U::Nanosecond) => same::<DurationNanosecondType>(array),
            T::Float64 => Lane::F64(array.as_primitive::<Float64Type>().values().clone()),
            T::Float32 => Lane::F64(collect(array.as_primitive::<Float32Type>(), f64::from)),
            T::UInt64 => Lane::I128(collect(array.as_primitive::<UInt64Type>(), i128::from)),
            T::Decimal32(..) => Lane::I128(collect(array.as_primitive::<Decimal32Type>(), i128::from)),
            T::Decimal64(..) => Lane::I128(collect(array.as_primitive::<Decimal64Type>(), i128::from)),
            T::Decimal128(..) => Lane::I128(array.as_primitive::<Decimal128Type>().values().clone()),
            T::Boolean => Lane::Bool(array.as_boolean().values().clone()),
            T::Utf8 => {
                let strings = array.as_string::<i32>();
                Lane::Bytes(strings.offsets().clone(), strings.values().clone())
            }
            T::Binary => {
                let strings = array.as_binary::<i32>();
                Lane::Bytes(strings.offsets().clone(), strings.values().clone())
            }
            other => return Err(Kind::of(other).err().unwrap_or_else(|| unexpected(other))),
        };
        let nulls = array.nulls().filter(|n| n.null_count() > 0).cloned();
        Ok(Self { lane, nulls })
    }
}

fn unexpected(data_type: &DataType) -> StateError {
    StateError(format!("type {data_type} has no values here"))
}

fn collect<T: ArrowPrimitiveType, V: arrow::datatypes::ArrowNativeType>(
    array: &PrimitiveArray<T>,
    convert: impl Fn(T::Native) -> V,
) -> ScalarBuffer<V> {
    array.values().iter().map(|v| convert(*v)).collect()
}

/// Values to make an array of, the reverse of [`Lane`].
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// See [`Lane::I64`].
    I64(Vec<i64>),
    /// See [`Lane::F64`].
    F64(Vec<f64>),
    /// See [`Lane::I128`].
    I128(Vec<i128>),
    /// See [`Lane::Bool`].
    Bool(Vec<bool>),
    /// See [`Lane::Bytes`]: the ends of the strings, and all strings.
    Bytes(Vec<i32>, Vec<u8>),
}

impl Values {
    /// No values of a kind.
    #[must_use]
    pub fn empty(kind: Kind) -> Self {
        match kind {
            Kind::I64 => Self::I64(Vec::new()),
            Kind::F64 => Self::F64(Vec::new()),
            Kind::I128 => Self::I128(Vec::new()),
            Kind::Bool => Self::Bool(Vec::new()),
            Kind::Bytes => Self::Bytes(vec![0], Vec::new()),
        }
    }

    /// Appends a placeholder, for a row that is null.
    pub fn push_null(&mut self) {
        match self {
            Self::I64(v) => v.push(0),
            Self::F64(v) => v.push(0.0),
            Self::I128(v) => v.push(0),
            Self::Bool(v) => v.push(false),
            Self::Bytes(ends, data) => ends.push(data.len() as i32),
        }
    }

    /// Appends a byte string.
    pub fn push_bytes(&mut self, value: &[u8]) {
        if let Self::Bytes(ends, data) = self {
            data.extend_from_slice(value);
            ends.push(data.len() as i32);
        }
    }

    /// An array of the wanted type; null where `valid` is false.
    ///
    /// # Errors
    /// If a value does not fit the type: the text says which.
    pub fn into_array(self, valid: Vec<bool>, data_type: &DataType) -> Result<ArrayRef, StateError> {
        let nulls = NullBuffer::from(valid);
        let nulls = (nulls.null_count() > 0).then_some(nulls);
        match self {
            Self::I64(values) => from_i64(values, nulls, data_type),
            Self::F64(values) => from_f64(values, nulls, data_type),
            Self::I128(values) => from_i128(values, nulls, data_type),
            Self::Bool(values) => match data_type {
                DataType::Boolean => Ok(std::sync::Arc::new(BooleanArray::new(
                    BooleanBuffer::from(values),
                    nulls,
                ))),
                other => Err(unexpected(other)),
            },
            Self::Bytes(ends, data) => {
                let offsets = OffsetBuffer::new(ScalarBuffer::from(ends));
                let data = Buffer::from_vec(data);
                match data_type {
                    DataType::Utf8 => StringArray::try_new(offsets, data, nulls)
                        .map(|a| std::sync::Arc::new(a) as ArrayRef)
                        .map_err(|e| StateError(e.to_string())),
                    DataType::Binary => Ok(std::sync::Arc::new(BinaryArray::new(offsets, data, nulls))),
                    other => Err(unexpected(other)),
                }
            }
        }
    }
}

fn narrow<T: ArrowPrimitiveType>(values: Vec<i64>, nulls: Option<NullBuffer>) -> Result<ArrayRef, StateError>
where
    T::Native: TryFrom<i64>,
{
    let values = values
        .into_iter()
        .map(|v| {
            T::Native::try_from(v).map_err(|_| StateError(format!("{v} does not fit type {}", T::DATA_TYPE)))
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(std::sync::Arc::new(PrimitiveArray::<T>::new(
        values.into(),
        nulls,
    )))
}

fn from_i64(
    values: Vec<i64>,
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> Result<ArrayRef, StateError> {
    use DataType as T;
    match data_type {
        T::Int8 => narrow::<Int8Type>(values, nulls),
        T::Int16 => narrow::<Int16Type>(values, nulls),
        T::Int32 => narrow::<Int32Type>(values, nulls),
        T::UInt8 => narrow::<UInt8Type>(values, nulls),
        T::UInt16 => narrow::<UInt16Type>(values, nulls),
        T::UInt32 => narrow::<UInt32Type>(values, nulls),
        T::UInt64 => narrow::<UInt64Type>(values, nulls),
        T::Date32 => narrow::<Date32Type>(values, nulls),
        T::Time32(TimeUnit::Second) => narrow::<Time32SecondType>(values, nulls),
        T::Time32(_) => narrow::<Time32MillisecondType>(values, nulls),
        T::Float32 | T::Float64 => from_f64(values.into_iter().map(|v| v as f64).collect(), nulls, data_type),
        T::Decimal32(..) | T::Decimal64(..) => {
            from_i128(values.into_iter().map(i128::from).collect(), nulls, data_type)
        }
        T::Decimal128(..) => from_i128(values.into_iter().map(i128::from).collect(), nulls, data_type),
        _ if Kind::of(data_type) == Ok(Kind::I64) => {
            // The remaining types are 64 bits wide: the same buffer under another type.
            let mut builder = arrow::array::ArrayData::builder(data_type.clone()).len(values.len());
            builder = builder.add_buffer(Buffer::from_vec(values)).nulls(nulls);
            let data = builder.build().map_err(|e| StateError(e.to_string()))?;
            Ok(arrow::array::make_array(data))
        }
        other => Err(unexpected(other)),
    }
}

fn from_f64(
    values: Vec<f64>,
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> Result<ArrayRef, StateError> {
    match data_type {
        DataType::Float64 => Ok(std::sync::Arc::new(Float64Array::new(values.into(), nulls))),
        DataType::Float32 => {
            let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
            Ok(std::sync::Arc::new(Float32Array::new(values.into(), nulls)))
        }
        other => Err(unexpected(other)),
    }
}

fn fit<V: TryFrom<i128>>(values: Vec<i128>, data_type: &DataType) -> Result<Vec<V>, StateError> {
    values
        .into_iter()
        .map(|v| V::try_from(v).map_err(|_| StateError(format!("{v} does not fit type {data_type}"))))
        .collect()
}

fn decimal<T: DecimalType>(
    array: PrimitiveArray<T>,
    precision: u8,
    scale: i8,
) -> Result<ArrayRef, StateError> {
    let array = array
        .with_precision_and_scale(precision, scale)
        .map_err(|e| StateError(e.to_string()))?;
    array
        .validate_decimal_precision(precision)
        .map_err(|e| StateError(e.to_string()))?;
    Ok(std::sync::Arc::new(array))
}

fn from_i128(
    values: Vec<i128>,
    nulls: Option<NullBuffer>,
    data_type: &DataType,
) -> Result<ArrayRef, StateError> {
    match data_type {
        DataType::Decimal128(p, s) => decimal(Decimal128Array::new(values.into(), nulls), *p, *s),
        DataType::Decimal64(p, s) => decimal(
            Decimal64Array::new(fit::<i64>(values, data_type)?.into(), nulls),
            *p,
            *s,
        ),
        DataType::Decimal32(p, s) => decimal(
            Decimal32Array::new(fit::<i32>(values, data_type)?.into(), nulls),
            *p,
            *s,
        ),
        DataType::UInt64 => {
            let values = fit::<u64>(values, data_type)?;
            Ok(std::sync::Arc::new(UInt64Array::new(values.into(), nulls)))
        }
        _ => {
            let values = fit::<i64>(values, data_type)?;
            from_i64(values, nulls, data_type)
        }
    }
}
