//! [`Batch`]: rows, where they come from, and where they lie. Nothing else matches on where a batch lies.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::error::ArrowError;
use arrow::ipc::reader::FileReader;
use arrow::ipc::writer::FileWriter;

use super::origin::Origin;
use super::pool::{Lease, SegmentPool};
use super::segment::SegmentError;
use super::{ipc, value_bytes};

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
    Memory { records: RecordBatch, shared: Option<Shared> },
    File(Arc<SpilledFile>),
}

/// Where a batch lies in shared memory, as an encapsulated message.
#[derive(Clone, Debug)]
pub struct Shared {
    pub lease: Arc<Lease>,
    pub offset: u64,
    pub length: u64,
}

/// How a batch is handed to another process.
#[derive(Debug)]
pub enum Parcel {
    Inline(Vec<u8>),
    Shared(Shared),
}

#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    #[error(transparent)]
    Segment(#[from] SegmentError),
    #[error("the batch could not be encoded: {0}")]
    Arrow(#[from] ArrowError),
    #[error("a batch could not be spilled to `{}`: {source}", path.display())]
    Spill { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
struct SpilledFile {
    path: PathBuf,
}

impl Drop for SpilledFile {
    fn drop(&mut self) {
        // The folder is removed with the run; a file that stays until then is no error.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Batch {
    /// `origin` describes exactly the rows of `records`.
    pub fn new(records: RecordBatch, origin: Origin) -> Self {
        debug_assert_eq!(records.num_rows(), origin.len(), "every row has an origin");
        let bytes = value_bytes(&records, 0..records.num_rows()) as u64 + origin.bytes() as u64;
        Self { rows: records.num_rows(), bytes, body: Body::Memory { records, shared: None }, origin: Arc::new(origin) }
    }

    /// A batch whose records are views of a message in shared memory.
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

    /// The rows.
    ///
    /// # Errors
    /// If the batch was spilled and cannot be read back.
    pub fn records(&self) -> Result<RecordBatch, BatchError> {
        match &self.body {
            Body::Memory { records, .. } => Ok(records.clone()),
            Body::File(file) => file.read(),
        }
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
        let records = match &self.body {
            Body::Memory { .. } => return Ok(self),
            Body::File(file) => file.read()?,
        };
        Ok(Self { body: Body::Memory { records, shared: None }, ..self })
    }

    /// Returns the batch with its rows in a file in `folder` instead of memory. The file is removed with the last clone.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn spill(self, folder: &Path, name: &str) -> Result<Self, BatchError> {
        let Body::Memory { records, .. } = &self.body else { return Ok(self) };
        let path = folder.join(format!("{name}.arrow"));
        let wrong = |source| BatchError::Spill { path: path.clone(), source };
        std::fs::create_dir_all(folder).map_err(wrong)?;
        let file = SpilledFile { path: path.clone() };
        let output = BufWriter::new(File::create(&path).map_err(wrong)?);
        let written = FileWriter::try_new(output, &records.schema())
            .and_then(|mut writer| writer.write(records).and_then(|()| writer.finish()));
        written.map_err(|error| wrong(into_io(error)))?;
        Ok(Self { body: Body::File(Arc::new(file)), ..self })
    }

    /// Moves the batch to where another process can read it, unless it is there already.
    ///
    /// # Errors
    /// If there is no shared memory, or a column cannot be encoded.
    pub fn parcel(&mut self, pool: &SegmentPool) -> Result<(RecordBatch, Parcel), BatchError> {
        let records = self.records()?;
        if let Body::Memory { shared: Some(shared), .. } = &self.body {
            return Ok((records, Parcel::Shared(shared.clone())));
        }
        let records = ipc::without_dictionaries(&records)?;
        let message = ipc::encode(&records)?;
        if message.len() <= INLINE_BYTES {
            return Ok((records, Parcel::Inline(message.to_vec())));
        }
        let lease = pool.write(message.parts())?;
        let shared = Shared { lease, offset: 0, length: message.len() as u64 };
        // From here on the batch lives in shared memory only: one copy, however many read it.
        let buffer = ipc::leased_buffer(&shared.lease, 0, shared.length).expect("just written there");
        let records = ipc::decode(&buffer, records.schema())?;
        self.body = Body::Memory { records: records.clone(), shared: Some(shared.clone()) };
        Ok((records, Parcel::Shared(shared)))
    }
}

impl SpilledFile {
    fn read(&self) -> Result<RecordBatch, BatchError> {
        let wrong = |source| BatchError::Spill { path: self.path.clone(), source };
        let file = BufReader::new(File::open(&self.path).map_err(wrong)?);
        let batch = FileReader::try_new(file, None).and_then(|mut reader| {
            reader.next().unwrap_or_else(|| Err(ArrowError::IpcError("the file holds no batch".to_owned())))
        });
        batch.map_err(|error| wrong(into_io(error)))
    }
}

fn into_io(error: ArrowError) -> io::Error {
    match error {
        ArrowError::IoError(_, error) => error,
        other => io::Error::other(other),
    }
}
