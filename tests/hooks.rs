//! What is done when a run has ended: `on_failure` and `finally`.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::{Scene, numbers, until};

const STAGES: &str = "
rows:
  read: rows.csv
worked:
  from: rows
  python: work:work
  env: { KEY: '${{ secrets.KEY }}' }
sink:
  from: worked
  write: out/rows.jsonl
";

const MODULE: &str = "
import os, pathlib, time
def work(row: dict):
    if os.path.exists('bad'):
        raise ValueError('the key is ' + os.environ['KEY'])
    if os.path.exists('hang'):
        pathlib.Path('hangs').touch()
        time.sleep(300)
    return row
def note(to, secret=None):
    names = ['STATUS', 'EXIT_CODE', 'FAILED_STAGE', 'MESSAGE']
    pathlib.Path(to).write_text('|'.join(os.environ['MILLPOND_' + name] for name in names))
    return lambda: None
";

const HOOKS: &str = r#"
on_failure:
  told:
    python: { call: "work:note", with: { to: told } }
  alarm:
    command: { shell: 'echo "alarm $MILLPOND_RUN $WHO"; test -s "$MILLPOND_SUMMARY"' }
    env: { WHO: me }
finally:
  breaks:
    when: "${{ params.breaks }}"
    command: [sh, -c, "exit 9"]
  ended:
    python: { call: "work:note", with: { to: ended } }
  nothing:
    when: false
    command: [touch, never]
"#;

fn scene() -> Scene {
    let scene = Scene::with_python(&support::python(&[]), STAGES, MODULE);
    let yaml = scene.read("pipeline.yaml");
    let params = "params:\n  breaks: { type: boolean, default: false }\n";
    scene.write("pipeline.yaml", &format!("{yaml}{params}{HOOKS}"));
    scene.write("rows.csv", &numbers(0..10));
    scene
}

#[test]
fn after_a_run_that_has_succeeded_comes_finally() {
    let scene = scene();
    let ran = scene.run().env("KEY", "s3cret-key").ends_with(0);
    assert_eq!(scene.read("ended"), "succeeded|0||");
    assert!(!scene.exists("told") && !scene.exists("never"), "{}", ran.stderr);
    scene.assert_clean();
}

#[test]
fn after_a_run_that_has_failed_both_come_and_know_why() {
    let scene = scene();
    scene.write("bad", "");
    let ran = scene.run().env("KEY", "s3cret-key").args(&["--set", "breaks=true"]).ends_with(1);
    let told = scene.read("told");
    assert!(told.starts_with("failed|1|worked|stage `worked` failed (exception): "), "{told}");
    assert!(!told.contains("s3cret-key"), "{told}");
    // One that fails keeps no other one from its work.
    assert_eq!(scene.read("ended"), told);
    ran.says(&["[alarm] alarm 2", " me", "finally: stage `breaks` failed"]);
    scene.assert_clean();
}

#[test]
fn a_hook_that_fails_after_a_run_that_has_succeeded_is_told() {
    let scene = scene();
    let ran = scene.run().env("KEY", "s3cret-key").args(&["--set", "breaks=true"]).ends_with(1);
    ran.says(&["finally: stage `breaks` failed"]);
    assert_eq!(scene.read("out/rows.jsonl").lines().count(), 10);
    assert_eq!(scene.read("ended"), "succeeded|0||");
    // The run itself has succeeded.
    scene.run().env("KEY", "s3cret-key").args(&["--resume"]).ends_with(2).says(&["has succeeded"]);
}

#[test]
fn after_an_interrupt_comes_finally_alone() {
    let scene = scene();
    scene.write("hang", "");
    let going = scene.run().env("KEY", "s3cret-key").start();
    until("the worker hangs", Duration::from_secs(60), || scene.exists("hangs"));
    going.signal(Signal::INT);
    until("it drains", Duration::from_secs(20), || scene.events().contains("draining"));
    going.signal(Signal::INT);
    assert_eq!(going.end().code(), Some(130));
    assert_eq!(scene.read("ended"), "interrupted|130||interrupted; nothing was published");
    assert!(!scene.exists("told"));
    scene.assert_clean();
}

#[test]
fn a_hook_that_hangs_is_ended() {
    let scene = Scene::new("task:\n  command: ['true']\n", "");
    let yaml = scene.read("pipeline.yaml");
    let hook = "finally:\n  slow: { command: [sh, -c, 'touch hangs; sleep 300'], timeout: 300ms }\n";
    scene.write("pipeline.yaml", &format!("{yaml}{hook}"));
    scene.run().ends_with(1).says(&["finally: stage `slow` failed (timeout)"]);
    // An interrupt ends it, too.
    scene.write("pipeline.yaml", &format!("{yaml}{}", hook.replace("300ms", "300s")));
    std::fs::remove_file(scene.path("hangs")).expect("it was made");
    let going = scene.run().start();
    until("the hook hangs", Duration::from_secs(60), || scene.exists("hangs"));
    going.signal(Signal::TERM);
    going.signal(Signal::TERM);
    let ran = going.end();
    assert_eq!(ran.code(), Some(143), "{}", ran.stderr);
    scene.assert_clean();
}

#[test]
fn a_trial_that_fails_alarms_nobody() {
    let scene = scene();
    scene.write("bad", "");
    scene.run().env("KEY", "s3cret-key").args(&["--until", "worked"]).ends_with(1);
    assert!(!scene.exists("told") && !scene.exists("ended"));
}

#[test]
fn programs_are_told_what_became_of_hooks() {
    let scene = scene();
    let ran = scene.run().env("KEY", "s3cret-key").args(&["--set", "breaks=true", "--progress", "json"]).ends_with(1);
    let ended: Vec<serde_json::Value> = ran
        .stderr
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter(|event: &serde_json::Value| event["event"] == "hook_ended")
        .collect();
    assert_eq!(ended.len(), 2, "{}", ran.stderr);
    assert_eq!(ended[0]["hook"], "breaks");
    assert_eq!(ended[0]["exit_code"], 1);
    assert_eq!(ended[1]["moment"], "finally");
    assert_eq!(ended[1]["message"], serde_json::Value::Null);
}

#[test]
fn plans_and_graphs_have_hooks() {
    let scene = scene();
    let shown = |args: &[&str]| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
        program.args(args).arg(scene.path("pipeline.yaml")).env("KEY", "s3cret-key");
        let output = program.output().expect("the program starts");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("it is text")
    };
    let plan = shown(&["plan"]);
    assert!(plan.contains("\non_failure, when the run has failed:\n  told python work:note\n"), "{plan}");
    assert!(plan.contains("\nfinally, when the run has ended:\n  ended python work:note\n"), "{plan}");
    assert!(plan.contains("timeout: 5m"), "{plan}");
    let graph = shown(&["graph"]);
    assert!(graph.contains("told (python) [on_failure]\nalarm (command) [on_failure]\n"), "{graph}");
    // One that is left out is none.
    assert!(!graph.contains("nothing"), "{graph}");
    assert!(shown(&["graph", "--format", "mermaid"]).contains("subgraph finally"));
    assert!(shown(&["graph", "--format", "dot"]).contains("subgraph cluster_on_failure"));
    let report: serde_json::Value = serde_json::from_str(&shown(&["plan", "--format", "json"])).expect("a document");
    assert_eq!(report["plan"]["hooks"][0]["moment"], "on_failure");
}
