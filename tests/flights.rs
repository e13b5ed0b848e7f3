//! The pipeline of the README on its real data: the same bytes for every number of workers, and the answer that
//! `pipelines/flights/expected.py` computes without millpond.

#[allow(dead_code)]
mod program;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use program::{errors, files, repository, run};

const PIPELINE: &str = "pipelines/flights/flights.yaml";

#[test]
fn flights_are_right_and_the_same_for_every_number_of_workers() {
    let scratch = tempfile::tempdir().expect("a temporary folder");
    let outputs = ["1", "2", "4"].map(|workers| {
        let out = scratch.path().join(workers);
        let set = format!("out={}", out.display());
        let state = scratch.path().join("state");
        run(&repository().join(PIPELINE), &state, &["--workers", workers, "--set", &set]);
        out
    });
    let [first, others @ ..] = &outputs;
    let wanted = published(first);
    assert_eq!(wanted.keys().collect::<Vec<_>>(), ["rejected.jsonl", "routes.csv", "trips.parquet"]);
    for other in others {
        for (name, bytes) in published(other) {
            assert!(wanted[&name] == bytes, "{name} differs between {} and {}", first.display(), other.display());
        }
    }
    agrees_with_the_other_program(first);
}

fn published(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let name = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
    files(folder).iter().map(|path| (name(path), fs::read(path).expect("a readable file"))).collect()
}

fn agrees_with_the_other_program(out: &Path) {
    let built = Command::new(env!("CARGO_BIN_EXE_millpond"))
        .args(["env", "build"])
        .arg(repository().join(PIPELINE))
        .output()
        .expect("the program starts");
    assert!(built.status.success(), "{}", errors(&built));
    let told = String::from_utf8(built.stdout).expect("a path that is text");
    let python = told.trim().strip_prefix("ready: ").expect("the environment was used just now");
    let script = repository().join("pipelines/flights/expected.py");
    let output = Command::new(python).arg("-B").arg(script).arg(out).output().expect("python starts");
    let differences = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{differences}{}", errors(&output));
    assert!(differences.starts_with("equal: "), "{differences}");
}
