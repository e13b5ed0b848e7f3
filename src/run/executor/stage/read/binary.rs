//! [`BinarySource`]: a row for each file.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, LazyLock};

use arrow::array::{BinaryArray, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::error::ReadError;
use super::input::{Canceller, Fill, Input};
use super::{FileToRead, Target};
use crate::batch::{Batch, Cutter, FileTable, Origin, Rows};
use crate::plan::{Cut, Read};

/// Reads files as they are. Each has to fit in a batch.
pub(super) struct BinarySource {
    /// The folder of the pipeline: paths are told from there.
    folder: PathBuf,
    files: VecDeque<FileToRead>,
    table: FileTable,
    canceller: Canceller,
    bytes_read: Arc<AtomicU64>,
    cut: Cut,
    cutter: Cutter,
    ready: VecDeque<(Rows, Origin)>,
}

pub(super) fn binary_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let fields = [("path", DataType::Utf8), ("bytes", DataType::Binary)];
        Arc::new(Schema::new(fields.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()))
    });
    Arc::clone(&SCHEMA)
}

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
        let (folder, files) = (read.folder.clone(), files.into());
        Self { folder, files, table, canceller, bytes_read, cut, cutter, ready: VecDeque::new() }
    }

    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        loop {
            if let Some((rows, origin)) = self.ready.pop_front() {
                return Ok(Some(Batch::new(rows, origin)));
            }
            let Some(file) = self.files.pop_front() else {
                return Ok(self.cutter.finish().map(|(rows, origin)| Batch::new(rows, origin)));
            };
            let Target::Path(path) = &file.target else { unreachable!("the plan refuses standard input") };
            let bytes = self.read(path, &file)?;
            let shown = path.strip_prefix(&self.folder).unwrap_or(path);
            let shown = shown.to_str().ok_or_else(|| ReadError::PathNotText { path: path.clone() })?;
            let columns: [arrow::array::ArrayRef; 2] =
                [Arc::new(StringArray::from(vec![shown])), Arc::new(BinaryArray::from_vec(vec![bytes.as_slice()]))];
            let row = RecordBatch::try_new(binary_schema(), columns.to_vec()).expect("a row of its columns");
            let origin = Origin::consecutive(self.table.register(path), 1, 1);
            self.ready.extend(self.cutter.push(row, origin));
            if self.cut.at_files {
                self.ready.extend(self.cutter.finish());
            }
        }
    }

    fn read(&self, path: &Path, file: &FileToRead) -> Result<Vec<u8>, ReadError> {
        let limit = usize::try_from(self.cut.bytes.get()).unwrap_or(usize::MAX).min(i32::MAX as usize);
        let mut input = Input::open(path, file.compression, file.encoding, &self.canceller, &self.bytes_read)?;
        let mut bytes = Vec::new();
        while input.fill(true)? == Fill::Bytes {
            let piece = input.bytes();
            if bytes.len() + piece.len() > limit {
                return Err(ReadError::LargerThanBatch { path: path.to_owned(), limit });
            }
            bytes.extend_from_slice(piece);
            let count = piece.len();
            input.consume(count);
        }
        Ok(bytes)
    }
}
