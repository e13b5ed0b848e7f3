//! [`FileToRead`]: a file of a source that has not been opened yet.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::error::ReadError;
use super::input::{Canceller, Input, STDIN, open_file};
use crate::format::{Compression, Encoding};
use crate::run::store::Fetched;

pub(super) struct FileToRead {
    pub(super) target: Target,
    pub(super) compression: Compression,
    pub(super) encoding: Encoding,
}

pub(super) enum Target {
    Path(PathBuf),
    /// Under its URL.
    Object(PathBuf, Fetched),
    Stdin,
}

impl FileToRead {
    /// What it is called in messages and in the table of files.
    pub(super) fn name(&self) -> &Path {
        match &self.target {
            Target::Path(path) | Target::Object(path, _) => path,
            Target::Stdin => Path::new(STDIN),
        }
    }

    /// Opens it for reading from its beginning to its end. The raw bytes that are read are added to `bytes_read`.
    pub(super) fn open(&self, canceller: &Canceller, bytes_read: &Arc<AtomicU64>) -> Result<Input, ReadError> {
        match &self.target {
            Target::Stdin => Input::stdin(self.compression, self.encoding, canceller, bytes_read),
            Target::Path(path) => self.open_as(path, open_file(path)?, canceller, bytes_read),
            Target::Object(url, fetched) => self.open_as(url, take(url, fetched, canceller)?, canceller, bytes_read),
        }
    }

    /// As [`FileToRead::open`], with a file that is open, and stands at its beginning.
    pub(super) fn open_as(
        &self,
        name: &Path,
        file: File,
        canceller: &Canceller,
        bytes_read: &Arc<AtomicU64>,
    ) -> Result<Input, ReadError> {
        Input::new(name, file, self.compression, self.encoding, canceller, bytes_read)
    }

    /// Opens it for reading at any place of it, and returns its size; `None` if it is no regular file.
    pub(super) fn regular(&self, canceller: &Canceller) -> Result<Option<(File, u64)>, ReadError> {
        let path = match &self.target {
            Target::Stdin => return Ok(None),
            Target::Object(url, fetched) => return Ok(Some((take(url, fetched, canceller)?, fetched.size()))),
            Target::Path(path) => path,
        };
        // A named pipe must not be opened here only to be closed again: its writer would see that.
        let unreadable = |source: std::io::Error| match source.kind() {
            std::io::ErrorKind::NotFound => ReadError::Vanished { path: path.clone() },
            _ => ReadError::Unreadable { path: path.clone(), source },
        };
        let metadata = path.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        Ok(Some((open_file(path)?, metadata.len())))
    }
}

fn take(url: &Path, fetched: &Fetched, canceller: &Canceller) -> Result<File, ReadError> {
    fetched.take(canceller.interrupt()).map_err(|error| ReadError::store(url, error))
}
