//! Tasks that say what they read and make: when they are run again, and what becomes of their outputs when they fail or die.

mod support;

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;
use support::calls::callee;
use support::{Scene, until};

const STAGES: &str = r#"
sorted:
  command:
    shell: |
      touch "called/sorted-$$-$(date +%N)"
      if test -e fail; then echo half > "$all"; exit 3; fi
      if test -e hang; then echo half > "$all"; touch hangs; sleep 300; fi
      bash tool.sh in/*.txt | tail -n "$most" > "$all"
      mkdir -p "$parts"; cp -r in/* "$parts"
    inputs: [in, "*.conf"]
    outputs: { all: out/all.txt, parts: out/parts }
counted:
  after: sorted
  command:
    shell: touch "called/counted-$$-$(date +%N)"; grep -c . out/all.txt > out/count.txt
    inputs: out/all.txt
    outputs: out/count.txt
copied:
  after: sorted
  command:
    run: [cp, out/count.txt.template, "{copy}"]
    inputs: out/count.txt.template
    outputs: { copy: out/copy.txt }
read:
  after: counted
  read: { path: out/count.txt, format: lines }
sink:
  from: read
  write: out/sink.jsonl
"#;

fn scene() -> Scene {
    let scene = Scene::with_python("params:\n  most: { type: integer, default: 100 }\n", STAGES, "").with_calls();
    scene.write("in/a.txt", "b\na\n");
    scene.write("in/b.txt", "c\n");
    scene.write("one.conf", "x");
    scene.write("tool.sh", "sort \"$@\"");
    scene.write("out/count.txt.template", "template");
    scene
}

/// The tasks that were run since this was asked last, in the order of their names.
fn called(scene: &Scene) -> Vec<String> {
    scene.take_called().iter().map(|name| callee(name).to_owned()).collect()
}

fn plan(scene: &Scene) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("plan").arg(scene.path("pipeline.yaml")).arg("--state-dir").arg(scene.path("state"));
    let output = command.output().expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("it is text")
}

#[test]
fn a_task_is_run_again_if_and_only_if_something_has_changed() {
    let scene = scene();
    assert!(plan(&scene).contains("task `sorted`: is run, as it has not ended well before"));
    scene.run().ends_with(0);
    assert_eq!(called(&scene), ["counted", "sorted"]);
    assert_eq!(scene.read("out/all.txt"), "a\nb\nc\n");
    let ran = scene.run().ends_with(0);
    assert_eq!(called(&scene), Vec::<String>::new());
    for task in ["sorted", "counted", "copied"] {
        ran.says(&[&format!("{task}: not run, as nothing has changed since it ended well")]);
        assert!(plan(&scene).contains(&format!("task `{task}`: is not run")), "{}", plan(&scene));
    }
    // What changes, the tasks that are run again, and what is told of the first one.
    type Change = (&'static str, fn(&Scene), &'static [&'static str], &'static [&'static str], &'static str);
    let changes: &[Change] = &[
        (
            "input",
            |scene| drop(scene.write("in/a.txt", "b\nd\n")),
            &[],
            &["counted", "sorted"],
            "sorted: run again, as this has changed: file in/a.txt",
        ),
        ("new input", |scene| drop(scene.write("in/deep/c.txt", "")), &[], &["sorted"], "file in/deep/c.txt"),
        (
            "input gone",
            |scene| fs::remove_file(scene.path("in/deep/c.txt")).expect("there"),
            &[],
            &["sorted"],
            "file in/deep/c.txt",
        ),
        ("written again", |scene| drop(scene.write("in/b.txt", "c\n")), &[], &[], ""),
        ("matched by a pattern", |scene| drop(scene.write("two.conf", "")), &[], &["sorted"], "file two.conf"),
        (
            "file that the script names",
            |scene| drop(scene.write("tool.sh", "sort -r \"$@\"")),
            &[],
            &["counted", "sorted"],
            "file tool.sh",
        ),
        ("unrelated", |scene| drop(scene.write("unrelated.txt", "x")), &[], &[], ""),
        ("param", |_| {}, &["--set", "most=1"], &["counted", "sorted"], "param most"),
        ("param back", |_| {}, &[], &["counted", "sorted"], "param most"),
        (
            "output removed",
            |scene| fs::remove_file(scene.path("out/count.txt")).expect("there"),
            &[],
            &["counted"],
            "counted: run again, as this has changed: output out/count.txt",
        ),
        (
            "output changed",
            |scene| drop(scene.write("out/parts/a.txt", "tampered")),
            &[],
            &["sorted"],
            "output out/parts",
        ),
        ("forced", |_| {}, &["--force", "counted"], &["counted"], ""),
    ];
    for (what, change, args, expected, reason) in changes {
        change(&scene);
        if !reason.is_empty() && args.is_empty() && *what != "param back" {
            let told = reason.split(": ").last().expect("a part");
            assert!(plan(&scene).contains(told), "{what}: plan does not say `{told}`:\n{}", plan(&scene));
        }
        let ran = scene.run().args(args).ends_with(0);
        assert_eq!(called(&scene), *expected, "{what}:\n{}", ran.stderr);
        ran.says(&[reason]);
        scene.assert_clean();
    }
    assert_eq!(scene.read("out/all.txt"), "d\nc\nb\n");
}

#[test]
fn a_task_that_fails_leaves_what_was_there_and_is_run_again() {
    let scene = scene();
    scene.run().ends_with(0);
    called(&scene);
    scene.write("in/a.txt", "e\n");
    scene.write("fail", "");
    scene.run().ends_with(1);
    assert_eq!(scene.read("out/all.txt"), "a\nb\nc\n");
    scene.assert_clean();
    fs::remove_file(scene.path("fail")).expect("ours");
    called(&scene);
    let ran = scene.run().ends_with(0);
    ran.says(&["file in/a.txt"]);
    assert_eq!(called(&scene), ["counted", "sorted"]);
    assert_eq!(scene.read("out/all.txt"), "c\ne\n");
}

#[test]
fn a_task_that_is_killed_leaves_what_was_there_and_its_files_go() {
    let scene = scene();
    scene.run().ends_with(0);
    scene.write("in/a.txt", "e\n");
    scene.write("hang", "");
    let going = scene.run().start();
    until("the task hangs", Duration::from_secs(30), || scene.exists("hangs"));
    going.signal(Signal::KILL);
    going.end();
    scene.until_gone(Duration::from_secs(2));
    assert_eq!(scene.read("out/all.txt"), "a\nb\nc\n");
    fs::remove_file(scene.path("hang")).expect("ours");
    called(&scene);
    scene.run().ends_with(0);
    assert_eq!(called(&scene), ["counted", "sorted"]);
    assert_eq!(scene.read("out/all.txt"), "c\ne\n");
    scene.assert_clean();
}

#[test]
fn what_is_not_made_is_an_error() {
    let scene = Scene::new("task:\n  command: { shell: 'test \"$one\"', outputs: { one: out/one } }\n", "");
    scene.run().ends_with(1).says(&["out/one is not there, which it is to make"]);
    scene.assert_clean();
    let scene = Scene::new("task:\n  command: { run: ['true'], outputs: [out/one] }\n", "");
    scene.run().ends_with(1).says(&["out/one is not there, which it is to make"]);
    let scene = Scene::new("task:\n  command: { run: ['true'], inputs: 'none-*' }\n", "");
    scene.run().ends_with(6).says(&["none-*, which the command names under `inputs`"]);
}

/// Runs this as a pipeline with one task, `task`, beside what the pipeline needs.
fn with_task(task: &str) -> Scene {
    let scene = Scene::new(&format!("task:\n  command: {task}\n"), "");
    scene.write("in/a.txt", "a");
    scene
}

#[test]
fn what_others_have_in_a_folder_is_not_lost() {
    let scene = with_task(r#"{ shell: 'mkdir "$all"; echo new > "$all/x"', outputs: { all: data } }"#);
    scene.write("data/precious.txt", "precious");
    scene.run().ends_with(6).says(&["it was not this task that made it"]);
    assert_eq!(scene.read("data/precious.txt"), "precious");
    fs::remove_dir_all(scene.path("data")).expect("ours");
    scene.run().ends_with(0);
    // What it has made itself is replaced.
    scene.run().args(&["--force", "task"]).ends_with(0);
    scene.assert_clean();
    // The state folder of the run may lie in it.
    let scene = with_task(r#"{ shell: 'mkdir "$all"', outputs: { all: state } }"#);
    scene.run().ends_with(6).says(&["state"]);
    scene.assert_clean();
}

#[test]
fn a_folder_that_its_maker_has_closed_is_made_again() {
    let scene =
        with_task(r#"{ shell: 'mkdir -p "$o/deep"; echo 1 > "$o/deep/x"; chmod -R a-w "$o"', outputs: { o: out } }"#);
    for _ in 0..3 {
        scene.run().args(&["--force", "task"]).ends_with(0);
        assert_eq!(scene.read("out/deep/x"), "1\n");
        scene.assert_clean();
    }
    let opened = Command::new("chmod").arg("-R").arg("u+w").arg(scene.path("out")).status().expect("chmod starts");
    assert!(opened.success());
}

#[test]
fn all_that_is_in_a_folder_counts_and_nothing_else() {
    let scene = with_task("{ run: [touch, done], inputs: [in], outputs: done }");
    scene.write("real/f", "1");
    std::os::unix::fs::symlink("../real", scene.path("in/link")).expect("ours");
    std::os::unix::fs::symlink(".", scene.path("in/round")).expect("ours");
    let state = scene.path("in/.millpond").display().to_string();
    let run = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
        command.arg("run").arg(scene.path("pipeline.yaml")).args(["--state-dir", &state]);
        let output = command.output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    run();
    // What the run itself has there does not count.
    assert!(run().contains("not run, as nothing has changed"));
    scene.write("real/f", "2");
    assert!(run().contains("file in/link/f"));
    let made = Command::new("mkfifo").arg(scene.path("in/fifo")).status().expect("mkfifo starts");
    assert!(made.success());
    let mut command = Command::new(env!("CARGO_BIN_EXE_millpond"));
    command.arg("run").arg(scene.path("pipeline.yaml")).args(["--state-dir", &state]);
    let output = command.output().expect("the program starts");
    assert_eq!(output.status.code(), Some(6));
    assert!(String::from_utf8_lossy(&output.stderr).contains("in/fifo is neither a file nor a folder"));
}

#[test]
fn two_runs_do_not_do_one_task_at_once() {
    let scene = with_task(
        "{ shell: 'v=$(cat in/a.txt); touch begun; if test $v = a; then while ! test -e go; do sleep 0.02; done; fi; echo made of $v > o', inputs: in, outputs: o }",
    );
    let going = scene.run().start();
    until("the first has begun", Duration::from_secs(20), || scene.exists("begun"));
    scene.write("in/a.txt", "b");
    let other = scene.run().end();
    assert_eq!(other.code(), Some(6), "{}", other.stderr);
    other.says(&[&format!("another run (process {})", going.pid())]);
    scene.write("go", "");
    assert_eq!(going.end().code(), Some(0));
    // It was made of what was there when it began.
    scene.run().ends_with(0).says(&["file in/a.txt"]);
    assert_eq!(scene.read("o"), "made of b\n");
}

#[test]
fn where_a_command_is_run_counts() {
    let scene = Scene::new("task:\n  cwd: A\n  command: { run: [cp, f, ../o], outputs: o }\n", "");
    scene.write("A/f", "a");
    scene.write("B/f", "b");
    scene.run().ends_with(0);
    let yaml = scene.read("pipeline.yaml").replace("cwd: A", "cwd: B");
    scene.write("pipeline.yaml", &yaml);
    scene.run().ends_with(0).says(&["cwd"]);
    assert_eq!(scene.read("o"), "b");
}
