//! `millpond env`: environments are listed, removed, and locked. The Python here is a script that plays one, so that nothing is downloaded.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

const PYTHON: &str = r#"#!/bin/sh
case "$1 $2" in
  "-c "*)
    echo "millpond-version 3 12 1"
    echo "millpond-executable $0"
    echo "millpond-path $0"
    echo "millpond-pyarrow " ;;
  "-m venv")
    /bin/mkdir -p "$3/bin" && /bin/cp "$0" "$3/bin/python" ;;
  "-m pip")
    if test "$3" = freeze; then echo "pyarrow==1.2.3"; echo "work==4.5"; else shift 2; echo "$@" >> "LOG"; fi ;;
esac
"#;

struct Machine {
    folder: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let machine = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let python = machine.path("bin/python3");
        fs::create_dir(machine.path("bin")).expect("ours");
        fs::write(&python, PYTHON.replace("LOG", &machine.path("log").to_string_lossy())).expect("ours");
        fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).expect("ours");
        machine.require("[work]");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn require(&self, requirements: &str) {
        let text = format!(
            "version: 1\npython: {{ requirements: {requirements} }}\nstages:\n  rows: {{ python: 'a:b' }}\n  sink: {{ from: rows, write: out.csv }}\n"
        );
        fs::write(self.path("pipeline.yaml"), text).expect("ours");
    }

    fn env(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command.arg("env").args(args).env("XDG_CACHE_HOME", self.path("cache")).env("PATH", self.path("bin"));
        command.current_dir(self.folder.path()).output().expect("the program starts")
    }

    fn ends_with(&self, args: &[&str], code: i32) -> (String, String) {
        let output = self.env(args);
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{err}");
        (out.into_owned(), err.into_owned())
    }

    fn list(&self) -> Vec<Value> {
        serde_json::from_str(&self.ends_with(&["list", "--format", "json"], 0).0).expect("a list")
    }
}

fn make_old(folder: &Path) {
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(90 * 86_400);
    for name in ["used", "complete.json"] {
        let file = fs::File::options().append(true).create(true).open(folder.join(name)).expect("it is there");
        file.set_modified(long_ago).expect("ours");
    }
}

#[test]
fn environments_are_listed_and_those_that_nobody_uses_go() {
    let machine = Machine::new();
    assert_eq!(machine.ends_with(&["list"], 0).0, "there are no cached environments\n");
    machine.ends_with(&["build", "pipeline.yaml"], 0);
    machine.require("[other]");
    machine.ends_with(&["build", "pipeline.yaml"], 0);
    let list = machine.list();
    assert_eq!(list.len(), 2);
    assert_eq!(list[0]["requirements"], serde_json::json!(["other"]));
    assert_eq!(list[0]["python"], "3.12.1");
    assert!(list[0]["bytes"].as_u64() > Some(0));
    assert!(machine.ends_with(&["list"], 0).0.contains("other"));

    let old = PathBuf::from(list[1]["folder"].as_str().expect("a path"));
    make_old(&old);
    assert!(machine.ends_with(&["prune"], 0).0.contains("1 environment removed, 1 stay"));
    assert!(!old.exists());
    // Whoever asks for an environment uses it.
    let young = PathBuf::from(list[0]["folder"].as_str().expect("a path"));
    make_old(&young);
    machine.ends_with(&["build", "pipeline.yaml"], 0);
    assert!(machine.ends_with(&["prune"], 0).0.contains("0 environments removed, 1 stay"));
    assert!(machine.ends_with(&["prune", "--all", "--dry-run"], 0).0.contains("1 environment to remove"));
    assert!(young.exists());
    machine.ends_with(&["prune", "--all"], 0);
    assert!(machine.list().is_empty());
}

#[test]
fn an_environment_in_use_stays() {
    let machine = Machine::new();
    machine.ends_with(&["build", "pipeline.yaml"], 0);
    let folder = PathBuf::from(machine.list()[0]["folder"].as_str().expect("a path"));
    fs::copy("/bin/sleep", folder.join("bin/sleep")).expect("ours");
    let mut program = Command::new(folder.join("bin/sleep")).arg("60").spawn().expect("it starts");
    let pruned = machine.ends_with(&["prune", "--all"], 0).0;
    program.kill().expect("ours");
    program.wait().expect("ours");
    assert!(pruned.contains("in use: ") && folder.exists(), "{pruned}");
    machine.ends_with(&["prune", "--all"], 0);
    assert!(!folder.exists());
}

#[test]
fn nothing_is_installed_for_a_run_that_cannot_read_its_input() {
    let machine = Machine::new();
    let yaml = "version: 1\npython: { requirements: [work] }\nstages:\n  rows: { read: rows.csv }\n  worked: { from: rows, python: 'a:b' }\n";
    fs::write(machine.path("pipeline.yaml"), yaml).expect("ours");
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command.args(["run", "pipeline.yaml"]).env("XDG_CACHE_HOME", machine.path("cache"));
        let output = command.env("PATH", machine.path("bin")).current_dir(machine.folder.path()).output();
        let output = output.expect("the program starts");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run();
    assert_eq!(code, Some(6), "{said}");
    assert!(said.contains("stage `rows` could not read its input: there is no file"), "{said}");
    assert!(!machine.path("log").exists(), "something was installed");
    fs::write(machine.path("rows.csv"), "n\n1\n").expect("ours");
    run();
    assert!(machine.path("log").exists(), "nothing was installed");
}

#[test]
fn what_is_locked_is_installed_until_the_requirements_change() {
    let machine = Machine::new();
    let said = machine.ends_with(&["lock", "pipeline.yaml"], 0).0;
    assert_eq!(said, "2 packages in pipeline.lock.txt\n");
    let lock = fs::read_to_string(machine.path("pipeline.lock.txt")).expect("it was written");
    assert!(lock.ends_with("\npyarrow==1.2.3\nwork==4.5\n"), "{lock}");
    machine.ends_with(&["build", "pipeline.yaml"], 0);
    let log = fs::read_to_string(machine.path("log")).expect("pip was called");
    let last = log.lines().last().expect("a line");
    assert!(last.contains("pipeline.lock.txt") && !last.contains("work"), "{log}");
    assert_eq!(machine.list().len(), 2);

    machine.require("[work, more]");
    let (_, said) = machine.ends_with(&["build", "pipeline.yaml"], 5);
    assert!(said.contains("pipeline.lock.txt` is stale: the requirements have changed"), "{said}");
    assert!(said.contains("help: `millpond env lock`"), "{said}");
    machine.ends_with(&["lock", "pipeline.yaml"], 0);
    machine.ends_with(&["build", "pipeline.yaml"], 0);
}

#[test]
fn a_python_that_is_there_cannot_be_locked() {
    let machine = Machine::new();
    let text = fs::read_to_string(machine.path("pipeline.yaml")).expect("ours");
    let text = text.replace("requirements: [work]", "interpreter: python3");
    fs::write(machine.path("pipeline.yaml"), text).expect("ours");
    let (_, said) = machine.ends_with(&["lock", "pipeline.yaml"], 5);
    assert!(said.contains("there is nothing to lock"), "{said}");
}
