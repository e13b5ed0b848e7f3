//! Plain text: one column `line`.

use std::sync::{Arc, LazyLock};

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::error::{EncodeError, Problem, RecordError};
use super::records::Records;
use super::splitter::BOM;

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

/// Reads a whole text. The lines stay where they are, but for closing the gaps between them.
pub(super) fn decode_text(mut text: Vec<u8>) -> Result<RecordBatch, RecordError> {
    let Some(offsets) = close_gaps(&mut text) else {
        return Err(RecordError { record: 0, problem: Problem::TooLong { limit: i32::MAX as usize } });
    };
    let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
    let text = Buffer::from_vec(text);
    let lines = StringArray::try_new(offsets.clone(), text.clone(), None).map_err(|_| {
        let mut lines = offsets.windows(2).map(|ends| &text[ends[0] as usize..ends[1] as usize]);
        let record = lines.position(|line| std::str::from_utf8(line).is_err()).unwrap_or(0);
        RecordError { record, problem: Problem::NotUtf8 }
    })?;
    Ok(RecordBatch::try_new(schema(), vec![Arc::new(lines)]).expect("one column of strings"))
}

/// Moves the lines of a text together, without line breaks and without a byte order mark. Returns where the lines are, or `None`
/// if there is too much for one column.
fn close_gaps(text: &mut Vec<u8>) -> Option<Vec<i32>> {
    i32::try_from(text.len()).ok()?;
    let mut offsets = Vec::with_capacity(text.len() / 32 + 2);
    offsets.push(0);
    let mut start = if text.starts_with(BOM) { BOM.len() } else { 0 };
    let mut kept = 0;
    while start < text.len() {
        let end = memchr::memchr(b'\n', &text[start..]).map_or(text.len(), |length| start + length);
        let line_end = if end > start && text[end - 1] == b'\r' { end - 1 } else { end };
        text.copy_within(start..line_end, kept);
        kept += line_end - start;
        offsets.push(i32::try_from(kept).ok()?);
        start = end + 1;
    }
    text.truncate(kept);
    Some(offsets)
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
    if let Some(lines) = column.as_string_opt::<i32>() {
        return encode_strings(lines, out);
    }
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

fn encode_strings(lines: &StringArray, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let offsets = lines.value_offsets();
    let text = &lines.value_data()[offsets[0] as usize..offsets[lines.len()] as usize];
    if memchr::memchr(b'\n', text).is_some() {
        let is_broken = |&row: &usize| lines.is_valid(row) && lines.value(row).contains('\n');
        if let Some(row) = (0..lines.len()).find(is_broken) {
            return Err(EncodeError::LineBreak { row });
        }
    }
    out.reserve(text.len() + lines.len());
    for (row, ends) in offsets.windows(2).enumerate() {
        if lines.is_valid(row) {
            out.extend_from_slice(&lines.value_data()[ends[0] as usize..ends[1] as usize]);
        }
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
