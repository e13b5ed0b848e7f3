//! [`RunFolder`]: the folder that a run keeps, and the lock that shows that it is alive.

use std::fs::{self, File};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{FlockOperation, flock};

use super::durable::{create_folders, sync_folder, write_file};
use super::error::PublishError;
use super::journal::has_ended;
use super::run_record::{RecordedOutcome, RunRecord};

/// Finished runs whose folders are kept.
pub const KEPT_RUNS: usize = 20;

pub(super) const LOCK: &str = "lock";
/// In a run's folder, for what its queries and edges spill; gone when the run ends.
pub(super) const SPILL: &str = "spill";

/// The folder of a live run. Dropping it frees its lock, as does the end of the process.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    id: String,
    _lock: File,
}

impl RunFolder {
    /// Creates the folder of a new run in `state_dir` (`.millpond`), and removes those of the oldest finished runs.
    pub fn create(state_dir: &Path, record: &RunRecord) -> Result<Self, PublishError> {
        create_state(state_dir)?;
        let runs = state_dir.join("runs");
        create_folders(&runs)?;
        // While this is held nobody else looks at the runs: a folder is never seen before it is locked.
        let _guard = lock_state(state_dir)?;
        prune(&runs, KEPT_RUNS)?;
        let id = new_id();
        let path = runs.join(&id);
        fs::create_dir(&path).map_err(PublishError::at("create the folder", &path))?;
        // What has no more than a part of this is the folder of no run.
        let lock = fill(&path, record).inspect_err(|_| drop(fs::remove_dir_all(&path)))?;
        sync_folder(&runs)?;
        Ok(Self { path, id, _lock: lock })
    }

    /// Notes what the run came to.
    pub fn end(&self, outcome: &RecordedOutcome) -> Result<(), PublishError> {
        outcome.write(&self.path)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder that the runs of a pipeline share.
    pub fn state_dir(&self) -> &Path {
        self.path.ancestors().nth(2).expect("it was made in one")
    }

    /// Where the run may put what it cannot hold in memory.
    pub fn spill(&self) -> PathBuf {
        self.path.join(SPILL)
    }

    /// Sorts by time; unique.
    pub fn id(&self) -> &str {
        &self.id
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        // It is empty, unless the run has ended badly. What cannot be removed now is removed by the next run.
        let spill = self.spill();
        let _ = fs::remove_dir(&spill).or_else(|_| fs::remove_dir_all(&spill));
    }
}

/// Creates the state folder, which is not for version control.
pub fn create_state(state_dir: &Path) -> Result<(), PublishError> {
    create_folders(state_dir)?;
    let ignore = state_dir.join(".gitignore");
    if ignore.exists() { Ok(()) } else { write_file(&ignore, b"*\n") }
}

/// Locks the folder of a new run, and puts into it what is there from the beginning.
fn fill(path: &Path, record: &RunRecord) -> Result<File, PublishError> {
    let lock = try_lock(path)?.expect("nobody else knows the folder");
    let spill = path.join(SPILL);
    fs::create_dir(&spill).map_err(PublishError::at("create the folder", &spill))?;
    record.write(path)?;
    Ok(lock)
}

/// Waits until no other process looks at the set of runs or changes it, and keeps others from doing so.
pub(super) fn lock_state(state_dir: &Path) -> Result<File, PublishError> {
    let path = state_dir.join(LOCK);
    let file = File::create(&path).map_err(PublishError::at("create", &path))?;
    wait_for(&file).map_err(PublishError::at("lock", &path))?;
    Ok(file)
}

/// Waits for a lock, whatever signals come.
pub(super) fn wait_for(file: &File) -> io::Result<()> {
    loop {
        match flock(file, FlockOperation::LockExclusive) {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

/// Locks the folder of a run; `None` if the run is alive.
pub(super) fn try_lock(run: &Path) -> Result<Option<File>, PublishError> {
    let path = run.join(LOCK);
    let file = File::create(&path).map_err(PublishError::at("create", &path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(PublishError::at("lock", &path)(error.into())),
    }
}

/// The folders of all runs, oldest first.
pub(super) fn list_runs(runs: &Path) -> Result<Vec<PathBuf>, PublishError> {
    let failed = || PublishError::at("list", runs);
    let entries = match fs::read_dir(runs) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed()(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| failed()(error))?.path();
        if path.is_dir() {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

pub(super) fn has_spilled(run: &Path) -> bool {
    run.join(SPILL).exists()
}

/// Removes what a run that is dead had spilled.
pub(super) fn remove_spilled(run: &Path) -> Result<(), PublishError> {
    let spill = run.join(SPILL);
    match fs::remove_dir_all(&spill) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(PublishError::at("remove the folder", &spill)(error)),
        _ => Ok(()),
    }
}

fn prune(runs: &Path, kept: usize) -> Result<(), PublishError> {
    let finished: Vec<_> = list_runs(runs)?.into_iter().filter(|run| has_ended(run)).collect();
    for run in finished.iter().take(finished.len().saturating_sub(kept)) {
        remove_run(run)?;
    }
    Ok(())
}

/// Removes a run's folder. Returns whether it could be: whether the run is not alive.
pub(super) fn remove_run(run: &Path) -> Result<bool, PublishError> {
    let Some(_lock) = try_lock(run)? else { return Ok(false) };
    fs::remove_dir_all(run).map_err(PublishError::at("remove the folder", run))?;
    Ok(true)
}

/// The time in UTC to the millisecond, and six random digits.
fn new_id() -> String {
    let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
    let digits: String = time.chars().filter(char::is_ascii_digit).collect();
    let random = RandomState::new().build_hasher().finish() & 0x00ff_ffff;
    format!("{}-{}-{random:06x}", &digits[..8], &digits[8..])
}

/// The time that an id has; `None` for what is no id.
pub(super) fn time_of(id: &str) -> Option<SystemTime> {
    let (date, rest) = id.split_once('-')?;
    let (time, _) = rest.split_once('-')?;
    if !(date.len() == 8 && time.len() == 9 && [date, time].concat().bytes().all(|byte| byte.is_ascii_digit())) {
        return None;
    }
    let (day, clock) = (&date[4..], &time[..6]);
    let text = format!(
        "{}-{}-{}T{}:{}:{}.{}Z",
        &date[..4],
        &day[..2],
        &day[2..],
        &clock[..2],
        &clock[2..4],
        &clock[4..],
        &time[6..]
    );
    humantime::parse_rfc3339(&text).ok()
}
