//! Sinks for which a stage waits: what is published when, and what stays after failures and crashes.

mod support;

use std::process::Command;

use support::{Scene, numbers};

const STAGES: &str = r#"
rows: { read: rows.csv }
first: { from: rows, write: out/first.csv }
looked:
  after: first
  command: { shell: 'cat out/first.csv > seen; ! grep -q 19999 out/last.csv; test ! -e fail', outputs: seen }
again: { after: first, read: { path: out/first.csv } }
doubled: { from: again, sql: SELECT n * 2 AS n FROM again }
folder: { from: doubled, write: { path: out/folder/, format: csv } }
counted: { after: [folder, looked], command: { shell: ls out/folder > parts, outputs: parts } }
last: { from: rows, write: out/last.csv }
"#;

fn scene() -> Scene {
    let scene = Scene::new(STAGES, "");
    scene.write("rows.csv", &numbers(0..20_000));
    scene
}

fn early(scene: &Scene) -> Vec<String> {
    let summary = scene.summary();
    let names = summary["published_early"].as_array().expect("a list");
    names.iter().map(|name| name.as_str().expect("a name").to_owned()).collect()
}

#[test]
fn a_stage_sees_the_sink_that_it_waits_for() {
    let scene = scene();
    scene.run().ends_with(0);
    assert_eq!(scene.read("seen"), numbers(0..20_000));
    assert_eq!(scene.read("out/folder/part-0.csv"), numbers((0..20_000).map(|n| n * 2)));
    assert_eq!(scene.read("parts"), "part-0.csv\n");
    assert_eq!(scene.read("out/last.csv"), numbers(0..20_000));
    assert_eq!(early(&scene), ["first", "folder"]);
    let events: Vec<serde_json::Value> =
        scene.events().lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let place = |event: &str, stage: &str| {
        let found = events.iter().position(|it| it["event"] == event && it["stage"] == stage);
        found.unwrap_or_else(|| panic!("no {event} of {stage}"))
    };
    assert!(place("sink_published", "first") < place("stage_ended", "looked"));
    scene.assert_clean();
}

#[test]
fn what_fails_later_leaves_what_was_published() {
    let scene = scene();
    scene.write("out/last.csv", "old");
    scene.write("out/first.csv", "old");
    scene.write("fail", "");
    let ran = scene.run().ends_with(1);
    ran.says(&["stage `looked` failed", "nothing was published but `first`"]);
    assert_eq!(scene.read("out/first.csv"), numbers(0..20_000));
    assert_eq!(scene.read("out/last.csv"), "old");
    scene.assert_clean();
}

#[test]
fn a_sink_that_fails_is_waited_for_in_vain() {
    let scene = scene();
    scene.write("rows.csv", "n\n1\n2\nthree\n");
    let yaml = scene.read("pipeline.yaml").replace("read: rows.csv", "read: { path: rows.csv, schema: { n: int64 } }");
    scene.write("pipeline.yaml", &yaml);
    let ran = scene.run().ends_with(6);
    assert!(!ran.stderr.contains("nothing was published but"), "{}", ran.stderr);
    assert!(!scene.exists("seen") && !scene.exists("out/first.csv"));
    scene.assert_clean();
}

#[test]
fn a_crash_after_a_sink_is_published_leaves_it_and_nothing_half() {
    // The first time is that of `first`, the second that of `folder`, the third that of the others.
    for (fail_point, first, folder) in [
        ("publish.before_journal", true, true),
        ("publish.journal_written", true, false),
        ("publish.renamed", true, false),
        ("publish.journal_written:2", true, true),
        ("publish.exchanged", true, true),
        ("publish.journal_written:3", true, true),
    ] {
        let scene = scene();
        for old in ["out/first.csv", "out/folder/part-0.csv", "out/last.csv"] {
            scene.write(old, "old");
        }
        assert_eq!(scene.run().env("MILLPOND_FAIL_POINT", fail_point).end().signal(), Some(9), "{fail_point}");
        // Another run, which has nothing to do, recovers before it begins.
        let other = scene.write(
            "other.yaml",
            "version: 1\nstages:\n  rows: { read: rows.csv }\n  out: { from: rows, write: other.csv }\n",
        );
        scene.run_of(&other).ends_with(0);
        let is_last = fail_point == "publish.journal_written:3";
        let expected = |name: &str, is_new: bool, new: String| {
            assert_eq!(scene.read(name), if is_new { new } else { "old".to_owned() }, "{name} after {fail_point}");
        };
        expected("out/first.csv", first, numbers(0..20_000));
        expected("out/folder/part-0.csv", folder, numbers((0..20_000).map(|n| n * 2)));
        expected("out/last.csv", is_last, numbers(0..20_000));
        scene.assert_clean();
    }
}

#[test]
fn a_pipeline_inside_has_ended_when_its_sinks_are_published() {
    let scene = Scene::new(
        "load: { pipeline: inner.yaml }\ntold: { after: load, command: { shell: cat out/inner.csv > seen, outputs: seen } }",
        "",
    );
    scene.write(
        "inner.yaml",
        "version: 1\nstages:\n  rows: { read: rows.csv }\n  out: { from: rows, write: out/inner.csv }\n",
    );
    scene.write("rows.csv", &numbers(0..3));
    scene.run().ends_with(0);
    assert_eq!(scene.read("seen"), numbers(0..3));
    assert_eq!(early(&scene), ["load/out"]);
}

#[test]
fn plan_says_what_is_published_before_the_end() {
    let scene = scene();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    let output = command.args(["plan", "pipeline.yaml"]).current_dir(scene.path(".")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("published before: looked, again"), "{text}");
    assert_eq!(text.matches("published when it has ended").count(), 2, "{text}");
}

#[test]
fn standard_output_has_nothing_to_publish() {
    let scene = Scene::new(
        "rows: { read: rows.csv }\nshown: { from: rows, write: { path: '-', format: csv } }\ntold: { after: shown, command: { shell: touch told, outputs: told } }",
        "",
    );
    scene.write("rows.csv", &numbers(0..3));
    let ran = scene.run().ends_with(0);
    assert_eq!(ran.stdout, numbers(0..3));
    assert!(scene.exists("told"));
}

#[test]
fn show_writes_no_sink_and_until_those_that_are_waited_for() {
    let scene = scene();
    scene.write("out/first.csv", &numbers([5]));
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    let output = command.args(["show", "pipeline.yaml", "doubled"]).current_dir(scene.path(".")).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("10\n1 row"), "{output:?}");
    assert_eq!(scene.read("out/first.csv"), numbers([5]));
    let ran = scene.run().args(&["--until", "doubled"]).ends_with(0);
    assert_eq!(ran.stdout.lines().count(), 20_000);
    assert_eq!(scene.read("out/first.csv"), numbers(0..20_000));
    assert!(!scene.exists("out/last.csv") && !scene.exists("seen"));
}

#[test]
fn a_publication_that_fails_names_what_is_published() {
    let stages = "
rows: { read: rows.csv }
first: { from: rows, write: out/first.csv }
foreign: { after: first, command: { shell: mkdir -p out/last.csv/x } }
again: { after: foreign, read: { path: out/first.csv } }
last: { from: again, write: out/last.csv }
";
    let scene = Scene::new(stages, "");
    scene.write("rows.csv", &numbers(0..3));
    let ran = scene.run().ends_with(6);
    assert!(ran.stderr.contains("`first`") && ran.stderr.contains("published"), "{}", ran.stderr);
    assert_eq!(scene.read("out/first.csv"), numbers(0..3));
}
