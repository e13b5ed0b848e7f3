//! Plain text: one column `line`.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::error::{EncodeError, Problem, RecordError};
use super::records::Records;

const COLUMN: &str = "line";

pub(super) fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> =
        LazyLock::new(|| Arc::new(Schema::new(vec![Field::new(COLUMN, DataType::Utf8, true)])));
    Arc::clone(&SCHEMA)
}

pub(super) fn decode(records: &Records) -> Result<RecordBatch, RecordError> {
    let texts = records.texts().map_err(|record| RecordError { record, problem: Problem::NotUtf8 })?;
    let lines = StringArray::from_iter_values(texts.column(0));
    Ok(RecordBatch::try_new(schema(), vec![Arc::new(lines)]).expect("one column of strings"))
}

/// Appends one line per row: the only column, or the one named `line`. A null is an empty line.
pub(super) fn encode(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let schema = batch.schema_ref();
    if schema.fields().is_empty() && batch.num_rows() == 0 {
        return Ok(());
    }
    let index = match schema.index_of(COLUMN) {
        Ok(index) => index,
        Err(_) if schema.fields().len() == 1 => 0,
        Err(_) => {
            let columns = schema.fields().iter().map(|field| field.name().clone()).collect();
            return Err(EncodeError::NoLine { columns });
        }
    };
    let field = schema.field(index);
    if field.data_type().is_nested() {
        let (column, data_type) = (field.name().clone(), field.data_type().clone());
        return Err(EncodeError::Unsupported { column, data_type, format: "a line of text" });
    }
    let column = batch.column(index);
    let options = FormatOptions::default();
    let formatter = ArrayFormatter::try_new(column, &options)?;
    for row in 0..column.len() {
        let line = if column.is_valid(row) { formatter.value(row).try_to_string()? } else { String::new() };
        if line.contains('\n') {
            return Err(EncodeError::LineBreak { row });
        }
        out.extend_from_slice(line.as_bytes());
        out.push(b'\n');
    }
    Ok(())
}

/// A value as it is shown in an error: in quotes, and not too much of it.
pub(super) fn quoted(value: &str) -> String {
    const SHOWN: usize = 60;
    match value.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &value[..end]),
        None => format!("{value:?}"),
    }
}
