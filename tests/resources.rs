//! What stages share: never more of it is in use than there is, and nothing is called faster than its rate, whoever dies.

mod support;

use std::collections::BTreeMap;

use support::Scene;
use support::calls::{callee, most_at_once};

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
    for (name, times) in scene.times() {
        calls.entry(callee(&name).to_owned()).or_default().push(times);
    }
    calls
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

/// Notes which ids a process has, from when to when, in a file of its own.
const DEVICES: &str = "
import os, time
import millpond
def note(what, began):
    ids = os.environ['IDS']
    with open(f'called/{what}-{os.getpid()}-{time.monotonic_ns()}', 'x') as file:
        file.write(f'{ids} {began} {time.monotonic()}')
class Model:
    def __init__(self):
        self.ids = os.environ['IDS']
        assert millpond.worker.devices == {'gpu': tuple(self.ids.split(','))}, millpond.worker.devices
        # Another process that has the device, or has it still, is in the way.
        for id in self.ids.split(','):
            os.mkdir(f'busy-{id}-{os.getpid()}')
            others = [name for name in os.listdir() if name.startswith(f'busy-{id}-') and alive(name)]
            assert others == [f'busy-{id}-{os.getpid()}'], others
    def __call__(self, rows: list):
        began = time.monotonic()
        time.sleep(0.002)
        assert os.environ['IDS'] == self.ids
        note(type(self).__name__, began)
        return rows
class Other(Model):
    pass
def alive(name):
    try:
        with open(f'/proc/{name.split(chr(45))[-1]}/stat') as file:
            return file.read().rsplit(')', 1)[1].split()[0] not in 'ZX'
    except OSError:
        return False
";

const DEVICE_STAGES: &str = "
rows:
  read: rows.jsonl
one:
  from: rows
  python: { call: work:Model, as: rows }
  batch: { rows: 5 }
  uses: gpu
other:
  from: rows
  python: { call: work:Other, as: rows }
  batch: { rows: 5 }
  uses: { gpu: 2 }
last:
  from: rows
  command: [bash, -c, 'began=$(date +%s.%N); cat; echo \"$IDS 0 0\" > called/command-$$']
  batch: { rows: 20 }
  uses: gpu
first:
  from: one
  write: out/first.jsonl
second:
  from: other
  write: out/second.jsonl
third:
  from: last
  write: out/third.jsonl
";

fn device_scene() -> Scene {
    let python = format!("{}resources: {{ gpu: {{ ids: [3, GPU-a], env: IDS }} }}\n", support::python(&[]));
    let scene = Scene::with_python(&python, DEVICE_STAGES, DEVICES).with_calls();
    let rows: String = (0..60).map(|n| format!("{{\"n\": {n}}}\n")).collect();
    scene.write("rows.jsonl", &rows);
    scene
}

/// The ids that callees have had, in all their calls.
fn ids(scene: &Scene) -> BTreeMap<String, std::collections::BTreeSet<String>> {
    let mut ids: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
    for name in scene.called() {
        let text = scene.read(&format!("called/{name}"));
        let (had, _) = text.split_once(' ').expect("ids, and two numbers");
        ids.entry(callee(&name).to_owned()).or_default().insert(had.to_owned());
    }
    ids
}

#[test]
fn no_two_processes_have_the_same_device_at_one_time() {
    let scene = device_scene();
    let ran = scene.run().args(&["--workers", "4", "--progress", "plain"]).ends_with(0);
    assert_all(&scene);
    assert_eq!(scene.read("out/third.jsonl").lines().count(), 60);
    let ids = ids(&scene);
    let known = ["3".to_owned(), "GPU-a".to_owned()];
    assert!(ids["Model"].iter().all(|id| known.contains(id)), "{ids:?}");
    assert!(ids["command"].iter().all(|id| known.contains(id)), "{ids:?}");
    assert_eq!(ids["Other"].iter().collect::<Vec<_>>(), ["3,GPU-a"]);
    ran.says(&["others wait for the devices that it had"]);
}

#[test]
fn devices_come_back_when_workers_die() {
    let scene = device_scene();
    scene.run().args(&["--workers", "4", "--chaos", "7", "--chaos-rate", "0.3"]).ends_with(0);
    assert_all(&scene);
    assert_eq!(scene.read("out/third.jsonl").lines().count(), 60);
}
