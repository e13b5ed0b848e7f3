//! [`ColumnarSource`]: files of Parquet or Arrow, which carry their own types.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Cursor, Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, FieldRef, Fields, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use super::error::ReadError;
use super::file_to_read::FileToRead;
use super::input::{Canceller, Input, failure};
use super::parquet_file::{self, SharedFile};
use super::partitions::PartitionValues;
use super::row_groups::{Conditions, Consumer, RowGroups, RowNumbers};
use super::version::Version;
use crate::batch::{Batch, Columns, Cutter, FileId, FileTable, Origin, Rows};
use crate::format::{Compression, Format, declare};
use crate::plan::{Cut, Read};
use crate::sql::UsedColumns;

const ARROW_MAGIC: &[u8; 6] = b"ARROW1";

/// Reads files one after the other; the first decides the columns and the others must have the same ones.
pub(super) struct ColumnarSource {
    format: Format,
    declared: Vec<(String, DataType)>,
    used: Option<UsedColumns>,
    files: VecDeque<FileToRead>,
    table: FileTable,
    canceller: Canceller,
    bytes_read: Arc<AtomicU64>,
    cut: Cut,
    /// All columns of the files, and those that are read.
    columns: Option<(Columns, Columns)>,
    consumers: Vec<Consumer>,
    /// Columns of the rows that are not in the files, and what is known of their values.
    added: Vec<FieldRef>,
    partitions: Option<Arc<PartitionValues>>,
    /// Planned with the columns of the first file; `None` if every row is read.
    conditions: Option<Conditions>,
    current: Option<Current>,
    cutter: Cutter,
    ready: VecDeque<(Rows, Origin)>,
}

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

/// The file that is being read.
struct Current {
    path: PathBuf,
    file: FileId,
    /// Of a regular file.
    version: Option<Version>,
    batches: Batches,
    /// The numbers of the rows to come.
    rows: RowNumbers,
    /// Whether what has come is passed on at once, because the next batch may be long in coming.
    is_live: bool,
    progress: Progress,
}

/// How bytes are counted as read.
enum Progress {
    /// By the input itself.
    Counted,
    /// As the share of a file's size that the rows or batches read so far have of all.
    Share { size: u64, total: u64, done: u64 },
}

impl ColumnarSource {
    pub(super) fn new(
        read: &Read,
        cut: Cut,
        files: Vec<FileToRead>,
        table: FileTable,
        canceller: Canceller,
        bytes_read: Arc<AtomicU64>,
    ) -> Self {
        Self {
            format: read.format,
            declared: read.schema.clone(),
            used: read.used.clone(),
            files: files.into(),
            table,
            canceller,
            bytes_read,
            cut,
            columns: None,
            consumers: Vec::new(),
            added: Vec::new(),
            partitions: None,
            conditions: None,
            current: None,
            cutter: Cutter::new(cut.rows, cut.bytes),
            ready: VecDeque::new(),
        }
    }

    /// Says who reads the source, if all who do are queries that read nothing else: what none of them needs is not read.
    pub(super) fn serve(&mut self, consumers: Vec<Consumer>) {
        self.consumers = consumers;
    }

    /// Says what else there is to know of rows: conditions may be about that.
    pub(super) fn know_added(&mut self, added: Vec<FieldRef>, partitions: Option<Arc<PartitionValues>>) {
        self.added = added;
        self.partitions = partitions;
    }

    pub(super) fn schema(&self) -> Option<SchemaRef> {
        self.columns.as_ref().and_then(|(_, read)| read.settled())
    }

    /// Reads what decides the columns.
    pub(super) fn look(&mut self) -> Result<(), ReadError> {
        self.files.pop_front().map_or(Ok(()), |file| self.start(&file))
    }

    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        loop {
            if let Some((rows, origin)) = self.ready.pop_front() {
                return Ok(Some(Batch::new(rows, origin)));
            }
            if self.canceller.is_cancelled() {
                return Err(ReadError::Cancelled);
            }
            if self.current.is_some() {
                self.advance()?;
            } else if let Some(file) = self.files.pop_front() {
                self.start(&file)?;
            } else {
                return Ok(self.cutter.finish().map(|(rows, origin)| Batch::new(rows, origin)));
            }
        }
    }

    fn start(&mut self, file: &FileToRead) -> Result<(), ReadError> {
        self.current = Some(self.open(file)?);
        Ok(())
    }

    /// Checks the columns of a file against those of the first, and returns the places of those that are read.
    fn admit(&mut self, path: &Path, schema: &SchemaRef) -> Result<Vec<usize>, ReadError> {
        let problem = |problem| ReadError::Columns { path: path.to_owned(), problem };
        let misfit = |source| ReadError::Conform { path: path.to_owned(), row: 1, source };
        let is_first = self.columns.is_none();
        let (mut all, read) = match self.columns.take() {
            Some((all, read)) => (all, Some(read)),
            None if self.declared.is_empty() => (Columns::from_first(), None),
            None => (declare(schema, &self.declared).map_err(problem)?, None),
        };
        let settled = all.conform(RecordBatch::new_empty(Arc::clone(schema))).map_err(misfit)?.schema();
        let mut read = read.unwrap_or_else(|| {
            let names: Vec<_> = settled.fields().iter().map(|field| field.name().clone()).collect();
            match self.used.as_ref().and_then(|used| used.choose(names.iter().map(String::as_str))) {
                Some(chosen) => all.only(&chosen.into_iter().map(|at| names[at].clone()).collect::<Vec<_>>()),
                None => all.clone(),
            }
        });
        let is_read = |name: &str| read.settled().is_some_and(|columns| columns.index_of(name).is_ok());
        let places: Vec<_> = (0..schema.fields().len()).filter(|at| is_read(schema.field(*at).name())).collect();
        let shown = Arc::new(schema.project(&places).expect("places of its own"));
        let columns = read.conform(RecordBatch::new_empty(shown)).map_err(misfit)?.schema();
        if is_first {
            let all: Fields = columns.fields().iter().chain(&self.added).cloned().collect();
            self.conditions = Conditions::plan(&self.consumers, &Arc::new(Schema::new(all)));
        }
        self.columns = Some((all, read));
        Ok(places)
    }

    /// Reads one batch of the current file, or ends it.
    fn advance(&mut self) -> Result<(), ReadError> {
        let current = self.current.as_mut().expect("a file is open");
        let batch = current.batches.next();
        // What was written over what is being decoded looks like damage.
        if let None | Some(Err(_)) = batch
            && let Some(version) = &current.version
        {
            version.check(&current.path)?;
        }
        let Some(batch) = batch else {
            self.current = None;
            if self.cut.at_files {
                self.ready.extend(self.cutter.finish());
            }
            return Ok(());
        };
        let batch = match batch {
            Err(_) if self.canceller.is_cancelled() => return Err(ReadError::Cancelled),
            Err(error) => return Err(damage(&current.path, error)),
            Ok(batch) => current.conform(&mut self.columns.as_mut().expect("set at the start").1, batch)?,
        };
        let origin = current.rows.take(current.file, batch.num_rows());
        let done = if self.format == Format::Parquet { batch.num_rows() as u64 } else { 1 };
        current.progress.add(done, &self.bytes_read);
        let is_live = current.is_live;
        self.ready.extend(self.cutter.push(batch, origin));
        if is_live {
            self.ready.extend(self.cutter.finish());
        }
        Ok(())
    }

    fn open(&mut self, file: &FileToRead) -> Result<Current, ReadError> {
        if self.format == Format::Parquet { self.open_parquet(file) } else { self.open_arrow(file) }
    }

    fn open_parquet(&mut self, file: &FileToRead) -> Result<Current, ReadError> {
        let path = file.name();
        let regular = file.regular(&self.canceller)?;
        let (file, size) = regular.ok_or_else(|| ReadError::NotRegular { path: path.to_owned() })?;
        let corrupt = |error: parquet::errors::ParquetError| damage(path, error.into());
        let version = version_of(path, &file)?;
        let file = SharedFile::new(file, size);
        let reader_metadata = ArrowReaderMetadata::load(&file, ArrowReaderOptions::default()).map_err(corrupt)?;
        let places = self.admit(path, reader_metadata.schema())?;
        let metadata = Arc::clone(reader_metadata.metadata());
        let rows = u64::try_from(metadata.file_metadata().num_rows()).unwrap_or(0);
        // Values that repeat take almost nothing in the file, and their width in memory.
        let widths = (places.len() * size_of::<i64>()) as u64;
        let row_bytes = (parquet_file::bytes_of(&metadata, &places) / rows.max(1)).max(widths).max(1);
        // Rows are decoded a batch at a time; long ones must not be decoded by the thousand.
        let fitting = usize::try_from(self.cut.bytes.get() / row_bytes).unwrap_or(usize::MAX).max(1);
        let fitting = fitting.min(self.cut.rows.get() as usize);
        let constants = self.partitions.as_ref().map(|partitions| partitions.of_file(path)).unwrap_or_default();
        let groups = RowGroups::select(self.conditions.as_ref(), &reader_metadata, &constants);
        let batches = parquet_file::read(&file, &reader_metadata, &groups.places, &places, fitting).map_err(corrupt)?;
        let mut progress = Progress::Share { size, total: rows, done: 0 };
        progress.add(groups.skipped, &self.bytes_read);
        Ok(self.current(path, Some(version), batches, groups.numbers, false, progress))
    }

    fn open_arrow(&mut self, from: &FileToRead) -> Result<Current, ReadError> {
        let path = from.name();
        if from.compression == Compression::None
            && let Some((mut file, size)) = from.regular(&self.canceller)?
        {
            let mut magic = [0; ARROW_MAGIC.len()];
            let unreadable = |source| ReadError::Unreadable { path: path.to_owned(), source };
            let count = file.read(&mut magic).map_err(unreadable)?;
            if magic[..count] == ARROW_MAGIC[..] {
                let version = version_of(path, &file)?;
                let reader = FileReader::try_new(BufReader::new(file), None).map_err(|error| damage(path, error))?;
                let progress = Progress::Share { size, total: reader.num_batches() as u64, done: 0 };
                let places = self.admit(path, &reader.schema())?;
                let batches = projected(reader, places);
                return Ok(self.current(path, Some(version), batches, RowNumbers::all(), false, progress));
            }
            file.rewind().map_err(unreadable)?;
            return self.stream(from.open_as(path, file, &self.canceller, &self.bytes_read)?);
        }
        self.stream(from.open(&self.canceller, &self.bytes_read)?)
    }

    /// Reads Arrow's stream format. A file is a stream between a magic number and a footer, so that it, too, can be read from a
    /// pipe.
    fn stream(&mut self, input: Input) -> Result<Current, ReadError> {
        let (path, is_live) = (input.path().to_owned(), !input.is_regular());
        let (mut reader, version) = input.into_reader();
        let start = stream_start(&mut reader).map_err(|error| match error {
            _ if self.canceller.is_cancelled() => ReadError::Cancelled,
            error => failure(&path, error),
        })?;
        let reader = BufReader::new(Cursor::new(start).chain(reader));
        let reader = StreamReader::try_new(reader, None)
            .map_err(|error| if self.canceller.is_cancelled() { ReadError::Cancelled } else { damage(&path, error) })?;
        let places = self.admit(&path, &reader.schema())?;
        let batches = projected(reader, places);
        Ok(self.current(&path, version, batches, RowNumbers::all(), is_live, Progress::Counted))
    }

    fn current(
        &self,
        path: &Path,
        version: Option<Version>,
        batches: Batches,
        rows: RowNumbers,
        is_live: bool,
        progress: Progress,
    ) -> Current {
        let file = self.table.register(path);
        Current { path: path.to_owned(), file, version, batches, rows, is_live, progress }
    }
}

impl Current {
    fn conform(&self, columns: &mut Columns, batch: RecordBatch) -> Result<RecordBatch, ReadError> {
        let failed = |source| ReadError::Conform { path: self.path.clone(), row: self.rows.next(), source };
        columns.conform(batch).map_err(failed)
    }
}

impl Progress {
    /// Adds rows or batches, of which the total is.
    fn add(&mut self, read: u64, bytes_read: &AtomicU64) {
        let Self::Share { size, total, done } = self else { return };
        let before = share(*size, *done, *total);
        *done += read;
        bytes_read.fetch_add(share(*size, *done, *total) - before, Ordering::Relaxed);
    }
}

/// The columns at these places.
fn projected(
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>> + Send + 'static,
    places: Vec<usize>,
) -> Batches {
    Box::new(batches.map(move |batch| batch?.project(&places)))
}

/// The first bytes of the stream, after the magic number of a file and its padding if there is one.
fn stream_start(reader: &mut impl std::io::Read) -> std::io::Result<Vec<u8>> {
    const WORD: u64 = 8;
    let mut next = || -> std::io::Result<Vec<u8>> {
        let mut word = Vec::new();
        reader.by_ref().take(WORD).read_to_end(&mut word)?;
        Ok(word)
    };
    let mut word = next()?;
    if word.starts_with(ARROW_MAGIC) {
        word = next()?;
        while !word.is_empty() && word.iter().all(|byte| *byte == 0) {
            word = next()?;
        }
    }
    Ok(word)
}

fn share(size: u64, done: u64, total: u64) -> u64 {
    let share = u128::from(size) * u128::from(done.min(total)) / u128::from(total.max(1));
    u64::try_from(share).expect("at most the size")
}

fn version_of(path: &Path, file: &File) -> Result<Version, ReadError> {
    Version::of(file).map_err(|source| ReadError::Unreadable { path: path.to_owned(), source })
}

fn damage(path: &Path, error: ArrowError) -> ReadError {
    match error {
        ArrowError::IoError(_, source) => failure(path, source),
        other => ReadError::Corrupt { path: path.to_owned(), message: other.to_string() },
    }
}
