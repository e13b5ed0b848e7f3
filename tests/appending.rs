//! Outputs that rows are appended to: all of them once, or none, whatever comes between.

mod support;

use std::fs;
use std::io::{Read as _, Write as _};
use std::time::Duration;

use millpond::run::fail_point::PUBLISH;
use support::Scene;

fn scene(sink: &str) -> Scene {
    Scene::with_python("", &format!("rows: {{ read: rows.csv }}\nsink: {{ from: rows, write: {sink} }}"), "")
}

#[test]
fn rows_come_behind_those_that_are_there() {
    let scene = scene("{ path: out/log.csv, mode: append }");
    scene.write("rows.csv", "n,t\n1,a\n");
    scene.run().ends_with(0);
    // The columns may come in another order, and the last line may have no end.
    scene.write("rows.csv", "t,n\nb,2\n");
    fs::write(scene.path("out/log.csv"), scene.read("out/log.csv").trim_end()).expect("ours");
    scene.run().ends_with(0);
    assert_eq!(scene.read("out/log.csv"), "n,t\n1,a\n2,b\n");
    // No rows are nothing to append.
    scene.write("rows.csv", "t,n\n");
    scene.run().ends_with(0);
    assert_eq!(scene.read("out/log.csv"), "n,t\n1,a\n2,b\n");
    scene.write("rows.csv", "n,other\n3,c\n");
    let ran = scene.run().ends_with(6);
    ran.says(&["out/log.csv: the file has `n`, `t`, and the rows that are to be appended have `n`, `other`"]);
    assert_eq!(scene.read("out/log.csv"), "n,t\n1,a\n2,b\n");
    scene.assert_clean();
}

#[test]
fn an_empty_file_gets_a_header_and_one_without_gets_none() {
    let with = scene("{ path: out/log.tsv, mode: append }");
    with.write("out/log.tsv", "");
    with.write("rows.csv", "n,t\n1,a\n");
    with.run().ends_with(0);
    assert_eq!(with.read("out/log.tsv"), "n\tt\n1\ta\n");
    let without = scene("{ path: out/log.csv, mode: append, header: false }");
    without.write("rows.csv", "n,t\n1,a\n");
    without.run().ends_with(0);
    without.run().ends_with(0);
    assert_eq!(without.read("out/log.csv"), "1,a\n1,a\n");
}

#[test]
fn compressed_files_get_a_further_member() {
    for (ending, compression) in [("gz", "gz"), ("zst", "zst"), ("bz2", "bz2"), ("xz", "xz")] {
        let scene = scene(&format!("{{ path: out/log.jsonl.{ending}, mode: append }}"));
        scene.write("rows.csv", "n\n1\n");
        scene.run().ends_with(0);
        if ending == "gz" {
            // Of somebody whose last line has no end.
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(b"{\"n\":1}").expect("memory");
            fs::write(scene.path("out/log.jsonl.gz"), encoder.finish().expect("memory")).expect("ours");
        }
        scene.write("rows.csv", "n\n2\n");
        scene.run().ends_with(0);
        let stages = format!(
            "version: 1\nname: back\nstages:\n  rows: {{ read: {{ path: out/log.jsonl.{ending}, compression: {compression} }} }}\n  \
             sink: {{ from: rows, write: out/back.jsonl }}\n"
        );
        let back = scene.write("back.yaml", &stages);
        scene.run_of(&back).ends_with(0);
        assert_eq!(scene.read("out/back.jsonl"), "{\"n\":1}\n{\"n\":2}\n", "{ending}");
    }
}

#[test]
fn the_columns_of_a_compressed_file_count_too() {
    let scene = scene("{ path: out/log.csv.gz, mode: append }");
    scene.write("rows.csv", "n,t\n1,a\n");
    scene.run().ends_with(0);
    scene.write("rows.csv", "t,n\nb,2\n");
    scene.run().ends_with(0);
    let mut text = String::new();
    let packed = fs::read(scene.path("out/log.csv.gz")).expect("a file");
    flate2::read::MultiGzDecoder::new(packed.as_slice()).read_to_string(&mut text).expect("members");
    assert_eq!(text, "n,t\n1,a\n2,b\n");
    scene.write("rows.csv", "n\n3\n");
    scene.run().ends_with(6).says(&["the file has `n`, `t`"]);
}

#[test]
fn rows_are_appended_once_or_not_at_all_wherever_publication_is_cut_short() {
    let mut published = Vec::new();
    for point in PUBLISH.iter().chain(&["publish.append_half", "publish.appended"]) {
        let scene = scene("{ path: out/log.jsonl, mode: append }");
        let (old, new) = ("{\"n\":1}\n", "{\"n\":1}\n{\"n\":2}\n");
        scene.write("out/log.jsonl", old);
        scene.write("rows.csv", "n\n2\n");
        let ran = scene.run().env("MILLPOND_FAIL_POINT", point).end();
        assert_eq!(ran.signal(), Some(9), "{point} was not reached\n{}", ran.stderr);
        scene.until_gone(Duration::from_secs(2));
        // The next run fails by itself, so that what it publishes cannot be mistaken for what was left.
        fs::remove_file(scene.path("rows.csv")).expect("it is there");
        scene.run().ends_with(6);
        let left = scene.read("out/log.jsonl");
        assert!(left == old || left == new, "{point}: {left:?}");
        scene.assert_clean();
        published.push(left == new);
    }
    assert!(published.contains(&true) && published.contains(&false), "both sides were cut: {published:?}");
}

#[test]
fn parts_are_all_added_or_none_wherever_publication_is_cut_short() {
    let mut published = Vec::new();
    let others = ["publish.renamed:2", "publish.renamed:3"];
    for point in PUBLISH.iter().chain(&others) {
        let scene = scene("{ path: out/events, format: jsonl, partition_by: k, mode: append }");
        scene.write("rows.csv", "k,n\n1,1\n2,2\n3,3\n");
        scene.run().ends_with(0);
        let ran = scene.run().env("MILLPOND_FAIL_POINT", point).end();
        assert_eq!(ran.signal(), Some(9), "{point} was not reached\n{}", ran.stderr);
        scene.until_gone(Duration::from_secs(2));
        fs::remove_file(scene.path("rows.csv")).expect("it is there");
        scene.run().ends_with(6);
        let left = [1, 2, 3].map(|k| scene.exists(&format!("out/events/k={k}/part-1.jsonl")));
        assert!(left == [true; 3] || left == [false; 3], "{point}: {left:?}");
        assert_eq!(scene.read("out/events/k=3/part-0.jsonl"), "{\"n\":3}\n");
        scene.assert_clean();
        assert_eq!(fs::read_dir(scene.path("out")).expect("a folder").count(), 1, "{point}: something is left");
        published.push(left[0]);
    }
    assert!(published.contains(&true) && published.contains(&false), "both sides were cut: {published:?}");
}

#[test]
fn parquet_files_are_added_to_a_folder() {
    let scene = scene("{ path: out/events/, format: parquet, mode: append }");
    scene.write("rows.csv", "n\n1\n");
    scene.run().ends_with(0);
    scene.run().ends_with(0);
    scene.write("rows.csv", "n\n");
    scene.run().ends_with(0);
    let mut names: Vec<_> = fs::read_dir(scene.path("out/events"))
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
        .collect();
    names.sort();
    assert_eq!(names, ["part-0.parquet", "part-1.parquet"]);
    scene.assert_clean();
}

#[test]
fn what_was_rejected_is_not_done_again_where_the_rest_would_come_twice() {
    let stages = "
rows: { read: rows.csv }
checked:
  from: rows
  command: { run: [test, '{n}', -gt, '1'], mode: row }
  on_error: skip
sink: { from: checked, write: { path: out/log.csv, mode: append } }
";
    let scene = Scene::with_python("", stages, "");
    scene.write("rows.csv", "n\n1\n2\n");
    scene.run().ends_with(0);
    let before = scene.read("out/log.csv");
    let ran = scene.run().args(&["--rejected"]).ends_with(2);
    ran.says(&["--rejected: the stage `sink` appends what comes to it"]);
    assert_eq!(scene.read("out/log.csv"), before);
}
