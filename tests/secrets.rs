//! A secret is where it is needed, and nowhere else.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::{Scene, numbers, python};

/// With signs that JSON, Python and shells write in other ways.
const SECRET: &str = "s3nt\"inel\\-of-this-test";
/// Text that is in every form of it.
const SENTINEL: &str = "inel";

const MODULE: &str = "
import logging, os, sys, warnings

class Client:
    def __init__(self, token):
        self.token = token

    def __call__(self, row: dict):
        print('print', self.token, os.environ['TOKEN'])
        sys.stderr.write('begun ' + self.token[:9])
        sys.stderr.flush()
        sys.stderr.write(self.token[9:] + '\\n')
        os.write(1, b'raw ' + self.token.encode() + b'\\n')
        logging.warning('logged %s', self.token)
        warnings.warn('warned ' + self.token)
        print('x' * 4090 + self.token)
        if row['n'] % 2:
            raise ValueError(f'the service refused {self.token}', {'token': self.token})
        return {'n': row['n'], 'length': len(self.token)}
";

const STAGES: &str = "
numbers: { read: numbers.csv }
called:
  from: numbers
  python: { call: 'work:Client', as: row, with: { token: '${{ secrets.TOKEN }}' } }
  on_error: reject
  checkpoint: true
told:
  after: called
  command: [sh, -c, 'echo \"$0\"; echo \"$0\" >&2', '${{ secrets.TOKEN }}']
header: { after: told, command: [sh, -c, 'echo \"$0\"; echo \"$0\" >&2; exit ${{ params.code }}', 'Bearer ${{ secrets.TOKEN | upper }}'] }
publish: { from: called, write: out.csv }
";

fn scene() -> Scene {
    let scene = Scene::with_python(
        &format!(
            "params: {{ code: {{ type: integer, default: 0 }} }}\ndefaults: {{ env: {{ TOKEN: '${{{{ secrets.TOKEN }}}}' }} }}\n{}",
            python(&[])
        ),
        STAGES,
        MODULE,
    );
    scene.write("numbers.csv", &numbers(1..=4));
    scene
}

/// All files below a folder but those that were there before the run.
fn left_behind(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { left_behind(&path) } else { vec![path] }).collect()
}

#[test]
fn nothing_that_is_printed_or_recorded_has_a_secret() {
    for (arguments, code) in [(vec![], 0), (vec!["--set", "code=3"], 1), (vec!["--progress", "json"], 0)] {
        let scene = scene();
        let page = scene.write("page.md", "");
        let run = scene.run().env("TOKEN", SECRET).env("GITHUB_STEP_SUMMARY", &page.to_string_lossy());
        let ran = run.args(&arguments).args(&["--summary", "summary.json"]).inside(&scene.path("")).ends_with(code);
        // It has come to where it is needed.
        assert_eq!(scene.exists("out.csv"), code == 0);
        if code == 0 {
            assert_eq!(scene.read("out.csv"), format!("n,length\n2,{0}\n4,{0}\n", SECRET.len()));
        }
        let events = scene.events();
        for expected in [
            "print *** ***",
            "begun ***",
            "raw ***",
            "logged ***",
            "warned ***",
            "the service refused ***",
            "Bearer ***",
        ] {
            assert!(events.contains(expected), "{expected} is missing: {events}");
        }
        for (name, text) in [("stdout", &ran.stdout), ("stderr", &ran.stderr)] {
            assert!(!text.to_lowercase().contains(SENTINEL), "{name}: {text}");
        }
        assert!(ran.stderr.contains("***"), "{}", ran.stderr);
        let files = left_behind(&scene.path(""));
        assert!(files.iter().any(|file| file.ends_with("rejected/called.jsonl")), "{files:?}");
        for file in files {
            let text = String::from_utf8_lossy(&fs::read(&file).expect("a file")).to_lowercase();
            assert!(!text.contains(SENTINEL), "{}: {text}", file.display());
        }
    }
}

#[test]
fn plans_tell_no_secret_and_checks_need_none() {
    let scene = scene();
    let millpond = |command: &str, args: &[&str], secret: Option<&str>| {
        let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
        program.arg(command).arg(scene.path("pipeline.yaml")).args(args).env_remove("TOKEN");
        let ended = program.envs(secret.map(|secret| ("TOKEN", secret))).output().expect("the program starts");
        (ended.status.code(), String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned())
    };
    assert_eq!(millpond("validate", &[], None).0, Some(0));
    let (code, plan) = millpond("plan", &[], Some(SECRET));
    assert!(code == Some(0) && plan.contains("command sh -c") && plan.contains("***"), "{plan}");
    assert!(!plan.to_lowercase().contains(SENTINEL), "{plan}");
    assert!(!millpond("graph", &["--format", "svg"], Some(SECRET)).1.to_lowercase().contains(SENTINEL));
    let (code, refused) = millpond("plan", &[], None);
    assert_eq!(code, Some(3));
    assert!(refused.contains("the secret `TOKEN` is not given") && refused.contains("--secrets-file"), "{refused}");

    let file = scene.write("secrets", &format!("# of this test\n\nTOKEN={SECRET}\n"));
    assert_eq!(millpond("plan", &["--secrets-file", &file.to_string_lossy()], None), (Some(0), plan));
    scene.write("secrets", &format!("export TOKEN = '{SECRET}'\n"));
    assert_eq!(millpond("plan", &["--secrets-file", &file.to_string_lossy()], None).0, Some(0));
    scene.write("secrets", "TOKN=hunter2000\n");
    let (code, refused) = millpond("plan", &["--secrets-file", &file.to_string_lossy()], None);
    assert!(code == Some(3) && refused.contains("the file of `--secrets-file` has `TOKN`"), "{refused}");
    assert!(millpond("plan", &[], Some("")).1.contains("the secret `TOKEN` is empty"));
    scene.write("secrets", SECRET);
    let (code, refused) = millpond("plan", &["--secrets-file", &file.to_string_lossy()], None);
    assert!(
        code == Some(2) && refused.contains("line 1: a secret is a line NAME=value, ") && !refused.contains(SENTINEL),
        "{refused}"
    );
    let (code, told) = millpond("plan", &[], Some("abc"));
    assert!(code == Some(0) && told.contains("the secret `TOKEN` is too short to be hidden"), "{told}");
}

#[test]
fn where_a_secret_would_be_written_down_it_cannot_be_used() {
    let text = "version: 1
params: { token: { type: string, default: '${{ secrets.TOKEN }}' } }
python: { requirements: ['x @ https://${{ secrets.TOKEN }}@example.com/x.zip'] }
stages:
  a: { python: 'm:f', env: { A: '${{ secrets }}' } }
";
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("p.yaml"), text).expect("a file");
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_millpond"));
    let ended = program.arg("validate").arg(folder.path().join("p.yaml")).output().expect("the program starts");
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    for expected in [
        "a default cannot use secrets",
        "a secret cannot stand here, as what stands here is written down",
        "write `secrets.NAME`",
    ] {
        assert!(said.contains(expected), "{said}");
    }
}
