//! `order: any`: nobody waits for what is slower, and no row is lost or doubled.

mod support;

use support::{Scene, numbers};

/// The numbers in a file of JSON lines, sorted.
fn sorted(scene: &Scene, file: &str) -> Vec<u64> {
    let text = scene.read(file);
    let row = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("a row")["n"].as_u64().expect("n");
    let mut found: Vec<u64> = text.lines().map(row).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_batch_does_not_wait_for_those_before_it() {
    // The first batch is done when what comes behind it has passed the next stage: in order, that would never be.
    let module = "
import os, time
def work(row: dict):
    while row['n'] == 0 and not os.path.exists('passed'):
        time.sleep(0.01)
    return row
def look(row: dict):
    if row['n'] == 1:
        open('passed', 'w').close()
    return row
";
    let stages = "
rows: { read: rows.csv }
worked: { from: rows, python: work:work, batch: { rows: 1 }, order: any }
looked: { from: worked, python: work:look, batch: { rows: 1 } }
sink: { from: looked, write: out.jsonl }
";
    let scene = Scene::new(stages, module);
    scene.write("rows.csv", &numbers(0..20));
    scene.run().args(&["--workers", "2"]).ends_with(0);
    assert_eq!(sorted(&scene, "out.jsonl"), (0..20).collect::<Vec<_>>());
    assert!(!scene.read("out.jsonl").starts_with("{\"n\":0}"));
    scene.assert_clean();
}

#[test]
fn members_of_a_union_are_read_as_their_rows_come() {
    let stages = r#"
late: { command: { shell: 'until test -e go; do sleep 0.01; done; seq 0 9 | sed "s/.*/{\"n\":&}/"', output: jsonl } }
early: { read: rows.csv }
both: { from: [late, early], python: work:work, order: any }
out: { from: both, write: out.jsonl }
sink: { from: [late, early, late], write: all.jsonl, order: any }
"#;
    let module = "
def work(row: dict):
    if row['n'] >= 10:
        open('go', 'w').close()
    return row
";
    let scene = Scene::new(stages, module);
    scene.write("rows.csv", &numbers(10..3000));
    scene.run().args(&["--workers", "2"]).ends_with(0);
    assert_eq!(sorted(&scene, "out.jsonl"), (0..3000).collect::<Vec<_>>());
    let mut twice: Vec<u64> = (0..10).chain(0..3000).collect();
    twice.sort_unstable();
    assert_eq!(sorted(&scene, "all.jsonl"), twice);
    scene.assert_clean();
}

#[test]
fn failing_rows_are_named_rejected_and_counted_as_ever() {
    let module = "
def work(row: dict):
    if row['n'] % 1000 == 7:
        raise ValueError('seven')
    return row
";
    let stages = "
rows: { read: rows.csv, batch: { rows: 100 } }
worked: { from: rows, python: work:work, order: any, on_error: reject, retry: { attempts: 2 } }
sink: { from: worked, write: out.jsonl }
bad: { from: worked.rejected, write: bad.jsonl }
";
    let scene = Scene::new(stages, module);
    scene.write("rows.csv", &numbers(0..5000));
    scene.run().args(&["--workers", "3", "--chaos", "3"]).ends_with(0);
    assert_eq!(sorted(&scene, "bad.jsonl"), [7, 1007, 2007, 3007, 4007]);
    assert_eq!(sorted(&scene, "out.jsonl"), (0..5000).filter(|n| n % 1000 != 7).collect::<Vec<_>>());
    let yaml = scene
        .read("pipeline.yaml")
        .replace(", on_error: reject, retry: { attempts: 2 }", "")
        .replace("  bad: { from: worked.rejected, write: bad.jsonl }\n", "");
    scene.write("pipeline.yaml", &yaml);
    let ran = scene.run().args(&["--workers", "3"]).ends_with(1);
    ran.says(&["ValueError: seven", "rows.csv, row 8 "]);
    scene.assert_clean();
}

#[test]
fn one_name_may_stand_for_many_inputs() {
    let stages = "
src: { foreach: { k: [0, 10, 20] }, command: { run: [seq, '${{ each.k }}', '${{ each.k + 9 }}'], output: lines } }
sink: { from: src, write: { path: out.txt, format: lines }, order: any }
";
    let scene = Scene::new(stages, "");
    scene.run().ends_with(0);
    let text = scene.read("out.txt");
    let mut found: Vec<u64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    found.sort_unstable();
    assert_eq!(found, (0..30).collect::<Vec<_>>());
}
