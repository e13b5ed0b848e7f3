//! [`RejectFiles`]: rejected rows that no stage reads, one file of JSON lines for each stage, in the run's folder. They are a record, like
//! the run's events: there as soon as they are known, and kept however the run ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use crate::batch::{Batch, BatchError};
use crate::format::{self, EncodeError, Format};
use crate::plan::StageId;

/// In the run's folder.
pub const FOLDER: &str = "rejected";

pub struct RejectFiles {
    folder: PathBuf,
    files: BTreeMap<StageId, File>,
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error("rejected rows cannot be written to `{path}`: {source}")]
    System { path: PathBuf, source: io::Error },
    #[error(
        "rejected rows cannot be written as JSON lines: {0}; let a sink of another format read the port `rejected`"
    )]
    Encode(#[from] EncodeError),
    #[error("{0}")]
    Batch(#[from] BatchError),
}

impl RejectFiles {
    /// `run` is the run's folder.
    pub fn new(run: &Path) -> Self {
        Self { folder: run.join(FOLDER), files: BTreeMap::new() }
    }

    /// Adds rejected rows of a stage, of that name, to its file.
    ///
    /// # Errors
    /// If the file cannot be written, or the rows cannot be said in JSON.
    pub fn add(&mut self, stage: StageId, name: &str, rejects: &Batch) -> Result<(), RecordError> {
        let mut lines = Vec::new();
        format::encode(Format::Jsonl, &rejects.records()?, &mut lines)?;
        let path = self.path(name);
        self.file(stage, &path)
            .and_then(|file| file.write_all(&lines))
            .map_err(|source| RecordError::System { path, source })
    }

    /// The stages that have a file.
    pub fn written(&self) -> impl Iterator<Item = StageId> {
        self.files.keys().copied()
    }

    /// The file of the stage of that name.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{}.jsonl", name.replace('/', ".")))
    }

    fn file(&mut self, stage: StageId, path: &Path) -> io::Result<&mut File> {
        use std::collections::btree_map::Entry;
        match self.files.entry(stage) {
            Entry::Occupied(file) => Ok(file.into_mut()),
            Entry::Vacant(place) => {
                fs::create_dir_all(&self.folder)?;
                Ok(place.insert(File::create_new(path)?))
            }
        }
    }
}
