//! The files that a source reads, in order.

use std::path::{Path, PathBuf};

use super::error::ReadError;
use crate::format::Format;
use crate::run::executor::glob::{self, GlobError, is_pattern, sort};

/// Replaces patterns by the files that match them and folders by their files of the format, each sorted bytewise.
pub(super) fn expand(paths: &[PathBuf], format: Format) -> Result<Vec<PathBuf>, ReadError> {
    let mut files = Vec::new();
    for path in paths {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => files.extend(list(path, format)?),
            Ok(_) => files.push(path.clone()),
            Err(_) if is_pattern(path) => files.extend(matching(path)?),
            Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
                return Err(ReadError::Missing { path: path.clone() });
            }
            Err(source) => return Err(ReadError::Unreadable { path: path.clone(), source }),
        }
    }
    Ok(files)
}

fn matching(pattern: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let found = glob::matching(pattern).map_err(|error| match error {
        GlobError::Pattern(message) => ReadError::Pattern { pattern: pattern.to_owned(), message: message.to_owned() },
        GlobError::Unreadable { path, source } => ReadError::Unreadable { path, source },
    })?;
    let files: Vec<PathBuf> = found.into_iter().filter(|path| !path.is_dir()).collect();
    if files.is_empty() {
        return Err(ReadError::NoMatch { pattern: pattern.to_owned() });
    }
    Ok(files)
}

fn list(folder: &Path, format: Format) -> Result<Vec<PathBuf>, ReadError> {
    let unreadable = |source| ReadError::Unreadable { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in folder.read_dir().map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if !is_hidden && format.names(&path) && !path.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(ReadError::EmptyFolder { path: folder.to_owned(), extensions: format.extensions() });
    }
    sort(&mut files);
    Ok(files)
}
