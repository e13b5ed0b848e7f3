//! What workers count and collect together: each batch counts once, whatever is tried again, killed, left out, recalled, or cut in parts.

mod support;

use serde_json::{Value, json};
use support::{Scene, numbers};

const STAGES: &str = "
rows:
  read: rows.csv
counted:
  from: rows
  python: { call: work:count, as: row }
  batch: { rows: 100 }
sink:
  from: counted
  write: out/rows.csv
";

fn scene(stages: &str, module: &str, rows: u64) -> Scene {
    let scene = Scene::new(stages, module);
    scene.write("rows.csv", &numbers(0..rows));
    scene
}

fn state(scene: &Scene) -> Value {
    scene.summary()["state"].clone()
}

#[test]
fn every_kind_is_in_the_summary() {
    let module = "
import millpond
def count(row):
    n = row['n']
    millpond.counter('rows').add()
    millpond.state.map('by_end').add(str(n % 3), n)
    millpond.state.map('extremes').max('most', n)
    millpond.state.map('extremes').min('least', n)
    millpond.state.map('last').set('n', n)
    millpond.state.map('mixed').update({1: 'number', '1': 'text'})
    millpond.state.set('ends').add(n % 4)
    millpond.state.top('digits').add(str(n)[0])
    millpond.state.quantiles('sizes').add(n)
    return row
";
    let scene = scene(STAGES, module, 1000);
    let ran = scene.run().ends_with(0);
    let state = state(&scene);
    assert_eq!(state["counter"], json!({"rows": 1000}));
    assert_eq!(state["map"]["by_end"], json!({"0": 166_833, "1": 166_167, "2": 166_500}));
    assert_eq!(state["map"]["extremes"], json!({"least": 0, "most": 999}));
    // In the order of the batches, whoever has done them.
    assert_eq!(state["map"]["last"], json!({"n": 999}));
    assert_eq!(state["map"]["mixed"], json!([[1, "number"], ["1", "text"]]));
    assert_eq!(state["set"]["ends"], json!([0, 1, 2, 3]));
    assert_eq!(state["top"]["digits"][0], json!(["1", 111]));
    let median = state["quantiles"]["sizes"]["p50"].as_f64().expect("a number");
    assert!((median / 499.5 - 1.0).abs() < 0.02, "{median}");
    ran.says(&[
        "counter `rows`: 1,000\n",
        "map `by_end`: 3 keys\n",
        "map `mixed`: 2 keys\n",
        "quantiles `sizes`: ",
        "p50 49",
        "set `ends`: 4 items\n",
    ]);
    scene.assert_clean();
}

#[test]
fn attempts_that_do_not_count_are_not_counted() {
    let module = "
import millpond, os
def count(row):
    millpond.counter('rows').add()
    if row['n'] == 250 and not os.path.exists('killed'):
        open('killed', 'x').close()
        os.kill(os.getpid(), 9)
    if row['n'] % 100 == 50:
        raise ValueError('no')
    return row
";
    let stages = STAGES.replace("batch: { rows: 100 }", "batch: { rows: 100 }\n  on_error: reject");
    for more in ["", "\n  retry: { attempts: 2 }", "\n  concurrency: 4"] {
        let scene = scene(&stages.replace("on_error: reject", &format!("on_error: reject{more}")), module, 1000);
        scene.run().ends_with(0);
        assert_eq!(state(&scene)["counter"], json!({"rows": 990}), "{more}");
        scene.assert_clean();
    }
}

#[test]
fn chaos_changes_no_count() {
    let module = "
import millpond, time
def count(row):
    time.sleep(0.001)
    millpond.counter('rows').add()
    millpond.state.map('sum').add('n', row['n'])
    return row
";
    let scene = scene(STAGES, module, 3000);
    for (seed, workers) in [("1", "1"), ("2", "3")] {
        scene.run().args(&["--chaos", seed, "--chaos-rate", "0.2", "--workers", workers]).ends_with(0);
        assert_eq!(state(&scene), json!({"counter": {"rows": 3000}, "map": {"sum": {"n": 3000 * 2999 / 2}}}), "{seed}");
        scene.assert_clean();
    }
}

#[test]
fn stages_that_wait_read_what_others_have_counted() {
    let module = "
import millpond
def count(row):
    millpond.counter('rows').add()
    return row
def tell(row):
    return {'rows': millpond.counter('rows').value}
";
    let stages = format!(
        "{STAGES}
one:
  read: one.csv
told:
  from: one
  after: counted
  python: {{ call: work:tell, as: row }}
sum:
  from: told
  write: out/told.jsonl
"
    );
    let scene = scene(&stages, module, 1234);
    scene.write("one.csv", &numbers([1]));
    scene.run().ends_with(0);
    assert_eq!(scene.read("out/told.jsonl"), "{\"rows\":1234}\n");
}

#[test]
fn batches_that_are_recalled_count_as_they_did() {
    let module = "
import millpond
def count(row):
    millpond.counter('rows').add()
    return row
";
    let stages = STAGES.replace("batch: { rows: 100 }", "batch: { rows: 100 }\n  checkpoint: true");
    let scene = scene(&stages, module, 1000);
    scene.run().ends_with(0);
    // What is recalled, and what is new.
    scene.write("rows.csv", &numbers(0..1100));
    scene.run().ends_with(0).says(&["10 of 11 batches reused"]);
    assert_eq!(state(&scene)["counter"], json!({"rows": 1100}));
    scene.assert_clean();
}

#[test]
fn rows_that_are_corrected_count_beside_the_others() {
    let module = "
import millpond
def count(row):
    millpond.counter('rows').add()
    if row['n'] % 100 == 7:
        raise ValueError('not yet')
    return row
";
    let stages = STAGES.replace("batch: { rows: 100 }", "batch: { rows: 100 }\n  checkpoint: true\n  on_error: reject");
    let scene = scene(&stages, module, 1000);
    scene.run().ends_with(0);
    assert_eq!(state(&scene)["counter"], json!({"rows": 990}));
    scene.write("work.py", &module.replace("% 100 == 7", "< 0"));
    scene
        .run()
        .args(&["--rejected"])
        .ends_with(0)
        .says(&["checkpoint of `counted`: 0 of 10 batches reused, and 990 rows of others"]);
    assert_eq!(state(&scene)["counter"], json!({"rows": 1000}));
}

#[test]
fn sources_and_stages_with_state_count_too() {
    let module = "
import millpond
def made():
    for n in range(1000):
        millpond.counter('made').add()
        yield {'n': n, 'key': n % 7}
class Keyed:
    def __call__(self, row):
        millpond.counter('seen').add()
    def finish(self):
        millpond.state.map('ends').add('finished')
        return []
";
    let stages = "
rows:
  python: { call: work:made }
  batch: { rows: 100 }
keyed:
  from: rows
  partition_by: key
  python: { call: work:Keyed, as: row }
sink:
  from: keyed
  write: out/rows.csv
";
    let scene = Scene::new(stages, module);
    for args in [&["--workers", "3"][..], &["--chaos", "5", "--chaos-rate", "0.3"]] {
        scene.run().args(args).ends_with(0);
        let state = state(&scene);
        assert_eq!(state["counter"], json!({"made": 1000, "seen": 1000}), "{args:?}");
        assert_eq!(state["map"]["ends"], json!({"finished": 7}), "{args:?}");
    }
}

#[test]
fn a_large_state_is_shown_in_part_and_the_rest_is_counted() {
    let module = "
import millpond
def count(row):
    millpond.state.map('large').set(str(row['n']), 'x' * 900_000)
    millpond.state.set('seen').update(range(row['n'] * 400, row['n'] * 400 + 400))
    return row
";
    let scene = scene(&STAGES.replace("rows: 100", "rows: 1"), module, 50);
    let ran = scene.run().ends_with(0);
    ran.says(&["map `large`: 50 keys\n", "set `seen`: 20,000 items\n"]);
    let summary = scene.summary();
    assert_eq!(summary["state"]["map"]["large"].as_object().map(serde_json::Map::len), Some(1));
    assert_eq!(summary["state"]["set"]["seen"].as_array().map(Vec::len), Some(10_000));
    assert_eq!(
        summary["state_left_out"],
        json!({"map": {"parts": 0, "entries": {"large": 49}}, "set": {"parts": 0, "entries": {"seen": 10_000}}})
    );
}

#[test]
fn a_run_has_its_summary_though_nobody_reads_what_it_prints() {
    let module = "
import millpond
def count(row):
    for number in range(250):
        print('x' * 999)
    millpond.counter('rows').add()
    return row
";
    let scene = scene(STAGES, module, 2);
    assert_eq!(scene.run().start_unread().end_unread().code(), Some(0));
    assert_eq!(state(&scene)["counter"], json!({"rows": 2}));
}

#[test]
fn a_summary_that_cannot_be_written_is_missed_aloud() {
    let module = "
import glob, os
def count(row):
    (folder,) = glob.glob('state/runs/*')
    os.makedirs(f'{folder}/summary.json', exist_ok=True)
    return row
";
    let scene = scene(STAGES, module, 2);
    scene.run().ends_with(0).says(&["error: the summary cannot be written to ", "summary.json`: "]);
}

#[test]
fn what_cannot_be_counted_fails_the_stage() {
    let module = "
import millpond
def count(row):
    millpond.state.map('m').set('k', 'text')
    millpond.state.map('m').add('k', 1)
    return row
";
    let scene = scene(STAGES, module, 10);
    scene
        .run()
        .ends_with(1)
        .says(&["stage `counted` failed", "map `m` of the state has something at `k` that is no number"]);
    scene.assert_clean();
}

#[test]
fn a_batch_that_cannot_be_counted_is_named_and_nothing_of_it_counts() {
    let module = "
import millpond
def count(row):
    millpond.counter('a').add()
    millpond.counter('large').add((1 << 62) if row['n'] % 100 == 0 else 0)
    millpond.state.set('seen').add(row['n'] // 100)
    return row
def made():
    for n in range(1000):
        yield {'n': n}
";
    let overflow = "stage `counted` failed (exception): counter `large` of the state goes beyond 64 bits, with what was done in batch 1";
    for (source, place) in [("read: rows.csv", "rows.csv, rows 101 to 200)\n"), ("python: work:made", "\n")] {
        let scene = scene(&STAGES.replace("read: rows.csv", source), module, 1000);
        scene.run().args(&["--workers", "2"]).ends_with(1).says(&[overflow, place]);
        assert_eq!(
            state(&scene),
            json!({"counter": {"a": 100, "large": 1_u64 << 62}, "set": {"seen": [0]}}),
            "{source}"
        );
        scene.assert_clean();
    }
}

#[test]
fn what_depends_on_the_state_is_not_kept() {
    let module = "
import millpond
def count(row):
    millpond.counter('rows').add(FACTOR)
    return row
";
    let tells = "
import millpond
def tell(row):
    return {'rows': millpond.counter('rows').value}
";
    let stages = format!(
        "{STAGES}
told:
  from: rows
  after: counted
  python: {{ call: tells:tell, as: row }}
  batch: {{ rows: 5 }}
  checkpoint: true
other:
  from: told
  write: out/told.csv
"
    );
    let scene = scene(&stages, "", 10);
    scene.write("tells.py", tells);
    for factor in [1, 2] {
        scene.write("work.py", &module.replace("FACTOR", &factor.to_string()));
        scene.run().ends_with(0).says(&["told: batches are not kept, as the code reads the state of the run"]);
        assert_eq!(scene.read("out/told.csv"), format!("rows\n{}", format!("{}\n", 10 * factor).repeat(10)));
    }
}
