//! Parquet files to batches: every column is decoded ahead, beside the others.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Fields, Schema};
use arrow::error::ArrowError;
use bytes::Bytes;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::ParquetMetaData;
use parquet::file::reader::{ChunkReader, Length};

use crate::format::RunAhead;

type Batch = std::result::Result<RecordBatch, ArrowError>;

/// Reads the rows of some row groups of a file, `rows` at a time, of the `columns` at these places.
pub(super) fn read(
    file: &SharedFile,
    metadata: &ArrowReaderMetadata,
    groups: &[usize],
    columns: &[usize],
    rows: usize,
) -> Result<Box<dyn Iterator<Item = Batch> + Send>> {
    let description = metadata.metadata().file_metadata().schema_descr_ptr();
    let with_leaves: BTreeSet<_> =
        (0..description.num_columns()).map(|leaf| description.get_column_root_idx(leaf)).collect();
    let reader = |mask| {
        ParquetRecordBatchReaderBuilder::new_with_metadata(file.clone(), metadata.clone())
            .with_projection(mask)
            .with_row_groups(groups.to_vec())
            .with_batch_size(rows)
            .build()
    };
    // Without leaves a column has no pages from which its rows could be told.
    if columns.is_empty() || !columns.iter().all(|column| with_leaves.contains(column)) {
        return Ok(Box::new(reader(ProjectionMask::roots(&description, columns.iter().copied()))?));
    }
    let columns =
        columns.iter().map(|column| Ok(RunAhead::new(reader(ProjectionMask::roots(&description, [*column]))?)));
    Ok(Box::new(SideBySide { columns: columns.collect::<Result<_>>()? }))
}

/// Bytes of the pages of the `columns` at these places, which ascend, before compression.
pub(super) fn bytes_of(metadata: &ParquetMetaData, columns: &[usize]) -> u64 {
    let description = metadata.file_metadata().schema_descr();
    let chunks = metadata.row_groups().iter().flat_map(|group| group.columns().iter().enumerate());
    let read = chunks.filter(|(leaf, _)| columns.binary_search(&description.get_column_root_idx(*leaf)).is_ok());
    read.map(|(_, chunk)| u64::try_from(chunk.uncompressed_size()).unwrap_or(0)).sum()
}

/// Columns that are read each for itself.
struct SideBySide {
    columns: Vec<RunAhead<ParquetRecordBatchReader>>,
}

impl Iterator for SideBySide {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let pieces: Vec<_> = self.columns.iter_mut().map(Iterator::next).collect();
        if pieces.iter().all(Option::is_none) {
            return None;
        }
        let short = || Err(ArrowError::ParquetError("columns do not have the same number of rows".to_owned()));
        Some(
            pieces
                .into_iter()
                .map(|piece| piece.unwrap_or_else(short))
                .collect::<std::result::Result<_, _>>()
                .and_then(beside),
        )
    }
}

fn beside(pieces: Vec<RecordBatch>) -> Batch {
    let fields = pieces.iter().flat_map(|piece| piece.schema_ref().fields().iter().cloned()).collect::<Fields>();
    let columns = pieces.iter().flat_map(|piece| piece.columns().iter().cloned()).collect();
    let options = RecordBatchOptions::new().with_row_count(pieces.first().map(RecordBatch::num_rows));
    RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)
}

/// A file that many read at once, each at a place of its own.
#[derive(Clone)]
pub(super) struct SharedFile {
    file: Arc<File>,
    size: u64,
}

impl SharedFile {
    pub(super) fn new(file: File, size: u64) -> Self {
        Self { file: Arc::new(file), size }
    }
}

impl Length for SharedFile {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for SharedFile {
    type T = BufReader<At>;

    fn get_read(&self, start: u64) -> Result<Self::T> {
        Ok(BufReader::new(At { file: Arc::clone(&self.file), position: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Vec::with_capacity(length);
        let reader = At { file: Arc::clone(&self.file), position: start };
        let count = reader.take(length as u64).read_to_end(&mut bytes)?;
        if count < length {
            return Err(ParquetError::EOF(format!("Expected to read {length} bytes, read only {count}")));
        }
        Ok(bytes.into())
    }
}

/// A place in a file.
pub(super) struct At {
    file: Arc<File>,
    position: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read_at(buffer, self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}
