//! [`BinarySource`]: a row for each file, or for what a process writes.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use arrow::array::{ArrayRef, BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::error::ReadError;
use super::file_to_read::FileToRead;
use super::input::{Canceller, Fill};
use crate::batch::{Batch, Cutter, FileTable, Origin, Rows};
use crate::format::{BYTES, Format, MOST_BYTES, Problem, bytes_schema};
use crate::plan::{Cut, Read};

/// Reads files as they are. Each has to fit in a batch; what a process writes ([`Format::Bytes`]) has to be no longer than a record may be.
pub(super) struct BinarySource {
    /// The folder of the pipeline: paths are told from there.
    folder: PathBuf,
    format: Format,
    files: VecDeque<FileToRead>,
    table: FileTable,
    canceller: Canceller,
    bytes_read: Arc<AtomicU64>,
    cut: Cut,
    cutter: Cutter,
    ready: VecDeque<(Rows, Origin)>,
}

static PATH_AND_BYTES: LazyLock<SchemaRef> = LazyLock::new(|| {
    let fields = [("path", DataType::Utf8), (BYTES, DataType::Binary)];
    Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
});

impl BinarySource {
    pub(super) fn new(
        read: &Read,
        cut: Cut,
        files: Vec<FileToRead>,
        table: FileTable,
        canceller: Canceller,
        bytes_read: Arc<AtomicU64>,
    ) -> Self {
        let cutter = Cutter::new(cut.rows, cut.bytes);
        let (folder, format, files) = (read.folder.clone(), read.format, files.into());
        Self { folder, format, files, table, canceller, bytes_read, cut, cutter, ready: VecDeque::new() }
    }

    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        loop {
            if let Some((rows, origin)) = self.ready.pop_front() {
                return Ok(Some(Batch::new(rows, origin)));
            }
            let Some(file) = self.files.pop_front() else {
                return Ok(self.cutter.finish().map(|(rows, origin)| Batch::new(rows, origin)));
            };
            let path = file.name();
            let bytes = self.read(&file)?;
            let mut columns: Vec<ArrayRef> = vec![Arc::new(BinaryArray::from_vec(vec![bytes.as_slice()]))];
            if self.format == Format::Binary {
                let shown = path.strip_prefix(&self.folder).unwrap_or(path);
                let shown = shown.to_str().ok_or_else(|| ReadError::PathNotText { path: path.to_owned() })?;
                columns.insert(0, Arc::new(StringArray::from(vec![shown])));
            }
            let row = RecordBatch::try_new(self.schema(), columns).expect("a row of its columns");
            let origin = Origin::consecutive(self.table.register(path), 1, 1);
            self.ready.extend(self.cutter.push(row, origin));
            if self.cut.at_files {
                self.ready.extend(self.cutter.finish());
            }
        }
    }

    pub(super) fn schema(&self) -> SchemaRef {
        if self.format == Format::Bytes { bytes_schema() } else { Arc::clone(&PATH_AND_BYTES) }
    }

    fn read(&self, file: &FileToRead) -> Result<Vec<u8>, ReadError> {
        let limit = match self.format {
            Format::Bytes => MOST_BYTES,
            _ => usize::try_from(self.cut.bytes.get()).unwrap_or(usize::MAX).min(i32::MAX as usize),
        };
        let mut input = file.open(&self.canceller, &self.bytes_read)?;
        let mut bytes = Vec::new();
        while input.fill(true)? == Fill::Bytes {
            let piece = input.bytes();
            if bytes.len() + piece.len() > limit {
                let path = file.name().to_owned();
                return Err(match self.format {
                    Format::Bytes => ReadError::Record { path, row: 1, problem: Problem::TooLong { limit } },
                    _ => ReadError::LargerThanBatch { path, limit },
                });
            }
            bytes.extend_from_slice(piece);
            let count = piece.len();
            input.consume(count);
        }
        Ok(bytes)
    }
}
