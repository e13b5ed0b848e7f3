//! The first interrupt lets what runs come to its end, and begins nothing more.

mod support;

use std::fs::File;
use std::io::Write as _;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::{Scene, until};

const START: Duration = Duration::from_secs(40);
const BOUND: Duration = Duration::from_secs(60);

const MODULE: &str = "
import glob, os, time
def rows(count):
    for number in range(count):
        yield {'n': number}

def work(rows):
    number = rows[0]['n']
    open(f'began-{number}', 'w').close()
    while not os.path.exists('go'):
        time.sleep(0.01)
    time.sleep(0.5)
    open(f'ended-{number}', 'w').close()
    return rows
";

const STAGES: &str = "rows:
  python: { call: work:rows, with: { count: 400 } }
  batch: { rows: 10 }
worked:
  from: rows
  python: { call: work:work, as: rows }
sink:
  from: worked
  write: out/sink.jsonl
";

#[test]
fn what_runs_at_an_interrupt_may_end_and_nothing_more_begins() {
    let scene = Scene::new(STAGES, MODULE);
    let count = |start: &str| {
        let names = std::fs::read_dir(scene.path("")).expect("it is there").flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with(start)).count()
    };
    let going = scene.run().args(&["--workers", "3"]).within(BOUND).start();
    until("attempts run", START, || count("began-") >= 2);
    going.signal(Signal::INT);
    until("it waits for what runs", START, || scene.events().contains("\"draining\""));
    scene.write("go", "");
    let ran = going.end();
    assert_eq!(ran.code(), Some(130), "{}", ran.stderr);
    ran.says(&["interrupted: waiting up to 10 s for"]);
    // No more than there are workers.
    assert!((2..=3).contains(&count("began-")), "{} began", count("began-"));
    assert_eq!(count("began-"), count("ended-"));
    assert!(!scene.exists("out/sink.jsonl"));
    scene.assert_clean();
}

#[test]
fn a_run_in_which_nothing_runs_ends_at_the_first_interrupt() {
    let scene = Scene::new("rows:\n  read: in.txt\nsink:\n  from: rows\n  write: out/sink.txt\n", "");
    let pipe = scene.path("in.txt");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    let going = scene.run().within(BOUND).start();
    // The run waits for more, as long as this is open.
    let mut writer = File::options().write(true).open(&pipe).expect("it is read");
    writer.write_all(b"a line\n").expect("it is read");
    going.signal(Signal::TERM);
    let ran = going.end();
    assert_eq!(ran.code(), Some(143), "{}", ran.stderr);
    assert!(!ran.stderr.contains("waiting up to"), "{}", ran.stderr);
    assert!(!scene.exists("out/sink.txt"));
    scene.assert_clean();
    drop(writer);
}

#[test]
fn a_run_that_takes_too_long_is_ended_as_by_an_interrupt_and_has_failed() {
    let scene = Scene::with_python("", "rows:\n  read: in.txt\nsink:\n  from: rows\n  write: out/sink.txt\n", "");
    let pipe = scene.path("in.txt");
    assert!(Command::new("mkfifo").arg(&pipe).status().is_ok_and(|status| status.success()));
    let going = scene.run().args(&["--timeout", "300ms"]).within(BOUND).start();
    let writer = File::options().write(true).open(&pipe).expect("it is read");
    let ran = going.end();
    assert_eq!(ran.code(), Some(1), "{}", ran.stderr);
    ran.says(&["the run took longer than the 300ms that it may (`--timeout`); nothing was published"]);
    assert_eq!(scene.summary()["exit_code"], 1);
    assert!(!scene.exists("out/sink.txt"));
    scene.assert_clean();
    drop(writer);
}

#[test]
fn a_run_that_is_fast_enough_does_not_mind_its_limit() {
    let scene = Scene::with_python("", "rows: { sql: SELECT 1 AS n }\nsink: { from: rows, write: out.csv }\n", "");
    scene.run().args(&["--timeout", "1h"]).ends_with(0);
}
