//! [`KnownFiles`]: the files that earlier runs have read, of a source that reads only new ones.
//!
//! They stand in a file of the state folder, an object a line. A run adds those that it has read when it is published: lines are appended by its
//! journal, so that a file is known if what was made of it is there.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::error::ReadError;
use super::paths::Found;
use crate::plan::{Plan, Stage};
use crate::run::publish::{PublishError, StateFile, path_from_json, path_to_json};

/// As they were when the run began.
#[derive(Debug)]
pub struct KnownFiles {
    file: StateFile,
    known: HashMap<PathBuf, Version>,
    /// From here on files are told that lie in it.
    folder: PathBuf,
}

/// What tells a file from one that was at its place before.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Version {
    size: u64,
    /// What the store calls the object, or when the file was changed, in nanoseconds since 1970.
    tag: String,
}

/// Files that a run reads, and what it adds to those that are known.
#[derive(Debug)]
pub struct NewFiles {
    pub file: StateFile,
    pub lines: String,
}

impl KnownFiles {
    /// Those of the stage of a pipeline.
    ///
    /// # Errors
    /// If the file in the state folder can be neither read nor made.
    pub fn open(state_dir: &Path, plan: &Plan, stage: &Stage) -> Result<Self, PublishError> {
        // Folders may be moved with all that is in them.
        let pipeline = below(state_dir.parent().unwrap_or(state_dir), &plan.file);
        let stage = stage.name.as_str();
        let mut hasher = blake3::Hasher::new();
        hasher.update(pipeline.as_os_str().as_encoded_bytes()).update(&[0]).update(stage.as_bytes());
        let name = format!("{}.jsonl", &hasher.finalize().to_hex()[..16]);
        let head = json!({ "pipeline": pipeline.to_string_lossy(), "stage": stage });
        let (file, text) = StateFile::open(&state_dir.join("read").join(name), &format!("{head}\n"))?;
        let known = text.lines().filter_map(|line| known(&serde_json::from_str(line).ok()?)).collect();
        Ok(Self { file, known, folder: plan.folder.clone() })
    }

    /// Leaves those out that are known and have not changed since.
    ///
    /// # Errors
    /// If one of them cannot be looked at.
    pub(super) fn leave_out(&self, found: &mut Vec<Found>) -> Result<NewFiles, ReadError> {
        let mut lines = String::new();
        let mut new = Vec::new();
        for file in found.drain(..) {
            let Some(version) = version(&file)? else {
                new.push(file);
                continue;
            };
            let name = file.name.strip_prefix(&self.folder).unwrap_or(&file.name);
            if self.known.get(name) != Some(&version) {
                lines +=
                    &format!("{}\n", json!({ "file": path_to_json(name), "size": version.size, "tag": version.tag }));
                new.push(file);
            }
        }
        *found = new;
        Ok(NewFiles { file: self.file.clone(), lines })
    }
}

/// A path from a folder on, if it lies in that.
fn below(folder: &Path, path: &Path) -> PathBuf {
    let whole = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let path = whole(path);
    path.strip_prefix(whole(folder)).map(Path::to_owned).unwrap_or(path)
}

fn known(line: &Value) -> Option<(PathBuf, Version)> {
    let version = Version { size: line.get("size")?.as_u64()?, tag: line.get("tag")?.as_str()?.to_owned() };
    Some((path_from_json(line.get("file")?)?, version))
}

/// `None` of what is no regular file.
fn version(found: &Found) -> Result<Option<Version>, ReadError> {
    if let Some((_, object)) = &found.object {
        let tag = object.tag.clone().unwrap_or_else(|| object.modified.to_string());
        return Ok(Some(Version { size: object.size, tag }));
    }
    let failed = |source: std::io::Error| match source.kind() {
        ErrorKind::NotFound => ReadError::Vanished { path: found.name.clone() },
        _ => ReadError::Unreadable { path: found.name.clone(), source },
    };
    let metadata = fs::metadata(&found.name).map_err(failed)?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    let tag = modified.map_or_else(String::new, |time| time.as_nanos().to_string());
    Ok(Some(Version { size: metadata.len(), tag }))
}
