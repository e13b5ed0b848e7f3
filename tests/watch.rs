//! `run --watch`: runs again when what the run is made of has changed.

mod support;

use std::time::Duration;

use rustix::process::Signal;
use support::{Scene, until};

const STAGES: &str = "
rows:
  read: in/*.csv
worked:
  from: rows
  python: { call: \"work:work\", as: row }
summed:
  from: worked
  sql: SELECT sum(n) AS total FROM worked
sink:
  from: summed
  write: out/total.jsonl
";

const MODULE: &str = "
import factors
def work(row):
    return {'n': row['n'] * factors.FACTOR}
";

const PATIENCE: Duration = Duration::from_secs(60);

fn until_total(scene: &Scene, total: i64) {
    let text = format!("{{\"total\":{total}}}\n");
    until(&format!("the total is {total}"), PATIENCE, || {
        scene.exists("out/total.jsonl") && scene.read("out/total.jsonl") == text
    });
}

#[test]
fn what_has_changed_is_run_and_what_fails_is_no_end() {
    let scene = Scene::new(STAGES, MODULE);
    scene.write("factors.py", "FACTOR = 1\n");
    scene.write("in/a.csv", "n\n1\n2\n");
    let going = scene.run().args(&["--watch"]).start();
    until_total(&scene, 3);
    scene.write("in/a.csv", "n\n1\n20\n");
    until_total(&scene, 21);
    // A file that a pattern matches now, and a module of a module.
    scene.write("in/b.csv", "n\n100\n");
    until_total(&scene, 121);
    scene.write("factors.py", "FACTOR = 10\n");
    until_total(&scene, 1210);
    scene.write("factors.py", "FACTOR = undefined\n");
    until("a run has failed", PATIENCE, || scene.events().contains("'undefined' is not defined"));
    let yaml = scene.read("pipeline.yaml");
    scene.write("pipeline.yaml", &yaml.replace("from: summed", "from: sumed"));
    scene.write("factors.py", "FACTOR = 2\n");
    scene.write("pipeline.yaml", &yaml.replace("sum(n)", "max(n)"));
    until("the query is another one", PATIENCE, || scene.read("out/total.jsonl") == "{\"total\":200}\n");
    going.signal(Signal::INT);
    let ran = going.end();
    assert_eq!(ran.code(), Some(130), "{}", ran.stderr);
    ran.says(&["watching 4 files", "changed: ", "in/b.csv", "watching 5 files", "changed: ", "factors.py"]);
    scene.assert_clean();
}

#[test]
fn an_interrupt_ends_the_run_that_goes_on() {
    let scene = Scene::new("task:\n  command: [sh, -c, 'touch hangs; sleep 300']\n", "");
    let going = scene.run().args(&["--watch"]).start();
    until("the command hangs", PATIENCE, || scene.exists("hangs"));
    going.signal(Signal::TERM);
    going.signal(Signal::TERM);
    assert_eq!(going.end().code(), Some(143));
    scene.until_gone(Duration::from_secs(5));
}
