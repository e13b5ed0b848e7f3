//! The program from outside: exit codes, and what goes to which stream.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn millpond(args: &[&str]) -> Output {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
    Command::new(env!("CARGO_BIN_EXE_millpond")).args(args).current_dir(folder).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn code(args: &[&str]) -> Option<i32> {
    millpond(args).status.code()
}

#[test]
fn the_exit_code_says_what_is_wrong() {
    assert_eq!(code(&["validate", "sound.yaml"]), Some(0));
    assert_eq!(code(&["validate", "sound.yaml", "mistakes.yaml"]), Some(3));
    assert_eq!(code(&["validate", "no-such-file.yaml"]), Some(2));
    assert_eq!(code(&["plan", "mistakes.yaml"]), Some(3));
    assert_eq!(code(&["plan", "sound.yaml", "--set", "flor=1"]), Some(2));
    assert_eq!(code(&["plan", "sound.yaml", "--set", "floor=7"]), Some(2));
    assert_eq!(code(&["plan", "sound.yaml", "--workers", "0"]), Some(2));
    assert_eq!(code(&["no-such-command"]), Some(2));
    assert_eq!(code(&["--help"]), Some(0));
}

#[test]
fn validate_gives_json_on_standard_output_and_nothing_else() {
    let output = millpond(&["validate", "--format", "json", "mistakes.yaml", "sound.yaml"]);
    assert_eq!(text(&output.stderr), "");
    let problems: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout).expect("is a JSON array");
    assert_eq!(problems.len(), 13);
    assert_eq!(problems[0]["code"], "spec::unknown_key");
    assert_eq!((&problems[0]["line"], &problems[0]["column"]), (&2.into(), &1.into()));
    assert_eq!(problems[0]["help"], "did you mean `name`?");
}

#[test]
fn nothing_is_coloured_where_there_is_no_terminal() {
    let output = millpond(&["validate", "mistakes.yaml"]);
    let drawn = text(&output.stderr);
    assert!(drawn.contains("mistakes.yaml:2:1") && !drawn.contains('\u{1b}'), "{drawn}");
    assert_eq!(text(&output.stdout), "mistakes.yaml: 13 errors\n");
}

#[test]
fn plan_and_graph_need_no_python_and_no_data() {
    let run = |args: &[&str]| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/diagnostics");
        let output = Command::new(env!("CARGO_BIN_EXE_millpond")).args(args).env_clear().current_dir(folder).output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    };
    assert!(
        run(&["plan", "sound.yaml", "--workers", "4"]).starts_with("pipeline reviews: 9 stages, 10 edges, 4 workers")
    );
    assert!(run(&["graph", "sound.yaml", "--format", "mermaid"]).starts_with("flowchart LR\n"));
    assert!(run(&["schema"]).starts_with("{\n"));
}

#[test]
fn hostile_files_are_refused_within_200_mb() {
    let folder = tempfile::tempdir().expect("there is room");
    let write = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("there is room");
        path
    };
    let mut bomb = String::from("a: &a [x, x, x, x, x, x, x, x, x, x]\n");
    for (previous, name) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        bomb += &format!("{name}: &{name} [{}]\n", vec![format!("*{previous}"); 10].join(", "));
    }
    let brackets = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for path in [write("bomb.yaml", &bomb), write("brackets.yaml", &brackets)] {
        let script =
            format!("ulimit -v 1000000; exec '{}' validate '{}'", env!("CARGO_BIN_EXE_millpond"), path.display());
        let mut child =
            Command::new("sh").args(["-c", &script]).stderr(std::process::Stdio::null()).spawn().expect("starts");
        let usage = peak_memory(&mut child);
        assert!(usage < 200 << 10, "{} KiB for {}", usage, path.display());
    }
}

/// Waits for the program and gives its peak resident memory in KiB. It must end with code 3.
fn peak_memory(child: &mut std::process::Child) -> u64 {
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let high = std::fs::read_to_string(&status).unwrap_or_default();
        let line = high.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        peak = peak.max(line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0));
        if let Some(status) = child.try_wait().expect("is our child") {
            assert_eq!(status.code(), Some(3));
            return peak;
        }
        std::thread::yield_now();
    }
}

#[test]
fn unit_tests_find_the_package() {
    let output = Command::new(env!("CARGO_BIN_EXE_millpond")).args(["env", "pythonpath"]).output().expect("it starts");
    assert!(output.status.success(), "{}", text(&output.stderr));
    let code = "import millpond.testing; millpond.counter('n').add(); assert millpond.counter('n').value == 1; millpond.testing.reset(); \
                assert millpond.counter('n').value == 0; print('reset')";
    let python = Command::new("python3").args(["-c", code]).env("PYTHONPATH", text(&output.stdout).trim_end()).output();
    let python = python.expect("python3 is there");
    assert_eq!(text(&python.stdout), "reset\n", "{}", text(&python.stderr));
}

#[test]
fn a_template_is_a_pipeline_that_runs_and_replaces_nothing() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let init = |args: &[&str]| {
        let mut program = Command::new(env!("CARGO_BIN_EXE_millpond"));
        program.arg("init").args(args).current_dir(folder.path()).output().expect("the program starts")
    };
    let listed = text(&init(&[]).stdout);
    let names: Vec<&str> = listed.lines().map(|line| line.split(' ').next().expect("a name")).collect();
    assert!(names.contains(&"hello") && names.len() > 4, "{listed}");
    for name in names {
        assert!(init(&[name]).status.success(), "{name}");
        let pipeline = folder.path().join(name).join("pipeline.yaml");
        let mut program = Command::new(env!("CARGO_BIN_EXE_millpond"));
        let valid = program.arg("validate").arg(&pipeline).output().expect("the program starts");
        assert!(valid.status.success() && valid.stderr.is_empty(), "{}", text(&valid.stderr));
    }
    let ran =
        Command::new(env!("CARGO_BIN_EXE_millpond")).arg("run").arg(folder.path().join("hello/pipeline.yaml")).output();
    assert!(ran.expect("the program starts").status.success());
    assert!(folder.path().join("hello/out/greetings.csv").exists());

    std::fs::remove_file(folder.path().join("hello/data/people.csv")).expect("it is there");
    let again = init(&["hello"]);
    assert_eq!(again.status.code(), Some(2));
    assert_eq!(
        text(&again.stderr),
        "error: `hello/pipeline.yaml` is there already; nothing was written (name another folder)\n"
    );
    assert!(!folder.path().join("hello/data/people.csv").exists());
    assert!(init(&["hello", "elsewhere/deep"]).status.success());
    assert_eq!(text(&init(&["helo"]).stderr), "error: there is no template `helo` (did you mean `hello`?)\n");
}
