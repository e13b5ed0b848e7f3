//! Runs in a world that runs out of something, or changes under them: each ends, in time, with the right exit code.

mod support;

use std::time::Duration;

use support::{Scene, numbers, until};

const START: Duration = Duration::from_secs(30);

/// `held` waits until there is a file `go` before it passes on its first batch, so that the source cannot read on.
const HELD: &str = "
import os, time
def held(rows):
    open('begun', 'w').close()
    while not os.path.exists('go'):
        time.sleep(0.005)
    return rows
";
const HELD_STAGES: &str = "
rows:
  read: 'in/*.csv'
  batch: { rows: 100 }
held:
  from: rows
  python: { call: work:held, as: rows }
  workers: 1
  queue: { batches: 1 }
sink:
  from: held
  write: out/sink.csv
";

/// Two files, the second of which is not yet opened when the first batch is worked on.
fn held_scene() -> Scene {
    let scene = Scene::new(HELD_STAGES, HELD);
    scene.write("in/a.csv", &numbers(0..10_000));
    scene.write("in/b.csv", &numbers(10_000..20_000));
    scene.write("out/sink.csv", "n\nold\n");
    scene
}

/// Changes something while the first batch is worked on; the run must fail, and leave the old output.
fn fails_after(change: impl Fn(&Scene), says: &[&str]) {
    let scene = held_scene();
    let going = scene.run().start();
    until("the first batch is worked on", START, || scene.exists("begun"));
    change(&scene);
    scene.write("go", "");
    let ran = going.end();
    assert_eq!(ran.code(), Some(6), "{}", ran.stderr);
    ran.says(says);
    assert_eq!(scene.read("out/sink.csv"), "n\nold\n");
    scene.assert_clean();
}

#[test]
fn input_that_vanishes_or_cannot_be_read_any_more_fails_the_run() {
    let file = |scene: &Scene| scene.path("in/b.csv");
    fails_after(
        |scene| std::fs::remove_file(file(scene)).expect("it was there"),
        &["stage `rows` could not read its input", "b.csv was there when the run started and is gone"],
    );
    let to_folder = |scene: &Scene| {
        std::fs::remove_file(file(scene)).expect("it was there");
        std::fs::create_dir(file(scene)).expect("nothing is there");
    };
    fails_after(to_folder, &["stage `rows` could not read its input", "b.csv"]);
}

#[test]
fn input_that_changes_during_the_run_fails_it() {
    let scene = Scene::new(&HELD_STAGES.replace("rows: 100 }", "rows: 1000 }"), HELD);
    let file = scene.write("in/a.csv", &numbers(0..300_000));
    let going = scene.run().start();
    until("the first batch is worked on", START, || scene.exists("begun"));
    std::fs::File::options()
        .append(true)
        .open(&file)
        .and_then(|file| std::io::Write::write_all(&mut &file, b"1\n"))
        .expect("it grows");
    scene.write("go", "");
    let ran = going.end();
    assert_eq!(ran.code(), Some(6), "{}", ran.stderr);
    ran.says(&["stage `rows` could not read its input", "a.csv was changed while it was read"]);
    assert!(!scene.exists("out/sink.csv"));
    scene.assert_clean();
}

/// Makes many rows of what it gets, or few.
const MANY: &str = "
def rows(count):
    yield [{'n': n} for n in range(count)]
def many(rows):
    return [{'n': n} for n in range(300_000)]
def few(rows):
    return rows[:10]
";

#[test]
fn no_room_in_shared_memory_fails_the_run_and_blames_no_row() {
    // Shared memory is files to the system. None may be larger than 1 MB, and an output of 300,000 numbers is, and is never halved.
    let worker = "rows:\n  python: { call: work:rows, with: { count: 5 } }\nworked:\n  from: rows\n  python: { call: work:many, as: rows }\n  \
                  on_error: reject\nsink:\n  from: worked\n  write: out/sink.csv\n";
    let coordinator = "rows:\n  read: in.csv\n  batch: { rows: 1000000 }\nworked:\n  from: rows\n  python: { call: work:few, as: rows }\n  \
                       on_error: reject\nsink:\n  from: worked\n  write: out/sink.csv\n";
    for stages in [worker, coordinator] {
        let scene = Scene::new(stages, MANY);
        scene.write("in.csv", &format!("n\n{}", "123456\n".repeat(300_000)));
        scene.write("out/sink.csv", "n\nold\n");
        let ran = scene.run().after("ulimit -f 1000").ends_with(6);
        ran.says(&["stage `worked` could not write", "shared memory"]);
        assert_eq!(scene.read("out/sink.csv"), "n\nold\n");
        scene.assert_clean();
    }
}

#[test]
fn no_descriptors_fail_the_run_or_it_does_without() {
    let stages = "rows:\n  python: { call: work:rows, with: { count: 1000 } }\nworked:\n  from: rows\n  python: { call: work:few, as: rows }\n\
                  echoed:\n  from: worked\n  command: { run: [cat], input: jsonl, output: jsonl }\nsink:\n  from: echoed\n  write: out/sink.csv\n";
    let scene = Scene::new(stages, MANY);
    let mut codes = Vec::new();
    for descriptors in (16..48).step_by(2) {
        let ran = scene.run().after(&format!("ulimit -n {descriptors}")).end();
        match ran.code() {
            Some(0) => assert_eq!(scene.read("out/sink.csv").lines().count(), 11),
            Some(6) => drop(ran.says(&["Too many open files"])),
            _ => panic!("{descriptors} descriptors: {ran:?}"),
        }
        codes.push(ran.code());
        scene.assert_clean();
    }
    assert!(codes.contains(&Some(0)) && codes.contains(&Some(6)), "{codes:?}");
}

#[test]
fn an_interpreter_that_does_not_come_to_its_end_does_not_hold_up_the_run() {
    let module = "
import atexit, threading
class Last:
    def __del__(self):
        threading.Event().wait()
LAST = Last()
def rows():
    yield from ({'n': n} for n in range(10))
def work(rows):
    atexit.register(threading.Event().wait)
    threading.Thread(target=threading.Event().wait).start()
    return rows
";
    let stages = "rows:\n  python: work:rows\nworked:\n  from: rows\n  python: { call: work:work, as: rows }\nsink:\n  from: worked\n  \
                  write: out/sink.csv\n";
    let scene = Scene::new(stages, module);
    let ran = scene.run().ends_with(0);
    assert!(ran.took < Duration::from_secs(20), "{:?}", ran.took);
    assert_eq!(scene.read("out/sink.csv").lines().count(), 11);
    scene.assert_clean();
}

#[test]
fn workers_that_die_leave_no_descriptor_in_the_coordinator() {
    let module = "
import os, time
def rows(count):
    yield from ({'n': n, 'text': 'x' * 40_000} for n in range(count))
def work(rows):
    return rows
def watched(rows):
    for row in rows:
        if row['n'] in (50, 999):
            open(f\"reached-{row['n']}\", 'w').close()
            while not os.path.exists(f\"counted-{row['n']}\"):
                time.sleep(0.005)
    return rows
";
    let stages = "rows:\n  python: { call: work:rows, with: { count: 1000 } }\n  batch: { rows: 5 }\nworked:\n  from: rows\n  \
                  python: { call: work:work, as: rows }\n  batch: { rows: 5 }\nechoed:\n  from: worked\n  command: { run: [cat], input: jsonl, \
                  output: jsonl }\n  batch: { rows: 5 }\nwatched:\n  from: echoed\n  python: { call: work:watched, as: rows }\n  \
                  batch: { rows: 5 }\nsink:\n  from: watched\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, module);
    let going = scene.run().args(&["--chaos", "5", "--chaos-rate", "0.4", "--workers", "2"]).start();
    let counts = [50, 999].map(|row| {
        until("the row is reached", Duration::from_secs(60), || scene.exists(&format!("reached-{row}")));
        let count = std::fs::read_dir(format!("/proc/{}/fd", going.pid())).expect("it lives").count();
        scene.write(&format!("counted-{row}"), "");
        count
    });
    assert_eq!(going.end().code(), Some(0));
    let injected = scene.summary()["injected"].clone();
    let killed = |entry: &serde_json::Value| if entry["fault"] == "kill" { entry["times"].as_u64() } else { None };
    let kills: u64 = injected.as_array().expect("a list").iter().filter_map(killed).sum();
    // How many are open depends on what goes on; it must not depend on how many died.
    assert!(kills >= 100, "{injected}");
    assert!(counts[1] < counts[0] + 40, "{counts:?} descriptors, {kills} deaths");
    scene.assert_clean();
}
