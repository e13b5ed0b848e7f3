//! Rows flow as they come, and nothing takes more in than its bound.

mod support;

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::{Scene, is_long, proc_bytes};

const MODULE: &str = "def work(row):\n    row['seen'] = True\n    return row\n";
const STAGES: &str = "
rows:
  read: { path: pipe, format: jsonl }
  batch: { bytes: 128KiB }
worked:
  from: rows
  python: { call: work:work, as: row }
  queue: { batches: 2, bytes: 256KiB }
passed:
  from: worked
  command: [cat]
  queue: { batches: 2, bytes: 256KiB }
sink:
  from: passed
  write: { path: '-', format: jsonl }
  queue: { batches: 2, bytes: 256KiB }
";

fn scene_with_pipe() -> Scene {
    let scene = Scene::new(STAGES, MODULE);
    let made = Command::new("mkfifo").arg(scene.path("pipe")).status().expect("mkfifo starts");
    assert!(made.success());
    scene
}

#[test]
fn a_row_reaches_standard_output_while_its_source_stays_open() {
    let scene = scene_with_pipe();
    // Read and write, so that opening does not wait for the other end.
    let mut pipe = OpenOptions::new().read(true).write(true).open(scene.path("pipe")).expect("our pipe");
    let mut going = scene.run().args(&["--progress", "none"]).start_unread();
    let stdout = BufReader::new(going.child.stdout.take().expect("it is piped"));
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    for number in 0..5 {
        let written = Instant::now();
        writeln!(pipe, "{{\"n\": {number}}}").expect("the pipe has room");
        // The first row waits for the workers to start.
        let patience = Duration::from_secs(if number == 0 { 30 } else { 2 });
        let line = lines
            .recv_timeout(patience)
            .unwrap_or_else(|_| panic!("row {number} is not out after {:?}", written.elapsed()));
        let row: serde_json::Value = serde_json::from_str(&line).expect("it is JSON");
        assert_eq!((&row["n"], &row["seen"]), (&number.into(), &true.into()));
    }
    drop(pipe);
    assert_eq!(going.end().code(), Some(0));
    assert!(lines.recv().is_err(), "nothing but the rows was written");
    scene.assert_clean();
}

#[test]
fn a_source_is_not_read_when_nobody_takes_the_result() {
    let scene = scene_with_pipe();
    let going = scene.run().args(&["--progress", "none"]).start_unread();
    let writer = scene.path("pipe");
    let mut pipe: File = OpenOptions::new().write(true).open(writer).expect("the source opens the other end");
    rustix::fs::fcntl_setfl(pipe.as_fd(), rustix::fs::OFlags::NONBLOCK).expect("our descriptor");
    let line = format!("{{\"text\": \"{}\"}}\n", "x".repeat(1000));
    let (mut pushed, mut last) = (0_usize, Instant::now());
    // Standard output is full and stays so: what is taken in comes to a rest.
    while last.elapsed() < Duration::from_secs(3) {
        match pipe.write(line.as_bytes()) {
            Ok(length) => (pushed, last) = (pushed + length, Instant::now()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                std::thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(pushed < 64 << 20, "the source goes on reading");
    }
    // Three queues of 256 KiB, a batch in the hands of each stage, and what the pipes and the reader hold.
    assert!(pushed < 4 << 20, "{pushed} bytes were taken in");
    going.signal(Signal::TERM);
    drop(pipe);
    assert_eq!(going.end_unread().code(), Some(143));
    scene.assert_clean();
}

/// Peak of the memory of all processes of a run that passes so much through a stage that is slower than its source.
fn peak_with(megabytes: u32) -> u64 {
    let stress = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stress/memory.yaml");
    let scene = Scene::new("", "");
    let out = format!("out={}", scene.path("out").display());
    let gigabytes = format!("gigabytes={}", f64::from(megabytes) / 1024.0);
    let run = scene.run_of(&stress).args(&["--workers", "2", "--set", &gigabytes, "--set", &out, "--set", "pause=0.1"]);
    let mut going = run.within(Duration::from_secs(900)).start();
    let mut peak = 0;
    while going.child.try_wait().expect("it is our child").is_none() {
        let all = scene.processes().into_iter().filter_map(|pid| proc_bytes(pid, "smaps_rollup", "Pss:")).sum();
        peak = peak.max(all);
        std::thread::sleep(Duration::from_millis(20));
    }
    let ran = going.end();
    assert_eq!(ran.code(), Some(0), "{}", ran.stderr);
    let total = fs::read_to_string(scene.path("out/total.csv")).expect("it is published");
    assert!(total.contains(&format!("{}", u64::from(megabytes) << 20)), "{total}");
    peak
}

#[test]
fn memory_does_not_grow_with_the_input() {
    let sizes: &[u32] = if is_long() { &[1024, 2048, 4096] } else { &[256, 512] };
    let peaks: Vec<u64> = sizes.iter().map(|&size| peak_with(size)).collect();
    // The queues are full long before the smallest input ends. Samples of all processes are not taken at one moment, and how many batches are
    // between two of them is a matter of chance; the inputs are 256 MiB apart.
    let margin = 80 << 20;
    assert!(peaks.iter().all(|&peak| peak < peaks[0] + margin), "peaks of {sizes:?} MB: {peaks:?}");
}

#[test]
fn a_closed_standard_output_ends_the_run_quietly() {
    let stages = "rows:\n  python: work:rows\nsink:\n  from: rows\n  write: { path: '-', format: jsonl }\n";
    let module = "def rows():\n    for number in range(1_000_000_000):\n        yield {'n': number}\n";
    let scene = Scene::new(stages, module);
    let mut going = scene.run().args(&["--progress", "none"]).start_unread();
    let mut lines = BufReader::new(going.child.stdout.take().expect("it is piped")).lines();
    assert!(lines.next().is_some_and(|line| line.is_ok()));
    drop(lines);
    assert_eq!(going.end().code(), Some(0));
    scene.assert_clean();
}

#[test]
fn a_command_that_gives_no_rows_can_be_queried_if_its_columns_are_known() {
    for output in ["output: lines", "output: jsonl, returns: { line: string }"] {
        let stages = format!(
            "rows:\n  sql: SELECT value AS n FROM generate_series(1, 3)\nnone:\n  from: rows\n  \
             command: {{ run: [\"true\"], input: lines, {output} }}\njoined:\n  from: [rows, none]\n  \
             sql: SELECT n, line FROM rows LEFT JOIN none ON CAST(n AS VARCHAR) = line ORDER BY n\nsink:\n  \
             from: joined\n  write: out/sink.csv\n"
        );
        let scene = Scene::new(&stages, "");
        scene.run().within(Duration::from_secs(30)).ends_with(0);
        let text = std::fs::read_to_string(scene.path("out/sink.csv")).expect("published");
        assert_eq!(text, "n,line\n1,\n2,\n3,\n", "{output}");
    }
}

#[test]
fn a_join_that_needs_more_memory_says_so_and_has_it_when_asked_for() {
    for (memory, code) in [("4MiB", 1), ("128MiB", 0)] {
        let stages = format!(
            "rows:\n  sql: SELECT value AS n, repeat('x', 200) AS text FROM generate_series(1, 100000)\njoined:\n  \
             from: {{ a: rows, b: rows }}\n  sql: SELECT count(a.text) AS n FROM a JOIN b ON a.n = b.n AND a.text = b.text\n  \
             memory: {memory}\nsink:\n  from: joined\n  write: out/sink.csv\n"
        );
        let scene = Scene::new(&stages, "");
        let ran = scene.run().within(Duration::from_secs(60)).ends_with(code);
        if code == 0 {
            assert_eq!(fs::read_to_string(scene.path("out/sink.csv")).expect("published"), "n\n100000\n");
        } else {
            assert!(ran.stderr.contains("give its stage more with `memory`"), "{}", ran.stderr);
        }
    }
}

/// What a query may keep depends on the files that it reads, and operators share it.
#[test]
fn demanding_queries_over_small_files_have_enough_memory() {
    let queries = [
        "SELECT DISTINCT a.word, max(b.n) AS n FROM rows AS a JOIN rows AS b ON a.n = b.n LEFT JOIN rows AS c ON c.n = b.n + 1 \
         JOIN rows AS d ON d.n = a.n GROUP BY a.word ORDER BY a.word",
        "SELECT n, rank() OVER (ORDER BY word, n) AS a, rank() OVER (ORDER BY n) AS b, sum(n) OVER (PARTITION BY word ORDER BY n) AS c, \
         lag(n) OVER (ORDER BY n DESC) AS d, lead(word) OVER (ORDER BY word DESC, n) AS e FROM rows ORDER BY a",
        "SELECT word, count(DISTINCT n) AS n FROM rows GROUP BY word UNION SELECT word, n FROM rows EXCEPT \
         SELECT upper(word) AS word, n FROM rows ORDER BY word, n",
        "SELECT word, array_agg(n ORDER BY n DESC) AS ns, median(n) AS middle FROM rows GROUP BY word ORDER BY word",
        "SELECT count(*) AS n FROM rows AS a CROSS JOIN rows AS b",
        "SELECT a.word, b.n FROM rows AS a JOIN rows AS b ON a.word = b.word ORDER BY a.word, b.n DESC, a.n",
    ];
    let mut stages = "rows:\n  read: rows.csv\n".to_owned();
    for (at, query) in queries.iter().enumerate() {
        let _ = write!(
            stages,
            "q{at}:\n  from: rows\n  sql: >-\n    {query}\nsink{at}:\n  from: q{at}\n  write: out/{at}.jsonl\n"
        );
    }
    let scene = Scene::new(&stages, "");
    let rows = (0..1000).map(|n| format!("{n},word{}\n", n % 50));
    fs::write(scene.path("rows.csv"), std::iter::once("n,word\n".to_owned()).chain(rows).collect::<String>())
        .expect("a file");
    scene.run().within(Duration::from_secs(120)).ends_with(0);
    let count =
        |at: usize| fs::read_to_string(scene.path(&format!("out/{at}.jsonl"))).expect("published").lines().count();
    let counts: Vec<usize> = (0..queries.len()).map(count).collect();
    assert_eq!(counts, [50, 1000, 1049, 50, 1, 50 * 20 * 20]);
}
