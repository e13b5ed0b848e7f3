//! Plain text: one column `line`.

use arrow::array::{Array, AsArray, RecordBatch, StringArray};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::error::{EncodeError, RecordError};
use super::line_reader::LineReader;
use crate::batch::{LINE, Text};

/// Reads a whole text.
pub(super) fn decode(mut bytes: &[u8]) -> Result<Text, RecordError> {
    let mut text = Text::default();
    let mut reader = LineReader::default();
    while !bytes.is_empty() {
        let room = reader.room();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        reader.advance(count);
        reader.take_lines(&mut text)?;
    }
    reader.finish(&mut text)?;
    Ok(text)
}

/// Appends one line per row: the only column, or the one named `line`. A null is an empty line.
pub(super) fn encode(batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let schema = batch.schema_ref();
    if schema.fields().is_empty() && batch.num_rows() == 0 {
        return Ok(());
    }
    let index = match schema.index_of(LINE) {
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
