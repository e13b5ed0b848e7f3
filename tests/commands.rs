//! Commands for single rows, and steps in order.

mod support;

use std::time::Duration;

use support::Scene;

/// A failing run that takes longer hangs.
const BOUND: Duration = Duration::from_secs(30);

/// A pipeline without Python that reads lines and runs a command for each.
fn scene(command: &str, lines: &str) -> Scene {
    let stages = format!(
        "rows:\n  read: {{ path: in.txt, format: lines }}\nworked:\n  from: rows\n{command}\nsink:\n  from: worked\n  write: sink.jsonl\n"
    );
    let scene = Scene::with_python("", &stages, "");
    scene.write("in.txt", lines);
    scene
}

/// The values of one column of the sink.
fn column(scene: &Scene, name: &str) -> Vec<String> {
    let rows = scene.read("sink.jsonl");
    let rows = rows.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("it is JSON"));
    rows.map(|row| row[name].as_str().map_or_else(|| row[name].to_string(), str::to_owned)).collect()
}

#[test]
fn every_row_has_a_process_and_keeps_its_place() {
    // The first rows take longest, so that later ones end before them.
    let command =
        "  command: { mode: row, run: [sh, -c, 'sleep $1; echo \"<$2>\"; echo said >&2', x, '0.{line}', '{line}}}'] }";
    let scene = scene(command, "4\n1\n2\n0\n");
    scene.run().args(&["--workers", "4"]).within(BOUND).ends_with(0);
    assert_eq!(column(&scene, "line"), ["4", "1", "2", "0"]);
    assert_eq!(column(&scene, "stdout"), ["<4}>\n", "<1}>\n", "<2}>\n", "<0}>\n"]);
    assert_eq!(column(&scene, "stderr"), ["said\n"; 4]);
    assert_eq!(column(&scene, "exit_code"), ["0"; 4]);
    scene.assert_clean();
}

#[test]
fn values_are_text_to_a_command_whatever_they_say() {
    let lines = "$(touch broken)\n\"; touch broken; \"\n'`touch broken`\n--help\n\n";
    for command in [
        "  command: { mode: row, run: [printf, '%s', '{line}'] }",
        "  command: { mode: row, shell: 'printf %s \"$line\"' }",
    ] {
        let scene = scene(command, lines);
        scene.run().within(BOUND).ends_with(0);
        assert_eq!(column(&scene, "stdout"), lines.lines().collect::<Vec<_>>(), "{command}");
        assert!(!scene.exists("broken"), "{command}");
    }
}

#[test]
fn rows_whose_command_fails_are_rejected() {
    let command = "  command: { mode: row, shell: 'case $line in bad) echo no >&2; exit 3;; dead) kill -KILL $$;; esac' }\n  on_error: reject";
    let scene = scene(command, "a\nbad\nb\ndead\nc\n");
    let pipeline = scene.read("pipeline.yaml") + "  rejected:\n    from: worked.rejected\n    write: rejected.csv\n";
    scene.write("pipeline.yaml", &pipeline);
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(column(&scene, "line"), ["a", "b", "c"]);
    let rejected = scene.read("rejected.csv");
    let bad = "bad,worked,exception,the command exited with status 3,no,1,in.txt,2\n";
    let dead = "dead,worked,crash,the command was killed by SIGKILL,,3,in.txt,4\n";
    assert!(rejected.ends_with(&format!("{bad}{dead}")), "{rejected}");
    scene.assert_clean();
}

#[test]
fn a_row_whose_command_fails_is_named() {
    let scene = scene("  command: { mode: row, run: [test, '{line}', '!=', bad] }", "a\nbad\n");
    scene.run().within(BOUND).ends_with(1).says(&["stage `worked` failed", "status 1", "in.txt", "row 2"]);
    assert!(!scene.exists("sink.jsonl"));
}

#[test]
fn what_cannot_be_started_is_told_apart() {
    let missing = scene("  command: { mode: row, run: [no-such-program, '{line}'] }\n  on_error: skip", "a\n");
    missing.run().within(BOUND).ends_with(1).says(&["`no-such-program` could not be started", "No such file"]);
    // The program itself is the row's: the row is skipped.
    let named = scene("  command: { mode: row, run: ['{line}', 'yes'] }\n  on_error: skip", "no-such-program\necho\n");
    named.run().within(BOUND).ends_with(0);
    assert_eq!(column(&named, "stdout"), ["yes\n"]);
    let folder = scene("  command: { mode: row, run: [echo] }\n  cwd: no-such-folder", "a\n");
    folder.run().within(BOUND).ends_with(1).says(&["no-such-folder` cannot be entered"]);
}

#[test]
fn a_script_that_does_not_say_what_runs_it_is_run_by_the_shell() {
    let scene = scene("  command: { mode: row, run: [./script, '{line}'] }", "a b\n");
    let script = scene.write("script", "echo \"$# $1\"\n");
    std::fs::set_permissions(script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("our file");
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(column(&scene, "stdout"), ["1 a b\n"]);
}

#[test]
fn what_a_rows_command_leaves_running_does_not_hold_up_the_run() {
    let scene = scene("  command: { mode: row, shell: 'echo \"$line\"; sleep 100 & setsid sleep 100 &' }", "a\nb\n");
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(column(&scene, "stdout"), ["a\n", "b\n"]);
    scene.until_gone(BOUND);
}

#[test]
fn much_output_of_a_row_is_a_failure_and_not_a_cut() {
    let size = "head -c \"$line\" /dev/zero | tr '\\0' x";
    let scene = scene(
        &format!("  command: {{ mode: row, shell: {} }}\n  on_error: skip", serde_json::json!(size)),
        "8388608\n8388609\n0\n",
    );
    scene.run().within(BOUND).ends_with(0).says(&["more than 8 MiB"]);
    let lengths: Vec<usize> = column(&scene, "stdout").iter().map(String::len).collect();
    assert_eq!(lengths, [8_388_608, 0]);
}

#[test]
fn a_command_without_rows_still_gives_its_columns() {
    let scene = scene("  command: { mode: row, run: ['true', '{line}'] }", "");
    let pipeline = scene.read("pipeline.yaml").replace("sink.jsonl", "sink.csv");
    scene.write("pipeline.yaml", &pipeline);
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("sink.csv"), "line,stdout,stderr,exit_code,seconds\n");
}

#[test]
fn a_stage_starts_after_those_that_it_waits_for() {
    // Whatever starts too early does not find its file. `late` reads a source that also feeds `early`, whose queue is short.
    let stages = "
slow: { command: { shell: 'sleep 0.3; echo x > slow' } }
task: { after: slow, command: [cp, slow, task] }
read: { after: [slow, task], read: { path: task, format: lines } }
many: { command: { shell: 'seq 20000', output: lines } }
early: { from: many, sql: SELECT count(*) AS n FROM many }
counted: { from: early, command: { shell: 'cat; cat task >&2; touch counted' }, after: task }
late: { from: many, after: counted, command: { shell: 'test -e counted && cat', input: lines, output: lines }, queue: { batches: 1 } }
a: { from: read, write: a.csv }
b: { from: late, write: b.csv }
c: { from: counted, write: c.jsonl }
";
    let scene = Scene::with_python("", stages, "");
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("a.csv"), "line\nx\n");
    assert_eq!(scene.read("b.csv").lines().count(), 20_001);
    assert_eq!(scene.read("c.jsonl"), "{\"n\":20000}\n");
    scene.assert_clean();
}

#[test]
fn steps_behind_one_that_fails_are_not_run() {
    let stages = "bad: { command: ['false'] }\nnext: { after: bad, command: [touch, next] }\n";
    let scene = Scene::with_python("", stages, "");
    scene.run().within(BOUND).ends_with(1).says(&["stage `bad` failed"]);
    assert!(!scene.exists("next"));
}

#[test]
fn a_foreach_runs_a_step_for_each_value() {
    // Each step fails if what it comes after has not left its file, or if more run at once than there are workers.
    let stages = "
folder: { command: [mkdir, running, done] }
step:
  foreach: { n: '${{ range(40) }}' }
  after: folder
  command: [sh, -c, 'touch running/$0 && [ $(ls running | wc -l) -le 2 ] && touch done/$0 && rm running/$0', '${{ each.n }}']
list: { after: step, command: { shell: ls done, output: lines } }
sink: { from: list, write: sink.csv }
";
    let scene = Scene::with_python("", stages, "");
    scene.run().args(&["--workers", "2"]).within(BOUND).ends_with(0);
    assert_eq!(scene.read("sink.csv").lines().count(), 41);
    scene.assert_clean();
}

#[test]
fn rows_are_worked_on_by_no_more_processes_than_there_are_workers() {
    let command = "  command: { mode: row, run: [sh, -c, 'mkdir -p r && touch r/$0 && n=$(ls r | wc -l) && rm r/$0 && [ $n -le 3 ]', '{line}'] }";
    let lines: String = (0..200).map(|line| format!("{line}\n")).collect();
    let scene = scene(command, &lines);
    scene.run().args(&["--workers", "3"]).within(BOUND).ends_with(0);
    assert_eq!(column(&scene, "line"), lines.lines().collect::<Vec<_>>());
}

#[test]
fn nothing_that_was_sent_ahead_starts_after_a_failure() {
    // One worker: whatever comes after the row that fails would be next.
    let command = "  command: { mode: row, run: [sh, -c, 'touch ran-$0; [ $0 != 5 ]', '{line}'] }";
    let lines: String = (0..20).map(|line| format!("{line}\n")).collect();
    let scene = scene(command, &lines);
    scene.run().args(&["--workers", "1"]).within(BOUND).ends_with(1);
    assert!(scene.exists("ran-5") && !scene.exists("ran-6"));
}

#[test]
fn a_program_that_is_not_there_is_not_one_that_says_127() {
    let scene = scene("  command: { mode: row, run: ['./{line}'] }\n  on_error: reject", "first\nsecond\nthird\n");
    for name in ["first", "third"] {
        let program = scene.write(name, "#!/bin/sh\nexit 127\n");
        std::fs::set_permissions(program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let ran = scene.run().args(&["--workers", "1"]).within(BOUND).ends_with(0);
    ran.says(&["the command exited with status 127", "`./second` could not be started: No such file or directory"]);
    assert_eq!(
        ran.stderr.matches("rejected (exception: the command exited with status 127").count(),
        2,
        "{}",
        ran.stderr
    );
}

#[test]
fn each_file_goes_through_a_process_as_it_is() {
    let stages = "
files:
  read: { path: 'files/*', format: binary }
contents:
  from: files
  sql: SELECT bytes FROM files
packed:
  from: contents
  batch: { rows: 1 }
  command: { run: [gzip, -cn], input: bytes, output: bytes }
unpacked:
  from: packed
  batch: { rows: 1 }
  command: { run: [gzip, -dc], input: bytes, output: bytes }
sums:
  from: unpacked
  batch: { rows: 1 }
  command: { run: [sha256sum], input: bytes, output: lines }
sink:
  from: sums
  write: sums.txt
all:
  from: unpacked
  workers: 1
  command: { shell: 'cat >> all', input: bytes, output: none }
";
    let scene = Scene::with_python("", stages, "");
    for (name, text) in [("a", "first\n"), ("b", ""), ("c", "third\r\n\0")] {
        scene.write(&format!("files/{name}"), text);
    }
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("all"), "first\nthird\r\n\0");
    let sums = scene.read("sums.txt");
    let starts: Vec<&str> = sums.lines().map(|line| &line[..8]).collect();
    assert_eq!(starts, ["b640e840", "e3b0c442", "5771b08a"], "{sums}");
    scene.assert_clean();
}

#[test]
fn a_command_may_give_all_of_its_output_as_one_row() {
    let stages = "
picture:
  command: { shell: 'printf \"\\\\377\\\\n\\\\0\"', output: bytes }
length:
  from: picture
  sql: SELECT encode(bytes, 'hex') AS hex FROM picture
sink:
  from: length
  write: sink.jsonl
";
    let scene = Scene::with_python("", stages, "");
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("sink.jsonl"), "{\"hex\":\"ff0a00\"}\n");
    scene.assert_clean();
}

#[test]
fn a_null_has_no_bytes() {
    let stages = "
rows:
  read: in.jsonl
joined:
  from: rows
  command: { run: [cat], input: bytes, output: lines }
  on_error: reject
sink:
  from: joined
  write: sink.txt
rejected:
  from: joined.rejected
  write: rejected.csv
";
    let scene = Scene::with_python("", stages, "");
    scene.write("in.jsonl", "{\"a\":\"x\"}\n{\"a\":null}\n{\"a\":\"y\\n\"}\n");
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("sink.txt"), "xy\n");
    assert!(scene.read("rejected.csv").contains("a value of column `a` is null"), "{}", scene.read("rejected.csv"));
    // What is known only when rows come.
    scene.write("in.jsonl", "{\"a\":1,\"b\":2}\n");
    scene.run().within(BOUND).ends_with(3).says(&["plan::unexpected_type", "there are `a`, `b`"]);
    let pipeline =
        scene.read("pipeline.yaml").replace("read: in.jsonl", "command: { run: [cat, in.jsonl], output: jsonl }");
    scene.write("pipeline.yaml", &pipeline);
    scene.run().within(BOUND).ends_with(1).says(&["bytes are written from one column; there are `a`, `b`"]);
    scene.write("in.jsonl", "{\"a\":1}\n");
    scene.run().within(BOUND).ends_with(1).says(&["column `a` is int64, and only binary and text are bytes"]);
}

#[test]
fn a_command_may_be_given_and_give_an_array_of_objects() {
    let stages = "
rows:
  command: { shell: 'echo \"[{\\\"a\\\": 1}, {\\\"a\\\": 2}]\"', output: json }
same:
  from: rows
  command: { shell: 'tee -a seen', input: json, output: json }
after_one_another:
  from: same
  command: { shell: 'tr -d \"[],\"', input: json, output: json }
sink:
  from: after_one_another
  write: sink.jsonl
";
    let scene = Scene::with_python("", stages, "");
    scene.run().within(BOUND).ends_with(0);
    assert_eq!(scene.read("seen"), "[\n{\"a\":1},\n{\"a\":2}\n]\n");
    assert_eq!(scene.read("sink.jsonl"), "{\"a\":1}\n{\"a\":2}\n");
    scene.assert_clean();
}
