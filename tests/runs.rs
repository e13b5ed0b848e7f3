//! Runs that have been: what is told of them, what is removed, and how one goes on that did not finish.

mod support;

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::{Scene, until};

const PATIENCE: Duration = Duration::from_secs(30);

/// Sixty batches, each of which takes a while and tells that it was done. The time of the run stands in the rows in front of the stage that
/// keeps them, and a param and the seed in what it gives.
const MODULE: &str = "
import millpond, os, random, time
def work(rows):
    time.sleep(0.02)
    open(f\"called/{rows[0]['n']}-{os.getpid()}-{time.time_ns()}\", 'x').close()
    if os.path.exists('fail'):
        raise ValueError('it is told to')
    factor = millpond.params['factor']
    return [{'n': row['n'] * factor, 'at': row['at'], 'r': random.random()} for row in rows]
";
const STAGES: &str = "
rows:
  read: ${{ params.input }}
timed:
  from: rows
  sql: SELECT n, CAST(now() AS VARCHAR) AS at FROM rows
worked:
  from: timed
  python: { call: work:work, as: rows }
  batch: { rows: 10 }
  checkpoint: true
sink:
  from: worked
  write: out/sink.jsonl
";
const PARAMS: &str = "params:\n  input: { type: path, default: none.csv }\n  factor: { type: integer, default: 1 }\n";

fn scene() -> Scene {
    let scene = Scene::with_python(&format!("{PARAMS}{}", support::python(&[])), STAGES, MODULE).with_calls();
    scene.write("data/rows.csv", &support::numbers(0..600));
    scene
}

/// A run that is given a path relative to another folder than the pipeline's.
fn given(scene: &Scene) -> support::Run<'_> {
    let folder = scene.path("data");
    scene.run().inside(&folder).args(&["--set", "input=rows.csv", "--set", "factor=3", "--seed", "7", "--workers", "2"])
}

/// A run that is killed when it has done a third of its work; what it was given.
fn killed(scene: &Scene) -> Value {
    let before = scene.called().len();
    let going = given(scene).start();
    until("a third is done", PATIENCE, || scene.called().len() >= before + 20);
    going.signal(Signal::KILL);
    assert_eq!(going.end().signal(), Some(9));
    scene.until_gone(Duration::from_secs(5));
    let folder = PathBuf::from(listed(scene)[0]["folder"].as_str().expect("a path"));
    serde_json::from_slice(&std::fs::read(folder.join("run.json")).expect("it is there")).expect("it is JSON")
}

/// `millpond` with these arguments, in the folder of the scene.
fn millpond(scene: &Scene, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(arguments).current_dir(scene.path("")).output().expect("the program starts")
}

/// What it prints on standard output. It must end with this code.
fn said(scene: &Scene, arguments: &[&str], code: i32) -> (String, String) {
    let output = millpond(scene, arguments);
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stdout}{stderr}");
    (stdout, stderr)
}

fn listed(scene: &Scene) -> Vec<Value> {
    let (text, _) = said(scene, &["runs", "list", "--state-dir", "state", "--format", "json"], 0);
    serde_json::from_str(&text).expect("it is JSON")
}

fn outcomes(scene: &Scene) -> Vec<String> {
    listed(scene).iter().map(|run| run["outcome"].as_str().expect("a word").to_owned()).collect()
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

#[test]
fn a_killed_run_goes_on_and_gives_what_it_would_have_given() {
    let scene = scene();
    let record = killed(&scene);
    assert!(!scene.exists("out/sink.jsonl"));
    assert_eq!(record["set"], serde_json::json!([["input", "rows.csv"], ["factor", "3"]]));
    let died = listed(&scene).remove(0);
    assert_eq!((&died["outcome"], &died["seconds"]), (&"died".into(), &Value::Null));
    // Killed once more, when it has gone on for a while.
    let before = scene.called().len();
    let going = scene.run().args(&["--resume", "--workers", "2"]).start();
    until("some more is done", PATIENCE, || scene.called().len() >= before + 10);
    going.signal(Signal::KILL);
    going.end();
    scene.until_gone(Duration::from_secs(5));

    let ran = scene.run().args(&["--workers", "1", "--resume"]).ends_with(0);
    ran.says(&["which goes on with ", "checkpoint of `worked`: ", " of 60 batches reused"]);
    assert!(!ran.stderr.contains("warning"), "{}", ran.stderr);
    let runs = listed(&scene);
    assert_eq!(outcomes(&scene), ["succeeded", "died", "died"]);
    assert_eq!((&runs[0]["resumes"], &runs[1]["resumes"]), (&runs[1]["id"], &runs[2]["id"]));
    // Of two deaths: two workers, each with an attempt and the next one, and what of theirs is on the way to the disk.
    assert!(scene.called().len() <= 60 + 2 * 8, "{} batches were done", scene.called().len());

    let resumed = scene.read("out/sink.jsonl");
    assert_eq!(resumed.lines().count(), 600);
    let row: Value = serde_json::from_str(resumed.lines().last().expect("there are rows")).expect("it is JSON");
    assert_eq!(row["n"], 599 * 3);
    let now = record["now"].as_str().expect("a time");
    assert!(row["at"].as_str().expect("a time").starts_with(&now[..23]), "{row} is not of {now}");

    // The same without any earlier work.
    said(&scene, &["runs", "prune", "--state-dir", "state", "--checkpoints"], 0);
    std::fs::remove_file(scene.path("out/sink.jsonl")).expect("it is there");
    let before = scene.called().len();
    let first = id(&runs[2]);
    scene.run().args(&["--resume", first]).ends_with(0).says(&["0 of 60 batches reused"]);
    assert_eq!(scene.called().len(), before + 60);
    assert!(scene.read("out/sink.jsonl") == resumed, "other bytes");
}

#[test]
fn what_a_resumed_run_keeps_is_not_as_old_as_its_now() {
    let scene = scene();
    scene.write("fail", "");
    given(&scene).ends_with(1);
    std::fs::remove_file(scene.path("fail")).expect("it is there");
    let file = format!("state/runs/{}/run.json", id(&listed(&scene)[0]));
    let mut record: Value = serde_json::from_str(&scene.read(&file)).expect("it is JSON");
    record["now"] = "2001-02-03T04:05:06Z".into();
    scene.write(&file, &record.to_string());
    scene.run().args(&["--resume"]).ends_with(0);
    assert!(scene.read("out/sink.jsonl").contains("\"at\":\"2001-02-03T04:05:06"));
    // The header of a record says when it was last needed, in seconds.
    let batches = std::fs::read(scene.path("state/checkpoints/batches")).expect("it is there");
    let needed = u64::from_le_bytes(batches[16..24].try_into().expect("eight bytes"));
    assert!(needed > 1_700_000_000, "{needed}");
}

#[test]
fn what_cannot_be_gone_on_with_is_refused_with_a_reason() {
    let scene = scene();
    let pipeline = scene.path("pipeline.yaml").display().to_string();
    scene.run().args(&["--resume"]).ends_with(2).says(&["there is no run of `", "without `--resume`"]);
    given(&scene).ends_with(0);
    let first = listed(&scene).remove(0);
    scene.run().args(&["--resume"]).ends_with(2).says(&["the newest run of", "has succeeded", id(&first)]);
    scene.run().args(&["--resume", id(&first)]).ends_with(2).says(&["the run of", "has succeeded"]);
    scene.run().args(&["--resume", "x"]).ends_with(2).says(&["begins with `x`", id(&first), "succeeded"]);
    scene.run().args(&["--resume", "--set", "factor=1"]).ends_with(2).says(&["cannot be used with"]);
    scene.run().args(&["--resume", "--seed", "1"]).ends_with(2).says(&["cannot be used with"]);

    scene.write("fail", "");
    scene.run().args(&["--set", "input=none.csv"]).ends_with(6);
    given(&scene).args(&["--set", "factor=4"]).ends_with(1);
    let runs = listed(&scene);
    assert_eq!(outcomes(&scene), ["failed", "failed", "succeeded"]);
    let century = &id(&first)[..2];
    let ran = scene.run().args(&["--resume", century]).ends_with(2);
    ran.says(&["more than one run", id(&runs[0]), "failed", id(&runs[2]), "succeeded"]);
    // Of another pipeline in the same state folder.
    scene.write("other.yaml", &scene.read("pipeline.yaml"));
    let ran = scene.run_of(&scene.path("other.yaml")).args(&["--resume", id(&first)]).ends_with(2);
    ran.says(&["is not one of `", "but of `", &pipeline]);
    std::fs::remove_file(scene.path("fail")).expect("it is there");
    // A beginning that only one has.
    scene.run().args(&["--resume", &id(&runs[0])[..id(&runs[0]).len() - 1]]).ends_with(0);
    assert!(scene.read("out/sink.jsonl").contains("\"n\":2396"));

    // Without its record nobody knows what it was given.
    let last = listed(&scene).remove(0);
    scene.write(&format!("state/runs/{}/run.json", id(&last)), "{\"version\":1,");
    scene.run().args(&["--resume", id(&last)]).ends_with(2).says(&["does not say what it was given"]);
    assert_eq!(listed(&scene)[0]["pipeline"], Value::Null);
}

#[test]
fn a_live_run_is_seen_and_neither_disturbed_nor_removed_nor_gone_on_with() {
    let scene = scene();
    let going = given(&scene).start();
    until("it works", PATIENCE, || !scene.called().is_empty());
    assert_eq!(outcomes(&scene), ["going on"]);
    let (table, _) = said(&scene, &["runs", "list", "--state-dir", "state"], 0);
    assert!(table.contains("going on") && table.contains("scene"), "{table}");
    scene.run().args(&["--resume"]).ends_with(6).says(&["is still going on"]);
    // Another run is refused, and leaves nothing that looks like one.
    given(&scene).ends_with(6).says(&["another run (process "]);
    let (removed, _) = said(&scene, &["runs", "prune", "--state-dir", "state", "--keep", "0"], 0);
    assert!(removed.starts_with("0 runs removed"), "{removed}");
    for dry_run in [None, Some("--dry-run")] {
        let arguments = ["runs", "prune", "--state-dir", "state", "--checkpoints"];
        let (_, refused) = said(&scene, &[&arguments, dry_run.as_slice()].concat(), 6);
        assert!(refused.contains(&format!("a run (process {})", going.pid())), "{refused}");
    }
    assert_eq!(outcomes(&scene), ["going on"]);
    // How it ends can be noted nowhere.
    let run = listed(&scene).remove(0);
    std::fs::create_dir(scene.path(&format!("state/runs/{}/outcome.json", id(&run)))).expect("a folder in ours");
    let ran = going.end();
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr);
    ran.says(&["error: `millpond runs` will not know how the run has ended: cannot write"]);
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), 600);
    scene.assert_clean();
    let run = listed(&scene).remove(0);
    assert_eq!((&run["outcome"], &run["published"]), (&"died".into(), &true.into()));
}

#[test]
fn runs_are_listed_with_what_they_came_to() {
    let stages = "
rows:
  read: in.csv
worked:
  from: rows
  python: { call: work:work, as: row }
  on_error: reject
sink:
  from: worked
  write: out.csv
";
    let module = "
import os, time
def work(row):
    if os.path.exists('wait'):
        open('waits', 'w').close()
        time.sleep(100)
    if row['n'] == 3:
        raise ValueError('three')
    return row
";
    let scene = Scene::new(stages, module);
    scene.write("in.csv", "n\n1\n3\n3\n");
    scene.run().ends_with(0);
    std::fs::rename(scene.path("in.csv"), scene.path("away")).expect("it is there");
    scene.run().ends_with(6);
    std::fs::rename(scene.path("away"), scene.path("in.csv")).expect("it is there");
    scene.write("wait", "");
    let going = scene.run().start();
    until("it waits", PATIENCE, || scene.exists("waits"));
    going.signal(Signal::TERM);
    until("it drains", PATIENCE, || scene.events().contains("\"draining\""));
    going.signal(Signal::TERM);
    assert_eq!(going.end().code(), Some(143));
    let runs = listed(&scene);
    let told = |run: &Value| (run["outcome"].clone(), run["exit_code"].clone(), run["rows_rejected"].clone());
    let expected = [("interrupted", 143, 0), ("failed", 6, 0), ("succeeded", 0, 2)];
    let expected = expected.map(|(word, code, rejected)| (word.into(), code.into(), rejected.into()));
    assert_eq!(runs.iter().map(told).collect::<Vec<_>>(), expected);
    assert!(runs.iter().all(|run| run["pipeline"] == "scene" && run["seconds"].is_f64()), "{runs:?}");
    // Nothing is kept from one that did not finish.
    std::fs::remove_file(scene.path("wait")).expect("it is there");
    let ran = scene.run().args(&["--resume"]).ends_with(0);
    ran.says(&["warning: no stage of `scene` has `checkpoint`", id(&runs[0]), "all is done again"]);

    let (table, _) = said(&scene, &["runs", "list", "pipeline.yaml", "--state-dir", "state"], 0);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["run", "started", "duration", "outcome", "pipeline", "rejected"]);
    assert_eq!((lines.len(), lines[4][0]), (5, id(&runs[2])));
    assert_eq!(lines[4][2..], [lines[4][2], "s", "succeeded", "scene", "2"]);
}

#[test]
fn runs_are_looked_for_where_they_should_be() {
    let scene = Scene::new("rows:\n  read: in.csv\nsink:\n  from: rows\n  write: out.csv\n", "");
    scene.write("in.csv", "n\n1\n");
    for command in ["list", "prune"] {
        let (_, error) = said(&scene, &["runs", command], 2);
        assert!(error.contains("there is no folder `.millpond` here: name a pipeline file"), "{error}");
        let (_, error) = said(&scene, &["runs", command, "--state-dir", "none"], 2);
        assert!(error.contains("there is no folder `none`"), "{error}");
        let (_, error) = said(&scene, &["runs", command, "none.yaml"], 2);
        assert!(error.contains("cannot read `none.yaml`"), "{error}");
        said(&scene, &["runs", command, "pipeline.yaml"], 0);
    }
    assert_eq!(said(&scene, &["runs", "list", "pipeline.yaml", "--format", "json"], 0).0, "[]\n");
    scene.write("elsewhere/other.yaml", &scene.read("pipeline.yaml").replace("name: scene", "name: other"));
    scene.write("elsewhere/in.csv", "n\n1\n");
    std::os::unix::fs::symlink(scene.path("pipeline.yaml"), scene.path("link.yaml")).expect("a link in ours");
    for pipeline in ["pipeline.yaml", "elsewhere/../link.yaml", "elsewhere/other.yaml"] {
        said(&scene, &["run", pipeline, "--state-dir", ".millpond"], 0);
    }
    let lines = |arguments: &[&str]| said(&scene, &[&["runs", "list"], arguments].concat(), 0).0.lines().count() - 1;
    assert_eq!(lines(&[]), 3);
    assert_eq!(lines(&["pipeline.yaml"]), 2);
    assert_eq!(lines(&["link.yaml", "--state-dir", ".millpond"]), 2);
    assert_eq!(lines(&["elsewhere/other.yaml", "--state-dir", ".millpond"]), 1);
    assert_eq!(said(&scene, &["runs", "list", "elsewhere/other.yaml"], 0).0, "");
}

#[test]
fn what_is_removed_is_told() {
    let scene = scene();
    for _ in 0..3 {
        given(&scene).ends_with(0);
    }
    let prune =
        |arguments: &[&str]| said(&scene, &[&["runs", "prune", "--state-dir", "state"], arguments].concat(), 0).0;
    assert!(prune(&[]).starts_with("0 runs removed, 3 of the finished ones stay"));
    assert!(prune(&["--older-than", "1d"]).starts_with("0 runs removed, 3 of the finished ones stay"));
    let dry = prune(&["--keep", "1", "--checkpoints", "--dry-run"]);
    assert_eq!((listed(&scene).len(), scene.exists("state/checkpoints/batches")), (3, true));
    let oldest = listed(&scene).remove(2);
    assert!(dry.contains("would remove the checkpoints, ") && dry.contains("2 runs to remove"), "{dry}");
    let removed = prune(&["--keep", "1", "--checkpoints"]);
    assert!(removed.contains(&format!("removed {}  succeeded  scene  ", id(&oldest))), "{removed}");
    let freed = |text: &str| text.lines().find_map(|line| Some(line.split_once("freed: ")?.1.to_owned()));
    assert_eq!(freed(&dry), freed(&removed));
    assert_eq!((listed(&scene).len(), scene.exists("state/checkpoints")), (1, false));
    assert!(prune(&["--older-than", "0s", "pipeline.yaml"]).contains("1 run removed, 0"));
    assert_eq!(listed(&scene).len(), 0);
    // A run that died stays until nothing is left to be done for it.
    killed(&scene);
    let removed = prune(&["--keep", "0"]);
    assert!(removed.contains("1 run that died stays"), "{removed}");
    assert_eq!(outcomes(&scene), ["died"]);
}

#[test]
fn a_run_that_cannot_begin_leaves_no_folder_of_a_run() {
    let scene = scene();
    let text = scene.read("pipeline.yaml").replace("checkpoint: true", "checkpoint: { depends: nothing.bin }");
    scene.write("pipeline.yaml", &text);
    given(&scene).ends_with(6).says(&["nothing.bin"]);
    assert!(!scene.exists("state/runs"));
    assert_eq!(scene.read("state/.gitignore"), "*\n");
}
