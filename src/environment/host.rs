//! [`Host`]: where on this machine programs are found and caches lie.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::error::EnvironmentError;

#[derive(Clone, Debug)]
pub struct Host {
    /// Folder of millpond's caches, absolute. It need not exist.
    pub cache: PathBuf,
    /// Folders that programs are searched in, as in `PATH`.
    pub search: OsString,
}

impl Host {
    /// From `XDG_CACHE_HOME` (else `HOME`) and `PATH`.
    pub fn from_env() -> Result<Self, EnvironmentError> {
        let cache = cache_folder(env::var_os("XDG_CACHE_HOME"), env::var_os("HOME"));
        Ok(Self {
            cache: cache.ok_or(EnvironmentError::NoCacheFolder)?,
            search: env::var_os("PATH").unwrap_or_default(),
        })
    }

    /// The first program of this name, absolute.
    pub(super) fn find(&self, program: impl AsRef<OsStr>) -> Option<PathBuf> {
        env::split_paths(&self.search)
            .filter(|folder| folder.is_absolute())
            .map(|folder| folder.join(program.as_ref()))
            .find(|path| path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0))
    }
}

/// The XDG rules: a value that is not absolute counts as absent.
fn cache_folder(xdg: Option<OsString>, home: Option<OsString>) -> Option<PathBuf> {
    let absolute = |value: Option<OsString>| value.map(PathBuf::from).filter(|path| path.is_absolute());
    let caches = absolute(xdg).or_else(|| Some(absolute(home)?.join(".cache")))?;
    Some(caches.join("millpond"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_cache_folders_do_not_count() {
        let folder = |xdg: Option<&str>, home: Option<&str>| cache_folder(xdg.map(Into::into), home.map(Into::into));
        assert_eq!(folder(Some("/xdg"), Some("/somebody")), Some("/xdg/millpond".into()));
        assert_eq!(folder(Some("xdg"), Some("/somebody")), Some("/somebody/.cache/millpond".into()));
        assert_eq!(folder(Some(""), Some("/somebody")), Some("/somebody/.cache/millpond".into()));
        assert_eq!(folder(None, Some("")), None);
        assert_eq!(folder(None, None), None);
    }

    #[test]
    fn only_programs_are_found() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("data"), "").expect("written");
        std::fs::create_dir(folder.path().join("folder")).expect("created");
        let search = env::join_paths([folder.path().as_os_str(), OsStr::new("/bin")]).expect("no colon in it");
        let host = Host { cache: PathBuf::new(), search };
        assert_eq!(host.find("data"), None);
        assert_eq!(host.find("folder"), None);
        assert_eq!(host.find("sh"), Some("/bin/sh".into()));
    }
}
