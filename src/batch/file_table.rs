//! [`FileTable`]: the source files of a run, by number.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::origin::FileId;

/// The files that the sources of a run have opened. Cloning shares the table.
#[derive(Clone, Debug, Default)]
pub struct FileTable {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    paths: Vec<PathBuf>,
    /// Paths that say nothing to anybody, and what stands in their place.
    shown: Vec<(PathBuf, PathBuf)>,
}

impl FileTable {
    /// Adds a file; a path that is read twice gets two numbers.
    pub fn register(&self, path: &Path) -> FileId {
        let mut inner = self.lock();
        let id = FileId(u32::try_from(inner.paths.len()).expect("fewer than 2^32 files"));
        let shown = inner.shown.iter().rfind(|(hidden, _)| hidden == path).map(|(_, shown)| shown);
        let path = shown.map_or(path, PathBuf::as_path).to_owned();
        inner.paths.push(path);
        id
    }

    /// Has `name` stand in the place of a path that is registered later: of that of a pipe, which is another one in every run.
    pub fn show_as(&self, path: &Path, name: PathBuf) {
        self.lock().shown.push((path.to_owned(), name));
    }

    /// The path of a registered file.
    pub fn path(&self, id: FileId) -> Option<PathBuf> {
        self.lock().paths.get(id.0 as usize).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A push either happened or it did not: the table is sound even if a holder panicked.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
