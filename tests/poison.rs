//! Poison among many rows: exactly the rows that are to blame are rejected, for what they did, and all others come through once, in order.
//!
//! `MILLPOND_LONG` makes it a million rows with a hundred that are poison.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;
use support::{Scene, is_long, python};

/// What poison does, and the verdict.
const KINDS: [(&str, &str); 5] =
    [("raise", "exception"), ("exit", "crash"), ("kill", "crash"), ("type", "schema"), ("fill", "oom")];
const FILES: usize = 4;

const MODULE: &str = "import json, os, signal, time

POISON = {int(row): kind for row, kind in json.load(open('poison.json')).items()}

def fill():
    kept = []
    while True:
        kept.append(b'x' * (32 << 20))
        time.sleep(0.002)

def work(rows):
    made = []
    for row in rows:
        kind = POISON.get(row['id'])
        if kind == 'raise':
            raise ValueError('poison')
        if kind == 'exit':
            os._exit(3)
        if kind == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == 'fill':
            fill()
        made.append({'id': row['id'], 'double': 'two' if kind == 'type' else row['id'] * 2})
    return made
";

const STAGES: &str = "rows:
  read: in/*.csv
  batch: { rows: 4000 }
worked:
  from: rows
  python: { call: work:work, as: rows, returns: { id: int64, double: int64 } }
  memory: 256MiB
  on_error: reject
sink:
  from: worked
  write: out/sink.csv
rejects:
  from: worked.rejected
  write: out/rejects.jsonl
";

/// Places of poison that look as if by chance: `seed` decides.
fn poison(rows: usize, count: usize, mut seed: u64) -> BTreeMap<usize, usize> {
    let mut found = BTreeMap::new();
    while found.len() < count {
        // xorshift64 of Marsaglia, "Xorshift RNGs" (2003).
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let kind = found.len() % KINDS.len();
        found.entry((seed % rows as u64) as usize).or_insert(kind);
    }
    found
}

#[test]
fn exactly_the_poison_is_rejected() {
    let (rows, count) = if is_long() { (1_000_000, 100) } else { (60_000, 20) };
    let seed = std::env::var("MILLPOND_SEED").ok().map_or(20_261_126, |text| text.parse().expect("a number"));
    println!("{count} of {rows} rows are poison, seed {seed}");
    let poison = poison(rows, count, seed);
    let scene = Scene::with_python(&python(&[]), STAGES, MODULE);
    let kinds: BTreeMap<String, &str> = poison.iter().map(|(row, kind)| (row.to_string(), KINDS[*kind].0)).collect();
    scene.write("poison.json", &serde_json::to_string(&kinds).expect("text is JSON"));
    let of_file = rows / FILES;
    for file in 0..FILES {
        let mut text = String::from("id,name\n");
        for row in file * of_file..(file + 1) * of_file {
            let _ = writeln!(text, "{row},row {row}");
        }
        scene.write(&format!("in/{file}.csv"), &text);
    }
    scene.run().args(&["--workers", "2"]).within(Duration::from_secs(3600)).ends_with(0);

    let rejects: Vec<Value> =
        scene.read("out/rejects.jsonl").lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect();
    let told: Vec<_> = rejects
        .iter()
        .map(|reject| {
            let word = |key: &str| reject[key].as_str().expect("text").to_owned();
            let number = |key: &str| reject[key].as_u64().expect("a number") as usize;
            (number("id"), word("name"), word("_file"), number("_row"), word("_verdict"), word("_stage"))
        })
        .collect();
    let expected: Vec<_> = poison
        .iter()
        .map(|(&row, &kind)| {
            let file = format!("in/{}.csv", row / of_file);
            (row, format!("row {row}"), file, row % of_file + 1, KINDS[kind].1.to_owned(), "worked".to_owned())
        })
        .collect();
    assert_eq!(told, expected);

    let sink = scene.read("out/sink.csv");
    let mut given = sink.lines().skip(1);
    for row in (0..rows).filter(|row| !poison.contains_key(row)) {
        assert_eq!(given.next(), Some(format!("{row},{}", row * 2).as_str()));
    }
    assert_eq!(given.next(), None);
    scene.assert_clean();
}
