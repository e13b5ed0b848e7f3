//! [`check_replaceable`]: that nothing is lost with a folder that is replaced but what stages have written.

use std::ffi::OsStr;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::durable::inode;
use super::error::PublishError;

/// Whether a folder that a stage writes may take the place of what is at a path: nothing, or a folder in which there are only folders
/// `key=value` and files `part-…`, as this program and others make them.
///
/// # Errors
/// If it may not, or nobody can tell.
pub fn check_replaceable(target: &Path) -> Result<(), PublishError> {
    let is_folder = match fs::metadata(target) {
        Ok(found) => found.is_dir(),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(PublishError::at("look at", target)(error)),
    };
    if !is_folder {
        return Err(PublishError::IsFile { path: target.to_owned() });
    }
    let target = &fs::canonicalize(target).map_err(PublishError::at("resolve", target))?;
    if let Some(above) = target.parent()
        && inode(above)?.1 != inode(target)?.1
    {
        return Err(PublishError::MountPoint { path: target.clone() });
    }
    match foreign(target).map_err(PublishError::at("list", target))? {
        Some(found) => Err(PublishError::Foreign { path: target.clone(), found }),
        None => Ok(()),
    }
}

fn foreign(folder: &Path) -> std::io::Result<Option<PathBuf>> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let is_folder = entry.file_type()?.is_dir();
        let found = if is_folder && entry.file_name().as_encoded_bytes().contains(&b'=') {
            foreign(&entry.path())?
        } else if !is_folder && is_part(&entry.file_name()) {
            None
        } else {
            Some(entry.path())
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Files of data, their checksums, and the mark that Spark leaves.
fn is_part(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(b"part-") || name.starts_with(b".part-") || name == b"_SUCCESS" || name == b"._SUCCESS.crc"
}
