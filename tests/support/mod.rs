//! Real runs in folders of their own: a pipeline, a module, the program, and what is left of it afterwards.

#![allow(dead_code, reason = "every test file uses its own part")]

pub mod calls;
pub mod store;

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// A run that takes longer is taken to hang.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// A function that leaves a daemon and other processes behind, and never ends, unless there is a file `calm`.
pub const DETACH: &str = "
import os, subprocess, time
def detach(rows):
    if os.path.exists('calm'):
        return rows
    subprocess.Popen(['setsid', 'sleep', '300'])
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open('daemon', 'w').close()
            time.sleep(300)
        os._exit(0)
    time.sleep(300)
    return rows
";
/// Every process of a scene has this variable with a value of the scene's own.
const MARK: &str = "MILLPOND_TEST_MARK";
/// Folder of a scene for the temporary files of its runs.
const TEMPORARY: &str = "temporary";
/// Time between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(10);

/// Whether the long versions of tests are asked for.
pub fn is_long() -> bool {
    std::env::var_os("MILLPOND_LONG").is_some()
}

/// The `python:` part of a pipeline: the interpreter that `MILLPOND_TEST_PYTHON` names, else an environment that is built once.
pub fn python(requirements: &[&str]) -> String {
    match std::env::var("MILLPOND_TEST_PYTHON") {
        Ok(interpreter) => format!("python: {{ path: [.], interpreter: {interpreter} }}\n"),
        Err(_) => format!("python: {{ path: [.], requirements: [{}] }}\n", requirements.join(", ")),
    }
}

/// A CSV file with these numbers in the column `n`.
pub fn numbers(numbers: impl IntoIterator<Item = impl std::fmt::Display>) -> String {
    format!("n\n{}", numbers.into_iter().map(|n| format!("{n}\n")).collect::<String>())
}

/// A folder with a pipeline.
pub struct Scene {
    folder: tempfile::TempDir,
    mark: String,
}

impl Scene {
    /// `stages` are the stages of the pipeline, without indentation; `module` is what Python imports as `work`.
    pub fn new(stages: &str, module: &str) -> Self {
        Self::with_python(&python(&[]), stages, module)
    }

    pub fn with_python(python: &str, stages: &str, module: &str) -> Self {
        static SCENES: AtomicU32 = AtomicU32::new(0);
        let folder = tempfile::Builder::new().prefix("millpond-scene").tempdir().expect("a temporary folder");
        let mark = format!("{}-{}", std::process::id(), SCENES.fetch_add(1, Ordering::Relaxed));
        let scene = Self { folder, mark };
        let stages: String = stages.lines().map(|line| format!("  {line}\n")).collect();
        scene.write("pipeline.yaml", &format!("version: 1\nname: scene\n{python}stages:\n{stages}"));
        scene.write("work.py", module);
        scene
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("files are in the folder")).expect("a folder in ours");
        fs::write(&path, text).expect("a file in our folder");
        path
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    pub fn exists(&self, name: &str) -> bool {
        self.path(name).exists()
    }

    /// A run of this scene's pipeline.
    pub fn run(&self) -> Run<'_> {
        self.run_of(&self.path("pipeline.yaml"))
    }

    /// A run of a pipeline that lies elsewhere.
    pub fn run_of(&self, pipeline: &Path) -> Run<'_> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command.arg("run").arg(pipeline).arg("--state-dir").arg(self.path("state"));
        fs::create_dir_all(self.path(TEMPORARY)).expect("a folder in ours");
        command.env(MARK, &self.mark).env("TMPDIR", self.path(TEMPORARY)).stdin(Stdio::null());
        Run { scene: self, command, patience: PATIENCE }
    }

    /// The processes of this scene that live.
    pub fn processes(&self) -> Vec<i32> {
        let mark = format!("{MARK}={}", self.mark);
        let is_ours = |pid: &i32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
        };
        all_processes().filter(is_ours).collect()
    }

    pub fn processes_named(&self, name: &str) -> Vec<i32> {
        self.processes().into_iter().filter(|&pid| name_of(pid) == name).collect()
    }

    /// Waits until no process of this scene is left, and returns how long that took.
    pub fn until_gone(&self, within: Duration) -> Duration {
        let started = Instant::now();
        until(&format!("all processes end ({:?})", self.described()), within, || self.processes().is_empty());
        started.elapsed()
    }

    pub fn described(&self) -> Vec<String> {
        self.processes().into_iter().map(|pid| format!("{pid} {}", name_of(pid))).collect()
    }

    /// Asserts that a run has left nothing behind but what it published: no process, no staged, spilled or other temporary file.
    pub fn assert_clean(&self) {
        assert_eq!(self.described(), Vec::<String>::new(), "processes that outlive the run");
        assert_eq!(self.staged(), Vec::<PathBuf>::new(), "files that outlive the run");
        assert_eq!(self.temporary(), Vec::<PathBuf>::new(), "temporary files that outlive the run");
    }

    /// What runs have spilled, or left in the folder for temporary files.
    fn temporary(&self) -> Vec<PathBuf> {
        let paths = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let spilled = paths(self.path("state/runs")).map(|run| run.join("spill")).filter(|path| path.exists());
        spilled.chain(paths(self.path(TEMPORARY))).collect()
    }

    /// Staged outputs: hidden files that are not the state of runs.
    pub fn staged(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut open = vec![self.folder.path().to_owned()];
        while let Some(folder) = open.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let hidden = entry.file_name().to_string_lossy().starts_with('.');
                if entry.path() == self.path("state") {
                    continue;
                } else if entry.path().is_dir() {
                    open.push(entry.path());
                } else if hidden {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// The events of the last run, as far as they are written down.
    pub fn events(&self) -> String {
        let runs = fs::read_dir(self.path("state/runs")).into_iter().flatten().flatten();
        let last = runs.map(|entry| entry.path().join("events.jsonl")).filter(|path| path.exists()).max();
        last.and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default()
    }

    /// `summary.json` of the last run, which is as the schema of summaries says.
    pub fn summary(&self) -> serde_json::Value {
        let runs = fs::read_dir(self.path("state/runs")).expect("there was a run").flatten();
        let last = runs.map(|entry| entry.path()).filter(|path| path.join("summary.json").exists()).max();
        let text = fs::read_to_string(last.expect("a run that ended").join("summary.json")).expect("it is readable");
        let summary = serde_json::from_str(&text).expect("it is JSON");
        let schema = serde_json::from_str(include_str!("../../schema/summary.schema.json")).expect("it is JSON");
        if let Err(error) = jsonschema::validate(&schema, &summary) {
            panic!("{}: {error}", error.instance_path());
        }
        summary
    }
}

/// A run that is being prepared.
pub struct Run<'s> {
    scene: &'s Scene,
    command: Command,
    patience: Duration,
}

/// A run that goes on.
pub struct Going<'s> {
    scene: &'s Scene,
    pub child: Child,
    stdout: Option<JoinHandle<Vec<u8>>>,
    stderr: Option<JoinHandle<Vec<u8>>>,
    patience: Duration,
}

/// A run that has ended.
#[derive(Debug)]
pub struct Ran {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl<'s> Run<'s> {
    pub fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it in a folder.
    pub fn inside(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Starts it from a shell that has run this: `ulimit -n 30`.
    pub fn after(mut self, shell: &str) -> Self {
        let mut command = Command::new("bash");
        command.arg("-c").arg(format!("{shell} && exec \"$0\" \"$@\"")).arg(self.command.get_program());
        command.args(self.command.get_args()).stdin(Stdio::null());
        for (name, value) in self.command.get_envs() {
            command.env(name, value.expect("nothing is taken away"));
        }
        self.command = command;
        self
    }

    pub fn within(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts it; what it prints is read.
    pub fn start(mut self) -> Going<'s> {
        let mut child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        let stdout = child.stdout.take().map(drain);
        let stderr = child.stderr.take().map(drain);
        Going { scene: self.scene, child, stdout, stderr, patience: self.patience }
    }

    /// Starts it; nobody reads what it prints.
    pub fn start_unread(mut self) -> Going<'s> {
        let child = self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
        Going { scene: self.scene, child, stdout: None, stderr: None, patience: self.patience }
    }

    /// Runs it to its end.
    pub fn end(self) -> Ran {
        self.start().end()
    }

    /// Runs it to an end with this exit code.
    pub fn ends_with(self, code: i32) -> Ran {
        let ran = self.end();
        assert_eq!(ran.code(), Some(code), "{}", ran.stderr);
        ran
    }
}

impl Going<'_> {
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pids have 31 bits")
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        kill(self.pid(), signal);
    }

    /// Waits until it has ended; one that does not is killed, and fails the test.
    pub fn end(mut self) -> Ran {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                break status;
            }
            if started.elapsed() > self.patience {
                let left = self.scene.described();
                self.signal(rustix::process::Signal::KILL);
                let _ = self.child.wait();
                let stderr = self.stderr.take().map(text).unwrap_or_default();
                panic!("the run hangs after {:?}; processes: {left:?}\n{stderr}", self.patience);
            }
            thread::sleep(LOOK);
        };
        let stdout = self.stdout.take().map(text).unwrap_or_default();
        let stderr = self.stderr.take().map(text).unwrap_or_default();
        Ran { status, stdout, stderr, took: started.elapsed() }
    }

    /// Waits until it has ended, like [`Going::end`], with its pipes open and unread.
    pub fn end_unread(mut self) -> ExitStatus {
        let pipes = (self.child.stdout.take(), self.child.stderr.take());
        let ran = self.end();
        drop(pipes);
        ran.status
    }

    /// The processes of the run that run Python code, by their names.
    pub fn workers(&self) -> Vec<i32> {
        let is_worker =
            |pid: &i32| name_of(*pid).strip_prefix("millpond-").is_some_and(|rest| rest.parse::<u32>().is_ok());
        self.scene.processes().into_iter().filter(is_worker).collect()
    }
}

impl Ran {
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Asserts that standard error holds all of these texts in this order.
    pub fn says(&self, texts: &[&str]) -> &Self {
        let mut rest = self.stderr.as_str();
        for text in texts {
            let Some(at) = rest.find(text) else {
                panic!("`{text}` is missing, or not in its place:\n{}", self.stderr)
            };
            rest = &rest[at + text.len()..];
        }
        self
    }
}

/// Waits until something is true.
pub fn until(what: &str, within: Duration, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !is_true() {
        assert!(Instant::now() < deadline, "waited {within:?} until {what}");
        thread::sleep(LOOK);
    }
}

pub fn kill(pid: i32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

pub fn parent_of(pid: i32) -> i32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("every process has a parent");
    line.trim().parse().expect("it is a number")
}

/// Bytes of a field of `/proc/PID/status` or `smaps_rollup` that is given in kB.
pub fn proc_bytes(pid: i32, file: &str, field: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

/// Contents of all files of a folder, by name.
pub fn contents(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let read = |entry: fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path()).expect("it is readable"))
    };
    entries.map(|entry| read(entry.expect("it is readable"))).collect()
}

/// Asserts that two folders hold the same files with the same bytes.
pub fn assert_same(ours: &Path, theirs: &Path, when: &str) {
    let (ours, theirs) = (contents(ours), contents(theirs));
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ours), names(&theirs), "{when}");
    for (name, bytes) in &ours {
        assert!(*bytes == theirs[name], "{name} differs {when}: {} and {} bytes", bytes.len(), theirs[name].len());
    }
}

fn all_processes() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The name of a process; empty if it is gone.
fn name_of(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

fn drain(mut pipe: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read until an error is what there is.
        let _ = pipe.read_to_end(&mut bytes);
        bytes
    })
}

fn text(reader: JoinHandle<Vec<u8>>) -> String {
    String::from_utf8_lossy(&reader.join().expect("reading does not panic")).into_owned()
}
