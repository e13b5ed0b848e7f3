//! [`Lock`]: a file that one process holds, and in which it says which one that is. The kernel frees it when the process ends.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

/// Held until it is dropped.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

#[derive(Debug)]
pub enum LockError {
    /// By this process, if it has said so.
    Held(Option<String>),
    System(io::Error),
}

impl From<io::Error> for LockError {
    fn from(error: io::Error) -> Self {
        Self::System(error)
    }
}

impl Lock {
    /// Takes the lock, or says who has it. Creates the file and its folder.
    ///
    /// # Errors
    /// [`LockError`]
    pub fn take(path: &Path) -> Result<Self, LockError> {
        loop {
            fs::create_dir_all(path.parent().unwrap_or(path))?;
            let mut file = match File::options().read(true).write(true).create(true).truncate(false).open(path) {
                // The folder was removed just now.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                opened => opened?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let mut holder = String::new();
                    let _ = file.read_to_string(&mut holder);
                    return Err(LockError::Held(Some(holder.trim().to_owned()).filter(|pid| !pid.is_empty())));
                }
                Err(errno) => return Err(LockError::System(errno.into())),
            }
            // What was removed between the two is no lock for anybody else.
            if is_at(&file, path)? {
                file.set_len(0)?;
                file.write_all(std::process::id().to_string().as_bytes())?;
                return Ok(Self { _file: file });
            }
        }
    }
}

/// `(process 7)`, as a part of a sentence.
pub(super) fn by(holder: Option<&String>) -> String {
    holder.map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// Whether a path leads to this file.
pub(super) fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match fs::metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}
