//! [`Batch`]: rows, where they come from, and where they lie. Nothing else matches on where a batch lies.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Write as _};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;
use bytes::Bytes;
use bytesize::ByteSize;

use super::conform::{Columns, ConformError};
use super::ipc;
use super::origin::Origin;
use super::pool::{Lease, SegmentPool};
use super::rows::Rows;
use super::scattered::Scattered;
use super::segment::{SegmentError, SegmentId};
use super::text::Text;

/// Batches up to this size travel inside a message: below it a segment costs more than a copy. Bytes.
pub const INLINE_BYTES: usize = 32 << 10;

/// A batch of rows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch {
    body: Body,
    origin: Arc<Origin>,
    rows: usize,
    bytes: u64,
}

#[derive(Clone, Debug)]
enum Body {
    /// Lines are never shared.
    Memory {
        rows: Rows,
        shared: Option<Shared>,
    },
    File(Arc<SpilledFile>),
}

/// Where a batch lies in shared memory.
#[derive(Clone, Debug)]
pub enum Shared {
    /// In one piece, as an encapsulated message.
    Whole {
        lease: Arc<Lease>,
        offset: u64,
        length: u64,
    },
    Scattered(Arc<Scattered>),
}

/// How a batch is handed to another process.
#[derive(Debug, Default)]
pub struct Parcel {
    /// What travels in the frame: the batch, or where its buffers lie if it is scattered.
    pub data: Vec<u8>,
    pub is_scattered: bool,
    /// Otherwise it is here.
    pub segment: Option<(SegmentId, u64)>,
    /// Bytes of the batch, or of `data`.
    pub length: u64,
    /// To be kept until the other process has read it.
    pub leases: Vec<Arc<Lease>>,
}

#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error(transparent)]
    Conform(#[from] ConformError),
    #[error("the batch could not be encoded: {0}")]
    Arrow(#[from] ArrowError),
    #[error("a batch could not be spilled to `{}`: {source}", path.display())]
    Spill { path: PathBuf, source: io::Error },
    #[error(
        "batches that wait on disk reached the limit of {}; `plan` shows the edges that spill: filter or aggregate before them",
        ByteSize::b(*.limit)
    )]
    SpillLimit { limit: u64 },
}

/// Room on disk for the batches of a run. Clones share one account.
#[derive(Clone, Debug)]
pub struct SpillSpace {
    pub folder: PathBuf,
    pub limit: u64,
    pub used: Arc<AtomicU64>,
}

impl SpillSpace {
    pub fn new(folder: PathBuf, limit: u64) -> Self {
        Self { folder, limit, used: Arc::default() }
    }
}

/// What a file of spilled rows is.
#[derive(Clone, Copy, Debug)]
enum Form {
    Arrow,
    Lines,
}

#[derive(Debug)]
struct SpilledFile {
    path: PathBuf,
    form: Form,
    bytes: u64,
    used: Arc<AtomicU64>,
}

impl Drop for SpilledFile {
    fn drop(&mut self) {
        // The folder is removed with the run; a file that stays until then is no error.
        let _ = std::fs::remove_file(&self.path);
        self.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Batch {
    /// `origin` describes exactly the rows.
    pub fn new(rows: impl Into<Rows>, origin: Origin) -> Self {
        let rows = rows.into();
        debug_assert_eq!(rows.len(), origin.len(), "every row has an origin");
        let bytes = rows.value_bytes(0..rows.len()) as u64 + origin.bytes() as u64;
        Self { rows: rows.len(), bytes, body: Body::Memory { rows, shared: None }, origin: Arc::new(origin) }
    }

    /// A batch whose records are views of shared memory.
    pub fn in_shared_memory(records: RecordBatch, origin: Origin, shared: Shared) -> Self {
        let mut batch = Self::new(records, origin);
        if let Body::Memory { shared: place, .. } = &mut batch.body {
            *place = Some(shared);
        }
        batch
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes that the batch is charged with in a queue: its values and its origin.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The rows, in the form that they have.
    ///
    /// # Errors
    /// If the batch was spilled and cannot be read back.
    pub fn contents(&self) -> Result<Rows, BatchError> {
        match &self.body {
            Body::Memory { rows, .. } => Ok(rows.clone()),
            Body::File(file) => file.read(),
        }
    }

    /// The rows as columns.
    ///
    /// # Errors
    /// If the batch was spilled and cannot be read back.
    pub fn records(&self) -> Result<RecordBatch, BatchError> {
        Ok(self.contents()?.records()?)
    }

    /// The rows in memory of their own, for whoever may keep them long: views of shared memory keep whole segments.
    ///
    /// # Errors
    /// If the batch was spilled and cannot be read back, or cannot be copied.
    pub fn private_records(&self) -> Result<RecordBatch, BatchError> {
        let records = self.records()?;
        if !matches!(&self.body, Body::Memory { shared: Some(_), .. }) {
            return Ok(records);
        }
        let all = UInt32Array::from_iter_values(0..u32::try_from(self.rows).expect("cuts bound the rows of a batch"));
        Ok(take_record_batch(&records, &all)?)
    }

    /// Returns the batch with its rows in memory.
    ///
    /// # Errors
    /// If the batch was spilled and cannot be read back.
    pub fn load(self) -> Result<Self, BatchError> {
        let rows = match &self.body {
            Body::Memory { .. } => return Ok(self),
            Body::File(file) => file.read()?,
        };
        Ok(Self { body: Body::Memory { rows, shared: None }, ..self })
    }

    /// Returns the rows with the settled columns. A batch that has them stays where it lies, so that it can be handed on without
    /// a copy.
    ///
    /// # Errors
    /// If the rows do not fit the columns, or the batch was spilled and cannot be read back.
    pub fn conform(self, columns: &mut Columns) -> Result<Self, BatchError> {
        let batch = self.load()?;
        let rows = batch.contents()?;
        let schema = rows.schema();
        let conformed = rows.conform(columns)?;
        Ok(if conformed.schema() == schema { batch } else { Self::new(conformed, batch.origin().clone()) })
    }

    /// The rows in these ranges, as a batch.
    ///
    /// # Errors
    /// If the batch was spilled and cannot be read back, or its rows cannot be joined.
    pub fn select(&self, ranges: &[Range<usize>]) -> Result<Self, BatchError> {
        if *ranges == [0..self.rows] {
            return Ok(self.clone());
        }
        let rows = self.contents()?;
        let mut origin = Origin::default();
        ranges.iter().for_each(|range| origin.extend(self.origin.slice(range.clone())));
        let pieces = ranges.iter().map(|range| rows.slice(range.clone())).collect();
        Ok(Self::new(Rows::join(&rows.schema(), pieces)?, origin))
    }

    /// Returns the batch with its rows in a file instead of memory. The file is removed with the last clone.
    ///
    /// # Errors
    /// If the file cannot be written, or there is no room left for it.
    pub fn spill(self, space: &SpillSpace, name: &str) -> Result<Self, BatchError> {
        let Body::Memory { rows, .. } = &self.body else { return Ok(self) };
        let (ending, form) = match rows {
            Rows::Columns(_) => ("arrow", Form::Arrow),
            Rows::Lines(_) => ("txt", Form::Lines),
        };
        let path = space.folder.join(format!("{name}.{ending}"));
        let wrong = |source| BatchError::Spill { path: path.clone(), source };
        std::fs::create_dir_all(&space.folder).map_err(wrong)?;
        let before = space.used.fetch_add(self.bytes, Ordering::Relaxed);
        let file = SpilledFile { path: path.clone(), form, bytes: self.bytes, used: Arc::clone(&space.used) };
        if before.saturating_add(self.bytes) > space.limit {
            return Err(BatchError::SpillLimit { limit: space.limit });
        }
        write_spilled(File::create(&path).map_err(wrong)?, rows).map_err(wrong)?;
        Ok(Self { body: Body::File(Arc::new(file)), ..self })
    }

    /// Moves the batch to where another process can read it, unless it is there already.
    ///
    /// # Errors
    /// If there is no shared memory, or a column cannot be encoded.
    pub fn parcel(&mut self, pool: &SegmentPool) -> Result<(RecordBatch, Parcel), BatchError> {
        let records = self.records()?;
        if let Body::Memory { shared: Some(shared), .. } = &self.body {
            return Ok((records, shared.parcel()));
        }
        let records = ipc::without_dictionaries(&records)?;
        let message = ipc::encode(&records)?;
        if message.size() <= INLINE_BYTES {
            let data = message.to_vec();
            return Ok((records, Parcel { length: data.len() as u64, data, ..Parcel::default() }));
        }
        let lease = pool.write(message.parts())?;
        let shared = Shared::Whole { lease, offset: 0, length: message.size() as u64 };
        // From here on the batch lives in shared memory only: one copy, however many read it.
        let records = shared.records(records.schema(), self.rows)?;
        let parcel = shared.parcel();
        self.body = Body::Memory { rows: records.clone().into(), shared: Some(shared) };
        Ok((records, parcel))
    }
}

impl Shared {
    /// The rows, as views of shared memory.
    ///
    /// # Errors
    /// If what is there is no batch of the schema.
    pub fn records(&self, schema: SchemaRef, rows: usize) -> Result<RecordBatch, ArrowError> {
        match self {
            Self::Whole { lease, offset, length } => {
                let buffer = ipc::leased_buffer(lease, *offset, *length);
                let outside = || ArrowError::IpcError("the batch lies outside of its segment".to_owned());
                ipc::decode(&buffer.ok_or_else(outside)?, schema)
            }
            Self::Scattered(scattered) => scattered.decode(schema, rows),
        }
    }

    fn parcel(&self) -> Parcel {
        match self {
            Self::Whole { lease, offset, length } => Parcel {
                segment: Some((lease.segment().id(), *offset)),
                length: *length,
                leases: vec![Arc::clone(lease)],
                ..Parcel::default()
            },
            Self::Scattered(scattered) => {
                let data = scattered.to_vec();
                let leases = scattered.leases().to_vec();
                Parcel { length: data.len() as u64, data, is_scattered: true, leases, ..Parcel::default() }
            }
        }
    }
}

fn write_spilled(mut file: File, rows: &Rows) -> io::Result<()> {
    match rows {
        Rows::Lines(text) => text.parts().try_for_each(|part| file.write_all(part)),
        Rows::Columns(records) => FileWriter::try_new(BufWriter::new(file), &records.schema())
            .and_then(|mut writer| writer.write(records).and_then(|()| writer.finish()))
            .map_err(into_io),
    }
}

impl SpilledFile {
    fn read(&self) -> Result<Rows, BatchError> {
        let rows = match self.form {
            Form::Arrow => self.read_records().map(Rows::Columns),
            Form::Lines => self.read_text().map(Rows::Lines),
        };
        rows.map_err(|source| BatchError::Spill { path: self.path.clone(), source })
    }

    fn read_records(&self) -> io::Result<RecordBatch> {
        let file = BufReader::new(File::open(&self.path)?);
        let batch = FileReader::try_new(file, None).and_then(|mut reader| {
            reader.next().unwrap_or_else(|| Err(ArrowError::IpcError("the file holds no batch".to_owned())))
        });
        batch.map_err(into_io)
    }

    fn read_text(&self) -> io::Result<Text> {
        let mut text = Text::default();
        let damaged = |_| io::Error::new(io::ErrorKind::InvalidData, "the file is not the text that was written");
        text.push(Bytes::from(std::fs::read(&self.path)?)).map_err(damaged)?;
        Ok(text)
    }
}

fn into_io(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn batches_on_disk_have_a_limit_together_and_give_their_room_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let column: arrow::array::ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        let records = RecordBatch::try_from_iter([("n", column)]).expect("one column");
        let batch = Batch::new(records, Origin::unknown(100));
        let space = SpillSpace::new(folder.path().to_owned(), batch.bytes() * 3 / 2);
        let first = batch.clone().spill(&space, "first").expect("there is room");
        let refused = batch.clone().spill(&space, "second");
        assert!(matches!(refused, Err(BatchError::SpillLimit { .. })), "{refused:?}");
        drop((first, refused));
        batch.spill(&space, "third").expect("there is room again");
    }
    #[test]
    fn lines_come_back_from_disk_as_lines_and_are_selected_as_lines() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut text = Text::default();
        text.push("a\n\n\u{e9}\n".into()).expect("it is text");
        let batch = Batch::new(text, Origin::unknown(3));
        let bytes = batch.bytes();
        let spilled = batch.clone().spill(&SpillSpace::new(folder.path().to_owned(), 1 << 20), "b").expect("room");
        let loaded = spilled.load().expect("the file is there");
        assert_eq!((loaded.rows(), loaded.bytes()), (3, bytes));
        assert_eq!(loaded.records().expect("lines"), batch.records().expect("lines"));
        let selected = loaded.select(&[0..1, 2..3]).expect("lines");
        let Rows::Lines(text) = selected.contents().expect("in memory") else { panic!("they were lines") };
        assert_eq!(text.parts().flat_map(|part| part.to_vec()).collect::<Vec<_>>(), "a\n\u{e9}\n".as_bytes());
    }
}
