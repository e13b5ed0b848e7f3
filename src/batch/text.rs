//! [`Text`]: rows that are lines, kept as the text that they are.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use arrow::array::{RecordBatch, StringArray};
use arrow::buffer::{Buffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use bytes::Bytes;
use memchr::{memchr, memchr_iter};

use super::value_bytes::OFFSET;

/// The column of lines.
pub const LINE: &str = "line";

/// Bytes among which line breaks are counted at once before they are looked at one by one.
const STRIDE: usize = 2048;

/// The columns of lines.
pub fn line_schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> =
        LazyLock::new(|| Arc::new(Schema::new(vec![Field::new(LINE, DataType::Utf8, true)])));
    Arc::clone(&SCHEMA)
}

/// Lines of UTF-8, each with a line feed behind it. Slicing and joining copies nothing.
#[derive(Clone, Debug, Default)]
pub struct Text {
    parts: Vec<Part>,
    lines: usize,
    bytes: usize,
}

/// Whole lines that lie behind each other.
#[derive(Clone, Debug)]
struct Part {
    bytes: Bytes,
    lines: usize,
}

/// A place between two lines of a text.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    /// Lines before it.
    lines: usize,
    part: usize,
    /// In the part; the end of a part is the start of the next one.
    offset: usize,
}

impl Text {
    /// Appends whole lines, the last of which ends with a line feed, too.
    ///
    /// # Errors
    /// If they are not valid UTF-8: with the index of the first of them that is not, which is not appended, nor any after it.
    pub fn push(&mut self, bytes: Bytes) -> Result<(), usize> {
        debug_assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "lines are whole");
        if simdutf8::basic::from_utf8(&bytes).is_ok() {
            self.append(bytes);
            return Ok(());
        }
        let valid = match std::str::from_utf8(&bytes) {
            Ok(_) => bytes.len(),
            Err(error) => error.valid_up_to(),
        };
        // A line feed is never a part of a longer character.
        let valid = memchr::memrchr(b'\n', &bytes[..valid]).map_or(0, |end| end + 1);
        let before = self.lines;
        self.append(bytes.slice(..valid));
        Err(self.lines - before)
    }

    fn append(&mut self, bytes: Bytes) {
        let lines = memchr_iter(b'\n', &bytes).count();
        self.append_part(Part { bytes, lines });
    }

    fn append_part(&mut self, part: Part) {
        if part.lines > 0 {
            self.lines += part.lines;
            self.bytes += part.bytes.len();
            self.parts.push(part);
        }
    }

    /// Appends the lines of another text.
    pub fn extend(&mut self, other: Self) {
        other.parts.into_iter().for_each(|part| self.append_part(part));
    }

    pub fn lines(&self) -> usize {
        self.lines
    }

    pub fn is_empty(&self) -> bool {
        self.lines == 0
    }

    /// Bytes of the text, line feeds included.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// The text, piece after piece.
    pub fn parts(&self) -> impl Iterator<Item = &Bytes> {
        self.parts.iter().map(|part| &part.bytes)
    }

    /// The lines in `range`.
    pub fn slice(&self, range: Range<usize>) -> Self {
        if range == (0..self.lines) {
            return self.clone();
        }
        let start = self.advance(Position::default(), range.start, usize::MAX, 0);
        let end = self.advance(start, range.len(), usize::MAX, 0);
        self.between(start, end)
    }

    /// What the lines in `range` count as values of a column of text.
    pub fn value_bytes(&self, range: Range<usize>) -> usize {
        let slice = self.slice(range);
        slice.bytes - slice.lines + OFFSET * slice.lines
    }

    /// How many of the lines in `range` may be taken from its start so that they count no more than `bytes` as values.
    pub fn fitting(&self, range: Range<usize>, bytes: usize) -> usize {
        let start = self.advance(Position::default(), range.start, usize::MAX, 0);
        self.advance(start, range.len(), bytes, OFFSET).lines - start.lines
    }

    /// Takes the first lines out: up to the one with which there are `lines` of them, or `bytes` without line feeds. `None` if
    /// there are not that many.
    pub fn take_front(&mut self, lines: usize, bytes: usize) -> Option<Self> {
        let short = self.advance(Position::default(), lines.saturating_sub(1), bytes.saturating_sub(1), 0);
        if short.lines == self.lines {
            return None;
        }
        let end = self.advance(short, 1, usize::MAX, 0);
        let front = self.between(Position::default(), end);
        *self = self.between(end, self.end());
        Some(front)
    }

    /// The lines as a column.
    ///
    /// # Errors
    /// If they are longer together than a column can be.
    pub fn records(&self) -> Result<RecordBatch, ArrowError> {
        let length = self.bytes - self.lines;
        i32::try_from(length).map_err(|_| ArrowError::OffsetOverflowError(length))?;
        let mut content = Vec::with_capacity(length);
        let mut offsets = Vec::with_capacity(self.lines + 1);
        offsets.push(0);
        for part in self.parts() {
            let mut start = 0;
            for end in memchr_iter(b'\n', part) {
                content.extend_from_slice(&part[start..end]);
                offsets.push(i32::try_from(content.len()).expect("checked for all lines together"));
                start = end + 1;
            }
        }
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        let lines = StringArray::try_new(offsets, Buffer::from_vec(content), None)?;
        RecordBatch::try_new(line_schema(), vec![Arc::new(lines)])
    }

    fn end(&self) -> Position {
        Position { lines: self.lines, part: self.parts.len(), offset: 0 }
    }

    fn between(&self, start: Position, end: Position) -> Self {
        let mut slice = Self::default();
        for (index, part) in self.parts.iter().enumerate().take(end.part + 1).skip(start.part) {
            let from = if index == start.part { start.offset } else { 0 };
            let to = if index == end.part { end.offset } else { part.bytes.len() };
            match (from, to) {
                (0, to) if to == part.bytes.len() => slice.append_part(part.clone()),
                (from, to) => slice.append(part.bytes.slice(from..to)),
            }
        }
        slice
    }

    /// The furthest place behind `from` with at most `lines` lines between them, and at most `bytes` if a line counts its
    /// content and `overhead`.
    fn advance(&self, from: Position, lines: usize, bytes: usize, overhead: usize) -> Position {
        let mut at = from;
        let mut room = Room { lines, bytes, overhead };
        while let Some(part) = self.parts.get(at.part) {
            let rest = &part.bytes[at.offset..];
            let is_taken_whole = at.offset == 0 && room.take(rest.len(), part.lines);
            let (lines, length) = if is_taken_whole { (part.lines, rest.len()) } else { room.scan(rest) };
            at.lines += lines;
            if length < rest.len() {
                return Position { offset: at.offset + length, ..at };
            }
            at = Position { part: at.part + 1, offset: 0, ..at };
        }
        at
    }
}

/// What may still be taken.
struct Room {
    lines: usize,
    bytes: usize,
    overhead: usize,
}

impl Room {
    /// Takes whole lines of `length` bytes, line feeds included, if there is room for all of them.
    fn take(&mut self, length: usize, lines: usize) -> bool {
        let counted = length - lines + self.overhead * lines;
        let fits = lines <= self.lines && counted <= self.bytes;
        if fits {
            self.lines -= lines;
            self.bytes -= counted;
        }
        fits
    }

    /// Takes lines from the start of `text` until there is no room, and returns how many, and their length.
    fn scan(&mut self, text: &[u8]) -> (usize, usize) {
        let (mut lines, mut start) = (0, 0);
        while start < text.len() {
            let stride = &text[start..text.len().min(start + STRIDE)];
            let whole = memchr::memrchr(b'\n', stride).map_or(0, |end| end + 1);
            let count = memchr_iter(b'\n', &stride[..whole]).count();
            if count > 0 && self.take(whole, count) {
                lines += count;
                start += whole;
                continue;
            }
            let length = memchr(b'\n', &text[start..]).map_or(text.len() - start, |end| end + 1);
            if !self.take(length, 1) {
                break;
            }
            lines += 1;
            start += length;
        }
        (lines, start)
    }
}
