//! [`Folder`]: a folder in which runs keep entries, each a file.
//!
//! Files are written beside their names and renamed, so that nobody sees half of one.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use super::ShareError;

#[derive(Clone, Debug)]
pub struct Folder(pub PathBuf);

impl Folder {
    /// `None` if it is not there.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, ShareError> {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(entry) => Ok(Some(entry)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ShareError::Folder { what: "read", path, source }),
        }
    }

    pub fn write(&self, name: &str, entry: &[u8]) -> Result<(), ShareError> {
        let path = self.path(name);
        let write = || {
            let folder = path.parent().unwrap_or(&self.0);
            fs::create_dir_all(folder)?;
            let mut draft = tempfile::Builder::new().prefix(".new-").permissions(permissions()).tempfile_in(folder)?;
            draft.as_file_mut().write_all(entry)?;
            draft.persist(&path)?;
            Ok(())
        };
        write().map_err(|source| ShareError::Folder { what: "write", path: path.clone(), source })
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// Others are to read it, as far as the umask lets them.
fn permissions() -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(0o666)
}
