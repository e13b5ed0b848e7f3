//! [`matching`]: the paths that match a pattern. Names need not be text, and what cannot be looked at is an error: nothing is left out
//! silently.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};

use glob::{MatchOptions, Pattern};

/// `*` and `?` match no dot at the beginning of a name: hidden files have to be asked for.
const MATCH: MatchOptions =
    MatchOptions { case_sensitive: true, require_literal_separator: true, require_literal_leading_dot: true };

#[derive(Debug, thiserror::Error)]
pub enum GlobError {
    #[error("{0}")]
    Pattern(&'static str),
    #[error("{} cannot be looked at: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
}

/// Whether a path has to be taken for a pattern, as it is none of a file that exists.
pub fn is_pattern(path: &Path) -> bool {
    path.to_str().is_some_and(|path| path.contains(['*', '?', '[']))
}

/// Sorts paths bytewise, not folder by folder.
pub fn sort(paths: &mut [PathBuf]) {
    paths.sort_by(|a, b| a.as_os_str().as_encoded_bytes().cmp(b.as_os_str().as_encoded_bytes()));
}

/// All paths that match, sorted bytewise: files, folders and whatever else there is. `**` stands for any number of folders, but for those that
/// are hidden or symbolic links.
///
/// # Errors
/// If it is no pattern, or a folder in question cannot be looked at.
pub fn matching(pattern: &Path) -> Result<Vec<PathBuf>, GlobError> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        found = match component {
            Component::Normal(name) if name == "**" => folders_below(found)?,
            Component::Normal(name) if is_pattern(Path::new(name)) => {
                let text = name.to_str().expect("a pattern is text");
                let pattern = Pattern::new(text).map_err(|error| GlobError::Pattern(error.msg))?;
                entries_that(found, |name| pattern.matches_with(name, MATCH))?
            }
            component => found.into_iter().map(|path| path.join(component)).collect(),
        };
    }
    let mut paths = Vec::new();
    for path in found {
        // The last names of a pattern may be no pattern themselves.
        match path.symlink_metadata() {
            Ok(_) => paths.push(path),
            Err(error) if is_absent(&error) => {}
            Err(source) => return Err(GlobError::Unreadable { path, source }),
        }
    }
    sort(&mut paths);
    paths.dedup();
    Ok(paths)
}

/// A pattern for names in which `/` divides folders that nobody can look into.
#[derive(Debug)]
pub struct Names(Vec<Part>);

#[derive(Debug)]
enum Part {
    /// `**`
    Folders,
    Name(Pattern),
}

impl Names {
    /// # Errors
    /// What is wrong with it, if it is no pattern.
    pub fn new(pattern: &str) -> Result<Self, &'static str> {
        let part = |part| match part {
            "**" => Ok(Part::Folders),
            part => Pattern::new(part).map(Part::Name).map_err(|error| error.msg),
        };
        pattern.split('/').map(part).collect::<Result<_, _>>().map(Self)
    }

    /// Whether [`matching`] would find a file of this name.
    pub fn match_name(&self, name: &str) -> bool {
        let mut places = self.with_skipped(BTreeSet::from([0]));
        for part in name.split('/') {
            let next = places.into_iter().filter_map(|at| match self.0.get(at)? {
                Part::Folders => (!part.starts_with('.')).then_some(at),
                Part::Name(pattern) => pattern.matches_with(part, MATCH).then_some(at + 1),
            });
            places = self.with_skipped(next.collect());
        }
        places.contains(&self.0.len())
    }

    /// Places in the pattern, and those behind them: `**` may stand for no folder.
    fn with_skipped(&self, mut places: BTreeSet<usize>) -> BTreeSet<usize> {
        for (at, part) in self.0.iter().enumerate() {
            if matches!(part, Part::Folders) && places.contains(&at) {
                places.insert(at + 1);
            }
        }
        places
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn entries_that(folders: Vec<PathBuf>, matches: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>, GlobError> {
    let mut found = Vec::new();
    for folder in folders {
        for entry in entries(&folder)? {
            // What is no text has a mark in the place of what is not.
            if entry.file_name().is_some_and(|name| matches(&name.to_string_lossy())) {
                found.push(entry);
            }
        }
    }
    Ok(found)
}

/// The folders themselves, and all in them.
fn folders_below(folders: Vec<PathBuf>) -> Result<Vec<PathBuf>, GlobError> {
    let mut found = Vec::new();
    let mut open = folders;
    while let Some(folder) = open.pop() {
        for entry in entries(&folder)? {
            let is_hidden = entry.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if !is_hidden && entry.is_dir() && !entry.is_symlink() {
                open.push(entry);
            }
        }
        found.push(folder);
    }
    Ok(found)
}

/// What is in a folder; nothing if it is none.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, GlobError> {
    let unreadable = |source| GlobError::Unreadable { path: folder.to_owned(), source };
    let entries = match folder.read_dir() {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    };
    entries.map(|entry| entry.map(|entry| entry.path()).map_err(unreadable)).collect()
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::ffi::OsStrExt as _;

    use super::*;

    fn tree(names: &[&[u8]]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for name in names {
            let path = folder.path().join(OsStr::from_bytes(name));
            fs::create_dir_all(path.parent().expect("it is below")).expect("ours");
            fs::write(path, "").expect("ours");
        }
        folder
    }

    fn found(folder: &Path, pattern: &str) -> Vec<Vec<u8>> {
        let paths = matching(&folder.join(pattern)).expect("all can be looked at");
        let below = |path: &PathBuf| path.strip_prefix(folder).expect("it is below").as_os_str().as_bytes().to_vec();
        paths.iter().map(below).collect()
    }

    #[test]
    fn what_matches_is_found_whatever_its_name() {
        let folder = tree(&[b"a.csv", b"b\xff.csv", b".h.csv", b"x/a.csv", b"x/y/b.csv", b".g/c.csv", b"x/n.txt"]);
        let names = |names: &[&[u8]]| names.iter().map(|name| name.to_vec()).collect::<Vec<_>>();
        assert_eq!(found(folder.path(), "*.csv"), names(&[b"a.csv", b"b\xff.csv"]));
        assert_eq!(found(folder.path(), ".*.csv"), names(&[b".h.csv"]));
        assert_eq!(found(folder.path(), "**/*.csv"), names(&[b"a.csv", b"b\xff.csv", b"x/a.csv", b"x/y/b.csv"]));
        assert_eq!(found(folder.path(), "*/a.csv"), names(&[b"x/a.csv"]));
        assert_eq!(found(folder.path(), "[x]/?/b.csv"), names(&[b"x/y/b.csv"]));
        assert_eq!(found(folder.path(), "*/none.csv"), names(&[]));
        assert_eq!(found(folder.path(), ".g/*"), names(&[b".g/c.csv"]));
        assert!(matches!(matching(&folder.path().join("a**/x")), Err(GlobError::Pattern(_))));
    }

    #[test]
    fn names_match_as_files_would() {
        let all = ["a.csv", "b.csv", ".h.csv", "x/a.csv", "x/y/b.csv", ".g/c.csv", "x/n.txt", "x/.g/d.csv"];
        let folder = tree(&all.map(str::as_bytes));
        for pattern in [
            "*.csv",
            ".*.csv",
            "**/*.csv",
            "*/a.csv",
            "[x]/?/b.csv",
            "*/none.csv",
            ".g/*",
            "x/**/*.csv",
            "**/y/*",
            "x/*.txt",
        ] {
            let names = Names::new(pattern).expect("a pattern");
            let mut expected: Vec<&str> = all.into_iter().filter(|name| names.match_name(name)).collect();
            expected.sort_unstable();
            let mut there = found(folder.path(), pattern);
            there.retain(|name| all.iter().any(|file| file.as_bytes() == name));
            assert_eq!(there, expected.iter().map(|name| name.as_bytes().to_vec()).collect::<Vec<_>>(), "{pattern}");
        }
        assert!(Names::new("a**/x").is_err());
    }

    #[test]
    fn links_to_folders_are_not_gone_round_in() {
        let folder = tree(&[b"x/a.csv"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("x/up")).expect("ours");
        assert_eq!(found(folder.path(), "**/a.csv"), [b"x/a.csv".to_vec()]);
        // Where it is named, it is followed.
        assert_eq!(found(folder.path(), "x/*/x/a.csv"), [b"x/up/x/a.csv".to_vec()]);
    }
}
