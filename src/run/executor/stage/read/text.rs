//! [`TextSource`]: files of CSV or JSON.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};

use super::error::ReadError;
use super::input::{Canceller, Fill, Input};
use super::{FileToRead, Target};
use crate::batch::{Batch, Cutter, FileId, FileTable, Origin};
use crate::format::{
    Deferred, Format, Limit, Nulls, Problem, RecordError, Records, SAMPLE_BYTES, SAMPLE_ROWS, SampleError, Splitter,
    TextDecoder, headerless, in_the_making,
};
use crate::plan::{Cut, Read};
use crate::sql::UsedColumns;

/// Reads files of text one after the other, as if they were one: a batch may hold the end of one and the start of the next.
pub(super) struct TextSource {
    format: Format,
    nulls: Nulls,
    declared: Vec<(String, DataType)>,
    used: Option<UsedColumns>,
    files: VecDeque<FileToRead>,
    table: FileTable,
    canceller: Canceller,
    bytes_read: Arc<AtomicU64>,
    cut: Cut,
    splitter: Splitter,
    current: Option<Current>,
    /// Chunks of the sample that are not decoded yet.
    sample: VecDeque<Chunk>,
    /// Shared with decoding that goes on elsewhere, which there is only while no records can change it.
    decoder: Option<Arc<TextDecoder>>,
    /// Whether files may be read ahead: what has come through a pipe is passed on before more is waited for.
    reads_ahead: bool,
    /// Chunks that are being decoded, in order.
    ahead: VecDeque<Ahead>,
    ready: VecDeque<Batch>,
}

/// What became of a chunk.
type Decoded = Result<Vec<Batch>, ReadError>;

/// What has been read ahead.
enum Ahead {
    Chunk(Deferred<Decoded>),
    /// There is no chunk more.
    Failed(ReadError),
}

/// The file that is being read.
struct Current {
    input: Input,
    file: FileId,
    /// 1-based number of the next row.
    row: u64,
}

/// Records that become one batch, or several if their values are much larger than their text.
struct Chunk {
    records: Records,
    origin: Origin,
}

impl TextSource {
    pub(super) fn new(
        read: &Read,
        cut: Cut,
        files: Vec<FileToRead>,
        reads_ahead: bool,
        table: FileTable,
        canceller: Canceller,
        bytes_read: Arc<AtomicU64>,
    ) -> Self {
        let splitter = match read.format {
            Format::Jsonl => Splitter::jsonl(),
            Format::Json => Splitter::json(),
            _ => Splitter::csv(&read.dialect),
        };
        Self {
            format: read.format,
            nulls: read.dialect.nulls.clone(),
            declared: read.schema.clone(),
            used: read.used.clone(),
            files: files.into(),
            table,
            canceller,
            bytes_read,
            cut,
            splitter,
            current: None,
            sample: VecDeque::new(),
            decoder: None,
            reads_ahead,
            ahead: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    pub(super) fn schema(&self) -> Option<SchemaRef> {
        self.decoder.as_deref().map(TextDecoder::schema)
    }

    /// Reads what decides the columns.
    pub(super) fn look(&mut self) -> Result<(), ReadError> {
        self.take_sample()
    }

    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        if self.decoder.is_none() {
            self.take_sample()?;
        }
        if let Some(batch) = self.ready.pop_front() {
            return Ok(Some(batch));
        }
        self.read_ahead();
        match self.ahead.pop_front() {
            Some(Ahead::Chunk(decoded)) => self.ready.extend(decoded.wait()?),
            Some(Ahead::Failed(error)) => return Err(error),
            None => match self.following_chunk()? {
                Some(chunk) => self.decode(chunk)?,
                None => return Ok(None),
            },
        }
        Ok(self.ready.pop_front())
    }

    /// Reads files as far ahead as may be, and has what was read decoded on other threads.
    ///
    /// That is a chunk for each core and one more, so memory is bounded: a chunk has at most the rows and bytes of the cut and one
    /// record beyond them.
    fn read_ahead(&mut self) {
        while self.reads_ahead && self.ahead.len() < in_the_making() {
            let decoder = self.decoder.as_ref().filter(|decoder| decoder.is_settled());
            let Some(decoder) = decoder.map(Arc::clone) else { return };
            match self.following_chunk() {
                Ok(Some(chunk)) => {
                    let (table, cut) = (self.table.clone(), self.cut);
                    let decoded = move || {
                        let decoded = decoder.decode_settled(&chunk.records);
                        chunk.batches(decoded, cut, &table)
                    };
                    self.ahead.push_back(Ahead::Chunk(Deferred::start(decoded)));
                }
                Ok(None) => return,
                Err(error) => {
                    self.ahead.push_back(Ahead::Failed(error));
                    self.reads_ahead = false;
                }
            }
        }
    }

    fn decode(&mut self, chunk: Chunk) -> Result<(), ReadError> {
        let decoder = self.decoder.as_mut().expect("a sample has been taken");
        let decoder = Arc::get_mut(decoder).expect("it is shared only while chunks are decoded elsewhere");
        let decoded = decoder.decode(&chunk.records);
        self.ready.extend(chunk.batches(decoded, self.cut, &self.table)?);
        Ok(())
    }

    /// Reads the rows that decide the types of columns. From a pipe these are the rows of the first batch: waiting for
    /// more could take for ever.
    fn take_sample(&mut self) -> Result<(), ReadError> {
        let (mut rows, mut bytes) = (0, 0);
        while rows < SAMPLE_ROWS && bytes < SAMPLE_BYTES {
            let Some(chunk) = self.next_chunk()? else { break };
            rows += chunk.records.len();
            bytes += chunk.records.bytes();
            self.sample.push_back(chunk);
            if self.current.as_ref().is_some_and(|current| !current.input.is_regular()) {
                break;
            }
        }
        let header = match (self.splitter.header(), self.splitter.width()) {
            (Some(names), _) => names.to_vec(),
            // Files without even a header: what is declared is all that is known.
            (None, None) => headerless(0, &self.declared),
            (None, Some(width)) => self.headerless(width)?,
        };
        let sample: Vec<_> = self.sample.iter().map(|chunk| &chunk.records).collect();
        let decoder = TextDecoder::from_sample(self.format, &header, &self.nulls, &self.declared, &sample);
        let mut decoder = decoder.map_err(|error| match error {
            SampleError::Record(chunk, error) => located(&self.table, &self.sample[chunk].origin, error),
            SampleError::Columns(problem) => self.in_first_file(problem),
        })?;
        if let Some(used) = &self.used
            && let Some(chosen) = used.choose(decoder.columns().iter().map(String::as_str))
        {
            decoder.keep(&chosen);
        }
        self.decoder = Some(Arc::new(decoder));
        Ok(())
    }

    fn headerless(&self, width: usize) -> Result<Vec<String>, ReadError> {
        let names = headerless(width, &self.declared);
        if names.len() != width && matches!(self.format, Format::Csv | Format::Tsv) {
            return Err(self.in_first_file(Problem::Ragged { found: width, expected: names.len() }));
        }
        Ok(names)
    }

    fn in_first_file(&self, problem: Problem) -> ReadError {
        let first = self.sample.front().and_then(|chunk| chunk.origin.place(0)).map(|place| place.file);
        let file = first.or_else(|| self.current.as_ref().map(|current| current.file));
        ReadError::Columns { path: path(&self.table, file.unwrap_or(FileId(0))), problem }
    }

    /// The next chunk, be it of the sample or of what comes after it.
    fn following_chunk(&mut self) -> Result<Option<Chunk>, ReadError> {
        match self.sample.pop_front() {
            Some(chunk) => Ok(Some(chunk)),
            None => self.next_chunk(),
        }
    }

    /// Reads records up to the cut, the end of the last file, or the silence of a pipe.
    fn next_chunk(&mut self) -> Result<Option<Chunk>, ReadError> {
        let limit = Limit {
            records: self.cut.rows.get() as usize,
            bytes: usize::try_from(self.cut.bytes.get()).unwrap_or(usize::MAX),
        };
        let mut chunk = Chunk { records: Records::default(), origin: Origin::default() };
        while !chunk.records.is_full(limit) {
            let Some(current) = &mut self.current else {
                match self.files.pop_front() {
                    Some(file) => self.current = Some(self.open(&file)?),
                    None => break,
                }
                continue;
            };
            if current.input.bytes().is_empty() {
                let filled = current.input.fill(chunk.records.is_empty());
                match filled.map_err(|error| error.in_row(current.row))? {
                    Fill::Bytes => {}
                    Fill::Silence if chunk.records.is_empty() => continue,
                    Fill::Silence => break,
                    Fill::End => {
                        current.end(&mut self.splitter, &mut chunk)?;
                        self.current = None;
                        if self.cut.at_files && !chunk.records.is_empty() {
                            break;
                        }
                        continue;
                    }
                }
            }
            current.split(&mut self.splitter, &mut chunk, limit)?;
        }
        Ok((!chunk.records.is_empty()).then_some(chunk))
    }

    fn open(&self, file: &FileToRead) -> Result<Current, ReadError> {
        let input = match &file.target {
            Target::Stdin => Input::stdin(file.compression, file.encoding, &self.canceller, &self.bytes_read)?,
            Target::Path(path) => {
                Input::open(path, file.compression, file.encoding, &self.canceller, &self.bytes_read)?
            }
        };
        let file = self.table.register(input.path());
        Ok(Current { input, file, row: 1 })
    }
}

impl Chunk {
    /// The batches of the records. Values can be larger than their text; each chunk is cut for itself, so that nothing has to be
    /// copied.
    fn batches(self, decoded: Result<RecordBatch, RecordError>, cut: Cut, table: &FileTable) -> Decoded {
        let batch = decoded.map_err(|error| located(table, &self.origin, error))?;
        let mut cutter = Cutter::new(cut.rows, cut.bytes);
        let mut batches = cutter.push(batch, self.origin);
        batches.extend(cutter.finish());
        Ok(batches.into_iter().map(|(rows, origin)| Batch::new(rows, origin)).collect())
    }
}

impl Current {
    fn split(&mut self, splitter: &mut Splitter, chunk: &mut Chunk, limit: Limit) -> Result<(), ReadError> {
        let before = chunk.records.len();
        let taken = splitter.push(self.input.bytes(), &mut chunk.records, limit);
        self.count(chunk, before);
        self.input.consume(taken.map_err(|problem| self.malformed(problem))?);
        Ok(())
    }

    fn end(&mut self, splitter: &mut Splitter, chunk: &mut Chunk) -> Result<(), ReadError> {
        let before = chunk.records.len();
        let finished = splitter.finish(&mut chunk.records);
        self.count(chunk, before);
        finished.map_err(|problem| self.malformed(problem))
    }

    fn count(&mut self, chunk: &mut Chunk, before: usize) {
        let rows = chunk.records.len() - before;
        chunk.origin.extend(Origin::consecutive(self.file, self.row, rows));
        self.row += rows as u64;
    }

    fn malformed(&self, problem: Problem) -> ReadError {
        let path = self.input.path().to_owned();
        match problem {
            Problem::Header { .. } | Problem::DuplicateColumn { .. } => ReadError::Columns { path, problem },
            problem => ReadError::Record { path, row: self.row, problem },
        }
    }
}

fn located(table: &FileTable, origin: &Origin, error: RecordError) -> ReadError {
    let place = origin.place(error.record).expect("every record comes from a file");
    ReadError::Record { path: path(table, place.file), row: place.first, problem: error.problem }
}

fn path(table: &FileTable, file: FileId) -> std::path::PathBuf {
    table.path(file).expect("the file was registered when it was opened")
}
