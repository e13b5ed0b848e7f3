//! Stages that keep state per key: whatever the number of workers, and whoever dies, a key's rows meet the state that those before them left.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write;

use support::Scene;

/// Events of some users, shuffled by a fixed rule.
fn events(count: u64) -> Vec<(String, u64)> {
    let user = |number: u64| format!("user{}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58);
    (0..count).map(|number| (user(number), number * 7 % 100)).collect()
}

fn csv(events: &[(String, u64)]) -> String {
    let mut text = String::from("user,n\n");
    for (user, number) in events {
        let _ = writeln!(text, "{user},{number}");
    }
    text
}

const STAGES: &str = "
events:
  read: events.csv
counted:
  from: events
  partition_by: user
  python: { call: work:Count, as: AS }
  batch: { rows: 100 }
sink:
  from: counted
  write: out/counted.csv
";

/// Counts the rows of every user; kills its worker where a file tells it to, once each.
const COUNT: &str = "
import os
KILL = {int(n) for n in os.environ.get('KILL_AT', '').split()}
class Count:
    def __init__(self):
        self.seen = {}
    def __call__(self, rows):
        for row in [rows] if isinstance(rows, dict) else rows:
            user = row['user']
            self.seen[user] = row['count'] = self.seen.get(user, 0) + 1
            if user == 'user7' and self.seen[user] in KILL:
                mark = f'killed-{self.seen[user]}'
                if not os.path.exists(mark):
                    open(mark, 'w').close()
                    os.kill(os.getpid(), 9)
        return rows
    def finish(self):
        return [{'user': user, 'n': None, 'count': -count} for user, count in self.seen.items()]
";

fn scene(convention: &str, module: &str, events: &[(String, u64)]) -> Scene {
    let scene = Scene::new(&STAGES.replace("AS", convention), module);
    scene.write("events.csv", &csv(events));
    scene
}

/// The rows of a result, in order, without its header.
fn rows(text: &str) -> Vec<(String, String, i64)> {
    let row = |line: &str| {
        let mut fields = line.split(',').map(str::to_owned);
        let mut field = || fields.next().expect("three columns");
        let (user, number) = (field(), field());
        (user, number, field().parse().expect("a number"))
    };
    text.lines().skip(1).map(row).collect()
}

/// Every row of every user has its number among the user's rows, and the last ones tell how many there were.
fn check_counts(text: &str, events: &[(String, u64)]) {
    let rows = rows(text);
    let mut seen: BTreeMap<String, i64> = BTreeMap::new();
    let mut expected: BTreeMap<String, Vec<(String, i64)>> = BTreeMap::new();
    for (user, number) in events {
        let count = seen.entry(user.clone()).or_default();
        *count += 1;
        expected.entry(user.clone()).or_default().push((number.to_string(), *count));
    }
    let (counted, finished) = rows.split_at(events.len());
    let mut found: BTreeMap<String, Vec<(String, i64)>> = BTreeMap::new();
    for (user, number, count) in counted {
        found.entry(user.clone()).or_default().push((number.clone(), *count));
    }
    assert_eq!(found, expected);
    let finished: BTreeMap<String, i64> = finished.iter().map(|(user, _, count)| (user.clone(), -count)).collect();
    assert_eq!(finished, seen);
}

#[test]
fn state_per_key_is_the_same_for_any_number_of_workers() {
    let events = events(2000);
    for convention in ["row", "rows"] {
        let scene = scene(convention, COUNT, &events);
        let results: Vec<String> = ["1", "2", "4"]
            .into_iter()
            .map(|workers| {
                scene.run().args(&["--workers", workers]).ends_with(0);
                scene.read("out/counted.csv")
            })
            .collect();
        check_counts(&results[0], &events);
        assert!(results.iter().all(|result| *result == results[0]), "as: {convention}");
        scene.assert_clean();
    }
}

#[test]
fn a_state_is_made_again_when_its_worker_dies() {
    let events = events(2000);
    let scene = scene("row", COUNT, &events);
    scene.run().args(&["--workers", "2"]).ends_with(0);
    let undisturbed = scene.read("out/counted.csv");
    let disturbed = Scene::new(
        &STAGES.replace("AS", "row").replace("counted:\n", "counted:\n  env: { KILL_AT: 1 5 20 30 }\n"),
        COUNT,
    );
    disturbed.write("events.csv", &csv(&events));
    for workers in ["1", "4"] {
        disturbed.run().args(&["--workers", workers]).ends_with(0);
        assert_eq!(disturbed.read("out/counted.csv"), undisturbed, "{workers} workers");
        assert!([1, 5, 20, 30].iter().all(|count| disturbed.exists(&format!("killed-{count}"))));
        for count in [1, 5, 20, 30] {
            std::fs::remove_file(disturbed.path(&format!("killed-{count}"))).expect("it is there");
        }
    }
    disturbed.assert_clean();
}

#[test]
fn a_row_that_fails_is_named_though_nothing_is_halved() {
    let events = events(500);
    let at = events.iter().rposition(|(user, _)| user == "user7").expect("one of them");
    let last = events.iter().filter(|(user, _)| user == "user7").count();
    let module = COUNT.replace(
        "            if user",
        &format!("            if user == 'user7' and self.seen[user] == {last}:\n                raise ValueError('enough')\n            if user"),
    );
    for workers in ["1", "3"] {
        let ran = scene("row", &module, &events).run().args(&["--workers", workers]).ends_with(1);
        assert!(ran.stderr.contains("stage `counted` failed (exception): ValueError: enough"), "{}", ran.stderr);
        let place = format!("events.csv, row {} (batch {}, after 1 attempt)", at + 1, at / 100);
        assert!(ran.stderr.contains(&place), "{place}: {}", ran.stderr);
    }
    // What a function is given as a whole is at fault as a whole: the rows of its partition.
    let ran = scene("rows", &module, &events).run().ends_with(1);
    assert!(ran.stderr.contains(&format!("(batch {}, after 1 attempt)", at / 100)), "{}", ran.stderr);
    assert!(ran.stderr.contains("events.csv, rows "), "{}", ran.stderr);
}

#[test]
fn a_failed_attempt_leaves_nothing_in_the_state() {
    let events = events(1000);
    let once = "
            if user == 'user7' and self.seen[user] == 6 and not os.path.exists('failed'):
                open('failed', 'w').close()
                raise ValueError('only once')
            if user";
    let module = COUNT.replace("\n            if user", once);
    let stages = STAGES.replace("counted:\n", "counted:\n  retry: { attempts: 2 }\n");
    let scene = Scene::new(&stages.replace("AS", "row"), &module);
    scene.write("events.csv", &csv(&events));
    scene.run().args(&["--workers", "2"]).ends_with(0);
    assert!(scene.exists("failed"));
    check_counts(&scene.read("out/counted.csv"), &events);
}

#[test]
fn whole_batches_reach_a_function_partition_by_partition() {
    let events = events(1500);
    let module = "
import pandas
seen = {}
def count(frame: pandas.DataFrame):
    for user in frame['user']:
        seen[user] = seen.get(user, 0) + 1
    frame['count'] = frame.groupby('user').cumcount() + 1 + frame['user'].map(seen) - frame.groupby('user')['n'].transform('size')
    return frame
";
    let stages = STAGES.replace("work:Count, as: AS", "work:count");
    let scene = Scene::with_python(&support::python(&["pandas"]), &stages, module);
    scene.write("events.csv", &csv(&events));
    let mut results = Vec::new();
    for workers in ["1", "3"] {
        scene.run().args(&["--workers", workers]).ends_with(0);
        results.push(scene.read("out/counted.csv"));
    }
    assert_eq!(results[0], results[1]);
    let mut seen: BTreeMap<String, i64> = BTreeMap::new();
    for (user, _, count) in rows(&results[0]) {
        let before = seen.entry(user).or_default();
        *before += 1;
        assert_eq!(*before, count);
    }
    assert_eq!(seen.values().sum::<i64>(), 1500);
}

#[test]
fn a_key_that_is_no_column_is_an_error_that_says_what_there_is() {
    let stages = STAGES.replace("AS", "row").replace("partition_by: user", "partition_by: person");
    // Nobody knows the columns beforehand, as the file may be yet to be made.
    let stages = stages.replace("events:\n", "first:\n  command: [\"true\"]\nevents:\n  after: first\n");
    let scene = Scene::new(&stages, COUNT);
    scene.write("events.csv", &csv(&events(10)));
    let ran = scene.run().ends_with(1);
    let message = "`partition_by` names `person`, which is no column of the rows that come; they have `user`, `n`";
    assert!(ran.stderr.contains(message), "{}", ran.stderr);
}

/// Numbers all rows of the stream, and tells at its end how many there were.
const NUMBER: &str = "
import os
import pyarrow as pa
KILL = {int(n) for n in os.environ.get('KILL_AT', '').split()}
def number(batches):
    count = 0
    for batch in batches:
        for n in sorted(KILL):
            if count <= n < count + batch.num_rows and not os.path.exists(f'killed-{n}'):
                open(f'killed-{n}', 'w').close()
                os.kill(os.getpid(), 9)
        numbers = pa.array(range(count, count + batch.num_rows), pa.int64())
        count += batch.num_rows
        yield batch.append_column('count', numbers)
    yield pa.table({'user': ['all'], 'n': pa.array([None], pa.int64()), 'count': [count]})
";

#[test]
fn a_stream_has_state_from_its_first_row_to_its_last() {
    let events = events(2000);
    let stages = STAGES.replace("  partition_by: user\n", "").replace("Count, as: AS", "number, as: stream");
    let scene = Scene::new(&stages.replace("counted:\n", "counted:\n  env: { KILL_AT: 3 700 701 1999 }\n"), NUMBER);
    scene.write("events.csv", &csv(&events));
    scene.run().args(&["--workers", "3"]).ends_with(0);
    let numbered = events.iter().zip(0..).map(|((user, number), at)| (user.clone(), number.to_string(), at));
    let expected: Vec<_> = numbered.chain([("all".to_owned(), String::new(), 2000)]).collect();
    assert_eq!(rows(&scene.read("out/counted.csv")), expected);
    assert!([3, 700, 701, 1999].iter().all(|at| scene.exists(&format!("killed-{at}"))));
    // Without rows too.
    scene.write("events.csv", "user,n\n");
    scene.run().ends_with(0);
    assert_eq!(rows(&scene.read("out/counted.csv")), [("all".to_owned(), String::new(), 0)]);
    scene.assert_clean();
}

#[test]
fn a_stream_per_key_is_the_same_for_any_number_of_workers() {
    let events = events(1000);
    let scene = Scene::new(&STAGES.replace("Count, as: AS", "number, as: stream"), NUMBER);
    scene.write("events.csv", &csv(&events));
    let results: Vec<String> = ["1", "3"]
        .into_iter()
        .map(|workers| {
            scene.run().args(&["--workers", workers]).ends_with(0);
            scene.read("out/counted.csv")
        })
        .collect();
    assert_eq!(results[0], results[1]);
    let totals = rows(&results[0]).into_iter().filter(|(user, ..)| user == "all").map(|(_, _, count)| count);
    assert_eq!(totals.sum::<i64>(), 1000);
}

#[test]
fn a_stream_that_fails_says_in_which_rows_it_was() {
    let module = "def number(batches):\n    for at, batch in enumerate(batches):\n        if at == 3:\n            raise ValueError('four')\n        yield batch\n";
    let stages = STAGES.replace("  partition_by: user\n", "").replace("Count, as: AS", "number, as: stream");
    let scene = Scene::new(&stages, module);
    scene.write("events.csv", &csv(&events(1000)));
    let ran = scene.run().ends_with(1);
    assert!(ran.stderr.contains("ValueError: four"), "{}", ran.stderr);
    assert!(ran.stderr.contains("events.csv, rows 301 to 400 (batch 3, after 1 attempt)"), "{}", ran.stderr);
    assert!(ran.stderr.contains("in number"), "the user's traceback is shown: {}", ran.stderr);
}

/// [`COUNT`] with snapshots of its state, of which it keeps a list.
const WITH_SNAPSHOTS: &str = "
    def get_state(self):
        note(f'gave {sum(self.seen.values())}')
        return self.seen
    def set_state(self, state):
        note(f'got {sum(state.values())}')
        self.seen = state
def note(text):
    with open('log', 'a') as log:
        log.write(text + '\\n')
";

#[test]
fn a_new_worker_begins_with_the_last_snapshot() {
    // One key, so that all rows are in one partition.
    let events: Vec<(String, u64)> = (0..1000).map(|number| ("user7".to_owned(), number)).collect();
    let stages = STAGES.replace("AS", "row").replace("counted:\n", "counted:\n  env: { KILL_AT: 870 }\n");
    let called = "    def __call__(self, rows):\n        note('called')";
    let module = format!("{}{WITH_SNAPSHOTS}", COUNT.replace("    def __call__(self, rows):", called));
    let scene = Scene::new(&stages, &module);
    scene.write("events.csv", &csv(&events));
    scene.run().args(&["--workers", "2"]).env("MILLPOND_FAIL_POINT", "keyed.snapshot:5").ends_with(0);
    assert!(scene.exists("killed-870"));
    check_counts(&scene.read("out/counted.csv"), &events);
    let log = scene.read("log");
    let states: Vec<&str> = log.lines().filter(|line| *line != "called").collect();
    // The first batch is sent before the worker has said that it can give its state.
    assert_eq!(states, ["gave 600", "got 600"]);
    // Up to the kill, and once more from the snapshot on.
    assert_eq!(log.lines().filter(|line| *line == "called").count(), 870 + 400);
}

#[test]
fn types_do_not_depend_on_which_partitions_are_together() {
    let events = events(600);
    // Integers for some users, floats for others, and nothing at all where neither is known.
    let module = "
def work(rows):
    kind = {0: lambda n: n, 1: lambda n: n / 4, 2: lambda n: None}
    return [{'user': row['user'], 'value': kind[int(row['user'][4:]) % 3](row['n'])} for row in rows]
";
    let stages = STAGES.replace("work:Count, as: AS", "work:work, as: rows").replace("counted.csv", "counted.jsonl");
    let scene = Scene::new(&stages, module);
    scene.write("events.csv", &csv(&events));
    let results: Vec<String> = ["1", "2", "4"]
        .into_iter()
        .map(|workers| {
            scene.run().args(&["--workers", workers]).ends_with(0);
            scene.read("out/counted.jsonl")
        })
        .collect();
    assert!(results.iter().all(|result| *result == results[0]));
    assert!(results[0].contains(".25") && results[0].contains("null"), "{}", &results[0][..300]);
}
