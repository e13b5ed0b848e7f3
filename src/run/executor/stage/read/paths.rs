//! The files that a source reads, in order.

use std::path::{Path, PathBuf};

use super::error::ReadError;
use crate::format::Format;

/// That `*` does not match names that begin with a dot is seen to by [`is_hidden`]: the library panics at names that are not UTF-8.
const MATCH: glob::MatchOptions =
    glob::MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: false };

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

fn is_pattern(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.contains(['*', '?', '[']))
}

fn matching(pattern: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let text = pattern.to_str().expect("a pattern is text");
    let bad =
        |source: glob::PatternError| ReadError::Pattern { pattern: pattern.to_owned(), message: source.msg.to_owned() };
    let said: Vec<_> = dotted(pattern).iter().filter_map(|name| glob::Pattern::new(name).ok()).collect();
    let mut files = Vec::new();
    for entry in glob::glob_with(text, MATCH).map_err(bad)? {
        let path =
            entry.map_err(|error| ReadError::Unreadable { path: error.path().to_owned(), source: error.into() })?;
        if !is_hidden(&path, &said) && !path.is_dir() {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(ReadError::NoMatch { pattern: pattern.to_owned() });
    }
    sort(&mut files);
    Ok(files)
}

/// Whether a name in the path begins with a dot, and is not `said` in the pattern. Staged outputs are among those that are hidden.
fn is_hidden(path: &Path, said: &[glob::Pattern]) -> bool {
    dotted(path).iter().any(|name| said.iter().all(|said| !said.matches(name)))
}

fn dotted(path: &Path) -> Vec<String> {
    path.iter().map(|name| name.to_string_lossy().into_owned()).filter(|name| name.starts_with('.')).collect()
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

fn sort(files: &mut [PathBuf]) {
    files.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
}
