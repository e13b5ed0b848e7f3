//! What tasks were made of when they last ended well, and what they made: a file for each in the state folder.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::digest::Hash;
use super::fingerprint::{Fingerprint, FingerprintError, file_digest, files_within};
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
}

#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    #[error("the command has ended well, but {} is not there, which it is to make (`outputs`)", path.display())]
    NotMade { path: PathBuf },
    #[error("the output {} cannot be read: {source}", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("cannot note in {} what the task has done: {source}", path.display())]
    Record { path: PathBuf, source: io::Error },
}

/// Looks whether a task needs to be run. A record that cannot be read is as if there were none.
///
/// # Errors
/// If one of its inputs is not there or cannot be read.
pub fn look(plan: &Plan, stage: &Stage, state_dir: &Path) -> Result<Findings, FingerprintError> {
    let fingerprint = Fingerprint::of(plan, stage, None)?;
    let record = fs::read(record_path(plan, stage, state_dir)).ok();
    let record = record.and_then(|text| serde_json::from_slice::<Value>(&text).ok());
    let changed = record.filter(|record| record["version"] == VERSION).map(|record| {
        let mut changed = fingerprint.changed_since(&record["made_of"]);
        for path in outputs(stage) {
            let name = shown(plan, path);
            let now = digest(path).ok();
            if now.is_none() || now.as_deref() != record["made"][&name].as_str() {
                changed.push(format!("output {name}"));
            }
        }
        changed
    });
    Ok(Findings { fingerprint, changed })
}

/// What a run that begins now would find of each task with files. What tasks in front of it make is taken as it is now.
pub fn outlook(plan: &Plan, state_dir: &Path) -> Vec<(StageId, Result<Findings, FingerprintError>)> {
    let tasks = plan.stages.iter().filter(|stage| stage.task_files().is_some());
    tasks.map(|stage| (stage.id, look(plan, stage, state_dir))).collect()
}

/// Notes that a task has ended well. `fingerprint` is of its inputs before it began.
///
/// # Errors
/// If one of its outputs is not there, or the note cannot be written.
pub fn note(plan: &Plan, stage: &Stage, state_dir: &Path, fingerprint: &Fingerprint) -> Result<(), TaskError> {
    let mut made = BTreeMap::new();
    for path in outputs(stage) {
        let digest = digest(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => TaskError::NotMade { path: path.to_owned() },
            _ => TaskError::Output { path: path.to_owned(), source },
        })?;
        made.insert(shown(plan, path), digest);
    }
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
    if !path.is_dir() {
        return file_digest(path);
    }
    let mut hash = Hash::new();
    for file in files_within(path)? {
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

fn shown(plan: &Plan, path: &Path) -> String {
    path.strip_prefix(&plan.folder).unwrap_or(path).display().to_string()
}
