//! `run --debug`, by someone who sits at a real terminal.

mod support;

use std::process::{Command, Stdio};
use std::time::Duration;

use support::{PATIENCE, Scene, numbers};

/// Runs a program on a pseudo-terminal and types what it is told to when it sees what it waits for. Its arguments: the seconds that it waits,
/// pairs of what to see and what to type as JSON, and the program. Prints the exit code, whether the terminal shows at the end what is
/// typed, and all that was shown.
const TYPIST: &str = "
import fcntl, json, os, pty, select, sys, termios, time
limit, script, command = float(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3:]
# Both ends stay open, so that the terminal is there when the program has ended.
terminal, also = pty.openpty()
before = termios.tcgetattr(also)[3]
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(also, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(also, number)
    os.execvp(command[0], command)
shown, seen, until, status = b'', 0, time.monotonic() + limit, None
while status is None or select.select([terminal], [], [], 0.1)[0]:
    if time.monotonic() > until:
        print('hangs', script[0] if script else 'at its end', shown.decode(errors='replace'))
        os.kill(pid, 9)
        sys.exit(1)
    if select.select([terminal], [], [], 0.05)[0]:
        shown += os.read(terminal, 65536)
    if script and (at := shown.find(script[0][0].encode(), seen)) >= 0:
        seen = at + len(script[0][0])
        os.write(terminal, script.pop(0)[1].encode())
    ended, how = os.waitpid(pid, os.WNOHANG) if status is None else (0, 0)
    if ended:
        status = os.waitstatus_to_exitcode(how)
print(status, 'same' if termios.tcgetattr(also)[3] == before else 'other')
sys.stdout.write(shown.decode(errors='replace'))
sys.exit(1 if script else 0)
";

/// A session at a terminal, when it is over.
struct Session {
    status: i32,
    is_terminal_as_it_was: bool,
    shown: String,
}

/// Runs the scene's pipeline; `script` is what to wait for and what to type then.
fn session(scene: &Scene, arguments: &[&str], script: &[(&str, &str)]) -> Session {
    let script = serde_json::to_string(script).expect("texts are JSON");
    let mut typist = Command::new("python3");
    typist.args(["-c", TYPIST, &PATIENCE.as_secs().to_string(), &script, env!("CARGO_BIN_EXE_millpond"), "run"]);
    typist.arg(scene.path("pipeline.yaml")).arg("--state-dir").arg(scene.path("state")).arg("--debug").args(arguments);
    let output = typist.env("TERM", "xterm").stdin(Stdio::null()).output().expect("python3 starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let (first, shown) = text.split_once('\n').expect("a line of the end");
    let (status, terminal) = first.split_once(' ').expect("a status and the terminal");
    let status = status.parse().expect("a number");
    Session { status, is_terminal_as_it_was: terminal == "same", shown: shown.to_owned() }
}

const STAGES: &str = "
rows:
  read: in.csv
worked:
  from: rows
  python: work:work
sink:
  from: worked
  write: out.csv
";

fn scene(module: &str) -> Scene {
    let scene = Scene::new(STAGES, module);
    scene.write("in.csv", &numbers([1, 2, 3]));
    scene
}

#[test]
fn a_breakpoint_can_be_talked_to() {
    let module = "def work(row: dict) -> dict:\n    if row['n'] == 2:\n        breakpoint()\n    return row\n";
    for start in ["template", "exec"] {
        let scene = scene(module);
        let several = format!("python: {{ call: work:work, start: {start} }}\n    workers: {{ min: 2 }}\n");
        scene.write("pipeline.yaml", &scene.read("pipeline.yaml").replace("python: work:work\n", &several));
        let ran = session(&scene, &[], &[("(Pdb)", "p row\n"), ("{'n': 2}", "row['n'] = 7\n"), ("(Pdb)", "c\n")]);
        assert_eq!(ran.status, 0, "{}", ran.shown);
        assert_eq!(scene.read("out.csv"), numbers([1, 7, 3]));
        assert!(ran.is_terminal_as_it_was);
        scene.assert_clean();
    }
}

#[test]
fn code_can_ask_and_print_and_log() {
    let module = "
import millpond
def work(rows: list) -> list:
    millpond.log.info('logged')
    print('printed')
    return [{'n': int(input('which number? '))}]
";
    let scene = scene(module);
    let ran = session(&scene, &[], &[("logged", ""), ("printed", ""), ("which number? ", "12\n")]);
    assert_eq!(ran.status, 0, "{}", ran.shown);
    assert_eq!(scene.read("out.csv"), numbers([12]));
    // Nothing else is drawn there.
    assert!(!ran.shown.contains("done"), "{}", ran.shown);
    assert!(ran.shown.contains("INFO millpond: logged"), "{}", ran.shown);
    scene.assert_clean();
}

#[test]
fn an_exception_can_be_looked_at_and_ends_the_run() {
    let module = "
def work(rows: list) -> list:
    with open('calls', 'a') as calls:
        calls.write('called\\n')
    missing = 5
    for row in rows:
        row['n'] = row['n'] / (row['n'] - 2)
    return rows
";
    let scene = scene(module);
    // What would be tried again, and searched for the row to blame, is called once.
    let lenient = "    python: work:work\n    retry: { attempts: 3 }\n    on_error: skip\n    timeout: 1ms\n";
    scene.write("pipeline.yaml", &scene.read("pipeline.yaml").replace("    python: work:work\n", lenient));
    let script = [("ZeroDivisionError", ""), ("(Pdb)", "p 40 + missing\n"), ("45", "q\n")];
    let ran = session(&scene, &[], &script);
    assert_eq!(ran.status, 1, "{}", ran.shown);
    assert!(ran.shown.contains("stage `worked` failed"), "{}", ran.shown);
    assert_eq!(scene.read("calls"), "called\n");
    assert!(!scene.exists("out.csv"));
    scene.assert_clean();
}

#[test]
fn rows_that_code_rejects_are_no_failure() {
    let module = "
import millpond
def work(row: dict) -> dict:
    if row['n'] == 2:
        millpond.reject(row, 'two')
    return row
";
    let scene = scene(module);
    let lenient = "    python: work:work\n    on_error: skip\n";
    scene.write("pipeline.yaml", &scene.read("pipeline.yaml").replace("    python: work:work\n", lenient));
    let ran = session(&scene, &[], &[]);
    assert_eq!(ran.status, 0, "{}", ran.shown);
    assert_eq!(scene.read("out.csv"), numbers([1, 3]));
}

#[test]
fn an_interrupt_ends_the_run_at_a_prompt() {
    let scene = scene("def work(rows: list) -> list:\n    breakpoint()\n    return rows\n");
    let ran = session(&scene, &[], &[("(Pdb)", "\u{3}")]);
    assert_eq!(ran.status, 130, "{}", ran.shown);
    assert!(ran.is_terminal_as_it_was);
    scene.until_gone(Duration::from_secs(10));
    scene.assert_clean();
}

#[test]
fn tasks_have_the_terminal() {
    let stages = "ask:\n  command: { shell: 'read -p \"name? \" name; echo \"<$name>\"; echo \"$name\" > name' }\n";
    let scene = Scene::with_python("", stages, "");
    let ran = session(&scene, &[], &[("name? ", "Ada\n"), ("<Ada>", "")]);
    assert_eq!(ran.status, 0, "{}", ran.shown);
    assert_eq!(scene.read("name"), "Ada\n");
}

#[test]
fn what_commands_say_beside_rows_is_on_the_terminal() {
    let stages = "
rows:
  command: { shell: 'echo first >&2; seq 2', output: lines }
worked:
  from: rows
  command: { shell: 'echo second >&2; cat', input: lines, output: lines }
filtered:
  from: worked
  command: { mode: stream, shell: 'echo third >&2; cat', input: lines, output: lines }
last:
  from: filtered
  command: { shell: 'echo fourth; cat > out.txt', input: lines, output: none }
";
    let scene = Scene::with_python("", stages, "");
    let ran = session(&scene, &[], &[("first", ""), ("second", ""), ("third", ""), ("fourth", "")]);
    assert_eq!(ran.status, 0, "{}", ran.shown);
    assert_eq!(scene.read("out.txt"), "1\n2\n");
}

#[test]
fn what_does_not_go_together_is_refused() {
    let scene = Scene::with_python("", "rows:\n  read: in.csv\nsink:\n  from: rows\n  write: out.csv\n", "");
    scene.write("in.csv", &numbers([1]));
    let refused = |arguments: &[&str], words: &[&str]| {
        scene.run().args(&["--debug"]).args(arguments).ends_with(2).says(words);
    };
    refused(&["--workers", "2"], &["--debug", "one worker at a time"]);
    refused(&["--progress", "json"], &["--debug", "--progress json"]);
    refused(&["--watch"], &["--debug", "--watch"]);
    refused(&["--chaos", "1"], &["--debug", "--chaos"]);
    refused(&["--until", "rows"], &["--debug", "standard output"]);
    scene.run().args(&["--debug", "--workers", "1", "--progress", "none"]).ends_with(0);
    let pipeline = scene.read("pipeline.yaml");
    scene.write("pipeline.yaml", &pipeline.replace("write: out.csv", "write: { path: '-', format: csv }"));
    refused(&[], &["--debug", "the stage `sink` writes to standard output"]);
    scene.write("pipeline.yaml", &pipeline.replace("read: in.csv", "read: { path: '-', format: csv }"));
    refused(&[], &["--debug", "the stage `rows` reads standard input"]);
}

#[test]
fn without_it_a_breakpoint_says_how_to_have_one() {
    let scene = scene("def work(rows: list) -> list:\n    breakpoint()\n    return rows\n");
    scene.run().ends_with(1).says(&["a stage has no terminal", "millpond run --debug"]);
}
