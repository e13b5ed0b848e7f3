//! [`XzReader`]: what is in files of xz, with a bound on what it takes to unpack them.

use std::io::{self, ErrorKind, Read};

use lzma_rust2::{Action, Status, XzStream};

/// What may be taken to unpack a file: as much as `xz -9` asks for.
pub(super) const MEMORY: u64 = 66 << 20;

/// Bytes that are read at once.
const ROOM: usize = 64 << 10;

/// Unpacks streams of xz, one after the other. An error of the input passes through, and reading can go on after it. A file that would take
/// more than [`MEMORY`] is an error of the kind `OutOfMemory`.
pub(super) struct XzReader<R> {
    input: R,
    stream: XzStream,
    raw: Vec<u8>,
    start: usize,
    end: usize,
    is_at_end: bool,
    /// Whether there may be more to give without more to read.
    may_hold_more: bool,
}

impl<R: Read> XzReader<R> {
    pub(super) fn new(input: R) -> Self {
        let limit = u32::try_from(MEMORY >> 10).expect("a small number");
        let stream = XzStream::new_mem_limit(true, limit);
        Self { input, stream, raw: vec![0; ROOM], start: 0, end: 0, is_at_end: false, may_hold_more: false }
    }

    fn too_large(&self) -> io::Error {
        let needed = u64::from(self.stream.memory_usage().unwrap_or(0)) >> 10;
        let limit = MEMORY >> 20;
        let message = format!(
            "to unpack it takes {needed} MiB of memory, and at most {limit} MiB may be taken; compress it with `xz -9` or less"
        );
        io::Error::new(ErrorKind::OutOfMemory, message)
    }
}

impl<R: Read> Read for XzReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.start == self.end && !self.is_at_end && !self.may_hold_more {
                let count = self.input.read(&mut self.raw)?;
                (self.start, self.end, self.is_at_end) = (0, count, count == 0);
            }
            let action = if self.is_at_end { Action::Finish } else { Action::Run };
            let processed = self.stream.process(&self.raw[self.start..self.end], buffer, action);
            let processed = processed.map_err(|error| match error.kind() {
                ErrorKind::OutOfMemory => self.too_large(),
                _ => error,
            })?;
            self.start += processed.bytes_consumed;
            self.may_hold_more = processed.bytes_produced == buffer.len();
            match processed.status {
                _ if processed.bytes_produced > 0 => return Ok(processed.bytes_produced),
                Status::StreamEnd => return Ok(0),
                Status::Ok if self.is_at_end && processed.bytes_consumed == 0 => {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                Status::Ok => {}
            }
        }
    }
}
