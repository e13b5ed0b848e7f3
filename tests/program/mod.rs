//! The program as a user runs it, for tests.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Runs `millpond run FILE` without a terminal, with the run's own folder in `state`. Panics, with what was written to standard
/// error, unless it ends with exit code 0.
pub fn run(file: &Path, state: &Path, args: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("run").arg(file).arg("--state-dir").arg(state).args(args);
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{} {args:?}: {}\n{}", file.display(), output.status, errors(&output));
}

pub fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The files in a folder, sorted by name.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = folder.read_dir().unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> =
        entries.map(|entry| entry.expect("an entry").path()).filter(|path| path.is_file()).collect();
    files.sort();
    files
}
