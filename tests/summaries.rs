//! What a run leaves for programs and for the pages of a continuous integration.

mod support;

use std::process::Command;
use std::time::Duration;

use support::{Scene, numbers};

const STAGES: &str = "
numbers: { read: numbers.csv }
halved: { from: numbers, sql: SELECT 10 / n AS n FROM numbers }
publish: { from: halved, write: out.csv }
";

fn scene(data: &str) -> Scene {
    let scene = Scene::with_python("", STAGES, "");
    scene.write("numbers.csv", data);
    scene
}

#[test]
fn a_summary_is_written_where_it_is_asked_for() {
    let scene = scene(&numbers(1..=5));
    scene.write("summary.json", "{\"v\": 1, \"exit_code\": 1}");
    scene.run().args(&["--summary", "summary.json"]).inside(&scene.path("")).ends_with(0);
    let summary: serde_json::Value = serde_json::from_str(&scene.read("summary.json")).expect("it is JSON");
    assert_eq!(summary, scene.summary());
    assert_eq!((&summary["exit_code"], &summary["message"]), (&0.into(), &serde_json::Value::Null));
    assert_eq!(summary["stages"][1]["account"]["rows_out"], 5);
}

#[test]
fn what_was_published_is_told_and_no_more_than_fits() {
    let scene = scene(&numbers(1..=5));
    scene.run().ends_with(0).says(&["\npublished by `publish`: out.csv, 5 rows\n"]);
    let appended = "more: { from: halved, write: { path: more.csv, mode: append } }\n";
    let folder = "parts: { from: halved, write: { path: parts/, format: csv } }\n";
    let many =
        "many:\n  foreach: { n: [1, 2, 3, 4, 5, 6, 7, 8, 9] }\n  from: halved\n  write: 'many/${{ each.n }}.csv'\n";
    let scene = Scene::with_python("", &format!("{STAGES}{appended}{folder}{many}"), "");
    scene.write("numbers.csv", &numbers(1..=5));
    let ran = scene.run().ends_with(0);
    ran.says(&["`more`: more.csv, 5 rows appended\n"]).says(&["`parts`: parts/, 5 rows\n"]);
    ran.says(&["published by others: 2 outputs\n"]);
    assert_eq!(ran.stderr.matches("published by `").count(), 10, "{}", ran.stderr);
    scene.write("numbers.csv", &numbers(0..=5));
    assert!(!scene.run().ends_with(1).stderr.contains("published by"));
}

#[test]
fn a_failure_is_summed_up_too() {
    let scene = scene(&numbers(0..=5));
    scene.run().args(&["--summary", "summary.json"]).inside(&scene.path("")).ends_with(1);
    let summary: serde_json::Value = serde_json::from_str(&scene.read("summary.json")).expect("it is JSON");
    assert_eq!(summary["exit_code"], 1);
    let message = summary["message"].as_str().expect("there is one");
    assert!(message.contains("stage `halved` failed"), "{message}");
    assert_eq!(summary, scene.summary());
}

#[test]
fn a_summary_that_cannot_be_written_is_an_error() {
    let scene = scene(&numbers(1..=5));
    // Before anything is done, where it can be known.
    let ran = scene.run().args(&["--summary", "nowhere/summary.json"]).ends_with(6);
    ran.says(&["the summary cannot be written to `nowhere/summary.json`"]);
    assert!(!scene.exists("out.csv"));
    let ran = scene.run().args(&["--summary", "/dev/full"]).ends_with(6);
    ran.says(&["done in", "the summary cannot be written to `/dev/full`"]);
    assert!(scene.exists("out.csv"));
}

#[test]
fn what_is_no_summary_is_not_replaced_by_one() {
    let scene = scene(&numbers(1..=5));
    let refused = |file: &str, why: &str| {
        let ran =
            scene.run().args(&["--summary", file]).inside(&scene.path("")).within(Duration::from_secs(20)).ends_with(6);
        ran.says(&[why]);
        assert!(!scene.exists("out.csv"), "{file}");
    };
    refused("numbers.csv", "there is a file, and it is no summary");
    refused("pipeline.yaml", "there is a file, and it is no summary");
    refused("out.csv", "a sink of the pipeline writes there");
    assert_eq!(scene.read("numbers.csv"), numbers(1..=5));
    // A pipe that nobody reads is no place to wait at.
    let pipe = scene.path("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    refused("pipe", "the summary cannot be written to `pipe`");
}

#[test]
fn a_step_of_a_workflow_shows_how_its_runs_have_ended() {
    let scene = scene(&numbers(1..=5));
    let page = scene.write("page.md", "# Before\n");
    let page = page.to_str().expect("a path that is text");
    scene.run().env("GITHUB_STEP_SUMMARY", page).ends_with(0);
    scene.write("numbers.csv", &numbers(0..=5));
    scene.run().env("GITHUB_STEP_SUMMARY", page).ends_with(1);
    let page = scene.read("page.md");
    let (before, failed) = page.rsplit_once("### ").expect("two runs");
    assert!(before.starts_with("# Before\n### `"), "{page}");
    assert!(before.contains(" succeeded after "), "{page}");
    assert!(before.contains("\n| stage | rows in | rows out |"), "{page}");
    assert!(before.contains("\n| halved | 5 | 5 | - | 1 |"), "{page}");
    assert!(failed.contains(" failed after "), "{page}");
    assert!(failed.contains("```text\nstage `halved` failed"), "{page}");
    scene.run().env("GITHUB_STEP_SUMMARY", "/dev/full").ends_with(1).says(&["warning: GITHUB_STEP_SUMMARY: "]);
}
