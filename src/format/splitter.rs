//! [`Splitter`]: bytes to whole records.

use csv_core::ReadRecordResult;

use super::error::Problem;
use super::records::{Limit, Records};

/// Longest record. A longer one is most likely a wrong delimiter or a quote that is never closed, and it has to fit in memory.
const MAX_RECORD: usize = 256 << 20;

pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// Splits the bytes of files into records. What is left of an incomplete record stays inside until more bytes come.
#[derive(Debug)]
pub enum Splitter {
    Csv(Box<CsvSplitter>),
    Lines(LineSplitter),
}

impl Splitter {
    /// For CSV and TSV. Without a header, records of any one width are taken.
    pub fn csv(delimiter: u8, header: bool) -> Self {
        Self::Csv(Box::new(CsvSplitter::new(delimiter, header)))
    }

    /// For JSONL: lines that are not blank.
    pub fn jsonl() -> Self {
        Self::Lines(LineSplitter { keeps_blank: false, ..LineSplitter::default() })
    }

    /// For text: every line.
    pub fn lines() -> Self {
        Self::Lines(LineSplitter { keeps_blank: true, ..LineSplitter::default() })
    }

    /// Takes bytes from the start of `input` until it is used up or `records` is full, and returns how many it took. An
    /// error belongs to the record after those in `records`.
    pub fn push(&mut self, input: &[u8], records: &mut Records, limit: Limit) -> Result<usize, Problem> {
        match self {
            Self::Csv(csv) => csv.push(input, records, limit),
            Self::Lines(lines) => lines.push(input, records, limit),
        }
    }

    /// Ends a file: a last record without a line break is added, and the next bytes start a new file.
    pub fn finish(&mut self, records: &mut Records) -> Result<(), Problem> {
        match self {
            Self::Csv(csv) => csv.finish(records),
            Self::Lines(lines) => lines.finish(records),
        }
    }

    /// The columns that the header names; `None` for other text or before the header of the first file.
    pub fn header(&self) -> Option<&[String]> {
        match self {
            Self::Csv(csv) => csv.header.as_deref(),
            Self::Lines(_) => None,
        }
    }

    /// The number of fields of a record of CSV, once it is known.
    pub fn width(&self) -> Option<usize> {
        match self {
            Self::Csv(csv) => csv.width,
            Self::Lines(_) => Some(1),
        }
    }
}

#[derive(Debug)]
pub struct CsvSplitter {
    reader: csv_core::Reader,
    has_header: bool,
    /// Whether the next record is a header.
    at_header: bool,
    header: Option<Vec<String>>,
    width: Option<usize>,
    /// The record that is being read: its fields without quotes, and where they end.
    record: Vec<u8>,
    record_len: usize,
    ends: Vec<usize>,
    ends_len: usize,
    /// Quotes in the record so far: an odd number at the end of the file means that one is not closed.
    quotes: usize,
    delimiter: u8,
}

impl CsvSplitter {
    fn new(delimiter: u8, has_header: bool) -> Self {
        Self {
            reader: reader(delimiter),
            has_header,
            at_header: has_header,
            header: None,
            width: None,
            record: vec![0; 4096],
            record_len: 0,
            ends: vec![0; 64],
            ends_len: 0,
            quotes: 0,
            delimiter,
        }
    }

    fn push(&mut self, input: &[u8], records: &mut Records, limit: Limit) -> Result<usize, Problem> {
        let mut taken = 0;
        while taken < input.len() && !records.is_full(limit) {
            let (result, read) = self.read(&input[taken..])?;
            taken += read;
            if result == ReadRecordResult::Record {
                self.complete(records)?;
            }
        }
        Ok(taken)
    }

    fn finish(&mut self, records: &mut Records) -> Result<(), Problem> {
        loop {
            match self.read(&[])?.0 {
                ReadRecordResult::Record if self.quotes % 2 == 1 => return Err(Problem::UnclosedQuote),
                ReadRecordResult::Record => self.complete(records)?,
                ReadRecordResult::End => break,
                _ => {}
            }
        }
        self.reader = reader(self.delimiter);
        self.at_header = self.has_header;
        Ok(())
    }

    /// One step of the parser; makes room where it ran out of it.
    fn read(&mut self, input: &[u8]) -> Result<(ReadRecordResult, usize), Problem> {
        let (record, ends) = (&mut self.record[self.record_len..], &mut self.ends[self.ends_len..]);
        let (result, read, written, ended) = self.reader.read_record(input, record, ends);
        self.record_len += written;
        self.ends_len += ended;
        self.quotes += input[..read].iter().filter(|byte| **byte == b'"').count();
        if self.record_len > MAX_RECORD {
            return Err(Problem::TooLong { limit: MAX_RECORD });
        }
        match result {
            ReadRecordResult::OutputFull => self.record.resize(self.record.len() * 2, 0),
            ReadRecordResult::OutputEndsFull => self.ends.resize(self.ends.len() * 2, 0),
            _ => {}
        }
        Ok((result, read))
    }

    fn complete(&mut self, records: &mut Records) -> Result<(), Problem> {
        let (record, ends) = (&self.record[..self.record_len], &self.ends[..self.ends_len]);
        self.record_len = 0;
        self.ends_len = 0;
        self.quotes = 0;
        if self.at_header {
            self.at_header = false;
            let found = header(record, ends)?;
            return match &self.header {
                Some(expected) if *expected == found => Ok(()),
                Some(expected) => Err(Problem::Header { expected: expected.clone(), found }),
                None => {
                    self.width = Some(found.len());
                    self.header = Some(found);
                    Ok(())
                }
            };
        }
        let expected = *self.width.get_or_insert(ends.len());
        if ends.len() != expected {
            return Err(Problem::Ragged { found: ends.len(), expected });
        }
        records.push(record, ends);
        Ok(())
    }
}

fn reader(delimiter: u8) -> csv_core::Reader {
    csv_core::ReaderBuilder::new().delimiter(delimiter).build()
}

fn header(record: &[u8], ends: &[usize]) -> Result<Vec<String>, Problem> {
    let record = std::str::from_utf8(record).map_err(|_| Problem::NotUtf8)?;
    let mut names = Vec::with_capacity(ends.len());
    let mut start = 0;
    for &end in ends {
        let name = record.get(start..end).ok_or(Problem::NotUtf8)?;
        // The parser knows a byte order mark only if it comes in one piece.
        let name = if start == 0 { name.strip_prefix('\u{feff}').unwrap_or(name) } else { name };
        if names.iter().any(|known| known == name) {
            return Err(Problem::DuplicateColumn { column: name.to_owned() });
        }
        names.push(name.to_owned());
        start = end;
    }
    Ok(names)
}

#[derive(Debug, Default)]
pub struct LineSplitter {
    keeps_blank: bool,
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Whether a line of this file has been seen.
    in_file: bool,
}

impl LineSplitter {
    fn push(&mut self, input: &[u8], records: &mut Records, limit: Limit) -> Result<usize, Problem> {
        let mut taken = 0;
        while taken < input.len() && !records.is_full(limit) {
            let rest = &input[taken..];
            let Some(end) = memchr::memchr(b'\n', rest) else {
                self.partial.extend_from_slice(rest);
                taken = input.len();
                break;
            };
            taken += end + 1;
            if self.partial.is_empty() {
                self.complete(&rest[..end], records);
            } else {
                let mut line = std::mem::take(&mut self.partial);
                line.extend_from_slice(&rest[..end]);
                self.complete(&line, records);
                line.clear();
                self.partial = line;
            }
        }
        if self.partial.len() > MAX_RECORD { Err(Problem::TooLong { limit: MAX_RECORD }) } else { Ok(taken) }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the same shape as for CSV")]
    fn finish(&mut self, records: &mut Records) -> Result<(), Problem> {
        let line = std::mem::take(&mut self.partial);
        if !line.is_empty() {
            self.complete(&line, records);
        }
        self.in_file = false;
        Ok(())
    }

    fn complete(&mut self, line: &[u8], records: &mut Records) {
        let line = if self.in_file { line } else { line.strip_prefix(BOM).unwrap_or(line) };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.in_file = true;
        if self.keeps_blank || !line.trim_ascii().is_empty() {
            records.push(line, &[line.len()]);
        }
    }
}
