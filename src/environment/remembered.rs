//! What interpreters have answered before, so that a run need not start one only to ask who it is.
//!
//! An answer counts as long as everything that it depends on is as it was: the file, the variables, and of a shim of pyenv what
//! pyenv chooses by. Other wrappers may choose by anything, and are asked every time.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::host::Host;
use super::key::hex;

/// A shim is shorter than this.
const SHIM_BYTES: u64 = 4096;

/// Variables that decide what any interpreter is and finds.
const VARIABLES: &[&str] = &["PYTHONHOME", "PYTHONPATH"];
/// Variables by which pyenv chooses, beside its files.
const PYENV_VARIABLES: &[&str] = &["PATH", "PYENV_DIR", "PYENV_HOOK_PATH", "PYENV_VERSION"];

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// A digest of what the answer depends on.
    depends_on: String,
    /// Files that the answer names, as they were.
    files: Vec<String>,
    question: String,
    answer: String,
}

/// What the interpreter at `path` has answered to `question`, if it would do so again.
pub(super) fn recall(host: &Host, path: &Path, question: &str) -> Option<String> {
    let record: Record = serde_json::from_slice(&fs::read(file_of(host, path)).ok()?).ok()?;
    let is_same = record.question == question
        && record.depends_on == depends_on(path)?
        && record.files == signs(&named(&record.answer));
    is_same.then_some(record.answer)
}

/// Notes an answer. That it cannot be noted costs the next run a question, and nothing else.
pub(super) fn note(host: &Host, path: &Path, question: &str, answer: &str) {
    let Some(depends_on) = depends_on(path) else { return };
    let files = signs(&named(answer));
    let record = Record { depends_on, files, question: question.to_owned(), answer: answer.to_owned() };
    let file = file_of(host, path);
    let write = || -> std::io::Result<()> {
        let folder = file.parent().expect("a file lies in a folder");
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let mut fresh = tempfile::NamedTempFile::new_in(folder)?;
        fresh.write_all(&serde_json::to_vec(&record)?)?;
        fresh.persist(&file)?;
        Ok(())
    };
    drop(write());
}

fn file_of(host: &Host, path: &Path) -> PathBuf {
    host.cache
        .join("interpreters")
        .join(hex(&Sha256::digest(path.as_os_str().as_encoded_bytes())))
        .with_extension("json")
}

/// The absolute paths in an answer.
fn named(answer: &str) -> Vec<PathBuf> {
    answer
        .lines()
        .filter_map(|line| Some(PathBuf::from(line.split_once(' ')?.1)))
        .filter(|it| it.is_absolute())
        .collect()
}

/// A digest of what an answer of `path` depends on; `None` if that cannot be known.
fn depends_on(path: &Path) -> Option<String> {
    let real = fs::canonicalize(path).ok()?;
    let mut files = vec![real.clone()];
    let mut variables = VARIABLES.to_vec();
    // Makes a folder a virtual environment.
    files.extend(path.parent().and_then(Path::parent).map(|folder| folder.join("pyvenv.cfg")));
    let mut beginning = Vec::new();
    File::open(&real).ok()?.take(SHIM_BYTES).read_to_end(&mut beginning).ok()?;
    if beginning.starts_with(b"\x7fELF") {
        // Not a program that goes by the name that it is called by.
        real.file_name().and_then(OsStr::to_str).filter(|name| name.starts_with("python"))?;
    } else {
        let root = pyenv_root(std::str::from_utf8(&beginning).ok()?)?;
        // Questions are asked in `/`.
        files.extend([root.join("version"), root.join("versions"), "/.python-version".into()]);
        variables.extend(PYENV_VARIABLES);
    }
    let mut hash = Sha256::new();
    let variables = variables.into_iter().map(|name| format!("{name}={:?}", std::env::var_os(name)));
    for sign in signs(&files).into_iter().chain(variables) {
        hash.update((sign.len() as u64).to_le_bytes());
        hash.update(sign);
    }
    Some(hex(&hash.finalize()))
}

/// The folder of the pyenv that a shim hands over to.
fn pyenv_root(shim: &str) -> Option<PathBuf> {
    let quoted = |line: &str, before: &str, after: &str| {
        Some(PathBuf::from(line.trim().strip_prefix(before)?.strip_suffix(after)?))
    };
    let root = shim.lines().find_map(|line| quoted(line, "export PYENV_ROOT=\"", "\""))?;
    let program = shim.lines().find_map(|line| quoted(line, "exec \"", "\" exec \"$program\" \"$@\""))?;
    (program.file_name()? == "pyenv").then_some(root)
}

/// What tells whether files are as they were.
fn signs(files: &[PathBuf]) -> Vec<String> {
    let sign = |file: &PathBuf| match fs::metadata(file) {
        Ok(it) => format!(
            "{} {} {} {} {} {} {}",
            it.dev(),
            it.ino(),
            it.size(),
            it.mtime(),
            it.mtime_nsec(),
            it.ctime(),
            it.ctime_nsec()
        ),
        Err(error) => error.kind().to_string(),
    };
    files.iter().map(sign).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    const QUESTION: &str = "who are you?";

    fn host() -> (tempfile::TempDir, Host) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let host = Host { cache: folder.path().join("cache"), search: "".into() };
        (folder, host)
    }

    /// A program of this name, with the first bytes of one.
    fn program(path: &Path, content: &[u8]) {
        fs::write(path, content).expect("written");
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("set");
    }

    #[test]
    fn an_answer_counts_until_the_interpreter_is_another() {
        let (folder, host) = host();
        let (python, pyarrow) = (folder.path().join("python3"), folder.path().join("pyarrow.py"));
        program(&python, b"\x7fELF and more");
        fs::write(&pyarrow, "").expect("written");
        let answer = format!("noise\npyarrow {}\n", pyarrow.display());
        note(&host, &python, QUESTION, &answer);
        assert_eq!(recall(&host, &python, QUESTION), Some(answer.clone()));
        assert_eq!(recall(&host, &python, "another question"), None);
        assert_eq!(recall(&host, &folder.path().join("python4"), QUESTION), None);

        fs::remove_file(&pyarrow).expect("removed");
        assert_eq!(recall(&host, &python, QUESTION), None);

        note(&host, &python, QUESTION, &answer);
        program(&folder.path().join("new"), b"\x7fELF and more");
        fs::rename(folder.path().join("new"), &python).expect("renamed");
        assert_eq!(recall(&host, &python, QUESTION), None);
    }

    #[test]
    fn what_chooses_by_anything_is_always_asked() {
        let (folder, host) = host();
        let paths = ["script/python3", "link/python3"].map(|path| folder.path().join(path));
        paths.iter().for_each(|path| fs::create_dir(path.parent().expect("a folder")).expect("created"));
        program(&paths[0], b"#!/bin/sh\nexec python3.11 \"$@\"\n");
        program(&folder.path().join("chooser"), b"\x7fELF");
        symlink(folder.path().join("chooser"), &paths[1]).expect("linked");
        for path in &paths {
            note(&host, path, QUESTION, "me");
            assert_eq!(recall(&host, path, QUESTION), None);
        }
        assert!(!host.cache.exists());
    }

    #[test]
    fn a_shim_of_pyenv_counts_until_another_version_is_chosen() {
        let (folder, host) = host();
        let root = folder.path().join("pyenv");
        fs::create_dir_all(root.join("versions")).expect("created");
        fs::write(root.join("version"), "3.11").expect("written");
        let shim = folder.path().join("python3");
        let text = format!(
            "#!/usr/bin/env bash\nprogram=\"${{0##*/}}\"\nexport PYENV_ROOT=\"{0}\"\nexec \"{0}/libexec/pyenv\" exec \"$program\" \"$@\"\n",
            root.display()
        );
        program(&shim, text.as_bytes());
        note(&host, &shim, QUESTION, "me");
        assert_eq!(recall(&host, &shim, QUESTION).as_deref(), Some("me"));
        fs::write(root.join("version"), "3.12.1").expect("written");
        assert_eq!(recall(&host, &shim, QUESTION), None);
        note(&host, &shim, QUESTION, "me");
        fs::create_dir(root.join("versions/3.13")).expect("created");
        assert_eq!(recall(&host, &shim, QUESTION), None);
    }
}
