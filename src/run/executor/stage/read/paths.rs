//! The files that a source reads, in order.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::error::ReadError;
use crate::format::Format;
use crate::plan::{Location, Read, StoreUrl, WhichFiles};
use crate::run::executor::glob::{self, GlobError, is_pattern, sort};
use crate::run::store::{Interrupt, Object, Store};

/// A file that is there.
#[derive(Clone)]
pub(super) struct Found {
    /// Its path or URL.
    pub(super) name: PathBuf,
    /// If it is in a store.
    pub(super) object: Option<(Store, Object)>,
}

impl Found {
    fn local(name: PathBuf) -> Self {
        Self { name, object: None }
    }

    /// Bytes, if it is not a pipe.
    pub(super) fn size(&self) -> Option<u64> {
        match &self.object {
            Some((_, object)) => Some(object.size),
            None => self.name.metadata().ok().filter(std::fs::Metadata::is_file).map(|metadata| metadata.len()),
        }
    }
}

/// Replaces patterns by the files that match them and folders by their files of the format, each sorted bytewise. Of folders that stand for
/// values, those below them count, too. `interrupt` ends the wait for stores.
pub(super) fn expand(read: &Read, interrupt: &Interrupt) -> Result<Vec<Found>, ReadError> {
    let mut files = Vec::new();
    for location in &read.paths {
        match (at(location, read, interrupt), location) {
            (Ok(found), _) => files.extend(found),
            // What is not there may come to be before the next run. In a store there are no folders without files.
            (Err(ReadError::NoMatch { .. } | ReadError::EmptyFolder { .. }), _) if read.which != WhichFiles::All => {}
            (Err(ReadError::Missing { .. }), Location::Store(_)) if read.which != WhichFiles::All => {}
            (Err(error), _) => return Err(error),
        }
    }
    Ok(files)
}

fn at(location: &Location, read: &Read, interrupt: &Interrupt) -> Result<Vec<Found>, ReadError> {
    let is_deep = read.partitions.is_some();
    let url = match location {
        Location::Local(path) => {
            return Ok(on_this_machine(path, read, is_deep)?.into_iter().map(Found::local).collect());
        }
        Location::Store(url) => url,
    };
    let name = location.as_path();
    let store = Store::open(url).map_err(|error| ReadError::store(&name, error))?;
    let objects = in_store(&store, &name, read.format, is_deep, interrupt)?;
    let found = |object: Object| Found {
        name: PathBuf::from(url.at(object.path.clone()).to_string()),
        object: Some((store.clone(), object)),
    };
    Ok(objects.into_iter().map(found).collect())
}

fn on_this_machine(path: &Path, read: &Read, is_deep: bool) -> Result<Vec<PathBuf>, ReadError> {
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => list(path, read.format, is_deep),
        Ok(_) => Ok(vec![path.to_owned()]),
        Err(_) if is_pattern(path) => matching(path),
        Err(source) if source.kind() == std::io::ErrorKind::NotFound => {
            Err(ReadError::Missing { path: path.to_owned() })
        }
        Err(source) => Err(ReadError::Unreadable { path: path.to_owned(), source }),
    }
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
            if is_hidden(name, is_deep) {
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

/// What other programs note down beside files of values begins with `_`.
fn is_hidden(name: &[u8], is_deep: bool) -> bool {
    name.starts_with(b".") || is_deep && name.starts_with(b"_")
}

/// The objects that a URL stands for: the one of this name; those that match it; or those below it, as if it were a folder.
fn in_store(
    store: &Store,
    name: &Path,
    format: Format,
    is_deep: bool,
    interrupt: &Interrupt,
) -> Result<Vec<Object>, ReadError> {
    let failed = |error| ReadError::store(name, error);
    let StoreUrl { path, .. } = store.url();
    if !path.as_ref().is_empty()
        && let Some(object) = store.look(path).map_err(failed)?
    {
        return Ok(vec![object]);
    }
    if is_pattern(Path::new(path.as_ref())) {
        let pattern = glob::Names::new(path.as_ref())
            .map_err(|message| ReadError::Pattern { pattern: name.to_owned(), message: message.to_owned() })?;
        let is_plain = |part: &str| !is_pattern(Path::new(part));
        let parts: Vec<_> = path.parts().collect();
        let plain = parts.iter().take_while(|part| is_plain(part.as_ref())).count();
        let before = parts[..plain].iter().cloned().collect();
        // Of deep trees no more is asked for than may match.
        let is_flat = plain + 1 == parts.len() && parts[plain].as_ref() != "**";
        let listed = if is_flat { store.list_folder(&before, interrupt) } else { store.list(&before, interrupt) };
        let listed = listed.map_err(failed)?;
        let found: Vec<Object> = listed.into_iter().filter(|object| pattern.match_name(object.path.as_ref())).collect();
        return if found.is_empty() { Err(ReadError::NoMatch { pattern: name.to_owned() }) } else { Ok(found) };
    }
    let listed = if is_deep { store.list(path, interrupt) } else { store.list_folder(path, interrupt) };
    let listed = listed.map_err(failed)?;
    if listed.is_empty() {
        return Err(ReadError::Missing { path: name.to_owned() });
    }
    let depth = path.parts().count();
    let is_of_folder = |object: &Object| {
        let parts: Vec<_> = object.path.parts().skip(depth).collect();
        // Some programs make an object of no bytes that stands for the folder itself.
        (is_deep && !parts.is_empty() || parts.len() == 1)
            && !parts.iter().any(|part| is_hidden(part.as_ref().as_bytes(), is_deep))
            && format.names(Path::new(object.path.as_ref()))
    };
    let found: Vec<Object> = listed.into_iter().filter(is_of_folder).collect();
    if found.is_empty() {
        return Err(ReadError::EmptyFolder { path: name.to_owned(), extensions: format.extensions() });
    }
    Ok(found)
}
