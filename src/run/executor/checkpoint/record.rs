//! [`Record`]: what came of a batch, as it is written down.
//!
//! A length of 8 bytes, so much JSON, and then what each output holds: lines of text as they are, other rows as two messages of Arrow IPC, their
//! schema and their columns.

use std::sync::Arc;

use arrow::buffer::Buffer;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};

use crate::batch::{Batch, BatchError, FileId, Origin, Rows, Source, Text, ipc};
use crate::plan::Verdict;
use crate::run::scheduler::{Failure, Reject, Scope};

/// What came of a batch.
#[derive(Clone, Debug)]
pub struct Record {
    /// By the names of their ports.
    pub outputs: Vec<(String, Batch)>,
    pub rejects: Vec<Reject>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("a batch could not be written down: {0}")]
    Arrow(#[from] ArrowError),
    #[error("a batch could not be written down: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Unclear(&'static str),
}

#[derive(Debug, Serialize, Deserialize)]
struct Head {
    /// See [`Fingerprint::name`](super::Fingerprint::name).
    made_by: String,
    outputs: Vec<OutputHead>,
    rejects: Vec<RejectHead>,
}

/// A part of an origin, with its number of rows. Its file is the place of one among those of the input.
type Part = (usize, Source<Vec<u64>>);

#[derive(Debug, Serialize, Deserialize)]
struct OutputHead {
    port: String,
    /// Bytes of the schema; `None` for lines of text.
    schema: Option<usize>,
    /// Bytes of all, the schema included.
    bytes: usize,
    origin: Vec<Part>,
}

#[derive(Debug, Serialize, Deserialize)]
struct RejectHead {
    from: u64,
    to: u64,
    verdict: String,
    message: String,
    traceback: String,
}

impl Record {
    /// `input` is the batch that it came of, `made_by` the name of the fingerprint of what has made it.
    ///
    /// # Errors
    /// If a batch was spilled and cannot be read back, or Arrow cannot write a column.
    pub fn encode(&self, input: &Origin, made_by: &str) -> Result<Vec<u8>, RecordError> {
        let files = input.files();
        let mut bodies = Vec::new();
        let mut outputs = Vec::new();
        for (port, batch) in &self.outputs {
            let before = bodies.len();
            let schema = match &batch.contents()? {
                Rows::Lines(text) => {
                    text.parts().for_each(|part| bodies.extend_from_slice(part));
                    None
                }
                Rows::Columns(records) => {
                    let records = ipc::without_dictionaries(records)?;
                    let schema = ipc::encode_schema(&records.schema())?;
                    bodies.extend_from_slice(&schema);
                    ipc::encode(&records)?.parts().for_each(|part| bodies.extend_from_slice(part));
                    Some(schema.len())
                }
            };
            outputs.push(OutputHead {
                port: port.clone(),
                schema,
                bytes: bodies.len() - before,
                origin: origin_head(batch.origin(), &files)?,
            });
        }
        let rejects = self.rejects.iter().map(|Reject { rows, failure }| RejectHead {
            from: rows.start,
            to: rows.end,
            verdict: failure.verdict.word().to_owned(),
            message: failure.message.clone(),
            traceback: failure.traceback.clone(),
        });
        let made_by = made_by.to_owned();
        let head = serde_json::to_vec(&Head { made_by, outputs, rejects: rejects.collect() })?;
        let mut bytes = Vec::with_capacity(8 + head.len() + bodies.len());
        bytes.extend_from_slice(&(head.len() as u64).to_le_bytes());
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&bodies);
        Ok(bytes)
    }

    /// Of how many bytes the head is, by the first eight bytes of a record, with these.
    pub fn head_bytes(length: [u8; 8]) -> u64 {
        u64::from_le_bytes(length).saturating_add(8)
    }

    /// The name of the fingerprint of what has made a record, by its head.
    pub fn made_by(head: &[u8]) -> Option<String> {
        let head: Head = serde_json::from_slice(head.get(8..)?).ok()?;
        Some(head.made_by)
    }

    /// `input` is the origin of a batch with the same key.
    ///
    /// # Errors
    /// If the bytes are no record.
    pub fn decode(bytes: &[u8], input: &Origin) -> Result<Self, RecordError> {
        let (length, rest) = bytes.split_first_chunk().ok_or(RecordError::Unclear("the record has no head"))?;
        let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
        let (head, mut bodies) = rest.split_at_checked(length).ok_or(RecordError::Unclear("the head is cut off"))?;
        let head: Head = serde_json::from_slice(head)?;
        let files = input.files();
        let mut outputs = Vec::new();
        for OutputHead { port, schema, bytes, origin } in head.outputs {
            let (body, others) = bodies.split_at_checked(bytes).ok_or(RecordError::Unclear("an output is cut off"))?;
            bodies = others;
            let rows = match schema {
                Some(schema) => records(body, schema)?,
                None => text(body)?,
            };
            let origin = origin_of(origin, rows.len(), &files)?;
            outputs.push((port, Batch::new(rows, origin)));
        }
        let rejects = head.rejects.into_iter().map(|reject| {
            let verdict =
                Verdict::from_word(&reject.verdict).ok_or(RecordError::Unclear("there is no such verdict"))?;
            let failure = Failure { verdict, scope: Scope::Rows, message: reject.message, traceback: reject.traceback };
            Ok(Reject { rows: reject.from..reject.to, failure })
        });
        Ok(Self { outputs, rejects: rejects.collect::<Result<_, RecordError>>()? })
    }
}

fn text(body: &[u8]) -> Result<Rows, RecordError> {
    if body.last().is_some_and(|last| *last != b'\n') {
        return Err(RecordError::Unclear("a line is cut off"));
    }
    let mut text = Text::default();
    text.push(body.to_vec().into()).map_err(|_| RecordError::Unclear("an output is not text"))?;
    Ok(text.into())
}

fn records(body: &[u8], schema: usize) -> Result<Rows, RecordError> {
    let (schema, columns) = body.split_at_checked(schema).ok_or(RecordError::Unclear("a schema is cut off"))?;
    let schema = Arc::new(ipc::decode_schema(schema)?);
    Ok(ipc::decode(&Buffer::from(columns), schema)?.into())
}

fn origin_head(origin: &Origin, files: &[FileId]) -> Result<Vec<Part>, RecordError> {
    let place = |file: FileId| {
        let place = files.iter().position(|other| *other == file).and_then(|place| u32::try_from(place).ok());
        place
            .map(FileId)
            .ok_or(RecordError::Unclear("a row comes from a file that none of the input's rows comes from"))
    };
    origin.parts().map(|(rows, source)| Ok((rows, source.map(place, <[u64]>::to_vec)?))).collect()
}

/// The origin of so many rows. Numbers that others have made up must not overflow, here or where it is sliced.
fn origin_of(parts: Vec<Part>, rows: usize, files: &[FileId]) -> Result<Origin, RecordError> {
    const WRONG: RecordError = RecordError::Unclear("the rows of an output are not those that it says");
    let file =
        |place: FileId| files.get(place.0 as usize).copied().ok_or(RecordError::Unclear("a row comes from no file"));
    let mut origin = Origin::default();
    let mut left = rows;
    for (rows, source) in parts {
        left = left.checked_sub(rows).ok_or(WRONG)?;
        if matches!(source, Source::Consecutive { first, .. } if first.checked_add(rows as u64).is_none()) {
            return Err(RecordError::Unclear("a row comes from behind the end of all files"));
        }
        if matches!(&source, Source::Listed { rows: listed, .. } if listed.len() != rows) {
            return Err(RecordError::Unclear("a list of rows does not have as many as it says"));
        }
        origin.push(rows, source.map(file, |rows| rows)?);
    }
    if left > 0 { Err(WRONG) } else { Ok(origin) }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};

    use super::*;

    fn record() -> (Record, Origin) {
        let mut input = Origin::consecutive(FileId(7), 1, 5);
        input.extend(Origin::consecutive(FileId(2), 10, 3));
        input.extend(Origin::unknown(2));
        let columns: [(&str, ArrayRef); 2] = [
            ("n", Arc::new(Int64Array::from(vec![Some(1), None, Some(3), Some(4), Some(5)]))),
            ("s", Arc::new(StringArray::from(vec![Some("a"), None, Some(""), Some("ä"), Some("e")]))),
        ];
        let records = RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)));
        let taken = input.take([0, 4, 5, 7, 9]);
        let mut text = Text::default();
        text.push("one\ntwo\n".into()).expect("it is text");
        let failure = Failure {
            verdict: Verdict::Oom,
            scope: Scope::Rows,
            message: "too much".to_owned(),
            traceback: "here".to_owned(),
        };
        let outputs = vec![
            ("out".to_owned(), Batch::new(records.expect("one length"), taken)),
            ("lines".to_owned(), Batch::new(text, input.blur(2))),
        ];
        (Record { outputs, rejects: vec![Reject { rows: 2..4, failure }] }, input)
    }

    #[test]
    fn a_record_comes_back_as_it_was_also_where_files_have_other_numbers() {
        let (record, input) = record();
        let bytes = record.encode(&input, "stage").expect("it can be written");
        let mut other = Origin::consecutive(FileId(0), 1, 5);
        other.extend(Origin::consecutive(FileId(5), 10, 3));
        other.extend(Origin::unknown(2));
        let read = Record::decode(&bytes, &other).expect("it is a record");
        assert_eq!(read.rejects, record.rejects);
        for ((port, batch), (read_port, read)) in record.outputs.iter().zip(&read.outputs) {
            assert_eq!(port, read_port);
            assert_eq!(batch.records().expect("in memory"), read.records().expect("in memory"));
            let places = |batch: &Batch| (0..batch.rows()).map(|row| batch.origin().place(row)).collect::<Vec<_>>();
            let moved = |file: FileId| if file == FileId(7) { FileId(0) } else { FileId(5) };
            let expected = places(batch)
                .into_iter()
                .map(|place| place.map(|place| crate::batch::Place { file: moved(place.file), ..place }));
            assert_eq!(places(read), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_origin_that_is_made_up_does_not_overflow() {
        let consecutive = |first| Source::Consecutive { file: FileId(0), first };
        let fails = |parts: Vec<Part>| assert!(origin_of(parts, 2, &[FileId(0)]).is_err());
        fails(vec![(usize::MAX, Source::Unknown), (3, Source::Unknown)]);
        fails(vec![(2, consecutive(u64::MAX - 1))]);
        fails(vec![(1, consecutive(1))]);
        assert_eq!(origin_of(vec![(2, consecutive(1))], 2, &[FileId(0)]).expect("two rows").len(), 2);
    }

    #[test]
    fn what_is_no_record_is_an_error() {
        let (record, input) = record();
        let bytes = record.encode(&input, "stage").expect("it can be written");
        for length in 0..bytes.len() {
            assert!(Record::decode(&bytes[..length], &input).is_err(), "cut at {length}");
        }
        // Checksums are against damage, and not against those who make them.
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x55;
            let _ = Record::decode(&bad, &input);
        }
    }
}
