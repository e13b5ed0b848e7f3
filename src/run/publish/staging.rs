//! [`Staging`]: outputs that are being written, and their publication.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::carry_out::carry_out;
use super::durable::{create_folders, entries, inode, parent, put_in_place, remove, rename, sync_all, sync_folder};
use super::error::PublishError;
use super::foreign::check_replaceable;
use super::journal::{
    Ending, How, Journal, JournalName, Output, RECORD, objects_to_json, read_journal, remove_journal, write_journal,
};
use super::objects::{ObjectMode, Settled, StagedObjects, carry_out_all, remove_objects};
use super::parts::further_parts;
use super::run_folder::{RunFolder, SPILL, lock_state};
use crate::plan::{Location, StoreUrl};
use crate::run::fail_point::reach;

/// Bytes of an output's name up to which its staged file has it in its own name: that may be 255 bytes long.
const SHOWN_NAME: usize = 200;
/// Staged outputs are hidden beside their places: `.` and the name of the output, then this, the run's id, and the end.
const MARK: &str = ".millpond-";
const END: &str = ".tmp";

/// The outputs of one run. Dropping it without [`Staging::commit`] removes them.
#[derive(Debug)]
pub struct Staging {
    run: PathBuf,
    run_id: String,
    record: File,
    outputs: Vec<Output>,
    /// Outputs of tasks, which do not wait for the commit.
    reserved: Vec<Output>,
    /// Outputs in object stores.
    objects: Vec<StagedObjects>,
    /// How many are published already, and no longer among `outputs`.
    published_early: usize,
    /// Whether the outputs are removed when this is dropped. Once a journal may exist they belong to recovery.
    is_revocable: bool,
}

/// A new, empty file beside the path that it will be published under.
#[derive(Debug)]
pub struct StagedFile {
    pub file: File,
    pub path: PathBuf,
}

/// A file that is appended to, as it was when it was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    pub length: u64,
    /// Its last byte, if what is appended depends on that.
    pub last: Option<u8>,
}

/// A path that a task writes an output to, which is published when the task has ended well.
#[derive(Clone, Debug)]
pub struct Reserved {
    output: Output,
    asked: PathBuf,
}

impl Reserved {
    /// Where the task is to write. Nothing is there before it does.
    pub fn staged(&self) -> &Path {
        &self.output.staged
    }

    /// The path of the output as it was asked for, with the symbolic links in it.
    pub fn asked(&self) -> &Path {
        &self.asked
    }
}

/// Brings what is in a staged folder to the disk, whose files are there already.
pub fn sync_folders(folder: &Path) -> Result<(), PublishError> {
    for entry in entries(folder)? {
        if entry.is_dir() {
            sync_folders(&entry)?;
        }
    }
    sync_folder(folder)
}

/// Puts what a task has written, a file or a folder, in the place of its output.
pub fn publish_reserved(reserved: &Reserved) -> Result<(), PublishError> {
    let Output { staged, target, .. } = &reserved.output;
    sync_all(staged)?;
    put_in_place(staged, target)
}

impl Staging {
    /// Begins the outputs of a run, of which there may be none. A run has one staging.
    pub fn begin(run: &RunFolder) -> Result<Self, PublishError> {
        let path = run.path().join(RECORD);
        let record = OpenOptions::new().append(true).create(true).open(&path);
        let record = record.map_err(PublishError::at("create", &path))?;
        sync_folder(run.path())?;
        let (run_id, run) = (run.id().to_owned(), run.path().to_owned());
        Ok(Self {
            run,
            run_id,
            record,
            outputs: Vec::new(),
            reserved: Vec::new(),
            objects: Vec::new(),
            published_early: 0,
            is_revocable: true,
        })
    }

    /// The run's folder, where files without a name may lie while outputs are made.
    pub fn folder(&self) -> &Path {
        &self.run
    }

    /// Creates the file that will replace `target`. Folders above it are created where they are missing; a symbolic
    /// link is followed, so that it stays one.
    pub fn stage(&mut self, target: &Path) -> Result<StagedFile, PublishError> {
        self.stage_as(target, How::Replace)
    }

    /// As [`Staging::stage`], for a `target` that must not be there: neither now nor when it is published.
    pub fn stage_new(&mut self, target: &Path) -> Result<StagedFile, PublishError> {
        check_new(target)?;
        self.stage_as(target, How::New)
    }

    /// Creates the folder that will replace `target`, a folder like this one or nothing.
    pub fn stage_folder(&mut self, target: &Path) -> Result<PathBuf, PublishError> {
        check_replaceable(target)?;
        self.stage_folder_as(target, How::Folder { inode: 0 })
    }

    /// As [`Staging::stage_folder`], for a `target` that must not be there.
    pub fn stage_new_folder(&mut self, target: &Path) -> Result<PathBuf, PublishError> {
        check_new(target)?;
        self.stage_folder_as(target, How::New)
    }

    /// Creates the folder whose files will come to be in `target`, a folder or nothing, as further parts.
    pub fn stage_parts(&mut self, target: &Path) -> Result<PathBuf, PublishError> {
        if target.exists() && !target.is_dir() {
            return Err(PublishError::IsFile { path: target.to_owned() });
        }
        self.stage_folder_as(target, How::Parts)
    }

    /// Creates the file whose bytes will stand behind those of `target`; `None` is that there is no such file.
    pub fn stage_behind(&mut self, target: &Path, seen: Option<Seen>) -> Result<StagedFile, PublishError> {
        match seen {
            None => self.stage_new(target),
            Some(Seen { length, last }) => self.stage_as(target, How::Append { length, last, may_grow: true }),
        }
    }

    /// Prepares what will be in an object store: an object, or those whose names begin with a URL. Whoever writes it has to upload it.
    pub fn stage_objects(
        &mut self,
        url: &StoreUrl,
        is_folder: bool,
        mode: ObjectMode,
    ) -> Result<StagedObjects, PublishError> {
        let number = self.objects.len() + self.published_early;
        let local = self.run.join(SPILL).join(format!("objects-{number}"));
        let log = self.run.join(format!("uploads-{number}.jsonl"));
        self.record_line(&objects_to_json(url, &log))?;
        if is_folder {
            fs::create_dir_all(&local).map_err(PublishError::at("create the folder", &local))?;
        }
        let run_id = self.run_id.clone();
        let is_given_up = Arc::default();
        let staged = StagedObjects { url: url.clone(), is_folder, mode, local, log, run_id, is_given_up };
        self.objects.push(staged.clone());
        Ok(staged)
    }

    fn stage_folder_as(&mut self, target: &Path, how: How) -> Result<PathBuf, PublishError> {
        let target = resolve(target)?;
        // The run has its own files there, and would lose them.
        if self.run.canonicalize().is_ok_and(|own| own.starts_with(&target)) {
            return Err(PublishError::AroundState { path: target });
        }
        let old = fs::metadata(&target).ok();
        let staged = self.add(target, how)?.staged;
        fs::create_dir(&staged).map_err(PublishError::at("create the folder", &staged))?;
        if let Some(old) = old {
            fs::set_permissions(&staged, old.permissions()).map_err(PublishError::at("set the mode of", &staged))?;
        }
        reach("publish.staged");
        Ok(staged)
    }

    /// Notes an output that is going to be made.
    fn add(&mut self, target: PathBuf, how: How) -> Result<Output, PublishError> {
        if self.outputs.iter().any(|output| output.target == target) {
            return Err(PublishError::Twice { path: target });
        }
        create_folders(parent(&target))?;
        let output = Output { staged: self.staged_path(&target), target, how };
        reach("publish.before_recorded");
        self.record(&output)?;
        self.outputs.push(output.clone());
        reach("publish.recorded");
        Ok(output)
    }

    /// As [`Staging::stage_as`], for what is looked at first when all is published: it says best what is wrong.
    pub(super) fn stage_first(&mut self, target: &Path, how: How) -> Result<StagedFile, PublishError> {
        let staged = self.stage_as(target, how)?;
        self.outputs.rotate_right(1);
        Ok(staged)
    }

    fn stage_as(&mut self, target: &Path, how: How) -> Result<StagedFile, PublishError> {
        let target = resolve(target)?;
        let old = check_target(&target)?;
        let output = self.add(target, how)?;
        let file = OpenOptions::new().write(true).create_new(true).open(&output.staged);
        let file = file.map_err(PublishError::at("create", &output.staged))?;
        if let Some(old) = old {
            file.set_permissions(old.permissions()).map_err(PublishError::at("set the mode of", &output.staged))?;
        }
        reach("publish.staged");
        Ok(StagedFile { file, path: output.staged })
    }

    /// A path beside `target` for a task to write to. What an attempt of the task before has left there is removed.
    pub fn reserve(&mut self, asked: &Path) -> Result<Reserved, PublishError> {
        let target = resolve(asked)?;
        if let Some(known) = self.reserved.iter().find(|output| output.target == target) {
            remove(&known.staged)?;
            return Ok(Reserved { output: known.clone(), asked: asked.to_owned() });
        }
        // The run has its own files there, and would lose them.
        let own = self.run.canonicalize().map_err(PublishError::at("look at", &self.run))?;
        if own.starts_with(&target) {
            return Err(PublishError::AroundState { path: target });
        }
        create_folders(parent(&target))?;
        let output = Output { staged: self.staged_path(&target), target, how: How::Replace };
        self.record(&output)?;
        self.reserved.push(output.clone());
        Ok(Reserved { output, asked: asked.to_owned() })
    }

    /// Publishes all outputs that are not published yet, which must be complete and synced. An error before the journal is written leaves the old
    /// outputs, and one after it leaves the rest to [`super::recover`].
    pub fn commit(mut self) -> Result<(), PublishError> {
        reach("publish.before_journal");
        let _guard = self.lock()?;
        let journal = settled(&self.outputs, &self.objects)?;
        self.publish(&journal, JournalName::Last)?;
        reach("publish.before_committed");
        Ending::Committed.write(&self.run)?;
        reach("publish.committed");
        Ok(())
    }

    /// Publishes one output, which must be complete and synced, before the others: whatever comes of the run, it stays.
    pub fn commit_early(&mut self, target: &Location) -> Result<(), PublishError> {
        let unknown = || PublishError::Changed { path: target.as_path() };
        let (outputs, objects) = match target {
            Location::Local(path) => {
                let resolved = resolve(path)?;
                let at = self.outputs.iter().position(|output| output.target == resolved).ok_or_else(unknown)?;
                (at..at + 1, 0..0)
            }
            Location::Store(url) => {
                let at = self.objects.iter().position(|staged| staged.url == *url).ok_or_else(unknown)?;
                (0..0, at..at + 1)
            }
        };
        let _guard = self.lock()?;
        let journal = settled(&self.outputs[outputs.clone()], &self.objects[objects.clone()])?;
        self.publish(&journal, JournalName::Early(self.published_early))?;
        self.published_early += 1;
        self.outputs.drain(outputs);
        self.objects.drain(objects);
        self.is_revocable = true;
        Ok(())
    }

    /// Two runs that publish the same outputs at once would leave some of each.
    fn lock(&self) -> Result<File, PublishError> {
        lock_state(self.run.ancestors().nth(2).unwrap_or(&self.run))
    }

    fn publish(&mut self, journal: &Journal, name: JournalName) -> Result<(), PublishError> {
        let new = journal.outputs.iter().take_while(|output| output.how.is_new()).count();
        self.is_revocable = false;
        write_journal(&self.run, name, journal).inspect_err(|_| self.is_revocable = !self.may_have_journal(name))?;
        reach("publish.journal_written");
        for (at, output) in journal.outputs[..new].iter().enumerate() {
            let renamed = carry_out(output, &self.run);
            if matches!(renamed, Err(PublishError::Exists { .. })) {
                self.take_back(&journal.outputs[..at], name)?;
            }
            renamed?;
            reach("publish.renamed");
        }
        if let Some((first, others)) = journal.objects.split_first() {
            let completed = first.carry_out();
            // As long as no object is there, all can be as it was.
            if completed.is_err() && first.is_absent() {
                self.take_back(&journal.outputs[..new], name)?;
            }
            completed?;
            reach("publish.completed");
            carry_out_all(others)?;
        }
        for output in &journal.outputs[new..] {
            carry_out(output, &self.run)?;
            reach("publish.renamed");
        }
        remove_objects(&journal.removed)?;
        journal.emptied.iter().try_for_each(|folder| remove(folder))
    }

    /// Takes back what has come to be where nothing was, and the journal with it.
    fn take_back(&mut self, new: &[Output], name: JournalName) -> Result<(), PublishError> {
        for output in new {
            rename(&output.target, &output.staged)?;
        }
        remove_journal(&self.run, name)?;
        self.is_revocable = true;
        Ok(())
    }

    fn may_have_journal(&self, name: JournalName) -> bool {
        read_journal(&self.run, name).map_or(true, |journal| journal.is_some())
    }

    fn staged_path(&self, target: &Path) -> PathBuf {
        let shown = target.file_name().filter(|name| name.len() <= SHOWN_NAME);
        let mut name = OsString::from(".");
        let earlier = self.outputs.len() + self.reserved.len() + self.published_early;
        name.push(shown.map_or_else(|| earlier.to_string().into(), OsString::from));
        name.push(format!("{MARK}{}{END}", self.run_id));
        target.with_file_name(name)
    }

    fn record(&mut self, output: &Output) -> Result<(), PublishError> {
        self.record_line(&output.to_json())
    }

    fn record_line(&mut self, line: &Value) -> Result<(), PublishError> {
        let line = format!("{line}\n");
        let written = self.record.write_all(line.as_bytes()).and_then(|()| self.record.sync_data());
        written.map_err(PublishError::at("write", &self.run.join(RECORD)))
    }
}

/// What the journal says of outputs, by what is in their places now. What must be new comes first: as it replaces nothing, it can be
/// taken back.
fn settled(outputs: &[Output], objects: &[StagedObjects]) -> Result<Journal, PublishError> {
    let mut journal = Journal::default();
    for output in outputs {
        let Output { staged, target, how } = output;
        let how = match *how {
            How::Parts => {
                journal.outputs.extend(further_parts(staged, target)?);
                journal.emptied.push(staged.clone());
                continue;
            }
            How::Folder { .. } => {
                check_replaceable(target)?;
                How::Folder { inode: inode(staged)?.0 }
            }
            How::Append { length, last, may_grow } => {
                let behind = length_behind(target, Seen { length, last })?;
                if !may_grow && behind != length {
                    return Err(PublishError::Overlapping);
                }
                How::Append { length: behind, last, may_grow }
            }
            How::New => {
                check_new(target)?;
                How::New
            }
            How::Replace => How::Replace,
        };
        journal.outputs.push(Output { how, ..output.clone() });
    }
    journal.outputs.sort_by_key(|output| !output.how.is_new());
    for staged in objects {
        let Settled { outputs, removed } = staged.settle()?;
        journal.objects.extend(outputs);
        journal.removed.extend(removed);
    }
    Ok(journal)
}

/// Whether a file or folder has the name of an output that is being made.
pub fn is_staged(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    let has_mark = || name.windows(MARK.len()).any(|part| part == MARK.as_bytes());
    name.starts_with(b".") && name.ends_with(END.as_bytes()) && has_mark()
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.is_revocable {
            return;
        }
        let all = self.outputs.iter().chain(&self.reserved);
        let left = all.filter(|output| remove(&output.staged).is_err()).count();
        let begun = self.objects.iter().filter(|staged| staged.give_up().is_err()).count();
        let left = left + begun;
        // What could not be removed now is left to recovery, which will say why it cannot.
        if left == 0 {
            let _ = Ending::Aborted.write(&self.run);
        }
    }
}

/// The length of a file that is appended to, which may have become longer meanwhile.
fn length_behind(target: &Path, seen: Seen) -> Result<u64, PublishError> {
    let changed = || PublishError::Changed { path: target.to_owned() };
    let look = || -> io::Result<(u64, Option<u8>)> {
        let mut file = File::open(target)?;
        let length = file.metadata()?.len();
        Ok((length, last_byte(&mut file, length)?))
    };
    let (length, last) = match look() {
        Ok(found) => found,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(changed()),
        Err(error) => return Err(PublishError::at("read", target)(error)),
    };
    // What is appended to an empty file begins with what stands at the top of one.
    let has_begun = seen.length == 0 && length > 0;
    let ends_in_another_way = seen.last.is_some() && last != seen.last;
    if length < seen.length || has_begun || ends_in_another_way { Err(changed()) } else { Ok(length) }
}

/// The last byte of a file of a length.
pub fn last_byte(file: &mut File, length: u64) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let Some(last) = length.checked_sub(1) else { return Ok(None) };
    file.read_exact_at(&mut byte, last)?;
    Ok(Some(byte[0]))
}

/// The path with the symbolic links followed, if it exists.
fn resolve(target: &Path) -> Result<PathBuf, PublishError> {
    match fs::canonicalize(target) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(target.to_owned()),
        Err(error) => Err(PublishError::at("resolve", target)(error)),
    }
}

/// That nothing is at the path of an output, not even a symbolic link that leads nowhere.
pub fn check_new(target: &Path) -> Result<(), PublishError> {
    match target.symlink_metadata() {
        Ok(_) => Err(PublishError::Exists { path: target.to_owned() }),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(PublishError::at("look at", target)(error)),
    }
}

fn check_target(target: &Path) -> Result<Option<fs::Metadata>, PublishError> {
    match fs::metadata(target) {
        Ok(old) if old.is_dir() => Err(PublishError::IsFolder { path: target.to_owned() }),
        Ok(old) if !old.is_file() => Err(PublishError::NotRegular { path: target.to_owned() }),
        Ok(old) => Ok(Some(old)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(PublishError::at("look at", target)(error)),
    }
}
