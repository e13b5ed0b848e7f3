//! Runs of a part of a pipeline: stages that are left out, and stages that are asked for.

mod support;

use support::{Scene, numbers};

const STAGES: &str = "
numbers: { read: numbers.csv }
large: { when: '${{ params.large }}', from: numbers, sql: SELECT n * 1000 AS n FROM numbers }
both: { from: [numbers, large], command: { run: [cat], input: csv, output: csv } }
together: { from: [numbers, large], sql: SELECT numbers.n FROM numbers JOIN large ON large.n = 1000 * numbers.n }
large_out: { from: large, write: large.csv }
joined: { from: together, write: joined.csv }
as_csv: { when: \"${{ params.kind == 'csv' }}\", from: both, write: { path: out, format: csv } }
as_jsonl: { when: \"${{ params.kind == 'jsonl' }}\", from: both, write: { path: out, format: jsonl } }
tell: { after: large, command: [touch, told] }
";

fn scene() -> Scene {
    let params = "params: { large: { type: boolean, default: false }, kind: { type: string, default: csv } }\n";
    let scene = Scene::with_python(params, STAGES, "");
    scene.write("numbers.csv", &numbers(1..=50_000));
    scene
}

fn left_out(scene: &Scene) -> Vec<(String, String)> {
    let summary = scene.summary();
    let stages = summary["left_out"].as_object().expect("an object").iter();
    stages.map(|(name, why)| (name.clone(), why.as_str().expect("words").to_owned())).collect()
}

#[test]
fn what_needs_rows_of_a_stage_is_left_out_with_it() {
    let scene = scene();
    scene.run().ends_with(0).says(&["left out: `large`, as its `when` is false"]);
    let because = "it needs rows of `large`, which is left out";
    let expected = [
        ("as_jsonl", "its `when` is false"),
        ("joined", "it needs rows of `together`, which is left out"),
        ("large", "its `when` is false"),
        ("large_out", because),
        ("together", because),
    ];
    assert_eq!(left_out(&scene), expected.map(|(name, why)| (name.to_owned(), why.to_owned())));
    assert_eq!(scene.read("out"), numbers(1..=50_000));
    assert!(scene.exists("told") && !scene.exists("large.csv"));

    scene.run().args(&["--set", "large=true", "--set", "kind=jsonl"]).ends_with(0);
    assert_eq!(left_out(&scene), [("as_csv".to_owned(), "its `when` is false".to_owned())]);
    assert_eq!(scene.read("out").lines().last(), Some("{\"n\":50000000}"));
    assert_eq!(scene.read("joined.csv").lines().count(), 50_001);
}

#[test]
fn a_run_of_which_nothing_is_left_succeeds() {
    let stages = "numbers: { read: nowhere.csv }\nout: { when: false, from: numbers, write: out.csv }\n";
    let scene = Scene::with_python("", stages, "");
    scene.run().ends_with(0).says(&["left out: `numbers`, as nobody reads its rows", "left out: `out`"]);
}

#[test]
fn rejected_rows_are_shown_however_many_there_are() {
    let stages = "
numbers: { read: numbers.csv }
parts: { from: numbers, sql: SELECT 10 / (n - 1) AS n FROM numbers, on_error: { reject: { max_rows: 0 } } }
out: { from: parts, write: out.csv }
";
    let scene = Scene::with_python("", stages, "");
    scene.write("numbers.csv", &numbers(1..=5));
    scene.run().ends_with(4);
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
    let shown = program.arg("show").arg(scene.path("pipeline.yaml")).arg("parts.rejected").output();
    let shown = shown.expect("the program starts");
    let text = String::from_utf8(shown.stdout).expect("text");
    assert!(shown.status.success() && text.contains("division by zero") && text.ends_with("1 row\n"), "{text}");
}

#[test]
fn rows_of_a_stage_are_shown() {
    let scene = scene();
    let show = |args: &[&str]| {
        let pipeline = scene.path("pipeline.yaml");
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
        let shown = program.arg("show").arg(pipeline).args(args).output().expect("the program starts");
        (
            shown.status.code(),
            String::from_utf8(shown.stdout).expect("text"),
            String::from_utf8(shown.stderr).expect("text"),
        )
    };
    let (code, shown, said) = show(&["both", "--limit", "2"]);
    assert_eq!((code, shown.as_str(), said.as_str()), (Some(0), "n\nint64\n-----\n1\n2\n2 rows\n", ""));
    assert_eq!(show(&["numbers", "--limit", "3", "--format", "csv"]).1, numbers(1..=3));
    assert_eq!(show(&["both", "--format", "jsonl"]).1.lines().count(), 20);
    for name in ["out", "told", "joined.csv"] {
        assert!(!scene.exists(name), "{name}");
    }
    let refused =
        |args: &[&str], why: &str| assert_eq!(show(args), (Some(2), String::new(), format!("error: {why}\n")));
    refused(&["large"], "the stage `large` is left out: its `when` is false");
    refused(&["numbres"], "there is no stage `numbres` (did you mean `numbers`?)");
    // What a `foreach` makes has one name.
    let yaml = scene.read("pipeline.yaml");
    let made = "  made:\n    foreach: { n: [1, 2, 3] }\n    from: numbers\n    write: 'out/${{ each.n }}.csv'\n";
    scene.write("pipeline.yaml", &format!("{yaml}{made}"));
    assert_eq!(show(&["nope"]).2.matches("`made`").count(), 1);
    scene.write("pipeline.yaml", &yaml);
    refused(&["joined"], "the stage `joined` gives no rows that could be shown");
    refused(&["tell"], "the stage `tell` gives no rows that could be shown");
}

#[test]
fn a_run_until_a_stage_does_no_more_than_that_needs() {
    let scene = scene();
    let ran = scene.run().args(&["--until", "both"]).ends_with(0);
    assert_eq!(ran.stdout.lines().count(), 50_000);
    assert_eq!(ran.stdout.lines().nth(1), Some("{\"n\":2}"));
    assert!(ran.stderr.contains("\nboth ") && !ran.stderr.contains(":shown"), "{}", ran.stderr);
    assert!(!scene.exists("out") && !scene.exists("told"));
    let ran = scene.run().args(&["--set", "large=true", "--until", "large_out"]).ends_with(0);
    assert_eq!(ran.stdout, "");
    assert!(scene.exists("large.csv") && !scene.exists("out") && !scene.exists("joined.csv"));
    scene.run().args(&["--until", "tell"]).ends_with(0);
    assert!(scene.exists("told"));
    scene.run().args(&["--until", "nobody"]).ends_with(2).says(&["there is no stage `nobody`"]);
}
