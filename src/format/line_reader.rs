//! [`LineReader`]: bytes to whole lines of text.

use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memchr::{memchr, memrchr};

use super::error::{Problem, RecordError};
use super::splitter::{BOM, MAX_RECORD};
use crate::batch::Text;

/// Bytes that are read at once where there are as many, and that lie together.
const BLOCK: usize = 1 << 20;
/// Blocks that are kept to be used again: memory that was never used before costs more than the copy that goes there.
const KEPT: usize = 16;

/// Takes what is read from files or a pipe, and gives whole lines. They stay where they were read to, without a byte order mark, and
/// without carriage returns at their ends.
#[derive(Debug)]
pub struct LineReader {
    block_size: usize,
    block: Block,
    filled: usize,
    /// Whether the next line is the first of its file.
    at_start: bool,
}

impl Default for LineReader {
    fn default() -> Self {
        Self::with_blocks(BLOCK)
    }
}

impl LineReader {
    fn with_blocks(block_size: usize) -> Self {
        Self { block_size, block: Block::take(block_size), filled: 0, at_start: true }
    }

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

    /// Whether so little room is left that the lines should be taken before more is read.
    pub fn is_full(&self) -> bool {
        self.block.bytes.len() - self.filled < self.block_size / 16
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
        if length < self.block_size / 2 {
            let lines = Bytes::copy_from_slice(&self.block.bytes[start..end]);
            self.block.bytes.copy_within(length..length + rest, 0);
            return lines;
        }
        let mut next = Block::take(self.block_size.max(2 * rest));
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a file's lines are, said as simply as can be: those before the first that is not text.
    fn model(file: &[u8]) -> (Vec<String>, bool) {
        let mut lines = Vec::new();
        let mut split: Vec<_> = file.split(|byte| *byte == b'\n').collect();
        split.pop_if(|last| last.is_empty());
        for (index, line) in split.into_iter().enumerate() {
            let line = if index == 0 { line.strip_prefix(BOM).unwrap_or(line) } else { line };
            match String::from_utf8(line.strip_suffix(b"\r").unwrap_or(line).to_vec()) {
                Ok(line) => lines.push(line),
                Err(_) => return (lines, true),
            }
        }
        (lines, false)
    }

    fn lines(text: &Text) -> Vec<String> {
        let all: Vec<u8> = text.parts().flat_map(|part| part.to_vec()).collect();
        let all = String::from_utf8(all).unwrap();
        assert_eq!(all.matches('\n').count(), text.lines());
        assert_eq!(all.len(), text.len());
        all.split_terminator('\n').map(str::to_owned).collect()
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_how_bytes_arrive(
            files in prop::collection::vec(
                prop::collection::vec(
                    prop::sample::select(vec![
                        "a".as_bytes(), b"bc", b"\n", b"\n", b"\r\n", b"\r", b"\0", "\u{e9}".as_bytes(), BOM, b"\xc3",
                        b"a longer piece of a line",
                    ]),
                    0..25,
                ),
                1..3,
            ),
            sizes in prop::collection::vec(1_usize..30, 1..6), block in 16_usize..64, is_eager: bool,
        ) {
            let (mut reader, mut text) = (LineReader::with_blocks(block), Text::default());
            let mut sizes = sizes.iter().copied().cycle();
            let mut expected = Vec::new();
            for file in files {
                let file = file.concat();
                let (lines_of_file, is_broken) = model(&file);
                expected.extend(lines_of_file);
                let mut rest = &file[..];
                let mut failed = None;
                while !rest.is_empty() && failed.is_none() {
                    let room = reader.room();
                    let count = sizes.next().unwrap().min(rest.len()).min(room.len());
                    room[..count].copy_from_slice(&rest[..count]);
                    reader.advance(count);
                    rest = &rest[count..];
                    if is_eager || reader.is_full() {
                        failed = reader.take_lines(&mut text).err();
                    }
                }
                let failed = failed.or_else(|| reader.finish(&mut text).err());
                prop_assert_eq!(lines(&text), &expected[..]);
                let expected = is_broken.then_some(RecordError { record: expected.len(), problem: Problem::NotUtf8 });
                prop_assert_eq!(&failed, &expected);
                if failed.is_some() {
                    break;
                }
            }
        }
    }

    #[test]
    fn blocks_are_used_again_once_nobody_holds_them() {
        let mut reader = LineReader::default();
        let mut give = |text: &mut Text| {
            let room = reader.room();
            room.fill(b'x');
            let length = room.len();
            room[length - 1] = b'\n';
            reader.advance(length);
            assert!(reader.is_full());
            reader.take_lines(text).unwrap();
        };
        let mut held = Text::default();
        give(&mut held);
        let start = held.slice(0..1);
        drop(held);
        let mut later = Text::default();
        give(&mut later);
        let bytes = |text: &Text| text.parts().next().unwrap().as_ptr();
        assert_ne!(bytes(&start), bytes(&later));
        assert_eq!(start.records().unwrap().num_rows(), 1);
    }
}
