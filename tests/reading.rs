//! Reading a pipeline is safe: `validate`, `plan` and `graph` run nothing of it, and need no Python.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// Leaves a trace when it is imported.
const TRAP: &str = "
import os
open(os.path.join(os.path.dirname(os.path.abspath(__file__)), 'sprung'), 'w').close()
";

const FUNCTIONS: &str = "
def function(row: dict): return row
def rows(x): return x
async def waits(row: dict): return row
def source():
    yield [{'n': 1, 'key': 'a'}]
def load(): return {'a': 1}
def stream(batches): yield from batches
class Scorer:
    def __init__(self, path='x'): pass
    def __call__(self, row: dict): return row
class Totals:
    def __call__(self, row: dict): return None
    def finish(self): return []
";

/// Every way to name code.
const PIPELINE: &str = r#"
version: 1
python: { path: [., code], start: exec, threads: 1, requirements: requirements.txt }
resources: { api: { rate: 100/min }, gpu: { units: 1, env: DEVICES } }
shared:
  object: { python: trap:load }
  listed: { python: { call: "trap:function", as: row }, from: made }
  query: { from: listed, sql: SELECT key FROM listed }
defaults: { retry: { attempts: 2 }, log_level: debug }
stages:
  made: { python: "trap:source" }
  paths: { command: { shell: "touch sprung; echo x", output: lines } }
  function: { from: made, python: "trap:function", concurrency: 4, on_error: reject }
  rejected: { from: function.rejected, write: out/rejected.jsonl }
  waits: { from: made, python: { call: "trap:waits", as: row, cpus: spread }, uses: { api: { per: row } } }
  class: { from: made, python: { call: "trap:Scorer", with: { path: code/trap.py } }, workers: { min: 1 }, checkpoint: { depends: "code/*.py" } }
  keyed: { from: made, python: "trap:Totals", partition_by: key }
  stream: { from: made, python: { call: "trap:stream", as: stream } }
  arrow: { from: made, python: { call: "trap:rows", as: arrow, start: template } }
  pandas: { from: made, python: { call: "trap:rows", as: pandas, returns: { n: int64 } }, recycle: { batches: 1 } }
  polars: { from: made, python: { call: "trap:rows", as: polars } }
  numpy: { from: made, python: { call: "trap:rows", as: numpy }, uses: gpu }
  each: { foreach: { name: [a, b] }, from: made, python: { call: "trap:Scorer", with: { path: "${{ each.name }}" } } }
  task: { command: { run: [touch, sprung], inputs: code, outputs: sprung } }
  filter: { from: paths, command: { mode: row, run: [touch, sprung] } }
  publish: { from: [function, class], write: out/all.jsonl }
"#;

fn scene() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |path: &str, text: &str| fs::write(folder.path().join(path), text).expect("a file");
    for part in ["code", "bin"] {
        fs::create_dir(folder.path().join(part)).expect("a folder");
    }
    write("pipeline.yaml", PIPELINE);
    write("requirements.txt", "");
    write("code/trap.py", &format!("{TRAP}{FUNCTIONS}"));
    // Modules that Python or a worker would import by themselves.
    for module in ["trap", "sitecustomize", "usercustomize", "pyarrow", "pandas", "numpy", "polars", "millpond"] {
        write(&format!("{module}.py"), &format!("{TRAP}{FUNCTIONS}"));
    }
    for program in ["python3", "python", "uv", "pip", "bash", "sh", "touch"] {
        let sprung = folder.path().join("sprung");
        write(&format!("bin/{program}"), &format!("#!/bin/sh\n: > '{}'\nexit 1\n", sprung.display()));
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(folder.path().join("bin").join(program), mode).expect("permissions");
    }
    folder
}

/// All files below a folder.
fn files(folder: &Path) -> BTreeSet<String> {
    let entries = folder.read_dir().expect("a folder").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { files(&path) } else { BTreeSet::from([path.display().to_string()]) })
        .collect()
}

fn millpond(folder: &Path, args: &[&str], path: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(args).current_dir(folder).env("PATH", path).env("HOME", folder).env("PYTHONPATH", folder);
    command.env_remove("XDG_CACHE_HOME").output().expect("the program starts")
}

#[test]
fn nothing_of_a_pipeline_is_run_or_imported() {
    let commands: &[&[&str]] = &[
        &["validate", "pipeline.yaml"],
        &["validate", "--format", "json", "pipeline.yaml"],
        &["plan", "pipeline.yaml"],
        &["graph", "pipeline.yaml"],
        &["graph", "--format", "mermaid", "pipeline.yaml"],
        &["graph", "--format", "dot", "pipeline.yaml"],
        &["graph", "--format", "svg", "pipeline.yaml"],
    ];
    let scene = scene();
    let before = files(scene.path());
    for args in commands {
        // There is no Python, and then there is one that would tell.
        for path in [Path::new("/nonexistent"), &scene.path().join("bin")] {
            let output = millpond(scene.path(), args, path);
            let errors = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(0), "{args:?}: {errors}");
            assert_eq!(files(scene.path()), before, "{args:?} has left something");
        }
    }
}

/// The test above would see it: what a run does springs the trap.
#[test]
fn a_run_springs_the_trap() {
    let scene = scene();
    let output = millpond(scene.path(), &["run", "pipeline.yaml"], &scene.path().join("bin"));
    assert_ne!(output.status.code(), Some(0), "the interpreter is none");
    assert!(scene.path().join("sprung").exists(), "{}", String::from_utf8_lossy(&output.stderr));
}
