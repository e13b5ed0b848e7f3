//! Finished batches that are kept: which are done again after which change, and what becomes of them when runs die.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use rustix::process::Signal;
use support::calls::callee;
use support::{Scene, numbers, until};

const MODULE: &str = "
import millpond, helper, os, random, time

def work(rows, factor, model=None):
    open(f'called/x-{os.getpid()}-{time.time_ns()}', 'x').close()
    time.sleep(0.0)
    return [{**row, 'm': helper.scaled(row['n'], factor), 'r': random.random(), 'p': millpond.params['used']} for row in rows]
";
const STAGES: &str = "
rows:
  read: 'in/*.csv'
worked:
  from: rows
  python: { call: work:work, as: rows, with: { factor: 2, model: model.bin } }
  batch: { rows: 100 }
  checkpoint: true
sink:
  from: worked
  write: out/sink.jsonl
";
const HEAD: &str = "params:\n  used: { type: integer, default: 1 }\n  other: { type: string, default: a }\n";

/// Three files of 250 rows: batches of 100, 100 and 50 each.
fn scene() -> Scene {
    let python = format!("{HEAD}{}", support::python(&[]));
    let scene = Scene::with_python(&python, STAGES, MODULE).with_calls();
    scene.write("helper.py", "def scaled(n, factor):\n    return n * factor\n");
    scene.write("unrelated.py", "");
    scene.write("model.bin", "weights");
    for (at, name) in ["in/b.csv", "in/d.csv", "in/f.csv"].iter().enumerate() {
        let first = 1000 * at as u32;
        scene.write(name, &numbers(first..first + 250));
    }
    scene
}

fn edit(scene: &Scene, file: &str, from: &str, to: &str) {
    let text = scene.read(file);
    assert!(text.contains(from), "{file} has no `{from}`");
    scene.write(file, &text.replace(from, to));
}

/// Needs Python to be known: `plan` says only that it may have changed.
const PACKAGES: &str = "packages";

/// A change, the calls that the next run makes, and what it says has changed.
type Edit<'e> = (&'e str, Box<dyn Fn(&Scene)>, &'e [&'e str], usize, Option<&'e str>);

fn edits() -> Vec<Edit<'static>> {
    fn of(
        what: &'static str,
        change: impl Fn(&Scene) + 'static,
        calls: usize,
        says: Option<&'static str>,
    ) -> Edit<'static> {
        (what, Box::new(change), &[], calls, says)
    }
    vec![
        of("nothing", |_| {}, 0, None),
        of("code", |scene| edit(scene, "work.py", "0.0", "0.00"), 9, Some("code work.py")),
        of("helper", |scene| edit(scene, "helper.py", "n * factor", "factor * n"), 9, Some("code helper.py")),
        of("unrelated file", |scene| drop(scene.write("unrelated.py", "x = 1")), 0, None),
        ("param used", Box::new(|_| {}), &["--set", "used=2"], 9, Some("param used")),
        // The code looks at `millpond.params`, so it may look at any of them.
        ("param unused", Box::new(|_| {}), &["--set", "other=b"], 9, Some("param other")),
        of("with", |scene| edit(scene, "pipeline.yaml", "factor: 2", "factor: 3"), 9, Some("with")),
        of("model file", |scene| drop(scene.write("model.bin", "other weights")), 9, Some("file model.bin")),
        of("comment in YAML", |scene| edit(scene, "pipeline.yaml", "stages:", "# comment\nstages:"), 0, None),
        // Batches of 150 and 100 rows instead.
        of("batch size", |scene| edit(scene, "pipeline.yaml", "rows: 100 }", "rows: 150 }"), 6, None),
        of(
            "retry",
            |scene| edit(scene, "pipeline.yaml", "checkpoint: true", "checkpoint: true\n    retry: { attempts: 5 }"),
            0,
            None,
        ),
        of(
            "timeout",
            |scene| edit(scene, "pipeline.yaml", "checkpoint: true", "checkpoint: true\n    timeout: 60s"),
            0,
            None,
        ),
        of("new file first", |scene| drop(scene.write("in/a.csv", &numbers(7000..7120))), 2, None),
        of("new file last", |scene| drop(scene.write("in/z.csv", &numbers(7000..7120))), 2, None),
        of("new file between", |scene| drop(scene.write("in/c.csv", &numbers(7000..7120))), 2, None),
        of("file removed", |scene| std::fs::remove_file(scene.path("in/d.csv")).expect("it is there"), 0, None),
        // The last batch of the file has more rows.
        of("row appended", |scene| drop(scene.write("in/b.csv", &numbers(0..251))), 1, None),
        of("mtime only", |scene| drop(scene.write("in/b.csv", &numbers(0..250))), 0, None),
        // Random numbers are made of it.
        of("stage renamed", |scene| edit(scene, "pipeline.yaml", "worked", "laboured"), 9, None),
        of(
            "stage inserted",
            |scene| {
                edit(
                    scene,
                    "pipeline.yaml",
                    "  worked:\n    from: rows",
                    "  same:\n    from: rows\n    sql: SELECT * FROM rows\n  worked:\n    from: same",
                );
            },
            0,
            None,
        ),
        ("workers", Box::new(|_| {}), &["--workers", "1"], 0, None),
        ("seed", Box::new(|_| {}), &["--seed", "7"], 9, Some("seed")),
        of(
            "requirement",
            |scene| edit(scene, "pipeline.yaml", "requirements: []", "requirements: [numpy]"),
            9,
            Some(PACKAGES),
        ),
    ]
}

#[test]
fn what_is_done_again_after_a_change_is_what_depends_on_it() {
    // Two at a time.
    std::thread::scope(|scope| {
        for part in 0..2 {
            scope.spawn(move || edits().iter().skip(part).step_by(2).for_each(is_done_as_it_should));
        }
    });
}

fn is_done_as_it_should((what, change, arguments, expected, says): &Edit<'_>) {
    let scene = scene();
    scene.run().ends_with(0);
    assert_eq!(scene.take_called().len(), 9);
    change(&scene);
    let planned = planned(&scene, arguments);
    let ran = scene.run().args(arguments).ends_with(0);
    assert_eq!(scene.take_called().len(), *expected, "{what}: {}", ran.stderr);
    let has_changed = "batches are done again, as this has changed:";
    let will_change = "all 9 batches of the last run are done again, as this has changed:";
    match says {
        Some(PACKAGES) => {
            ran.says(&[has_changed, PACKAGES]);
            let reused = "9 finished batches, reused unless rows or packages have changed (the last run had 9 batches)";
            assert!(planned.contains(reused), "{what}: {planned}");
        }
        Some(component) => {
            ran.says(&[has_changed, component]);
            assert!(planned.contains(&format!("{will_change} {component}")), "{what}: {planned}");
        }
        None => assert!(!(ran.stderr + &planned).contains("has changed:"), "{what}: {planned}"),
    }
    // What is reused is what would come out without.
    let kept = scene.read("out/sink.jsonl");
    std::fs::remove_dir_all(scene.path("state")).expect("it is there");
    scene.run().args(arguments).ends_with(0);
    assert!(kept == scene.read("out/sink.jsonl"), "{what}: other bytes");
    scene.assert_clean();
}

/// What `plan` prints.
fn planned(scene: &Scene, arguments: &[&str]) -> String {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("plan").arg(scene.path("pipeline.yaml")).args(arguments).arg("--state-dir").arg(scene.path("state"));
    // Python is not needed.
    let output = command.env("PATH", "").output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn what_is_forced_is_done_again_and_kept() {
    let scene = scene();
    assert!(planned(&scene, &[]).contains("checkpoint of `worked`: there was no run before"));
    scene.run().ends_with(0);
    assert!(planned(&scene, &[]).contains("checkpoint of `worked`: 9 finished batches, reused unless"));
    assert_eq!(scene.take_called().len(), 9);
    scene.run().args(&["--force", "worked"]).ends_with(0);
    assert_eq!(scene.take_called().len(), 9);
    scene.run().ends_with(0).says(&["checkpoint of `worked`: 9 of 9 batches reused"]);
    scene.run().args(&["--force", "rows"]).ends_with(2).says(&["--force: the stage `rows` keeps no batches"]);
    scene.run().args(&["--force", "none"]).ends_with(2).says(&["--force: there is no stage `none`"]);
}

#[test]
fn code_that_cannot_be_seen_is_not_trusted() {
    let module = "
import importlib, os, time
plugin = importlib.import_module('plug' + 'in')
def work(rows):
    open(f'called/x-{os.getpid()}-{time.time_ns()}', 'x').close()
    return [{'n': plugin.f(row['n'])} for row in rows]
";
    let stages = "
rows:
  read: in.csv
worked:
  from: rows
  python: { call: work:work, as: rows }
  batch: { rows: 10 }
  checkpoint: true
sink:
  from: worked
  write: out.csv
";
    let scene = Scene::new(stages, module).with_calls();
    scene.write("in.csv", &numbers(0..30));
    scene.write("plugin.py", "def f(n):\n    return n + 1\n");
    for _ in 0..2 {
        scene.run().ends_with(0).says(&["worked: batches are not kept, as the code imports", "plugin.py", "depends"]);
        assert_eq!(scene.take_called().len(), 3);
    }
    edit(&scene, "pipeline.yaml", "checkpoint: true", "checkpoint: { depends: plug*.py }");
    scene.run().ends_with(0);
    assert_eq!(scene.take_called().len(), 3);
    scene.run().ends_with(0);
    assert_eq!(scene.take_called().len(), 0);
    scene.write("plugin.py", "def f(n):\n    return n + 2\n");
    scene.run().ends_with(0).says(&["file plugin.py"]);
    assert_eq!(scene.take_called().len(), 3);
}

#[test]
fn what_others_have_done_is_not_done_again() {
    let scenes = [scene(), scene()];
    let folder = tempfile::tempdir().expect("a temporary folder");
    for scene in &scenes {
        let share = format!("checkpoint: {{ share: {} }}", folder.path().display());
        edit(scene, "pipeline.yaml", "checkpoint: true", &share);
    }
    scenes[0].run().ends_with(0);
    assert_eq!(scenes[0].take_called().len(), 9);
    scenes[1].run().ends_with(0);
    assert_eq!(scenes[1].take_called().len(), 0);
    assert_eq!(scenes[0].read("out/sink.jsonl"), scenes[1].read("out/sink.jsonl"));
    // What is not sound is not used.
    let mut folders: Vec<_> = folder.path().read_dir().expect("a folder").flatten().map(|entry| entry.path()).collect();
    folders.sort();
    for folder in &folders {
        let file = folder.read_dir().expect("a folder").next().expect("a file").expect("an entry").path();
        std::fs::write(file, "something else").expect("ours");
    }
    let spoilt = folders.len();
    std::fs::remove_dir_all(scenes[1].path("state")).expect("it is there");
    let ran = scenes[1].run().ends_with(0);
    ran.says(&["worked: `", "is damaged, or not of millpond"]);
    assert_eq!(scenes[1].take_called().len(), spoilt);
    assert_eq!(scenes[0].read("out/sink.jsonl"), scenes[1].read("out/sink.jsonl"));
}

#[test]
fn a_stage_that_cannot_keep_its_batches_says_why() {
    let scene = Scene::new("rows:\n  read: in.csv\n  checkpoint: true\nsink:\n  from: rows\n  write: out.csv\n", "");
    scene.run().ends_with(3).says(&["the stage `rows` cannot keep finished batches", "in mode `batch` or `row`"]);
    let scene = Scene::new(
        "rows:\n  read: in.csv\nworked:\n  from: rows\n  python: { call: work:work, as: rows }\n  checkpoint: { depends: nothing.bin }\nsink:\n  \
         from: worked\n  write: out.csv\n",
        "",
    );
    scene.run().ends_with(6).says(&["stage `worked`: no file matches", "nothing.bin"]);
}

#[test]
fn rejected_rows_are_kept_with_their_batches() {
    let module = "
import os, time
def work(row):
    open(f'called/x-{os.getpid()}-{time.time_ns()}', 'x').close()
    if row['n'] % 10 == 3:
        raise ValueError(f\"bad {row['n']}\")
    return row
";
    let stages = "
rows:
  read: 'in/*.csv'
worked:
  from: rows
  python: { call: work:work, as: row }
  batch: { rows: 20 }
  checkpoint: true
  on_error: reject
sink:
  from: worked
  write: out/sink.jsonl
bad:
  from: worked.rejected
  write: out/bad.jsonl
";
    let scene = Scene::new(stages, module).with_calls();
    scene.write("in/b.csv", &numbers(0..100));
    scene.run().ends_with(0);
    let first = ["out/sink.jsonl", "out/bad.jsonl"].map(|name| scene.read(name));
    assert_eq!(first[1].lines().count(), 10);
    assert!(scene.take_called().len() >= 100);
    // A file before it: its rows are others, those of the first one and their origins the same.
    scene.run().ends_with(0);
    assert_eq!(scene.take_called().len(), 0);
    assert_eq!(first, ["out/sink.jsonl", "out/bad.jsonl"].map(|name| scene.read(name)));
    scene.write("in/a.csv", &numbers(500..510));
    scene.run().ends_with(0);
    let bad = scene.read("out/bad.jsonl");
    assert_eq!(bad.lines().count(), 11);
    assert!(bad.ends_with(&first[1]), "{bad}");
    // Without `on_error`, the row fails the run, whatever was kept.
    edit(&scene, "pipeline.yaml", "    on_error: reject\n", "");
    edit(&scene, "pipeline.yaml", "  bad:\n    from: worked.rejected\n    write: out/bad.jsonl\n", "");
    scene.run().ends_with(1).says(&["ValueError: bad 503", "a.csv, row 4"]);
}

#[test]
fn batches_that_are_alike_stand_for_themselves() {
    let module = "
import os, random, time
def rows():
    yield from ({'n': 1} for _ in range(40))
def work(rows):
    open(f'called/x-{os.getpid()}-{time.time_ns()}', 'x').close()
    return [{'x': random.random()} for _ in rows]
";
    let stages = "
rows:
  python: work:rows
worked:
  from: rows
  python: { call: work:work, as: rows }
  batch: { rows: 2 }
  checkpoint: true
sink:
  from: worked
  write: out/sink.jsonl
";
    let scene = Scene::new(stages, module).with_calls();
    scene.run().ends_with(0);
    assert_eq!(scene.take_called().len(), 20);
    let first = scene.read("out/sink.jsonl");
    let different: std::collections::BTreeSet<&str> = first.lines().collect();
    assert_eq!(different.len(), 40, "{first}");
    scene.run().ends_with(0);
    assert_eq!(scene.take_called().len(), 0);
    assert_eq!(scene.read("out/sink.jsonl"), first);
}

#[test]
fn commands_keep_their_batches_too() {
    let stages = "
rows:
  read: 'in/*.txt'
worked:
  from: rows
  command:
    shell: mktemp -q called/x-XXXXXXXX > /dev/null; sed \"s/a/$letter/\"
    input: lines
    output: lines
  batch: { rows: 10 }
  checkpoint: true
counted:
  from: worked
  command: { run: [sh, count.sh, '{line}'], mode: row }
  checkpoint: { depends: count.sh }
sink:
  from: counted
  write: out/sink.jsonl
";
    let head = "params:\n  letter: { type: string, default: b }\n";
    let scene = Scene::with_python(head, stages, "").with_calls();
    scene.write("count.sh", "mktemp -q called/y-XXXXXXXX > /dev/null; echo ${#1}");
    scene.write("in/a.txt", &"a\n".repeat(25));
    scene.run().ends_with(0);
    assert_eq!(scene.take_called().len(), 3 + 25);
    let first = scene.read("out/sink.jsonl");
    let ran = scene.run().ends_with(0);
    ran.says(&["checkpoint of `worked`: 3 of 3 batches reused", "checkpoint of `counted`: 25 of 25 batches reused"]);
    assert_eq!(scene.take_called().len(), 0);
    assert_eq!(first, scene.read("out/sink.jsonl"));
    scene.write("count.sh", "mktemp -q called/y-XXXXXXXX > /dev/null; echo $((${#1} + 1))");
    scene.run().ends_with(0);
    assert_eq!(scene.take_called().len(), 25);
    scene.run().args(&["--set", "letter=c"]).ends_with(0);
    assert_eq!(scene.take_called().len(), 3 + 25);
}

/// Sixty batches, each of which takes a while and tells that it was done.
const SLOW: &str = "
import os, time
def work(rows):
    time.sleep(0.02)
    open(f\"called/{rows[0]['n']}-{os.getpid()}-{time.time_ns()}\", 'x').close()
    return [{'n': row['n'] ** 2} for row in rows]
";
const SLOW_STAGES: &str = "
rows:
  read: in.csv
worked:
  from: rows
  python: { call: work:work, as: rows }
  batch: { rows: 10 }
  checkpoint: true
sink:
  from: worked
  write: out/sink.jsonl
";

fn slow_scene() -> Scene {
    let scene = Scene::new(SLOW_STAGES, SLOW).with_calls();
    scene.write("in.csv", &numbers(0..600));
    scene
}

fn squares() -> String {
    (0..600_u64).map(|n| format!("{{\"n\":{}}}\n", n * n)).collect()
}

/// How often each batch was done, in all runs.
fn counted(scene: &Scene) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    scene.called().iter().for_each(|name| *counts.entry(callee(name).to_owned()).or_default() += 1);
    counts
}

/// Runs it to its end, and checks that no more was done again than what was in flight at each of `deaths` deaths.
fn goes_on(scene: &Scene, deaths: usize) {
    scene.until_gone(Duration::from_secs(5));
    scene.run().args(&["--workers", "2"]).ends_with(0);
    assert!(scene.read("out/sink.jsonl") == squares());
    let counts = counted(scene);
    assert_eq!(counts.len(), 60);
    let again: usize = counts.values().map(|count| count - 1).sum();
    // Two workers, each with an attempt and the next one, and what of theirs is on the way to the disk.
    assert!(again <= deaths * 8, "{again} batches were done again after {deaths} deaths");
    scene.assert_clean();
}

#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_where_it_was() {
    let scene = slow_scene();
    let mut deaths = 0;
    for moment in 0..20 {
        let before = scene.called().len();
        let going = scene.run().args(&["--workers", "2"]).start();
        // Another moment each time, the first ones before anything is done.
        let enough = || scene.called().len() >= before + moment % 5;
        let mut over = false;
        until("some more is done", Duration::from_secs(30), || {
            over = scene.exists("out/sink.jsonl");
            over || enough()
        });
        going.signal(Signal::KILL);
        going.end();
        scene.until_gone(Duration::from_secs(5));
        if over {
            break;
        }
        deaths += 1;
    }
    assert!(deaths > 10, "only {deaths} deaths");
    goes_on(&scene, deaths);
}

#[test]
fn a_run_that_dies_while_it_writes_down_a_batch_goes_on_where_it_was() {
    for point in ["checkpoint.payload_written", "checkpoint.recorded"] {
        for time in [1, 7, 30] {
            let scene = slow_scene();
            let ran =
                scene.run().args(&["--workers", "2"]).env("MILLPOND_FAIL_POINT", &format!("{point}:{time}")).end();
            assert_eq!(ran.signal(), Some(9), "{point} was not reached\n{}", ran.stderr);
            goes_on(&scene, 1);
        }
    }
}

#[test]
fn a_second_run_is_told_who_has_the_checkpoints() {
    let scene = slow_scene();
    let first = scene.run().args(&["--workers", "1"]).start();
    until("it works", Duration::from_secs(30), || !scene.called().is_empty());
    let ran = scene.run().ends_with(6);
    ran.says(&["another run", &format!("(process {})", first.pid()), "--state-dir"]);
    assert!(ran.took < Duration::from_secs(5), "{:?}", ran.took);
    assert_eq!(std::fs::read_dir(scene.path("state/runs")).expect("there is a run").count(), 1, "no run but the first");
    first.signal(Signal::KILL);
    first.end();
    goes_on(&scene, 1);
}

#[test]
fn what_runs_at_an_interrupt_is_kept() {
    let scene = slow_scene();
    let going = scene.run().args(&["--workers", "2"]).start();
    until("some is done", Duration::from_secs(30), || scene.called().len() >= 10);
    going.signal(Signal::INT);
    assert_eq!(going.end().code(), Some(130));
    scene.run().args(&["--workers", "2"]).ends_with(0);
    assert!(counted(&scene).values().all(|count| *count == 1), "what was done at the interrupt is done again");
    assert!(scene.read("out/sink.jsonl") == squares());
}

#[test]
fn killed_workers_and_other_faults_do_not_change_what_is_kept() {
    let scene = slow_scene();
    scene.run().args(&["--workers", "2", "--chaos", "3", "--chaos-rate", "0.3"]).ends_with(0);
    assert!(scene.read("out/sink.jsonl") == squares());
    let done = scene.called().len();
    scene.run().ends_with(0);
    assert!(scene.read("out/sink.jsonl") == squares());
    assert_eq!(scene.called().len(), done);
}

/// Row by row, a file for each call; rows fail by their numbers, as long as the module says so.
const POISONED: &str = "
import os, time
BAD = {97, 98, 400, 401, 402, 749}
def work(row):
    open(f\"called/{row['n']}-{time.time_ns()}\", 'x').close()
    if row['n'] in BAD:
        raise ValueError(f\"bad {row['n']}\")
    if row['n'] % 10 == 3:
        return None
    if row['n'] % 10 == 4:
        return [row, {**row, 'again': True}]
    return row
";
const POISONED_STAGES: &str = "
rows:
  read: 'in/*.csv'
worked:
  from: rows
  python: { call: work:work, as: row, returns: { n: int64, again: bool } }
  batch: { rows: 100 }
  checkpoint: true
  on_error: reject
sink:
  from: worked
  write: out/sink.jsonl
bad:
  from: worked.rejected
  write: out/bad.jsonl
";

fn poisoned_scene(stages: &str) -> Scene {
    let scene = Scene::new(stages, POISONED).with_calls();
    scene.write("in/a.csv", &numbers(0..250));
    scene.write("in/b.csv", &numbers(250..750));
    scene
}

/// The rows that were called since this was asked last, ascending.
fn called_rows(scene: &Scene) -> Vec<u32> {
    let number = |name: &String| callee(name).parse().expect("a number");
    let mut numbers: Vec<u32> = scene.take_called().iter().map(number).collect();
    numbers.sort_unstable();
    numbers
}

/// What the pipeline publishes without any checkpoint.
fn undisturbed(scene: &Scene) -> (String, String) {
    std::fs::rename(scene.path("state"), scene.path("kept")).expect("it is there");
    scene.run().ends_with(0);
    std::fs::remove_dir_all(scene.path("state")).expect("it is there");
    std::fs::rename(scene.path("kept"), scene.path("state")).expect("it is there");
    scene.take_called().len();
    (scene.read("out/sink.jsonl"), scene.read("out/bad.jsonl"))
}

#[test]
fn what_was_rejected_is_done_again_and_nothing_else() {
    let scene = poisoned_scene(POISONED_STAGES);
    scene.run().args(&["--rejected"]).ends_with(2).says(&["--rejected: there is no run of"]);
    scene.run().ends_with(0);
    assert_eq!(called_rows(&scene).len(), 750);
    assert_eq!(scene.read("out/bad.jsonl").lines().count(), 6);
    // A part of it is mended.
    edit(&scene, "work.py", "97, 98, 400, 401, 402, 749", "98, 401");
    let ran = scene.run().args(&["--rejected"]).ends_with(0);
    ran.says(&["does again what", "has rejected", "5 of 8 batches reused, and 294 rows of others"]);
    assert!(!ran.stderr.contains("are done again"), "{}", ran.stderr);
    assert_eq!(called_rows(&scene), [97, 98, 400, 401, 402, 749]);
    let corrected = (scene.read("out/sink.jsonl"), scene.read("out/bad.jsonl"));
    assert_eq!(corrected.1.lines().count(), 2);
    assert!(corrected.1.contains("bad 98") && corrected.1.contains("bad 401"), "{}", corrected.1);
    // All that was done counts from now on.
    scene.run().ends_with(0);
    assert_eq!(called_rows(&scene), [0; 0]);
    assert!(corrected == (scene.read("out/sink.jsonl"), scene.read("out/bad.jsonl")), "other bytes");
    assert!(corrected == undisturbed(&scene), "not what is published without");
    // And then the rest, with nothing changed but the world.
    edit(&scene, "work.py", "98, 401", "1000");
    scene.run().args(&["--rejected"]).ends_with(0);
    assert_eq!(called_rows(&scene), [98, 401]);
    let corrected = (scene.read("out/sink.jsonl"), scene.read("out/bad.jsonl"));
    assert!(corrected == undisturbed(&scene), "not what is published without");
    scene.run().args(&["--rejected", "--seed", "1"]).ends_with(2);
    // It does not go back past a run in which all was well.
    scene.run().args(&["--rejected"]).ends_with(2).says(&["the newest run of", "has rejected no row"]);
    scene.assert_clean();
}

#[test]
fn a_stage_of_another_name_has_kept_nothing() {
    let scene = poisoned_scene(POISONED_STAGES);
    scene.run().ends_with(0);
    edit(&scene, "pipeline.yaml", "worked", "laboured");
    scene.run().args(&["--rejected"]).ends_with(6).says(&["its stages with `checkpoint` had other names"]);
}

#[test]
fn a_correction_that_is_killed_is_gone_on_with() {
    let scene = poisoned_scene(POISONED_STAGES);
    scene.run().ends_with(0);
    called_rows(&scene);
    // It hangs at the last row that was rejected.
    edit(
        &scene,
        "work.py",
        "if row['n'] in BAD:",
        "if row['n'] == 749 and not os.path.exists('calm'):\n        time.sleep(300)\n    if False:",
    );
    let going = scene.run().args(&["--rejected", "--workers", "1"]).start();
    until("it hangs", Duration::from_secs(30), || scene.called().iter().any(|name| name.starts_with("749-")));
    // All but that one are kept by now, or are on their way.
    going.signal(Signal::KILL);
    going.end();
    scene.until_gone(Duration::from_secs(5));
    assert_eq!(called_rows(&scene), [97, 98, 400, 401, 402, 749]);
    scene.write("calm", "");
    scene.run().args(&["--rejected"]).ends_with(2).says(&["has died", "--resume"]);
    scene.run().args(&["--resume"]).ends_with(0).says(&["goes on with", "does again what", "has rejected"]);
    let again = called_rows(&scene);
    assert!(again.contains(&749) && again.iter().all(|row| [97, 98, 400, 401, 402, 749].contains(row)), "{again:?}");
    let corrected = (scene.read("out/sink.jsonl"), scene.read("out/bad.jsonl"));
    assert!(corrected == undisturbed(&scene), "not what is published without");
}

#[test]
fn a_function_that_sees_whole_batches_is_given_them_again() {
    let stages = POISONED_STAGES.replace("as: row,", "as: rows,").replace("call: work:work", "call: work:whole");
    let scene = poisoned_scene(&stages);
    let whole = "\ndef whole(rows):\n    return [work(row) if row['n'] in BAD else row for row in rows]\n";
    scene.write("work.py", &format!("{POISONED}{whole}"));
    scene.run().ends_with(0);
    assert_eq!(scene.read("out/bad.jsonl").lines().count(), 6);
    called_rows(&scene);
    edit(&scene, "work.py", "BAD = {97, 98, 400, 401, 402, 749}", "BAD = set()");
    edit(&scene, "work.py", "if row['n'] in BAD else row", "if row['n'] % 100 == 50 else row");
    scene.run().args(&["--rejected"]).ends_with(0).says(&["5 of 8 batches reused"]);
    // Batches of 100 rows, and of 50 at the end of the first file: those of rows 97 and 98, of 400 to 402, and of 749.
    assert_eq!(called_rows(&scene), [50, 350, 650]);
    assert!(scene.read("out/bad.jsonl").is_empty());
}

#[test]
fn without_anything_kept_nothing_can_be_corrected() {
    let stages = POISONED_STAGES.replace("  checkpoint: true\n", "");
    let scene = poisoned_scene(&stages);
    scene.run().ends_with(0);
    scene.run().args(&["--rejected"]).ends_with(2).says(&["no stage of `scene` has `checkpoint`"]);
    let scene = poisoned_scene(POISONED_STAGES);
    edit(&scene, "work.py", "97, 98, 400, 401, 402, 749", "1000");
    scene.run().ends_with(0);
    scene.run().args(&["--rejected"]).ends_with(2).says(&["has rejected no row"]);
}
