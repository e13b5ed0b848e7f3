//! [`Malformed`]: a record that could not be read, for those who go on without it; and how such records are found among others.

use std::ops::Range;

use arrow::array::RecordBatch;

use super::Format;
use super::dialect::Dialect;
use super::error::{Problem, RecordError};
use super::records::Records;

/// Bytes of a record's text that are kept.
const MOST_TEXT: usize = 64 << 10;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What stood there, as far as it is text, and the beginning only if it is long.
    pub text: String,
    pub problem: Problem,
}

/// How the text of a record is made of its fields.
#[derive(Clone, Copy, Debug)]
pub enum RecordText {
    /// The one field is all of it.
    Whole,
    Csv {
        delimiter: u8,
        quote: Option<u8>,
    },
}

impl RecordText {
    pub fn of(format: Format, dialect: &Dialect) -> Self {
        match format {
            Format::Csv | Format::Tsv => Self::csv(dialect),
            _ => Self::Whole,
        }
    }

    pub(super) fn csv(dialect: &Dialect) -> Self {
        Self::Csv { delimiter: dialect.delimiter, quote: dialect.quote }
    }

    /// One of the records, and what is wrong with it.
    pub fn malformed(self, records: &Records, error: RecordError) -> Malformed {
        Malformed { text: self.text(records.fields(error.record)), problem: error.problem }
    }

    /// Fields are quoted where they have to be.
    pub(super) fn text<'a>(self, fields: impl Iterator<Item = &'a [u8]>) -> String {
        let mut text = Vec::new();
        for (at, field) in fields.enumerate() {
            match self {
                Self::Csv { delimiter, quote } => {
                    if at > 0 {
                        text.push(delimiter);
                    }
                    push_field(&mut text, field, delimiter, quote);
                }
                Self::Whole => text.extend_from_slice(field),
            }
        }
        shortened(&text)
    }
}

fn push_field(text: &mut Vec<u8>, field: &[u8], delimiter: u8, quote: Option<u8>) {
    let Some(quote) = quote else { return text.extend_from_slice(field) };
    if !field.iter().any(|byte| [delimiter, quote, b'\n', b'\r'].contains(byte)) {
        return text.extend_from_slice(field);
    }
    text.push(quote);
    for byte in field {
        text.extend(std::iter::repeat_n(*byte, if *byte == quote { 2 } else { 1 }));
    }
    text.push(quote);
}

fn shortened(text: &[u8]) -> String {
    if text.len() <= MOST_TEXT {
        return String::from_utf8_lossy(text).into_owned();
    }
    // A character that is cut is none.
    let whole = match std::str::from_utf8(&text[..MOST_TEXT]) {
        Err(error) if error.error_len().is_none() => error.valid_up_to(),
        _ => MOST_TEXT,
    };
    format!("{}… (cut off: it has {} bytes)", String::from_utf8_lossy(&text[..whole]), text.len())
}

/// Records of which those that could not be read are left out.
#[derive(Debug)]
pub struct Sifted {
    pub batch: RecordBatch,
    /// Those that are left out, in order.
    pub left_out: Vec<RecordError>,
}

/// Decodes all records that can be decoded. If all can, that is done at once.
///
/// # Errors
/// If records that can be decoded apart from each other cannot be together.
pub(super) fn sift(
    records: &Records,
    decode: impl Fn(&Records) -> Result<RecordBatch, RecordError>,
) -> Result<Sifted, RecordError> {
    let error = match decode(records) {
        Ok(batch) => return Ok(Sifted { batch, left_out: Vec::new() }),
        Err(error) => error,
    };
    let mut left_out = Vec::new();
    for part in around(0..records.len(), error.record) {
        search(records, part, &decode, &mut left_out);
    }
    let batch = decode(&without(records, &left_out)).map_err(|error| in_all(error, &left_out))?;
    Ok(Sifted { batch, left_out })
}

/// The records but for those that are left out.
pub(super) fn without(records: &Records, left_out: &[RecordError]) -> Records {
    let starts = std::iter::once(0).chain(left_out.iter().map(|error| error.record + 1));
    let ends = left_out.iter().map(|error| error.record).chain([records.len()]);
    records.select(starts.zip(ends).map(|(start, end)| start..end))
}

/// Puts to those that were left out of records those that were left out of the rest.
pub(super) fn and_of_the_rest(mut first: Vec<RecordError>, then: Vec<RecordError>) -> Vec<RecordError> {
    let then: Vec<_> = then.into_iter().map(|error| in_all(error, &first)).collect();
    first.extend(then);
    first.sort_by_key(|error| error.record);
    first
}

/// An error in the rest of records, by its place in all of them.
fn in_all(error: RecordError, left_out: &[RecordError]) -> RecordError {
    let place = |at, other: &RecordError| if other.record <= at { at + 1 } else { at };
    RecordError { record: left_out.iter().fold(error.record, place), ..error }
}

/// Finds the records in a range that cannot be decoded. Ranges are halved at least, so that all of them together are looked at as often
/// as their number has binary digits, and few bad ones cost little.
fn search(
    records: &Records,
    range: Range<usize>,
    decode: &impl Fn(&Records) -> Result<RecordBatch, RecordError>,
    found: &mut Vec<RecordError>,
) {
    if range.is_empty() {
        return;
    }
    let Err(RecordError { record, problem }) = decode(&records.select([range.clone()])) else { return };
    if range.len() == 1 {
        found.push(RecordError { record: range.start, problem });
        return;
    }
    for part in around(range.clone(), range.start + record) {
        search(records, part, decode, found);
    }
}

/// A range in parts, in order: what is before a record, the record, and what is behind it, of which the longer one is halved.
fn around(range: Range<usize>, record: usize) -> [Range<usize>; 4] {
    let record = record.clamp(range.start, range.end - 1);
    let (before, behind) = (range.start..record, record + 1..range.end);
    if before.len() > behind.len() {
        let middle = before.start + before.len() / 2;
        [before.start..middle, middle..before.end, record..record + 1, behind]
    } else {
        let middle = behind.start + behind.len() / 2;
        [before, record..record + 1, behind.start..middle, middle..behind.end]
    }
}
