//! [`Cached`]: the environments that this machine keeps, and their end.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

use super::build::{MARKER, USED, is_complete, remove};
use super::error::EnvironmentError;
use super::host::Host;

/// An environment in the cache.
#[derive(Clone, Debug)]
pub struct Cached {
    pub key: String,
    pub folder: PathBuf,
    /// What it was built for.
    pub requirements: Vec<String>,
    pub requirement_files: Vec<PathBuf>,
    /// Version of its Python; `None` if its building was not completed.
    pub version: Option<String>,
    /// Bytes of its files.
    pub bytes: u64,
    /// When a run or `env build` has last asked for it, if that is known.
    pub last_used: Option<SystemTime>,
    /// Whether a process of it is alive, or it is being built.
    pub is_busy: bool,
}

/// What stands in the marker.
#[derive(Debug, Default, Deserialize)]
struct Marker {
    requirements: Vec<String>,
    requirement_files: Vec<PathBuf>,
    version: String,
}

impl Cached {
    /// All of them, the one that was used last first.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn all(host: &Host) -> Result<Vec<Self>, EnvironmentError> {
        let environments = host.cache.join("envs");
        let entries = match fs::read_dir(&environments) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(EnvironmentError::io("list", &environments)(error)),
        };
        let alive = programs();
        let mut all = Vec::new();
        for entry in entries {
            let entry = entry.map_err(EnvironmentError::io("list", &environments))?;
            if entry.path().is_dir() {
                all.push(Self::at(entry.path(), &alive));
            }
        }
        all.sort_by(|one, other| (other.last_used, &one.key).cmp(&(one.last_used, &other.key)));
        Ok(all)
    }

    fn at(folder: PathBuf, alive: &BTreeSet<PathBuf>) -> Self {
        let marker = fs::read(folder.join(MARKER)).ok().filter(|_| is_complete(&folder));
        let marker = marker.and_then(|bytes| serde_json::from_slice::<Marker>(&bytes).ok());
        let modified = |name: &str| folder.join(name).metadata().and_then(|it| it.modified()).ok();
        let is_alive = alive.iter().any(|program| program.starts_with(&folder));
        let version = marker.as_ref().map(|marker| marker.version.clone());
        let marker = marker.unwrap_or_default();
        Self {
            key: folder.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            requirements: marker.requirements,
            requirement_files: marker.requirement_files,
            version,
            bytes: bytes_in(&folder),
            last_used: modified(USED).max(modified(MARKER)),
            is_busy: is_alive || is_locked(&lock_of(&folder)),
            folder,
        }
    }

    /// Removes it, unless somebody builds it just now.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self) -> Result<(), EnvironmentError> {
        let lock = lock_of(&self.folder);
        let file = File::create(&lock).map_err(EnvironmentError::io("lock", &lock))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| EnvironmentError::io("lock", &lock)(error.into()))?;
        // Without it, what is left of a removal that is cut short counts as no environment.
        match fs::remove_file(self.folder.join(MARKER)) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(EnvironmentError::io("remove", &self.folder)(error));
            }
            _ => {}
        }
        // The lock file stays: who waits for it and who makes a new one would build at the same time.
        remove(&self.folder)
    }
}

fn lock_of(folder: &Path) -> PathBuf {
    folder.with_extension("lock")
}

fn is_locked(lock: &Path) -> bool {
    // What nobody has locked needs no file.
    let Ok(file) = File::open(lock) else { return false };
    flock(&file, FlockOperation::NonBlockingLockShared).is_err()
}

fn bytes_in(folder: &Path) -> u64 {
    let mut open = vec![folder.to_owned()];
    let mut bytes = 0;
    while let Some(folder) = open.pop() {
        // What goes away meanwhile takes no room.
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(it) if it.is_dir() => open.push(entry.path()),
                Ok(it) => bytes += it.len(),
                Err(_) => {}
            }
        }
    }
    bytes
}

/// The programs of all processes, as they were called: an interpreter of an environment goes by the path that it has there.
fn programs() -> BTreeSet<PathBuf> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let lines = entries.filter_map(|entry| fs::read(entry.path().join("cmdline")).ok());
    let first = |line: Vec<u8>| {
        let program = line.split(|byte| *byte == 0).next().filter(|program| program.starts_with(b"/"))?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(program)))
    };
    lines.filter_map(first).collect()
}
