//! What takes too long is stopped, says where it was, and costs no more than its own rows.

mod support;

use std::time::{Duration, Instant};

use serde_json::Value;
use support::{Ran, Scene, numbers, python};

/// A run that takes longer hangs.
const BOUND: Duration = Duration::from_secs(60);
const ROWS: usize = 12;
/// The number of the row that takes for ever.
const BAD: usize = 8;

const ENDS: &str =
    "sink:\n  from: worked\n  write: out/sink.jsonl\nrejects:\n  from: worked.rejected\n  write: out/rejects.jsonl\n";

fn scene(stage: &str, module: &str) -> Scene {
    let stages = format!("rows:\n  read: in.csv\nworked:\n  from: rows\n  on_error: reject\n{stage}\n{ENDS}");
    let scene = Scene::with_python(&python(&[]), &stages, module);
    scene.write("in.csv", &numbers(1..=ROWS));
    scene
}

/// Only the bad row is rejected, with its stack or its last words; all others come through in order.
fn assert_stopped(scene: &Scene, ran: &Ran, words: &[&str]) {
    let lines = |name: &str| -> Vec<Value> {
        scene.read(name).lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
    };
    let rejects = lines("out/rejects.jsonl");
    assert_eq!(rejects.len(), 1, "{rejects:?}\n{}", ran.stderr);
    assert_eq!((&rejects[0]["_verdict"], &rejects[0]["_row"]), (&"timeout".into(), &BAD.into()), "{}", rejects[0]);
    let told = format!("{} {}", rejects[0]["_message"], rejects[0]["_traceback"]);
    words.iter().for_each(|word| assert!(told.contains(word), "no `{word}` in {told}"));
    let given: Vec<_> = lines("out/sink.jsonl").iter().map(|row| row["n"].to_string().replace('"', "")).collect();
    let expected: Vec<_> = (1..=ROWS).filter(|row| *row != BAD).map(|row| row.to_string()).collect();
    assert_eq!(given, expected);
    scene.assert_clean();
}

#[test]
fn a_function_that_hangs_is_stopped_and_shows_its_stack() {
    let hangs = [
        ("spin", "while True:\n        pass"),
        ("sleep", "time.sleep(1e6)"),
        ("lock", "threading.Lock().acquire() and lock_twice()"),
        // The lock of the interpreter is held all the while.
        ("c", "while True:\n        ctypes.PyDLL(None).sleep(1000)"),
        ("deaf", "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n    time.sleep(1e6)"),
    ];
    std::thread::scope(|scope| {
        for (name, hang) in hangs {
            for convention in ["row", "arrow"] {
                scope.spawn(move || {
                    let is_bad = if convention == "row" { "item['n'] == 8" } else { "8 in item['n'].to_pylist()" };
                    let module = format!(
                        "import ctypes, signal, threading, time\nLOCK = threading.Lock()\n\ndef lock_twice():\n    with LOCK, LOCK:\n        \
                         pass\n\ndef hang_here():\n    {hang}\n\ndef work(item):\n    if {is_bad}:\n        hang_here()\n    return item\n"
                    );
                    let stage = format!("  python: {{ call: work:work, as: {convention} }}\n  timeout: 500ms");
                    let scene = scene(&stage, &module);
                    let ran = scene.run().within(BOUND).ends_with(0);
                    println!("{name} as {convention}");
                    assert_stopped(&scene, &ran, &["hang_here", "work.py", "`timeout`", "500ms"]);
                });
            }
        }
    });
}

#[test]
fn a_command_that_hangs_is_stopped_with_all_that_it_has_started() {
    let scripts = [
        ("batch", "while read -r n; do if [ $n = 8 ]; then sleep 1000; fi; echo $n; done"),
        (
            "batch",
            "trap '' TERM; while read -r n; do if [ $n = 8 ]; then sleep 1000 & wait; sleep 1000; fi; echo $n; done",
        ),
        ("stream", "while read -r n; do if [ $n = 8 ]; then sleep 1000; fi; echo $n; done"),
    ];
    std::thread::scope(|scope| {
        for (mode, script) in scripts {
            scope.spawn(move || {
                let stage = format!(
                    "  command: {{ mode: {mode}, shell: \"{script}\", input: lines, output: lines }}\n  timeout: 700ms"
                );
                let scene = scene(&stage, "");
                let lines = "rows:\n  read: in.txt";
                let pipeline = scene.read("pipeline.yaml").replace("read: in.csv", "read: in.txt");
                assert!(pipeline.contains("in.txt"), "{lines}");
                scene.write("pipeline.yaml", &pipeline);
                scene.write("in.txt", &(1..=ROWS).map(|row| format!("{row}\n")).collect::<String>());
                scene.run().within(BOUND).ends_with(0);
                let out = scene.read("out/sink.jsonl");
                assert_eq!(out.lines().count(), ROWS - 1, "{mode}: {out}");
                let rejects = scene.read("out/rejects.jsonl");
                let reject: Value = serde_json::from_str(rejects.trim()).expect("one row of JSON");
                assert_eq!((&reject["_verdict"], &reject["line"]), (&"timeout".into(), &"8".into()), "{mode}");
                scene.assert_clean();
            });
        }
    });
}

#[test]
fn a_command_for_each_row_has_a_time_of_its_own() {
    let stage =
        "  command: { mode: row, run: [bash, -c, 'if [ $0 = 8 ]; then sleep 1000; fi', '{n}'] }\n  timeout: 500ms";
    let scene = scene(stage, "");
    let ran = scene.run().within(BOUND).ends_with(0);
    assert_stopped(&scene, &ran, &["`timeout`"]);
}

#[test]
fn a_task_that_takes_too_long_fails_the_run() {
    let scene = Scene::new("wait:\n  command: [sleep, \"1000\"]\n  timeout: 300ms\n", "");
    let start = Instant::now();
    scene.run().within(BOUND).ends_with(1).says(&["stage `wait` failed (timeout)", "`timeout`"]);
    assert!(start.elapsed() < Duration::from_secs(20));
    scene.assert_clean();
}

#[test]
fn what_is_prepared_for_too_long_fails_without_blaming_a_row() {
    for module in [
        "import time\ndef never_ready():\n    time.sleep(1e6)\nnever_ready()\ndef work(row):\n    return row\n",
        "import time\nclass Work:\n    def __init__(self):\n        self.never_ready()\n    def never_ready(self):\n        time.sleep(1e6)\n    def \
         __call__(self, row):\n        return row\n",
    ] {
        let call = if module.contains("class") { "work:Work" } else { "work:work" };
        let stage = format!("  python: {{ call: '{call}', as: row }}\n  timeout: {{ attempt: 1m, open: 700ms }}");
        let scene = scene(&stage, module);
        let ran = scene.run().within(BOUND).ends_with(1);
        ran.says(&["stage `worked` failed (timeout)", "preparing the stage", "never_ready"]);
        assert!(!ran.stderr.contains("row "), "{}", ran.stderr);
        scene.assert_clean();
    }
}

#[test]
fn the_time_to_prepare_a_stage_is_not_its_first_batchs() {
    let module = "import time\ntime.sleep(1.5)\ndef work(row):\n    return row\n";
    let scene = scene("  python: { call: work:work, as: row }\n  timeout: 1s", module);
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), ROWS);
}

#[test]
fn what_takes_too_long_once_is_tried_again_after_a_rest() {
    let module = "import os, time\ndef work(row):\n    if row['n'] == 8:\n        with open('times', 'a') as times:\n            \
                  print(time.monotonic(), file=times)\n        if len(open('times').readlines()) < 3:\n            time.sleep(1e6)\n    return \
                  row\n";
    let stage = "  python: { call: work:work, as: row }\n  timeout: 500ms\n  retry: { attempts: 3, backoff: 400ms, on: [timeout] }";
    let scene = scene(stage, module);
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), ROWS);
    let times: Vec<f64> = scene.read("times").lines().map(|line| line.parse().expect("a number")).collect();
    let waits: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    // The time that it was given, and the rest: 0.4 s, then 0.8 s.
    assert!(waits.len() == 2 && waits[0] > 0.9 && waits[1] > 1.3, "{waits:?}");
}

#[test]
fn a_generator_has_its_time_for_each_batch() {
    let module = "import time\ndef rows():\n    for n in range(3):\n        yield [{'n': n}]\n    stuck()\n\ndef stuck():\n    time.sleep(1e6)\n";
    let stages = "made:\n  python: { call: work:rows, as: rows }\n  timeout: 700ms\nsink:\n  from: made\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, module);
    scene.run().within(BOUND).ends_with(1).says(&["stage `made` failed (timeout)", "stuck"]);
    scene.assert_clean();
}
