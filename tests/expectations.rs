//! `expect`: what the rows of a stage must be like, and what becomes of those that are not.

mod support;

use std::fmt::Write as _;

use support::{Ran, Scene};

/// Ids from 1, of which every tenth has no value, and stars, of which every hundredth row has 9.
fn reviews(rows: u64) -> String {
    let mut text = String::from("id,stars,text\n");
    for row in 1..=rows {
        let id = if row % 10 == 0 { String::new() } else { row.to_string() };
        let stars = if row % 100 == 1 { 9 } else { row % 5 + 1 };
        let _ = writeln!(text, "{id},{stars},review {row}");
    }
    text
}

fn scene(expect: &str) -> Scene {
    let scene = Scene::new(
        &format!(
            "reviews:\n  read: in.csv\n  batch: {{ rows: 64 }}\n{expect}\nout: {{ from: reviews, write: out/out.csv }}"
        ),
        "",
    );
    scene.write("in.csv", &reviews(1000));
    scene
}

fn rows(text: &str) -> usize {
    text.lines().count() - 1
}

#[test]
fn rows_that_are_not_as_expected_go_their_own_way() {
    let stages = "  expect: { where: stars BETWEEN 1 AND 5, not_null: id }\n  on_error: reject
bad: { from: reviews.unexpected, write: out/bad.jsonl }";
    let scene = scene(stages);
    let mut seen = Vec::new();
    for workers in ["1", "2"] {
        scene.run().args(&["--workers", workers]).ends_with(0);
        seen.push((scene.read("out/out.csv"), scene.read("out/bad.jsonl")));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!(rows(&seen[0].0), 1000 - 100 - 10);
    let bad: Vec<serde_json::Value> =
        seen[0].1.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(bad.len(), 110);
    let first = &bad[0];
    assert_eq!((&first["_stage"], &first["_row"]), (&"reviews".into(), &1.into()));
    assert_eq!(first["_message"], "it is not true that stars BETWEEN 1 AND 5");
    assert_eq!(bad[1]["_message"], "`id` is null");
    assert!(bad.iter().all(|row| row["_verdict"] == "contract" && row["_file"] == "in.csv"));
    let places: Vec<u64> = bad.iter().map(|row| row["_row"].as_u64().expect("a row")).collect();
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn without_on_error_the_first_such_row_ends_the_run() {
    let ran = scene("  expect: { not_null: [stars, id] }").run().ends_with(4);
    ran.says(&["stage `reviews.expect` failed (contract): `id` is null", "in.csv, row 10"]);
}

#[test]
fn skipped_rows_and_limits_are_as_for_rows_that_fail() {
    let skipped = scene("  expect: { where: stars < 9 }\n  on_error: skip");
    skipped.run().ends_with(0);
    assert_eq!(rows(&skipped.read("out/out.csv")), 990);
    assert_eq!(skipped.summary()["stages"][1]["account"]["skipped"], 10);
    let limited = scene("  expect: { where: stars < 9 }\n  on_error: { reject: { max_rows: 9 } }");
    limited.run().ends_with(4).says(&["10 rows have failed, and `on_error` allows 9"]);
    assert!(!limited.exists("out/out.csv"));
    let part = scene("  expect: { where: stars < 9 }\n  on_error: { reject: { max_fraction: 0.009 } }");
    part.run().ends_with(4).says(&["10 rows have failed of 1000, and `on_error` allows 0.9 %"]);
}

#[test]
fn a_condition_that_is_null_is_not_fulfilled_and_params_are_values() {
    let scene = scene("  expect: { where: [id > 0, \"stars <= $most\"] }\n  on_error: skip");
    let pipeline =
        scene.read("pipeline.yaml").replace("stages:", "params: { most: { type: integer, default: 9 } }\nstages:");
    scene.write("pipeline.yaml", &pipeline);
    scene.run().ends_with(0);
    assert_eq!(rows(&scene.read("out/out.csv")), 900);
    scene.run().args(&["--set", "most=0"]).ends_with(0);
    assert_eq!(rows(&scene.read("out/out.csv")), 0);
}

#[test]
fn keys_are_unique_or_the_run_fails() {
    let scene = scene("  expect: { unique: [text, stars] }");
    scene.run().ends_with(0);
    scene.write("in.csv", &(reviews(1000) + "7,3,review 7\n7,3,review 7\n"));
    let ran = scene.run().ends_with(4);
    ran.says(&["3 rows have `text` = review 7 and `stars` = 3, and `expect` wants it to be unique"]);
    // What is not unique is none of those that are left out.
    let pipeline = scene.read("pipeline.yaml").replace("unique:", "where: text <> 'review 7', unique:");
    scene.write("pipeline.yaml", &pipeline.replace("batch:", "on_error: skip\n    batch:"));
    scene.run().ends_with(0);
    // It is checked for whoever is asked for.
    scene.write("pipeline.yaml", &pipeline.replace("text <> 'review 7'", "stars < 10"));
    scene.run().args(&["--until", "out"]).ends_with(4);
}

#[test]
fn there_are_as_many_rows_as_expected() {
    let run = |limits: &str| -> Ran { scene(&format!("  expect: {{ rows: {limits} }}")).run().end() };
    for (limits, code) in [("{ min: 1000 }", 0), ("{ max: 1000 }", 0), ("{ min: 1001 }", 4), ("{ max: 999 }", 4)] {
        assert_eq!(run(limits).code(), Some(code), "{limits}");
    }
    run("{ min: 1001 }").says(&["there are 1000 rows, and `expect` wants at least 1001"]);
    // Where nobody wants them all, nobody knows.
    let some = scene("  expect: { rows: { min: 1001 } }");
    let pipeline = some.read("pipeline.yaml").replace("from: reviews, write", "from: first, write");
    some.write("pipeline.yaml", &(pipeline + "  first: { from: reviews, sql: SELECT * FROM reviews LIMIT 3 }\n"));
    some.run().ends_with(0);
}

#[test]
fn types_are_those_that_are_expected() {
    scene("  expect: { schema: { id: int64, text: string } }").run().ends_with(0);
    // Known before the run.
    let ran = scene("  expect: { schema: { id: string } }").run().ends_with(3);
    ran.says(&["the column `id` is int64, and `expect` wants string"]);
    // Not known before it.
    let made = Scene::new(
        "rows: { python: \"work:rows\", expect: { schema: { n: string } } }\nout: { from: rows, write: out/out.csv }",
        "def rows():\n    yield {'n': 1}\n",
    );
    made.run().ends_with(4).says(&["the column `n` is int64, and `expect` wants string"]);
    let missing = made.read("pipeline.yaml").replace("schema: { n: string }", "not_null: m");
    made.write("pipeline.yaml", &missing);
    made.run().ends_with(4).says(&["there is no column `m`, and `expect` names it"]);
}

#[test]
fn sinks_expect_something_of_what_they_are_given() {
    let scene = Scene::new(
        "a: { read: in.csv }
b: { read: in.csv }
out: { from: [a, b], write: out/out.csv, expect: { where: stars < 9 }, on_error: reject }
unexpected: { from: out.unexpected, write: out/unexpected.csv }",
        "",
    );
    scene.write("in.csv", &reviews(100));
    scene.run().ends_with(0);
    assert_eq!((rows(&scene.read("out/out.csv")), rows(&scene.read("out/unexpected.csv"))), (198, 2));
    let pipeline = scene.read("pipeline.yaml").replace("expect: {", "when: false, expect: { unique: id,");
    scene.write("pipeline.yaml", &pipeline.replace("from: out.unexpected", "from: a"));
    scene.run().ends_with(0).says(&["`when` is false"]);
}

#[test]
fn stages_with_foreach_and_ports_of_commands_have_expectations() {
    let scene = Scene::new(
        "part:
  foreach: { n: [1, 2] }
  command: { run: [seq, \"${{ each.n }}\"], output: lines }
  expect: { where: line <> '2' }
  on_error: skip
out: { from: part, write: out/out.txt }",
        "",
    );
    scene.run().ends_with(0);
    assert_eq!(scene.read("out/out.txt"), "1\n1\n");
}

#[test]
fn a_port_that_there_is_not_is_told_from_the_one_that_is_meant() {
    let scene =
        scene("  expect: { where: stars < 9 }\n  on_error: reject\nbad: { from: reviews.rejected, write: bad.jsonl }");
    // Of text, a source may reject rows by itself.
    let yaml = scene.read("pipeline.yaml").replace("read: in.csv", "read: in.parquet");
    scene.write("pipeline.yaml", &yaml);
    scene.run().ends_with(3).says(&["stage `reviews` has no port `rejected`", "`reviews.unexpected`"]);
}
