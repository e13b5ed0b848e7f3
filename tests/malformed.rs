//! Malformed rows of sources: `on_error: skip` and `reject` go on without them.

mod support;

use std::fs;
use std::io::Write as _;

use serde_json::{Value, json};
use support::{Scene, contents};

const STAGES: &str = "rows:
  read: { path: IN, schema: { n: int64 } }
  on_error: reject
good:
  from: rows
  write: out/good.jsonl
bad:
  from: rows.rejected
  write: out/bad.jsonl
";

fn scene(path: &str) -> Scene {
    Scene::with_python("", &STAGES.replace("IN", path), "")
}

fn with_on_error(path: &str, on_error: &str) -> Scene {
    let stages = STAGES.replace("IN", path).replace("on_error: reject", &format!("on_error: {on_error}"));
    Scene::with_python("", stages.split("bad:").next().expect("there is a part before it"), "")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

/// The numbers of the good rows; texts, files and rows of the bad ones.
fn given(scene: &Scene) -> (Vec<i64>, Vec<(String, String, u64)>) {
    let good = lines(&scene.read("out/good.jsonl")).iter().map(|row| row["n"].as_i64().expect("a number")).collect();
    (good, bad(&scene.read("out/bad.jsonl")))
}

fn bad(text: &str) -> Vec<(String, String, u64)> {
    let text_of = |row: &Value, key: &str| row[key].as_str().expect("a text").to_owned();
    let row = |row: &Value| (text_of(row, "text"), text_of(row, "_file"), row["_row"].as_u64().expect("a number"));
    lines(text).iter().map(row).collect()
}

fn place(text: &str, file: &str, row: u64) -> (String, String, u64) {
    (text.to_owned(), file.to_owned(), row)
}

fn rejected_file(scene: &Scene) -> Option<String> {
    let run = fs::read_dir(scene.path("state/runs")).expect("there was a run").next()?.expect("it is readable");
    fs::read_to_string(run.path().join("rejected/rows.jsonl")).ok()
}

fn account(scene: &Scene, stage: &str) -> (Value, Value, Value) {
    let summary = scene.summary();
    let stages = summary["stages"].as_array().expect("stages");
    let account = &stages.iter().find(|of| of["stage"] == stage).expect("the stage")["account"];
    (account["rows_out"].clone(), account["rejected"].clone(), account["skipped"].clone())
}

#[test]
fn good_rows_go_on_and_bad_ones_tell_what_is_wrong_with_them() {
    let scene = scene("in/*.csv");
    scene.write("in/0.csv", "n,s\nfirst,x\n1,\"a\nb\"\n2\n3,c\n");
    scene.write("in/1.csv", "n,s\n4,d\n5,e,f\n6,g\nlast,\"h,i\"\n");
    scene.write("in/2.csv", "n,s\nall,x\nbad\n");
    scene.run().ends_with(0).says(&["rejected"]);
    let (good, bad) = given(&scene);
    assert_eq!(good, [1, 3, 4, 6]);
    let expected = [
        place("first,x", "in/0.csv", 1),
        place("2", "in/0.csv", 3),
        place("5,e,f", "in/1.csv", 2),
        place("last,\"h,i\"", "in/1.csv", 4),
        place("all,x", "in/2.csv", 1),
        place("bad", "in/2.csv", 2),
    ];
    assert_eq!(bad, expected);
    let first = &lines(&scene.read("out/bad.jsonl"))[0];
    let expected = json!({
        "text": "first,x", "_stage": "rows", "_verdict": "schema", "_traceback": null, "_attempts": 1,
        "_message": "column `n` holds \"first\", which is not int64", "_file": "in/0.csv", "_row": 1,
    });
    assert_eq!(*first, expected);
    assert_eq!(account(&scene, "rows"), (json!(4), json!(6), json!(0)));
    let events = lines(&scene.events());
    let told = events.iter().filter(|event| event["event"] == "rejected").map(|event| event["rows"].as_u64());
    assert_eq!(told.map(Option::unwrap_or_default).sum::<u64>(), 6, "{events:?}");
    scene.assert_clean();
}

#[test]
fn lines_and_objects_that_are_none_are_rejected() {
    let cases = [
        ("in.jsonl", "{\"n\":1}\n{\"n\":\n\n[2]\nthree\n{\"n\":\"4\\u0021\"}\n{\"n\":5,\"new\":[\"\"]}\n"),
        ("in.json", "[{\"n\":1}, {\"n\": nothing},\n {\"n\":[2]}, {\"n\":1,\"n\":2}, {}, {\"n\":5}]"),
    ];
    let expected = [
        (
            vec![1, 5],
            vec![
                place("{\"n\":", "in.jsonl", 2),
                place("[2]", "in.jsonl", 3),
                place("three", "in.jsonl", 4),
                place("{\"n\":\"4\\u0021\"}", "in.jsonl", 5),
            ],
        ),
        (
            vec![1, 5],
            vec![
                place("{\"n\": nothing}", "in.json", 2),
                place("{\"n\":[2]}", "in.json", 3),
                place("{\"n\":1,\"n\":2}", "in.json", 4),
            ],
        ),
    ];
    for ((name, text), expected) in cases.into_iter().zip(expected) {
        let scene = scene(name);
        scene.write(name, text);
        scene.run().ends_with(0);
        let good = lines(&scene.read("out/good.jsonl"));
        let good: Vec<_> = good.iter().filter_map(|row| row["n"].as_i64()).collect();
        assert_eq!((good, bad(&scene.read("out/bad.jsonl"))), expected);
    }
}

/// Rows of which some are bad, more than are read ahead at once.
fn many(file: u64) -> String {
    let row = |row: u64| match row % 977 {
        5 => format!("x{row},a\n"),
        6 => format!("{row}\n"),
        _ => format!("{row},\"text {row}\"\n"),
    };
    "n,s\n"
        .chars()
        .chain((file * 50_000..(file + 1) * 50_000).flat_map(|at| row(at).chars().collect::<Vec<_>>()))
        .collect()
}

#[test]
fn the_number_of_workers_changes_nothing() {
    let scene = scene("[in/0.csv, in/1.csv.gz, in/2.csv]");
    for file in 0..3 {
        let text = many(file);
        let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(text.as_bytes()).expect("memory");
        match file {
            1 => fs::write(scene.path("in/1.csv.gz"), packed.finish().expect("memory")).expect("a file in our folder"),
            _ => drop(scene.write(&format!("in/{file}.csv"), &text)),
        }
    }
    let mut first = None;
    for workers in ["1", "2", "7"] {
        scene.run().args(&["--workers", workers]).ends_with(0);
        let out = contents(&scene.path("out"));
        assert!(first.get_or_insert_with(|| out.clone()) == &out, "{workers} workers");
    }
    let (good, bad) = given(&scene);
    let is_good = |row: &i64| row % 977 != 5 && row % 977 != 6;
    assert!(good.into_iter().eq((0..150_000).filter(is_good)));
    assert_eq!(bad.len(), (0..150_000).filter(|row| !is_good(row)).count());
    let number = |(text, _, row): &(String, String, u64)| {
        let digits: String = text.chars().filter(char::is_ascii_digit).collect();
        digits.parse::<u64>().expect("a number") % 50_000 + 1 == *row
    };
    assert!(bad.iter().all(number));
}

#[test]
fn rows_that_nobody_reads_are_written_down() {
    let scene = with_on_error("in.csv", "reject");
    scene.write("in.csv", "n,s\nx,1\n1,2\n");
    scene.run().ends_with(0);
    assert_eq!(bad(&rejected_file(&scene).expect("they are written down")), [place("x,1", "in.csv", 1)]);
    assert_eq!(account(&scene, "rows"), (json!(1), json!(1), json!(0)));
}

#[test]
fn rows_that_are_skipped_are_counted() {
    let scene = with_on_error("in.csv", "skip");
    scene.write("in.csv", "n,s\nx,1\n1,2\n3\n");
    scene.run().ends_with(0);
    assert_eq!(scene.read("out/good.jsonl"), "{\"n\":1,\"s\":2}\n");
    assert_eq!(account(&scene, "rows"), (json!(1), json!(0), json!(2)));
}

#[test]
fn a_file_of_bad_rows_alone_gives_no_rows() {
    let scene = scene("in.csv");
    scene.write("in.csv", "n,s\nx,1\ny,2\n");
    scene.run().ends_with(0).says(&["`rows` rejected all of its 2 rows"]);
    let (good, bad) = given(&scene);
    assert_eq!((good.len(), bad.len()), (0, 2));
}

#[test]
fn no_bad_rows_are_a_file_with_the_columns_of_bad_rows() {
    let stages = STAGES.replace("IN", "in.csv").replace("bad.jsonl", "bad.csv");
    let scene = Scene::with_python("", &stages, "");
    scene.write("in.csv", "n,s\n1,2\n");
    scene.run().ends_with(0);
    assert_eq!(scene.read("out/bad.csv"), "text,_stage,_verdict,_message,_traceback,_attempts,_file,_row\n");
}

#[test]
fn more_bad_rows_than_may_be_fail_the_run() {
    let rows: String =
        (0..30_000).map(|row| if row % 100 == 50 { "x,1\n".to_owned() } else { format!("{row},1\n") }).collect();
    let cases = [
        ("{ reject: { max_rows: 300 } }", 0, ""),
        ("{ skip: { max_fraction: 0.01 } }", 0, ""),
        ("{ reject: { max_rows: 4 } }", 4, "and `on_error` allows 4; the one too many: schema: column `n` holds \"x\""),
        ("{ skip: { max_fraction: 0.009 } }", 4, "300 rows have failed of 30000, and `on_error` allows 0.9 %"),
    ];
    for (on_error, code, said) in cases {
        let scene = with_on_error("in.csv", on_error);
        scene.write("in.csv", &format!("n,s\n{rows}"));
        let ran = scene.run().ends_with(code);
        ran.says(&[said]);
        assert_eq!(scene.exists("out/good.jsonl"), code == 0, "{on_error}");
        if on_error.contains("max_rows: 4") {
            ran.says(&["in.csv, row 451"]);
        }
        scene.assert_clean();
    }
}

#[test]
fn what_belongs_to_no_row_fails_the_run() {
    let scene = scene("in.csv");
    scene.write("in.csv", "n,s\n1,2\nx,\"3\n");
    scene.run().ends_with(6).says(&["a quoted field is not closed"]);
    let scene = self::scene("in.csv.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(many(0).as_bytes()).expect("memory");
    let packed = packed.finish().expect("memory");
    fs::write(scene.path("in.csv.gz"), &packed[..packed.len() / 2]).expect("a file in our folder");
    scene.run().ends_with(6).says(&["cut off"]);
}

#[test]
fn what_is_expected_has_a_port_of_its_own() {
    let stages = STAGES.replace("IN", "in.csv").replace("  on_error", "  expect: { where: n < 10 }\n  on_error");
    let scene =
        Scene::with_python("", &format!("{stages}wrong:\n  from: rows.unexpected\n  write: out/wrong.jsonl\n"), "");
    scene.write("in.csv", "n,s\nx,1\n1,2\n30,4\n");
    scene.run().ends_with(0);
    let (good, bad) = given(&scene);
    assert_eq!((good, bad), (vec![1], vec![place("x,1", "in.csv", 1)]));
    let wrong = &lines(&scene.read("out/wrong.jsonl"))[0];
    assert_eq!((&wrong["n"], &wrong["_row"], &wrong["_verdict"]), (&json!(30), &json!(3), &json!("contract")));
}

#[test]
fn a_trial_reads_no_more_than_it_needs() {
    let scene = scene("in.csv");
    let rows: String = (0..200_000).map(|row| format!("{row},1\n")).collect();
    scene.write("in.csv", &format!("n,s\nx,1\n{rows}y,\"2\n"));
    // The last row would fail the run.
    let ran = scene.run().args(&["--dry-run", "--sample", "3"]).ends_with(0);
    ran.says(&["good"]);
    assert!(!scene.exists("out"));
}

#[test]
fn batches_that_were_done_are_not_done_again() {
    let module = "def work(row):\n    if row['n'] == 4 and not __import__('os').path.exists('mended'): raise ValueError('not yet')\n    return row\n";
    let stages = STAGES.replace("IN", "in/*.csv").replace("from: rows\n", "from: worked\n");
    let worked = "worked:\n  from: rows\n  python: { call: work:work, as: row }\n  checkpoint: true\n";
    let scene = Scene::new(&format!("{stages}{worked}"), module);
    scene.write("in/0.csv", "n,s\nx,1\n1,2\n");
    scene.write("in/1.csv", "n,s\n4,5\n6\n");
    scene.run().ends_with(1);
    scene.write("mended", "");
    scene.run().args(&["--resume"]).ends_with(0);
    let (good, bad) = given(&scene);
    assert_eq!((good, bad), (vec![1, 4], vec![place("x,1", "in/0.csv", 1), place("6", "in/1.csv", 2)]));
    let summary = scene.summary();
    let stages = summary["stages"].as_array().expect("stages");
    assert_eq!(stages.iter().find(|of| of["stage"] == "worked").expect("the stage")["account"]["reused"], 1);
}
