//! `millpond run --watch`: a run whenever what it is made of has changed.
//!
//! Each run is a process of its own, so that nothing of one is left for the next, and a run that dies ends nothing. Files are looked at again
//! and again: that finds changes on network file systems and in containers, too, where notices of the system do not come.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::args::RunArgs;
use super::exit_code::Exit;
use super::{load, output};
use crate::diagnostic::SourceText;
use crate::environment::LockFile;
use crate::plan::{self, Location, Plan, StageKind};
use crate::report::{counted, some};
use crate::run::Signals;
use crate::run::executor::{matching_files, stage::read};
use crate::spec::tree::Value;
use crate::spec::{self, Completeness, yaml};

/// Time between two looks at the files. What goes on changing is run when it has been still for as long.
const LOOK: Duration = Duration::from_millis(300);
/// Files of a folder that are looked at.
const MOST_FILES: usize = 10_000;
/// Files with these extensions are code: they are looked at where the pipeline file names them.
const CODE: [&str; 13] = ["awk", "bash", "jq", "js", "pl", "py", "r", "rb", "sed", "sh", "sql", "yaml", "yml"];

/// What tells whether a file is as it was; `None` if it is not there.
type Stamp = Option<(u64, u64, i64, i64)>;
type Stamps = BTreeMap<PathBuf, Stamp>;

pub fn watch(args: &RunArgs) -> Exit {
    let signals = match Signals::watch(None) {
        Ok(signals) => signals,
        Err(error) => return output::failed(&format!("signals cannot be watched: {error}")),
    };
    let mut watched = Watched::default();
    loop {
        // What changes while the run goes on counts.
        watched = watched.look_up(args);
        let stamps = watched.stamps();
        let ended = start().and_then(|child| wait(child, &signals));
        if let Err(error) = ended {
            return output::failed(&format!("the run cannot be started: {error}"));
        }
        if signals.last() != 0 {
            return Exit::of_signal(&signals);
        }
        output::eprint(&format!("watching {}; Ctrl-C ends\n", counted(stamps.len() as u64, "file")));
        match changes(&watched, &stamps, &signals) {
            Some(changed) => output::eprint(&format!("changed: {}\n", some(&changed))),
            None => return Exit::of_signal(&signals),
        }
    }
}

/// A run like this one that does not watch. It is told of signals by this process alone, not by the terminal.
fn start() -> std::io::Result<Child> {
    let arguments = std::env::args_os().skip(1).filter(|argument| argument != "--watch");
    Command::new(std::env::current_exe()?).args(arguments).stdin(Stdio::null()).process_group(0).spawn()
}

fn wait(mut child: Child, signals: &Signals) -> std::io::Result<()> {
    loop {
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        let came = signals.wait(LOOK / 3)?;
        let signal = i32::try_from(signals.last()).ok().and_then(Signal::from_named_raw);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let (Some(signal), Some(pid)) = (signal, pid) {
            for _ in 0..came {
                // It may have ended by itself.
                let _: Result<(), rustix::io::Errno> = kill_process(pid, signal);
            }
        }
    }
}

/// Waits for changes, and for their end. Gives what has changed; `None` if a signal has come.
fn changes(watched: &Watched, before: &Stamps, signals: &Signals) -> Option<Vec<String>> {
    let mut last = before.clone();
    loop {
        if signals.last() != 0 {
            return None;
        }
        let now = watched.stamps();
        if now == last && now != *before {
            let all: BTreeSet<&PathBuf> = now.keys().chain(before.keys()).collect();
            let differ = all.into_iter().filter(|path| now.get(*path) != before.get(*path));
            return Some(differ.map(|path| shown(path)).collect());
        }
        last = now;
        if signals.wait(LOOK).is_err() {
            return None;
        }
    }
}

fn shown(path: &Path) -> String {
    let current = std::env::current_dir().unwrap_or_default();
    path.strip_prefix(current).unwrap_or(path).display().to_string()
}

/// What a run is made of.
#[derive(Default)]
struct Watched {
    /// The pipeline file and others that are known by their names.
    named: BTreeSet<PathBuf>,
    /// The last plan that there was: a file that is wrong says nothing of others.
    plan: Option<Plan>,
}

impl Watched {
    fn look_up(self, args: &RunArgs) -> Self {
        let file = std::path::absolute(&args.file).unwrap_or_else(|_| args.file.clone());
        let given = [args.params.params_file.as_ref(), args.params.secrets_file.as_ref()];
        let mut named: BTreeSet<PathBuf> = given.into_iter().flatten().cloned().chain([file]).collect();
        let Ok(source) = SourceText::read(&args.file).map(Arc::new) else { return Self { named, ..self } };
        named.extend(named_code(&source));
        let plan = compiled(args, &source).or(self.plan);
        named.extend(source.included().map(|file| file.path().to_owned()));
        Self { named, plan }
    }

    /// All files that are there now: patterns may match others than before.
    fn files(&self) -> BTreeSet<PathBuf> {
        let mut files = self.named.clone();
        if let Some(plan) = &self.plan {
            add_files_of(plan, &mut files);
        }
        files
    }

    fn stamps(&self) -> Stamps {
        let stamp = |it: &Metadata| (it.ino(), it.size(), it.mtime(), it.mtime_nsec());
        let stamped = |path: PathBuf| {
            let it = path.metadata().ok().as_ref().map(stamp);
            (path, it)
        };
        self.files().into_iter().map(stamped).collect()
    }
}

/// Files with code that the pipeline file names.
fn named_code(source: &Arc<SourceText>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let (Some(root), _) = yaml::parse(source) else { return found };
    root.walk(&mut |_, node| {
        if let Value::String(text) = &node.value {
            let words = text.text.split_whitespace().map(|word| word.trim_matches(['"', '\'']));
            let paths = words.map(|word| source.folder().join(word));
            found.extend(paths.filter(|path| is_code(path, &CODE) && path.is_file()));
        }
    });
    found
}

fn is_code(path: &Path, extensions: &[&str]) -> bool {
    path.extension().and_then(OsStr::to_str).is_some_and(|one| extensions.contains(&one.to_ascii_lowercase().as_str()))
}

/// The plan, if there is one. What is wrong is told by the run.
fn compiled(args: &RunArgs, source: &Arc<SourceText>) -> Option<Plan> {
    let given = load::given(&args.params, Completeness::Full).ok()?;
    let document = spec::parse(source, &given);
    crate::secrets::hide(document.secrets.keys());
    // Nobody asks for columns.
    let settings = plan::Settings { columns: |_, _| None, ..load::settings(&args.workers) };
    plan::compile(&document, &settings).ok().map(|compiled| compiled.plan)
}

/// What is read; but not what the run itself makes, or may make before it is read.
fn add_files_of(plan: &Plan, files: &mut BTreeSet<PathBuf>) {
    files.extend(plan.python.requirement_files.iter().cloned());
    files.extend(Some(LockFile::of(&plan.file).path).filter(|path| path.exists()));
    if plan.needs_python() {
        plan.python.path.iter().for_each(|folder| add_modules(folder, files));
    }
    let mut made = BTreeSet::new();
    for stage in &plan.stages {
        match &stage.kind {
            StageKind::Read(read) if stage.after.is_empty() => files.extend(read::files(read)),
            StageKind::Write(write) => {
                made.extend(write.published().and_then(Location::local).map(Path::to_owned));
            }
            _ => {}
        }
        if let Some(task) = stage.task_files() {
            if stage.after.is_empty() {
                files.extend(task.inputs.iter().flat_map(|input| matching_files(input).unwrap_or_default()));
            }
            made.extend(task.outputs.iter().map(|output| output.path.clone()));
        }
    }
    files.retain(|path| !made.iter().any(|made| path.starts_with(made)));
}

/// The modules of Python in a folder and below; environments and hidden folders are not looked into.
fn add_modules(folder: &Path, files: &mut BTreeSet<PathBuf>) {
    let mut open = vec![folder.to_owned()];
    let mut room = MOST_FILES;
    while let Some(folder) = open.pop() {
        // What is gone, or cannot be read, has no modules.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            if name.as_encoded_bytes().starts_with(b".") || name == "__pycache__" || name == "node_modules" {
                continue;
            }
            let Some(left) = room.checked_sub(1) else { return };
            room = left;
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && !path.join("pyvenv.cfg").exists() => open.push(path),
                Ok(kind) if kind.is_file() && is_code(&path, &["py"]) => drop(files.insert(path)),
                _ => {}
            }
        }
    }
}
