//! Whole tables in memory: the standard input and output of commands.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::dialect::{Dialect, Nulls};
use super::error::{EncodeError, Problem, RecordError};
use super::file_encoder::{EncodeMode, FileEncoder};
use super::records::{Limit, Records};
use super::splitter::Splitter;
use super::text_decoder::{SampleError, TextDecoder, declared_schema, headerless};
use super::{Compression, Format, lines, raw_bytes, text_decoder};
use crate::batch::{Columns, ConformError};

const ARROW_MAGIC: &[u8] = b"ARROW1";

/// Why bytes are not a table in a format.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// `row` is 1-based and does not count the header.
    #[error("row {row}: {problem}")]
    Record { row: usize, problem: Problem },
    #[error(transparent)]
    Columns(Problem),
    #[error(transparent)]
    Conform(ConformError),
    #[error("not valid Arrow IPC data: {0}")]
    Arrow(ArrowError),
    #[error("not valid Parquet data: {0}")]
    Parquet(parquet::errors::ParquetError),
}

impl From<RecordError> for DecodeError {
    fn from(error: RecordError) -> Self {
        Self::Record { row: error.record + 1, problem: error.problem }
    }
}

/// Appends a whole table to `out`: text with a header where the format has one, Arrow as a stream.
/// Waits for work on the threads of rayon, so it must not be called on one of them.
pub fn encode(format: Format, batch: &RecordBatch, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mut encoder = FileEncoder::new(out, format, true, Compression::None, batch.schema_ref(), EncodeMode::Stream)?;
    encoder.write(batch)?;
    encoder.finish()?;
    Ok(())
}

/// Reads a whole table. Columns that are not `declared` are inferred from the first rows, as they are for files. No bytes at
/// all are a table without rows, with the declared columns; as [`Format::Bytes`], they are a row like any others.
pub fn decode(format: Format, text: &[u8], declared: &[(String, DataType)]) -> Result<RecordBatch, DecodeError> {
    match format {
        Format::Bytes => raw_bytes::decode(text).map_err(|problem| DecodeError::Record { row: 1, problem }),
        _ if text.is_empty() && format != Format::Lines => {
            Ok(RecordBatch::new_empty(Arc::new(declared_schema(declared))))
        }
        Format::Csv => decode_text(format, Splitter::csv(&Dialect::default()), text, declared),
        Format::Tsv => decode_text(format, Splitter::csv(&Dialect::with_delimiter(b'\t')), text, declared),
        Format::Jsonl => decode_text(format, Splitter::jsonl(), text, declared),
        Format::Json => decode_text(format, Splitter::json(), text, declared),
        Format::Lines => lines::decode(text).map_err(DecodeError::from)?.records().map_err(DecodeError::Arrow),
        Format::Arrow => decode_arrow(text, declared),
        Format::Parquet => decode_parquet(text, declared),
        Format::Binary => unreachable!("only files are read so"),
    }
}

fn decode_text(
    format: Format,
    mut splitter: Splitter,
    bytes: &[u8],
    declared: &[(String, DataType)],
) -> Result<RecordBatch, DecodeError> {
    let mut records = Records::default();
    let all = Limit { records: usize::MAX, bytes: usize::MAX };
    let split = splitter.push(bytes, &mut records, all).and_then(|_| splitter.finish(&mut records));
    split.map_err(|problem| DecodeError::Record { row: records.len() + 1, problem })?;
    let header = match splitter.header() {
        Some(names) => names.to_vec(),
        None => headerless(splitter.width().unwrap_or(0), declared),
    };
    let mut decoder = TextDecoder::from_sample(format, &header, &Nulls::default(), declared, &[&records]).map_err(
        |error| match error {
            SampleError::Columns(problem) => DecodeError::Columns(problem),
            SampleError::Record(_, error) => error.into(),
        },
    )?;
    decoder.decode(&records).map_err(DecodeError::from)
}

fn decode_arrow(bytes: &[u8], declared: &[(String, DataType)]) -> Result<RecordBatch, DecodeError> {
    let (schema, batches) = if bytes.starts_with(ARROW_MAGIC) {
        let reader = FileReader::try_new(Cursor::new(bytes), None).map_err(DecodeError::Arrow)?;
        (reader.schema(), reader.collect::<Result<Vec<_>, _>>())
    } else {
        let reader = StreamReader::try_new(bytes, None).map_err(DecodeError::Arrow)?;
        (reader.schema(), reader.collect::<Result<Vec<_>, _>>())
    };
    conform(&schema, &batches.map_err(DecodeError::Arrow)?, declared)
}

fn decode_parquet(bytes: &[u8], declared: &[(String, DataType)]) -> Result<RecordBatch, DecodeError> {
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(Bytes::copy_from_slice(bytes)).map_err(DecodeError::Parquet)?;
    let schema = Arc::clone(builder.schema());
    let reader = builder.build().map_err(DecodeError::Parquet)?;
    let batches = reader.collect::<Result<Vec<_>, _>>().map_err(DecodeError::Arrow)?;
    conform(&schema, &batches, declared)
}

fn conform(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    declared: &[(String, DataType)],
) -> Result<RecordBatch, DecodeError> {
    let batch = concat_batches(schema, batches).map_err(DecodeError::Arrow)?;
    let batch = Columns::from_first().conform(batch).map_err(DecodeError::Conform)?;
    text_decoder::declare(&batch.schema(), declared)
        .map_err(DecodeError::Columns)
        .and_then(|mut columns| columns.conform(batch).map_err(DecodeError::Conform))
}
