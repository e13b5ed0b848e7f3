//! [`TextSource`]: files of CSV or JSON.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};

use super::error::ReadError;
use super::file_to_read::FileToRead;
use super::input::{Canceller, Fill, Input};
use super::malformed::MalformedRows;
use crate::batch::{Batch, Cutter, FileId, FileTable, Origin};
use crate::format::{
    Deferred, Format, Limit, Nulls, Problem, RecordError, RecordText, Records, SAMPLE_BYTES, SAMPLE_ROWS, SampleError,
    Sifted, Splitter, TextDecoder, headerless, in_the_making,
};
use crate::plan::{Cut, Read};
use crate::sql::UsedColumns;

/// Reads files of text one after the other, as if they were one: a batch may hold the end of one and the start of the next.
pub(super) struct TextSource {
    format: Format,
    nulls: Nulls,
    declared: Vec<(String, DataType)>,
    /// If malformed records are left out: how their text is made.
    leaves_out: Option<RecordText>,
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
    /// Those of the chunk of which a batch was given last.
    malformed: Option<MalformedRows>,
    /// Rows that are still wanted, if not all are.
    wanted: Option<u64>,
}

/// What became of a chunk.
type Decoded = Result<Given, ReadError>;

struct Given {
    batches: Vec<Batch>,
    malformed: Option<MalformedRows>,
}

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
#[derive(Default)]
struct Chunk {
    records: Records,
    origin: Origin,
    /// Where the malformed ones come from, which are none of the records.
    malformed: Origin,
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
            _ if read.leaves_out_malformed => {
                let width = (!read.schema.is_empty()).then_some(read.schema.len());
                Splitter::csv_of_any_width(&read.dialect, width)
            }
            _ => Splitter::csv(&read.dialect),
        };
        let leaves_out = read.leaves_out_malformed.then(|| RecordText::of(read.format, &read.dialect));
        Self {
            format: read.format,
            nulls: read.dialect.nulls.clone(),
            declared: read.schema.clone(),
            leaves_out,
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
            malformed: None,
            wanted: read.first_rows,
        }
    }

    /// The records that were left out of what was read for the last batch.
    pub(super) fn take_malformed(&mut self) -> Option<MalformedRows> {
        self.malformed.take()
    }

    pub(super) fn schema(&self) -> Option<SchemaRef> {
        self.decoder.as_deref().map(TextDecoder::schema)
    }

    /// Reads what decides the columns.
    pub(super) fn look(&mut self) -> Result<(), ReadError> {
        self.take_sample()
    }

    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        let Some(wanted) = self.wanted else { return self.whole_batch() };
        let batch = if wanted == 0 { None } else { self.whole_batch()? };
        Ok(batch.map(|batch| {
            let rows = batch.rows().min(usize::try_from(wanted).unwrap_or(usize::MAX));
            self.wanted = Some(wanted - rows as u64);
            batch.select(&[0..rows]).expect("it is in memory, and has so many rows")
        }))
    }

    fn whole_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        if self.decoder.is_none() {
            self.take_sample()?;
        }
        if let Some(batch) = self.ready.pop_front() {
            return Ok(Some(batch));
        }
        self.read_ahead();
        match self.ahead.pop_front() {
            Some(Ahead::Chunk(decoded)) => self.give(decoded.wait()?),
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
                    let (table, cut, leaves_out) = (self.table.clone(), self.cut, self.leaves_out);
                    let decoded = move || match leaves_out {
                        None => {
                            let decoded = decoder.decode_settled(&chunk.records);
                            chunk.batches(decoded, cut, &table)
                        }
                        Some(text) => {
                            let sifted = decoder.sift_settled(&chunk.records);
                            chunk.good_batches(sifted, text, cut, &table)
                        }
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
        let given = match self.leaves_out {
            None => {
                let decoded = decoder.decode(&chunk.records);
                chunk.batches(decoded, self.cut, &self.table)
            }
            Some(text) => {
                let sifted = decoder.sift(&chunk.records);
                chunk.good_batches(sifted, text, self.cut, &self.table)
            }
        };
        self.give(given?);
        Ok(())
    }

    fn give(&mut self, given: Given) {
        self.ready.extend(given.batches);
        self.malformed = given.malformed;
    }

    /// Reads the rows that decide the types of columns. From a pipe these are the rows of the first batch: waiting for
    /// more could take for ever. If none of them can be read, it is those of the first batch that has one which can.
    fn take_sample(&mut self) -> Result<(), ReadError> {
        let (mut rows, mut bytes) = (0, 0);
        while rows < SAMPLE_ROWS && bytes < SAMPLE_BYTES {
            let Some(chunk) = self.next_chunk()? else { break };
            rows += chunk.rows();
            bytes += chunk.records.bytes();
            let can_tell = self.leaves_out.is_none() || TextDecoder::can_tell_columns(self.format, &chunk.records);
            self.sample.push_back(chunk);
            if can_tell && self.current.as_ref().is_some_and(|current| !current.input.is_regular()) {
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
        let infer = if self.leaves_out.is_some() { TextDecoder::from_good_records } else { TextDecoder::from_sample };
        let decoder = infer(self.format, &header, &self.nulls, &self.declared, &sample);
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
        let mut chunk = Chunk::default();
        while !chunk.records.is_full(limit) {
            let Some(current) = &mut self.current else {
                match self.files.pop_front() {
                    Some(file) => self.current = Some(self.open(&file)?),
                    None => break,
                }
                continue;
            };
            if current.input.bytes().is_empty() {
                let filled = current.input.fill(chunk.is_empty());
                match filled.map_err(|error| error.in_row(current.row))? {
                    Fill::Bytes => {}
                    Fill::Silence if chunk.is_empty() => continue,
                    Fill::Silence => break,
                    Fill::End => {
                        current.end(&mut self.splitter, &mut chunk)?;
                        self.current = None;
                        if self.cut.at_files && !chunk.is_empty() {
                            break;
                        }
                        continue;
                    }
                }
            }
            current.split(&mut self.splitter, &mut chunk, limit)?;
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn open(&self, file: &FileToRead) -> Result<Current, ReadError> {
        let input = file.open(&self.canceller, &self.bytes_read)?;
        let file = self.table.register(input.path());
        Ok(Current { input, file, row: 1 })
    }
}

impl Chunk {
    fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Rows in the files, malformed ones included.
    fn rows(&self) -> usize {
        self.records.len() + self.records.malformed().len()
    }

    /// The batches of the records.
    fn batches(self, decoded: Result<RecordBatch, RecordError>, cut: Cut, table: &FileTable) -> Decoded {
        let batch = decoded.map_err(|error| located(table, &self.origin, error))?;
        Ok(Given { batches: cut_into(batch, self.origin, cut), malformed: None })
    }

    /// The batches of the records that can be read, at least one, and those that cannot.
    fn good_batches(
        self,
        sifted: Result<Sifted, RecordError>,
        text: RecordText,
        cut: Cut,
        table: &FileTable,
    ) -> Decoded {
        let Sifted { batch, left_out } = sifted.map_err(|error| located(table, &self.origin, error))?;
        if self.rows() == batch.num_rows() {
            return Ok(Given { batches: cut_into(batch, self.origin, cut), malformed: None });
        }
        let origin = if left_out.is_empty() {
            self.origin.clone()
        } else {
            let mut left_out = left_out.iter().map(|error| error.record).peekable();
            let is_good = |record: &usize| left_out.next_if_eq(record).is_none();
            self.origin.take((0..self.records.len()).filter(is_good))
        };
        let schema = batch.schema();
        let mut batches = cut_into(batch, origin, cut);
        if batches.is_empty() {
            batches.push(Batch::new(RecordBatch::new_empty(schema), Origin::default()));
        }
        Ok(Given { batches, malformed: Some(self.malformed_rows(left_out, text)) })
    }

    /// Those that the splitter has put aside and those that could not be decoded, in the order of the files.
    fn malformed_rows(&self, left_out: Vec<RecordError>, text: RecordText) -> MalformedRows {
        let mut rows = MalformedRows::default();
        let mut split = self.records.malformed().iter().enumerate().peekable();
        let mut left_out = left_out.into_iter().peekable();
        loop {
            let is_split =
                |(_, (before, _)): &(usize, &(usize, _))| left_out.peek().is_none_or(|error| *before <= error.record);
            if let Some((at, (_, malformed))) = split.next_if(is_split) {
                rows.push(malformed.clone(), self.malformed.slice(at..at + 1));
            } else if let Some(error) = left_out.next() {
                let origin = self.origin.slice(error.record..error.record + 1);
                rows.push(text.malformed(&self.records, error), origin);
            } else {
                return rows;
            }
        }
    }
}

/// Values can be larger than their text; each chunk is cut for itself, so that nothing has to be copied.
fn cut_into(batch: RecordBatch, origin: Origin, cut: Cut) -> Vec<Batch> {
    let mut cutter = Cutter::new(cut.rows, cut.bytes);
    let mut batches = cutter.push(batch, origin);
    batches.extend(cutter.finish());
    batches.into_iter().map(|(rows, origin)| Batch::new(rows, origin)).collect()
}

impl Current {
    fn split(&mut self, splitter: &mut Splitter, chunk: &mut Chunk, limit: Limit) -> Result<(), ReadError> {
        let before = (chunk.records.len(), chunk.records.malformed().len());
        let taken = splitter.push(self.input.bytes(), &mut chunk.records, limit);
        self.count(chunk, before);
        self.input.consume(taken.map_err(|problem| self.malformed(problem, splitter))?);
        Ok(())
    }

    fn end(&mut self, splitter: &mut Splitter, chunk: &mut Chunk) -> Result<(), ReadError> {
        let before = (chunk.records.len(), chunk.records.malformed().len());
        let finished = splitter.finish(&mut chunk.records);
        self.count(chunk, before);
        finished.map_err(|problem| self.malformed(problem, splitter))
    }

    /// Numbers what has come since there were so many records, and so many malformed ones.
    fn count(&mut self, chunk: &mut Chunk, (mut records, malformed): (usize, usize)) {
        let Chunk { records: all, origin, malformed: origin_of_malformed } = chunk;
        for (before, _) in &all.malformed()[malformed..] {
            self.number(origin, before - records);
            self.number(origin_of_malformed, 1);
            records = *before;
        }
        self.number(origin, all.len() - records);
    }

    fn number(&mut self, origin: &mut Origin, rows: usize) {
        origin.extend(Origin::consecutive(self.file, self.row, rows));
        self.row += rows as u64;
    }

    fn malformed(&self, problem: Problem, splitter: &Splitter) -> ReadError {
        let path = self.input.path().to_owned();
        match problem {
            Problem::Header { .. } | Problem::DuplicateColumn { .. } => ReadError::Columns { path, problem },
            problem if splitter.is_at_header() => ReadError::Header { path, problem },
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
