//! Keys of rows: a batch's grouping columns to canonical bytes and hashes, and bytes back to columns. The byte form
//! itself is `holdfast_common::keys`. Must not know operators or channels.

use super::StateError;
use super::column::{Column, Kind, Lane, Values};
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use holdfast_common::keygroup::key_hash;
use holdfast_common::keys::{put_bool, put_bytes, put_f64, put_i64, put_i128, put_null};

/// The keys of a batch's rows. Reused from batch to batch.
#[derive(Debug, Default)]
pub struct KeyBatch {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// Hash of every row's key.
    pub hashes: Vec<u64>,
}

impl KeyBatch {
    /// The canonical key of a row.
    #[must_use]
    pub fn key(&self, row: usize) -> &[u8] {
        let start = if row == 0 { 0 } else { self.ends[row - 1] };
        &self.bytes[start..self.ends[row]]
    }

    /// Computes keys and hashes of all rows.
    ///
    /// # Errors
    /// If a column's type cannot be a key.
    pub fn fill(&mut self, batch: &RecordBatch, columns: &[usize]) -> Result<(), StateError> {
        self.bytes.clear();
        self.ends.clear();
        self.hashes.clear();
        let rows = batch.num_rows();
        let columns = columns
            .iter()
            .map(|c| Column::new(batch.column(*c)))
            .collect::<Result<Vec<_>, _>>()?;
        self.ends.reserve(rows);
        self.hashes.reserve(rows);
        if let [
            Column {
                lane: Lane::I64(values),
                nulls: None,
            },
        ] = &columns[..]
        {
            // The usual key: no decision per row.
            self.bytes.reserve(rows * 9);
            for value in values.iter() {
                let start = self.bytes.len();
                put_i64(&mut self.bytes, *value);
                self.ends.push(self.bytes.len());
                self.hashes.push(key_hash(&self.bytes[start..]));
            }
            return Ok(());
        }
        let mut start = 0;
        for row in 0..rows {
            for column in &columns {
                put_value(&mut self.bytes, column, row);
            }
            self.ends.push(self.bytes.len());
            self.hashes.push(key_hash(&self.bytes[start..]));
            start = self.bytes.len();
        }
        Ok(())
    }
}

/// Appends the canonical form of one value.
#[inline]
pub fn put_value(out: &mut Vec<u8>, column: &Column, row: usize) {
    if column.nulls.as_ref().is_some_and(|n| n.is_null(row)) {
        put_null(out);
        return;
    }
    match &column.lane {
        Lane::I64(values) => put_i64(out, values[row]),
        Lane::F64(values) => put_f64(out, values[row]),
        Lane::I128(values) => put_i128(out, values[row]),
        Lane::Bool(values) => put_bool(out, values.value(row)),
        Lane::Bytes(offsets, data) => put_bytes(out, Lane::slice(offsets, data, row)),
    }
}

/// One decoded value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// See [`Lane::I64`].
    I64(i64),
    /// See [`Lane::F64`].
    F64(f64),
    /// See [`Lane::I128`].
    I128(i128),
    /// See [`Lane::Bool`].
    Bool(bool),
    /// See [`Lane::Bytes`].
    Bytes(Vec<u8>),
}

fn head<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], StateError> {
    let (head, tail) = rest
        .split_first_chunk::<N>()
        .ok_or_else(|| StateError("a key ends early".to_owned()))?;
    *rest = tail;
    Ok(*head)
}

/// Takes one value of a kind off canonical bytes; `None` is NULL.
///
/// # Errors
/// If the bytes are not canonical.
pub fn take_value(rest: &mut &[u8], kind: Kind) -> Result<Option<Value>, StateError> {
    match head::<1>(rest)?[0] {
        0 => return Ok(None),
        1 => {}
        other => return Err(StateError(format!("a key field starts with {other}"))),
    }
    Ok(Some(match kind {
        Kind::I64 => Value::I64((u64::from_be_bytes(head(rest)?) ^ (1 << 63)) as i64),
        Kind::F64 => {
            let ordered = u64::from_be_bytes(head(rest)?);
            let bits = if ordered >> 63 == 1 {
                ordered ^ (1 << 63)
            } else {
                !ordered
            };
            Value::F64(f64::from_bits(bits))
        }
        Kind::I128 => Value::I128((u128::from_be_bytes(head(rest)?) ^ (1 << 127)) as i128),
        Kind::Bool => Value::Bool(head::<1>(rest)?[0] != 0),
        Kind::Bytes => Value::Bytes(take_string(rest)?),
    }))
}

fn take_string(rest: &mut &[u8]) -> Result<Vec<u8>, StateError> {
    let mut out = Vec::new();
    loop {
        let byte = head::<1>(rest)?[0];
        if byte != 0 {
            out.push(byte);
            continue;
        }
        match head::<1>(rest)?[0] {
            0 => return Ok(out),
            0xff => out.push(0),
            other => return Err(StateError(format!("0x00 {other:#04x} in a key"))),
        }
    }
}

/// Columns from canonical keys.
#[derive(Debug)]
pub struct KeyDecoder {
    types: Vec<(DataType, Kind)>,
}

impl KeyDecoder {
    /// For keys of these types.
    ///
    /// # Errors
    /// If a type cannot be a key.
    pub fn new(types: impl IntoIterator<Item = DataType>) -> Result<Self, StateError> {
        let types = types
            .into_iter()
            .map(|t| Kind::of(&t).map(|k| (t, k)))
            .collect::<Result<_, _>>()?;
        Ok(Self { types })
    }

    /// One array per key column, one row per key.
    ///
    /// # Errors
    /// If a key is damaged.
    pub fn decode<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, StateError> {
        let mut columns: Vec<(Values, Vec<bool>)> = self
            .types
            .iter()
            .map(|(_, k)| (Values::empty(*k), Vec::new()))
            .collect();
        for mut key in keys {
            for ((_, kind), (values, valid)) in self.types.iter().zip(&mut columns) {
                let value = take_value(&mut key, *kind)?;
                valid.push(value.is_some());
                match (value, &mut *values) {
                    (Some(Value::I64(v)), Values::I64(out)) => out.push(v),
                    (Some(Value::F64(v)), Values::F64(out)) => out.push(v),
                    (Some(Value::I128(v)), Values::I128(out)) => out.push(v),
                    (Some(Value::Bool(v)), Values::Bool(out)) => out.push(v),
                    (Some(Value::Bytes(v)), out @ Values::Bytes(..)) => out.push_bytes(&v),
                    (_, out) => out.push_null(),
                }
            }
            if !key.is_empty() {
                return Err(StateError(format!("{} bytes too many in a key", key.len())));
            }
        }
        columns
            .into_iter()
            .zip(&self.types)
            .map(|((values, valid), (data_type, _))| values.into_array(valid, data_type))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{Decimal128Array, Float64Array, Int32Array, StringArray, TimestampMicrosecondArray};
    use arrow::datatypes::{Field, Schema, TimeUnit};
    use proptest::prelude::*;
    use std::sync::Arc;

    type Row = (Option<i32>, Option<f64>, Option<String>, Option<i64>, Option<i64>);

    fn batch(rows: &[Row]) -> RecordBatch {
        let schema = Schema::new(vec![
            Field::new("i", DataType::Int32, true),
            Field::new("f", DataType::Float64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new(
                "t",
                DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
                true,
            ),
            Field::new("d", DataType::Decimal128(20, 3), true),
        ]);
        RecordBatch::try_new(
            Arc::new(schema),
            vec![
                Arc::new(Int32Array::from_iter(rows.iter().map(|r| r.0))),
                Arc::new(Float64Array::from_iter(rows.iter().map(|r| r.1))),
                Arc::new(StringArray::from_iter(rows.iter().map(|r| r.2.as_deref()))),
                Arc::new(TimestampMicrosecondArray::from_iter(rows.iter().map(|r| r.3)).with_timezone("UTC")),
                Arc::new(
                    Decimal128Array::from_iter(rows.iter().map(|r| r.4.map(i128::from)))
                        .with_precision_and_scale(20, 3)
                        .unwrap(),
                ),
            ],
        )
        .unwrap()
    }

    fn cell() -> impl Strategy<Value = Row> {
        (
            any::<Option<i32>>(),
            proptest::option::of(-1e9f64..1e9).prop_map(|f| f.map(|v| if v == 0.0 { 0.0 } else { v })),
            proptest::option::of("[a-c\\x00]{0,5}"),
            any::<Option<i64>>(),
            any::<Option<i64>>(),
        )
    }

    proptest! {
        #[test]
        fn columns_come_back_from_their_keys(rows in prop::collection::vec(cell(), 1..20)) {
            let batch = batch(&rows);
            let mut keys = KeyBatch::default();
            keys.fill(&batch, &[0, 1, 2, 3, 4]).unwrap();
            let types = batch.schema().fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
            let columns = KeyDecoder::new(types).unwrap().decode((0..rows.len()).map(|r| keys.key(r))).unwrap();
            prop_assert_eq!(columns, batch.columns().to_vec());
        }
    }

    #[test]
    fn damaged_keys_are_refused() {
        let decoder = KeyDecoder::new([DataType::Int32]).unwrap();
        assert!(decoder.decode([&[1u8, 2][..]].into_iter()).is_err());
        assert!(decoder.decode([&[9u8][..]].into_iter()).is_err());
        assert!(decoder.decode([&[0u8, 0][..]].into_iter()).is_err());
    }
}
