//! The definitions for continuous integration do what they say: their scripts are run as a workflow would run them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_yaml::Value;

const MILLPOND: &str = env!("CARGO_BIN_EXE_millpond");

fn definition(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    serde_yaml::from_str(&fs::read_to_string(path).expect("the file is there")).expect("it is YAML")
}

/// Runs the script of a step with these values for its variables, all of which must be given.
fn step(name: &str, values: &[(&str, &str)], folder: &Path) -> Output {
    let action = definition("action.yml");
    let steps = action["runs"]["steps"].as_sequence().expect("steps");
    let step = steps.iter().find(|step| step["name"] == name).expect("the step is there");
    let names: Vec<&str> = step["env"].as_mapping().expect("variables").keys().filter_map(Value::as_str).collect();
    let values: BTreeMap<&str, &str> = values.iter().copied().collect();
    let missing: Vec<_> = names.iter().filter(|name| !values.contains_key(**name)).collect();
    assert!(missing.is_empty(), "{missing:?}");
    // As GitHub starts `shell: bash`.
    let mut bash = Command::new("bash");
    bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"].as_str().expect("a script")]);
    bash.env_remove("GITHUB_STEP_SUMMARY").envs(values).current_dir(folder).output().expect("bash starts")
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::create_dir(folder.path().join("flows")).expect("a folder");
    let sound = "version: 1\nparams: { n: { type: integer, default: 1 } }\nstages:\n  a: { sql: SELECT $n AS n }\n  b: { from: a, write: out.csv }\n";
    fs::write(folder.path().join("flows/a b.yaml"), sound).expect("a file");
    folder
}

#[test]
fn the_action_checks_what_its_pattern_matches() {
    let folder = folder();
    let check = |files| step("Check", &[("MILLPOND", MILLPOND), ("FILES", files)], folder.path());
    assert_eq!(check("flows/**/*.yaml").status.code(), Some(0));
    fs::write(folder.path().join("flows/c.yaml"), "version: 1\nstagse: {}\n").expect("a file");
    let wrong = check("flows/**/*.yaml");
    assert_eq!(wrong.status.code(), Some(3));
    let said = String::from_utf8_lossy(&wrong.stdout).into_owned();
    assert!(said.starts_with("::error file=flows/c.yaml,line="), "{said}");
    assert_eq!(check("nothing/*.yaml").status.code(), Some(2));
}

#[test]
fn the_action_runs_tests() {
    let folder = folder();
    let junit = folder.path().join("tests.xml").display().to_string();
    let test = |files| step("Test", &[("MILLPOND", MILLPOND), ("FILES", files), ("JUNIT", &junit)], folder.path());
    let tests =
        |n| format!("version: 1\npipeline: a b.yaml\ntests: {{ one: {{ expect: {{ a: [{{ n: {n} }}] }} }} }}\n");
    fs::write(folder.path().join("flows/t.test.yaml"), tests(1)).expect("a file");
    assert_eq!(test("flows/*.test.yaml").status.code(), Some(0));
    assert!(fs::read_to_string(&junit).expect("a report").contains("failures=\"0\""));
    fs::write(folder.path().join("flows/t.test.yaml"), tests(2)).expect("a file");
    assert_eq!(test("flows").status.code(), Some(1));
    assert_eq!(test("nothing/*.yaml").status.code(), Some(2));
}

#[test]
fn the_action_runs_a_pipeline_and_says_where_its_summary_is() {
    let folder = folder();
    let place = |name: &str| folder.path().join(name).display().to_string();
    let (output, summary) = (place("output"), place("summary.json"));
    let values = [
        ("MILLPOND", MILLPOND),
        ("FILE", "flows/a b.yaml"),
        ("ARGUMENTS", "--set n=7 --progress none"),
        ("SUMMARY", &summary),
        ("GITHUB_OUTPUT", &output),
    ];
    let ran = step("Run", &values, folder.path());
    assert_eq!(ran.status.code(), Some(0), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(fs::read_to_string(folder.path().join("flows/out.csv")).expect("the output"), "n\n7\n");
    assert_eq!(fs::read_to_string(&output).expect("an output"), format!("summary={summary}\n"));
    assert!(fs::read_to_string(&summary).expect("a summary").contains("\"exit_code\": 0"));
}

#[test]
fn the_hook_is_a_command_of_the_program() {
    let hooks = definition(".pre-commit-hooks.yaml");
    let entry = hooks[0]["entry"].as_str().expect("an entry");
    let folder = folder();
    let arguments = entry.strip_prefix("millpond ").expect("the program that cargo installs").split(' ');
    let checked = Command::new(MILLPOND).args(arguments).arg("flows/a b.yaml").current_dir(folder.path()).output();
    assert_eq!(checked.expect("the program starts").status.code(), Some(0));
}
