//! The files that a source reads, in order.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::ReadError;
use crate::format::Format;
use crate::plan::Read;
use crate::run::executor::glob::{self, GlobError, is_pattern, sort};

/// Replaces patterns by the files that match them and folders by their files of the format, each sorted bytewise. Of folders that stand for
/// values, those below them count, too.
pub(super) fn expand(read: &Read) -> Result<Vec<PathBuf>, ReadError> {
    let is_deep = read.partitions.is_some();
    let mut files = Vec::new();
    for path in &read.paths {
        match path.metadata() {
            Ok(metadata) if metadata.is_dir() => files.extend(list(path, read.format, is_deep)?),
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

fn list(folder: &Path, format: Format, is_deep: bool) -> Result<Vec<PathBuf>, ReadError> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        let unreadable = |source| ReadError::Unreadable { path: folder.clone(), source };
        for entry in folder.read_dir().map_err(unreadable)? {
            let path = entry.map_err(unreadable)?.path();
            let name = path.file_name().map(OsStr::as_encoded_bytes).unwrap_or_default();
            // What other programs note down beside files of values begins with `_`.
            if name.starts_with(b".") || is_deep && name.starts_with(b"_") {
                continue;
            }
            if !path.is_dir() {
                files.extend(format.names(&path).then_some(path));
            } else if is_deep && !path.is_symlink() {
                open.push(path);
            }
        }
    }
    if files.is_empty() {
        return Err(ReadError::EmptyFolder { path: folder.to_owned(), extensions: format.extensions() });
    }
    sort(&mut files);
    Ok(files)
}
