//! What fails in user code, commands and files: the run ends, its exit code is the truth, and the message names the culprit.

mod support;

use std::time::Duration;

use support::{Scene, numbers, python};

/// A failing run that takes longer hangs.
const BOUND: Duration = Duration::from_secs(30);

/// Three files of 40 rows whose `n` is 1 to 120; the row 17 of the second is `n` = 57.
const SOURCE: &str = "rows:\n  read: in/*.csv\n";
const SINK: &str = "sink:\n  from: worked\n  write: out/sink.jsonl\n";

fn scene(stage: &str, module: &str) -> Scene {
    scene_with(&python(&[]), stage, module)
}

fn scene_with(python: &str, stage: &str, module: &str) -> Scene {
    let scene = Scene::with_python(python, &format!("{SOURCE}worked:\n  from: rows\n{stage}\n{SINK}"), module);
    for file in 0..3 {
        scene.write(&format!("in/{file}.csv"), &numbers(file * 40 + 1..=file * 40 + 40));
    }
    scene
}

/// Functions of several conventions that call `bad(n)` for the row 57 of 120.
fn conventions(bad: &str) -> Vec<(&'static str, String)> {
    let row =
        format!("import os, sys, ctypes\ndef work(row):\n    if row['n'] == 57:\n        {bad}\n    return row\n");
    let arrow = format!(
        "import os, sys, ctypes\ndef work(batch):\n    if 57 in batch['n'].to_pylist():\n        {bad}\n    return batch\n"
    );
    vec![("row", row), ("arrow", arrow)]
}

#[test]
fn an_exception_names_the_row_and_shows_the_users_own_traceback() {
    let pandas =
        "def work(frame):\n    if (frame['n'] == 57).any():\n        raise ValueError('a bad one')\n    return frame\n";
    let mut all = conventions("raise ValueError('a bad one')");
    all.push(("pandas", pandas.to_owned()));
    for (convention, module) in all {
        let requirements: &[&str] = if convention == "pandas" { &["pandas"] } else { &[] };
        let stage = format!("  python: {{ call: work:work, as: {convention} }}");
        let scene = scene_with(&python(requirements), &stage, &module);
        let ran = scene.run().within(BOUND).ends_with(1);
        ran.says(&[
            "stage `worked` failed (exception): ValueError: a bad one",
            "1.csv",
            "row 17",
            "Traceback",
            "work.py",
        ]);
        let traceback = ran.stderr.split("Traceback").nth(1).unwrap_or_default();
        let first = traceback.lines().find(|line| line.contains("File \"")).unwrap_or_default();
        assert!(first.contains("work.py"), "{convention}: the user's frames come first, not {first}\n{}", ran.stderr);
        assert!(!scene.exists("out/sink.jsonl"), "{convention}: something was published");
        scene.assert_clean();
    }
}

#[test]
fn a_row_that_kills_its_worker_is_found_and_named() {
    for bad in ["os._exit(3)", "sys.exit(4)", "ctypes.string_at(0)"] {
        for (convention, module) in conventions(bad) {
            let scene = scene(&format!("  python: {{ call: work:work, as: {convention} }}"), &module);
            let ran = scene.run().within(BOUND).ends_with(1);
            ran.says(&["stage `worked` failed (crash)", "1.csv", "row 17"]);
            assert!(!scene.exists("out/sink.jsonl"), "{bad} in {convention}: something was published");
            scene.assert_clean();
        }
    }
}

#[test]
fn rejected_rows_tell_where_they_come_from_and_what_is_wrong_with_them() {
    for (bad, verdict) in [("raise ValueError('a bad one')", "exception"), ("os._exit(3)", "crash")] {
        for (convention, module) in conventions(bad) {
            let rejects = "rejects:\n  from: worked.rejected\n  write: out/rejects.jsonl\n";
            let stage = format!("  python: {{ call: work:work, as: {convention} }}\n  on_error: reject\n{rejects}");
            let scene = scene(&stage, &module);
            scene.run().within(BOUND).ends_with(0);
            let rejects: Vec<serde_json::Value> = scene
                .read("out/rejects.jsonl")
                .lines()
                .map(|line| serde_json::from_str(line).expect("it is JSON"))
                .collect();
            assert_eq!(rejects.len(), 1, "{bad} in {convention}: {rejects:?}");
            let reject = &rejects[0];
            assert_eq!((&reject["n"], &reject["_row"]), (&57.into(), &17.into()), "{reject}");
            assert_eq!(reject["_verdict"], verdict, "{reject}");
            assert!(reject["_file"].as_str().is_some_and(|file| file.ends_with("1.csv")), "{reject}");
            assert_eq!(scene.read("out/sink.jsonl").lines().count(), 119);
        }
    }
}

#[test]
fn an_exception_that_cannot_be_pickled_is_reported_like_any_other() {
    let module = "class Odd(Exception):\n    def __init__(self, a, b):\n        self.lock = __import__('threading').Lock()\n    \
                  def __str__(self):\n        raise RuntimeError('no text')\n\ndef work(row):\n    raise Odd(1, 2)\n";
    let scene = scene("  python: { call: work:work, as: row }", module);
    scene.run().within(BOUND).ends_with(1).says(&["stage `worked` failed (exception): ", "Odd", "0.csv", "row 1"]);
}

#[test]
fn what_cannot_be_prepared_is_said_without_blaming_a_row() {
    let cases = [
        ("  python: { call: work:work, as: row }", "import no_such_module\n", "no_such_module"),
        ("  python: { call: work:absent, as: row }", "def work(row): return row\n", "absent"),
        ("  python: { call: no_such:work, as: row }", "", "no_such"),
        ("  python: { call: work:work, as: row }", "def work(row) return\n", "SyntaxError"),
        (
            "  python: { call: work:Work, as: row }",
            "class Work:\n    def __init__(self): raise OSError('no model')\n",
            "no model",
        ),
        ("  command: [no-such-program-at-all]", "", "no-such-program-at-all"),
    ];
    for (stage, module, text) in cases {
        let scene = scene(stage, module);
        let ran = scene.run().within(BOUND).ends_with(1);
        ran.says(&["stage `worked`", text]);
        assert!(!ran.stderr.contains("row 1 of"), "a row is blamed:\n{}", ran.stderr);
        assert!(!scene.exists("out/sink.jsonl"));
        scene.assert_clean();
    }
}

#[test]
fn columns_that_change_on_the_way_are_named() {
    let module = "def work(rows):\n    if rows[0]['n'] > 40:\n        return [{'m': 1}]\n    return rows\n";
    let scene = scene("  batch: { rows: 20 }\n  python: { call: work:work, as: rows }", module);
    scene.run().within(BOUND).ends_with(1).says(&["stage `worked` failed (schema)", "`n`", "returns:"]);
    assert!(!scene.exists("out/sink.jsonl"));
}

#[test]
fn files_that_cannot_be_read_or_written_are_named() {
    let scene = Scene::new("rows:\n  read: in/none.csv\nsink:\n  from: rows\n  write: out/sink.csv\n", "");
    scene.run().within(BOUND).ends_with(6).says(&["stage `rows` could not read its input", "none.csv"]);
    scene.assert_clean();

    let scene = Scene::new("rows:\n  read: in.csv\nsink:\n  from: rows\n  write: plain/out.csv\n", "");
    scene.write("in.csv", "n\n1\n");
    scene.write("plain", "a file where a folder has to be");
    scene.run().within(BOUND).ends_with(6).says(&["stage `sink` could not write", "plain"]);
}

#[test]
fn a_file_larger_than_the_system_allows_fails_the_run() {
    let scene = Scene::with_python(
        "",
        "rows:\n  sql: SELECT value FROM generate_series(1, 300000)\nsink:\n  from: rows\n  write: out/sink.csv",
        "",
    );
    scene.run().after("ulimit -f 100").ends_with(6).says(&["stage `sink` could not write"]);
    scene.assert_clean();
}

#[test]
fn a_full_disk_fails_the_run_and_leaves_the_old_output() {
    let module =
        "import os\ndef work():\n    for number in range(40):\n        yield {'text': os.urandom(100_000).hex()}\n";
    let scene = Scene::new("rows:\n  python: work:work\nsink:\n  from: rows\n  write: small/sink.jsonl\n", module);
    let small = scene.path("small");
    std::fs::create_dir(&small).expect("a folder in ours");
    let mounted =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&small).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: a small file system cannot be mounted here");
        return;
    }
    scene.write("small/sink.jsonl", "old");
    let ran = scene.run().within(BOUND).end();
    let old = scene.read("small/sink.jsonl");
    let staged = scene.staged();
    let unmounted = std::process::Command::new("umount").arg(&small).status();
    assert!(unmounted.is_ok_and(|status| status.success()));
    assert_eq!(ran.code(), Some(6), "{}", ran.stderr);
    ran.says(&["stage `sink` could not write", "space"]);
    assert_eq!((old.as_str(), staged.len()), ("old", 0));
}

#[test]
fn code_that_takes_its_own_process_apart_does_not_hang_the_run() {
    let closes = "import os\ndef work(row):\n    os.closerange(3, 4096)\n    return row\n";
    let scene = scene("  python: { call: work:work, as: row }", closes);
    scene.run().within(BOUND).ends_with(1).says(&["stage `worked` failed"]);
    scene.assert_clean();

    let ignores = "import signal\ndef work(row):\n    for number in range(1, 64):\n        try:\n            signal.signal(number, \
                   signal.SIG_IGN)\n        except (OSError, ValueError):\n            pass\n    return row\n";
    let scene = scene_with(&python(&[]), "  python: { call: work:work, as: row }", ignores);
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), 120);
    scene.assert_clean();
}

#[test]
fn a_batch_that_is_lost_inside_fails_the_run_on_its_accounts() {
    let scene = scene("  python: { call: work:work, as: row }", "def work(row):\n    return row\n");
    let ran = scene.run().within(BOUND).env("MILLPOND_FAIL_POINT", "engine.drop_batch").ends_with(70);
    ran.says(&["rows were lost or doubled inside millpond", "rows published"]);
    assert!(!scene.exists("out/sink.jsonl"));
    scene.assert_clean();
}

#[test]
fn a_command_that_fails_on_a_row_names_it_and_shows_what_it_said() {
    let fails = "  command: { shell: 'while read -r line; do case $line in *57*) echo no sevens >&2; exit 3;; esac; echo \"$line\"; done' }";
    let dies =
        "  command: { shell: 'while read -r line; do case $line in *57*) kill -SEGV $$;; esac; echo \"$line\"; done' }";
    for (stage, word) in [(fails, "status 3"), (dies, "SIGSEGV")] {
        let scene = scene(stage, "");
        let ran = scene.run().within(BOUND).ends_with(1);
        ran.says(&["stage `worked` failed", word, "1.csv", "row 17"]);
        assert!(!scene.exists("out/sink.jsonl"));
        scene.assert_clean();
    }
}

#[test]
fn sources_that_fail_half_way_publish_nothing() {
    let cases = [
        ("  python: work:rows", "def rows():\n    yield {'n': 1}\n    raise ValueError('half way')\n", "half way"),
        ("  command: { shell: 'echo \"{}\"; echo half way >&2; exit 3', output: jsonl }", "", "status 3"),
        // In the middle of a record: it has died there, and its output is not what is wrong.
        ("  command: { shell: 'printf \"{}\\n{\\\"a\"; exit 3', output: jsonl }", "", "status 3"),
        (
            "  python: work:rows",
            "import os\ndef rows():\n    yield {'n': 1}\n    os._exit(0)\n",
            "exited with status 0",
        ),
    ];
    for (stage, module, text) in cases {
        let scene = Scene::new(&format!("rows:\n{stage}\nsink:\n  from: rows\n  write: out/sink.jsonl\n"), module);
        scene.run().within(BOUND).ends_with(1).says(&["stage `rows` failed", text]);
        assert!(!scene.exists("out/sink.jsonl"), "{text}: something was published");
        scene.assert_clean();
    }
}

#[test]
fn what_a_command_gives_that_is_no_record_is_told_as_its_own() {
    let stages = "rows:\n  command: { shell: 'echo \"{}\"; echo no record; sleep 300', output: jsonl }\nsink:\n  from: rows\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, "");
    let ran = scene.run().within(BOUND).ends_with(6);
    ran.says(&["stage `rows` could not read its input", "<rows>, row 2"]);
    assert!(!ran.stderr.contains("/proc/"), "{}", ran.stderr);
    scene.assert_clean();
}

#[test]
fn a_malformed_row_is_named_by_file_and_row() {
    let scene = scene("  python: { call: work:work, as: row }", "def work(row):\n    return row\n");
    scene.write("in/1.csv", "n\n1\n2,3\n");
    scene.run().within(BOUND).ends_with(6).says(&["stage `rows` could not read its input", "1.csv", "2"]);
    assert!(!scene.exists("out/sink.jsonl"));
}

/// A stage that cannot work on every tenth of 120 rows, and the end of its pipeline.
fn a_tenth_fails(on_error: &str, more: &str) -> Scene {
    let module =
        "def work(row):\n    if row['n'] % 10 == 7:\n        raise ValueError(f'no {row[\"n\"]}')\n    return row\n";
    scene(&format!("  python: {{ call: work:work, as: row }}\n  on_error: {on_error}\n{more}"), module)
}

#[test]
fn an_error_budget_ends_the_run_when_it_is_exceeded_and_not_before() {
    let over = [
        ("{ reject: { max_rows: 11 } }", ["12 rows have failed, and `on_error` allows 11", "no 117"]),
        ("{ skip: { max_rows: 0 } }", ["12 rows have failed, and `on_error` allows 0", "row 7"]),
        (
            "{ reject: { max_fraction: 0.09 } }",
            ["12 rows have failed of 120, and `on_error` allows 9 %", "stage defined"],
        ),
    ];
    for (on_error, says) in over {
        let scene = a_tenth_fails(on_error, "");
        let ran = scene.run().within(BOUND).ends_with(4);
        ran.says(&["stage `worked` is over its error budget"]).says(&says);
        assert!(!scene.exists("out/sink.jsonl"), "{on_error}: something was published");
        assert_eq!(scene.summary()["exit_code"], 4);
        scene.assert_clean();
    }
    for on_error in ["{ reject: { max_rows: 12 } }", "{ skip: { max_rows: 12, max_fraction: 0.1 } }"] {
        let scene = a_tenth_fails(on_error, "");
        scene.run().within(BOUND).ends_with(0);
        assert_eq!(scene.read("out/sink.jsonl").lines().count(), 108, "{on_error}");
    }
}

#[test]
fn rejected_rows_that_no_stage_reads_are_in_the_runs_folder() {
    for on_error in ["reject", "{ reject: { max_rows: 3 } }"] {
        let scene = a_tenth_fails(on_error, "");
        let ran = scene.run().within(BOUND);
        let (code, rows) = if on_error == "reject" { (0, 12) } else { (4, 4) };
        let ran = ran.ends_with(code);
        let path = scene.summary()["rejects"]["worked"].as_str().expect("a path").to_owned();
        ran.says(&[&format!("rejected by `worked`: {path}")]);
        let kept = std::fs::read_to_string(path).expect("it is there");
        let kept: Vec<serde_json::Value> =
            kept.lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
        // More may have been known when it was one too many: a batch is written down as a whole.
        assert!(kept.len() >= rows, "{kept:?}");
        assert_eq!(
            (&kept[0]["n"], &kept[0]["_row"], &kept[0]["_verdict"]),
            (&7.into(), &7.into(), &"exception".into())
        );
    }
    let read = a_tenth_fails("reject", "rejects:\n  from: worked.rejected\n  write: out/rejects.jsonl\n");
    read.run().within(BOUND).ends_with(0);
    assert_eq!(read.summary()["rejects"], serde_json::json!({}));
}

#[test]
fn a_query_over_one_row_at_a_time_rejects_rows_that_cannot_be_computed() {
    let stages = "
rows: { read: { path: in.csv, schema: { n: string } } }
typed: { from: rows, sql: 'SELECT CAST(n AS BIGINT) AS n FROM rows', on_error: ON_ERROR, batch: { rows: 16 } }
good: { from: typed, write: out/good.csv }
";
    let run = |on_error: &str, more: &str| {
        let scene = Scene::new(&(stages.replace("ON_ERROR", on_error) + more), "");
        let rows: Vec<String> = (1..=100).map(|n| if n % 33 == 0 { format!("x{n}") } else { n.to_string() }).collect();
        scene.write("in.csv", &numbers(rows));
        let ran = scene.run().args(&["--workers", "2"]).end();
        (scene, ran)
    };
    let good = numbers((1..=100).filter(|n| n % 33 != 0));
    let (scene, ran) = run("reject", "bad: { from: typed.rejected, write: out/bad.jsonl }");
    assert_eq!((ran.code(), scene.read("out/good.csv")), (Some(0), good.clone()));
    let bad: Vec<serde_json::Value> =
        scene.read("out/bad.jsonl").lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let told: Vec<_> =
        bad.iter().map(|row| (row["n"].as_str(), row["_row"].as_u64(), row["_verdict"].as_str())).collect();
    let expected = [33, 66, 99].map(|n| (format!("x{n}"), n));
    let expected: Vec<_> = expected.iter().map(|(n, row)| (Some(n.as_str()), Some(*row), Some("exception"))).collect();
    assert_eq!(told, expected);
    let (scene, ran) = run("skip", "");
    assert_eq!((ran.code(), scene.read("out/good.csv")), (Some(0), good));
    let (_, ran) = run("fail", "");
    assert_eq!(ran.code(), Some(1));
    ran.says(&["cannot cast string 'x33'", "in.csv, row 33"]);
}

#[test]
fn a_search_ends_when_more_rows_have_failed_than_may() {
    // All of a batch fail, and together: each of them would have to be found.
    let module = "def work(rows: list) -> list:\n    raise ValueError('none of these')\n";
    let scene = scene("  python: work:work\n  on_error: { reject: { max_rows: 2 } }", module);
    let ran = scene.run().within(BOUND).ends_with(4);
    ran.says(&[
        "now the rows to blame are searched for",
        "3 rows have failed, and `on_error` allows 2",
        "none of these",
    ]);
    let attempts = scene.events().matches(r#""event":"attempt_failed""#).count();
    assert!(attempts < 20, "{attempts} attempts for 120 rows");
}

#[test]
fn a_part_that_is_too_large_is_told_with_the_first_of_it() {
    let module =
        "def work(row: dict):\n    if row['n'] > 60:\n        raise ValueError(f\"no {row['n']}\")\n    return row\n";
    let scene = scene("  python: work:work\n  on_error: { skip: { max_fraction: 0.1 } }", module);
    let ran = scene.run().within(BOUND).ends_with(4);
    ran.says(&[
        "60 rows have failed of 120, and `on_error` allows 10 %; the first: exception: ValueError: no 61",
        "in work",
    ]);
}
