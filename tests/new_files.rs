//! Sources that read only new files: each file once, whatever comes between.

mod support;

use rustix::process::Signal;
use support::store::Store;
use support::{Scene, numbers, until};

const STAGES: &str = "
rows:
  read: { path: 'in/*.csv', only_new: true }
more:
  from: rows
  sql: SELECT n, n + 1 AS m FROM rows
log:
  from: more
  write: { path: log.jsonl, mode: append }
";

fn scene() -> Scene {
    let scene = Scene::new(STAGES, "");
    scene.write("in/a.csv", &numbers([1]));
    scene.write("in/b.csv", &numbers([2]));
    scene
}

/// The numbers in the log, in their order.
fn logged(scene: &Scene) -> Vec<u64> {
    let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("JSON");
    scene.read("log.jsonl").lines().map(|line| row(line)["n"].as_u64().expect("a number")).collect()
}

#[test]
fn each_file_is_read_once() {
    let scene = scene();
    scene.run().ends_with(0);
    assert_eq!(logged(&scene), [1, 2]);
    // Nothing is new, which is no mistake.
    scene.run().ends_with(0);
    assert_eq!(logged(&scene), [1, 2]);
    scene.write("in/0.csv", &numbers([3]));
    scene.run().ends_with(0);
    assert_eq!(logged(&scene), [1, 2, 3]);
    // A file that has changed is another one, and one that is gone is no loss.
    scene.write("in/a.csv", &numbers([1, 4]));
    std::fs::remove_file(scene.path("in/b.csv")).expect("it is there");
    scene.run().ends_with(0);
    assert_eq!(logged(&scene), [1, 2, 3, 1, 4]);
    scene.assert_clean();
}

#[test]
fn files_of_a_run_that_fails_are_new_to_the_next() {
    let scene = scene();
    scene.write("in/c.csv", "n,x\n5,6\n");
    scene.run().ends_with(6);
    assert!(!scene.exists("log.jsonl"));
    std::fs::remove_file(scene.path("in/c.csv")).expect("it is there");
    scene.run().ends_with(0);
    assert_eq!(logged(&scene), [1, 2]);
}

#[test]
fn a_look_at_rows_makes_no_file_known() {
    let scene = scene();
    for _ in 0..2 {
        let shown = scene.run().args(&["--until", "more"]).ends_with(0);
        assert_eq!(shown.stdout.lines().count(), 2, "{}", shown.stdout);
    }
    scene.run().args(&["--until", "log"]).ends_with(0);
    scene.run().ends_with(0);
    assert_eq!(logged(&scene), [1, 2, 1, 2]);
    // What is known is left out of a look, too.
    let shown = scene.run().args(&["--until", "more"]).ends_with(0);
    assert_eq!(shown.stdout, "");
}

#[test]
fn wherever_a_run_dies_each_file_is_read_once() {
    for point in [
        "publish.staged",
        "publish.sink_finished",
        "publish.before_journal",
        "publish.journal_written",
        "publish.renamed",
        "publish.renamed:2",
        "publish.append_half",
        "publish.append_half:2",
        "publish.before_committed",
    ] {
        let scene = scene();
        scene.run().ends_with(0);
        scene.write("in/c.csv", &numbers([3]));
        let died = scene.run().env("MILLPOND_FAIL_POINT", point).end();
        assert!(died.code().is_none(), "{point} was not reached: {}", died.stderr);
        scene.write("in/d.csv", &numbers([4]));
        scene.run().ends_with(0);
        assert_eq!(logged(&scene), [1, 2, 3, 4], "{point}");
        scene.assert_clean();
    }
}

#[test]
fn of_two_runs_that_read_the_same_files_one_is_published() {
    let stages = format!(
        "{STAGES}slow:\n  from: rows\n  python: {{ call: work:work, as: rows }}\nout:\n  from: slow\n  write: out.csv\n"
    );
    let module = "
import os, time
def work(rows):
    open('begun', 'w').close()
    while not os.path.exists('go'):
        time.sleep(0.01)
    return rows
";
    let scene = Scene::new(&stages, module);
    scene.write("in/a.csv", &numbers([1]));
    let first = scene.run().start();
    until("the first has begun", support::PATIENCE, || scene.exists("begun"));
    std::fs::remove_file(scene.path("begun")).expect("it is there");
    let second = scene.run().start();
    until("the second has begun", support::PATIENCE, || scene.exists("begun"));
    first.signal(Signal::STOP);
    scene.write("go", "");
    let second = second.end();
    assert_eq!(second.code(), Some(0), "{}", second.stderr);
    first.signal(Signal::CONT);
    let first = first.end();
    assert_eq!(first.code(), Some(6), "{}", first.stderr);
    first.says(&["another run has read the same new files"]);
    assert_eq!(logged(&scene), [1]);
    scene.assert_clean();
}

#[test]
fn without_new_files_columns_are_known_all_the_same() {
    let stages = "
rows:
  read: { path: in, format: FORMAT, only_new: true, origin: true }
sum:
  from: rows
  sql: SELECT count(*) AS count, sum(n) AS sum FROM rows
out:
  from: sum
  write: out.csv
copy:
  from: rows
  write: copy.csv
";
    for format in ["csv", "jsonl", "parquet"] {
        let scene = Scene::new(&stages.replace("FORMAT", format), "");
        let maker = Scene::new(&format!("r:\n  read: in.csv\no:\n  from: r\n  write: out.{format}\n"), "");
        maker.write("in.csv", &numbers([1, 2]));
        maker.run().ends_with(0);
        std::fs::create_dir_all(scene.path("in")).expect("ours");
        std::fs::copy(maker.path(&format!("out.{format}")), scene.path(&format!("in/a.{format}"))).expect("ours");
        scene.run().ends_with(0);
        assert_eq!(scene.read("out.csv"), "count,sum\n2,3\n");
        assert_eq!(scene.read("copy.csv").lines().count(), 3);
        scene.run().ends_with(0);
        assert_eq!(scene.read("out.csv"), "count,sum\n0,\n");
        assert_eq!(scene.read("copy.csv"), "n,_file,_row\n");
    }
}

#[test]
fn an_empty_inbox_is_no_mistake() {
    let stages =
        STAGES.replace("'in/*.csv', only_new: true", "[none/*.csv, in/*.csv], only_new: true, schema: { n: int64 }");
    let scene = Scene::new(&stages, "");
    std::fs::create_dir_all(scene.path("in")).expect("ours");
    scene.run().ends_with(0);
    scene.write("in/a.csv", &numbers([1]));
    scene.run().ends_with(0);
    assert_eq!(logged(&scene), [1]);
}

#[test]
fn what_was_rejected_cannot_be_read_again() {
    let stages = STAGES.replace(
        "more:\n  from: rows\n  sql: SELECT n, n + 1 AS m FROM rows",
        "more:\n  from: rows\n  python: { call: work:work, as: row }\n  on_error: reject\n  checkpoint: true",
    );
    let stages = stages.replace(", mode: append", "");
    let scene = Scene::new(&stages, "def work(row):\n    return {'n': 1 // row['n']}\n");
    scene.write("in/a.csv", &numbers([0, 1]));
    scene.run().ends_with(0);
    scene.run().args(&["--rejected"]).ends_with(2).says(&["the stage `rows` reads only new files"]);
}

#[test]
fn objects_are_read_once_too() {
    let store = Store::start();
    let put = |name: &str, n: u32| {
        store.inner().objects.insert(format!("bucket/in/{name}.csv"), numbers([n]).into_bytes());
    };
    let scene = Scene::new(&STAGES.replace("in/*.csv", "s3://bucket/in/*.csv"), "");
    let run = || {
        let run = scene.run().env("AWS_ENDPOINT", &store.endpoint()).env("AWS_ALLOW_HTTP", "true");
        run.env("AWS_ACCESS_KEY_ID", "key-id").env("AWS_SECRET_ACCESS_KEY", "secret").ends_with(0);
        logged(&scene)
    };
    put("b", 1);
    assert_eq!(run(), [1]);
    assert_eq!(run(), [1]);
    put("a", 2);
    assert_eq!(run(), [1, 2]);
    put("b", 3);
    assert_eq!(run(), [1, 2, 3]);
    scene.assert_clean();
}
