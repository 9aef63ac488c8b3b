//! Rows as Arrow IPC messages without schema: both ends know it from the edge. Must not know frames or channels.

use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::read_record_batch;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use std::collections::HashMap;

/// The body of the IPC message starts at a multiple of this, so that it can be read where it lies.
const ALIGNMENT: usize = 64;

/// Rows as bytes: length of the message, message, padding, body.
///
/// # Errors
/// If a column is dictionary encoded, or the rows cannot be encoded.
pub fn encode_rows(rows: &RecordBatch) -> Result<Vec<u8>, String> {
    let mut tracker = DictionaryTracker::new(true);
    let options = IpcWriteOptions::default();
    let (dictionaries, encoded) = IpcDataGenerator::default()
        .encode(rows, &mut tracker, &options, &mut Default::default())
        .map_err(|e| format!("rows cannot be encoded: {e}"))?;
    if !dictionaries.is_empty() {
        return Err("a dictionary-encoded column cannot be sent to another worker".to_owned());
    }
    let (message, body) = (encoded.ipc_message, encoded.arrow_data);
    let head = (4 + message.len()).next_multiple_of(ALIGNMENT);
    let mut out = Vec::with_capacity(head + body.len());
    out.extend_from_slice(&(message.len() as u32).to_le_bytes());
    out.extend_from_slice(&message);
    out.resize(head, 0);
    out.extend_from_slice(&body);
    Ok(out)
}

/// Rows from the bytes of [`encode_rows`].
///
/// # Errors
/// If the bytes are no rows of the schema.
pub fn decode_rows(bytes: &Bytes, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let damaged = |what: &str| format!("rows from another worker are damaged: {what}");
    let (length, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or_else(|| damaged("no length"))?;
    let length = u32::from_le_bytes(*length) as usize;
    let message = rest
        .get(..length)
        .ok_or_else(|| damaged("the message ends early"))?;
    let head = (4 + length).next_multiple_of(ALIGNMENT);
    if head > bytes.len() {
        return Err(damaged("the body is missing"));
    }
    let message = arrow::ipc::root_as_message(message).map_err(|e| damaged(&e.to_string()))?;
    let batch = message
        .header_as_record_batch()
        .ok_or_else(|| damaged("not a record batch"))?;
    let body = bytes.len() - head;
    let inside = |offset: i64, length: i64| {
        let end = usize::try_from(offset)
            .ok()
            .zip(usize::try_from(length).ok())
            .and_then(|(o, l)| o.checked_add(l));
        end.is_some_and(|end| end <= body)
    };
    if !batch
        .buffers()
        .into_iter()
        .flatten()
        .all(|b| inside(b.offset(), b.length()))
    {
        return Err(damaged("the body ends early"));
    }
    read_record_batch(
        &Buffer::from(bytes.slice(head..)),
        batch,
        schema.clone(),
        &HashMap::new(),
        None,
        &message.version(),
    )
    .map_err(|e| damaged(&e.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use arrow::array::{Decimal128Array, Int64Array, StringArray};
    use arrow::datatypes::{DataType, Field, Schema};
    use std::sync::Arc;

    #[test]
    fn rows_come_back_slices_included() {
        let schema = Arc::new(Schema::new(vec![
            Field::new("a", DataType::Int64, true),
            Field::new("s", DataType::Utf8, true),
            Field::new("d", DataType::Decimal128(10, 2), true),
        ]));
        let rows = RecordBatch::try_new(
            schema.clone(),
            vec![
                Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])),
                Arc::new(StringArray::from(vec![Some("x"), Some(""), None])),
                Arc::new(
                    Decimal128Array::from(vec![1, 2, 3])
                        .with_precision_and_scale(10, 2)
                        .unwrap(),
                ),
            ],
        )
        .unwrap();
        for rows in [rows.clone(), rows.slice(1, 2), rows.slice(0, 0)] {
            let bytes = Bytes::from(encode_rows(&rows).unwrap());
            assert_eq!(decode_rows(&bytes, &schema).unwrap(), rows);
            assert!(decode_rows(&bytes.slice(..bytes.len() / 2), &schema).is_err());
        }
        assert!(decode_rows(&Bytes::new(), &schema).is_err());
    }
}
