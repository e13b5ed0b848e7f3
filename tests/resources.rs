//! What stages share: never more of it is in use than there is, and nothing is called faster than its rate, whoever dies.

mod support;

use std::collections::BTreeMap;

use support::Scene;
use support::calls::callee;

/// Notes when it begins and ends, in a file of its own for each call.
const MODULE: &str = "
import os, time
def noted(what, row):
    began = time.monotonic()
    time.sleep(0.005)
    with open(f'called/{what}-{os.getpid()}-{time.monotonic_ns()}', 'x') as file:
        file.write(f'{began} {time.monotonic()}')
    return row
def one(row):
    return noted('one', row)
def other(row):
    return noted('other', row)
";

fn scene(resources: &str, stages: &str) -> Scene {
    let scene = Scene::with_python(&format!("{}{resources}", support::python(&[])), stages, MODULE).with_calls();
    let rows: String = (0..60).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    scene.write("rows.jsonl", &rows);
    scene
}

/// The calls of each function: from when to when, in seconds.
fn calls(scene: &Scene) -> BTreeMap<String, Vec<(f64, f64)>> {
    let mut calls: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    for name in scene.called() {
        let text = scene.read(&format!("called/{name}"));
        let (began, ended) = text.split_once(' ').expect("two numbers");
        let number = |text: &str| text.parse::<f64>().expect("a number");
        calls.entry(callee(&name).to_owned()).or_default().push((number(began), number(ended)));
    }
    calls
}

/// The most calls at one moment.
fn most_at_once(calls: &[(f64, f64)]) -> usize {
    let at = |moment: f64| calls.iter().filter(|(began, ended)| *began <= moment && moment < *ended).count();
    calls.iter().map(|(began, _)| at(*began)).max().unwrap_or(0)
}

const STAGES: &str = "
rows:
  read: rows.jsonl
one:
  from: rows
  python: { call: work:one, as: row }
  batch: { rows: 5 }
  USES
other:
  from: rows
  python: { call: work:other, as: row }
  batch: { rows: 5 }
  USES
first:
  from: one
  write: out/first.jsonl
second:
  from: other
  write: out/second.jsonl
";

fn assert_all(scene: &Scene) {
    for file in ["out/first.jsonl", "out/second.jsonl"] {
        assert_eq!(scene.read(file), scene.read("rows.jsonl").replace(": ", ":"), "{file}");
    }
    scene.assert_clean();
}

#[test]
fn never_more_is_in_use_than_there_is() {
    let scene = scene("resources: { connections: 2 }\n", &STAGES.replace("USES", "uses: connections"));
    scene.run().args(&["--workers", "4"]).ends_with(0);
    let calls = calls(&scene);
    let all: Vec<(f64, f64)> = calls.values().flatten().copied().collect();
    assert_eq!((all.len(), calls.len()), (120, 2));
    // Both are taken: of two stages with four workers, two attempts run at a time.
    assert_eq!(most_at_once(&all), 2);
    assert_all(&scene);
}

#[test]
fn who_dies_gives_back_what_it_has() {
    let stages = STAGES.replace("USES", "uses: { connections: 1, calls: { per: row } }");
    let scene = scene("resources: { connections: 1, calls: { rate: 500/s } }\n", &stages);
    scene.run().args(&["--workers", "3", "--chaos", "7", "--chaos-rate", "0.3"]).ends_with(0);
    let all: Vec<(f64, f64)> = calls(&scene).values().flatten().copied().collect();
    assert!(all.len() >= 120, "{} calls", all.len());
    assert_eq!(most_at_once(&all), 1);
    assert_all(&scene);
}

#[test]
fn nothing_is_faster_than_its_rate() {
    let stages = STAGES.replace("USES", "uses: { calls: { per: row } }");
    let scene = scene("resources: { calls: { rate: 100/s, burst: 4 } }\n", &stages);
    scene.run().args(&["--workers", "4"]).ends_with(0);
    let mut begun: Vec<f64> = calls(&scene).values().flatten().map(|(began, _)| *began).collect();
    begun.sort_by(f64::total_cmp);
    assert_eq!(begun.len(), 120);
    // Four at once, and then one every 10 ms: in no time were there more. What is taken for an attempt may be used a while later.
    let slack = 0.25;
    for (at, end) in begun.iter().enumerate() {
        for (before, start) in begun[..at].iter().enumerate() {
            let most = 4.0 + (end - start + slack) * 100.0;
            assert!((at - before + 1) as f64 <= most, "{} calls in {} s", at - before + 1, end - start);
        }
    }
    assert_all(&scene);
}

#[test]
fn commands_and_sources_take_their_part_too() {
    let stages = "
made:
  python: { call: work:made }
  uses: [token]
  batch: { rows: 3 }
task:
  command: { shell: \"mkdir busy; sleep 0.05; rmdir busy; touch called/task-1\" }
  uses: token
passed:
  from: made
  command: { shell: 'mkdir busy; cat; sleep 0.01; rmdir busy' }
  uses: token
  batch: { rows: 2 }
kept:
  from: made
  partition_by: n
  python: work:Kept
  uses: token
sink:
  from: passed
  write: out/sink.jsonl
other:
  from: kept
  write: out/other.jsonl
";
    // `mkdir` fails if another one is there.
    let module = "
import os, time
class held:
    def __enter__(self):
        os.mkdir('busy')
        time.sleep(0.01)
    def __exit__(self, *_):
        os.rmdir('busy')
def made():
    for n in range(12):
        with held():
            pass
        yield {'n': n}
class Kept:
    def __call__(self, rows: list):
        with held():
            return rows
";
    let python = format!("{}resources: {{ token: 1 }}\n", support::python(&[]));
    let scene = Scene::with_python(&python, stages, module).with_calls();
    scene.run().args(&["--workers", "4"]).ends_with(0);
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), 12);
    assert_eq!(scene.read("out/other.jsonl").lines().count(), 12);
    assert!(scene.exists("called/task-1"));
}
