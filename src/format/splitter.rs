//! [`Splitter`]: bytes to whole records.

use csv_core::ReadRecordResult;

use super::dialect::Dialect;
use super::error::Problem;
use super::json_splitter::JsonSplitter;
use super::malformed::{Malformed, RecordText};
use super::records::{Limit, Records};

/// Longest record. A longer one is most likely a wrong delimiter or a quote that is never closed, and it has to fit in memory.
pub(super) const MAX_RECORD: usize = 256 << 20;

/// Bytes that are searched for a quote before they are taken as lines: more would be searched again for the next chunk.
const PLAIN_WINDOW: usize = 64 << 10;

pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// Splits the bytes of files into records. What is left of an incomplete record stays inside until more bytes come.
#[derive(Debug)]
pub enum Splitter {
    Csv(Box<CsvSplitter>),
    Lines(LineSplitter),
    Json(JsonSplitter),
}

impl Splitter {
    /// For CSV and TSV. Without a header, records of any one width are taken.
    pub fn csv(dialect: &Dialect) -> Self {
        Self::Csv(Box::new(CsvSplitter::new(dialect)))
    }

    /// The same, but records with too many or too few fields are put aside as malformed. `width` is how many they should have where
    /// no header says so; otherwise it is what the first one has.
    pub fn csv_of_any_width(dialect: &Dialect, width: Option<usize>) -> Self {
        let csv = CsvSplitter::new(dialect);
        let width = width.filter(|_| !dialect.header);
        Self::Csv(Box::new(CsvSplitter { width, malformed: Some(RecordText::csv(dialect)), ..csv }))
    }

    /// For JSONL: lines that are not blank.
    pub fn jsonl() -> Self {
        Self::Lines(LineSplitter::default())
    }

    /// For JSON: an array of objects, or objects one after the other.
    pub fn json() -> Self {
        Self::Json(JsonSplitter::default())
    }

    /// Takes bytes from the start of `input` until it is used up or `records` is full, and returns how many it took. An
    /// error belongs to the record after those in `records`.
    pub fn push(&mut self, input: &[u8], records: &mut Records, limit: Limit) -> Result<usize, Problem> {
        match self {
            Self::Csv(csv) => csv.push(input, records, limit),
            Self::Lines(lines) => lines.push(input, records, limit),
            Self::Json(json) => json.push(input, records, limit),
        }
    }

    /// Ends a file: a last record without a line break is added, and the next bytes start a new file.
    pub fn finish(&mut self, records: &mut Records) -> Result<(), Problem> {
        match self {
            Self::Csv(csv) => csv.finish(records),
            Self::Lines(lines) => lines.finish(records),
            Self::Json(json) => json.finish(records),
        }
    }

    /// Whether what comes next is a header, or the rest of one; it stays so if that is malformed.
    pub fn is_at_header(&self) -> bool {
        matches!(self, Self::Csv(csv) if csv.at_header)
    }

    /// The columns that the header names; `None` for other text or before the header of the first file.
    pub fn header(&self) -> Option<&[String]> {
        match self {
            Self::Csv(csv) => csv.header.as_deref(),
            Self::Lines(_) | Self::Json(_) => None,
        }
    }

    /// The number of fields of a record of CSV, once it is known.
    pub fn width(&self) -> Option<usize> {
        match self {
            Self::Csv(csv) => csv.width,
            Self::Lines(_) | Self::Json(_) => Some(1),
        }
    }
}

#[derive(Debug)]
pub struct CsvSplitter {
    reader: csv_core::Reader,
    has_header: bool,
    /// Whether the next record is a header.
    at_header: bool,
    /// Whether the first record of the file is complete.
    is_past_first: bool,
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
    quote: Option<u8>,
    /// If records of another width are no error: how their text is made.
    malformed: Option<RecordText>,
}

impl CsvSplitter {
    fn new(dialect: &Dialect) -> Self {
        Self {
            reader: reader(dialect),
            has_header: dialect.header,
            at_header: dialect.header,
            is_past_first: false,
            header: None,
            width: None,
            record: vec![0; 4096],
            record_len: 0,
            ends: vec![0; 64],
            ends_len: 0,
            quotes: 0,
            delimiter: dialect.delimiter,
            quote: dialect.quote,
            malformed: None,
        }
    }

    fn push(&mut self, input: &[u8], records: &mut Records, limit: Limit) -> Result<usize, Problem> {
        let mut taken = 0;
        while taken < input.len() && !records.is_full(limit) {
            taken += self.push_plain(&input[taken..], records, limit)?;
            if taken == input.len() || records.is_full(limit) {
                break;
            }
            let (result, read) = self.read(&input[taken..])?;
            taken += read;
            if result == ReadRecordResult::Record {
                self.complete(records)?;
            }
        }
        Ok(taken)
    }

    /// Takes the whole records before the next quote, if the parser stands between two records: without quotes, a record is a
    /// line. The first of a file is left to the parser, which knows of byte order marks and headers.
    fn push_plain(&mut self, input: &[u8], records: &mut Records, limit: Limit) -> Result<usize, Problem> {
        let is_inside = self.record_len > 0 || self.ends_len > 0 || self.quotes > 0;
        let (Some(width), false, true) = (self.width, is_inside, self.is_past_first) else { return Ok(0) };
        let window = &input[..input.len().min(PLAIN_WINDOW)];
        let quote = self.quote.and_then(|quote| memchr::memchr(quote, window));
        let plain = &window[..quote.unwrap_or(window.len())];
        match records.push_plain(plain, self.delimiter, width, limit) {
            // It is left to the parser.
            Err(other) if self.malformed.is_some() => Ok(other.at),
            pushed => pushed.map_err(|other| Problem::Ragged { found: other.found, expected: width }),
        }
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
        self.reader.reset(); // To build another one costs more than to read a small file.
        self.at_header = self.has_header;
        self.is_past_first = false;
        Ok(())
    }

    /// One step of the parser; makes room where it ran out of it.
    fn read(&mut self, input: &[u8]) -> Result<(ReadRecordResult, usize), Problem> {
        let (record, ends) = (&mut self.record[self.record_len..], &mut self.ends[self.ends_len..]);
        let (result, read, written, ended) = self.reader.read_record(input, record, ends);
        self.record_len += written;
        self.ends_len += ended;
        if let Some(quote) = self.quote {
            self.quotes += input[..read].iter().filter(|byte| **byte == quote).count();
        }
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
        self.is_past_first = true;
        if self.at_header {
            let found = header(record, ends)?;
            self.at_header = false;
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
            let problem = Problem::Ragged { found: ends.len(), expected };
            let Some(text) = self.malformed else { return Err(problem) };
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let fields = starts.zip(ends).map(|(start, end)| &record[start..*end]);
            records.push_malformed(Malformed { text: text.text(fields), problem });
            return Ok(());
        }
        records.push(record, ends);
        Ok(())
    }
}

fn reader(dialect: &Dialect) -> csv_core::Reader {
    let mut reader = csv_core::ReaderBuilder::new();
    match dialect.quote {
        Some(quote) => reader.quote(quote),
        None => reader.quoting(false),
    };
    reader.delimiter(dialect.delimiter).build()
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
        if !line.trim_ascii().is_empty() {
            records.push(line, &[line.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The fields of every record of two files that come in pieces of `sizes`, and whether an error has ended them.
    fn split(
        files: [&[u8]; 2],
        dialect: &Dialect,
        limit: Limit,
        sizes: &[usize],
    ) -> (Vec<Vec<Vec<u8>>>, Vec<usize>, String) {
        let mut splitter = Splitter::csv(dialect);
        let (mut found, mut cuts, mut chunk) = (Vec::new(), Vec::new(), Records::default());
        let mut sizes = sizes.iter().copied().cycle();
        for mut file in files {
            while !file.is_empty() {
                let size = sizes.next().unwrap().min(file.len());
                let taken = match splitter.push(&file[..size], &mut chunk, limit) {
                    Ok(taken) => taken,
                    Err(problem) => return (found, cuts, problem.to_string()),
                };
                file = &file[taken..];
                if chunk.is_full(limit) {
                    take(&mut chunk, &mut found, &mut cuts, splitter.width());
                }
            }
            if let Err(problem) = splitter.finish(&mut chunk) {
                return (found, cuts, problem.to_string());
            }
        }
        take(&mut chunk, &mut found, &mut cuts, splitter.width());
        (found, cuts, String::new())
    }

    fn take(chunk: &mut Records, found: &mut Vec<Vec<Vec<u8>>>, cuts: &mut Vec<usize>, width: Option<usize>) {
        let records = std::mem::take(chunk);
        cuts.push(records.bytes());
        for record in 0..records.len() {
            found.push((0..width.unwrap()).map(|field| records.field(record, field).to_vec()).collect());
        }
    }

    proptest! {
        /// A byte at a time there is never a whole line, and everything goes through the parser.
        #[test]
        fn lines_are_split_as_the_parser_does(
            first in "([ab\u{e9}]{0,3};[ab]{0,2}(\n|\r\n|\r|\n\n)|\"[ab;\n]{0,3}\";a?\n|a\"b;\n){0,12}([ab;\"\r\n]{0,4})",
            second in "([ab]{0,3};[ab]{0,2}(\n|\r\n)){0,9}(a;|b;b|;|\"x)?",
            header: bool, quote in prop::sample::select(vec![Some(b'"'), Some(b'a'), None]),
            records in 1_usize..6, bytes in 1_usize..20, sizes in prop::collection::vec(1_usize..40, 1..5),
        ) {
            let (files, limit) = ([first.as_bytes(), second.as_bytes()], Limit { records, bytes });
            let dialect = Dialect { header, quote, ..Dialect::with_delimiter(b';') };
            prop_assert_eq!(split(files, &dialect, limit, &sizes), split(files, &dialect, limit, &[1]));
        }
    }
}
