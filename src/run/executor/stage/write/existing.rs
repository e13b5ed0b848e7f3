//! [`Existing`]: a file that rows are appended to.

use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::format::{Compression, Dialect, EncodeError, Format, Limit, Problem, Records, Splitter, decompress};
use crate::plan::Write;
use crate::run::publish::{Seen, last_byte};

const BUFFER: usize = 64 << 10;

/// A file as it was when the run began.
pub(super) struct Existing {
    path: PathBuf,
    pub(super) seen: Seen,
}

/// What stands in it, as far as what is appended depends on that.
pub(super) struct Look {
    /// The names of its columns, if its first line has them.
    pub(super) header: Option<Vec<String>>,
    /// Whether its last line has no end.
    pub(super) is_open: bool,
}

impl Existing {
    /// `None` if there is no such file.
    ///
    /// # Errors
    /// If it cannot be read and written.
    pub(super) fn find(path: &Path, compression: Compression) -> io::Result<Option<Self>> {
        let mut file = match File::options().read(true).append(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = file.metadata()?.len();
        // How compressed data end says nothing of the lines in it.
        let last = if compression == Compression::None { last_byte(&mut file, length)? } else { None };
        Ok(Some(Self { path: path.to_owned(), seen: Seen { length, last } }))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.seen.length == 0
    }

    /// Reads its first line, and its last; all of it, if it is compressed.
    pub(super) fn look(&self, write: &Write) -> Result<Look, EncodeError> {
        let is_csv = matches!(write.format, Format::Csv | Format::Tsv);
        let mut header = if is_csv && write.header { Some(Header::new(write.format)) } else { None };
        let file = File::open(&self.path)?.take(self.seen.length);
        let is_packed = write.compression != Compression::None;
        let mut content = decompress(file, write.compression)?;
        let mut buffer = vec![0; BUFFER];
        let mut last = self.seen.last;
        while is_packed || header.as_ref().is_some_and(|header| !header.is_complete()) {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            if is_packed {
                last = Some(buffer[count - 1]);
            }
            if let Some(header) = &mut header {
                header.take(&buffer[..count]).map_err(|problem| unreadable(&problem))?;
            }
        }
        let header = header.map(Header::end).transpose().map_err(|problem| unreadable(&problem))?.flatten();
        Ok(Look { header, is_open: last.is_some_and(|byte| byte != b'\n') })
    }
}

fn unreadable(problem: &Problem) -> EncodeError {
    EncodeError::Io(io::Error::new(ErrorKind::InvalidData, format!("its first line cannot be read: {problem}")))
}

/// Finds the names in the first record of a file.
struct Header {
    splitter: Splitter,
    records: Records,
}

impl Header {
    const LIMIT: Limit = Limit { records: 1, bytes: usize::MAX };

    fn new(format: Format) -> Self {
        let delimiter = if format == Format::Tsv { b'\t' } else { b',' };
        Self { splitter: Splitter::csv(&Dialect::with_delimiter(delimiter)), records: Records::default() }
    }

    fn is_complete(&self) -> bool {
        self.splitter.header().is_some()
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        if !self.is_complete() {
            self.splitter.push(bytes, &mut self.records, Self::LIMIT)?;
        }
        Ok(())
    }

    fn end(mut self) -> Result<Option<Vec<String>>, Problem> {
        if !self.is_complete() {
            self.splitter.finish(&mut self.records)?;
        }
        Ok(self.splitter.header().map(<[String]>::to_vec))
    }
}
