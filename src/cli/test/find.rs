//! Which test files are meant.

use std::path::{Path, PathBuf};

use super::super::exit_code::Exit;
use super::super::output;
use super::{beside, is_test_file};

/// Folders that have what others have made.
const NOT_ENTERED: [&str; 3] = ["target", "node_modules", "__pycache__"];

/// The test files that are named, those beside pipelines that are named, and those in folders; without a name, those below the current folder.
///
/// # Errors
/// How the program should end if there are none.
pub fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>, Exit> {
    let mut files = Vec::new();
    if named.is_empty() {
        search(Path::new(""), &mut files)?;
        if files.is_empty() {
            output::complain("there is no file `*.test.yaml` in the current folder or below it");
            return Err(Exit::Usage);
        }
    }
    for path in named {
        if path.is_dir() {
            let before = files.len();
            search(path, &mut files)?;
            if files.len() == before {
                output::complain(&format!("there is no file `*.test.yaml` in `{}`", path.display()));
                return Err(Exit::Usage);
            }
        } else if is_test_file(path) {
            files.push(path.clone());
        } else {
            let test = beside(path);
            if !test.exists() {
                let (pipeline, test) = (path.display(), test.display());
                output::complain(&format!("`{pipeline}` has no tests: there is no `{test}`"));
                return Err(Exit::Usage);
            }
            files.push(test);
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    files.retain(|file| seen.insert(file.clone()));
    Ok(files)
}

/// Adds the test files in a folder and below, by name. Links to folders are not followed.
fn search(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), Exit> {
    let shown = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let unreadable = |error| output::failed(&format!("cannot read `{}`: {error}", shown.display()));
    let entries = shown.read_dir().map_err(unreadable)?.collect::<Result<Vec<_>, _>>().map_err(unreadable)?;
    let mut names: Vec<_> = entries.iter().map(|entry| (entry.file_name(), entry.file_type())).collect();
    names.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, kind) in names {
        let path = folder.join(&name);
        let name = name.to_string_lossy();
        if kind.as_ref().is_ok_and(std::fs::FileType::is_dir) {
            if !name.starts_with('.') && !NOT_ENTERED.contains(&name.as_ref()) {
                search(&path, files)?;
            }
        } else if is_test_file(&path) {
            files.push(path);
        }
    }
    Ok(())
}
