//! Python stages with several outputs, and rows that user code rejects by itself.

mod support;

use support::{Scene, numbers, python};

const STAGES: &str = "
rows:
  read: in.csv
  batch: { rows: 100 }
split:
  from: rows
  python: { call: work:split, as: AS, ports: PORTS }
  batch: { rows: 100 }
  on_error: reject
even: { from: split.even, write: out/even.csv }
odd: { from: split.odd, write: out/odd.csv }
rejected: { from: split.rejected, write: out/rejected.jsonl }
";

fn scene(convention: &str, ports: &str, module: &str) -> Scene {
    let stages = STAGES.replace("AS", convention).replace("PORTS", ports);
    let scene = Scene::with_python(&python(&["pandas"]), &stages, &format!("import millpond\n{module}"));
    scene.write("in.csv", &numbers(1..=1000));
    scene
}

/// Functions that tell even numbers from odd ones, and reject the multiples of 250.
const SPLIT: [(&str, &str); 4] = [
    (
        "row",
        "
def split(row):
    if row['n'] % 250 == 0:
        millpond.reject(row, f\"{row['n']} is a multiple\")
    return {'odd' if row['n'] % 2 else 'even': row}
",
    ),
    (
        "rows",
        "
def split(rows):
    good = []
    for row in rows:
        if row['n'] % 250 == 0:
            millpond.reject(row, f\"{row['n']} is a multiple\")
        else:
            good.append(row)
    return {'odd': [row for row in good if row['n'] % 2], 'even': [row for row in good if row['n'] % 2 == 0]}
",
    ),
    (
        "pandas",
        "
def split(frame):
    for at in frame.index[frame.n % 250 == 0]:
        millpond.reject(at, f'{frame.n[at]} is a multiple')
    frame = frame[frame.n % 250 != 0]
    return {'odd': frame[frame.n % 2 == 1], 'even': frame[frame.n % 2 == 0]}
",
    ),
    (
        "arrow",
        "
def split(batch):
    numbers = batch['n'].to_pylist()
    for at, n in enumerate(numbers):
        if n % 250 == 0:
            millpond.reject(at, f'{n} is a multiple')
    odd = [at for at, n in enumerate(numbers) if n % 2]
    even = [at for at, n in enumerate(numbers) if n % 2 == 0 and n % 250]
    return {'odd': batch.take(odd), 'even': batch.take(even)}
",
    ),
];

#[test]
fn rows_go_to_the_port_that_they_are_given_for_or_are_rejected() {
    for (convention, module) in SPLIT {
        let scene = scene(convention, "[even, odd]", module);
        scene.run().args(&["--workers", "2"]).ends_with(0);
        let even = numbers((2..=1000).step_by(2).filter(|n| n % 250 != 0));
        assert_eq!(scene.read("out/even.csv"), even, "{convention}");
        assert_eq!(scene.read("out/odd.csv"), numbers((1..=1000).step_by(2)), "{convention}");
        let rejected = scene.read("out/rejected.jsonl");
        let rejected: Vec<serde_json::Value> =
            rejected.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
        let told: Vec<_> = rejected
            .iter()
            .map(|row| {
                let number = |name: &str| row[name].as_u64().expect("a number");
                (number("n"), row["_verdict"].as_str(), row["_message"].as_str(), number("_row"))
            })
            .collect();
        let messages = [250, 500, 750, 1000].map(|n| (n, format!("{n} is a multiple")));
        let expected: Vec<_> =
            messages.iter().map(|(n, text)| (*n, Some("contract"), Some(text.as_str()), *n)).collect();
        assert_eq!(told, expected, "{convention}");
        let stage = &scene.summary()["stages"][1];
        assert_eq!((&stage["stage"], &stage["account"]["rejected"]), (&"split".into(), &4.into()), "{convention}");
    }
}

#[test]
fn what_is_rejected_is_not_tried_again_and_fails_the_run_where_it_may_not_be() {
    for (convention, module) in &SPLIT[..3] {
        let scene = scene(convention, "[even, odd]", module);
        let pipeline = scene.read("pipeline.yaml");
        let strict = pipeline.replace("on_error: reject", "retry: { attempts: 3 }");
        let cut = strict.find("  rejected:").expect("the last sink");
        scene.write("pipeline.yaml", &strict[..cut]);
        let ran = scene.run().ends_with(4);
        ran.says(&["stage `split` failed (contract): 250 is a multiple", "in.csv, row 250"]);
    }
}

#[test]
fn columns_of_ports_are_declared_with_them() {
    let module = "
def split(row):
    return {'even': row} if row['n'] % 2 == 0 else {'odd': {'n': row['n'], 'text': str(row['n'])}}
";
    let scene = scene("row", "{ even: { n: string }, odd: { n: float64, text: string, more: date } }", module);
    scene.run().ends_with(0);
    assert!(scene.read("out/odd.csv").starts_with("n,text,more\n1.0,1,\n3.0,3,\n"), "{}", scene.read("out/odd.csv"));
    scene.run().args(&["--until", "split.odd"]).ends_with(0);
}

#[test]
fn a_result_that_names_no_port_fails() {
    let scene = scene("row", "[even, odd]", "def split(row):\n    return row\n");
    let pipeline = scene.read("pipeline.yaml").replace("on_error: reject", "description: strict");
    scene.write(
        "pipeline.yaml",
        &pipeline.replace("  rejected: { from: split.rejected, write: out/rejected.jsonl }\n", ""),
    );
    scene.run().ends_with(1).says(&["there is no port 'n'; `ports` declares even, odd"]);
}

#[test]
fn stages_with_state_have_ports() {
    let module = "
class Split:
    def __init__(self): self.seen = 0
    def __call__(self, row):
        self.seen += 1
        return {'even': {'n': row['n']}} if self.seen % 2 == 0 else {'odd': {'n': row['n']}}
    def finish(self):
        return {'even': {'n': -self.seen}}
def stream(batches):
    for batch in batches:
        yield {'even': batch.slice(0, 1), 'odd': batch.slice(1)}
";
    let scene = scene("row", "[even, odd]", module);
    let pipeline = scene.read("pipeline.yaml").replace("on_error: reject", "partition_by: n");
    let pipeline = pipeline.replace("  rejected: { from: split.rejected, write: out/rejected.jsonl }\n", "");
    scene.write("pipeline.yaml", &pipeline.replace("work:split", "work:Split"));
    scene.run().args(&["--workers", "2"]).ends_with(0);
    let rows = |name: &str| scene.read(name).lines().count() - 1;
    assert!(rows("out/odd.csv") >= 500, "{} odd rows", rows("out/odd.csv"));
    let total: i64 =
        scene.read("out/even.csv").lines().skip(1).map(|n| n.parse::<i64>().expect("a number").min(0)).sum();
    assert_eq!(total, -1000, "every row was seen by one instance");
    let streamed = pipeline.replace("partition_by: n", "description: all").replace("as: row", "as: stream");
    scene.write("pipeline.yaml", &streamed.replace("work:split", "work:stream"));
    scene.run().args(&["--workers", "2"]).ends_with(0);
    assert_eq!((rows("out/even.csv"), rows("out/odd.csv")), (10, 990));
}
