//! [`Input`]: one open file or pipe, whose reads can be cancelled and do not wait for ever beside rows that are ready.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::OFlags;

use super::error::ReadError;
use super::version::Version;
use crate::format::{Compression, Encoding, NotEncoded, decompress, transcode};
use crate::run::store::Interrupt;

/// How long a pipe may be silent before the rows that have come are passed on as a batch. This is the one place where
/// timing decides where a batch ends.
const SILENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

const FILE_BUFFER: usize = 1 << 20;
/// For files whose size says little: those of a pseudo file system have none.
const SMALLEST_FILE_BUFFER: usize = 4 << 10;
const PIPE_BUFFER: usize = 64 << 10;

/// Name of standard input in messages and in the table of files.
pub(super) const STDIN: &str = "<stdin>";

/// Ends a source's reads from another thread, also one that waits for a pipe.
#[derive(Clone, Debug)]
pub struct Canceller {
    signal: Arc<Signal>,
}

#[derive(Debug)]
struct Signal {
    is_cancelled: AtomicBool,
    /// Becomes readable when the source is cancelled.
    event: OwnedFd,
    interrupt: Interrupt,
}

impl Canceller {
    /// # Errors
    /// If there are no descriptors left.
    pub fn new() -> Result<Self, ReadError> {
        let unreadable = |error: rustix::io::Errno| ReadError::Unreadable { path: STDIN.into(), source: error.into() };
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(unreadable)?;
        Ok(Self {
            signal: Arc::new(Signal { is_cancelled: AtomicBool::new(false), event, interrupt: Interrupt::default() }),
        })
    }

    /// From now on the source returns [`ReadError::Cancelled`].
    pub fn cancel(&self) {
        self.signal.is_cancelled.store(true, Ordering::SeqCst);
        self.signal.interrupt.set();
        // Fails only if the counter is full, and then the event is set.
        let _ = rustix::io::write(&self.signal.event, &1_u64.to_ne_bytes());
    }

    /// What ends waits for stores when the source is cancelled.
    pub(super) fn interrupt(&self) -> &Interrupt {
        &self.signal.interrupt
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.signal.is_cancelled.load(Ordering::SeqCst)
    }
}

/// What a call of [`Input::fill`] has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fill {
    Bytes,
    /// Nothing has come for a while; the pipe is still open.
    Silence,
    End,
}

/// An open file, decompressed.
pub(super) struct Input {
    path: PathBuf,
    reader: Box<dyn Read + Send>,
    /// Made with the first [`Input::fill`]; a reader with a place of its own needs none.
    buffer: Vec<u8>,
    /// Bytes that it is to have.
    size: usize,
    start: usize,
    end: usize,
    is_regular: bool,
    /// Of a regular file.
    version: Option<Version>,
    waits_for_ever: Arc<AtomicBool>,
    canceller: Canceller,
}

impl Input {
    pub(super) fn stdin(
        compression: Compression,
        encoding: Encoding,
        canceller: &Canceller,
        bytes_read: &Arc<AtomicU64>,
    ) -> Result<Self, ReadError> {
        let path = Path::new(STDIN);
        let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
        let file = file.map_err(|source| ReadError::Unreadable { path: path.to_owned(), source })?;
        Self::new(path, file, compression, encoding, canceller, bytes_read)
    }

    /// Reads a file. A named pipe is open before it has a writer: waiting for that is part of reading. The raw bytes that are read are added to
    /// `bytes_read`.
    pub(super) fn new(
        path: &Path,
        file: File,
        compression: Compression,
        encoding: Encoding,
        canceller: &Canceller,
        bytes_read: &Arc<AtomicU64>,
    ) -> Result<Self, ReadError> {
        let unreadable = |source| ReadError::Unreadable { path: path.to_owned(), source };
        let metadata = file.metadata().map_err(unreadable)?;
        let is_regular = metadata.is_file();
        let version = if is_regular { Some(Version::of(&file).map_err(unreadable)?) } else { None };
        let waits_for_ever = Arc::new(AtomicBool::new(true));
        let raw = RawInput {
            file,
            is_regular,
            waits_for_ever: Arc::clone(&waits_for_ever),
            canceller: canceller.clone(),
            bytes_read: Arc::clone(bytes_read),
        };
        let size = match compression {
            _ if !is_regular => PIPE_BUFFER,
            Compression::None => buffer_of_file(metadata.len()),
            _ => FILE_BUFFER,
        };
        Ok(Self {
            path: path.to_owned(),
            reader: transcode(decompress(raw, compression).map_err(unreadable)?, encoding),
            buffer: Vec::new(),
            size,
            start: 0,
            end: 0,
            is_regular,
            version,
            waits_for_ever,
            canceller: canceller.clone(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the bytes are all there, so that a read never waits for a writer.
    pub(super) fn is_regular(&self) -> bool {
        self.is_regular
    }

    /// The bytes that have been read and not consumed.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.start += count;
    }

    /// Reads what is there, once the bytes from before are consumed. `waits_for_ever`: whether to wait however long a pipe
    /// is silent.
    pub(super) fn fill(&mut self, waits_for_ever: bool) -> Result<Fill, ReadError> {
        debug_assert!(self.bytes().is_empty(), "nothing is overwritten");
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(self.size, 0);
        let read = self.read_into(&mut buffer, waits_for_ever);
        self.buffer = buffer;
        let (fill, count) = read?;
        (self.start, self.end) = (0, count);
        Ok(fill)
    }

    /// Reads what is there to `room`, which is not empty, and returns how much it was. As [`Input::fill`], for a reader that has a
    /// place for the bytes.
    pub(super) fn read_into(&mut self, room: &mut [u8], waits_for_ever: bool) -> Result<(Fill, usize), ReadError> {
        self.waits_for_ever.store(waits_for_ever, Ordering::Relaxed);
        if self.canceller.is_cancelled() {
            return Err(ReadError::Cancelled);
        }
        // Of a pipe no more is taken at once than a buffer: the rest is left to whoever reads it next.
        let room = if self.is_regular { room } else { first(room, PIPE_BUFFER) };
        match self.reader.read(room) {
            Ok(0) => self.check_version().map(|()| (Fill::End, 0)),
            Ok(count) => Ok((Fill::Bytes, count)),
            Err(_) if self.canceller.is_cancelled() => Err(ReadError::Cancelled),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((Fill::Silence, 0)),
            // What was written over what is being decompressed looks like damage.
            Err(error) => self.check_version().and(Err(failure(&self.path, error))),
        }
    }

    fn check_version(&self) -> Result<(), ReadError> {
        self.version.as_ref().map_or(Ok(()), |version| version.check(&self.path))
    }

    /// A plain reader for decoders that pull for themselves; it waits however long it takes. And what tells, at the end, that the file
    /// was changed.
    pub(super) fn into_reader(self) -> (impl Read + Send, Option<Version>) {
        self.waits_for_ever.store(true, Ordering::Relaxed);
        (self.reader, self.version)
    }
}

fn first(room: &mut [u8], count: usize) -> &mut [u8] {
    let count = room.len().min(count);
    &mut room[..count]
}

/// Bytes of the buffer for a file of `length` bytes. A buffer is cleared when it is made, which costs more than to read a small
/// file; one byte more than the file has lets the second read find its end.
fn buffer_of_file(length: u64) -> usize {
    usize::try_from(length.saturating_add(1)).unwrap_or(FILE_BUFFER).clamp(SMALLEST_FILE_BUFFER, FILE_BUFFER)
}

/// Opens a file that was there when the source was opened.
pub(super) fn open_file(path: &Path) -> Result<File, ReadError> {
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a small number");
    File::options().read(true).custom_flags(nonblocking).open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => ReadError::Vanished { path: path.to_owned() },
        _ => ReadError::Unreadable { path: path.to_owned(), source },
    })
}

/// What a failed read of a file means. Only decompression tells of a file that ends too early or is not what it seems.
pub(super) fn failure(path: &Path, source: io::Error) -> ReadError {
    let path = path.to_owned();
    if let Some(not_encoded) = source.get_ref().and_then(|inner| inner.downcast_ref::<NotEncoded>()) {
        return ReadError::Encoding { path, source: *not_encoded };
    }
    match source.kind() {
        io::ErrorKind::UnexpectedEof => ReadError::Truncated { path },
        io::ErrorKind::OutOfMemory => ReadError::TooMuchMemory { path, message: source.to_string() },
        io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
            ReadError::Corrupt { path, message: source.to_string() }
        }
        // Zstandard reports damage without a kind of its own, and without a number from the system.
        _ if source.raw_os_error().is_none() => ReadError::Corrupt { path, message: source.to_string() },
        _ => ReadError::Unreadable { path, source },
    }
}

/// Bytes as they lie in the file or come through the pipe.
struct RawInput {
    file: File,
    is_regular: bool,
    waits_for_ever: Arc<AtomicBool>,
    canceller: Canceller,
    bytes_read: Arc<AtomicU64>,
}

impl RawInput {
    /// Waits until there is something to read: bytes, or the end. A named pipe that no writer has opened yet has neither.
    fn wait(&self) -> io::Result<()> {
        loop {
            let timeout = (!self.waits_for_ever.load(Ordering::Relaxed)).then_some(&SILENCE);
            let mut waited =
                [PollFd::new(&self.file, PollFlags::IN), PollFd::new(&self.canceller.signal.event, PollFlags::IN)];
            match poll(&mut waited, timeout) {
                Ok(0) => return Err(io::ErrorKind::WouldBlock.into()),
                Ok(_) if !waited[1].revents().is_empty() => return Err(io::Error::other("cancelled")),
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Read for RawInput {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_regular {
            self.wait()?;
        }
        let count = self.file.read(buffer)?;
        self.bytes_read.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}
