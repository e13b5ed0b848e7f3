//! [`imported`]: the local files that a module imports, found by reading them, as nothing is run for it.
//!
//! Every `import` counts, wherever it stands: one in a function, or in a docstring, is taken for one. Modules that are imported by a name that
//! is made when the code runs are not seen.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use regex::Regex;

static IMPORT: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\s*import\s+(.+)$").expect("a valid pattern"));
static FROM: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^\s*from\s+(\.*)([\w.]*)\s+import\s+(.+)$").expect("a valid pattern"));
/// A module that is named as text where one is imported: `importlib.import_module("a.b")`.
static BY_NAME: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"(?:import_module|__import__)\(\s*['"]([\w.]+)['"]"#).expect("a valid pattern"));

/// The files of `module` and of all that it imports from the folders `path`, and what they hold.
///
/// # Errors
/// The first file that is there and cannot be read.
pub fn imported(path: &[PathBuf], module: &str) -> Result<BTreeMap<PathBuf, Vec<u8>>, (PathBuf, io::Error)> {
    let mut found = BTreeMap::new();
    let mut open = files_of(path, module);
    while let Some(file) = open.pop() {
        if found.contains_key(&file) {
            continue;
        }
        let content = std::fs::read(&file).map_err(|source| (file.clone(), source))?;
        if file.extension().is_some_and(|extension| extension == "py") {
            for name in names(&String::from_utf8_lossy(&content), path, &file) {
                open.extend(files_of(path, &name));
            }
        }
        found.insert(file, content);
    }
    Ok(found)
}

/// The files that importing a module runs: its own, and those of the packages around it.
fn files_of(path: &[PathBuf], module: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for root in path {
        let mut folder = root.clone();
        for part in module.split('.') {
            folder.push(part);
            files.extend(
                [folder.join("__init__.py"), folder.with_extension("py")].into_iter().filter(|file| file.is_file()),
            );
            files.extend(compiled(&folder, part));
        }
    }
    files
}

/// Extension modules, such as `name.cpython-311-x86_64-linux-gnu.so`.
fn compiled(module: &Path, name: &str) -> Vec<PathBuf> {
    let Some(entries) = module.parent().and_then(|folder| folder.read_dir().ok()) else { return Vec::new() };
    let is_it = |path: &PathBuf| {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        file.ends_with(".so") && file.split('.').next() == Some(name)
    };
    let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_it).collect();
    files.sort();
    files
}

/// The modules that a file names, absolute. `from a import b` may mean a module `a.b`.
fn names(text: &str, path: &[PathBuf], file: &Path) -> Vec<String> {
    let mut names: Vec<String> = BY_NAME.captures_iter(text).map(|found| found[1].to_owned()).collect();
    for line in statements(text) {
        if let Some(found) = FROM.captures(&line) {
            let Some(base) = absolute(&found[1], &found[2], path, file) else { continue };
            let joined = |name: &str| if base.is_empty() { name.to_owned() } else { format!("{base}.{name}") };
            names.extend(imports(&found[3]).map(|name| joined(&name)));
            names.push(base.clone());
        } else if let Some(found) = IMPORT.captures(&line) {
            names.extend(imports(&found[1]));
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

/// Lines, put together where they go on.
fn statements(text: &str) -> Vec<String> {
    let mut statements = Vec::new();
    let mut open = String::new();
    for line in text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().split(';')) {
        open.push_str(line.trim_end_matches('\\'));
        let is_import = open.trim_start().starts_with("from ") || open.trim_start().starts_with("import ");
        if is_import && (line.ends_with('\\') || (open.contains('(') && !open.contains(')'))) {
            open.push(' ');
            continue;
        }
        statements.push(std::mem::take(&mut open));
    }
    statements
}

/// The names in `a, b as c`, in parentheses or not.
fn imports(list: &str) -> impl Iterator<Item = String> {
    let list = list.replace(['(', ')'], " ");
    let names: Vec<String> =
        list.split(',').filter_map(|item| item.split_whitespace().next().map(str::to_owned)).collect();
    names.into_iter()
}

/// What `from .a` means in a file.
fn absolute(dots: &str, name: &str, path: &[PathBuf], file: &Path) -> Option<String> {
    if dots.is_empty() {
        return Some(name.to_owned());
    }
    let root = path.iter().filter(|root| file.starts_with(root)).max_by_key(|root| root.as_os_str().len())?;
    // The first dot is the package that the file lies in.
    let package = file.parent()?.ancestors().nth(dots.len() - 1)?.strip_prefix(root).ok()?;
    let mut parts: Vec<&str> = package.iter().map(|part| part.to_str()).collect::<Option<_>>()?;
    parts.extend(name.split('.').filter(|part| !part.is_empty()));
    Some(parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closure(files: &[(&str, &str)], module: &str) -> Vec<String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("a folder in ours");
            std::fs::write(path, text).expect("a file in ours");
        }
        let found = imported(&[folder.path().to_owned()], module).expect("all can be read");
        found.keys().map(|path| path.strip_prefix(folder.path()).expect("below").display().to_string()).collect()
    }

    #[test]
    fn what_is_imported_is_found_however_it_is_said() {
        let files = [
            (
                "work.py",
                "import numpy, one as uno, two\nfrom three import (\n    a,  # a comment\n    b,\n)\nfrom pack.sub import deep, \\\n    deeper\n\ndef f():\n    import four; import five\n    importlib.import_module('six')\n",
            ),
            ("one.py", "import one\nimport work\n"),
            ("two/__init__.py", "from . import inner\nfrom .other import x\n"),
            ("two/inner.py", ""),
            ("two/other.py", "from ..seven import y\nfrom .. import eight\n"),
            ("two/unused.py", ""),
            ("three.py", ""),
            ("pack/__init__.py", ""),
            ("pack/sub/__init__.py", ""),
            ("pack/sub/deep.py", "from ..near import z"),
            ("pack/near.py", ""),
            ("pack/far.py", ""),
            ("four.py", ""),
            ("five.py", ""),
            ("six.py", ""),
            ("seven.py", ""),
            ("eight.py", ""),
            ("nine.py", ""),
            ("native.cpython-311-x86_64-linux-gnu.so", ""),
        ];
        let mut expected = vec![
            "work.py",
            "one.py",
            "two/__init__.py",
            "two/inner.py",
            "two/other.py",
            "three.py",
            "pack/__init__.py",
            "pack/sub/__init__.py",
            "pack/sub/deep.py",
            "pack/near.py",
            "four.py",
            "five.py",
            "six.py",
            "seven.py",
            "eight.py",
        ];
        expected.sort_unstable();
        let mut found = closure(&files, "work");
        found.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn extension_modules_count_and_what_is_not_local_does_not() {
        let files = [("work.py", "import native, json, nowhere"), ("native.cpython-311-x86_64-linux-gnu.so", "")];
        assert_eq!(closure(&files, "work"), ["native.cpython-311-x86_64-linux-gnu.so", "work.py"]);
        assert_eq!(
            closure(&[("pack/__init__.py", ""), ("pack/work.py", "")], "pack.work"),
            ["pack/__init__.py", "pack/work.py"]
        );
    }
}
