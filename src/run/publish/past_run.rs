//! [`PastRun`]: a run as its folder shows it, and the removal of those that nobody needs any more.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use super::error::PublishError;
use super::journal::{has_ended, is_published};
use super::run_folder::{LOCK, list_runs, lock_state, remove_run, time_of, wait_for};
use super::run_record::{Ended, RecordedOutcome, RunRecord};

/// A run that has begun at some time, and may still be going on.
#[derive(Clone, Debug)]
pub struct PastRun {
    pub id: String,
    pub folder: PathBuf,
    /// What it was given; `None` if its folder does not say.
    pub record: Option<RunRecord>,
    pub phase: Phase,
    /// Whether its outputs are in their places.
    pub is_published: bool,
    /// Whether it has left nothing that the next run has to finish or undo.
    pub is_finished: bool,
}

/// How far a run has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Its lock is held.
    GoingOn,
    /// It was killed before it could say what it came to.
    Died,
    Ended(RecordedOutcome),
}

impl Phase {
    pub fn word(&self) -> &'static str {
        match self {
            Self::GoingOn => "going on",
            Self::Died => "died",
            Self::Ended(outcome) => outcome.ended.word(),
        }
    }

    /// `None` if that is not known.
    pub fn rows_rejected(&self) -> Option<u64> {
        match self {
            Self::Ended(outcome) => outcome.rows_rejected,
            Self::GoingOn | Self::Died => None,
        }
    }

    pub fn has_succeeded(&self) -> bool {
        matches!(self, Self::Ended(outcome) if outcome.ended == Ended::Succeeded)
    }
}

impl PastRun {
    /// All runs of a state folder, newest first. Runs that are alive are not disturbed.
    ///
    /// # Errors
    /// If they cannot be looked at.
    pub fn all(state_dir: &Path) -> Result<Vec<Self>, PublishError> {
        let runs = state_dir.join("runs");
        if !runs.is_dir() {
            return Ok(Vec::new());
        }
        let _guard = look_at_state(state_dir)?;
        list_runs(&runs)?.into_iter().rev().map(Self::look).collect()
    }

    fn look(folder: PathBuf) -> Result<Self, PublishError> {
        let phase = match RecordedOutcome::read(&folder) {
            _ if is_alive(&folder)? => Phase::GoingOn,
            Some(outcome) => Phase::Ended(outcome),
            None => Phase::Died,
        };
        Ok(Self {
            id: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            record: RunRecord::read(&folder),
            is_published: is_published(&folder),
            is_finished: phase != Phase::GoingOn && has_ended(&folder),
            phase,
            folder,
        })
    }

    /// Whether it is a run of this pipeline file, a path without symbolic links.
    pub fn is_of(&self, file: &Path) -> bool {
        self.record.as_ref().is_some_and(|record| record.file == file)
    }

    /// Whether it was a look at some rows, and nothing to go on with.
    pub fn is_trial(&self) -> bool {
        self.record.as_ref().is_some_and(|record| record.is_trial)
    }

    /// When it began; `None` for a folder that is not of millpond.
    pub fn started(&self) -> Option<SystemTime> {
        self.record.as_ref().map(|record| record.started).or_else(|| time_of(&self.id))
    }
}

/// Which finished runs are not needed any more.
#[derive(Clone, Copy, Debug)]
pub struct Pruning<'a> {
    /// Only runs of this pipeline file, a path without symbolic links.
    pub file: Option<&'a Path>,
    /// So many of the newest ones stay.
    pub keep: usize,
    /// Those that began at this time or later stay.
    pub before: Option<SystemTime>,
    /// Nothing is removed.
    pub is_dry: bool,
}

/// What became of the runs that were not needed any more.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Runs whose folders are removed, newest first, and the bytes that these had.
    pub removed: Vec<(PastRun, u64)>,
    /// Finished runs that stay.
    pub kept: usize,
    /// Runs that died, and that the next run has to finish or undo.
    pub unfinished: usize,
    pub failed: Vec<PublishError>,
}

/// Removes the folders of finished runs. Runs that are alive, and those that are to be recovered, stay.
///
/// # Errors
/// If the runs cannot be looked at. Folders that cannot be removed are in the result.
pub fn prune(state_dir: &Path, pruning: &Pruning<'_>) -> Result<Pruned, PublishError> {
    let mut pruned = Pruned::default();
    let runs = state_dir.join("runs");
    if !runs.is_dir() {
        return Ok(pruned);
    }
    // Nobody recovers or begins a run in the meantime.
    let _guard = if pruning.is_dry { look_at_state(state_dir)? } else { Some(lock_state(state_dir)?) };
    for folder in list_runs(&runs)?.into_iter().rev() {
        let run = PastRun::look(folder)?;
        if pruning.file.is_some_and(|file| !run.is_of(file)) || run.phase == Phase::GoingOn {
            continue;
        }
        if !run.is_finished {
            pruned.unfinished += 1;
            continue;
        }
        let is_old = pruning.before.is_none_or(|before| run.started().is_some_and(|started| started < before));
        if pruned.kept < pruning.keep || !is_old {
            pruned.kept += 1;
            continue;
        }
        match remove(&run.folder, pruning.is_dry) {
            Ok(Some(bytes)) => pruned.removed.push((run, bytes)),
            Ok(None) => {}
            Err(error) => pruned.failed.push(error),
        }
    }
    Ok(pruned)
}

/// Removes a run's folder, and returns how many bytes it had; `None` if the run is alive.
fn remove(run: &Path, is_dry: bool) -> Result<Option<u64>, PublishError> {
    let bytes = folder_bytes(run).map_err(PublishError::at("look at", run))?;
    let is_gone = is_dry || remove_run(run)?;
    Ok(is_gone.then_some(bytes))
}

/// Bytes of all files in a folder and those below it.
///
/// # Errors
/// If one of the folders cannot be read.
pub fn folder_bytes(folder: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Of a symbolic link, not of what it leads to.
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { folder_bytes(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Like [`lock_state`], but who may not write in the folder may look all the same.
fn look_at_state(state_dir: &Path) -> Result<Option<File>, PublishError> {
    let path = state_dir.join(LOCK);
    let file = match File::open(&path) {
        // Were there no lock, a run that is just being created would be seen before its folder is locked.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            match File::options().append(true).create(true).open(&path) {
                Ok(file) => file,
                Err(_) => return Ok(None),
            }
        }
        opened => opened.map_err(PublishError::at("open", &path))?,
    };
    // Not shared: many who look would keep a run from beginning.
    wait_for(&file).map_err(PublishError::at("lock", &path))?;
    Ok(Some(file))
}

/// Whether a run's lock is held. If it is not, holds it for a moment, which nobody notices, as the state is locked.
fn is_alive(run: &Path) -> Result<bool, PublishError> {
    let path = run.join(LOCK);
    let lock = match File::open(&path) {
        Ok(lock) => lock,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(PublishError::at("open", &path)(error)),
    };
    match flock(&lock, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(PublishError::at("lock", &path)(error.into())),
    }
}
