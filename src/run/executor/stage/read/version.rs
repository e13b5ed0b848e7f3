//! [`Version`]: tells that a file was written to while it was read.

use std::fs::{File, Metadata};
use std::io;
use std::path::Path;
use std::time::SystemTime;

use super::error::ReadError;

/// A regular file as it was when it was opened. What replaces it by its name is another file, and does not matter.
#[derive(Debug)]
pub(super) struct Version {
    file: File,
    size: u64,
    modified: Option<SystemTime>,
}

impl Version {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self { file: file.try_clone()?, size: metadata.len(), modified: modified(&metadata) })
    }

    /// # Errors
    /// [`ReadError::Changed`] if the file is not what it was: the rows that were read may be of neither version.
    pub(super) fn check(&self, path: &Path) -> Result<(), ReadError> {
        // That is asked of the open file; it does not fail for want of the name.
        let is_same = self.file.metadata().is_ok_and(|now| now.len() == self.size && modified(&now) == self.modified);
        if is_same { Ok(()) } else { Err(ReadError::Changed { path: path.to_owned() }) }
    }
}

fn modified(metadata: &Metadata) -> Option<SystemTime> {
    metadata.modified().ok()
}
