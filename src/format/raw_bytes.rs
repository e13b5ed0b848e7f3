//! Bytes as they are: one row with one value is read, and values are written one after the other.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array as _, AsArray as _, BinaryArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::error::{EncodeError, Problem};
use super::splitter::MAX_RECORD;

/// The column of what is read.
pub const BYTES: &str = "bytes";

/// That column.
pub fn bytes_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> =
        LazyLock::new(|| Arc::new(Schema::new(vec![Field::new(BYTES, DataType::Binary, true)])));
    Arc::clone(&SCHEMA)
}

/// Most bytes of the row that is read: as many as other records may have.
pub const MOST_BYTES: usize = MAX_RECORD;

/// Whether a column of this type can be written as it is.
pub fn has_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => true,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, value) => has_bytes(value),
        _ => false,
    }
}

/// Makes one row of them, also of none.
pub(super) fn decode(bytes: &[u8]) -> Result<RecordBatch, Problem> {
    if bytes.len() > MOST_BYTES {
        return Err(Problem::TooLong { limit: MOST_BYTES });
    }
    let column = BinaryArray::from_vec(vec![bytes]);
    Ok(RecordBatch::try_new(bytes_schema(), vec![Arc::new(column)]).expect("a row of its column"))
}

/// Appends the values of the only column, with nothing between them.
pub(super) fn encode(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let schema = batch.schema_ref();
    let [field] = &schema.fields()[..] else {
        if schema.fields().is_empty() && batch.num_rows() == 0 {
            return Ok(());
        }
        let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
        return Err(EncodeError::NotOneColumn { columns });
    };
    let column = field.name();
    // A column without any value has no type yet.
    if *field.data_type() == DataType::Null && batch.num_rows() > 0 {
        return Err(EncodeError::NullBytes { column: column.clone() });
    }
    if !has_bytes(field.data_type()) && *field.data_type() != DataType::Null {
        return Err(EncodeError::NotBytes { column: column.clone(), data_type: field.data_type().clone() });
    }
    let values = match field.data_type() {
        DataType::Dictionary(_, value) => cast(&cast(batch.column(0), value)?, &DataType::LargeBinary)?,
        _ => cast(batch.column(0), &DataType::LargeBinary)?,
    };
    if values.null_count() > 0 {
        return Err(EncodeError::NullBytes { column: column.clone() });
    }
    for value in values.as_binary::<i64>().iter().flatten() {
        out.extend_from_slice(value);
    }
    Ok(())
}
