//! The key of an environment: what decides its content.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::environment::Wanted;
use super::error::EnvironmentError;
use super::interpreter::Interpreter;

/// Changes when environments are built in another way.
const FORMAT: &str = "1";

/// Requirements that every environment has.
pub(super) const ALWAYS: &[&str] = &["pyarrow"];

/// Of an environment that is built: from the requirements, the content of their files, and the interpreter.
pub(super) fn built(wanted: &Wanted, base: &Interpreter) -> Result<String, EnvironmentError> {
    let mut hash = Hash::new(base);
    add_requirements(&mut hash, wanted)?;
    Ok(hash.finish())
}

fn add_requirements(hash: &mut Hash, wanted: &Wanted) -> Result<(), EnvironmentError> {
    for requirement in ALWAYS.iter().copied().chain(wanted.requirements.iter().map(String::as_str)) {
        hash.add(b"requirement", requirement.as_bytes());
    }
    let mut seen = BTreeSet::new();
    for file in &wanted.requirement_files {
        add_file(hash, file, &mut seen)?;
    }
    Ok(())
}

/// A digest of requirements alone, whatever Python they are for.
pub(super) fn requirements(wanted: &Wanted) -> Result<String, EnvironmentError> {
    let mut hash = Hash(Sha256::new());
    hash.add(b"format", FORMAT.as_bytes());
    add_requirements(&mut hash, wanted)?;
    Ok(hash.finish())
}

/// Of an environment that exists: its interpreter.
pub(super) fn existing(python: &Interpreter) -> String {
    let mut hash = Hash::new(python);
    hash.add(b"path", python.path.as_os_str().as_encoded_bytes());
    hash.finish()
}

/// Adds a requirements file and those that it includes (`-r`, `-c`).
fn add_file(hash: &mut Hash, file: &Path, seen: &mut BTreeSet<PathBuf>) -> Result<(), EnvironmentError> {
    if !seen.insert(file.to_owned()) {
        return Ok(());
    }
    let content =
        fs::read(file).map_err(|source| EnvironmentError::RequirementFile { path: file.to_owned(), source })?;
    hash.add(b"file", &content);
    for included in String::from_utf8_lossy(&content).lines().filter_map(included_file) {
        let path = file.parent().unwrap_or(Path::new("/")).join(included);
        // What is not there may be a URL: pip knows, and says so.
        if path.is_file() {
            add_file(hash, &path, seen)?;
        }
    }
    Ok(())
}

fn included_file(line: &str) -> Option<&str> {
    let line = line.trim();
    let rest = ["--requirement", "--constraint", "-r", "-c"].iter().find_map(|option| line.strip_prefix(option))?;
    let name = rest.trim_start_matches(['=', ' ', '\t']);
    Some(name.split(" #").next().unwrap_or(name).trim())
}

struct Hash(Sha256);

impl Hash {
    fn new(interpreter: &Interpreter) -> Self {
        let mut hash = Self(Sha256::new());
        hash.add(b"format", FORMAT.as_bytes());
        hash.add(b"version", interpreter.version.to_string().as_bytes());
        hash.add(b"interpreter", interpreter.real_path.as_bytes());
        hash
    }

    /// Lengths keep neighbours apart: `ab`, `c` is not `a`, `bc`.
    fn add(&mut self, what: &[u8], value: &[u8]) {
        for part in [what, value] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;

    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::super::interpreter::Version;
    use super::*;

    fn interpreter() -> Interpreter {
        Interpreter {
            path: "/usr/bin/python3".into(),
            executable: "/usr/bin/python3".into(),
            real_path: "/usr/bin/python3.11".into(),
            version: Version { major: 3, minor: 11, micro: 7 },
            has_pyarrow: false,
        }
    }

    fn key(requirements: &[&str], files: &[&Path]) -> String {
        let wanted = Wanted {
            requirements: requirements.iter().map(ToString::to_string).collect(),
            requirement_files: files.iter().map(|&path| path.to_owned()).collect(),
            ..Wanted::default()
        };
        built(&wanted, &interpreter()).expect("all files can be read")
    }

    #[test]
    fn the_key_is_stable_and_has_one_requirement_after_the_other() {
        assert_eq!(key(&["a", "bc"], &[]), key(&["a", "bc"], &[]));
        assert_ne!(key(&["a", "bc"], &[]), key(&["ab", "c"], &[]));
        assert_eq!(key(&[], &[]).len(), 64);
    }

    #[test]
    fn included_files_count() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (main, more) = (folder.path().join("main.txt"), folder.path().join("more.txt"));
        fs::write(&main, "numpy\n-r more.txt # and\n-c main.txt\n-r https://example.org/x.txt\n").expect("written");
        fs::write(&more, "pandas").expect("written");
        let before = key(&[], &[&main]);
        fs::write(&more, "polars").expect("written");
        assert_ne!(before, key(&[], &[&main]));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let wanted = Wanted { requirement_files: vec!["/no/such/file".into()], ..Wanted::default() };
        let error = built(&wanted, &interpreter()).expect_err("the file is not there");
        assert!(error.to_string().starts_with("cannot read requirements file `/no/such/file`"));
    }
}
