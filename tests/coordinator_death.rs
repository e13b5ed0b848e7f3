//! What is left when the run is killed, interrupted, or dies in the middle of publication.

mod support;

use std::time::Duration;

use millpond::run::fail_point::PUBLISH;
use rustix::process::Signal;
use support::{DETACH, Scene, until};

/// After the death of the coordinator nothing that it started lives longer.
const GONE: Duration = Duration::from_secs(2);
const START: Duration = Duration::from_secs(40);

const SOURCE: &str = "def rows(count):\n    for number in range(count):\n        yield {'n': number}\n";

const STAGES: &str = "
rows:
  python: { call: work:rows, with: { count: 4000 } }
worked:
  from: rows
  python: { call: work:detach, as: rows }
passed:
  from: rows
  command: { shell: 'if test -e calm; then cat; else touch command; sleep 300 & sleep 300; fi' }
first:
  from: worked
  write: out/first.jsonl
second:
  from: passed
  write: out/second.jsonl
";

fn disturbed_scene() -> Scene {
    let scene = Scene::new(STAGES, &format!("{SOURCE}{DETACH}"));
    scene.write("out/first.jsonl", "old");
    scene.write("out/second.jsonl", "old");
    scene
}

fn assert_old(scene: &Scene) {
    assert_eq!((scene.read("out/first.jsonl"), scene.read("out/second.jsonl")), ("old".to_owned(), "old".to_owned()));
}

fn signalled(scene: &Scene, signal: Signal) -> support::Ran {
    let going = started(scene);
    going.signal(signal);
    end(scene, going)
}

fn started(scene: &Scene) -> support::Going<'_> {
    let going = scene.run().args(&["--workers", "2"]).start();
    until("both stages have detached processes", START, || scene.exists("daemon") && scene.exists("command"));
    going
}

fn end(scene: &Scene, going: support::Going<'_>) -> support::Ran {
    let ran = going.end();
    scene.until_gone(GONE);
    assert_old(scene);
    ran
}

#[test]
fn a_killed_run_leaves_no_process_and_the_next_one_cleans_its_files() {
    let scene = disturbed_scene();
    assert_eq!(signalled(&scene, Signal::KILL).signal(), Some(9));
    scene.write("calm", "");
    scene.run().ends_with(0);
    scene.assert_clean();
    for sink in ["out/first.jsonl", "out/second.jsonl"] {
        assert_eq!(scene.read(sink).lines().count(), 4000, "{sink}");
    }
}

#[test]
fn a_second_interrupt_ends_everything_at_once_and_publishes_nothing() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        let scene = disturbed_scene();
        let going = started(&scene);
        going.signal(signal);
        until("it waits for what runs", START, || scene.events().contains("\"draining\""));
        going.signal(signal);
        let ran = end(&scene, going);
        assert_eq!(ran.code(), Some(code), "{}", ran.stderr);
        assert!(ran.took < Duration::from_secs(8), "the run took {:?}", ran.took);
        scene.assert_clean();
    }
}

#[test]
fn outputs_are_all_old_or_all_new_wherever_publication_is_cut_short() {
    let stages = "rows:\n  read: rows.csv\nfirst:\n  from: rows\n  write: out/first.csv\nsecond:\n  from: rows\n  write: out/second.csv\n";
    let (old, new) = ("n\n1\n", "n\n2\n3\n");
    let mut published = Vec::new();
    for point in PUBLISH.iter().flat_map(|point| [(*point).to_owned(), format!("{point}:2")]) {
        let scene = Scene::new(stages, "");
        scene.write("rows.csv", old);
        scene.run().ends_with(0);
        scene.write("rows.csv", new);
        let ran = scene.run().env("MILLPOND_FAIL_POINT", &point).end();
        if point.ends_with(":2") && ran.code() == Some(0) {
            // A place that a run passes once.
            continue;
        }
        assert_eq!(ran.signal(), Some(9), "{point} was not reached\n{}", ran.stderr);
        scene.until_gone(GONE);
        // The next run fails by itself, so that what it publishes cannot be mistaken for what was left.
        std::fs::remove_file(scene.path("rows.csv")).expect("it is there");
        scene.run().ends_with(6);
        let left = (scene.read("out/first.csv"), scene.read("out/second.csv"));
        assert!(left == (old.into(), old.into()) || left == (new.into(), new.into()), "{point}: {left:?}");
        scene.assert_clean();
        published.push(left.0 == new);
    }
    assert!(
        published.contains(&true) && published.contains(&false),
        "both sides of the commit were cut: {published:?}"
    );
}

/// Sums of squares, 100 batches of 20 ms.
const SLOW: &str = "
import time
def rows(count):
    for number in range(count):
        yield {'n': number}

def work(rows):
    open('begun', 'w').close()
    time.sleep(0.02)
    return [{'n': row['n'] ** 2} for row in rows]
";
const SLOW_STAGES: &str = "
rows:
  python: { call: work:rows, with: { count: 1000 } }
  batch: { rows: 10 }
worked:
  from: rows
  python: { call: work:work, as: rows }
  batch: { rows: 10 }
sink:
  from: worked
  write: out/sink.jsonl
";

fn squares() -> String {
    (0..1000_u64).map(|number| format!("{{\"n\":{}}}\n", number * number)).collect()
}

#[test]
fn the_death_of_the_template_costs_its_workers_and_nothing_else() {
    let scene = Scene::new(SLOW_STAGES, SLOW);
    let going = scene.run().args(&["--workers", "2"]).start();
    until("work has begun", START, || scene.exists("begun"));
    // A worker has this name, too, in its first moment.
    let mut template = Vec::new();
    until("the workers have names of their own", START, || {
        template = scene.processes_named("millpond-tmpl");
        template.len() == 1
    });
    support::kill(template[0], Signal::KILL);
    let ran = going.end();
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr);
    assert_eq!(scene.read("out/sink.jsonl"), squares());
    scene.assert_clean();
}

#[test]
fn the_death_of_the_guardian_fails_the_run_and_leaves_nothing() {
    let scene = disturbed_scene();
    let going = scene.run().args(&["--workers", "2"]).start();
    until("work has begun", START, || scene.exists("daemon") && scene.exists("command"));
    support::kill(guardian(&scene), Signal::KILL);
    let ran = going.end();
    assert_eq!(ran.code(), Some(70), "{}", ran.stderr);
    ran.says(&["guardian"]);
    // Not only what it had started itself, but what that had started, too.
    assert_eq!(scene.described(), Vec::<String>::new());
    assert_old(&scene);
    scene.assert_clean();
}

#[test]
fn a_guardian_that_is_stopped_does_not_hold_up_the_end() {
    let scene = Scene::new(SLOW_STAGES, SLOW);
    let going = scene.run().args(&["--workers", "2"]).start();
    until("work has begun", START, || scene.exists("begun"));
    support::kill(guardian(&scene), Signal::STOP);
    let ran = going.end();
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr);
    assert_eq!(scene.read("out/sink.jsonl"), squares());
    scene.assert_clean();
}

fn guardian(scene: &Scene) -> i32 {
    support::parent_of(scene.processes_named("millpond-tmpl")[0])
}

#[test]
fn a_second_run_of_the_same_pipeline_does_not_disturb_the_first() {
    let scene = Scene::new(SLOW_STAGES, SLOW);
    let first = scene.run().args(&["--workers", "1"]).start();
    until("work has begun", START, || scene.exists("begun"));
    let second = scene.run().args(&["--workers", "1"]).end();
    let first = first.end();
    assert_eq!(first.code(), Some(0), "{}", first.stderr);
    assert!(matches!(second.code(), Some(0 | 6)), "{}", second.stderr);
    assert_eq!(scene.read("out/sink.jsonl"), squares());
    scene.assert_clean();
}
