//! No pipeline of this repository takes more memory than `plan` says. Each is run in a control group of its own, where all of its
//! processes are counted: what they allocate and share, not the pages of files that the kernel keeps as long as nobody needs them.

#[allow(dead_code)]
mod program;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use bytesize::ByteSize;
use program::{errors, repository};

/// Time between two looks at the memory of a run.
const LOOK: Duration = Duration::from_millis(5);

#[test]
fn every_pipeline_stays_under_its_bound() {
    for pipeline in pipelines() {
        let group = match Group::new() {
            Ok(group) => group,
            Err(reason) => {
                println!("skipped: no control group can be made: {reason}");
                return;
            }
        };
        let bound = bound(&pipeline);
        let scratch = tempfile::tempdir().expect("a temporary folder");
        let (status, peak) = group.run(&pipeline, scratch.path());
        let name = pipeline.strip_prefix(repository()).expect("it is ours").display();
        let ratio = bound as f64 / peak as f64;
        println!("{name}: peak {}, bound {}, {ratio:.1} times", ByteSize::b(peak), ByteSize::b(bound));
        assert!(status.success(), "{name}: {status}");
        assert!(peak > 0 && peak <= bound, "{name}: peak {peak}, bound {bound}");
    }
}

#[test]
fn workers_keep_as_many_free_segments_as_the_bound_says() {
    let text = fs::read_to_string(repository().join("python/millpond/outputs.py")).expect("it is readable");
    let says = format!("MAX_FREE_BYTES = {} << 20", millpond::plan::memory::FREE_SEGMENTS >> 20);
    assert!(text.contains(&says), "no `{says}`");
}

fn pipelines() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["pipelines", "examples"] {
        let folders =
            repository().join(folder).read_dir().expect("a folder").map(|entry| entry.expect("an entry").path());
        let files = folders.filter_map(|folder| folder.read_dir().ok()).flatten().flatten().map(|entry| entry.path());
        found.extend(files.filter(|file| file.extension().is_some_and(|extension| extension == "yaml")));
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

/// What `plan` prints.
fn bound(pipeline: &Path) -> u64 {
    let output = Command::new(env!("CARGO_BIN_EXE_millpond")).arg("plan").arg(pipeline).output();
    let output = output.expect("the program starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.strip_prefix("memory: at most "));
    let line = line.unwrap_or_else(|| panic!("no bound is printed:\n{text}\n{}", errors(&output)));
    line.parse::<ByteSize>().expect("it is a size").as_u64()
}

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
        let folder = parent.join(format!("millpond-test-{}", std::process::id()));
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

    /// Runs a pipeline in the group; returns how it ended, and the most memory that was seen.
    fn run(&self, pipeline: &Path, scratch: &Path) -> (ExitStatus, u64) {
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.folder.join("cgroup.procs"));
        command.arg(env!("CARGO_BIN_EXE_millpond")).arg("run").arg(pipeline).args(["--progress", "none", "--set"]);
        command.arg(format!("out={}", scratch.join("out").display())).arg("--state-dir").arg(scratch.join("state"));
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
