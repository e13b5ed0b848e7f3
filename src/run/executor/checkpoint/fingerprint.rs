//! [`Fingerprint`]: what decides what a stage gives for a batch, component by component, so that it can be said which one has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::code::imported;
use super::digest::Hash;
use crate::format::column_type;
use crate::plan::{Command, CommandLine, Plan, Port, Python, Stage, StageKind, TaskFiles};
use crate::run::executor::glob::{self, GlobError};
use crate::run::publish::is_staged;
use crate::secrets::masked;

/// Changes when what is kept is made in another way.
const FORMAT: &str = concat!("2 ", env!("CARGO_PKG_VERSION"));

/// The component that only a run knows.
const PACKAGES: &str = "packages";

/// Digests by the names of what they are of: `code work.py`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    components: BTreeMap<String, String>,
    /// The files that it is made of, without symbolic links.
    files: BTreeSet<PathBuf>,
    digest: [u8; 32],
    name: String,
}

#[derive(Debug, thiserror::Error)]
pub enum FingerprintError {
    #[error("{} cannot be read, and what comes of the stage depends on it: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Glob(#[from] GlobError),
    #[error("no file matches {}, which `checkpoint` names under `depends`", pattern.display())]
    NoMatch { pattern: PathBuf },
    #[error("no file matches {}, which the command names under `inputs`", pattern.display())]
    NoInput { pattern: PathBuf },
}

impl Fingerprint {
    /// `environment` says which Python there is, and which packages; `None` if that is not known, and then it is not a part of it.
    ///
    /// # Errors
    /// If a file that the stage depends on cannot be read.
    pub fn of(plan: &Plan, stage: &Stage, environment: Option<&str>) -> Result<Self, FingerprintError> {
        let mut made = Making { plan, stage, components: BTreeMap::new(), files: BTreeSet::new() };
        made.value("engine", &FORMAT.into());
        made.value("env", &json!(stage.env));
        made.value("cwd", &plan.shown(&stage.cwd).into());
        match &stage.kind {
            StageKind::Python(python) => made.python(python, environment)?,
            StageKind::Command(command) => made.command(command)?,
            StageKind::Read(_) | StageKind::Write(_) | StageKind::Sql(_) | StageKind::Expect(_) => {
                unreachable!("they keep no batches")
            }
        }
        for pattern in stage.checkpoint.iter().flat_map(|checkpoint| &checkpoint.depends) {
            made.depends(pattern)?;
        }
        Ok(Self::new(made.components, made.files))
    }

    fn new(components: BTreeMap<String, String>, files: BTreeSet<PathBuf>) -> Self {
        let named = components.iter().filter(|(name, _)| *name != PACKAGES);
        let name = blake3::Hash::from_bytes(digest(named)).to_hex()[..16].to_owned();
        Self { digest: digest(&components), name, components, files }
    }

    /// The digest of all.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether it is made of this file, too.
    pub fn has_file(&self, path: &Path) -> bool {
        path.canonicalize().is_ok_and(|path| self.files.contains(&path))
    }

    /// What those records are known by, in a file or to people, that were made by what this is the fingerprint of. Which packages there are
    /// is no part of it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn to_json(&self) -> Value {
        json!(self.components)
    }

    /// The components that are not as they were.
    pub fn changed_since(&self, before: &Value) -> Vec<String> {
        let Some(before) = before.as_object() else { return Vec::new() };
        let other = |(name, value): &(&String, &String)| before.get(*name).and_then(Value::as_str) != Some(value);
        let changed = self.components.iter().filter(other).map(|(name, _)| name.clone());
        let is_gone = |name: &&String| *name != PACKAGES && !self.components.contains_key(*name);
        let gone = before.keys().filter(is_gone).cloned();
        let mut names: Vec<String> = changed.chain(gone).collect();
        names.sort();
        names
    }
}

fn digest<'c>(components: impl IntoIterator<Item = (&'c String, &'c String)>) -> [u8; 32] {
    let mut hash = Hash::new();
    for (name, value) in components {
        hash.add(name.as_bytes());
        hash.add(value.as_bytes());
    }
    hash.finish()
}

struct Making<'p> {
    plan: &'p Plan,
    stage: &'p Stage,
    components: BTreeMap<String, String>,
    files: BTreeSet<PathBuf>,
}

impl Making<'_> {
    fn value(&mut self, name: &str, value: &Value) {
        // Another secret gives the same rows, and what is kept must not tell it.
        self.bytes(name.to_owned(), masked(&value.to_string()).as_bytes());
    }

    fn bytes(&mut self, name: String, bytes: &[u8]) {
        self.components.insert(name, blake3::hash(bytes).to_hex().to_string());
    }

    fn python(&mut self, python: &Python, environment: Option<&str>) -> Result<(), FingerprintError> {
        let plan = self.plan;
        // Random numbers, and `millpond.batch_id`, are made of the stage's name.
        self.value("name", &self.stage.name.as_str().into());
        self.value("seed", &plan.seed.into());
        if let Some(environment) = environment {
            self.value(PACKAGES, &environment.into());
        }
        let call = format!("{}:{}", python.call.module, python.call.name);
        self.value("call", &json!([call, format!("{:?}", python.convention)]));
        self.value("with", &json!(python.with));
        let mut returns = python.returns.clone();
        self.columns(&returns.remove(Port::MAIN).unwrap_or_default());
        if python.has_ports {
            let ports: Vec<&str> = self.stage.ports.iter().map(|port| port.name.as_str()).collect();
            self.value("ports", &json!(ports));
            for (port, columns) in &returns {
                self.value(&format!("returns {port}"), &typed(columns));
            }
        }
        let files = imported(&plan.python.path, &python.call.module);
        let files = files.map_err(|(path, source)| FingerprintError::File { path, source })?;
        for (path, content) in &files {
            self.bytes(format!("code {}", self.plan.shown(path)), content);
            self.files.extend(path.canonicalize());
            // It may look at any of them.
            if contains(content, b"params") {
                plan.params_of(self.stage).iter().for_each(|(name, value)| self.value(&format!("param {name}"), value));
            }
        }
        python.with.values().try_for_each(|value| self.files_named_in(value))
    }

    fn command(&mut self, command: &Command) -> Result<(), FingerprintError> {
        command.files.as_ref().map_or(Ok(()), |files| self.task(files))?;
        let formats = [command.input, command.output].map(|format| format.map(crate::format::Format::word));
        self.value("command", &json!([format!("{:?}", command.mode), formats, format!("{:?}", command.line)]));
        self.columns(&command.returns);
        match &command.line {
            CommandLine::Argv(argv) => argv.iter().try_for_each(|argument| self.file_named(argument)),
            CommandLine::Row(templates) => templates.iter().try_for_each(|template| self.file_named(&template.source)),
            CommandLine::Shell(script) => {
                // A script has all of them in its environment, and so has what it runs.
                self.plan
                    .params_of(self.stage)
                    .iter()
                    .for_each(|(name, value)| self.value(&format!("param {name}"), value));
                let words = script.split(|c: char| c.is_whitespace() || "'\"();|&<>".contains(c));
                words.filter(|word| !word.is_empty()).try_for_each(|word| self.file_named(word))
            }
        }
    }

    /// Which outputs a task is to make, and what it makes them of.
    fn task(&mut self, files: &TaskFiles) -> Result<(), FingerprintError> {
        let shown = |output: &crate::plan::TaskOutput| json!([output.name, self.plan.shown(&output.path)]);
        let outputs = files.outputs.iter().map(shown).collect();
        self.value("outputs", &Value::Array(outputs));
        for pattern in &files.inputs {
            let paths = matches(pattern)?;
            if paths.is_empty() {
                return Err(FingerprintError::NoInput { pattern: pattern.clone() });
            }
            for path in paths {
                let within = files_within(&path);
                let within = within.map_err(|source| FingerprintError::File { path: path.clone(), source })?;
                within.iter().try_for_each(|path| self.file(path))?;
            }
        }
        Ok(())
    }

    /// Whether a task makes this file.
    fn is_made(&self, path: &Path) -> bool {
        self.stage
            .task_files()
            .into_iter()
            .flat_map(|files| &files.outputs)
            .any(|output| path.starts_with(&output.path))
    }

    fn columns(&mut self, columns: &[(String, crate::plan::ColumnType)]) {
        self.value("returns", &typed(columns));
    }

    fn files_named_in(&mut self, value: &Value) -> Result<(), FingerprintError> {
        match value {
            Value::String(text) => self.file_named(text),
            Value::Array(items) => items.iter().try_for_each(|item| self.files_named_in(item)),
            Value::Object(entries) => entries.values().try_for_each(|value| self.files_named_in(value)),
            _ => Ok(()),
        }
    }

    /// What is given to a stage and names a file that exists is taken to be read by it.
    fn file_named(&mut self, text: &str) -> Result<(), FingerprintError> {
        let path = self.stage.cwd.join(text);
        if text.is_empty() || text.contains('\0') || !path.is_file() || self.is_made(&path) {
            return Ok(());
        }
        self.file(&path)
    }

    fn depends(&mut self, pattern: &Path) -> Result<(), FingerprintError> {
        let files: Vec<PathBuf> = matches(pattern)?.into_iter().filter(|path| path.is_file()).collect();
        if files.is_empty() {
            return Err(FingerprintError::NoMatch { pattern: pattern.to_owned() });
        }
        files.iter().try_for_each(|path| self.file(path))
    }

    fn file(&mut self, path: &Path) -> Result<(), FingerprintError> {
        let hash = file_digest(path).map_err(|source| FingerprintError::File { path: path.to_owned(), source })?;
        self.components.insert(format!("file {}", self.plan.shown(path)), hash);
        self.files.extend(path.canonicalize());
        Ok(())
    }
}

/// The paths that a glob pattern, or a path, stands for.
fn matches(pattern: &Path) -> Result<Vec<PathBuf>, GlobError> {
    match pattern.symlink_metadata() {
        Ok(_) => Ok(vec![pattern.to_owned()]),
        Err(_) => glob::matching(pattern),
    }
}

/// All files of a folder, in the order of their paths; of a file, itself. What runs of millpond have there of their own is left out.
///
/// # Errors
/// If something cannot be looked at, or is neither a file nor a folder: nobody can say what is in a pipe.
pub(super) fn files_within(path: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    add_files(path, &mut BTreeSet::new(), &mut files)?;
    Ok(files)
}

/// `around` are the folders on the way, without symbolic links, of which one may lead back to where it is.
fn add_files(path: &Path, around: &mut BTreeSet<PathBuf>, files: &mut Vec<PathBuf>) -> io::Result<()> {
    let at = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let metadata = path.metadata().map_err(at)?;
    if metadata.is_file() {
        files.push(path.to_owned());
        return Ok(());
    }
    if !metadata.is_dir() {
        return Err(io::Error::other(format!("{} is neither a file nor a folder", path.display())));
    }
    let folder = path.canonicalize().map_err(at)?;
    if !around.insert(folder.clone()) {
        return Ok(());
    }
    let mut entries: Vec<PathBuf> =
        path.read_dir().map_err(at)?.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
    entries.sort();
    for entry in entries.iter().filter(|entry| !is_of_runs(entry)) {
        add_files(entry, around, files)?;
    }
    around.remove(&folder);
    Ok(())
}

/// Whether it is a state folder in its usual place, or an output that is being made.
fn is_of_runs(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name == ".millpond" || is_staged(name))
}

pub(super) fn file_digest(path: &Path) -> io::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}

fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn typed(columns: &[(String, crate::plan::ColumnType)]) -> Value {
    columns.iter().map(|(name, data_type)| json!([name, column_type::word(data_type)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made_of(components: &[(&str, &str)]) -> Fingerprint {
        let components: BTreeMap<String, String> =
            components.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Fingerprint::new(components, BTreeSet::new())
    }

    #[test]
    fn every_component_counts_and_is_told_of() {
        let before = made_of(&[("engine", "1"), ("code work.py", "a"), (PACKAGES, "p")]);
        let others = [
            (made_of(&[("engine", "2"), ("code work.py", "a"), (PACKAGES, "p")]), vec!["engine"]),
            (made_of(&[("engine", "1"), ("code work.py", "b"), (PACKAGES, "p")]), vec!["code work.py"]),
            (
                made_of(&[("engine", "1"), ("code other.py", "a"), (PACKAGES, "p")]),
                vec!["code other.py", "code work.py"],
            ),
            (made_of(&[("engine", "1"), ("code work.py", "a"), (PACKAGES, "q")]), vec![PACKAGES]),
        ];
        for (now, changed) in others {
            assert_eq!(now.changed_since(&before.to_json()), changed);
            assert_ne!(now.digest(), before.digest());
            // Packages are known to runs only.
            assert_eq!(now.name() == before.name(), changed == [PACKAGES]);
        }
        let same = made_of(&[("engine", "1"), ("code work.py", "a"), (PACKAGES, "p")]);
        assert_eq!((same.digest(), same.changed_since(&before.to_json())), (before.digest(), Vec::new()));
    }
}
