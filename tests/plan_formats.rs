//! What `plan` and `run` tell programs.

mod support;

use std::process::{Command, Output};

use serde_json::Value;
use support::Scene;

const STAGES: &str = "
rows:
  read: rows.csv
more:
  read: missing.csv
picked:
  from: rows
  sql: SELECT n, n * 2.5 AS twice FROM rows
checked:
  from: picked
  checkpoint: true
  python: { call: \"work:work\", as: row }
sink:
  from: checked
  write: out/rows.jsonl
other:
  from: rows
  when: false
  write: out/other.jsonl
sunk:
  from: more
  write: out/more.jsonl
copied:
  command: { run: [cp, rows.csv, out/copy.csv], inputs: rows.csv, outputs: out/copy.csv }
";

fn scene() -> Scene {
    let scene = Scene::new(STAGES, "def work(row):\n    return row\n");
    scene.write("rows.csv", "n\n1\n2\n");
    scene
}

fn plan(scene: &Scene, format: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.args(["plan", "--format", format]).arg(scene.path("pipeline.yaml"));
    command.arg("--state-dir").arg(scene.path("state")).current_dir(scene.path("."));
    command.output().expect("the program starts")
}

fn report(output: &Output) -> Value {
    let report = serde_json::from_slice(&output.stdout).expect("one document");
    let schema = serde_json::from_str(include_str!("../schema/plan.schema.json")).expect("it is JSON");
    if let Err(error) = jsonschema::validate(&schema, &report) {
        panic!("{}: {error}", error.instance_path());
    }
    report
}

fn named<'v>(list: &'v Value, key: &str, name: &str) -> &'v Value {
    let mut items = list.as_array().expect("a list").iter();
    items.find(|item| item[key] == name).unwrap_or_else(|| panic!("no `{name}` in {list:#}"))
}

#[test]
fn a_plan_is_told_to_programs() {
    let scene = scene();
    let planned = plan(&scene, "json");
    assert!(planned.status.success() && planned.stderr.is_empty(), "{planned:?}");
    let report = report(&planned);
    let plan = &report["plan"];
    let picked = named(&plan["stages"], "stage", "picked");
    assert_eq!(
        picked["ports"][0]["columns"],
        serde_json::json!([{"name": "n", "type": "int64"}, {"name": "twice", "type": "float64"}])
    );
    assert_eq!(picked["ports"][0]["to"], serde_json::json!(["checked"]));
    assert_eq!(named(&plan["edges"], "to", "sink")["from"], "checked");
    assert!(plan["memory"]["bytes"].as_u64() > Some(0));
    assert!(plan["left_out"]["other"].is_string(), "{plan:#}");
    let missing = named(&plan["outlook"], "of", "source");
    assert_eq!(missing["stage"], "more");
    assert!(missing["says"].as_str().expect("text").contains("missing.csv"), "{missing}");
    assert_eq!(named(&plan["outlook"], "of", "task")["changed"], Value::Null);
    assert_eq!(named(&plan["outlook"], "of", "checkpoint")["stage"], "checked");
}

#[test]
fn people_are_told_which_source_cannot_be_looked_at() {
    let scene = scene();
    let text = String::from_utf8(plan(&scene, "human").stdout).expect("it is text");
    assert!(text.contains("source `more`: there is no file"), "{text}");
    assert!(!text.contains("source `rows`"), "{text}");
}

#[test]
fn mistakes_are_told_in_the_same_formats_as_by_validate() {
    let scene = scene();
    let yaml = scene.read("pipeline.yaml").replace("SELECT n,", "SELECT m,");
    scene.write("pipeline.yaml", &yaml);
    let planned = plan(&scene, "json");
    assert_eq!(planned.status.code(), Some(3));
    let told = report(&planned);
    assert_eq!(told["plan"], Value::Null);
    assert_eq!(told["diagnostics"][0]["code"], "plan::unknown_column");
    let planned = plan(&scene, "github");
    assert_eq!(planned.status.code(), Some(3));
    let annotations = String::from_utf8(planned.stdout).expect("it is text");
    assert!(annotations.starts_with("::error file="), "{annotations}");
    let sarif: Value = serde_json::from_slice(&plan(&scene, "sarif").stdout).expect("one document");
    assert_eq!(sarif["runs"][0]["results"][0]["ruleId"], "plan::unknown_column");
    let ran = scene.run().args(&["--format", "github"]).ends_with(3);
    assert!(ran.stderr.starts_with("::error file="), "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    let ran = scene.run().args(&["--format", "sarif"]).ends_with(3);
    let sarif: Value = serde_json::from_str(&ran.stderr).expect("one document");
    assert_eq!(sarif["version"], "2.1.0");
}
