//! [`SummaryFile`]: where `run --summary` puts what the run came to.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::secrets::masked;

/// A file that is empty until the run has ended, so that nobody takes what an earlier run has left for it.
pub struct SummaryFile {
    path: PathBuf,
    file: File,
}

impl SummaryFile {
    /// # Errors
    /// If it cannot be written: better before the run than after it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path).map_err(|error| with_path(&error, path))?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// # Errors
    /// If it cannot be written.
    pub fn write(mut self, summary: &str) -> io::Result<()> {
        self.file.write_all(masked(summary).as_bytes()).map_err(|error| with_path(&error, &self.path))
    }
}

/// Adds `text` to the end of a file, which need not be there.
///
/// # Errors
/// If it cannot be written.
pub fn append(path: &Path, text: &str) -> io::Result<()> {
    let file = File::options().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(masked(text).as_bytes())).map_err(|error| with_path(&error, path))
}

fn with_path(error: &io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("the summary cannot be written to `{}`: {error}", path.display()))
}
