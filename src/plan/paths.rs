//! [`paths`]: who writes and who reads which files, as far as the pipeline's file tells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use super::location::Location;
use super::resolve::absolute;
use super::stage::{Command, Folder, StageKind, Write, WriteTarget};
use crate::diagnostic::{Code, Diagnostic};
use crate::spec::{Document, StageDraft};

/// A file or folder that the run writes.
struct Written<'a> {
    by: &'a StageDraft,
    /// The place of the stage in the file.
    at: usize,
    keys: &'static [&'static str],
    /// Whether a task writes it, or else a sink.
    by_task: bool,
    /// Whether it may be a folder.
    is_folder: bool,
}

/// No path is written by two, and what the run writes is read only after it is there. `kinds` has an entry per stage; `waits` are the pairs
/// of stages of which the second waits for the first, for rows or for its end.
pub fn paths(document: &Document, kinds: &[Option<&StageKind>], waits: &[(usize, usize)]) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    let mut written: BTreeMap<PathBuf, Written<'_>> = BTreeMap::new();
    for (at, (draft, kind)) in document.stages.iter().zip(kinds).enumerate() {
        let sink: &'static [&'static str] = &["write", "path"];
        let (paths, keys, by_task, is_folder): (Vec<PathBuf>, _, _, _) = match kind {
            Some(StageKind::Write(Write { target: WriteTarget::File(path), .. })) => {
                (vec![plain(&path.as_path())], sink, false, false)
            }
            Some(StageKind::Write(Write { target: WriteTarget::Folder(Folder { path, .. }), .. })) => {
                (vec![plain(&path.as_path())], sink, false, true)
            }
            Some(StageKind::Write(Write { target: WriteTarget::Stdout, .. })) => {
                (vec![PathBuf::from("-")], sink, false, false)
            }
            Some(StageKind::Command(Command { files: Some(files), .. })) => {
                (files.outputs.iter().map(|output| plain(&output.path)).collect(), &["command", "outputs"], true, true)
            }
            _ => continue,
        };
        for path in paths {
            if is_folder && let Some(folder) = needed_folder(document, draft, &path) {
                let message = format!("the output `{}` is {folder}, or a folder around it", path.display());
                let problem = Diagnostic::new(Code::PlanSamePath, draft.span(keys), message)
                    .help("make a folder of its own for the output: what is in its place is replaced".to_owned());
                problems.push(problem.through(draft.find(keys).and_then(|node| node.alias)));
                continue;
            }
            if let Some((other, first)) = overlapping(&path, &written) {
                let message = match (first.by.name == draft.name, *other == path) {
                    (true, true) => format!("`{}` writes to the same path twice", draft.name),
                    (false, true) => format!("`{}` and `{}` write to the same path", first.by.name, draft.name),
                    (true, false) => format!("an output of `{}` is in the folder of another", draft.name),
                    (false, false) => {
                        format!("what `{}` and `{}` write is in one folder of theirs", first.by.name, draft.name)
                    }
                };
                let problem = Diagnostic::new(Code::PlanSamePath, draft.span(keys), message);
                let alias = draft.find(keys).and_then(|node| node.alias);
                problems.push(problem.related(first.by.span(first.keys), "the other one").through(alias));
                continue;
            }
            written.insert(path, Written { by: draft, at, keys, by_task, is_folder });
        }
    }
    let mut before = vec![Vec::new(); document.stages.len()];
    waits.iter().for_each(|(first, then)| before[*then].push(*first));
    for (at, (draft, kind)) in document.stages.iter().zip(kinds).enumerate() {
        let (paths, keys): (Vec<PathBuf>, &[&str]) = match kind {
            Some(StageKind::Read(read)) => (read.paths.iter().map(Location::as_path).collect(), &["read", "path"]),
            Some(StageKind::Command(Command { files: Some(files), .. })) => {
                (files.inputs.clone(), &["command", "inputs"])
            }
            _ => continue,
        };
        let wrong = paths.iter().find_map(|path| {
            let found = read_of(&plain(path), &written);
            found.into_iter().find(|writer| writer.at == at || !waits_for(at, writer.at, &before))
        });
        let Some(writer) = wrong else { continue };
        let message = match writer.at == at {
            true => format!("`{}` reads what it writes itself", draft.name),
            false => {
                let what = if writer.is_folder && !writer.by_task { "folder" } else { "file" };
                format!("`{}` reads the {what} that `{}` writes", draft.name, writer.by.name)
            }
        };
        let name = writer.by.written_name();
        let help = match (writer.at == at, writer.by_task) {
            (true, _) => "name the inputs so that the outputs are not among them".to_owned(),
            (false, true) => format!("add `after: {name}`, so that it is there"),
            (false, false) => format!(
                "use `from` to take the rows of the stage in front of `{name}`, or add `after: {name}`, so that it is there"
            ),
        };
        problems.push(
            Diagnostic::new(Code::PlanReadsOwnOutput, draft.span(keys), message)
                .related(writer.by.span(writer.keys), "written here")
                .help(help)
                .through(draft.find(keys).and_then(|node| node.alias)),
        );
    }
    problems
}

/// What a run cannot do without in or below a path.
fn needed_folder(document: &Document, draft: &StageDraft, path: &Path) -> Option<&'static str> {
    let is_around = |other: &str| plain(&absolute(&document.folder, other)).starts_with(path);
    let mut modules = document.python.path.iter();
    if plain(&document.folder).starts_with(path) {
        Some("the folder of the pipeline")
    } else if draft.spec.cwd.as_deref().is_some_and(is_around) {
        Some("the working folder of the command")
    } else if modules.any(|folder| is_around(folder)) {
        Some("a folder of Python modules")
    } else {
        None
    }
}

/// What is written at the path, in a folder that it stands for, or as a folder around it.
fn overlapping<'w, 'a>(
    path: &Path,
    written: &'w BTreeMap<PathBuf, Written<'a>>,
) -> Option<(&'w PathBuf, &'w Written<'a>)> {
    // What is in a folder is next to it in the order of paths.
    let below = written.range(path.to_owned()..).next().filter(|(other, _)| other.starts_with(path));
    below.or_else(|| path.ancestors().find_map(|folder| written.get_key_value(folder)))
}

/// Whether a stage begins only when `first` has ended, directly or by way of others. `before` has the stages that each waits for.
fn waits_for(stage: usize, first: usize, before: &[Vec<usize>]) -> bool {
    let mut open = vec![stage];
    let mut seen = BTreeSet::from([stage]);
    while let Some(stage) = open.pop() {
        for &from in &before[stage] {
            if from == first {
                return true;
            }
            if seen.insert(from) {
                open.push(from);
            }
        }
    }
    false
}

/// What of all that is written is read with `path`.
fn read_of<'w, 'a>(path: &Path, written: &'w BTreeMap<PathBuf, Written<'a>>) -> Vec<&'w Written<'a>> {
    // A folder stands for the files in it, which are next to it in the order of paths.
    let below = written.range(path.to_owned()..).take_while(|(other, _)| other.starts_with(path));
    let mut found: Vec<_> = below.map(|(_, writer)| writer).collect();
    // And of a folder that is written, all may be read.
    let above = path.ancestors().skip(1).filter_map(|folder| written.get(folder));
    found.extend(above.filter(|writer| writer.is_folder));
    let text = path.to_string_lossy();
    if text.contains(['*', '?', '['])
        && let Ok(pattern) = glob::Pattern::new(&text)
    {
        // As the files are found when they are read: hidden ones have to be asked for.
        let options = glob::MatchOptions {
            require_literal_separator: true,
            require_literal_leading_dot: true,
            ..glob::MatchOptions::new()
        };
        let is_read = |other: &Path| pattern.matches_path_with(other, options) || may_be_within(path, other, options);
        found.extend(written.iter().filter(|(other, _)| is_read(other)).map(|(_, writer)| writer));
    }
    found
}

/// Whether a pattern may match something in a folder.
fn may_be_within(pattern: &Path, folder: &Path, options: glob::MatchOptions) -> bool {
    let depth = folder.components().count();
    let deep = pattern.components().position(|part| part.as_os_str() == "**").unwrap_or(usize::MAX);
    let first: PathBuf = pattern.components().take(depth.min(deep)).collect();
    let around: PathBuf = folder.components().take(depth.min(deep)).collect();
    (deep < depth || pattern.components().count() > depth)
        && glob::Pattern::new(&first.to_string_lossy()).is_ok_and(|first| first.matches_path_with(&around, options))
}

/// The path without `..`, for comparing: a check of the file alone does not ask the file system for links.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => {
                plain.pop();
            }
            component => plain.push(component),
        }
    }
    plain
}
