//! Everything that can go wrong in a stage's code or command, wherever it can: the run ends within its bound with the right exit code, the
//! right row is to blame where one is, and all others are delivered once.
//!
//! What was seen is the table in `docs/reliability.md`; with `MILLPOND_WRITE_DOCS` set, the test writes it there.

mod support;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;
use support::{Scene, python};

/// A run that takes longer hangs.
const BOUND: Duration = Duration::from_secs(60);
/// Scenes at once: they wait more than they work.
const AT_ONCE: usize = 4;
const ROWS: i64 = 30;
/// The row that something is wrong with, where rows matter.
const BAD: i64 = 17;
const BEGIN: &str = "<!-- The table is written by tests/crash_matrix.rs. -->\n";
const END: &str = "<!-- End of the table. -->\n";

/// What goes wrong in Python, and the statement that does it.
const FAULTS: [(&str, &str); 8] = [
    ("a segmentation fault", "ctypes.string_at(0)"),
    ("killed from outside", "os.kill(os.getpid(), signal.SIGKILL)"),
    ("`os._exit(3)`", "os._exit(3)"),
    ("`sys.exit(4)`", "sys.exit(4)"),
    ("an exception", "raise ValueError('bad')"),
    ("an exception that cannot be pickled", "raise Odd(threading.Lock(), 2)"),
    ("a hang", "time.sleep(1e6)"),
    ("out of memory", "fill()"),
];

/// Where it does, and the module that does it there. `FAULT` stands for the statement.
const PLACES: [(&str, &str); 5] = [
    ("import", "FAULT\ndef work(row):\n    return row\n"),
    (
        "constructor",
        "class Work:\n    def __init__(self):\n        FAULT\n    def __call__(self, row):\n        return row\n",
    ),
    ("call", "def work(row):\n    if row['n'] == 17:\n        FAULT\n    return row\n"),
    (
        RETURNED,
        "def work(row):\n    return made(row)\n\ndef made(row):\n    yield row\n    if row['n'] == 17:\n        FAULT\n",
    ),
    (
        "`close()`",
        "class Work:\n    def __call__(self, row):\n        return row\n    def close(self):\n        FAULT\n",
    ),
];

const HEAD: &str = "import collections.abc, ctypes, os, signal, sys, threading, time\n\nclass Odd(Exception):\n    def __init__(self, lock, \
                    number):\n        self.lock = lock\n\nclass Lazy(collections.abc.Mapping):\n    def __getitem__(self, key):\n        \
                    raise ValueError('bad')\n    __iter__ = __len__ = __getitem__\n\ndef fill():\n    kept = []\n    while True:\n        kept.append(b'x' * (8 << 20))\n        \
                    time.sleep(0.001)\n\n";

/// What a function returns for the bad row that cannot go on, and the value. `RETURNS` says whether its columns are declared.
const RESULTS: [(&str, &str, bool); 6] = [
    ("an object that is no row", "threading.Lock()", false),
    ("a row with an object that is no value", "{'n': 17, 'lock': threading.Lock()}", false),
    ("an object that raises when it is read", "Lazy()", false),
    ("a number that is too large", "{'n': 1 << 80}", false),
    ("a value of another type than `returns` says", "{'n': 'seventeen'}", true),
    (MIXED, "{'n': 'seventeen'}", false),
];
const MIXED: &str = "a value of another type than in other rows, without `returns`";

/// What a function does in its result; the only place where it can.
const RETURNED: &str = "what is returned";

/// What goes wrong in a command for lines of text, and the shell that does it.
const COMMAND_FAULTS: [(&str, &str); 5] = [
    ("a segmentation fault", "kill -SEGV $$"),
    ("killed from outside", "kill -KILL $$"),
    ("exit status 3", "exit 3"),
    ("a hang", "sleep 1000"),
    ("output that is no text", "printf '\\377\\n'"),
];

/// A program that cannot be started, which is only known before it reads.
const NO_PROGRAM: &str = "a program that is not there";
const BEFORE: &str = "before it reads";

/// Where it does. `FAULT` stands for the shell.
const COMMAND_PLACES: [(&str, &str); 4] = [
    (BEFORE, "FAULT; cat"),
    ("on a row", "while read -r n; do if [ $n = 17 ]; then FAULT; else echo $n; fi; done"),
    ("within a line of output", "while read -r n; do if [ $n = 17 ]; then printf half; FAULT; else echo $n; fi; done"),
    (
        "at its end",
        "bad=; while read -r n; do if [ $n = 17 ]; then bad=1; fi; echo $n; done; if [ $bad ]; then FAULT; fi",
    ),
];

/// One run.
struct Case {
    kind: &'static str,
    fault: &'static str,
    place: &'static str,
    scene: Box<dyn Fn() -> Scene + Send + Sync>,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    /// The run succeeded without the bad row.
    Rejected(String),
    /// The run succeeded without the bad row and the one behind it.
    WithNeighbour(String),
    /// The run succeeded, and every row was rejected.
    AllRejected(String),
    /// The run failed, and no row was blamed.
    Failed(String),
}

fn scene(stage: &str, module: &str, source: &str) -> Scene {
    let stages = format!(
        "rows:\n  read: {source}\nworked:\n  from: rows\n  on_error: reject\n{stage}\nsink:\n  from: worked\n  write: \
         out/sink.jsonl\nrejects:\n  from: worked.rejected\n  write: out/rejects.jsonl\n"
    );
    let scene = Scene::with_python(&python(&[]), &stages, module);
    let rows: String = (1..=ROWS).map(|row| format!("{row}\n")).collect();
    scene.write("in.csv", &format!("n\n{rows}"));
    scene.write("in.txt", &rows);
    scene
}

/// Those that take longest come first, so that nothing is left to wait for at the end.
fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = python_cases().chain(result_cases()).chain(command_cases()).collect();
    cases.sort_by_key(|case| !["a hang", "out of memory"].contains(&case.fault));
    cases
}

fn python_cases() -> impl Iterator<Item = Case> {
    let cells = FAULTS.into_iter().flat_map(|fault| PLACES.map(|place| (fault, place)));
    cells.map(|((fault, statement), (place, module))| {
        let module = format!("{HEAD}{}", module.replace("FAULT", statement));
        let name = if module.contains("class Work") { "Work" } else { "work" };
        let stage = format!(
            "  python: {{ call: 'work:{name}', as: row }}\n  workers: 1\n  memory: 256MiB\n  timeout: {{ attempt: 1s, open: 3s }}"
        );
        Case { kind: "python", fault, place, scene: Box::new(move || scene(&stage, &module, "in.csv")) }
    })
}

fn result_cases() -> impl Iterator<Item = Case> {
    RESULTS.into_iter().map(|(fault, value, declared)| {
        let module = format!("{HEAD}def work(row):\n    return {value} if row['n'] == 17 else row\n");
        let returns = if declared { ", returns: { n: int64 }" } else { "" };
        let stage = format!("  python: {{ call: 'work:work', as: row{returns} }}\n  workers: 1");
        Case { kind: "result", fault, place: RETURNED, scene: Box::new(move || scene(&stage, &module, "in.csv")) }
    })
}

fn command_cases() -> impl Iterator<Item = Case> {
    let cells = COMMAND_FAULTS.into_iter().flat_map(|fault| COMMAND_PLACES.map(|place| (fault, place)));
    let cases = cells.map(|((fault, shell), (place, script))| {
        let script = script.replace("FAULT", shell);
        // Where every row hangs, none needs the time.
        let timeout = if place == BEFORE { "100ms" } else { "700ms" };
        let stage = format!(
            "  command:\n    shell: >-\n      {script}\n    input: lines\n    output: lines\n  timeout: {timeout}"
        );
        Case { kind: "command", fault, place, scene: Box::new(move || scene(&stage, "", "in.txt")) }
    });
    let stage = "  command: { run: [no-program-has-this-name], input: lines, output: lines }";
    let scene = Box::new(move || scene(stage, "", "in.txt"));
    cases.chain([Case { kind: "command", fault: NO_PROGRAM, place: BEFORE, scene }])
}

/// Runs a case and checks what holds for all of them.
fn look(case: &Case) -> Seen {
    let scene = (case.scene)();
    let ran = scene.run().within(BOUND).end();
    let what = format!("{}, {}, {}:\n{}", case.kind, case.fault, case.place, ran.stderr);
    scene.assert_clean();
    assert!(scene.staged().is_empty(), "something is left of the outputs: {what}");
    let read = |name: &str| -> Vec<Value> {
        scene.read(name).lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
    };
    match ran.code() {
        Some(0) => {
            let rejects = read("out/rejects.jsonl");
            let verdict = rejects[0]["_verdict"].as_str().expect("a word").to_owned();
            assert!(rejects.iter().all(|reject| reject["_verdict"] == verdict.as_str()), "{what}");
            let number = |row: &Value| -> i64 {
                let value = row.get("n").or_else(|| row.get("line")).expect("its column");
                value.as_i64().or_else(|| value.as_str()?.parse().ok()).expect("a number")
            };
            let rejected: Vec<i64> = rejects.iter().map(number).collect();
            let given: Vec<i64> = read("out/sink.jsonl").iter().map(number).collect();
            rejects.iter().for_each(|reject| assert_eq!(reject["_row"], number(reject), "{what}"));
            if rejected == [BAD] {
                assert_eq!(given, (1..=ROWS).filter(|row| *row != BAD).collect::<Vec<_>>(), "{what}");
                return Seen::Rejected(verdict);
            }
            if rejected == [BAD, BAD + 1] {
                assert_eq!(given, (1..=ROWS).filter(|row| !rejected.contains(row)).collect::<Vec<_>>(), "{what}");
                return Seen::WithNeighbour(verdict);
            }
            assert_eq!((rejected, given), ((1..=ROWS).collect(), Vec::new()), "{what}");
            Seen::AllRejected(verdict)
        }
        Some(1) => {
            assert!(!scene.exists("out/sink.jsonl") && !scene.exists("out/rejects.jsonl"), "published: {what}");
            let (_, message) = ran.stderr.split_once("stage `worked` failed (").unwrap_or_else(|| panic!("{what}"));
            let (verdict, text) = message.split_once(')').expect("the end of the verdict");
            assert!(!text.contains(", row "), "a row is blamed: {what}");
            Seen::Failed(verdict.to_owned())
        }
        _ => panic!("exit code {:?}: {what}", ran.code()),
    }
}

fn expected(case: &Case) -> Seen {
    let verdict = match case.fault {
        "an exception" | "an exception that cannot be pickled" | "exit status 3" => "exception",
        "an object that raises when it is read" | NO_PROGRAM => "exception",
        "a hang" => "timeout",
        "out of memory" => "oom",
        "output that is no text" => "schema",
        _ if case.kind == "result" => "schema",
        _ => "crash",
    };
    // What ends as it is closed tells no more than that it did; but what it raises, it says.
    let verdict = match (case.place, case.fault) {
        ("`close()`", "a hang") => "crash",
        ("`close()`", "`sys.exit(4)`") => "exception",
        _ => verdict,
    };
    let verdict = verdict.to_owned();
    match (case.place, case.fault) {
        // Either of the two rows is well by itself: without `returns`, they only do not go together.
        (_, MIXED) => Seen::WithNeighbour(verdict),
        (_, NO_PROGRAM) | ("import" | "constructor" | "`close()`", _) => Seen::Failed(verdict),
        (BEFORE, _) => Seen::AllRejected(verdict),
        _ => Seen::Rejected(verdict),
    }
}

type AllSeen = BTreeMap<(&'static str, &'static str, &'static str), Seen>;

fn table(kind: &'static str, seen: &AllSeen, faults: &[&'static str], places: &[&'static str]) -> String {
    let mut text = format!("| | {} |\n|---|{}\n", places.join(" | "), "---|".repeat(places.len()));
    for &fault in faults {
        let cells = places.iter().map(|&place| match seen.get(&(kind, fault, place)) {
            Some(Seen::Rejected(verdict)) => format!("the row is rejected: `{verdict}`"),
            Some(Seen::WithNeighbour(verdict)) => format!("the row and the next one are rejected: `{verdict}`"),
            Some(Seen::AllRejected(verdict)) => format!("all rows are rejected: `{verdict}`"),
            Some(Seen::Failed(verdict)) => format!("the run fails: `{verdict}`"),
            None => "–".to_owned(),
        });
        let _ = writeln!(text, "| {fault} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    text
}

/// What the page says between its marks.
fn tables(seen: &AllSeen) -> String {
    let places = PLACES.map(|(place, _)| place);
    let command_places = COMMAND_PLACES.map(|(place, _)| place);
    let mut command_faults = COMMAND_FAULTS.map(|(fault, _)| fault).to_vec();
    command_faults.push(NO_PROGRAM);
    format!(
        "\nOf Python stages:\n\n{}\nOf what a Python function returns for a row:\n\n{}\nOf commands in mode `batch`:\n\n{}\n",
        table("python", seen, &FAULTS.map(|(fault, _)| fault), &places),
        table("result", seen, &RESULTS.map(|(fault, ..)| fault), &[RETURNED]),
        table("command", seen, &command_faults, &command_places),
    )
}

#[test]
fn whatever_goes_wrong_costs_no_more_than_it_must() {
    let cases = cases();
    let next = AtomicUsize::new(0);
    let seen = Mutex::new(BTreeMap::new());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = look(case);
                    if found != expected(case) {
                        let text = format!("{}, {}, {}: {found:?}", case.kind, case.fault, case.place);
                        wrong.lock().expect("no panic").push(text);
                    }
                    seen.lock().expect("no panic").insert((case.kind, case.fault, case.place), found);
                }
            });
        }
    });
    let wrong = wrong.into_inner().expect("no panic");
    assert!(wrong.is_empty(), "{wrong:#?}");

    let seen = seen.into_inner().expect("no panic");
    let written = tables(&seen);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reliability.md");
    let page = std::fs::read_to_string(&path).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the table begins");
    let (old, after) = rest.split_once(END).expect("the table ends");
    if std::env::var_os("MILLPOND_WRITE_DOCS").is_some() {
        std::fs::write(&path, format!("{before}{BEGIN}{written}{END}{after}")).expect("it is writable");
    } else {
        assert_eq!(old, written, "run the test with MILLPOND_WRITE_DOCS=1");
    }
}
