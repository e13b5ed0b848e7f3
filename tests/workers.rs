//! How many workers there are, what becomes of what they print, and how classes live in them.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use support::{Scene, proc_bytes, python, until};

const SOURCE: &str = "def rows(count):\n    for number in range(count):\n        yield {'n': number}\n";

#[test]
fn no_more_attempts_run_at_once_than_there_are_workers() {
    let batches = 500;
    let module = format!(
        "{SOURCE}
import os, time
def work(rows):
    log = os.open('log', os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    start = time.monotonic_ns()
    time.sleep(0.0005)
    os.write(log, f'{{start}} {{time.monotonic_ns()}} {{os.getpid()}}\\n'.encode())
    os.close(log)
    return rows
"
    );
    let mut stages =
        format!("s0:\n  python: {{ call: work:rows, with: {{ count: {batches} }} }}\n  batch: {{ rows: 5 }}\n");
    for stage in 1..=5 {
        stages += &format!(
            "s{stage}:\n  from: s{}\n  python: {{ call: work:work, as: rows }}\n  batch: {{ rows: 5 }}\n",
            stage - 1
        );
    }
    let scene = Scene::new(&format!("{stages}sink:\n  from: s5\n  write: out/sink.jsonl\n"), &module);
    scene.run().args(&["--workers", "2"]).ends_with(0);
    let mut moments = Vec::new();
    let mut pids = BTreeSet::new();
    for line in scene.read("log").lines() {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().expect("a number")).collect();
        moments.extend([(numbers[0], 1), (numbers[1], -1)]);
        pids.insert(numbers[2]);
    }
    assert_eq!(moments.len(), batches * 2, "100 batches in each of five stages");
    moments.sort_unstable();
    let (mut running, mut peak) = (0, 0);
    for (_, change) in moments {
        running += change;
        peak = peak.max(running);
    }
    assert_eq!(peak, 2, "attempts at once");
    assert!(pids.len() <= 2, "workers: {pids:?}");
}

#[test]
fn a_class_is_made_once_per_worker_and_closed_before_its_output_is_published() {
    let module = format!(
        "{SOURCE}
import os
def note(text):
    with open('log', 'a') as log:
        log.write(f'{{text}} {{os.getpid()}} {{os.path.exists(\"out/sink.jsonl\")}}\\n')
class Work:
    def __init__(self):
        note('made')
    def __call__(self, rows):
        if rows[0]['n'] == 50 and not os.path.exists('killed'):
            open('killed', 'w').close()
            os.kill(os.getpid(), 9)
        return rows
    def close(self):
        note('closed')
"
    );
    let stages = "rows:\n  python: { call: work:rows, with: { count: 200 } }\n  batch: { rows: 10 }\nworked:\n  from: rows\n  python: \
                  { call: work:Work, as: rows }\n  batch: { rows: 10 }\n  workers: 1\nsink:\n  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, &module);
    scene.run().ends_with(0);
    let log = scene.read("log");
    let notes: Vec<Vec<&str>> = log.lines().map(|line| line.split(' ').collect()).collect();
    let words: Vec<&str> = notes.iter().map(|note| note[0]).collect();
    assert_eq!(words, ["made", "made", "closed"], "{log}");
    assert_ne!(notes[0][1], notes[1][1], "the second was made in a new worker");
    assert_eq!(notes[1][1..], [notes[2][1], "False"], "closed in its worker, before publication: {log}");
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), 200);
}

#[test]
fn an_instance_that_cannot_be_closed_fails_the_run() {
    let module = format!(
        "{SOURCE}
class Work:
    def __call__(self, rows):
        return rows
    def close(self):
        raise OSError('not flushed')
"
    );
    let stages = "rows:\n  python: { call: work:rows, with: { count: 20 } }\nworked:\n  from: rows\n  python: { call: work:Work, as: rows }\n\
                  sink:\n  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, &module);
    scene
        .run()
        .within(Duration::from_secs(30))
        .ends_with(1)
        .says(&["stage `worked` failed (exception): OSError: not flushed", "work.py"]);
    assert!(!scene.exists("out/sink.jsonl"));
    scene.assert_clean();
}

#[test]
fn the_code_is_told_which_attempt_it_runs_and_in_which_worker() {
    let module = format!(
        "{SOURCE}
import os, millpond
def work(rows):
    worker = millpond.worker
    if rows[0]['n'] == 10 and worker.attempt < 3:
        os.kill(os.getpid(), 9)
    return [{{'n': row['n'], 'attempt': worker.attempt, 'rows': worker.rows, 'worker': worker.id}} for row in rows]
"
    );
    let stages = "rows:\n  python: { call: work:rows, with: { count: 15 } }\n  batch: { rows: 5 }\nworked:\n  from: rows\n  python: \
                  { call: work:work, as: rows }\nsink:\n  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, &module);
    scene.run().args(&["--workers", "1"]).ends_with(0);
    let text = scene.read("out/sink.jsonl");
    let attempts: Vec<u64> = text.lines().map(|line| number(line, "attempt")).collect();
    assert_eq!(attempts, [vec![1; 10], vec![3; 5]].concat());
    assert!(text.lines().all(|line| number(line, "rows") == 5), "{text}");
    let events = scene.events();
    let workers: BTreeSet<u64> = text.lines().map(|line| number(line, "worker")).collect();
    assert!(workers.len() > 1, "{workers:?}");
    assert!(workers.iter().all(|id| events.contains(&format!("\"worker_started\",\"worker\":{id},"))), "{events}");
    scene.assert_clean();
}

/// A run that prints `megabytes` in every way; returns the peak of the coordinator's memory.
fn peak_while_printing(megabytes: u32) -> u64 {
    let module = format!(
        "{SOURCE}
import os, sys, time
def work(rows):
    number = rows[0]['n']
    if number < {megabytes}:
        for _ in range(250):
            print('x' * 999)
        sys.stderr.write('y' * 250_000)
        os.write(1, bytes(range(128, 256)) * 2000)
        pid = os.fork()
        if pid == 0:
            os.write(2, b'child ' * 40_000)
            os._exit(0)
        os.waitpid(pid, 0)
    if number == {megabytes}:
        open('printed', 'w').close()
        while not os.path.exists('measured'):
            time.sleep(0.01)
    return rows
"
    );
    let count = megabytes + 1;
    let stages = format!(
        "rows:\n  python: {{ call: work:rows, with: {{ count: {count} }} }}\n  batch: {{ rows: 1 }}\nworked:\n  from: rows\n  python: {{ \
         call: work:work, as: rows }}\n  batch: {{ rows: 1 }}\nsink:\n  from: worked\n  write: out/sink.jsonl\n"
    );
    let scene = Scene::new(&stages, &module);
    let going = scene.run().args(&["--workers", "1"]).start_unread();
    until("everything is printed", Duration::from_secs(60), || scene.exists("printed"));
    let peak = proc_bytes(going.pid(), "status", "VmHWM").expect("it lives");
    scene.write("measured", "");
    let pipes = going.end_unread();
    assert_eq!(pipes.code(), Some(0));
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), count as usize);
    scene.assert_clean();
    peak
}

#[test]
fn output_that_nobody_reads_neither_stops_the_run_nor_fills_its_memory() {
    let (few, many) = (peak_while_printing(1), peak_while_printing(12));
    assert!(many < 200 << 20, "{many} bytes");
    assert!(many < few + (30 << 20), "{few} bytes with 1 MB of prints, {many} with 12 MB");
}

#[test]
fn a_worker_that_is_stopped_for_good_does_not_outlive_an_interrupt() {
    let module = format!(
        "{SOURCE}
import os, signal
def work(rows):
    open('stopped', 'w').close()
    os.kill(os.getpid(), signal.SIGSTOP)
    return rows
"
    );
    let stages = "rows:\n  python: { call: work:rows, with: { count: 20 } }\nworked:\n  from: rows\n  python: { call: work:work, as: rows }\n\
                  sink:\n  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, &module);
    let going = scene.run().start();
    until("the worker has stopped itself", Duration::from_secs(30), || scene.exists("stopped"));
    going.signal(Signal::INT);
    assert_eq!(going.end().code(), Some(130));
    scene.assert_clean();
}

#[test]
fn an_interrupt_does_not_wait_for_an_instance_that_is_being_closed() {
    let module = format!(
        "{SOURCE}
import time
class Work:
    def __call__(self, rows):
        return rows
    def close(self):
        open('closing', 'w').close()
        time.sleep(300)
"
    );
    let stages = "rows:\n  python: { call: work:rows, with: { count: 20 } }\nworked:\n  from: rows\n  python: { call: work:Work, as: rows }\n\
                  sink:\n  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, &module);
    let going = scene.run().within(Duration::from_secs(30)).start();
    until("the instance is being closed", Duration::from_secs(30), || scene.exists("closing"));
    going.signal(Signal::TERM);
    assert_eq!(going.end().code(), Some(143));
    assert!(!scene.exists("out/sink.jsonl"));
    scene.assert_clean();
}

#[test]
fn a_worker_that_has_more_memory_than_it_may_is_replaced_between_batches() {
    let module = format!(
        "{SOURCE}
kept = []
def work(rows):
    kept.append(b'x' * (60 << 20))
    return [{{'n': row['n'], 'kept': len(kept)}} for row in rows]
"
    );
    let scene = Scene::new(
        "s0:
  python: { call: work:rows, with: { count: 40 } }
  batch: { rows: 5 }
s1:
  from: s0
  python: { call: work:work, as: rows }
  memory: 150MiB
sink:
  from: s1
  write: out/sink.jsonl
",
        &module,
    );
    let ran = scene.run().args(&["--workers", "1", "--progress", "plain"]).ends_with(0);
    ran.says(&["it was replaced, as it had"]);
    assert!(!ran.stderr.contains("tried again"), "{}", ran.stderr);
    let kept: Vec<u64> = scene.read("out/sink.jsonl").lines().map(|line| number(line, "kept")).collect();
    assert_eq!(kept.len(), 40);
    assert!(kept.iter().all(|kept| *kept <= 3), "{kept:?}");
    assert!(kept.iter().any(|kept| *kept > 1), "{kept:?}");
    scene.assert_clean();
}

#[test]
fn workers_are_there_and_classes_made_before_the_first_batch() {
    let module = "
import os, time
def rows():
    end = time.monotonic() + 20
    while len([name for name in os.listdir() if name.startswith('made-')]) < 2:
        if time.monotonic() > end:
            raise TimeoutError('nobody is there')
        time.sleep(0.01)
    for number in range(20):
        yield {'n': number}
class Work:
    def __init__(self):
        open(f'made-{os.getpid()}', 'x').close()
    def __call__(self, rows):
        return [{'n': row['n'], 'pid': os.getpid()} for row in rows]
";
    let stages = "rows:\n  python: { call: work:rows }\n  batch: { rows: 5 }\nworked:\n  from: rows\n  python: { call: work:Work, as: rows }\n  \
                  workers: { min: 2 }\nsink:\n  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, module);
    scene.run().args(&["--workers", "2"]).ends_with(0);
    let text = scene.read("out/sink.jsonl");
    assert_eq!(text.lines().count(), 20);
    assert!(text.lines().all(|line| scene.exists(&format!("made-{}", number(line, "pid")))), "{text}");
    scene.assert_clean();
}

#[test]
fn a_class_that_cannot_be_made_early_fails_the_run_with_the_first_batch() {
    let module = format!("{SOURCE}\nclass Work:\n    def __init__(self):\n        raise OSError('no model')\n");
    let stages = "rows:\n  python: { call: work:rows, with: { count: 20 } }\nworked:\n  from: rows\n  python: { call: work:Work, as: rows }\n  \
                  workers: { min: 1 }\nsink:\n  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, &module);
    scene.run().within(Duration::from_secs(30)).ends_with(1).says(&["OSError: no model"]);
    scene.assert_clean();
}

#[test]
fn workers_are_as_nice_and_have_as_many_threads_as_the_file_says() {
    let module = format!(
        "{SOURCE}
import os
def work(rows):
    threads = int(os.environ['OMP_NUM_THREADS'])
    return [{{'nice': os.nice(0), 'threads': threads, 'polars': int(os.environ['POLARS_MAX_THREADS'])}} for row in rows]
"
    );
    let stages = "rows:\n  python: { call: work:rows, with: { count: 1 } }\nworked:\n  from: rows\n  python: { call: work:work, as: rows }\n  \
                  env: { POLARS_MAX_THREADS: 2 }\nsink:\n  from: worked\n  write: out/sink.jsonl\n";
    let header = python(&[]).replace(" }\n", ", nice: 4, threads: 7 }\n");
    let scene = Scene::with_python(&header, stages, &module);
    scene.run().ends_with(0);
    let text = scene.read("out/sink.jsonl");
    let own = rustix::process::nice(0).expect("it can be asked for") as u64;
    assert_eq!((number(&text, "nice"), number(&text, "threads"), number(&text, "polars")), ((own + 4).min(19), 7, 2));
}

#[test]
fn what_code_logs_is_told_with_where_it_comes_from() {
    let module = format!(
        "{SOURCE}
import logging, warnings
def work(row):
    if row['n'] == 7:
        logging.getLogger('lib').warning('odd\\nindeed')
        logging.getLogger('lib').debug('fine')
        warnings.warn('old')
    return row
def quiet(row):
    logging.warning('never')
    return row
"
    );
    let scene = Scene::new(
        "rows:
  python: { call: work:rows, with: { count: 10 } }
  batch: { rows: 5 }
worked:
  from: rows
  python: { call: work:work, as: row }
  log_level: debug
quiet:
  from: worked
  python: { call: work:quiet, as: row }
sink:
  from: quiet
  write: out/sink.jsonl
",
        &module,
    );
    let ran = scene.run().args(&["--workers", "1", "--progress", "plain", "--log-level", "error"]).ends_with(0);
    ran.says(&[
        "worked[",
        "] batch 1 row 2 WARNING lib: odd\nindeed",
        "] batch 1 row 2 DEBUG lib: fine",
        "UserWarning: old",
    ]);
    assert!(!ran.stderr.contains("never"), "{}", ran.stderr);
    let events = scene.events();
    let logged = events.lines().filter(|line| line.contains("\"event\":\"log\"")).collect::<Vec<_>>();
    assert_eq!(logged.len(), 3, "{logged:?}");
    let first: serde_json::Value = serde_json::from_str(logged[0]).expect("it is JSON");
    let field = |name: &str| first[name].clone();
    assert_eq!(
        (field("level"), field("logger"), field("stage"), field("batch"), field("row"), field("message")),
        ("warning".into(), "lib".into(), "worked".into(), 1.into(), 2.into(), "odd\nindeed".into())
    );
    assert!(field("worker").is_u64(), "{first}");
    scene.assert_clean();
}

#[test]
fn of_what_code_logs_too_often_the_rest_is_counted() {
    let module = format!(
        "{SOURCE}
import logging
def work(rows):
    for number in range(300):
        logging.info('again %d', number)
    return rows
def wait(rows):
    import time
    time.sleep(1.2)
    logging.info('later')
    return rows
"
    );
    let stages = "rows:\n  python: { call: work:rows, with: { count: 1 } }\nworked:\n  from: rows\n  python: { call: work:work, as: rows }\n\
                  waited:\n  from: worked\n  python: { call: work:wait, as: rows }\nsink:\n  from: waited\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, &module);
    let ran = scene.run().args(&["--workers", "1", "--progress", "plain"]).ends_with(0);
    let told = ran.stderr.lines().filter(|line| line.contains("INFO root: again")).count();
    assert!((50..300).contains(&told), "{told}");
    ran.says(&["more; all are in the run's folder", "INFO root: later"]);
}

/// The lines that were told: text, stream, batch and row.
fn printed(scene: &Scene) -> Vec<(String, String, Option<u64>, Option<u64>)> {
    let events = scene.events();
    let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("it is JSON"));
    events
        .filter(|event| event["event"] == "line")
        .map(|event| {
            let text = |name: &str| event[name].as_str().expect("text").to_owned();
            (text("text"), text("stream"), event["batch"].as_u64(), event["row"].as_u64())
        })
        .collect()
}

/// A scene whose rows, two batches of 5, go through `work`.
fn printing(options: &str, module: &str) -> Scene {
    let stages = format!(
        "rows:\n  python: {{ call: work:rows, with: {{ count: 10 }} }}\n  batch: {{ rows: 5 }}\nworked:\n  from: rows\n  \
         python: {{ call: work:work, as: row }}\n{options}sink:\n  from: worked\n  write: out/sink.jsonl\n"
    );
    Scene::new(&stages, &format!("{SOURCE}\n{module}"))
}

#[test]
fn what_is_printed_is_told_with_its_batch_and_row_however_it_is_written() {
    let scene = printing(
        "",
        "
import os, subprocess, sys
print('imported')
def work(row):
    if row['n'] != 7:
        return row
    print('a', 'text', sep='-')
    print('partly', end=' ', flush=True)
    sys.stdout.write('more\\nund ')
    sys.stdout.buffer.write('ümläut\\n'.encode())
    sys.stdout.writelines(['one\\n', 'two\\n'])
    print('z' * 20000)
    print('an error', file=sys.stderr)
    child = os.fork()
    if child == 0:
        print('from a copy')
        sys.stdout.write('its end')
        os._exit(0)
    os.waitpid(child, 0)
    subprocess.run(['echo', 'from a program'])
    os.write(sys.stdout.fileno(), b'direct\\n')
    kept = os.dup(1)
    elsewhere = os.open('elsewhere', os.O_WRONLY | os.O_CREAT)
    os.dup2(elsewhere, 1)
    print('to a file')
    os.dup2(kept, 1)
    sys.stdout.write('an end without a line')
    return row
",
    );
    let ran = scene.run().args(&["--workers", "1", "--progress", "plain"]).ends_with(0);
    ran.says(&["[worked (worker ", ") batch 1 row 2] a-text"]);
    type Told<'l> = (&'l str, Option<u64>, Option<u64>);
    let lines = printed(&scene);
    let of = |stream: &str| {
        let of_stream = lines.iter().filter(move |line| line.1 == stream);
        of_stream.map(|(text, _, batch, row)| (text.as_str(), *batch, *row)).collect::<Vec<_>>()
    };
    let long = "z".repeat(4096);
    let told = |text| (text, Some(1), Some(2));
    assert_eq!(of("stderr"), [told("an error")]);
    let stdout = of("stdout");
    let (imported, stdout): (Vec<Told>, Vec<Told>) = stdout.into_iter().partition(|line| line.0 == "imported");
    assert!(!imported.is_empty() && imported.iter().all(|line| *line == ("imported", None, None)), "{imported:?}");
    let (known, others): (Vec<Told>, Vec<Told>) = stdout.into_iter().partition(|line| line.2.is_some());
    let expected =
        ["a-text", "partly more", "und ümläut", "one", "two", &long, "from a copy", "an end without a line", "its end"];
    assert_eq!(known, expected.map(told));
    // What others write there is in its place, and has the batch if no other attempt was sent to the worker.
    assert_eq!(others.iter().map(|line| line.0).collect::<Vec<_>>(), ["from a program", "direct"]);
    assert_eq!(scene.read("elsewhere"), "to a file\n");
    let logs = fs::read_dir(logs(&scene)).expect("a folder").map(|log| fs::read_to_string(log.expect("a log").path()));
    let log = logs.map(|log| log.expect("text")).collect::<String>();
    for line in ["[worked batch 1 row 2] a-text\n", &format!("row 2] {}\n", "z".repeat(20000))] {
        assert!(log.contains(line), "{log}");
    }
    scene.assert_clean();
}

/// The folder of what the only run of a scene has printed.
fn logs(scene: &Scene) -> PathBuf {
    let runs = fs::read_dir(scene.path("state/runs")).expect("a folder of runs");
    runs.map(|run| run.expect("a run").path().join("logs")).find(|logs| logs.is_dir()).expect("one has printed")
}

#[test]
fn what_a_program_prints_has_the_batch_of_the_only_attempt() {
    let module = "
import os
def rows():
    yield {'n': 0}
def work(rows):
    os.system('echo from a program')
    return rows
";
    let stages = "rows:\n  python: { call: work:rows }\nworked:\n  from: rows\n  python: { call: work:work, as: rows }\n\
                  sink:\n  from: worked\n  write: out/sink.jsonl\n";
    let scene = Scene::new(stages, module);
    scene.run().args(&["--workers", "1"]).ends_with(0);
    assert_eq!(printed(&scene), [("from a program".to_owned(), "stdout".to_owned(), Some(0), None)]);
}

#[test]
fn rows_side_by_side_print_lines_of_their_own() {
    let threads = "
import time
def work(row):
    for part in range(3):
        print(row['n'], end=' ')
        time.sleep(0.002)
    print('end')
    return row
";
    let tasks = "
import asyncio
async def work(row):
    for part in range(3):
        print(row['n'], end=' ')
        await asyncio.sleep(0.002)
    print('end')
    return row
";
    for module in [threads, tasks] {
        let scene = printing("  concurrency: 5\n", module);
        scene.run().args(&["--workers", "1"]).ends_with(0);
        let mut lines = printed(&scene);
        lines.sort();
        let expected = (0..10).map(|n| (format!("{n} {n} {n} end"), "stdout".to_owned(), Some(n / 5), Some(n % 5)));
        assert_eq!(lines, expected.collect::<Vec<_>>());
    }
}

#[test]
fn what_a_worker_has_printed_before_it_dies_is_told() {
    let scene = printing(
        "  on_error: skip\n",
        "
import os, signal, sys
def work(row):
    if row['n'] == 7:
        sys.stderr.write('on the edge of')
        os.write(1, b'half')
        os.kill(os.getpid(), signal.SIGKILL)
    return row
",
    );
    scene.run().args(&["--workers", "1"]).ends_with(0);
    let lines = printed(&scene);
    assert!(
        lines.iter().any(|(text, _, batch, row)| text == "on the edge of" && *batch == Some(1) && row.is_some()),
        "{lines:?}"
    );
    assert!(lines.iter().any(|(text, ..)| text == "half"), "{lines:?}");
}

/// The cores that this process may use.
fn usable_cores() -> Vec<u64> {
    let cores = rustix::thread::sched_getaffinity(None).expect("they can be told");
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| cores.is_set(*core)).map(|core| core as u64).collect()
}

/// A scene in which `work`, a class with two workers, tells on which cores it may run; with these `cpus` of the pipeline, and of the stage.
fn pinned(of_pipeline: &str, of_stage: &str) -> Scene {
    let module = "
import os, time
def rows():
    for number in range(20):
        yield {'n': number}
class Work:
    def __init__(self):
        open(f'made-{os.getpid()}', 'w').close()
    def __call__(self, rows):
        # Each worker is given a batch before one of them has ended its own.
        while len([name for name in os.listdir() if name.startswith('made-')]) < 2:
            time.sleep(0.01)
        cores = sorted(os.sched_getaffinity(0))
        return [{'pid': os.getpid(), 'cores': cores, 'child': os.popen('nproc').read().strip()} for row in rows]
";
    let stages = format!(
        "rows:\n  python: {{ call: work:rows }}\n  batch: {{ rows: 5 }}\nworked:\n  from: rows\n  python: {{ call: work:Work, as: rows{of_stage} \
         }}\n  workers: {{ min: 2 }}\nsink:\n  from: worked\n  write: out/sink.jsonl\n"
    );
    Scene::with_python(&python(&[]).replace(" }\n", &format!("{of_pipeline} }}\n")), &stages, module)
}

/// The cores of each worker.
fn cores_of_workers(scene: &Scene) -> BTreeMap<u64, Vec<u64>> {
    let text = scene.read("out/sink.jsonl");
    let rows = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("it is JSON"));
    rows.map(|row| {
        let cores: Vec<u64> =
            row["cores"].as_array().expect("a list").iter().filter_map(|core| core.as_u64()).collect();
        assert_eq!(row["child"], cores.len().to_string(), "what a worker starts runs there, too");
        (row["pid"].as_u64().expect("a number"), cores)
    })
    .collect()
}

#[test]
fn workers_run_on_the_cores_that_the_file_says() {
    let usable = usable_cores();
    let last = *usable.last().expect("there is one");
    for (of_pipeline, of_stage) in [
        (format!(", cpus: [{last}]"), String::new()),
        (", cpus: spread".to_owned(), format!(", cpus: [{last}], start: exec")),
    ] {
        let scene = pinned(&of_pipeline, &of_stage);
        scene.run().args(&["--workers", "2"]).ends_with(0);
        let cores = cores_of_workers(&scene);
        assert!(cores.values().all(|cores| *cores == [last]), "{cores:?}");
    }
}

#[test]
fn workers_are_spread_over_the_cores() {
    let usable = usable_cores();
    let scene = pinned("", ", cpus: spread");
    scene.run().args(&["--workers", "2"]).ends_with(0);
    let cores = cores_of_workers(&scene);
    assert!(cores.values().all(|cores| cores.len() == 1 && usable.contains(&cores[0])), "{cores:?}");
    let different = cores.values().collect::<BTreeSet<_>>().len();
    assert_eq!(different, cores.len().min(usable.len()), "{cores:?}");
    // On a machine with one core, all are on that.
    let scene = pinned(", cpus: spread", "");
    scene.run().args(&["--workers", "2"]).after(&format!("taskset -cp {} $$ >/dev/null", usable[0])).ends_with(0);
    assert!(cores_of_workers(&scene).values().all(|cores| *cores == usable[..1]));
}

#[test]
fn cores_that_cannot_be_used_are_told_before_the_run_begins() {
    let usable = usable_cores();
    let scene = pinned("", &format!(", cpus: [{}, 1023]", usable[0]));
    scene.run().ends_with(5).says(&[
        "stage `worked`: its workers are to run on core 1023, which this process may not use; it may use ",
        "stage defined at",
        "pipeline.yaml:8",
    ]);
    assert!(!scene.exists("state/runs"), "there was no run");
}

/// Runs 12 batches of 5 rows through a class in one worker, with this `recycle`; how many batches each worker was given, in their order.
fn recycled(recycle: &str) -> Vec<u64> {
    let module = format!(
        "{SOURCE}
import time
class Work:
    def __init__(self):
        self.batches = 0
    def __call__(self, rows):
        self.batches += 1
        time.sleep(0.02)
        return rows
    def close(self):
        with open('log', 'a') as log:
            print(self.batches, file=log)
"
    );
    let stages = format!(
        "s0:
  python: {{ call: work:rows, with: {{ count: 60 }} }}
  batch: {{ rows: 5 }}
s1:
  from: s0
  python: {{ call: work:Work, as: rows }}
  recycle: {recycle}
sink:
  from: s1
  write: out/sink.jsonl
"
    );
    let scene = Scene::new(&stages, &module);
    let ran = scene.run().args(&["--workers", "1", "--progress", "plain"]).ends_with(0);
    assert!(!ran.stderr.contains("tried again"), "{}", ran.stderr);
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), 60);
    assert_eq!(scene.summary()["stages"][1]["account"]["retries"], 0, "{}", scene.summary());
    scene.assert_clean();
    scene.read("log").lines().map(|line| line.parse().expect("a number")).collect()
}

#[test]
fn a_worker_is_replaced_after_so_many_batches() {
    assert_eq!(recycled("{ batches: 5 }"), [5, 5, 2]);
    assert_eq!(recycled("{ batches: 1 }"), [1; 12]);
}

#[test]
fn a_worker_is_replaced_at_an_age() {
    let batches = recycled("{ age: 100ms }");
    assert_eq!(batches.iter().sum::<u64>(), 12);
    assert!(batches.len() > 2 && batches.iter().all(|batches| *batches <= 5), "{batches:?}");
    assert_eq!(recycled("{ age: 1h, batches: 100 }"), [12]);
}

#[test]
fn arrays_in_shared_memory_count_as_a_workers_memory() {
    let module = format!(
        "{SOURCE}
import numpy as np
kept = []
def work(rows):
    kept.append(np.ones(60 << 20, np.uint8))
    return [{{'n': row['n'], 'kept': len(kept)}} for row in rows]
"
    );
    let scene = Scene::with_python(
        &python(&["numpy"]),
        "s0:
  python: { call: work:rows, with: { count: 40 } }
  batch: { rows: 5 }
s1:
  from: s0
  python: { call: work:work, as: rows }
  memory: 150MiB
sink:
  from: s1
  write: out/sink.jsonl
",
        &module,
    );
    let ran = scene.run().args(&["--workers", "1", "--progress", "plain"]).ends_with(0);
    ran.says(&["it was replaced, as it had"]);
    let kept: Vec<u64> = scene.read("out/sink.jsonl").lines().map(|line| number(line, "kept")).collect();
    assert_eq!(kept.len(), 40);
    assert!(kept.iter().all(|kept| *kept <= 3) && kept.iter().any(|kept| *kept > 1), "{kept:?}");
    scene.assert_clean();
}

#[test]
fn arrays_that_were_handed_over_outlive_their_worker() {
    let module = "
import os
import numpy as np
import pyarrow as pa

ROWS = 400_000

def arrays():
    for number in range(24):
        yield {'n': np.full(ROWS, number)}

def add(x):
    number = int(x['n'][0])
    if number % 5 == 4:
        try:
            os.close(os.open(f'died-{number}', os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            pass
        else:
            os.kill(os.getpid(), 9)
    return {'n': x['n'], 'more': x['n'] + 0.5}

def double(batch):
    return batch.append_column('twice', pa.array(batch['more'].to_numpy() * 2))

def total(batch):
    text = ' '.join(str(int(batch[name].to_numpy().sum())) for name in ('n', 'more', 'twice'))
    same = all(batch[name].to_numpy().min() == batch[name].to_numpy().max() for name in ('n', 'more', 'twice'))
    return pa.record_batch({'line': [f'{text} {same}']})
";
    let cut = "  batch: { rows: 400000, bytes: 64MiB }\n";
    let scene = Scene::with_python(
        &python(&["numpy"]),
        &format!(
            "s0:
  python: {{ call: work:arrays, as: numpy }}
{cut}s1:
  from: s0
  python: {{ call: work:add, as: numpy }}
{cut}s2:
  from: s1
  python: {{ call: work:double, as: arrow }}
{cut}s3:
  from: s2
  python: {{ call: work:total, as: arrow }}
{cut}sink:
  from: s3
  write: {{ path: out/sink.txt, format: lines }}
"
        ),
        module,
    );
    scene.run().args(&["--workers", "2"]).ends_with(0);
    let rows = 400_000_u64;
    let line = |n: u64| format!("{} {} {} True\n", rows * n, rows * n + rows / 2, rows * (2 * n + 1));
    assert_eq!(scene.read("out/sink.txt"), (0..24).map(line).collect::<String>());
    assert!(scene.exists("died-4") && scene.exists("died-19"));
    scene.assert_clean();
}

#[test]
fn a_batch_that_takes_far_too_much_memory_is_killed_and_its_row_is_found() {
    let module = format!(
        "{SOURCE}
import threading
def work(rows):
    if any(row['n'] == 7 for row in rows):
        much = b'x' * (300 << 20)
        threading.Event().wait()  # Until it is killed.
    return rows
"
    );
    let scene = Scene::new(
        "s0:
  python: { call: work:rows, with: { count: 12 } }
  batch: { rows: 4 }
s1:
  from: s0
  python: { call: work:work, as: rows }
  memory: 128MiB
  retry: { attempts: 2, on: [oom] }
  on_error: reject
sink:
  from: s1
  write: out/sink.jsonl
bad:
  from: s1.rejected
  write: out/bad.jsonl
",
        &module,
    );
    scene.run().args(&["--workers", "1"]).ends_with(0);
    let good: Vec<u64> = scene.read("out/sink.jsonl").lines().map(|line| number(line, "n")).collect();
    assert_eq!(good, (0..12).filter(|n| *n != 7).collect::<Vec<_>>());
    let bad = scene.read("out/bad.jsonl");
    assert_eq!((number(&bad, "n"), bad.lines().count()), (7, 1));
    assert!(bad.contains("\"_verdict\":\"oom\"") && bad.contains("half times its stage's `memory`"), "{bad}");
    scene.assert_clean();
}

fn number(line: &str, key: &str) -> u64 {
    let value: serde_json::Value = serde_json::from_str(line.lines().next().unwrap_or_default()).expect("it is JSON");
    value[key].as_u64().expect("a number")
}
