//! [`Spool`]: batches that cannot be written yet, because the type of one of their columns is not known.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;

use crate::batch::value_bytes;
use crate::format::EncodeError;

/// Bytes of values that are held in memory; beyond it batches go to disk.
const IN_MEMORY: usize = 16 << 20;

/// Holds batches in order, in memory first and then in a file without a name.
pub(super) struct Spool {
    folder: PathBuf,
    held: Vec<RecordBatch>,
    held_bytes: usize,
    on_disk: Option<(SchemaRef, StreamWriter<BufWriter<File>>)>,
    in_memory: usize,
}

impl Spool {
    pub(super) fn new(folder: &Path) -> Self {
        Self::with_memory(folder, IN_MEMORY)
    }

    pub(super) fn with_memory(folder: &Path, in_memory: usize) -> Self {
        Self { folder: folder.to_owned(), held: Vec::new(), held_bytes: 0, on_disk: None, in_memory }
    }

    pub(super) fn push(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        if self.on_disk.is_some() {
            return self.append(batch).map_err(|error| self.in_folder(error));
        }
        self.held.push(batch.clone());
        self.held_bytes += value_bytes(batch, 0..batch.num_rows());
        if self.held_bytes > self.in_memory {
            for batch in std::mem::take(&mut self.held) {
                self.append(&batch).map_err(|error| self.in_folder(error))?;
            }
        }
        Ok(())
    }

    /// Gives the batches back in order.
    pub(super) fn replay(
        self,
        mut take: impl FnMut(RecordBatch) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        if let Some((_, writer)) = self.on_disk {
            let mut file = writer.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
            file.seek(SeekFrom::Start(0))?;
            let mut reader = BufReader::new(file);
            while !reader.fill_buf()?.is_empty() {
                for batch in StreamReader::try_new(&mut reader, None)? {
                    take(batch?)?;
                }
            }
        }
        self.held.into_iter().try_for_each(take)
    }

    /// Appends to the file: a stream for each run of batches with one schema, one stream after the other.
    fn append(&mut self, batch: &RecordBatch) -> Result<(), EncodeError> {
        let mut writer = match self.on_disk.take() {
            Some((schema, writer)) if schema == batch.schema() => writer,
            Some((_, writer)) => StreamWriter::try_new(writer.into_inner()?, batch.schema_ref())?,
            None => {
                let file = tempfile::tempfile_in(&self.folder)?;
                StreamWriter::try_new(BufWriter::new(file), batch.schema_ref())?
            }
        };
        writer.write(batch)?;
        self.on_disk = Some((batch.schema(), writer));
        Ok(())
    }

    /// Says where it was that the system failed: not where the output is.
    fn in_folder(&self, error: EncodeError) -> EncodeError {
        match error {
            EncodeError::Io(source) => {
                let message =
                    format!("rows that wait in {} for the types of their columns: {source}", self.folder.display());
                EncodeError::Io(io::Error::new(source.kind(), message))
            }
            other => other,
        }
    }
}
