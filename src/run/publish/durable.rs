//! File operations that are on disk when they return.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _, Seek as _, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::error::PublishError;
use crate::run::fail_point::reach;

/// Makes the entries of a folder durable: files created, renamed or removed in it.
pub(super) fn sync_folder(folder: &Path) -> Result<(), PublishError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(PublishError::at("sync", folder))
}

/// Creates a folder and those above it, where they are missing.
pub(super) fn create_folders(folder: &Path) -> Result<(), PublishError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = parent(folder);
    if parent != folder {
        create_folders(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(error) => Err(PublishError::at("create the folder", folder)(error)),
        Ok(()) => sync_folder(parent),
    }
}

/// Creates or replaces a file; the folder is not synced.
pub(super) fn write_file(path: &Path, content: &[u8]) -> Result<(), PublishError> {
    let write = || -> io::Result<()> {
        let mut file = File::create(path)?;
        file.write_all(content)?;
        file.sync_all()
    };
    write().map_err(PublishError::at("write", path))
}

/// Creates or replaces a file, which is there in full or not at all.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> Result<(), PublishError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".tmp");
    write_file(Path::new(&draft), content)?;
    fs::rename(&draft, path).map_err(PublishError::at("write", path))?;
    sync_folder(parent(path))
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), PublishError> {
    fs::rename(from, to).map_err(PublishError::at("rename the staged output to", to))?;
    sync_folder(parent(to))
}

/// As [`rename`], but never in the place of something.
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<(), PublishError> {
    let renamed = match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that cannot promise it: the moment between the look and the rename is all that is left open.
        Err(Errno::INVAL | Errno::NOSYS) if to.symlink_metadata().is_ok() => Err(Errno::EXIST),
        Err(Errno::INVAL | Errno::NOSYS) => return rename(from, to),
        renamed => renamed,
    };
    match renamed {
        Ok(()) => sync_folder(parent(to)),
        Err(Errno::EXIST) => Err(PublishError::Exists { path: to.to_owned() }),
        Err(errno) => Err(PublishError::at("rename the staged output to", to)(errno.into())),
    }
}

/// Puts a file or a folder in the place of what is at a path, which may be nothing. A folder that was there is gone afterwards.
pub(super) fn put_in_place(from: &Path, to: &Path) -> Result<(), PublishError> {
    let is_swap = to.is_dir() || (from.is_dir() && to.exists());
    if !is_swap {
        return rename(from, to);
    }
    // A folder that is not empty cannot be renamed over.
    match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Ok(()) => {}
        // A mount point, or a folder of a lower layer, stays where it is, and so does one on a file system that cannot exchange.
        Err(Errno::XDEV | Errno::BUSY | Errno::INVAL | Errno::NOSYS) if from.is_dir() && to.is_dir() => {
            return replace_entries(from, to);
        }
        Err(errno) => return Err(PublishError::at("rename the staged output to", to)(errno.into())),
    }
    sync_folder(parent(to))?;
    remove(from)
}

/// Puts a folder in the place of what is at a path: nothing, or another folder, which is gone afterwards. Doing it again, also after a crash in
/// the middle of it, does no harm. `inode` is the number of the folder, and nothing else has used the path of `marker` before.
pub(super) fn replace_folder(from: &Path, to: &Path, inode: u64, marker: &Path) -> Result<(), PublishError> {
    // After an exchange it is the old one that is there.
    if self::inode(from)?.0 == inode {
        let found = match to.symlink_metadata() {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return rename(from, to),
            Err(error) => return Err(PublishError::at("look at", to)(error)),
        };
        match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
            Ok(()) => sync_folder(parent(to))?,
            // A folder of a lower layer stays where it is, and so does one on a file system that cannot exchange.
            Err(Errno::XDEV | Errno::BUSY | Errno::INVAL | Errno::NOSYS) if found.is_dir() => {
                replace_entries_once(from, to, marker)?;
            }
            Err(errno) => return Err(PublishError::at("rename the staged output to", to)(errno.into())),
        }
        reach("publish.exchanged");
    }
    remove(from)
}

/// As [`replace_entries`], and may be done again. What was there goes once, after which `marker` is there: then there may be something of ours.
pub(super) fn replace_entries_once(from: &Path, to: &Path, marker: &Path) -> Result<(), PublishError> {
    if !marker.exists() {
        entries(to)?.iter().try_for_each(|entry| remove(entry))?;
        sync_folder(to)?;
        write_file(marker, b"")?;
        sync_folder(parent(marker))?;
    }
    move_entries(from, to)
}

/// Puts the bytes of a file behind those of another one, of which there are `length`, and removes it. Doing it again, also after a crash in the
/// middle of it, does no harm.
pub(super) fn append(from: &Path, to: &Path, length: u64) -> Result<(), PublishError> {
    let open = File::options().read(true).write(true).open(to);
    let mut file = match open {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Err(overtaken(from, to)),
        Err(error) => return Err(PublishError::at("append to", to)(error)),
    };
    let mut new = File::open(from).map_err(PublishError::at("read", from))?;
    match tail(&mut file, length, &mut new).map_err(PublishError::at("append to", to))? {
        Tail::Foreign => return Err(overtaken(from, to)),
        // If somebody has appended behind that, it stays.
        Tail::Whole => file.sync_all().map_err(PublishError::at("sync", to))?,
        Tail::Torn => write_tail(&mut file, length, &mut new).map_err(PublishError::at("append to", to))?,
    }
    reach("publish.appended");
    remove(from)?;
    sync_folder(parent(from))
}

fn write_tail(file: &mut File, length: u64, new: &mut File) -> io::Result<()> {
    file.set_len(length)?;
    file.seek(SeekFrom::Start(length))?;
    new.rewind()?;
    let half = new.metadata()?.len() / 2;
    io::copy(&mut (&*new).take(half), file)?;
    reach("publish.append_half");
    io::copy(new, file)?;
    file.sync_all()
}

fn overtaken(staged: &Path, path: &Path) -> PublishError {
    PublishError::Overtaken { path: path.to_owned(), staged: staged.to_owned() }
}

/// What stands in a file behind a length, compared with what is to stand there.
enum Tail {
    Whole,
    /// Nothing, or the beginning; after a crash of the machine there may be zeros in the place of bytes.
    Torn,
    Foreign,
}

fn tail(file: &mut File, length: u64, new: &mut File) -> io::Result<Tail> {
    let (there, size) = (file.metadata()?.len(), new.metadata()?.len());
    let Some(there) = there.checked_sub(length) else { return Ok(Tail::Foreign) };
    file.seek(SeekFrom::Start(length))?;
    new.rewind()?;
    let count = there.min(size);
    let (mut found, mut wanted) = (BufReader::new(file.take(count)), BufReader::new(new.take(count)));
    let mut is_torn = there < size;
    let mut is_zero = false;
    loop {
        let (found_bytes, wanted_bytes) = (found.fill_buf()?, wanted.fill_buf()?);
        let step = found_bytes.len().min(wanted_bytes.len());
        if step == 0 {
            return Ok(if is_torn { Tail::Torn } else { Tail::Whole });
        }
        for (byte, ours) in found_bytes[..step].iter().zip(&wanted_bytes[..step]) {
            is_zero |= byte != ours;
            if is_zero && (*byte != 0 || there > size) {
                return Ok(Tail::Foreign);
            }
        }
        is_torn |= is_zero;
        found.consume(step);
        wanted.consume(step);
    }
}

/// The number of a file or folder in its file system, and of that.
pub(super) fn inode(path: &Path) -> Result<(u64, u64), PublishError> {
    let metadata = path.symlink_metadata().map_err(PublishError::at("look at", path))?;
    Ok((metadata.ino(), metadata.dev()))
}

/// Puts what is in a folder in the place of what is in another one: entry by entry, which is not all at once.
fn replace_entries(from: &Path, to: &Path) -> Result<(), PublishError> {
    for entry in entries(to)? {
        remove(&entry)?;
    }
    move_entries(from, to)?;
    remove(from)
}

fn move_entries(from: &Path, to: &Path) -> Result<(), PublishError> {
    for entry in entries(from)? {
        let place = to.join(entry.file_name().unwrap_or_default());
        fs::rename(&entry, &place).map_err(PublishError::at("rename a staged output to", &place))?;
    }
    sync_folder(to)
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, PublishError> {
    let list = || fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>();
    list().map_err(PublishError::at("list", folder))
}

/// Brings a file, or all that is in a folder, to the disk. What is neither has nothing to bring there.
pub(super) fn sync_all(path: &Path) -> Result<(), PublishError> {
    let metadata = path.symlink_metadata().map_err(PublishError::at("look at", path))?;
    if metadata.is_dir() {
        entries(path)?.iter().try_for_each(|entry| sync_all(entry))?;
    }
    if metadata.is_dir() || metadata.is_file() {
        let opened = File::open(path);
        // A file that its maker has taken all rights from cannot be opened, and is on its way to the disk as well.
        if opened.as_ref().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) {
            return Ok(());
        }
        opened.and_then(|file| file.sync_all()).map_err(PublishError::at("sync", path))?;
    }
    Ok(())
}

/// Removes a file or a folder that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), PublishError> {
    let is_folder = path.is_dir() && !path.is_symlink();
    let removed = if is_folder { remove_folder(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(PublishError::at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Also if whoever made it has taken the right to change what is in it.
fn remove_folder(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            make_writable(folder)?;
            fs::remove_dir_all(folder)
        }
        removed => removed,
    }
}

fn make_writable(folder: &Path) -> io::Result<()> {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            make_writable(&entry.path())?;
        }
    }
    Ok(())
}

pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}
