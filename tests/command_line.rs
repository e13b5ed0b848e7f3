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
fn validate_gives_a_log_for_code_scanning() {
    let output = millpond(&["validate", "--format", "sarif", "mistakes.yaml", "sound.yaml", "no-such-file.yaml"]);
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(3), String::new()));
    let log: serde_json::Value = serde_json::from_slice(&output.stdout).expect("is JSON");
    assert_eq!(log["version"], "2.1.0");
    let run = &log["runs"][0];
    let list = |value: &serde_json::Value| value.as_array().expect("a list").clone();
    let rules: Vec<_> = list(&run["tool"]["driver"]["rules"]).iter().map(|rule| rule["id"].clone()).collect();
    let results = list(&run["results"]);
    assert_eq!(results.len(), 14);
    for result in &results {
        assert!(rules.contains(&result["ruleId"]), "{result}");
        assert!(result["message"]["text"].is_string() && result["level"].is_string(), "{result}");
    }
    let first = &results[0];
    assert_eq!((&first["ruleId"], &first["level"]), (&"spec::unknown_key".into(), &"error".into()));
    let place = &first["locations"][0]["physicalLocation"];
    assert_eq!(place["artifactLocation"]["uri"], "mistakes.yaml");
    let region = serde_json::json!({"startLine": 2, "startColumn": 1, "endLine": 2, "endColumn": 5});
    assert_eq!(place["region"], region);
    assert!(text(&output.stdout).contains("\"file::unreadable\""));
}

#[test]
fn codes_are_explained() {
    let explained = millpond(&["explain", "plan::cycle"]);
    let shown = text(&explained.stdout);
    assert!(shown.starts_with("plan::cycle (error)\n\nStages wait for each other"), "{shown}");
    assert!(shown.contains("\n    stages:\n") && !shown.contains("<!--") && !shown.contains("```"), "{shown}");
    assert_eq!(text(&millpond(&["explain", "cycle"]).stdout), shown);
    let listed = text(&millpond(&["explain"]).stdout);
    assert!(listed.contains("error   plan::cycle\n") && listed.contains("warning param::unused\n"), "{listed}");
    let unknown = millpond(&["explain", "plan::cycel"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert_eq!(text(&unknown.stderr), "error: there is no code `plan::cycel` (did you mean `plan::cycle`?)\n");
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
fn a_graph_needs_no_params() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let graph = |text: &str| {
        let path = folder.path().join("pipeline.yaml");
        std::fs::write(&path, text).expect("there is room");
        let output = Command::new(env!("CARGO_BIN_EXE_millpond")).arg("graph").arg(path).output();
        let output = output.expect("the program starts");
        (output.status.code(), text_of(&output.stdout), text_of(&output.stderr))
    };
    let yaml = "version: 1
params:
  data: { type: path }
  least: { type: integer, min: 7 }
  kind: { type: string, choices: [a, b] }
stages:
  rows: { read: '${{ params.data }}' }
  kept: { from: rows, when: \"${{ params.kind == 'a' }}\", sql: SELECT * FROM rows WHERE n > $least }
  sink: { from: kept, write: 'out/${{ params.kind }}.csv' }
";
    let drawn = "rows (read)\n  -> kept\nkept (sql)\n  -> sink\nsink (write)\n";
    assert_eq!(graph(yaml), (Some(0), drawn.to_owned(), String::new()));
    // What is wrong is told as ever.
    let (code, _, said) = graph(&yaml.replace("from: kept", "from: kep"));
    assert!(code == Some(2) && said.contains("plan::unknown_stage") && said.contains("param::missing"), "{said}");
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_summary_for_a_workflow_that_cannot_be_written_is_told_as_such() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::write(folder.path().join("p.yaml"), "version: 1\nstages:\n  one: { command: ['true'] }\n").expect("room");
    let output = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["run", "p.yaml", "--progress", "none"])
        .env("GITHUB_STEP_SUMMARY", folder.path())
        .current_dir(folder.path())
        .output()
        .expect("the program starts");
    let said = text_of(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let path = folder.path().display();
    assert!(said.starts_with(&format!("warning: GITHUB_STEP_SUMMARY: `{path}` cannot be written: ")), "{said}");
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
        let mut program = Command::new(env!("CARGO_BIN_EXE_millpond"));
        let tested = program.arg("test").arg(&pipeline).output().expect("the program starts");
        assert!(tested.status.success(), "{name}: {}{}", text(&tested.stdout), text(&tested.stderr));
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

#[test]
fn help_of_a_run_has_the_params_of_its_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("p.yaml");
    let help = |text: &str| {
        std::fs::write(&file, text).expect("it can be written");
        let output = Command::new(env!("CARGO_BIN_EXE_millpond")).arg("run").arg(&file).arg("--help").output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(0));
        let shown = String::from_utf8_lossy(&output.stdout).into_owned();
        shown.split_once("\nParams of ").map(|(_, params)| params.lines().skip(1).collect::<Vec<_>>().join("\n"))
    };
    let params = "version: 1
params:
  floor: { type: integer, default: 3, min: 0, max: 10, description: Leave out what is shorter. }
  kind: { type: string, choices: [a, b] }
  out: { type: path, default: out }
";
    let shown = "  floor=<integer>  Leave out what is shorter. [default: 3] [0 to 10]
  kind=<string>    [required] [possible values: a, b]
  out=<path>       [default: out]";
    assert_eq!(help(&format!("{params}stages: {{ s: {{ read: a.csv }} }}\n")).as_deref(), Some(shown));
    assert_eq!(help(&format!("{params}stages: [nonsense]\n")).as_deref(), Some(shown));
    assert_eq!(
        help("version: 1\nparams: { a: 3, b: { type: int } }\n").as_deref(),
        Some("  a=<value>  [required]\n  b=<value>  [required]")
    );
    assert_eq!(help("{ no yaml"), None);
}

#[test]
fn params_come_from_a_file_and_from_the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("it can be written");
    write("rows.csv", "n\n1\n2\n3\n");
    write(
        "p.yaml",
        "version: 1
params: { floor: { type: integer }, word: { type: string }, out: { type: path } }
stages:
  rows: { read: rows.csv }
  some: { from: rows, sql: 'SELECT n, $word AS word FROM rows WHERE n >= $floor' }
  out: { from: some, write: '${{ params.out }}/some.csv' }
",
    );
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command.args(["run", "p.yaml", "--progress", "none"]).args(args).current_dir(folder.path());
        let output = command.output().expect("the program starts");
        (output.status.code(), text(&output.stderr))
    };
    write("params.yaml", "floor: 2\nword: '007'\nout: a\nx-note: [free]\n");
    assert_eq!(run(&["--params-file", "params.yaml"]), (Some(0), String::new()));
    let read = |path: &str| std::fs::read_to_string(folder.path().join(path)).expect("it was written");
    assert_eq!(read("a/some.csv"), "n,word\n2,007\n3,007\n");
    write("params.json", r#"{ "floor": 2, "word": true, "out": "b" }"#);
    assert_eq!(run(&["--params-file", "params.json", "--set", "floor=3"]), (Some(0), String::new()));
    assert_eq!(read("b/some.csv"), "n,word\n3,true\n");
    // A run that goes on with another is given what that one was given.
    let record = std::fs::read_dir(folder.path().join(".millpond/runs"))
        .expect("runs")
        .map(|run| std::fs::read_to_string(run.expect("a run").path().join("run.json")).expect("what it was given"));
    let records: Vec<String> = record.collect();
    assert!(records.iter().any(|record| record.contains("007")), "{records:?}");
    for (wrong, message) in [
        ("[1]", "must be a mapping"),
        ("floor: [1]", "`floor` is a list"),
        ("{", "yaml::syntax"),
        ("flor: 1", "`flor=…`: the pipeline has no param `flor`"),
        ("floor: x", "`floor=x`: `x` is not an integer"),
    ] {
        write("wrong.yaml", wrong);
        let (code, said) = run(&["--params-file", "wrong.yaml"]);
        assert!(code == Some(2) && said.contains(message), "{wrong}: {code:?} {said}");
    }
    assert_eq!(run(&["--params-file", "nowhere.yaml"]).0, Some(2));
}
