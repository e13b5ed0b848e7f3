//! Commands that are fed batch after batch: `mode: stream`.

mod support;

use std::time::Duration;

use support::Scene;

/// A failing run that takes longer hangs.
const BOUND: Duration = Duration::from_secs(60);

const LINES: usize = 3000;

/// Counts its processes, and becomes another program.
const COUNTED: &str = "echo $$ >> pids; exec ";

/// A pipeline of lines through a command; whatever else its stage says comes last.
fn scene(shell: &str, input: &str, rest: &str) -> Scene {
    let shell = serde_json::json!(shell);
    let stages = format!(
        "rows:\n  read: {{ path: in.txt, format: lines }}\nworked:\n  from: rows\n  \
         command: {{ mode: stream, shell: {shell}, input: lines, output: lines }}\n  batch: {{ rows: 100 }}\n{rest}\n\
         sink:\n  from: worked\n  write: sink.txt\n"
    );
    let scene = Scene::with_python("", &stages, "");
    scene.write("in.txt", input);
    scene
}

fn numbered(lines: usize) -> String {
    (0..lines).map(|line| format!("line {line} of them\n")).collect()
}

fn processes(scene: &Scene) -> usize {
    scene.read("pids").lines().count()
}

#[test]
fn a_process_serves_many_batches_however_it_buffers() {
    let filters = [
        // A block at a time, on both sides.
        "sed s/line/LINE/",
        "sed -u s/line/LINE/",
        "python3 -u -c 'import sys\nfor line in sys.stdin: print(line.replace(\"line\", \"LINE\"), end=\"\")'",
        "jq -rR 'sub(\"line\"; \"LINE\")'",
    ];
    for filter in filters {
        let scene = scene(&format!("{COUNTED}{filter}"), &numbered(LINES), "");
        scene.run().args(&["--workers", "2"]).within(BOUND).ends_with(0);
        assert!(scene.read("sink.txt") == numbered(LINES).replace("line", "LINE"), "{filter}");
        let (processes, batches) = (processes(&scene), LINES / 100);
        assert!(processes < batches, "{filter}: {processes} processes for {batches} batches");
        scene.assert_clean();
    }
}

#[test]
fn a_process_that_says_nothing_until_its_input_ends_is_given_an_end() {
    // Batches of 3000 lines, of which no more than a few fit into the queues.
    let input = "x".repeat(1000) + "\n";
    let scene = scene("sort", &input.repeat(500), "  queue: { batches: 1 }");
    scene.run().args(&["--workers", "2"]).within(BOUND).ends_with(0);
    assert!(scene.read("sink.txt") == input.repeat(500));
}

#[test]
fn records_are_lines_of_json() {
    let input: String = (0..LINES).map(|n| format!("{{\"n\":{n},\"t\":\"a\\nb\"}}\n")).collect();
    let stages = "
rows: { read: in.jsonl }
worked: { from: rows, command: { mode: stream, run: [jq, -c, '{m: (.n + 1), t}'] }, batch: { rows: 100 } }
sink: { from: worked, write: sink.jsonl }
";
    let scene = Scene::with_python("", stages, "");
    scene.write("in.jsonl", &input);
    scene.run().within(BOUND).ends_with(0);
    let expected: String = (0..LINES).map(|n| format!("{{\"m\":{},\"t\":\"a\\nb\"}}\n", n + 1)).collect();
    assert!(scene.read("sink.jsonl") == expected);
}

#[test]
fn rows_at_which_a_process_dies_are_found() {
    let input = numbered(LINES).replace("line 555 ", "bad 555 ").replace("line 2222 ", "dead 2222 ");
    let filter = "awk '/bad/ { exit 3 } /dead/ { system(\"kill -KILL $PPID\") } { print }'";
    let rest = "  on_error: reject\nrejected:\n  from: worked.rejected\n  write: rejected.csv";
    for workers in ["1", "3"] {
        let scene = scene(filter, &input, rest);
        scene.run().args(&["--workers", workers]).within(BOUND).ends_with(0);
        let good: String =
            input.lines().filter(|line| line.starts_with("line")).map(|line| line.to_owned() + "\n").collect();
        assert!(scene.read("sink.txt") == good, "{workers}");
        let rejected = scene.read("rejected.csv");
        for expected in ["bad 555 of them,worked,exception,the command exited with status 3", ",in.txt,556\n"] {
            assert!(rejected.contains(expected), "{rejected}");
        }
        for expected in ["dead 2222 of them,worked,crash,the command was killed by SIGKILL", ",in.txt,2223\n"] {
            assert!(rejected.contains(expected), "{rejected}");
        }
        assert_eq!(rejected.lines().count(), 3);
        scene.assert_clean();
    }
}

#[test]
fn lines_that_are_left_out_are_never_made_up_for_by_those_of_the_next_batch() {
    for filter in ["sed /555/d", "sed -u /555/d", "sed 's/555/5\\n55/'", "head -n 250", "cat; echo more"] {
        let scene = scene(filter, &numbered(LINES), "");
        scene.run().within(BOUND).ends_with(1).says(&["stage `worked` failed", "`mode: batch`"]);
        assert!(!scene.exists("sink.txt"), "{filter}");
    }
    // How many batches a process is given is a matter of timing, and so no row is to blame even where it is one.
    let scene = scene("sed /55/d", &numbered(90), "  on_error: skip");
    scene.run().within(BOUND).ends_with(1).says(&["the command gave 89 rows for 90 rows"]);
}

#[test]
fn a_process_that_ends_badly_after_its_last_line_fails() {
    for filter in ["cat; exit 3", "sed -u s/a/b/; exit 3"] {
        let scene = scene(filter, &numbered(LINES), "");
        scene.run().within(BOUND).ends_with(1).says(&["stage `worked` failed", "exited with status 3"]);
        assert!(!scene.exists("sink.txt"), "{filter}");
        scene.assert_clean();
    }
}

#[test]
fn what_is_not_text_fails_and_what_cannot_be_started_is_told() {
    let broken = scene("sed 's/line 55 /\\xff/'", &numbered(LINES), "");
    broken.run().within(BOUND).ends_with(1).says(&["stage `worked` failed", "not valid UTF-8"]);
    let stages = "
rows: { read: { path: in.txt, format: lines } }
worked: { from: rows, command: { mode: stream, run: [no-such-program] } }
sink: { from: worked, write: sink.jsonl }
";
    let missing = Scene::with_python("", stages, "");
    missing.write("in.txt", "a\n");
    missing.run().within(BOUND).ends_with(1).says(&["`no-such-program` could not be started"]);
}

#[test]
fn an_interrupt_ends_a_filter_that_waits() {
    let scene = scene("cat; sleep 100", &numbered(200), "");
    let going = scene.run().within(BOUND).start();
    support::until("the filter runs", BOUND, || !scene.processes_named("sleep").is_empty());
    going.signal(rustix::process::Signal::INT);
    assert_eq!(going.end().code(), Some(130));
    scene.assert_clean();
}
