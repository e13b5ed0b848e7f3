//! What all workers look up: made once, there before the first batch, in memory once, and not to be written to.

mod support;

use serde_json::json;
use support::{Scene, numbers};

/// A scene with this under `shared:`.
fn scene(shared: &str, stages: &str, module: &str) -> Scene {
    let shared: String = shared.trim().lines().map(|line| format!("  {line}\n")).collect();
    let scene = Scene::with_python(&format!("{}shared:\n{shared}", support::python(&["numpy"])), stages, module);
    scene.write("rows.csv", &numbers(0..100));
    scene.with_calls()
}

const STAGES: &str = "
rows:
  read: rows.csv
worked:
  from: rows
  python: { call: work:work, as: row }
  batch: { rows: 10 }
sink:
  from: worked
  write: out/rows.csv
";

const LOOKS_UP: &str = "
import millpond
prices = None
def work(row):
    global prices
    if prices is None:
        prices = dict(zip(*millpond.shared['prices'].to_pydict().values()))
    return {'n': row['n'], 'price': prices[row['n'] % 3]}
";

fn with_prices(scene: &Scene, factor: u32) {
    scene.write("prices.csv", &format!("item,price\n0,{}\n1,{}\n2,{}\n", factor, 2 * factor, 3 * factor));
}

fn priced(factor: u32) -> String {
    let rows: String = (0..100).map(|n| format!("{n},{}\n", (n % 3 + 1) * factor)).collect();
    format!("n,price\n{rows}")
}

#[test]
fn a_table_is_there_for_every_batch_and_for_queries() {
    let shared = "prices: { read: prices.csv }\nlow: { from: prices, sql: 'SELECT min(price) AS price FROM prices' }";
    let stages = format!(
        "{STAGES}
joined:
  from: [worked, prices, low]
  sql: SELECT worked.n, worked.price - low.price AS more FROM worked JOIN prices ON prices.price = worked.price CROSS JOIN low ORDER BY n
other:
  from: joined
  write: out/joined.csv
"
    );
    let module = LOOKS_UP.replace(
        "return {",
        "assert millpond.shared['low'].to_pylist() == [{'price': 10}] and sorted(millpond.shared) == ['low', 'prices']\n    return {",
    );
    let scene = scene(shared, &stages, &module);
    with_prices(&scene, 10);
    for workers in ["1", "3"] {
        scene.run().args(&["--workers", workers]).ends_with(0);
        assert_eq!(scene.read("out/rows.csv"), priced(10), "{workers}");
        let more: String = (0..100).map(|n| format!("{n},{}\n", n % 3 * 10)).collect();
        assert_eq!(scene.read("out/joined.csv"), format!("n,more\n{more}"), "{workers}");
        scene.assert_clean();
    }
}

#[test]
fn an_object_is_made_once_and_cannot_be_written_to() {
    let module = "
import millpond, numpy, os
class Model:
    def __init__(self, factor):
        open(f'called/made-{os.getpid()}', 'x').close()
        self.weights = numpy.arange(100_000) * factor
        self.table = numpy.ones((300, 300))
def work(row):
    model = millpond.shared['model']
    assert model is millpond.shared['model'] and model.weights.flags.aligned
    try:
        model.weights[0] = 1
    except ValueError as error:
        return {'n': row['n'], 'value': int(model.weights[row['n']]), 'error': str(error), 'sum': int(model.table.sum())}
";
    let shared = "model:\n  python: { call: work:Model, with: { factor: 3 } }";
    let scene = scene(shared, STAGES, module);
    scene.run().args(&["--workers", "3"]).ends_with(0);
    let rows: String = (0..100).map(|n| format!("{n},{},assignment destination is read-only,90000\n", n * 3)).collect();
    assert_eq!(scene.read("out/rows.csv"), format!("n,value,error,sum\n{rows}"));
    assert_eq!(scene.called().len(), 1);
    scene.assert_clean();
}

#[test]
fn deaths_change_nothing() {
    let module = "
import millpond, time
def load():
    time.sleep(0.02)
    return {'numbers': list(range(100))}
def work(row):
    time.sleep(0.001)
    return {'n': millpond.shared['model']['numbers'][row['n']]}
";
    let scene = scene("model: { python: work:load }", STAGES, module);
    scene.run().args(&["--workers", "2", "--chaos", "3", "--chaos-rate", "0.3"]).ends_with(0);
    assert_eq!(scene.read("out/rows.csv"), scene.read("rows.csv"));
    scene.assert_clean();
}

#[test]
fn finished_batches_count_as_long_as_what_is_looked_up_is_the_same() {
    let stages = STAGES.replace("batch: { rows: 10 }", "batch: { rows: 10 }\n  checkpoint: true");
    let scene = scene("prices: { read: prices.csv }", &stages, LOOKS_UP);
    with_prices(&scene, 10);
    scene.run().ends_with(0).says(&["0 of 10 batches reused"]);
    scene.run().ends_with(0).says(&["10 of 10 batches reused"]);
    with_prices(&scene, 20);
    scene.run().ends_with(0).says(&["0 of 10 batches reused"]);
    assert_eq!(scene.read("out/rows.csv"), priced(20));
}

#[test]
fn it_is_in_memory_once() {
    // Each worker touches all of it and tells its own memory, and what the others share is divided by their number.
    let module = "
import millpond, numpy, os, time
def load():
    return numpy.ones(16 << 20)
def work(row):
    millpond.shared['big'].sum()
    millpond.barrier('all', 3).wait()
    if not os.path.exists(f'called/pss-{os.getpid()}'):
        with open('/proc/self/smaps_rollup') as file:
            fields = dict(line.split(':') for line in file.read().splitlines()[1:])
        with open(f'called/pss-{os.getpid()}', 'w') as file:
            file.write(fields['Pss_Shmem'].split()[0])
    millpond.barrier('again', 3).wait()
    return row
";
    let stages = STAGES.replace("batch: { rows: 10 }", "batch: { rows: 1 }");
    let scene = scene("big: { python: work:load }", &stages, module);
    scene.write("rows.csv", &numbers(0..3));
    scene.run().args(&["--workers", "3"]).ends_with(0);
    let sizes: Vec<u64> =
        scene.called().iter().map(|name| scene.read(&format!("called/{name}")).parse().expect("kB")).collect();
    assert_eq!(sizes.len(), 3);
    let total: u64 = sizes.iter().sum::<u64>() << 10;
    let big = 128 << 20;
    // The coordinator has it mapped, too, and may or may not have touched it; one of the workers has made it.
    assert!((big / 2..=2 * big + (32 << 20)).contains(&total), "{total}: {sizes:?}");
}

#[test]
fn what_cannot_be_shared_says_why() {
    let cases = [
        ("def load():\n    return lambda: 1\n", "cannot be shared, as it cannot be pickled"),
        ("def load():\n    yield 1\n", "is a generator: what is shared is what a function returns"),
        ("def load():\n    raise ValueError('no file')\n", "ValueError: no file"),
    ];
    for (load, message) in cases {
        let scene = scene("model: { python: work:load }", STAGES, &format!("{load}def work(row):\n    return row\n"));
        scene.run().ends_with(1).says(&["stage `model` failed", message]);
        scene.assert_clean();
    }
    let module = "
class Model:
    def __reduce__(self):
        raise TypeError('not this one')
def load():
    return Model()
def work(row):
    return row
";
    let scene = scene("model: { python: work:load }", STAGES, module);
    let ran = scene.run().ends_with(1);
    ran.says(&["stage `model` failed (exception): TypeError: not this one", "in __reduce__"]);
    assert!(!ran.stderr.contains("millpond.") && !ran.stderr.contains("During handling"), "{}", ran.stderr);
}

#[test]
fn what_is_not_there_says_what_is() {
    let module = "import millpond\ndef work(row):\n    millpond.shared['prize']\n";
    let scene = scene("prices: { read: prices.csv }", STAGES, module);
    with_prices(&scene, 1);
    scene.run().ends_with(1).says(&["`prize` is not under `shared:` of this pipeline; there is `prices`"]);
}

#[test]
fn what_it_is_made_from_is_told_that_it_is_not_there_yet() {
    let module = "import millpond\ndef work(row):\n    millpond.shared['low']\n";
    let scene = scene("low: { from: worked, sql: 'SELECT min(n) AS n FROM worked' }", STAGES, module);
    scene.run().ends_with(1).says(&["stage `worked` failed", "`low` is not there yet: ", "does not wait for it"]);
}

#[test]
fn a_summary_has_two_stages_for_each() {
    let scene = scene("prices: { read: prices.csv }", STAGES, LOOKS_UP);
    with_prices(&scene, 10);
    scene.run().ends_with(0);
    let stages = scene.summary()["stages"].clone();
    let names: Vec<_> = stages.as_array().expect("a list").iter().map(|stage| stage["stage"].clone()).collect();
    assert!(names.contains(&json!("prices")) && names.contains(&json!("prices.shared")), "{names:?}");
}
