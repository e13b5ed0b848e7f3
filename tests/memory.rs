//! No pipeline of this repository takes more memory than `plan` says, and none takes less than a quarter of it. Each is run in a control
//! group of its own, where all of its processes are counted: what they allocate and share, not the pages of files that the kernel
//! keeps as long as nobody needs them.
//!
//! The benchmarks are measured too if `MILLPOND_BENCH_DATA` names a folder with their inputs.

#[allow(dead_code)]
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytesize::ByteSize;
use program::{errors, repository};

/// Time between two looks at the memory of a run.
const LOOK: Duration = Duration::from_millis(5);
/// How much larger than its peak the bound of a run may be.
const SLACK: f64 = 4.0;

/// A pipeline and the values of its params.
struct Case {
    file: PathBuf,
    set: Vec<String>,
    /// `--memory`.
    limit: Option<&'static str>,
}

#[test]
fn every_pipeline_stays_under_its_bound_and_near_it() {
    let mut wrong = Vec::new();
    for case in cases() {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let group = match Group::new() {
            Ok(group) => group,
            Err(reason) => {
                println!("skipped: no control group can be made: {reason}");
                return;
            }
        };
        let bound = case.bound(scratch.path());
        let (status, peak) = group.run(&case, scratch.path());
        let name = case.file.strip_prefix(repository()).expect("it is ours").display();
        assert!(status.success() && peak > 0, "{name}: {status}, peak {peak}");
        let ratio = bound as f64 / peak as f64;
        println!("| `{name}` | {} | {} | {ratio:.1} |", ByteSize::b(bound), ByteSize::b(peak));
        if !(1.0..=SLACK).contains(&ratio) {
            wrong.push(format!("{name}: peak {}, bound {}", ByteSize::b(peak), ByteSize::b(bound)));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Short values are more in memory than as text, and every column of a Parquet file takes something.
#[test]
fn tables_of_many_columns_stay_under_their_bound() {
    const COLUMNS: usize = 2000;
    for (format, sink) in [("csv", "out.jsonl"), ("csv", "out.parquet"), ("jsonl", "out.csv"), ("parquet", "out.csv")] {
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let file = scratch.path().join("pipeline.yaml");
        let write = |read: &str, sink: &str| {
            let text = format!(
                "version: 1\nname: wide\nstages:\n  a: {{ read: {read} }}\n  b: {{ from: a, write: {sink} }}\n"
            );
            fs::write(&file, text).expect("ours");
        };
        let names: Vec<String> = (0..COLUMNS).map(|at| format!("c{at}")).collect();
        let row = |row: usize| (0..COLUMNS).map(|at| ((row * 7 + at) % 100).to_string()).collect::<Vec<_>>().join(",");
        let rows: String = (0..4000).map(|at| row(at) + "\n").collect();
        fs::write(scratch.path().join("in.csv"), format!("{}\n{rows}", names.join(","))).expect("ours");
        if format != "csv" {
            write("in.csv", &format!("in.{format}"));
            program::run(&file, &scratch.path().join("state"), &[]);
        }
        write(&format!("in.{format}"), sink);
        let group = match Group::new() {
            Ok(group) => group,
            Err(reason) => return println!("skipped: no control group can be made: {reason}"),
        };
        let case = Case::of(file);
        let bound = case.bound(scratch.path());
        let (status, peak) = group.run(&case, scratch.path());
        println!("{format} to {sink}: peak {}, bound {}", ByteSize::b(peak), ByteSize::b(bound));
        assert!(status.success() && peak > 0, "{format} to {sink}: {status}");
        assert!(peak <= bound, "{format} to {sink}: peak {}, bound {}", ByteSize::b(peak), ByteSize::b(bound));
    }
}

#[test]
fn a_run_keeps_to_the_memory_that_it_is_given() {
    let [free, limited] = [None, Some("350MiB")].map(|limit| {
        let file = repository().join("pipelines/flights/flights.yaml");
        let case = Case { limit, ..Case::of(file) };
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let bound = case.bound(scratch.path());
        let peak = match Group::new() {
            Ok(group) => {
                let (status, peak) = group.run(&case, scratch.path());
                assert!(status.success(), "{limit:?}: {status}");
                peak
            }
            Err(reason) => {
                println!("peaks are not compared: no control group can be made: {reason}");
                0
            }
        };
        println!("{limit:?}: bound {}, peak {}", ByteSize::b(bound), ByteSize::b(peak));
        let written = program::files(&scratch.path().join("out"))
            .iter()
            .map(|file| fs::read(file).expect("readable"))
            .collect::<Vec<_>>();
        assert!(!written.is_empty());
        (bound, peak, written)
    });
    assert!(free.0 > 350 << 20, "it does not need the limit");
    assert!(limited.0 <= 350 << 20 && limited.1 <= 350 << 20);
    assert!(free.2 == limited.2, "what comes out depends on the limit");
}

#[test]
fn the_limit_of_a_control_group_is_kept_to_as_far_as_may_be() {
    let group = match Group::new() {
        Ok(group) => group,
        Err(reason) => return println!("the limit is not tried: no control group can be made: {reason}"),
    };
    let file = repository().join("pipelines/flights/flights.yaml");
    let plan = |limit: u64, arguments: &[&str]| {
        group.limit(limit);
        let output = group.command().arg("plan").arg(&file).args(arguments).output().expect("a shell starts");
        assert!(output.status.success(), "{}", errors(&output));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let bound = text.lines().find_map(|line| line.strip_prefix("memory: at most ")?.parse::<ByteSize>().ok());
        (bound.expect("a bound is printed").as_u64(), errors(&output))
    };
    let (free, warnings) = plan(8 << 30, &[]);
    assert!(free > 350 << 20 && warnings.is_empty(), "{free}, {warnings}");
    let (limited, warnings) = plan(350 << 20, &[]);
    assert!(limited <= 350 << 20 && warnings.is_empty(), "{limited}, {warnings}");
    let (_, warnings) = plan(100 << 20, &[]);
    assert!(warnings.starts_with("warning: the run may take") && warnings.contains("100.0 MiB"), "{warnings}");
    let (asked_for, warnings) = plan(350 << 20, &["--memory", "400MiB"]);
    assert!(asked_for > 350 << 20 && asked_for <= 400 << 20 && warnings.is_empty(), "{asked_for}, {warnings}");
}

#[test]
fn a_run_that_cannot_keep_to_its_memory_does_not_begin() {
    let file = repository().join("pipelines/flights/flights.yaml");
    let output = Command::new(env!("CARGO_BIN_EXE_millpond")).args(["run", "--memory", "50MiB"]).arg(file).output();
    let output = output.expect("the program starts");
    let text = errors(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("more than --memory 50.0 MiB") && text.contains("workers"), "{text}");
}

#[test]
fn workers_keep_as_many_free_segments_as_the_bound_says() {
    let text = fs::read_to_string(repository().join("python/millpond/outputs.py")).expect("it is readable");
    let says = format!("MAX_FREE_BYTES = {} << 20", millpond::plan::memory::FREE_SEGMENTS >> 20);
    assert!(text.contains(&says), "no `{says}`");
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for folder in ["pipelines/flights", "tests/stress"] {
        cases.extend(yaml_files(&repository().join(folder)).into_iter().map(Case::of));
    }
    for example in repository().join("examples").read_dir().expect("a folder") {
        let example = example.expect("an entry").path();
        cases.extend(yaml_files(&example).into_iter().map(Case::of));
    }
    if let Some(data) = std::env::var_os("MILLPOND_BENCH_DATA") {
        cases.extend(benchmarks(Path::new(&data)));
    }
    cases.sort_by(|one, other| one.file.cmp(&other.file));
    assert!(cases.len() > 8);
    cases
}

fn yaml_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = folder.read_dir() else { return Vec::new() };
    let files = entries.map(|entry| entry.expect("an entry").path());
    // Neither tests of pipelines nor those that are only parts of others.
    let is_run = |file: &PathBuf| {
        let name = file.to_string_lossy();
        let text = || fs::read_to_string(file).expect("it is readable");
        name.ends_with(".yaml") && !name.ends_with(".test.yaml") && !text().contains("\ninputs:")
    };
    files.filter(is_run).collect()
}

fn benchmarks(data: &Path) -> Vec<Case> {
    let inputs = [
        ("w1", "w1/in.parquet"),
        ("w2", "w2/in.jsonl"),
        ("w4", "w4/in.csv"),
        ("w5", "w5/in.txt"),
        ("w5jq", "w5/in.jsonl"),
        ("w6", "w6/tasks"),
    ];
    let file = |name: &str| repository().join("benches").join(name).with_extension("yaml");
    let with_input = inputs
        .iter()
        .map(|(name, input)| Case { set: vec![format!("in={}", data.join(input).display())], ..Case::of(file(name)) });
    with_input.chain(["w3", "w6dag"].map(|name| Case::of(file(name)))).collect()
}

impl Case {
    fn of(file: PathBuf) -> Self {
        // Its 600 batches take as much memory as 60.
        let set = if file.ends_with("kill.yaml") { vec!["batches=60".to_owned()] } else { Vec::new() };
        Self { file, set, limit: None }
    }

    fn arguments(&self, scratch: &Path) -> Vec<String> {
        let text = fs::read_to_string(&self.file).expect("it is readable");
        let out = text.contains("params.out").then(|| format!("out={}", scratch.join("out").display()));
        let set = self.set.iter().cloned().chain(out).flat_map(|set| ["--set".to_owned(), set]);
        let limit = self.limit.into_iter().flat_map(|limit| ["--memory".to_owned(), limit.to_owned()]);
        set.chain(limit).collect()
    }

    /// What `plan` prints.
    fn bound(&self, scratch: &Path) -> u64 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command.arg("plan").arg(&self.file).args(self.arguments(scratch));
        let output = command.env("PWD", scratch).env("JQ", FILTER).output().expect("the program starts");
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find_map(|line| line.strip_prefix("memory: at most "));
        let line = line.unwrap_or_else(|| panic!("no bound is printed:\n{text}\n{}", errors(&output)));
        line.parse::<ByteSize>().expect("it is a size").as_u64()
    }
}

/// What the benchmark with `jq` asks of it.
const FILTER: &str = "{id, name: .user.name, n: (.text | length)}";

/// A control group, and the fields of `memory.stat` that count.
struct Group {
    folder: PathBuf,
    fields: [&'static str; 2],
}

impl Group {
    fn new() -> Result<Self, String> {
        let text = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
        let ours = |name: &str| {
            let mut lines = text.lines().map(|line| line.splitn(3, ':').collect::<Vec<_>>());
            lines.find_map(|parts| (parts.get(1) == Some(&name)).then(|| parts[2].trim_start_matches('/').to_owned()))
        };
        let (mount, fields, ours) = match ours("memory") {
            Some(ours) => ("/sys/fs/cgroup/memory", ["total_rss", "total_shmem"], ours),
            None => ("/sys/fs/cgroup", ["anon", "shmem"], ours("").unwrap_or_default()),
        };
        let parent = Path::new(mount).join(ours);
        // Seen from inside a container, the path may be one of the outside.
        let parent = if parent.exists() { parent } else { mount.into() };
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let number = GROUPS.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("millpond-test-{}-{number}", std::process::id()));
        fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let group = Self { folder, fields };
        match group.used() {
            Some(_) => Ok(group),
            None => Err(format!("{} does not count memory", group.folder.display())),
        }
    }

    fn used(&self) -> Option<u64> {
        let text = fs::read_to_string(self.folder.join("memory.stat")).ok()?;
        let value = |field: &str| text.lines().find_map(|line| line.strip_prefix(field)?.trim().parse::<u64>().ok());
        self.fields.iter().map(|field| value(&format!("{field} "))).sum()
    }

    fn limit(&self, bytes: u64) {
        let name = if self.fields[0] == "anon" { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(self.folder.join(name), bytes.to_string()).expect("the group is ours");
    }

    /// The program, in the group.
    fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        command.arg(env!("CARGO_BIN_EXE_millpond"));
        command
    }

    /// Runs a pipeline in the group; returns how it ended, and the most memory that was seen.
    fn run(&self, case: &Case, scratch: &Path) -> (ExitStatus, u64) {
        let mut command = self.command();
        command.arg("run").arg(&case.file).args(["--progress", "none"]);
        command.args(case.arguments(scratch)).arg("--state-dir").arg(scratch.join("state"));
        command.env("PWD", scratch).env("JQ", FILTER).current_dir(scratch);
        let mut child: Child = command.stdin(Stdio::null()).spawn().expect("a shell starts");
        let mut peak = 0;
        loop {
            peak = peak.max(self.used().unwrap_or(0));
            if let Some(status) = child.try_wait().expect("it is our child") {
                return (status, peak);
            }
            std::thread::sleep(LOOK);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // A group goes only after its processes are reaped, by whoever inherits them.
        for _ in 0..200 {
            if fs::remove_dir(&self.folder).is_ok() || !self.folder.exists() {
                return;
            }
            std::thread::sleep(LOOK);
        }
    }
}
