//! [`StateFile`]: a file of the state folder to which runs append what later ones are to know, each when it is published.

use std::fs;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use super::durable::{create_folders, parent, sync_folder, write_whole};
use super::error::PublishError;
use super::journal::How;
use super::staging::Staging;

/// A file as it was when it was opened.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
    length: u64,
}

impl StateFile {
    /// Reads the file, which is made with `head` if it is not there.
    ///
    /// # Errors
    /// If it can be neither read nor made.
    pub fn open(path: &Path, head: &str) -> Result<(Self, String), PublishError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                create_folders(parent(path))?;
                write_whole(path, head.as_bytes())?;
                sync_folder(parent(path))?;
                head.to_owned()
            }
            Err(error) => return Err(PublishError::at("read", path)(error)),
        };
        Ok((Self { path: path.to_owned(), length: text.len() as u64 }, text))
    }
}

impl Staging {
    /// Has lines appended to a file when the others are published. If it is not as it was then, nothing is published.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn append(&mut self, file: &StateFile, lines: &str) -> Result<(), PublishError> {
        let mut staged =
            self.stage_first(&file.path, How::Append { length: file.length, last: None, may_grow: false })?;
        let written = staged.file.write_all(lines.as_bytes()).and_then(|()| staged.file.sync_all());
        written.map_err(PublishError::at("write", &staged.path))
    }
}
