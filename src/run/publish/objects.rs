//! [`StagedObjects`]: the outputs of a sink in an object store.
//!
//! What the sink writes lies in the run's folder until it has ended. Then it is uploaded, which nobody sees; publishing makes objects of what was
//! uploaded, all of a run together, as it renames files. A log in the run's folder tells recovery what was begun.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use serde_json::{Value, json};

use super::durable::{entries, remove};
use super::error::PublishError;
use super::journal::read_lines;
use crate::plan::{ObjectPath, StoreUrl};
use crate::run::fail_point::reach;
use crate::run::store::{Interrupt, Object, Store, StoreError, Upload, UploadedParts};

/// Objects that are uploaded, or completed, at once.
const AT_ONCE: usize = 8;

/// What becomes of what is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectMode {
    Replace,
    /// Nothing may be there.
    New,
    /// Further parts come beside it.
    Further,
}

/// A sink's file or folder, and what it will be.
#[derive(Clone, Debug)]
pub struct StagedObjects {
    /// An object, or what the names of several begin with.
    pub(super) url: StoreUrl,
    pub(super) is_folder: bool,
    pub(super) mode: ObjectMode,
    /// Where the sink writes.
    pub(super) local: PathBuf,
    /// One JSON object a line: an upload that is going to be begun, and at last, what all of them are.
    pub(super) log: PathBuf,
    /// Tells the parts of this run from those of others.
    pub(super) run_id: String,
    /// Whether nothing is begun any more, as the run has failed.
    pub(super) is_given_up: Arc<RwLock<bool>>,
}

/// An object that is there when what was uploaded is completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObjectOutput {
    pub(super) url: StoreUrl,
    pub(super) uploaded: UploadedParts,
    /// What it takes the place of.
    pub(super) before: Option<Object>,
}

/// What a sink's objects come to.
#[derive(Debug, Default)]
pub(super) struct Settled {
    pub(super) outputs: Vec<ObjectOutput>,
    /// Objects that are there and will not be.
    pub(super) removed: Vec<StoreUrl>,
}

impl StagedObjects {
    /// Where the sink is to write its file, or the folder with its files.
    pub fn local(&self) -> &Path {
        &self.local
    }

    /// Uploads what the sink has written, which is gone from this machine then.
    ///
    /// # Errors
    /// If the store does not answer, or refuses.
    pub fn upload(&self) -> Result<(), PublishError> {
        let store = self.open()?;
        let log = File::options().append(true).create(true).open(&self.log);
        let log = Mutex::new(log.map_err(PublishError::at("create", &self.log))?);
        let files = if self.is_folder { files_below(&self.local)? } else { vec![self.local.clone()] };
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<UploadedParts>, PublishError> {
            let mut done = Vec::new();
            while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
                done.push(self.upload_file(&store, file, &log)?);
            }
            Ok(done)
        };
        let done = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..files.len().min(AT_ONCE)).map(|_| scope.spawn(work)).collect();
            let done = threads.into_iter().map(|thread| thread.join().expect("a panic is ours"));
            done.collect::<Result<Vec<_>, _>>()
        })?;
        let mut done: Vec<UploadedParts> = done.into_iter().flatten().collect();
        done.sort_by(|one, other| one.upload.path.cmp(&other.upload.path));
        let done: Vec<Value> = done.iter().map(uploaded_to_json).collect();
        self.note(&log, &json!({ "done": done }))?;
        remove(&self.local)?;
        reach("publish.uploaded");
        Ok(())
    }

    fn upload_file(&self, store: &Store, file: &Path, log: &Mutex<File>) -> Result<UploadedParts, PublishError> {
        let path = self.object(file);
        let failed = |error| self.failed("upload", error);
        let upload = {
            // What is begun is in the log before anybody reads it to give all of it up.
            let is_given_up = self.is_given_up.read().expect("nobody panics who holds it");
            if *is_given_up {
                return Err(failed(StoreError::Interrupted));
            }
            let upload = store.begin_upload(path).map_err(failed)?;
            self.note(log, &json!({ "begun": upload_to_json(&upload) }))?;
            upload
        };
        let open = File::open(file).map_err(PublishError::at("read", file))?;
        store.upload(upload, &open).map_err(failed)
    }

    /// What a file of the sink is called in the store.
    fn object(&self, file: &Path) -> ObjectPath {
        let below = file.strip_prefix(&self.local).expect("the sink's own").to_string_lossy();
        if below.is_empty() {
            return self.url.path.clone();
        }
        let name = match (self.mode, below.rsplit_once('/').unwrap_or(("", &below))) {
            (ObjectMode::Further, (folder, part)) => {
                let (number, ending) = part.split_once('.').unwrap_or((part, ""));
                let between = if folder.is_empty() { "" } else { "/" };
                format!("{folder}{between}{number}-{}.{ending}", self.run_id)
            }
            _ => below.into_owned(),
        };
        ObjectPath::parse(format!("{}/{name}", self.url.path)).expect("names of folders and parts are names of objects")
    }

    fn note(&self, log: &Mutex<File>, line: &Value) -> Result<(), PublishError> {
        let mut log = log.lock().expect("a panic is ours");
        let written = log.write_all(format!("{line}\n").as_bytes()).and_then(|()| log.sync_data());
        written.map_err(PublishError::at("write", &self.log))
    }

    /// What is to be done when the sink is published.
    ///
    /// # Errors
    /// If it was not uploaded, or something is in its place that must not be.
    pub(super) fn settle(&self) -> Result<Settled, PublishError> {
        let store = self.open()?;
        let done = read_log(&self.log)?.done.ok_or_else(|| PublishError::Changed { path: self.shown() })?;
        let mut there: BTreeMap<ObjectPath, Object> =
            check(&store, self.is_folder, self.mode)?.into_iter().map(|object| (object.path.clone(), object)).collect();
        let output = |uploaded: UploadedParts| {
            let path = uploaded.upload.path.clone();
            ObjectOutput { before: there.remove(&path), url: self.url.at(path), uploaded }
        };
        let outputs = done.into_iter().map(output).collect();
        let replaces_all = self.is_folder && self.mode == ObjectMode::Replace;
        let removed = if replaces_all { there.into_keys().map(|path| self.url.at(path)).collect() } else { Vec::new() };
        Ok(Settled { outputs, removed })
    }

    /// Gives up what was begun, and lets nothing begin any more.
    pub(super) fn give_up(&self) -> Result<(), PublishError> {
        *self.is_given_up.write().expect("nobody panics who holds it") = true;
        abort(&self.url, &self.log)
    }

    fn open(&self) -> Result<Store, PublishError> {
        Store::open(&self.url).map_err(|error| self.failed("use", error))
    }

    fn failed(&self, action: &'static str, source: StoreError) -> PublishError {
        PublishError::Store { action, url: self.url.to_string(), source }
    }

    fn shown(&self) -> PathBuf {
        PathBuf::from(self.url.to_string())
    }
}

/// That nothing is lost with what a sink would replace in a store.
///
/// # Errors
/// If something is, or the store does not tell.
pub fn check_place(url: &StoreUrl, is_folder: bool, mode: ObjectMode) -> Result<(), PublishError> {
    check(&open(url)?, is_folder, mode).map(drop)
}

/// Gives what is there.
fn check(store: &Store, is_folder: bool, mode: ObjectMode) -> Result<Vec<Object>, PublishError> {
    let shown = || PathBuf::from(store.url().to_string());
    let there = if is_folder { list(store)? } else { look(store)?.into_iter().collect() };
    match mode {
        ObjectMode::New if !there.is_empty() => Err(PublishError::Exists { path: shown() }),
        ObjectMode::Replace if is_folder => match there.iter().find(|object| is_foreign(store.url(), object)) {
            None => Ok(there),
            Some(found) => {
                let found = PathBuf::from(store.url().at(found.path.clone()).to_string());
                Err(PublishError::Foreign { path: shown(), found })
            }
        },
        ObjectMode::New | ObjectMode::Replace | ObjectMode::Further => Ok(there),
    }
}

/// Whether an object is none that a sink like this one has written: a part, or what other programs note down beside them, in folders of values.
fn is_foreign(folder: &StoreUrl, object: &Object) -> bool {
    let parts: Vec<_> = object.path.parts().skip(folder.path.parts().count()).collect();
    let Some((name, folders)) = parts.split_last() else { return false };
    let name = name.as_ref();
    let is_part = name.starts_with("part-") || name == "_SUCCESS";
    !is_part || !folders.iter().all(|folder| folder.as_ref().contains('='))
}

fn look(store: &Store) -> Result<Option<Object>, PublishError> {
    store.look(&store.url().path).map_err(|error| failed("look at", store.url(), error))
}

fn list(store: &Store) -> Result<Vec<Object>, PublishError> {
    let listed = store.list(&store.url().path, &Interrupt::default());
    let mut listed = listed.map_err(|error| failed("list", store.url(), error))?;
    // Some programs make an object of no bytes that stands for the folder itself.
    listed.retain(|object| object.path != store.url().path);
    Ok(listed)
}

fn open(url: &StoreUrl) -> Result<Store, PublishError> {
    Store::open(url).map_err(|error| failed("use", url, error))
}

fn failed(action: &'static str, url: &StoreUrl, source: StoreError) -> PublishError {
    PublishError::Store { action, url: url.to_string(), source }
}

impl ObjectOutput {
    /// Makes the object. Doing it again does no harm.
    pub(super) fn carry_out(&self) -> Result<(), PublishError> {
        let completed = open(&self.url)?.complete(&self.uploaded, self.before.as_ref());
        completed.map_err(|error| failed("publish", &self.url, error))
    }

    /// Whether the store says that there is no such object, or the one that was there before.
    pub(super) fn is_absent(&self) -> bool {
        let there = open(&self.url).and_then(|store| look(&store));
        match (there, &self.before) {
            (Ok(None), None) => true,
            (Ok(Some(there)), Some(before)) => there.is_same(before),
            _ => false,
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let before = self.before.as_ref();
        let before = before.map(|it| json!({ "size": it.size, "tag": it.tag, "modified": it.modified }));
        json!({ "bucket": self.url.bucket, "uploaded": uploaded_to_json(&self.uploaded), "before": before })
    }

    pub(super) fn from_json(value: &Value) -> Option<Self> {
        let uploaded = uploaded_from_json(value.get("uploaded")?)?;
        let url = bucket_from_json(value)?.at(uploaded.upload.path.clone());
        let before = match value.get("before")? {
            Value::Null => None,
            before => Some(Object {
                path: url.path.clone(),
                size: before.get("size")?.as_u64()?,
                tag: before.get("tag")?.as_str().map(str::to_owned),
                modified: before.get("modified")?.as_i64()?,
            }),
        };
        Some(Self { url, uploaded, before })
    }
}

/// Makes objects, several at a time.
pub(super) fn carry_out_all(objects: &[ObjectOutput]) -> Result<(), PublishError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), PublishError> {
        while let Some(object) = objects.get(next.fetch_add(1, Ordering::Relaxed)) {
            object.carry_out()?;
            reach("publish.completed");
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..objects.len().min(AT_ONCE)).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("a panic is ours"))
    })
}

/// Removes objects that were replaced by others.
pub(super) fn remove_objects(urls: &[StoreUrl]) -> Result<(), PublishError> {
    let is_same = |one: &StoreUrl, other: &StoreUrl| one.bucket == other.bucket;
    for of_bucket in urls.chunk_by(is_same) {
        let paths: Vec<_> = of_bucket.iter().map(|url| url.path.clone()).collect();
        open(&of_bucket[0])?.remove(&paths).map_err(|error| failed("remove", &of_bucket[0], error))?;
    }
    Ok(())
}

/// Gives up what a sink has begun to upload.
pub(super) fn abort(url: &StoreUrl, log: &Path) -> Result<(), PublishError> {
    let begun = read_log(log)?.begun;
    if begun.is_empty() {
        return Ok(());
    }
    let store = open(url)?;
    for upload in begun {
        store.abort(&upload).map_err(|error| failed("give up an upload to", &url.at(upload.path.clone()), error))?;
    }
    Ok(())
}

pub(super) fn url_to_json(url: &StoreUrl) -> Value {
    json!({ "bucket": url.bucket, "path": url.path.as_ref() })
}

pub(super) fn url_from_json(value: &Value) -> Option<StoreUrl> {
    Some(bucket_from_json(value)?.at(ObjectPath::parse(value.get("path")?.as_str()?).ok()?))
}

fn bucket_from_json(value: &Value) -> Option<StoreUrl> {
    StoreUrl::parse(value.get("bucket")?.as_str()?, "bucket").ok()?.ok()
}

fn upload_to_json(upload: &Upload) -> Value {
    json!({ "path": upload.path.as_ref(), "id": upload.id })
}

fn upload_from_json(value: &Value) -> Option<Upload> {
    let path = ObjectPath::parse(value.get("path")?.as_str()?).ok()?;
    Some(Upload { path, id: value.get("id")?.as_str()?.to_owned() })
}

fn uploaded_to_json(uploaded: &UploadedParts) -> Value {
    let mut value = upload_to_json(&uploaded.upload);
    value["parts"] = uploaded.parts.clone().into();
    value["size"] = uploaded.size.into();
    value
}

fn uploaded_from_json(value: &Value) -> Option<UploadedParts> {
    let parts = value.get("parts")?.as_array()?.iter().map(|part| part.as_str().map(str::to_owned));
    Some(UploadedParts {
        upload: upload_from_json(value)?,
        parts: parts.collect::<Option<_>>()?,
        size: value.get("size")?.as_u64()?,
    })
}

/// What a log says.
#[derive(Debug, Default)]
struct Log {
    begun: Vec<Upload>,
    /// What all of them are, if all were uploaded.
    done: Option<Vec<UploadedParts>>,
}

/// A last line that is torn belongs to an upload that nobody goes on with.
fn read_log(path: &Path) -> Result<Log, PublishError> {
    let mut log = Log::default();
    for line in read_lines(path)? {
        log.begun.extend(line.get("begun").and_then(upload_from_json));
        let done = line.get("done").and_then(Value::as_array);
        log.done = log.done.or(done.and_then(|done| done.iter().map(uploaded_from_json).collect()));
    }
    Ok(log)
}

fn files_below(folder: &Path) -> Result<Vec<PathBuf>, PublishError> {
    let (mut files, mut open) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in entries(&folder)? {
            if entry.is_dir() { open.push(entry) } else { files.push(entry) }
        }
    }
    files.sort();
    Ok(files)
}
