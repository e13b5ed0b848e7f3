//! Arrow IPC messages: a batch without its schema, and a schema alone, as they travel between processes.
//!
//! Format: <https://arrow.apache.org/docs/format/Columnar.html#encapsulated-message-format>.

mod check;

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::buffer::Buffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteOptions, StreamEncoder, write_message};
use arrow::ipc::{self, convert::fb_to_schema};

use super::pool::Lease;

/// A batch as an encapsulated message, in parts that follow each other: metadata, then the columns' own buffers, which are not
/// copied before the message is written to where it goes.
pub struct Message {
    parts: Vec<Buffer>,
}

impl Message {
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(Buffer::as_slice)
    }

    /// Bytes of all parts.
    pub fn size(&self) -> usize {
        self.parts.iter().map(Buffer::len).sum()
    }

    pub fn to_vec(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.size());
        self.parts().for_each(|part| bytes.extend_from_slice(part));
        bytes
    }
}

/// Encodes a batch without its schema. Dictionary-encoded columns must have been decoded ([`without_dictionaries`]).
///
/// # Errors
/// If Arrow cannot write one of its columns.
pub fn encode(batch: &RecordBatch) -> Result<Message, ArrowError> {
    let mut parts = StreamEncoder::try_new(batch.schema_ref())?.encode(batch)?;
    // A stream begins with its schema: a prefix of 8 bytes, the last 4 of which say how many follow.
    let prefix =
        parts.first().and_then(|part| part.get(4..8)).ok_or_else(|| invalid("a stream begins with its schema"))?;
    let length = u32::from_le_bytes(prefix.try_into().expect("four bytes"));
    let mut skipped = 0;
    let body = parts.iter().position(|part| {
        let is_schema = skipped < 8 + length as usize;
        skipped += part.len();
        !is_schema
    });
    parts.drain(..body.ok_or_else(|| invalid("a stream holds its batch"))?);
    Ok(Message { parts })
}

/// Encodes a schema as an encapsulated message.
///
/// # Errors
/// If the message cannot be written.
pub fn encode_schema(schema: &Schema) -> Result<Vec<u8>, ArrowError> {
    let options = IpcWriteOptions::default();
    let mut tracker = DictionaryTracker::new(true);
    let encoded = IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(schema, &mut tracker, &options);
    let mut bytes = Vec::new();
    write_message(&mut bytes, encoded, &options)?;
    Ok(bytes)
}

/// Decodes a schema from an encapsulated message.
///
/// # Errors
/// If the bytes are no such message.
pub fn decode_schema(bytes: &[u8]) -> Result<Schema, ArrowError> {
    let (metadata, _) = split(bytes)?;
    let message = ipc::root_as_message(metadata).map_err(|error| invalid(&error.to_string()))?;
    let schema = message.header_as_schema().ok_or_else(|| invalid("the message is no schema"))?;
    check::schema(schema)?;
    Ok(fb_to_schema(schema))
}

/// Decodes a batch from an encapsulated message; its columns are views of `buffer`.
///
/// # Errors
/// If the bytes are no such message, or do not fit the schema.
pub fn decode(buffer: &Buffer, schema: SchemaRef) -> Result<RecordBatch, ArrowError> {
    let (metadata, body_at) = split(buffer.as_slice())?;
    let message = ipc::root_as_message(metadata).map_err(|error| invalid(&error.to_string()))?;
    let batch = message.header_as_record_batch().ok_or_else(|| invalid("the message is no batch"))?;
    let length = usize::try_from(message.bodyLength()).map_err(|_| invalid("the body's length is negative"))?;
    if body_at + length > buffer.len() {
        return Err(invalid("the body is cut off"));
    }
    check::batch(batch, &schema, message.version(), length)?;
    let body = buffer.slice_with_length(body_at, length);
    ipc::reader::read_record_batch(&body, batch, schema, &HashMap::new(), None, &message.version())
}

/// A buffer over leased shared memory: the lease lives as long as any view of the buffer. `None` if the range does not lie in
/// the segment.
pub fn leased_buffer(lease: &Arc<Lease>, offset: u64, length: u64) -> Option<Buffer> {
    let address: NonNull<u8> = lease.segment().address(offset, length)?;
    let length = usize::try_from(length).ok()?;
    // SAFETY: the range lies in the mapping, which lives as long as the lease, which the buffer keeps; it is not written
    // while leased.
    Some(unsafe { Buffer::from_custom_allocation(address, length, Arc::clone(lease) as _) })
}

/// Returns the batch with dictionary-encoded columns decoded, and without metadata.
///
/// # Errors
/// If a dictionary cannot be decoded.
pub fn without_dictionaries(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let plain = |data_type: &DataType| !matches!(data_type, DataType::Dictionary(..));
    if batch.schema().fields().iter().all(|field| plain(field.data_type())) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::with_capacity(batch.num_columns());
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(batch.num_columns());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        let data_type = match field.data_type() {
            DataType::Dictionary(_, values) => values.as_ref(),
            other => other,
        };
        columns.push(arrow::compute::cast(column, data_type)?);
        fields.push(Field::new(field.name(), data_type.clone(), field.is_nullable()));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// Splits an encapsulated message into its flatbuffer and the position of its body.
fn split(bytes: &[u8]) -> Result<(&[u8], usize), ArrowError> {
    let word = |at: usize| bytes.get(at..at + 4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")));
    // The continuation marker is missing in messages of old writers.
    let (length, start) = match word(0) {
        Some(u32::MAX) => (word(4), 8),
        length => (length, 4),
    };
    let length = length.ok_or_else(|| invalid("the message is cut off"))? as usize;
    let metadata = bytes.get(start..start + length).ok_or_else(|| invalid("the message is cut off"))?;
    Ok((metadata, start + length))
}

fn invalid(problem: &str) -> ArrowError {
    ArrowError::IpcError(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, Int64Array, StringArray};

    use super::*;
    use crate::batch::SegmentPool;

    #[test]
    fn a_batch_in_a_segment_is_read_without_a_copy() {
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)]))),
            ("s", Arc::new(StringArray::from(vec!["a", "bc", ""]))),
        ];
        let batch =
            RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)));
        let batch = batch.expect("columns of one length").slice(1, 2);
        let message = encode(&batch).expect("plain columns");
        let lease = SegmentPool::default().write(message.parts()).expect("memory");
        let start = lease.segment().address(0, 1).expect("in range").as_ptr() as usize;
        let range = start..start + lease.segment().len();
        let buffer = leased_buffer(&lease, 0, message.size() as u64).expect("in range");
        let schema = decode_schema(&encode_schema(&batch.schema()).expect("a schema")).expect("a schema");
        let read = decode(&buffer, Arc::new(schema)).expect("what was written");
        assert_eq!(read, batch);
        let values = read.column(1).as_string::<i32>().values().as_ptr() as usize;
        assert!(range.contains(&values));
    }

    #[test]
    fn garbage_is_an_error() {
        for bytes in [&b""[..], b"\xff\xff\xff\xff", b"\xff\xff\xff\xff\xff\xff\xff\x7f", b"abcdefgh"] {
            assert!(decode_schema(bytes).is_err());
            assert!(decode(&Buffer::from(bytes), Arc::new(Schema::empty())).is_err());
        }
    }
}
