//! File operations that are on disk when they return.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::error::PublishError;

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

/// Puts a file or a folder in the place of what is at a path, which may be nothing. A folder that was there is gone afterwards.
pub(super) fn put_in_place(from: &Path, to: &Path) -> Result<(), PublishError> {
    let is_swap = to.is_dir() || (from.is_dir() && to.exists());
    if !is_swap {
        return rename(from, to);
    }
    // A folder that is not empty cannot be renamed over.
    renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE)
        .map_err(|errno| PublishError::at("rename the staged output to", to)(errno.into()))?;
    sync_folder(parent(to))?;
    remove(from)
}

/// Brings a file, or all that is in a folder, to the disk.
pub(super) fn sync_all(path: &Path) -> Result<(), PublishError> {
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(PublishError::at("list", path))? {
            let entry = entry.map_err(PublishError::at("list", path))?.path();
            if !entry.is_symlink() {
                sync_all(&entry)?;
            }
        }
    }
    File::open(path).and_then(|file| file.sync_all()).map_err(PublishError::at("sync", path))
}

/// Removes a file or a folder that may be gone already.
pub(super) fn remove(path: &Path) -> Result<(), PublishError> {
    let is_folder = path.is_dir() && !path.is_symlink();
    match if is_folder { fs::remove_dir_all(path) } else { fs::remove_file(path) } {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(PublishError::at("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
        None => path,
    }
}
