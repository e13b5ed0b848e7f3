//! What a run's folder says about its outputs: the record of staged files, the journal, and how the run ended.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::durable::{sync_folder, write_file};
use super::error::PublishError;
use super::objects::{ObjectOutput, url_from_json, url_to_json};
use crate::plan::StoreUrl;
use crate::run::fail_point::reach;

/// Lists staged files and folders, one JSON object a line, each written before it is created.
pub(super) const RECORD: &str = "staged.jsonl";

/// Which journal of a run: a list of what is renamed, which is there in full or not at all. Its being there publishes what it lists.
#[derive(Clone, Copy, Debug)]
pub(super) enum JournalName {
    /// Of one sink that is published before the run has ended, by number.
    Early(usize),
    /// Of all others. Its being there publishes the run.
    Last,
}

impl JournalName {
    fn path(self, run: &Path) -> PathBuf {
        match self {
            Self::Early(number) => run.join(format!("journal-{number}.json")),
            Self::Last => run.join("journal.json"),
        }
    }
}

/// A staged file or folder and the path that it is published under; both absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) staged: PathBuf,
    pub(super) target: PathBuf,
    pub(super) how: How,
}

/// How an output comes to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// A file, in the place of what is there.
    Replace,
    /// Nothing may be there that it would replace.
    New,
    /// A folder, in the place of the one that is there. In a journal the number of the staged one tells whether that has happened.
    Folder { inode: u64 },
    /// The bytes of a file, behind those of the one that is there. In a journal the length is that from which on they stand; before, what it was
    /// when it was looked at, with its last byte if that matters, and whether others may append to it meanwhile.
    Append { length: u64, last: Option<u8>, may_grow: bool },
    /// The files of a folder, beside those of the one that is there. In a journal they stand each for itself.
    Parts,
}

/// What a run publishes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Journal {
    pub(super) outputs: Vec<Output>,
    /// Folders of which all outputs are in their places then.
    pub(super) emptied: Vec<PathBuf>,
    pub(super) objects: Vec<ObjectOutput>,
    /// Objects that are gone then.
    pub(super) removed: Vec<StoreUrl>,
}

impl How {
    pub(super) fn is_new(self) -> bool {
        self == Self::New
    }
}

/// How a run ended: an empty file in its folder.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Committed,
    /// Nothing was published but what was published early, and what was staged is removed.
    Aborted,
}

impl Ending {
    fn file_name(self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Aborted => "aborted",
        }
    }

    pub(super) fn write(self, run: &Path) -> Result<(), PublishError> {
        write_file(&run.join(self.file_name()), b"")?;
        sync_folder(run)
    }
}

/// Returns whether nothing is left to do for a run.
pub(super) fn has_ended(run: &Path) -> bool {
    is_published(run) || run.join(Ending::Aborted.file_name()).exists()
}

/// Returns whether all outputs of a run are in their places.
pub(super) fn is_published(run: &Path) -> bool {
    run.join(Ending::Committed.file_name()).exists()
}

impl Output {
    pub(super) fn to_json(&self) -> Value {
        let mut json = json!({
            "staged": path_to_json(&self.staged),
            "final": path_to_json(&self.target),
            "new": self.how.is_new(),
        });
        match self.how {
            How::Replace | How::New | How::Parts => {}
            How::Append { length, .. } => json["length"] = length.into(),
            How::Folder { inode } => json["inode"] = inode.into(),
        }
        json
    }

    fn from_json(value: &Value) -> Option<Self> {
        let number = |key: &str| value.get(key).and_then(Value::as_u64);
        Some(Self {
            staged: path_from_json(value.get("staged")?)?,
            target: path_from_json(value.get("final")?)?,
            how: match (number("inode"), number("length")) {
                (Some(inode), _) => How::Folder { inode },
                (_, Some(length)) => How::Append { length, last: None, may_grow: false },
                _ if value.get("new").is_some_and(|is_new| *is_new == true) => How::New,
                _ => How::Replace,
            },
        })
    }
}

pub(super) fn write_journal(run: &Path, name: JournalName, journal: &Journal) -> Result<(), PublishError> {
    let (path, draft) = (name.path(run), run.join("journal.json.tmp"));
    let outputs: Vec<_> = journal.outputs.iter().map(Output::to_json).collect();
    let emptied: Vec<_> = journal.emptied.iter().map(|folder| path_to_json(folder)).collect();
    let mut text = json!({ "version": 1, "outputs": outputs, "emptied": emptied });
    if !journal.objects.is_empty() || !journal.removed.is_empty() {
        text["objects"] = journal.objects.iter().map(ObjectOutput::to_json).collect();
        text["removed"] = journal.removed.iter().map(url_to_json).collect();
    }
    let text = text.to_string();
    write_file(&draft, text.as_bytes())?;
    reach("publish.journal_synced");
    fs::rename(&draft, &path).map_err(PublishError::at("write", &path))?;
    sync_folder(run)
}

/// Takes a journal back of which nothing has been carried out.
pub(super) fn remove_journal(run: &Path, name: JournalName) -> Result<(), PublishError> {
    let journal = name.path(run);
    fs::remove_file(&journal).map_err(PublishError::at("remove", &journal))?;
    sync_folder(run)
}

/// The journal of a run; `None` if it did not get that far.
pub(super) fn read_journal(run: &Path, name: JournalName) -> Result<Option<Journal>, PublishError> {
    let path = name.path(run);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PublishError::at("read", &path)(error)),
    };
    let unclear = |message: String| PublishError::Journal { path: path.clone(), message };
    let journal: Value = serde_json::from_slice(&text).map_err(|error| unclear(error.to_string()))?;
    if journal["version"] != 1 {
        return Err(unclear(format!("it has version {}", journal["version"])));
    }
    let outputs = journal["outputs"].as_array().and_then(|outputs| outputs.iter().map(Output::from_json).collect());
    let outputs: Option<Vec<Output>> = outputs;
    let emptied = journal["emptied"].as_array().into_iter().flatten().filter_map(path_from_json).collect();
    let all = |key: &str| journal.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let objects: Option<Vec<_>> = all("objects").iter().map(ObjectOutput::from_json).collect();
    let removed: Option<Vec<_>> = all("removed").iter().map(url_from_json).collect();
    let whole = outputs.zip(objects).zip(removed);
    let journal = whole.map(|((outputs, objects), removed)| Journal { outputs, emptied, objects, removed });
    journal.map(Some).ok_or_else(|| unclear("it does not list outputs".to_owned()))
}

/// Notes what a sink is going to write to a store: what it has begun to upload stands in its log.
pub(super) fn objects_to_json(url: &StoreUrl, log: &Path) -> Value {
    json!({ "objects": url_to_json(url), "log": path_to_json(log) })
}

/// What the sinks of a run write to stores, and the logs of their uploads.
pub(super) fn read_record_of_objects(run: &Path) -> Result<Vec<(StoreUrl, PathBuf)>, PublishError> {
    let lines = read_lines(&run.join(RECORD))?;
    let of_objects = |line: &Value| Some((url_from_json(line.get("objects")?)?, path_from_json(line.get("log")?)?));
    Ok(lines.iter().filter_map(of_objects).collect())
}

/// The files that a run has staged. A last line that is torn belongs to a file that was not created.
pub(super) fn read_record(run: &Path) -> Result<Vec<Output>, PublishError> {
    Ok(read_lines(&run.join(RECORD))?.iter().filter_map(Output::from_json).collect())
}

/// The whole lines of a file, as JSON; none if there is no such file.
pub(super) fn read_lines(path: &Path) -> Result<Vec<Value>, PublishError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(PublishError::at("read", path)(error)),
    };
    let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    Ok(whole.filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// A path as text, or as its bytes if it is not text.
pub fn path_to_json(path: &Path) -> Value {
    match path.to_str() {
        Some(text) => text.into(),
        None => path.as_os_str().as_bytes().into(),
    }
}

pub fn path_from_json(value: &Value) -> Option<PathBuf> {
    match value {
        Value::String(text) => Some(text.into()),
        Value::Array(bytes) => {
            let bytes = bytes.iter().map(|byte| u8::try_from(byte.as_u64()?).ok()).collect::<Option<Vec<_>>>()?;
            Some(OsString::from_vec(bytes).into())
        }
        _ => None,
    }
}
