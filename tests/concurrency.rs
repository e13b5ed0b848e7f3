//! Functions that are called for many rows at once: how many wait, what comes of it, and who is to blame.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use support::{Scene, is_long, numbers, until};

/// A run that takes longer hangs.
const BOUND: Duration = Duration::from_secs(60);
/// The number of the row that is bad.
const BAD: usize = 8;

const ENDS: &str =
    "sink:\n  from: worked\n  write: out/sink.jsonl\nrejects:\n  from: worked.rejected\n  write: out/rejects.jsonl\n";

fn scene(rows: u32, stage: &str, ends: &str, module: &str) -> Scene {
    let scene = Scene::new(&format!("rows:\n  read: in.csv\nworked:\n  from: rows\n{stage}\n{ends}"), module);
    scene.write("in.csv", &numbers(1..=rows));
    scene
}

fn lines(scene: &Scene, name: &str) -> Vec<Value> {
    scene.read(name).lines().map(|line| serde_json::from_str(line).expect("it is JSON")).collect()
}

/// Answers `GET /N` with `{"square": N²}`: at first to nobody, and once `together` requests wait at the same time, to all.
struct Server {
    port: u16,
    seen: Arc<(Mutex<Seen>, Condvar)>,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    connections: usize,
    requests: usize,
    waiting: usize,
    most_waiting: usize,
    is_open: bool,
}

impl Server {
    fn new(together: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it has one").port();
        let seen = Arc::<(Mutex<Seen>, Condvar)>::default();
        let server = Self { port, seen: Arc::clone(&seen) };
        // Until the tests end.
        thread::spawn(move || {
            for connection in listener.incoming() {
                let seen = Arc::clone(&seen);
                thread::spawn(move || answer(connection.expect("it was made"), &seen, together));
            }
        });
        server
    }

    fn seen(&self) -> Seen {
        *self.seen.0.lock().expect("no test has panicked")
    }
}

fn answer(connection: TcpStream, seen: &(Mutex<Seen>, Condvar), together: usize) {
    seen.0.lock().expect("no test has panicked").connections += 1;
    let mut writer = connection.try_clone().expect("there are descriptors");
    let mut reader = BufReader::new(connection);
    while let Some(number) = request(&mut reader) {
        wait_for_others(seen, together);
        let body = format!("{{\"square\": {}}}", number * number);
        let length = body.len();
        if write!(writer, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").is_err() {
            return;
        }
    }
}

fn request(reader: &mut impl BufRead) -> Option<u64> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    head.split(['/', ' ']).nth(2)?.parse().ok()
}

fn wait_for_others((seen, changed): &(Mutex<Seen>, Condvar), together: usize) {
    let mut now = seen.lock().expect("no test has panicked");
    now.requests += 1;
    now.waiting += 1;
    now.most_waiting = now.most_waiting.max(now.waiting);
    now.is_open |= now.waiting >= together;
    changed.notify_all();
    let mut now = changed.wait_while(now, |now| !now.is_open).expect("no test has panicked");
    now.waiting -= 1;
}

const ASYNC_CLIENT: &str = r#"
import asyncio, json
free = []
async def fetch(row):
    reader, writer = free.pop() if free else await asyncio.open_connection("127.0.0.1", PORT)
    writer.write(f"GET /{row['n']} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    body = await reader.readexactly(int(head.split(b":")[1]))
    free.append((reader, writer))
    return {**row, **json.loads(body)}
"#;

const PLAIN_CLIENT: &str = r#"
import json, urllib.request
def fetch(row):
    with urllib.request.urlopen(f"http://127.0.0.1:{PORT}/{row['n']}") as answer:
        return {**row, **json.load(answer)}
"#;

fn assert_fetched(client: &str, concurrency: &str, together: usize, workers: usize) -> Seen {
    let server = Server::new(together);
    let module = client.replace("PORT", &server.port.to_string());
    let rows = 1000;
    let stage = format!("  python: work:fetch\n{concurrency}");
    let scene = scene(rows, &stage, "sink:\n  from: worked\n  write: out/sink.jsonl\n", &module);
    scene.run().within(BOUND).args(&["--workers", &workers.to_string()]).ends_with(0);
    let squares: Vec<_> = lines(&scene, "out/sink.jsonl").iter().map(|row| row["square"].as_u64()).collect();
    assert_eq!(squares, (1..=rows as u64).map(|n| Some(n * n)).collect::<Vec<_>>());
    scene.assert_clean();
    server.seen()
}

#[test]
fn as_many_requests_wait_as_may() {
    let seen = assert_fetched(ASYNC_CLIENT, "  concurrency: 50", 50, 1);
    assert_eq!((seen.most_waiting, seen.requests), (50, 1000));
    assert!(seen.connections <= 50, "they are kept from batch to batch: {}", seen.connections);
    let seen = assert_fetched(PLAIN_CLIENT, "  concurrency: 20", 20, 1);
    assert_eq!((seen.most_waiting, seen.requests), (20, 1000));
    let seen = assert_fetched(ASYNC_CLIENT, "", 100, 1);
    assert_eq!((seen.most_waiting, seen.requests), (100, 1000), "without being told");
    let seen = assert_fetched(PLAIN_CLIENT, "", 1, 1);
    assert_eq!((seen.most_waiting, seen.requests), (1, 1000));
}

#[test]
fn each_worker_has_as_many_requests_as_may_wait() {
    let seen = assert_fetched(ASYNC_CLIENT, "  concurrency: 30", 30, 2);
    assert!((30..=60).contains(&seen.most_waiting) && seen.requests == 1000, "{}", seen.most_waiting);
}

/// `n` milliseconds, so to speak: rows end in another order than they have begun in.
const SHUFFLED: &str = "
import asyncio, time
def plain(row):
    time.sleep((row['n'] * 7919 % 13) / 4000)
    return [{**row, 'i': i} for i in range(row['n'] % 3)]
async def task(row):
    await asyncio.sleep((row['n'] * 7919 % 13) / 4000)
    for i in range(row['n'] % 3):
        yield {**row, 'i': i}
async def batch(rows):
    return [made for part in await asyncio.gather(*[one(row) for row in rows]) for made in part]
async def one(row):
    return [made async for made in task(row)]
";

#[test]
fn the_result_is_the_same_for_any_concurrency_and_whoever_dies() {
    let made = |call: &str, more: &str, args: &[&str]| {
        let ends = "sink:\n  from: worked\n  write: out/sink.jsonl\n";
        let scene = scene(3000, &format!("  python: {{ call: 'work:{call}'{more}"), ends, SHUFFLED);
        scene.run().within(BOUND).args(args).ends_with(0);
        scene.assert_clean();
        scene.read("out/sink.jsonl")
    };
    let expected = made("task", ", as: row }", &["--workers", "2"]);
    assert_eq!(expected.lines().count(), 3000);
    let mut ways = vec![
        ("plain", ", as: row }\n  concurrency: 7", vec!["--workers", "3"]),
        ("task", ", as: row }\n  concurrency: 40", vec!["--workers", "1"]),
        ("batch", ", as: rows }", vec!["--workers", "2"]),
        ("task", " }\n  concurrency: 9", vec!["--workers", "3", "--chaos", "1"]),
        ("plain", " }\n  concurrency: 9", vec!["--workers", "3", "--chaos", "2"]),
    ];
    if is_long() {
        ways.extend((3..20).flat_map(|_| {
            [("plain", " }\n  concurrency: 30", vec!["--chaos", "4"]), ("task", " }", vec!["--chaos", "5"])]
        }));
    }
    for (call, more, args) in ways {
        assert!(made(call, more, &args) == expected, "{call} {more:?} {args:?}");
    }
}

#[test]
fn the_row_to_blame_is_found_among_those_that_wait_with_it() {
    let bad = [
        ("exception", "raise ValueError('no 8')", "ValueError: no 8"),
        ("crash", "os.kill(os.getpid(), 9)", "SIGKILL"),
        ("timeout", "STUCK", "wait_here"),
        ("schema", "return {'n': row['n'], 'x': 'eight'}", "column `x`"),
    ];
    thread::scope(|scope| {
        for (verdict, bad, word) in bad {
            for (begin, wait) in [("def", "time.sleep(0.01)"), ("async def", "await asyncio.sleep(0.01)")] {
                scope.spawn(move || {
                    let stuck = if begin == "def" { "threading.Event().wait()" } else { "await asyncio.sleep(1e6)" };
                    let call = if begin == "def" { "wait_here()" } else { "await wait_here()" };
                    let bad = bad.replace("STUCK", call);
                    let module = format!(
                        "import asyncio, os, threading, time\n{begin} wait_here():\n    {stuck}\n{begin} work(row):\n    {wait}\n    \
                         if row['n'] == {BAD}:\n        {bad}\n    return {{'n': row['n'], 'x': 1}}\n"
                    );
                    let stage = "  python: { call: work:work, as: row, returns: { n: int64, x: int64 } }\n  concurrency: 6\n  \
                                 timeout: 1s\n  on_error: reject";
                    let scene = scene(20, stage, ENDS, &module);
                    let ran = scene.run().within(BOUND).ends_with(0);
                    let rejects = lines(&scene, "out/rejects.jsonl");
                    assert_eq!(rejects.len(), 1, "{verdict} {begin}: {rejects:?}\n{}", ran.stderr);
                    assert_eq!((&rejects[0]["_verdict"], &rejects[0]["_row"]), (&verdict.into(), &BAD.into()), "{begin}");
                    let told = format!("{} {}", rejects[0]["_message"], rejects[0]["_traceback"]);
                    assert!(told.contains(word), "no `{word}` in {told}");
                    let given: Vec<_> = lines(&scene, "out/sink.jsonl").iter().map(|row| row["n"].as_u64()).collect();
                    assert_eq!(given, (1..=20).filter(|row| *row != BAD as u64).map(Some).collect::<Vec<_>>());
                    scene.assert_clean();
                });
            }
        }
    });
}

#[test]
fn the_first_row_that_fails_is_named_whichever_fails_first() {
    for (begin, wait) in [("def", "time.sleep"), ("async def", "await asyncio.sleep")] {
        let module = format!(
            "import asyncio, time\n{begin} work(row):\n    if row['n'] == 20:\n        raise ValueError('twenty')\n    {wait}(0.05)\n    if \
             row['n'] == {BAD}:\n        raise KeyError('eight')\n    return row\n"
        );
        let stage = "  python: { call: work:work, as: row }\n  concurrency: 30";
        let scene = scene(40, stage, "sink:\n  from: worked\n  write: out/sink.jsonl\n", &module);
        let ran = scene.run().within(BOUND).ends_with(1);
        ran.says(&["stage `worked` failed (exception): KeyError: 'eight'", "in.csv, row 8"]);
        assert!(!scene.exists("out/sink.jsonl"));
        scene.assert_clean();
    }
}

#[test]
fn rows_that_wait_do_not_keep_a_run_that_is_to_stop() {
    thread::scope(|scope| {
        for (begin, wait) in [("def", "time.sleep(1000)"), ("async def", "await asyncio.sleep(1000)")] {
            scope.spawn(move || {
                let module = format!(
                    "import asyncio, time\n{begin} work(row):\n    if row['n'] == 5:\n        open('waiting', 'w').close()\n    {wait}\n"
                );
                let stage = "  python: { call: work:work, as: row }\n  concurrency: 10";
                let scene = scene(40, stage, "sink:\n  from: worked\n  write: out/sink.jsonl\n", &module);
                let going = scene.run().within(BOUND).start();
                until("rows wait", Duration::from_secs(30), || scene.exists("waiting"));
                going.signal(Signal::INT);
                assert_eq!(going.end().code(), Some(130));
                scene.assert_clean();
            });
        }
    });
}

#[test]
fn an_instance_lives_in_one_loop_and_what_it_leaves_there_is_ended() {
    let module = "
import asyncio
class Work:
    def __init__(self):
        self.loop = asyncio.get_running_loop()
        self.left = asyncio.create_task(self.beat())
    async def beat(self):
        try:
            while True:
                await asyncio.sleep(0.001)
        finally:
            print('cancelled')
    async def __call__(self, row):
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        return row
    async def close(self):
        await asyncio.sleep(0)
        print('closed')
";
    let stage = "  python: { call: 'work:Work', as: row }\n  batch: { rows: 100 }\n  workers: 1";
    let scene = scene(500, stage, "sink:\n  from: worked\n  write: out/sink.jsonl\n", module);
    let ran = scene.run().within(BOUND).ends_with(0);
    ran.says(&["closed", "cancelled"]);
    assert_eq!(scene.read("out/sink.jsonl").lines().count(), 500);
}

#[test]
fn finished_batches_are_used_whatever_the_concurrency() {
    let module = "import asyncio\nasync def work(row):\n    await asyncio.sleep(0)\n    return row\n";
    let stage = "  python: { call: work:work, as: row }\n  concurrency: 10\n  checkpoint: true\n  batch: { rows: 100 }";
    let scene = scene(500, stage, "sink:\n  from: worked\n  write: out/sink.jsonl\n", module);
    scene.run().within(BOUND).ends_with(0);
    let pipeline = scene.read("pipeline.yaml").replace("concurrency: 10", "concurrency: 1");
    scene.write("pipeline.yaml", &pipeline);
    scene.run().within(BOUND).ends_with(0).says(&["5 of 5 batches reused"]);
}

#[test]
fn what_the_annotation_says_is_told_before_the_first_row() {
    let stage = "  python: work:work\n  concurrency: 10";
    let module = "async def work(rows: list):\n    return rows\n";
    let scene = scene(10, stage, "sink:\n  from: worked\n  write: out/sink.jsonl\n", module);
    scene.run().within(BOUND).ends_with(1).says(&["whole batches (`as: rows`)", "remove the key"]);
    scene.assert_clean();
}
