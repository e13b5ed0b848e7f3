//! `run --chaos` injects faults, and nothing of them shows in what comes out.

mod support;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::{Ran, Scene, assert_same, is_long, numbers, python};

const BOUND: Duration = Duration::from_secs(120);

fn stress(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stress").join(name)
}

/// How many faults the summary of the last run counts, which are as many as its events tell of.
fn injected(scene: &Scene) -> u64 {
    let summary = scene.summary();
    let injected = summary["injected"].as_array().expect("a list").iter();
    let times = injected.map(|fault| fault["times"].as_u64().expect("a number")).sum();
    let told = scene.events().lines().filter(|line| line.contains(r#""event":"injected""#)).count();
    assert_eq!(told as u64, times);
    times
}

#[test]
fn generators_and_state_per_key_survive_any_fault() {
    let scene = Scene::new("", "");
    let run = |out: &str, chaos: &[&str]| -> Ran {
        let out = format!("out={}", scene.path(out).display());
        let args = ["--workers", "2", "--set", "rows=30000", "--set", "slow=0.1", "--set", &out];
        scene.run_of(&stress("stress.yaml")).args(&args).args(chaos).within(BOUND).ends_with(0)
    };
    run("undisturbed", &[]);
    let seeds: &[&str] = if is_long() { &["1", "2", "3", "4", "5", "6", "7", "8"] } else { &["1", "2"] };
    for seed in seeds {
        let out = format!("chaos-{seed}");
        let ran = run(&out, &["--chaos", seed, "--chaos-rate", "0.3"]);
        assert!(ran.stderr.contains("chaos: "), "nothing was injected\n{}", ran.stderr);
        assert_same(&scene.path("undisturbed"), &scene.path(&out), &format!("with --chaos {seed}\n{}", ran.stderr));
        scene.assert_clean();
    }
}

/// Every kind of stage that has attempts, with rejects, and limits on time and memory.
const STAGES: &str = "rows:
  python: work:rows
  batch: { rows: 10 }
worked:
  from: rows
  python: { call: work:work, as: rows }
  timeout: 2s
  memory: 300MiB
  on_error: reject
each:
  from: worked
  python: { call: work:work, as: row }
  on_error: reject
shouted:
  from: worked
  command: { run: [cat], input: jsonl, output: jsonl }
  timeout: 10s
told:
  from: worked
  command: { mode: row, run: [echo, '{n}'] }
touched:
  after: told
  command: [touch, touched]
out_each:
  from: each
  write: '${{ params.out }}/each.jsonl'
out_shouted:
  from: shouted
  write: '${{ params.out }}/shouted.jsonl'
numbers:
  from: told
  sql: SELECT n, stdout, exit_code FROM told
out_told:
  from: numbers
  write: '${{ params.out }}/told.jsonl'
rejects:
  from: worked.rejected
  write: '${{ params.out }}/rejects.jsonl'
";

#[test]
fn every_kind_of_attempt_survives_every_fault() {
    let module = "def rows():\n    for n in range(120):\n        yield {'n': n}\n\ndef work(given):\n    for row in given if isinstance(given, list) \
                  else [given]:\n        if row['n'] % 50 == 7:\n            raise ValueError('a seven')\n    return given\n";
    let scene = Scene::with_python(&format!("params: {{ out: {{ type: path }} }}\n{}", python(&[])), STAGES, module);
    let run = |out: &str, chaos: &[&str]| {
        let out = format!("out={}", scene.path(out).display());
        scene.run().args(&["--workers", "3", "--set", &out]).args(chaos).within(BOUND).ends_with(0)
    };
    run("undisturbed", &[]);
    let mut faults = std::collections::BTreeSet::new();
    for seed in ["1", "2", "3"] {
        let out = format!("chaos-{seed}");
        let ran = run(&out, &["--chaos", seed, "--chaos-rate", "0.6"]);
        assert_same(&scene.path("undisturbed"), &scene.path(&out), &format!("with --chaos {seed}\n{}", ran.stderr));
        assert!(injected(&scene) > 20, "{}", ran.stderr);
        let lines = ran.stderr.lines().filter_map(|line| line.strip_prefix("chaos: "));
        faults.extend(lines.filter_map(|line| Some(line.split_once(' ')?.0.to_owned())));
        scene.assert_clean();
    }
    assert_eq!(faults.into_iter().collect::<Vec<_>>(), ["hang", "kill", "lose", "replace", "slow"]);
}

#[test]
fn what_is_injected_follows_from_the_seed() {
    let module = "def rows():\n    for n in range(200):\n        yield {'n': n}\n\ndef work(rows):\n    return rows\n";
    let stages = "rows:\n  python: work:rows\n  batch: { rows: 10 }\nworked:\n  from: rows\n  python: { call: work:work, as: rows }\nsink:\n  \
                  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, module);
    let told = |seed: &str, workers: &str| {
        let args = ["--chaos", seed, "--chaos-rate", "0.4", "--workers", workers];
        let ran = scene.run().args(&args).within(BOUND).ends_with(0);
        ran.stderr.lines().filter(|line| line.starts_with("chaos: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let first = told("7", "1");
    assert!(!first.is_empty());
    assert_eq!(first, told("7", "3"));
    assert_ne!(first, told("8", "1"));
}

/// The examples, and the pipeline of the README. Those that have attempts, so that faults can hit them, come with `true`.
const PIPELINES: [(&str, bool); 9] = [
    ("examples/access_log/pipeline.yaml", true),
    ("examples/collatz/pipeline.yaml", true),
    ("examples/from_multiprocessing/pipeline.yaml", true),
    ("examples/hello/pipeline.yaml", false),
    ("examples/orders/pipeline.yaml", false),
    ("examples/reviews/pipeline.yaml", true),
    ("examples/sessions/pipeline.yaml", true),
    ("examples/words/pipeline.yaml", true),
    ("pipelines/flights/flights.yaml", true),
];

/// Runs a pipeline of the repository without faults and with those of some seeds, and compares what is published.
fn gives_the_same_with_faults(name: &str, has_attempts: bool) {
    let scene = Scene::new("", "");
    let pipeline = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let run = |out: &str, args: &[&str]| {
        let out = format!("out={}", scene.path(out).display());
        scene.run_of(&pipeline).args(&["--workers", "2", "--set", &out]).args(args).within(BOUND).ends_with(0)
    };
    run("undisturbed", &[]);
    let seeds: &[&str] = if is_long() { &["1", "2", "3", "4", "5", "6", "7", "8"] } else { &["1", "2", "3"] };
    let mut faults = 0;
    for seed in seeds {
        let out = format!("chaos-{seed}");
        let ran = run(&out, &["--chaos", seed, "--chaos-rate", "0.7"]);
        let when = format!("{name} with --chaos {seed}\n{}", ran.stderr);
        assert_same(&scene.path("undisturbed"), &scene.path(&out), &when);
        scene.assert_clean();
        faults += injected(&scene);
    }
    assert_eq!(faults > 0, has_attempts, "{faults} faults in {name}");
}

#[test]
fn every_pipeline_of_the_repository_gives_the_same_with_faults() {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some((name, has_attempts)) = PIPELINES.get(next.fetch_add(1, Ordering::Relaxed)) {
                    gives_the_same_with_faults(name, *has_attempts);
                }
            });
        }
    });
}

#[test]
fn every_pipeline_of_the_repository_is_tried() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let found = ["examples", "pipelines"].map(|folder| {
        let folders = root.join(folder).read_dir().expect("a folder").map(|entry| entry.expect("an entry").path());
        folders.filter(|path| path.is_dir()).count()
    });
    assert_eq!(found.iter().sum::<usize>(), PIPELINES.len());
}

#[test]
fn a_run_that_fails_fails_with_faults_as_without() {
    let stages = "rows:\n  read: in.csv\n  batch: { rows: 10 }\nworked:\n  from: rows\n  python: { call: work:work, as: rows }\n  \
                  retry: { attempts: 2, on: [exception] }\nsink:\n  from: worked\n  write: out/sink.jsonl\n";
    let module = "def work(rows):\n    if any(row['n'] == 57 for row in rows):\n        raise ValueError('bad')\n    return rows\n";
    let scene = Scene::new(stages, module);
    scene.write("in.csv", &numbers(1..=100));
    let run = |args: &[&str]| {
        let ran = scene.run().args(&["--workers", "2"]).args(args).within(BOUND).ends_with(1);
        assert!(!scene.exists("out/sink.jsonl"), "published: {}", ran.stderr);
        scene.assert_clean();
        ran
    };
    let blamed = ["stage `worked` failed (exception): ValueError: bad", "in.csv, row 57 (batch 5, after "];
    run(&[]).says(&blamed);
    for seed in ["1", "2", "3"] {
        run(&["--chaos", seed, "--chaos-rate", "0.7"]).says(&blamed);
        assert!(injected(&scene) > 0);
    }
}
