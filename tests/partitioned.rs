//! Folders of files by the values of columns: what is written, that it replaces what was there as a whole, and that it is read back.

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use millpond::run::fail_point::PUBLISH;
use support::Scene;

const STAGES: &str = "
rows:
  read: { path: rows.csv, schema: { country: string } }
events:
  from: rows
  write: { path: out/events, format: jsonl, partition_by: [year, country] }
";

fn scene() -> Scene {
    Scene::with_python("", STAGES, "")
}

fn rows(rows: impl IntoIterator<Item = (u32, &'static str, u32)>) -> String {
    let lines = rows.into_iter().map(|(year, country, n)| format!("{year},{country},{n}\n"));
    format!("year,country,n\n{}", lines.collect::<String>())
}

/// The files below a folder by their names in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).into_iter().flatten().map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                open.push(entry);
            } else {
                let name = entry.strip_prefix(folder).expect("it is below").display().to_string();
                found.insert(name, fs::read(entry).expect("a file"));
            }
        }
    }
    found
}

fn texts(scene: &Scene) -> Vec<(String, String)> {
    let files = files(&scene.path("out/events")).into_iter();
    files.map(|(name, bytes)| (name, String::from_utf8(bytes).expect("text"))).collect()
}

fn expected(files: &[(&str, &str)]) -> Vec<(String, String)> {
    files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
}

#[test]
fn a_folder_is_written_and_then_replaced_as_a_whole() {
    let scene = scene();
    scene.write("rows.csv", &rows([(2024, "de", 1), (2024, "a/b", 2), (2023, "", 3), (2024, "de", 4)]));
    scene.run().ends_with(0);
    let first = expected(&[
        ("year=2023/country=__HIVE_DEFAULT_PARTITION__/part-0.jsonl", "{\"n\":3}\n"),
        ("year=2024/country=a%2Fb/part-0.jsonl", "{\"n\":2}\n"),
        ("year=2024/country=de/part-0.jsonl", "{\"n\":1}\n{\"n\":4}\n"),
    ]);
    assert_eq!(texts(&scene), first);
    scene.write("rows.csv", &rows([(2025, "fr", 5)]));
    scene.run().ends_with(0);
    let second = expected(&[("year=2025/country=fr/part-0.jsonl", "{\"n\":5}\n")]);
    assert_eq!(texts(&scene), second);
    scene.assert_clean();
    // Without rows there are no files.
    scene.write("rows.csv", &rows([]));
    scene.run().ends_with(0);
    assert_eq!(texts(&scene), []);
    assert!(scene.exists("out/events"));
}

#[test]
fn the_files_do_not_depend_on_workers() {
    let stages = "
rows:
  read: rows.csv
worked:
  from: rows
  sql: SELECT year, country, n * 2 AS n FROM rows
events:
  from: worked
  write: { path: out/events, format: parquet, partition_by: country }
";
    let countries = ["de", "fr", "it", "es", "pt"];
    let all = rows((0..50_000).map(|n| (2024, countries[n as usize * 31 % 5], n)));
    let found = ["1", "4"].map(|workers| {
        let scene = Scene::with_python("", stages, "");
        scene.write("rows.csv", &all);
        scene.run().args(&["--workers", workers]).ends_with(0);
        files(&scene.path("out/events"))
    });
    assert_eq!(found[0].len(), 5);
    assert!(found[0] == found[1]);
}

#[test]
fn the_old_folder_or_the_new_one_is_there_wherever_publication_is_cut_short() {
    let (old, new) = ([(2023, "de", 1), (2024, "de", 2)], [(2024, "de", 3), (2025, "fr", 4)]);
    let mut published = Vec::new();
    for point in PUBLISH.iter().chain(&["publish.exchanged"]) {
        let scene = scene();
        let written = |rows_of: &[(u32, &'static str, u32)]| {
            let name = |(year, country, _): &(u32, &str, u32)| format!("year={year}/country={country}/part-0.jsonl");
            rows_of.iter().map(|row| (name(row), format!("{{\"n\":{}}}\n", row.2))).collect::<Vec<_>>()
        };
        scene.write("rows.csv", &rows(old));
        scene.run().ends_with(0);
        scene.write("rows.csv", &rows(new));
        let ran = scene.run().env("MILLPOND_FAIL_POINT", point).end();
        assert_eq!(ran.signal(), Some(9), "{point} was not reached\n{}", ran.stderr);
        scene.until_gone(Duration::from_secs(2));
        // The next run fails by itself, so that what it publishes cannot be mistaken for what was left.
        fs::remove_file(scene.path("rows.csv")).expect("it is there");
        scene.run().ends_with(6);
        let left = texts(&scene);
        assert!(left == written(&old) || left == written(&new), "{point}: {left:?}");
        scene.assert_clean();
        let hidden = fs::read_dir(scene.path("out")).expect("a folder").count();
        assert_eq!(hidden, 1, "{point}: something is left beside the folder");
        published.push(left == written(&new));
    }
    assert!(published.contains(&true) && published.contains(&false), "both sides were cut: {published:?}");
}

#[test]
fn what_no_stage_has_written_is_not_lost() {
    let scene = scene();
    scene.write("rows.csv", &rows([(2024, "de", 1)]));
    scene.write("out/events/notes.txt", "precious");
    let ran = scene.run().ends_with(6);
    ran.says(&["out/events has something in it that no stage like this one has written", "out/events/notes.txt"]);
    assert_eq!(scene.read("out/events/notes.txt"), "precious");
    assert!(!scene.exists("out/events/year=2024"));
    fs::remove_file(scene.path("out/events/notes.txt")).expect("it is there");
    scene.run().ends_with(0);
    assert_eq!(texts(&scene).len(), 1);
}

#[test]
fn a_path_that_ends_in_a_slash_is_a_folder_with_a_part() {
    let scene = Scene::with_python(
        "",
        "rows: { read: rows.csv }\nsink: { from: rows, write: { path: out/events/, format: csv, compression: gz } }",
        "",
    );
    scene.write("rows.csv", "n\n1\n");
    scene.run().ends_with(0);
    assert_eq!(files(&scene.path("out/events")).into_keys().collect::<Vec<_>>(), ["part-0.csv.gz"]);
    scene.write("rows.csv", "n\n");
    scene.run().ends_with(0);
    assert_eq!(files(&scene.path("out/events")).into_keys().collect::<Vec<_>>(), ["part-0.csv.gz"]);
}

#[test]
fn a_column_that_is_not_there_ends_the_run_before_it_starts() {
    let scene = scene();
    scene.write("rows.csv", "jear,country,n\n2024,de,1\n");
    let ran = scene.run().ends_with(3);
    ran.says(&["plan::unknown_column", "`year` is no column of the rows that `events` gets", "did you mean `jear`?"]);
}

#[test]
fn what_is_written_is_read_back_with_its_columns() {
    let folders = "write: { path: out/events, format: FORMAT, partition_by: [year, day, country] }";
    let back = "
back:
  read: { path: out/events, format: FORMAT, partitions: { year: int64, day: date, country: string } }
selected:
  from: back
  sql: SELECT n, year, day, country FROM back ORDER BY n
sink:
  from: selected
  write: out/back.jsonl
";
    let lines: Vec<String> = (0..500)
        .map(|n| {
            let country = ["de", "a/b=c", "", "50%", "é ü"][n % 5];
            format!("{},2024-02-{:02},{country},{n}\n", 2020 + n % 3, 1 + n % 28)
        })
        .collect();
    for format in ["csv", "jsonl", "parquet", "arrow"] {
        let stages = "rows: { read: { path: rows.csv, schema: { country: string } } }\nevents: { from: rows, FOLDERS }";
        let stages = stages.replace("FOLDERS", folders).replace("FORMAT", format);
        let scene = Scene::with_python("", &stages, "");
        scene.write("rows.csv", &format!("year,day,country,n\n{}", lines.concat()));
        scene.run().ends_with(0);
        let stages: String = back.replace("FORMAT", format).lines().map(|line| format!("  {line}\n")).collect();
        let pipeline = scene.write("back.yaml", &format!("version: 1\nname: back\nstages:\n{stages}"));
        scene.run_of(&pipeline).ends_with(0);
        let expected: String = (0..500)
            .map(|n| {
                let country = ["\"de\"", "\"a/b=c\"", "null", "\"50%\"", "\"é ü\""][n % 5];
                let (year, day) = (2020 + n % 3, 1 + n % 28);
                format!("{{\"n\":{n},\"year\":{year},\"day\":\"2024-02-{day:02}\",\"country\":{country}}}\n")
            })
            .collect();
        assert_eq!(scene.read("out/back.jsonl"), expected, "{format}");
    }
}

#[test]
fn rows_say_where_they_come_from_whatever_is_done_at_once() {
    let stages = "
rows:
  read: { path: 'in/*.jsonl', origin: true }
kept:
  from: rows
  sql: SELECT n, _file, _row FROM rows WHERE n % 7 = 0
sink:
  from: kept
  write: out/kept.csv
";
    let scene = Scene::with_python("", stages, "");
    for file in 0..3 {
        let lines: String = (0..20_000).map(|n| format!("{{\"n\":{},\"rest\":\"x\"}}\n", file * 20_000 + n)).collect();
        scene.write(&format!("in/{file}.jsonl"), &lines);
    }
    scene.run().args(&["--workers", "4"]).ends_with(0);
    let kept = (0..60_000).filter(|n| n % 7 == 0).map(|n| format!("{n},in/{}.jsonl,{}\n", n / 20_000, n % 20_000 + 1));
    assert_eq!(scene.read("out/kept.csv"), format!("n,_file,_row\n{}", kept.collect::<String>()));
}
