//! [`LineSource`]: files of lines.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::error::ReadError;
use super::file_to_read::FileToRead;
use super::input::{Canceller, Fill, Input};
use crate::batch::{Batch, Cutter, FileId, FileTable, Origin, Rows, Text};
use crate::format::{Deferred, LineReader, RecordError, in_the_making};
use crate::plan::Cut;

/// Reads files of lines one after the other, as if they were one: a batch may hold the end of one and the start of the next.
pub(super) struct LineSource {
    files: VecDeque<FileToRead>,
    table: FileTable,
    canceller: Canceller,
    bytes_read: Arc<AtomicU64>,
    cut: Cut,
    current: Option<Current>,
    reader: LineReader,
    /// Lines that have not been given yet.
    pending: Text,
    origin: Origin,
    /// What ends the lines after those that are pending.
    failed: Option<ReadError>,
    /// A batch ends before the next file begins.
    ends_file: bool,
    /// Whether somebody wants them as columns.
    as_columns: bool,
    /// Whether files may be read ahead: what has come through a pipe is passed on before more is waited for.
    reads_ahead: bool,
    /// Chunks that are being made columns of, in order.
    ahead: VecDeque<Deferred<Vec<Batch>>>,
    ready: VecDeque<Batch>,
}

/// The file that is being read.
struct Current {
    input: Input,
    file: FileId,
    /// 1-based number of the next line.
    row: u64,
}

/// Lines that become one batch, or several if their values count much more than their text.
struct Chunk {
    text: Text,
    origin: Origin,
}

impl LineSource {
    pub(super) fn new(
        cut: Cut,
        as_columns: bool,
        files: Vec<FileToRead>,
        reads_ahead: bool,
        table: FileTable,
        canceller: Canceller,
        bytes_read: Arc<AtomicU64>,
    ) -> Self {
        Self {
            files: files.into(),
            table,
            canceller,
            bytes_read,
            cut,
            current: None,
            reader: LineReader::default(),
            pending: Text::default(),
            origin: Origin::default(),
            failed: None,
            ends_file: false,
            as_columns,
            reads_ahead,
            ahead: VecDeque::new(),
            ready: VecDeque::new(),
        }
    }

    pub(super) fn next_batch(&mut self) -> Result<Option<Batch>, ReadError> {
        if let Some(batch) = self.ready.pop_front() {
            return Ok(Some(batch));
        }
        self.read_ahead();
        let batches = match self.ahead.pop_front() {
            Some(batches) => Some(batches.wait()),
            None => self.next_chunk()?.map(|chunk| chunk.batches(self.cut, self.as_columns)),
        };
        self.ready.extend(batches.into_iter().flatten());
        Ok(self.ready.pop_front())
    }

    /// Has columns made of lines on other threads: of a chunk for each core and one more.
    fn read_ahead(&mut self) {
        while self.as_columns && self.reads_ahead && self.ahead.len() < in_the_making() {
            match self.next_chunk() {
                Ok(Some(chunk)) => {
                    let cut = self.cut;
                    self.ahead.push_back(Deferred::start(move || chunk.batches(cut, true)));
                }
                Ok(None) => return,
                Err(error) => {
                    self.failed = Some(error);
                    self.reads_ahead = false;
                }
            }
        }
    }

    /// Reads lines up to the cut, the end of the last file, or the silence of a pipe.
    fn next_chunk(&mut self) -> Result<Option<Chunk>, ReadError> {
        let rows = self.cut.rows.get() as usize;
        let bytes = usize::try_from(self.cut.bytes.get()).unwrap_or(usize::MAX);
        loop {
            if let Some(text) = self.pending.take_front(rows, bytes) {
                let rest = self.origin.slice(text.lines()..self.origin.len());
                let origin = self.origin.slice(0..text.lines());
                self.origin = rest;
                return Ok(Some(Chunk { text, origin }));
            }
            if std::mem::take(&mut self.ends_file)
                && let Some(last) = self.take_pending()
            {
                return Ok(Some(last));
            }
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            let Some(current) = &mut self.current else {
                match self.files.pop_front() {
                    Some(file) => self.current = Some(self.open(&file)?),
                    None => return Ok(self.take_pending()),
                }
                continue;
            };
            let read = current.input.read_into(self.reader.room(), self.pending.is_empty());
            let (fill, count) = read.map_err(|error| error.in_row(current.row))?;
            self.reader.advance(count);
            match fill {
                Fill::Bytes => self.take_lines(LineReader::take_lines),
                Fill::Silence if self.pending.is_empty() => {}
                Fill::Silence => return Ok(self.take_pending()),
                Fill::End => {
                    self.take_lines(LineReader::finish);
                    self.current = None;
                    self.ends_file = self.cut.at_files;
                }
            }
        }
    }

    fn take_lines(&mut self, take: fn(&mut LineReader, &mut Text) -> Result<(), RecordError>) {
        let Some(current) = &mut self.current else { return };
        let before = self.pending.lines();
        let taken = take(&mut self.reader, &mut self.pending);
        let rows = self.pending.lines() - before;
        self.origin.extend(Origin::consecutive(current.file, current.row, rows));
        current.row += rows as u64;
        if let Err(error) = taken {
            let path = current.input.path().to_owned();
            self.failed = Some(ReadError::Record { path, row: current.row, problem: error.problem });
        }
    }

    fn take_pending(&mut self) -> Option<Chunk> {
        let text = std::mem::take(&mut self.pending);
        let origin = std::mem::take(&mut self.origin);
        (!text.is_empty()).then_some(Chunk { text, origin })
    }

    fn open(&self, file: &FileToRead) -> Result<Current, ReadError> {
        let input = file.open(&self.canceller, &self.bytes_read)?;
        let file = self.table.register(input.path());
        Ok(Current { input, file, row: 1 })
    }
}

impl Chunk {
    fn batches(self, cut: Cut, as_columns: bool) -> Vec<Batch> {
        let mut cutter = Cutter::new(cut.rows, cut.bytes);
        let mut batches = cutter.push(self.text, self.origin);
        batches.extend(cutter.finish());
        let batch = |(rows, origin): (Rows, Origin)| {
            if as_columns {
                Batch::new(rows.records().expect("cuts bound the bytes of a batch"), origin)
            } else {
                Batch::new(rows, origin)
            }
        };
        batches.into_iter().map(batch).collect()
    }
}
