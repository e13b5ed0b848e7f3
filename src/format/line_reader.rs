//! [`LineReader`]: bytes to whole lines of text.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memchr::{memchr, memrchr};

use super::error::{Problem, RecordError};
use super::splitter::{BOM, MAX_RECORD};
use crate::batch::Text;

/// Bytes that are read at once where there are as many, and that lie together.
const BLOCK: usize = 1 << 20;
/// Below this much room a block counts as full.
const LEAST_ROOM: usize = 64 << 10;
/// Blocks that are kept to be used again: memory that was never used before costs more than the copy that goes there.
const KEPT: usize = 16;

/// Takes what is read from files or a pipe, and gives whole lines. They stay where they were read to, without a byte order mark, and
/// without carriage returns at their ends.
#[derive(Debug)]
pub struct LineReader {
    block: Block,
    filled: usize,
    /// Whether the next line is the first of its file.
    at_start: bool,
}

impl Default for LineReader {
    fn default() -> Self {
        Self { block: Block::take(BLOCK), filled: 0, at_start: true }
    }
}

impl LineReader {
    /// Where the bytes that follow are to be written.
    pub fn room(&mut self) -> &mut [u8] {
        if self.filled == self.block.bytes.len() {
            let mut larger = Block::take(2 * self.filled);
            larger.bytes[..self.filled].copy_from_slice(&self.block.bytes);
            self.block = larger;
        }
        &mut self.block.bytes[self.filled..]
    }

    /// So many bytes have been written there.
    pub fn advance(&mut self, count: usize) {
        self.filled += count;
    }

    /// Whether the lines should be taken before more is read.
    pub fn is_full(&self) -> bool {
        self.block.bytes.len() - self.filled < LEAST_ROOM
    }

    /// Appends the lines that are complete to `text`.
    ///
    /// # Errors
    /// If one is not valid UTF-8, or too long: with its index in `text`, to which those before it have been appended.
    pub fn take_lines(&mut self, text: &mut Text) -> Result<(), RecordError> {
        if let Some(end) = memrchr(b'\n', &self.block.bytes[..self.filled]) {
            let lines = self.take(end + 1);
            text.push(lines).map_err(|_| RecordError { record: text.lines(), problem: Problem::NotUtf8 })?;
        }
        if self.filled > MAX_RECORD {
            return Err(RecordError { record: text.lines(), problem: Problem::TooLong { limit: MAX_RECORD } });
        }
        Ok(())
    }

    /// Ends a file: a last line without a line break is one, too, and the next bytes start a new file.
    ///
    /// # Errors
    /// As [`LineReader::take_lines`].
    pub fn finish(&mut self, text: &mut Text) -> Result<(), RecordError> {
        if self.filled > 0 && self.block.bytes[self.filled - 1] != b'\n' {
            self.room()[0] = b'\n';
            self.advance(1);
        }
        let taken = self.take_lines(text);
        self.at_start = true;
        taken
    }

    /// Takes the first bytes out. A block that is mostly full of them is given away; of others they are copied, so that a trickle
    /// does not fill the memory with blocks.
    fn take(&mut self, length: usize) -> Bytes {
        let start = if self.at_start && self.block.bytes.starts_with(BOM) { BOM.len() } else { 0 };
        self.at_start = false;
        let end = start + close_gaps(&mut self.block.bytes[start..length]);
        let rest = self.filled - length;
        self.filled = rest;
        if length < BLOCK / 2 {
            let lines = Bytes::copy_from_slice(&self.block.bytes[start..end]);
            self.block.bytes.copy_within(length..length + rest, 0);
            return lines;
        }
        let mut next = Block::take(BLOCK.max(2 * rest));
        next.bytes[..rest].copy_from_slice(&self.block.bytes[length..length + rest]);
        let full = std::mem::replace(&mut self.block, next);
        Bytes::from_owner(full).slice(start..end)
    }
}

/// Moves lines together that end with a carriage return, without it. Returns what is left of their length.
fn close_gaps(lines: &mut [u8]) -> usize {
    if memchr(b'\r', lines).is_none() {
        return lines.len();
    }
    let (mut start, mut kept) = (0, 0);
    while let Some(length) = memchr(b'\n', &lines[start..]) {
        let end = start + length;
        let line_end = if length > 0 && lines[end - 1] == b'\r' { end - 1 } else { end };
        lines.copy_within(start..line_end, kept);
        kept += line_end - start;
        lines[kept] = b'\n';
        kept += 1;
        start = end + 1;
    }
    kept
}

/// Memory that is used again when nobody holds any of it.
#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
}

impl Block {
    fn take(size: usize) -> Self {
        let kept = if size == BLOCK { kept_blocks().pop() } else { None };
        Self { bytes: kept.unwrap_or_else(|| vec![0; size]) }
    }
}

impl AsRef<[u8]> for Block {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut kept = kept_blocks();
        if self.bytes.len() == BLOCK && kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

fn kept_blocks() -> MutexGuard<'static, Vec<Vec<u8>>> {
    static BLOCKS: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
    // A push either happened or it did not.
    BLOCKS.lock().unwrap_or_else(PoisonError::into_inner)
}
