//! The worker package, which travels inside of the program and is unpacked where Python can import it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::error::EnvironmentError;
use super::host::Host;
use super::key::hex;

macro_rules! files {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_bytes!(concat!("../../python/millpond/", $name)))),*]
    };
}

/// The library of `allocator.py`, compiled by `build.rs`.
const LIBRARY: (&str, &[u8]) = ("liballocator.so", include_bytes!(concat!(env!("OUT_DIR"), "/liballocator.so")));

/// Path in the package, and content.
const SOURCES: &[(&str, &[u8])] = files![
    "__init__.py",
    "allocator.py",
    "annotation.py",
    "codecs/__init__.py",
    "codecs/arrays.py",
    "codecs/arrow.py",
    "codecs/dataframe.py",
    "codecs/dicts.py",
    "codecs/polars_frame.py",
    "codecs/table.py",
    "codecs/values.py",
    "column_types.py",
    "concurrency.py",
    "context.py",
    "draws.py",
    "errors.py",
    "event_loop.py",
    "frame.py",
    "keyed.py",
    "leases.py",
    "line.py",
    "local.py",
    "outputs.py",
    "parts.py",
    "printed.py",
    "rejecting.py",
    "process.py",
    "py.typed",
    "run_state.py",
    "scatter.py",
    "shared.py",
    "source.py",
    "stacks.py",
    "stage.py",
    "state_parts.py",
    "state_values.py",
    "stream.py",
    "sync.py",
    "template.py",
    "terminal.py",
    "testing.py",
    "worker_process.py",
    "worker_start.py",
];

/// How often another process may get in between before unpacking is an error.
const TRIES: usize = 10;

/// Returns the folder for `PYTHONPATH`. It is unpacked once for each content, and again if somebody has changed it.
pub fn unpack(host: &Host) -> Result<PathBuf, EnvironmentError> {
    let packages = host.cache.join("package");
    let folder = packages.join(digest());
    if is_intact(&folder) {
        return Ok(folder);
    }
    write(&packages, &folder).map_err(EnvironmentError::io("unpack the worker package to", &folder))?;
    Ok(folder)
}

fn files() -> impl Iterator<Item = (&'static str, &'static [u8])> {
    SOURCES.iter().copied().chain([LIBRARY])
}

fn digest() -> String {
    let mut hash = Sha256::new();
    for (name, content) in files() {
        for part in [name.as_bytes(), content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part);
        }
    }
    hex(&hash.finalize())
}

fn is_intact(folder: &Path) -> bool {
    let package = folder.join("millpond");
    files().all(|(name, content)| fs::read(package.join(name)).is_ok_and(|found| found == content))
}

/// Fills a folder beside and renames it, so that nobody ever imports half a package.
fn write(packages: &Path, folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(packages)?;
    let fresh = tempfile::Builder::new().prefix(".new-").tempdir_in(packages)?;
    let whole = fresh.path().join("whole");
    for (name, content) in files() {
        let path = whole.join("millpond").join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(path.parent().expect("a file lies in a folder"))?;
        fs::write(path, content)?;
    }
    for attempt in 0..TRIES {
        match fs::rename(&whole, folder) {
            Ok(()) => return Ok(()),
            Err(_) if is_intact(folder) => return Ok(()), // Another process was first.
            Err(error) if !folder.exists() => return Err(error),
            // What is there is damaged: out of the way with it.
            Err(_) => fs::rename(folder, fresh.path().join(format!("damaged-{attempt}"))).or_else(ignore_absent)?,
        }
    }
    Err(io::Error::other("other processes keep changing it"))
}

fn ignore_absent(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::ffi::OsString;
    use std::os::unix::fs::PermissionsExt as _;
    use std::thread;

    use super::*;

    fn host(folder: &tempfile::TempDir) -> Host {
        Host { cache: folder.path().join("cache"), search: OsString::new() }
    }

    #[test]
    fn the_list_has_every_file_of_the_package() {
        let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/millpond");
        let mut found = BTreeSet::new();
        let mut folders = vec![package.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("readable").path()) {
                if entry.ends_with("__pycache__") {
                    continue;
                } else if entry.is_dir() {
                    folders.push(entry);
                } else {
                    found.insert(entry.strip_prefix(&package).expect("inside").to_str().expect("UTF-8").to_owned());
                }
            }
        }
        let listed: BTreeSet<String> = SOURCES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(listed, found);
    }

    #[test]
    fn it_is_unpacked_privately_and_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let unpacked = unpack(&host(&folder)).expect("unpacked");
        assert!(is_intact(&unpacked));
        assert_eq!(fs::metadata(&unpacked).expect("there").permissions().mode() & 0o777, 0o700);
        let marker = unpacked.join("millpond/__pycache__");
        fs::create_dir(&marker).expect("created");
        assert_eq!(unpack(&host(&folder)).expect("found"), unpacked);
        assert!(marker.exists(), "what is intact stays");
        let left = fs::read_dir(folder.path().join("cache/package")).expect("there").count();
        assert_eq!(left, 1, "nothing temporary stays");
    }

    #[test]
    fn a_damaged_package_is_repaired() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let unpacked = unpack(&host(&folder)).expect("unpacked");
        fs::write(unpacked.join("millpond/worker_process.py"), "import evil").expect("written");
        fs::remove_file(unpacked.join("millpond/stage.py")).expect("removed");
        assert_eq!(unpack(&host(&folder)).expect("repaired"), unpacked);
        assert!(is_intact(&unpacked));
    }

    #[test]
    fn many_may_unpack_at_once() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| assert!(is_intact(&unpack(&host(&folder)).expect("unpacked"))));
            }
        });
    }
}
