//! Pipelines that are stages of others.

mod support;

use support::{Scene, numbers};

const CLEAN: &str = "version: 1
params:
  floor: { type: integer, default: 1 }
  out: { type: path, default: kept.csv }
inputs: [rows]
outputs: { good: scored, low: checked.unexpected }
python: { path: [code] }
stages:
  checked: { from: rows, sql: SELECT n FROM rows, expect: { where: n >= $floor }, on_error: reject }
  scored: { from: checked, python: 'score:score' }
  keep: { from: scored, write: '${{ params.out }}' }
";

const SCORE: &str = "import millpond
def score(row):
    return {**row, 'floor': millpond.params['floor']}
";

fn scene(stages: &str) -> Scene {
    let scene = Scene::new(stages, "");
    scene.write("in.csv", &numbers(1..=10));
    scene.write("steps/clean.yaml", CLEAN);
    scene.write("steps/code/score.py", SCORE);
    scene
}

#[test]
fn rows_go_in_and_out_and_everything_is_where_its_file_is() {
    let scene = scene(
        "rows: { read: in.csv }
first: { from: rows, pipeline: { file: steps/clean.yaml, params: { floor: 3, out: first.csv } } }
second: { from: { rows: first.good }, pipeline: { file: steps/clean.yaml, params: { floor: 6 } } }
out: { from: second.good, write: out/out.csv }
low: { from: [first.low, second.low], sql: 'SELECT first_low.n, _stage FROM first_low UNION ALL SELECT second_low.n, _stage FROM second_low' }
publish: { from: low, write: out/low.csv }",
    );
    scene.run().args(&["--workers", "2"]).ends_with(0);
    let expected = |floor: u64| -> String {
        std::iter::once("n,floor\n".to_owned()).chain((floor..=10).map(|n| format!("{n},{floor}\n"))).collect()
    };
    assert_eq!(scene.read("out/out.csv"), expected(6));
    assert_eq!((scene.read("first.csv"), scene.read("steps/kept.csv")), (expected(3), expected(6)));
    let mut low: Vec<String> = scene.read("out/low.csv").lines().skip(1).map(str::to_owned).collect();
    low.sort();
    let expected = ["1,first/checked", "2,first/checked", "3,second/checked", "4,second/checked", "5,second/checked"];
    assert_eq!(low, expected);
    let shown = scene.run().args(&["--until", "second/scored"]).ends_with(0);
    assert!(shown.stdout.starts_with("{\"n\":6,\"floor\":6}\n"), "{}", shown.stdout);
}

#[test]
fn they_can_be_many_left_out_waited_for_and_inside_each_other() {
    let scene = scene(
        "rows: { read: in.csv }
part:
  foreach: { floor: [9, 10] }
  from: rows
  pipeline: { file: steps/outer.yaml, params: { floor: '${{ each.floor }}' } }
none: { from: rows, when: false, pipeline: steps/clean.yaml }
all: { from: part, write: out/all.csv }
after: { after: part, command: [sh, -c, 'cat out/seen'] }",
    );
    scene.write(
        "steps/outer.yaml",
        "version: 1
params: { floor: { type: integer } }
inputs: [numbers]
outputs: { result: inner }
stages:
  inner: { from: numbers, pipeline: { file: inner.yaml, params: { least: '${{ params.floor }}' } } }
",
    );
    scene.write(
        "steps/inner.yaml",
        "version: 1
params: { least: { type: integer, max: 10 } }
inputs: [x]
outputs: { out: late }
stages:
  some: { from: x, sql: SELECT n FROM x WHERE n >= $least }
  late: { from: some, command: { shell: 'mkdir -p ../out; touch ../out/seen; cat', input: csv, output: csv } }
",
    );
    scene.run().args(&["--workers", "2"]).ends_with(0).says(&["`when` is false"]);
    assert_eq!(scene.read("out/all.csv"), "n\n9\n10\n10\n");
    assert!(!scene.exists("steps/kept.csv"));
}

#[test]
fn what_is_wrong_inside_and_outside_has_its_place() {
    let scene = scene("");
    let wrong = |stages: &str, says: &[&str]| {
        scene.write("pipeline.yaml", &format!("version: 1\nstages:\n  rows: {{ read: in.csv }}\n{stages}"));
        let ran = scene.run().end();
        assert_eq!(ran.code(), Some(3), "{stages}\n{}", ran.stderr);
        ran.says(says);
    };
    let sink = "  out: { from: p.good, write: out.csv }\n";
    let p = |from: &str| format!("  p: {{ {from}pipeline: steps/clean.yaml }}\n{sink}");
    wrong(&p(""), &["the pipeline `p` is given no rows, and has input `rows`", "add `from: { rows: … }`"]);
    wrong(&p("from: { raws: rows }, "), &["the pipeline `p` has no input `raws`", "did you mean `rows`?"]);
    wrong(&p("from: nobody, "), &["stage `p` reads from `nobody`, which is no stage"]);
    wrong(&p("from: rows, workers: 2, "), &["`workers` has no meaning for a stage that is a pipeline"]);
    wrong(
        "  p: { from: rows, pipeline: steps/clean.yaml }\n  out: { from: p, write: out.csv }\n",
        &["the pipeline `p` has several outputs: say which", "read from `p.good` or `p.low`"],
    );
    wrong("  p: { from: rows, pipeline: steps/none.yaml }\n", &["cannot read `", "steps/none.yaml"]);
    scene.write(
        "steps/needs.yaml",
        "version: 1\nparams: { n: { type: integer } }\nstages: { a: { sql: SELECT $n AS n } }\n",
    );
    wrong(
        "  p: { pipeline: steps/needs.yaml }\n",
        &["the pipeline `p` needs a value for its param `n`", "params: { n: … }"],
    );
    wrong(
        "  p: { from: rows, pipeline: { file: steps/clean.yaml, params: { floor: x } } }\n",
        &["`floor=x`", "pipeline.yaml:4:"],
    );
    wrong(
        "  p: { from: rows, pipeline: { file: steps/clean.yaml, params: { flor: 3 } } }\n",
        &["the pipeline has no param `flor`", "did you mean `floor`?"],
    );
    scene.write("steps/clean.yaml", &CLEAN.replace("SELECT n FROM", "SELECT m FROM"));
    wrong(&p("from: rows, "), &["no column is named `m`", "steps/clean.yaml:9:"]);
    scene.write("steps/clean.yaml", &CLEAN.replace("good: scored", "good: stored"));
    wrong(&p("from: rows, "), &["which is no stage", "steps/clean.yaml:6:", "did you mean `scored`?"]);
    scene.write("steps/clean.yaml", &CLEAN.replace("good: scored", "good: rows"));
    wrong(&p("from: { rows: p.good }, "), &["the rows of", "are those of itself"]);
    let itself = "  me: { from: rows, pipeline: clean.yaml }\n";
    scene.write("steps/clean.yaml", &(CLEAN.to_owned() + itself));
    wrong(&p("from: rows, "), &["would be a part of itself"]);
}

#[test]
fn stages_inside_can_be_given_in_tests() {
    let scene = scene(
        "rows: { read: in.csv }
p: { from: rows, pipeline: { file: steps/clean.yaml, params: { floor: 3 } } }
out: { from: p.good, write: out/out.csv }",
    );
    scene.write(
        "pipeline.test.yaml",
        "version: 1
tests:
  inside:
    given: { p/checked: [{ n: 5 }, { n: 1 }] }
    expect: { out: [{ n: 5, floor: 3 }], p/checked.unexpected: [{ n: 1 }] }
  around:
    given: { p.good: [{ n: 7 }] }
    expect: { out: [{ n: 7 }] }
",
    );
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
    let tested = program.arg("test").arg(scene.path("pipeline.yaml")).output().expect("the program starts");
    assert!(tested.status.success(), "{}", String::from_utf8_lossy(&tested.stdout));
}
