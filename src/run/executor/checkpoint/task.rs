//! What tasks were made of when they last ended well, and what they made: a file for each in the state folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::digest::Hash;
use super::fingerprint::{Fingerprint, FingerprintError, file_digest, files_within};
use super::lock::{Lock, LockError, by};
use crate::plan::{Plan, Stage, StageId};

/// In the state folder.
const FOLDER: &str = "tasks";
const VERSION: u64 = 1;

/// What a look at the files of a task has found.
#[derive(Clone, Debug)]
pub struct Findings {
    /// Of the files as they are now.
    pub fingerprint: Fingerprint,
    /// What is not as it was when the task last ended well: nothing, if it need not be run. `None` if it never has.
    pub changed: Option<Vec<String>>,
    /// Outputs that the task has made before.
    made: BTreeSet<String>,
}

impl Findings {
    /// A folder at the place of an output with a name, with something in it that the task has not made: it would be lost.
    pub fn foreign<'s>(&self, plan: &Plan, stage: &'s Stage) -> Option<&'s Path> {
        let has_entries = |path: &Path| path.read_dir().is_ok_and(|mut entries| entries.next().is_some());
        let named =
            stage.task_files().into_iter().flat_map(|files| &files.outputs).filter(|output| output.name.is_some());
        let mut paths = named.map(|output| output.path.as_path());
        paths.find(|path| has_entries(path) && !self.made.contains(&plan.shown(path)))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("the command has ended well, but {} is not there, which it is to make (`outputs`)", path.display())]
    NotMade { path: PathBuf },
    #[error("the output {} cannot be read: {source}", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("cannot note in {} what the task has done: {source}", path.display())]
    Record { path: PathBuf, source: io::Error },
    #[error("another run{} does the same task: wait until it has ended", by(holder.as_ref()))]
    Held { holder: Option<String> },
}

/// Takes the right to do a task: no other run does it at the same time.
///
/// # Errors
/// If another run does the task, or the lock cannot be made.
pub fn lock(plan: &Plan, stage: &Stage, state_dir: &Path) -> Result<Lock, TaskError> {
    let path = record_path(plan, stage, state_dir).with_extension("lock");
    Lock::take(&path).map_err(|error| match error {
        LockError::Held(holder) => TaskError::Held { holder },
        LockError::System(source) => TaskError::Record { path, source },
    })
}

/// Looks whether a task needs to be run. A record that cannot be read is as if there were none.
///
/// # Errors
/// If one of its inputs is not there or cannot be read.
pub fn look(plan: &Plan, stage: &Stage, state_dir: &Path) -> Result<Findings, FingerprintError> {
    let fingerprint = Fingerprint::of(plan, stage, None)?;
    let record = fs::read(record_path(plan, stage, state_dir)).ok();
    let record = record.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let record = record.filter(|record| record["version"] == VERSION);
    let made = record.as_ref().and_then(|record| record["made"].as_object());
    let made = made.into_iter().flatten().map(|(name, _)| name.clone()).collect();
    let changed = record.map(|record| {
        let mut changed = fingerprint.changed_since(&record["made_of"]);
        for path in outputs(stage) {
            let name = plan.shown(path);
            let now = digest(path).ok();
            if now.is_none() || now.as_deref() != record["made"][&name].as_str() {
                changed.push(format!("output {name}"));
            }
        }
        changed
    });
    Ok(Findings { fingerprint, changed, made })
}

/// What a run that begins now would find of each task with files. What tasks in front of it make is taken as it is now.
pub fn outlook(plan: &Plan, state_dir: &Path) -> Vec<(StageId, Result<Findings, FingerprintError>)> {
    let tasks = plan.stages.iter().filter(|stage| stage.task_files().is_some());
    tasks.map(|stage| (stage.id, look(plan, stage, state_dir))).collect()
}

/// The outputs of a task by their names in its record, with what they are now. `staged` says where one lies that is not in its place yet.
///
/// # Errors
/// If one of them is not there, or cannot be read.
pub fn made(
    plan: &Plan,
    stage: &Stage,
    staged: impl Fn(&Path) -> Option<PathBuf>,
) -> Result<BTreeMap<String, String>, TaskError> {
    let mut made = BTreeMap::new();
    for path in outputs(stage) {
        let place = staged(path).unwrap_or_else(|| path.to_owned());
        let digest = digest(&place).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TaskError::NotMade { path: path.to_owned() },
            _ => TaskError::Output { path: path.to_owned(), source },
        })?;
        made.insert(plan.shown(path), digest);
    }
    Ok(made)
}

/// Notes that a task has ended well. `fingerprint` is of its inputs before it began.
///
/// # Errors
/// If the note cannot be written.
pub fn note(
    plan: &Plan,
    stage: &Stage,
    state_dir: &Path,
    fingerprint: &Fingerprint,
    made: &BTreeMap<String, String>,
) -> Result<(), TaskError> {
    let record = json!({ "version": VERSION, "made_of": fingerprint.to_json(), "made": made });
    let path = record_path(plan, stage, state_dir);
    let write = || {
        let folder = state_dir.join(FOLDER);
        fs::create_dir_all(&folder)?;
        let mut draft = tempfile::NamedTempFile::new_in(&folder)?;
        draft.write_all(record.to_string().as_bytes())?;
        draft.as_file().sync_all()?;
        draft.persist(&path)?;
        Ok(())
    };
    write().map_err(|source| TaskError::Record { path: path.clone(), source })
}

fn outputs(stage: &Stage) -> impl Iterator<Item = &Path> {
    stage.task_files().into_iter().flat_map(|files| &files.outputs).map(|output| output.path.as_path())
}

/// Of a file, or of all that is in a folder.
fn digest(path: &Path) -> io::Result<String> {
    let files = files_within(path)?;
    if !path.is_dir() {
        return file_digest(path);
    }
    let mut hash = Hash::new();
    for file in files {
        hash.add(file.strip_prefix(path).unwrap_or(&file).as_os_str().as_encoded_bytes());
        hash.add(file_digest(&file)?.as_bytes());
    }
    Ok(blake3::Hash::from_bytes(hash.finish()).to_hex().to_string())
}

fn record_path(plan: &Plan, stage: &Stage, state_dir: &Path) -> PathBuf {
    // Names of pipelines may be anything.
    let mut hash = Hash::new();
    hash.add(plan.name.as_bytes());
    hash.add(stage.name.as_bytes());
    let name = blake3::Hash::from_bytes(hash.finish()).to_hex();
    state_dir.join(FOLDER).join(format!("{}.json", &name[..32]))
}
