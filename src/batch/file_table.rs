//! [`FileTable`]: the source files of a run, by number.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::origin::FileId;

/// The files that the sources of a run have opened. Cloning shares the table.
#[derive(Clone, Debug, Default)]
pub struct FileTable {
    paths: Arc<Mutex<Vec<PathBuf>>>,
}

impl FileTable {
    /// Adds a file; a path that is read twice gets two numbers.
    pub fn register(&self, path: &Path) -> FileId {
        let mut paths = self.lock();
        let id = FileId(u32::try_from(paths.len()).expect("fewer than 2^32 files"));
        paths.push(path.to_owned());
        id
    }

    /// The path of a registered file.
    pub fn path(&self, id: FileId) -> Option<PathBuf> {
        self.lock().get(id.0 as usize).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<PathBuf>> {
        // A push either happened or it did not: the table is sound even if a holder panicked.
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
