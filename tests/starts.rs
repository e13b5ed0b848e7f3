//! How workers are started: forked from the template, or as interpreters of their own (`start: exec`).

mod support;

use std::collections::BTreeSet;
use std::time::Duration;

use rustix::process::Signal;
use support::{DETACH, Scene, python, until};

const SOURCE: &str = "def rows(count):\n    for number in range(count):\n        yield {'n': number}\n";

/// `python: { start: exec }` of a pipeline, beside what a scene needs.
fn exec() -> String {
    python(&[]).replace(" }\n", ", start: exec }\n")
}

/// Rows of 5 a batch through `work`; `options` are of its stage.
fn stages(count: usize, call: &str, options: &str) -> String {
    format!(
        "rows:\n  python: {{ call: work:rows, with: {{ count: {count} }} }}\n  batch: {{ rows: 5 }}\nworked:\n  from: rows\n  python: {{ \
         {call} }}\n{options}sink:\n  from: worked\n  write: out/sink.jsonl\n"
    )
}

/// The rows of the only sink.
fn rows(scene: &Scene) -> Vec<serde_json::Value> {
    scene.read("out/sink.jsonl").lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

const TELLS: &str = "
import gc, hashlib, os, random, sys
import numpy, helper
def work(row):
    return {
        'n': row['n'],
        'main': sys.modules['__main__'].__spec__.name,
        'argv': open('/proc/self/cmdline').read().replace('\\0', ' '),
        'parent': open(f'/proc/{os.getppid()}/comm').read().strip(),
        'name': open('/proc/self/comm').read().strip(),
        'frozen': gc.get_freeze_count(),
        'leader': os.getsid(0) == os.getpid(),
        'folder': os.path.basename(os.getcwd()),
        'variable': os.environ['VARIABLE'],
        'unset': os.environ.get('PYTHONSAFEPATH', 'none'),
        'threads': os.environ['OMP_NUM_THREADS'],
        'nice': os.nice(0),
        'fds': len(os.listdir('/proc/self/fd')),
        'drawn': f'{random.random()} {numpy.random.rand()} {hash(\"text\")}',
        'helper': helper.VALUE,
    }
";

fn told(start: &str) -> Vec<serde_json::Value> {
    let more = format!("path: [., lib], nice: 3, threads: 7, start: {start}, ");
    let header = python(&["numpy"]).replace("path: [.], ", &more);
    let options = "  env: { VARIABLE: value, PYTHONPATH: elsewhere }\n  cwd: place\n";
    let scene =
        Scene::with_python(&header, &stages(10, "call: work:work, as: row", options), &format!("{SOURCE}{TELLS}"));
    scene.write("lib/helper.py", "VALUE = 'from its path'\n");
    // What lies where a worker works is not imported in the place of modules.
    scene.write("place/json.py", "raise SystemExit('imported from the folder')\n");
    scene.run().ends_with(0);
    scene.assert_clean();
    rows(&scene)
}

#[test]
fn a_worker_of_its_own_interpreter_is_like_others_but_for_what_it_inherits() {
    let (template, exec) = (told("template"), told("exec"));
    assert_eq!((template.len(), exec.len()), (10, 10));
    for (forked, fresh) in template.iter().zip(&exec) {
        for same in
            ["n", "leader", "folder", "variable", "unset", "threads", "nice", "drawn", "helper", "parent", "fds"]
        {
            assert_eq!(forked[same], fresh[same], "{same}");
        }
        let main = |row: &serde_json::Value| row["main"].as_str().expect("text").to_owned();
        assert_eq!((main(forked), main(fresh)), ("millpond.template".to_owned(), "millpond.worker_start".to_owned()));
        assert!(forked["frozen"].as_u64() > Some(0) && fresh["frozen"] == 0, "{forked} {fresh}");
        assert!(fresh["argv"].as_str().is_some_and(|argv| argv.contains("-m millpond.worker_start")), "{fresh}");
        assert!(forked["argv"].as_str().is_some_and(|argv| argv.contains("-m millpond.template")), "{forked}");
        assert!(fresh["name"].as_str().is_some_and(|name| name.starts_with("millpond-")), "{fresh}");
        assert_eq!((&fresh["variable"], &fresh["leader"]), (&"value".into(), &true.into()));
    }
}

#[test]
fn a_stage_says_for_itself_how_its_workers_are_started() {
    let module = format!(
        "{SOURCE}import os, sys\ndef work(rows, column):\n    name = sys.modules['__main__'].__spec__.name\n    \
                          return [{{**row, column: f'{{name}} {{os.getpid()}}'}} for row in rows]\n"
    );
    let stages = "rows:\n  python: { call: work:rows, with: { count: 20 } }\n  batch: { rows: 5 }\n\
                  one:\n  from: rows\n  python: { call: work:work, as: rows, with: { column: one }, start: template }\n\
                  two:\n  from: one\n  python: { call: work:work, as: rows, with: { column: two } }\n\
                  sink:\n  from: two\n  write: out/sink.jsonl\n";
    let scene = Scene::with_python(&exec(), stages, &module);
    scene.run().ends_with(0);
    for row in rows(&scene) {
        let starts = |column: &str, name: &str| row[column].as_str().is_some_and(|told| told.starts_with(name));
        assert!(starts("one", "millpond.template ") && starts("two", "millpond.worker_start "), "{row}");
    }
    scene.assert_clean();
}

#[test]
fn an_interpreter_that_dies_or_is_replaced_costs_an_attempt_and_closes_what_it_can() {
    let module = format!(
        "{SOURCE}
import os, signal
class Work:
    def __init__(self):
        open(f'made-{{os.getpid()}}', 'w').close()
    def __call__(self, rows):
        if rows[0]['n'] == 5 and not os.path.exists('died'):
            open('died', 'w').close()
            os.kill(os.getpid(), signal.SIGKILL)
        return [{{**row, 'pid': os.getpid()}} for row in rows]
    def close(self):
        open(f'closed-{{os.getpid()}}', 'w').close()
"
    );
    let stages = stages(20, "call: work:Work, as: rows", "  recycle: { batches: 1 }\n");
    let scene = Scene::with_python(&exec(), &stages, &module);
    scene.run().args(&["--workers", "2"]).ends_with(0);
    let rows = rows(&scene);
    assert_eq!(rows.iter().map(|row| row["n"].as_u64()).collect::<Vec<_>>(), (0..20).map(Some).collect::<Vec<_>>());
    let pids: BTreeSet<_> = rows.iter().map(|row| row["pid"].to_string()).collect();
    assert_eq!(pids.len(), 4, "a worker for each batch");
    assert!(pids.iter().all(|pid| scene.exists(&format!("closed-{pid}"))), "{pids:?}");
    assert!(scene.exists("died"));
    scene.assert_clean();
}

#[test]
fn an_interpreter_that_takes_too_long_shows_what_it_does() {
    let module = format!("{SOURCE}\nimport time\ndef work(rows):\n    time.sleep(300)\n    return rows\n");
    let stages = stages(5, "call: work:work, as: rows", "  timeout: 1s\n");
    let scene = Scene::with_python(&exec(), &stages, &module);
    scene.run().ends_with(1).says(&["work.py\", line ", "in work"]);
    scene.assert_clean();
}

#[test]
fn nothing_outlives_a_coordinator_that_is_killed() {
    let module = format!("{SOURCE}{DETACH}");
    let scene = Scene::with_python(&exec(), &stages(20, "call: work:detach, as: rows", ""), &module);
    let going = scene.run().args(&["--workers", "2"]).start();
    until("a worker has detached a process", Duration::from_secs(40), || scene.exists("daemon"));
    going.signal(Signal::KILL);
    going.end();
    scene.until_gone(Duration::from_secs(2));
}
