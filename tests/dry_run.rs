//! `run --dry-run`: what can be seen before a run, and what a run on a few rows shows.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;

use support::{Scene, numbers};

const STAGES: &str = "
prepared:
  command: [touch, prepared]
rows:
  after: prepared
  read: rows.csv
  expect: { rows: { min: 50 }, not_null: n }
made:
  python: work:make
worked:
  from: rows
  python: { call: \"work:work\", as: row }
summed:
  from: made
  sql: SELECT sum(n) AS total FROM made
sink:
  from: worked
  write: { path: out/rows.csv, mode: error }
other:
  from: summed
  write: out/sum.jsonl
";

const MODULE: &str = "
import pathlib
def make():
    for n in range(1000):
        yield {'n': n}
def work(row):
    pathlib.Path('worked').touch()
    return row
";

fn scene() -> Scene {
    let scene = Scene::new(STAGES, MODULE);
    scene.write("rows.csv", &numbers(0..100));
    let yaml = scene.read("pipeline.yaml");
    scene.write("pipeline.yaml", &format!("{yaml}finally:\n  never: {{ command: [touch, never] }}\n"));
    scene
}

#[test]
fn a_dry_run_runs_nothing_and_says_what_would_be_written() {
    let scene = scene();
    scene.write("out/sum.jsonl", "");
    let ran = scene.run().args(&["--dry-run"]).ends_with(0);
    for line in [
        "stages, in order:",
        "sink `sink`: out/rows.csv would be written",
        "sink `other`: out/sum.jsonl would be replaced",
        "environment: ",
    ] {
        assert!(ran.stdout.contains(line), "`{line}` is not in\n{}", ran.stdout);
    }
    assert!(!scene.exists("prepared") && !scene.exists("worked") && !scene.exists("state"));
}

#[test]
fn a_dry_run_finds_sinks_that_cannot_be_written() {
    let scene = scene();
    scene.write("out/rows.csv", "");
    fs::create_dir(scene.path("out/sum.jsonl")).expect("a folder");
    let ran = scene.run().args(&["--dry-run"]).ends_with(6);
    ran.says(&["the sink `sink` could not be written", "rows.csv is there already"]);
    ran.says(&["the sink `other` could not be written", "sum.jsonl is a folder"]);
    // A user who may do everything is not kept from anything.
    if rustix::process::geteuid().is_root() {
        return;
    }
    fs::remove_dir_all(scene.path("out")).expect("ours");
    fs::create_dir(scene.path("out")).expect("a folder");
    fs::set_permissions(scene.path("out"), fs::Permissions::from_mode(0o500)).expect("ours");
    scene.run().args(&["--dry-run"]).ends_with(6).says(&["Permission denied"]);
}

#[test]
fn a_sample_is_worked_on_and_not_published() {
    let scene = scene();
    // What is there already is in nobody's way.
    scene.write("out/rows.csv", "mine");
    let ran = scene.run().args(&["--dry-run", "--sample", "12", "--progress", "none"]).ends_with(0);
    assert!(ran.stdout.contains("tried with the first 12 rows of each source; nothing is published"), "{}", ran.stdout);
    assert!(ran.stdout.contains("sink `sink`, out/rows.csv:\nn"), "{}", ran.stdout);
    assert!(ran.stdout.contains("12 rows, of which 10 are shown"), "{}", ran.stdout);
    assert!(ran.stdout.contains("sink `other`, out/sum.jsonl:\ntotal\nint64\n-----\n66"), "{}", ran.stdout);
    assert_eq!(scene.read("out/rows.csv"), "mine");
    assert!(scene.exists("worked") && !scene.exists("out/sum.jsonl"));
    // Tasks and hooks are not carried out, and the run is not one to go on with.
    assert!(!scene.exists("prepared") && !scene.exists("never") && !scene.exists("state"));
    scene.assert_clean();
}

#[test]
fn a_sample_that_fails_says_why() {
    let scene = scene();
    scene.write("work.py", &MODULE.replace("return row", "raise ValueError('no')"));
    let ran = scene.run().args(&["--dry-run", "--sample", "3"]).ends_with(1);
    ran.says(&["stage `worked` failed", "ValueError: no"]);
    scene.write("work.py", &MODULE.replace("yield", "raise ValueError; yield"));
    let ran = scene.run().args(&["--dry-run", "--sample", "3"]).ends_with(1);
    ran.says(&["made: batch 0, attempt 1", "stage `made` failed"]);
    // What counts off the rows of sources is nobody's stage.
    let told = |name: &str| ran.stderr.lines().filter(|line| line.split_whitespace().next() == Some(name)).count();
    assert_eq!(
        (told("made"), told("rows"), ran.stderr.matches(":all").count() + ran.stderr.matches(":first").count()),
        (1, 1, 0),
        "{}",
        ran.stderr
    );
    let yaml = scene.read("pipeline.yaml").replace("python: work:make", "python: work:make\n    on_error: skip");
    scene.write("pipeline.yaml", &yaml);
    scene.run().args(&["--dry-run", "--sample", "3"]).ends_with(3).says(&["the stage `made` needs `from`"]);
    scene.run().args(&["--sample", "3"]).ends_with(2).says(&["--dry-run"]);
    scene.assert_clean();
}

#[test]
fn what_foreach_makes_is_sampled_one_by_one() {
    let stages = "
parts:
  foreach: { part: [a, b] }
  read: \"${{ each.part }}.csv\"
all:
  from: parts
  sql: SELECT count(*) AS number FROM parts
sink:
  from: all
  write: out/count.jsonl
";
    let scene = Scene::new(stages, "");
    scene.write("a.csv", &numbers(0..100));
    scene.write("b.csv", &numbers(0..3));
    let ran = scene.run().args(&["--dry-run", "--sample", "5"]).ends_with(0);
    assert!(ran.stdout.contains("\n8"), "{}", ran.stdout);
}
