//! The invariants of docs/ARCHITECTURE.md that the compiler does not check: which module may use which, and where an
//! outside crate, a clock or a file may be named.
//!
//! Test code is free to use anything: `#[cfg(test)]` modules, inline or in files, are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

/// Each module and the others that it may use. A module may use itself; [`LIBRARY`] and `cli` may use all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("batch", &[]),
    ("diagnostic", &[]),
    ("environment", &[]),
    ("sql", &[]),
    // The set of what must not be told.
    ("secrets", &[]),
    ("format", &["batch"]),
    ("spec", &["diagnostic"]),
    ("plan", &["spec", "diagnostic", "batch", "format", "sql"]),
    // Events and outcomes, and the loop that connects scheduler and executor.
    (
        "run",
        &[
            "plan",
            "batch",
            "environment",
            "run::scheduler",
            "run::executor",
            "run::publish",
            "run::store",
            "run::fail_point",
        ],
    ),
    ("run::fail_point", &[]),
    // Object stores, for whoever reads, publishes or keeps batches.
    ("run::store", &["plan"]),
    ("run::scheduler", &["plan", "run"]),
    ("run::publish", &["plan", "run::fail_point", "run::store"]),
    (
        "run::executor",
        &[
            "plan",
            "batch",
            "format",
            "sql",
            "environment",
            "secrets",
            "run",
            "run::scheduler",
            "run::publish",
            "run::fail_point",
            "run::store",
        ],
    ),
    ("report", &["plan", "run", "secrets"]),
    // Beside a run: what it is given, and what is expected of it.
    ("testing", &["spec", "plan", "diagnostic", "batch", "format", "sql", "report", "secrets"]),
];

/// Files that see all modules: the crate's roots.
const LIBRARY: &str = "crate";

/// Words and the places where they may stand: paths below `src`, a file or a folder.
const ONLY_IN: &[(&str, &[&str], &str)] = &[
    ("datafusion", &["sql"], "the engine can be replaced in one place"),
    ("petgraph", &["plan/graph.rs"], "the DAG is a type of ours"),
    ("saphyr_parser", &["spec/yaml.rs"], "there is one YAML reader"),
    ("serde_yaml", &["spec/parse.rs"], "it must never see text that has not been checked"),
    ("minijinja", &["spec/interpolate.rs"], "expressions are evaluated in one place"),
    ("miette", &["diagnostic", "cli"], "diagnostics are plain data until they are rendered"),
    (
        "object_store",
        &["plan/location.rs", "run/store"],
        "what a store tells may hold secrets, and there is one place that sorts them out",
    ),
    ("url::Url", &["plan/location.rs"], "a URL is checked where it is read, and text behind that"),
    ("indicatif", &["report", "cli"], "only reports draw"),
    ("clap", &["cli"], "arguments end at the command line"),
    (
        "SystemTime::now",
        &["cli/env.rs", "cli/run.rs", "cli/runs.rs", "run/publish/run_folder.rs"],
        "the clock on the wall may jump: it dates runs, and nothing is timed by it",
    ),
    ("println!", &["cli", "report"], "standard output belongs to the command line and to sinks"),
    ("eprintln!", &["cli", "report"], "standard error belongs to the command line"),
];

/// Folders and what they must not name.
const NEVER_IN: &[(&str, &[&str], &str)] = &[
    (
        "run/scheduler",
        &[
            "Instant::now",
            "SystemTime",
            "std::fs",
            "std::env",
            "std::process",
            "std::thread",
            "std::net",
            "tokio",
            "rustix",
        ],
        "the scheduler is pure: time comes in as an argument, effects go out as actions",
    ),
    (
        "plan",
        &["std::fs", "std::env", "std::process", "std::thread", "std::net", "tokio", "async "],
        "compiling does no I/O",
    ),
    (
        "spec",
        &["std::fs", "std::env", "std::process", "std::thread", "std::net", "tokio", "async "],
        "parsing does no I/O",
    ),
];

/// Crates of which two versions would be two incompatible sets of types.
const ONE_VERSION: &[&str] = &["arrow", "arrow-array", "arrow-schema", "datafusion", "object_store", "parquet"];

#[test]
fn modules_use_only_what_the_table_allows() {
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut faults = Vec::new();
    for source in sources() {
        let from = module_of(&source.path);
        if from == LIBRARY || from == "cli" {
            continue;
        }
        let Some(allowed) = table.get(from.as_str()) else {
            faults.push(format!("{}: module `{from}` is not in the table", source.path));
            continue;
        };
        for (line, path) in source.crate_paths() {
            let to = target_module(&path);
            if to != from && !allowed.contains(&to.as_str()) {
                faults.push(format!("{}:{line}: `{from}` must not use `{to}`", source.path));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn outside_names_stay_where_they_belong() {
    let mut faults = Vec::new();
    for source in sources() {
        for (word, places, reason) in ONLY_IN {
            if !places.iter().any(|place| source.is_in(place)) {
                faults
                    .extend(source.lines_with(word).map(|line| format!("{}:{line}: `{word}`: {reason}", source.path)));
            }
        }
        for (place, words, reason) in NEVER_IN.iter().filter(|(place, ..)| source.is_in(place)) {
            for word in *words {
                let lines = source.lines_with(word);
                faults.extend(lines.map(|line| format!("{}:{line}: `{word}` in {place}: {reason}", source.path)));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn there_is_one_arrow() {
    let lock = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).expect("Cargo.lock is committed");
    for name in ONE_VERSION {
        let versions = locked_versions(&lock, name);
        assert!(versions.len() <= 1, "{name} is built in versions {versions:?}: their types do not unify");
    }
    assert_eq!(locked_versions(&lock, "arrow").len(), 1);
}

fn locked_versions<'a>(lock: &'a str, name: &str) -> BTreeSet<&'a str> {
    let packages = lock.split("[[package]]").filter_map(|package| {
        let value = |key: &str| package.lines().find_map(|line| line.strip_prefix(key)?.strip_suffix('"'));
        Some((value("name = \"")?, value("version = \"")?))
    });
    packages.filter(|(package, _)| *package == name).map(|(_, version)| version).collect()
}

struct Source {
    /// Below `src`, with `/`.
    path: String,
    /// Without comments and test code; lines keep their numbers.
    text: String,
}

impl Source {
    fn is_in(&self, place: &str) -> bool {
        self.path == place || self.path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
    }

    /// 1-based numbers of the lines that contain `word`, as a whole word.
    fn lines_with<'a>(&'a self, word: &'a str) -> impl Iterator<Item = usize> + 'a {
        let contains = move |line: &str| {
            line.match_indices(word).any(|(at, _)| {
                let part_of_name =
                    |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
                !part_of_name(line[..at].chars().next_back()) && !part_of_name(line[at + word.len()..].chars().next())
            })
        };
        self.text.lines().enumerate().filter(move |(_, line)| contains(line)).map(|(index, _)| index + 1)
    }

    /// Every path that begins with `crate::`, without that, and its line; `use` trees are expanded.
    fn crate_paths(&self) -> Vec<(usize, String)> {
        let mut paths = Vec::new();
        for (at, _) in self.text.match_indices("crate::") {
            let line = self.text[..at].matches('\n').count() + 1;
            let tree = &self.text[at + "crate::".len()..];
            paths.extend(expand(tree).0.into_iter().map(|path| (line, path)));
        }
        paths
    }
}

/// Expands the use tree at the start of `text` (`a::{b, c::d}`) and returns its paths and its length.
fn expand(text: &str) -> (Vec<String>, usize) {
    let is_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    let end = text.find(|letter| !is_path(letter)).unwrap_or(text.len());
    let prefix = &text[..end];
    if !(prefix.is_empty() || prefix.ends_with("::")) || !text[end..].starts_with('{') {
        return (vec![prefix.to_owned()], end);
    }
    let mut paths = Vec::new();
    let mut at = end + 1;
    loop {
        at += text[at..].len() - text[at..].trim_start_matches([' ', '\n', ',', '\t']).len();
        if at >= text.len() || text[at..].starts_with('}') {
            return (paths, at + 1);
        }
        let (inner, length) = expand(&text[at..]);
        paths.extend(inner.into_iter().map(|path| format!("{prefix}{path}")));
        // `x as y` and `*` are skipped up to the next separator.
        at += length;
        at += text[at..].find([',', '}']).unwrap_or(text.len() - at);
    }
}

#[test]
fn use_trees_are_expanded() {
    let source = |text: &str| Source { path: String::new(), text: text.to_owned() };
    let paths = |text: &str| source(text).crate_paths().into_iter().map(|(_, path)| path).collect::<Vec<_>>();
    assert_eq!(paths("use crate::a::B;"), ["a::B"]);
    assert_eq!(paths("use crate::{a::{B, c::{self, D as E}}, f};"), ["a::B", "a::c::self", "a::c::D", "f"]);
    assert_eq!(paths("fn x(y: crate::z::W) -> crate::v::U {}"), ["z::W", "v::U"]);
}

/// The module of the table to which a file belongs.
fn module_of(path: &str) -> String {
    let parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
    match parts.as_slice() {
        ["lib" | "main"] => LIBRARY.to_owned(),
        _ => target_module(&parts.join("::")),
    }
}

/// The longest name of the table that `path` lies in, or its first part.
fn target_module(path: &str) -> String {
    let within = |module: &str| path == module || path.strip_prefix(module).is_some_and(|rest| rest.starts_with("::"));
    let known = MAY_USE.iter().map(|(module, _)| *module).filter(|module| within(module));
    let first = path.split("::").next().unwrap_or(path);
    known.max_by_key(|module| module.len()).unwrap_or(first).to_owned()
}

fn sources() -> Vec<Source> {
    let mut files = Vec::new();
    collect(Path::new(SOURCES), &mut files);
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a source file");
    let texts: BTreeMap<PathBuf, String> = files.into_iter().map(|path| (path.clone(), read(&path))).collect();
    let tests: Vec<PathBuf> = texts.iter().flat_map(|(path, text)| test_modules(path, text)).collect();
    let is_test = |path: &Path| tests.iter().any(|test| path.starts_with(test) || path == test.with_extension("rs"));
    let kept = texts.iter().filter(|(path, _)| !is_test(path));
    kept.map(|(path, text)| Source {
        path: path.strip_prefix(SOURCES).expect("below src").to_string_lossy().into_owned(),
        text: without_tests(text),
    })
    .collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Folders (or files without extension) of the `#[cfg(test)] mod name;` in a file.
fn test_modules(path: &Path, text: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
    let folder = path.parent().expect("a folder");
    let folder = if matches!(stem, "mod" | "lib" | "main") { folder.to_owned() } else { folder.join(stem) };
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let marked = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
    marked.filter_map(|pair| Some(folder.join(pair[1].strip_prefix("mod ")?.strip_suffix(';')?))).collect()
}

/// Blanks comments, and everything from an inline test module on: it stands last in its file.
fn without_tests(text: &str) -> String {
    let mut lines = text.lines().peekable();
    let mut kept = Vec::new();
    while let Some(line) = lines.next() {
        let begins_tests = line.trim() == "#[cfg(test)]"
            && lines.peek().is_some_and(|next| next.trim_start().starts_with("mod ") && next.trim_end().ends_with('{'));
        if begins_tests {
            break;
        }
        kept.push(if line.trim_start().starts_with("//") { "" } else { line });
    }
    kept.join("\n")
}
