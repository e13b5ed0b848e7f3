//! The documentation is true where a program can tell: its pipelines run, its links lead somewhere, and its page on events has all of
//! them.
//!
//! A block of YAML is a complete pipeline, which is run in a folder with the examples of this repository, unless
//! `<!-- fragment -->` stands in the line before it, or `<!-- wrong -->`: then it has the problem in whose section it stands, and no other.
//! Before a file with tests, which pass, stands `<!-- tests -->`; before a pipeline that needs what is not here, and is only validated, `<!-- validated -->`.
//!
//! A page that builds something up has blocks with other marks, which are done one after the other in one folder: `<!-- file: NAME -->`
//! is a file that is saved, `<!-- run -->` what is typed, or `<!-- run: 1 -->` what ends with that exit code, and each line of
//! `<!-- prints -->` is in what came of it.

#[allow(dead_code)]
mod program;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use program::{errors, files, repository, run};
use serde_json::Value;

const FRAGMENT: &str = "<!-- fragment -->";
const VALIDATED: &str = "<!-- validated -->";
const WRONG: &str = "<!-- wrong -->";
const FILE: &str = "<!-- file: ";
const RUN: &str = "<!-- run";
const PRINTS: &str = "<!-- prints -->";
const TESTS: &str = "<!-- tests -->";

/// README.md and the pages in docs.
fn pages() -> Vec<PathBuf> {
    let mut pages = book();
    pages.push(repository().join("README.md"));
    pages
}

/// The pages in docs.
fn book() -> Vec<PathBuf> {
    let mut pages = ["docs", "docs/how_to"].map(|folder| files(&repository().join(folder))).concat();
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A block of code on a page.
struct Block {
    page: PathBuf,
    /// Of its first line of text, 1-based.
    line: usize,
    language: String,
    /// What stands in the line before it.
    mark: String,
    /// What stands in the last heading before it.
    heading: String,
    text: String,
}

impl Block {
    fn place(&self) -> String {
        format!("{}:{}", self.page.display(), self.line)
    }
}

fn yaml_blocks(page: &Path) -> Vec<Block> {
    let mut blocks = blocks(page);
    blocks.retain(|block| block.language == "yaml");
    blocks
}

fn blocks(page: &Path) -> Vec<Block> {
    let text = read(page);
    let lines: Vec<&str> = text.lines().collect();
    let starts = (0..lines.len()).filter(|&at| lines[at].starts_with("```") && lines[at] != "```");
    let block = |at: usize| Block {
        page: page.to_owned(),
        line: at + 2,
        language: lines[at].trim_start_matches('`').to_owned(),
        mark: at.checked_sub(1).map_or_else(String::new, |before| lines[before].to_owned()),
        heading: lines[..at]
            .iter()
            .rfind(|line| line.starts_with('#'))
            .map_or_else(String::new, |line| (*line).to_owned()),
        text: lines[at + 1..].iter().take_while(|line| **line != "```").map(|line| format!("{line}\n")).collect(),
    };
    starts.map(block).collect()
}

/// A folder in which the paths of the documentation lead to the data of this repository.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    symlink(repository().join("examples"), folder.path().join("examples")).expect("a link");
    folder
}

#[test]
fn every_pipeline_runs() {
    let blocks: Vec<Block> = pages().iter().flat_map(|page| yaml_blocks(page)).collect();
    let is_whole = |mark: &str| ![FRAGMENT, WRONG, TESTS].contains(&mark) && !mark.starts_with(FILE);
    let pipelines: Vec<&Block> = blocks.iter().filter(|block| is_whole(&block.mark)).collect();
    assert!(pipelines.len() > 10, "only {} pipelines were found", pipelines.len());
    for pipeline in pipelines {
        assert!(pipeline.text.starts_with("version: 1\n"), "{}: is this a fragment?", pipeline.place());
        let folder = workplace();
        let file = folder.path().join("pipeline.yaml");
        fs::write(&file, &pipeline.text).expect("a file");
        let validated = Command::new(env!("CARGO_BIN_EXE_millpond")).arg("validate").arg(&file).output();
        let validated = validated.expect("the program starts");
        assert!(validated.status.success(), "{}\n{}", pipeline.place(), errors(&validated));
        assert_eq!(errors(&validated), "", "{}", pipeline.place());
        println!("{}", pipeline.place());
        if pipeline.mark == VALIDATED {
            continue;
        }
        // One core would be one worker, and some wait for each other.
        run(&file, &folder.path().join("state"), &["--workers", "2"]);
        let mut published = folder.path().join("out").read_dir().expect("a folder");
        assert!(published.next().is_some(), "{}: nothing was published", pipeline.place());
    }
}

#[test]
fn what_is_built_up_step_by_step_works() {
    let mut steps = 0;
    for page in book() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut printed = String::new();
        for block in blocks(&page) {
            let place = block.place();
            if let Some(name) = block.mark.strip_prefix(FILE) {
                fs::write(folder.path().join(name.trim_end_matches(" -->")), &block.text).expect("a file");
            } else if let Some(code) = block.mark.strip_prefix(RUN) {
                let code = code.trim_matches([' ', ':', '-', '>']);
                let code = if code.is_empty() { 0 } else { code.parse().expect("an exit code") };
                let done = typed(folder.path(), &block.text);
                printed = format!("{}{}", String::from_utf8_lossy(&done.stdout), errors(&done));
                assert_eq!(done.status.code(), Some(code), "{place}\n{printed}");
                steps += 1;
            } else if block.mark == PRINTS {
                for line in block.text.lines() {
                    assert!(printed.contains(line), "{place}: `{line}` is not in\n{printed}");
                }
            }
        }
    }
    assert!(steps > 5, "only {steps} steps were found");
}

/// What comes of a script in a folder, with the program on the `PATH`.
fn typed(folder: &Path, script: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_millpond")).parent().expect("a folder").to_owned();
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths([program].into_iter().chain(std::env::split_paths(&inherited))).expect("a path");
    let mut bash = Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", script]).current_dir(folder).env("PATH", path);
    bash.output().expect("bash starts")
}

#[test]
fn every_test_passes() {
    let blocks: Vec<Block> = pages().iter().flat_map(|page| yaml_blocks(page)).collect();
    let blocks: Vec<&Block> = blocks.iter().filter(|block| block.mark == TESTS).collect();
    assert!(blocks.len() > 1, "only {} were found", blocks.len());
    for block in blocks {
        let folder = workplace();
        let file = folder.path().join("pipeline.test.yaml");
        fs::write(&file, &block.text).expect("a file");
        let tested = Command::new(env!("CARGO_BIN_EXE_millpond")).arg("test").arg(&file).output();
        let tested = tested.expect("the program starts");
        let said = String::from_utf8_lossy(&tested.stdout);
        assert!(tested.status.success(), "{}\n{said}{}", block.place(), errors(&tested));
    }
}

#[test]
fn every_wrong_pipeline_has_the_problem_that_it_stands_for() {
    let page = repository().join("docs/errors.md");
    let blocks: Vec<Block> = yaml_blocks(&page).into_iter().filter(|block| block.mark == WRONG).collect();
    assert!(blocks.len() > 40, "only {} were found", blocks.len());
    for block in blocks {
        let folder = workplace();
        let is_test = block.heading.contains("`test::");
        let file = folder.path().join(if is_test { "pipeline.test.yaml" } else { "pipeline.yaml" });
        fs::write(&file, &block.text).expect("a file");
        let validated =
            Command::new(env!("CARGO_BIN_EXE_millpond")).args(["validate", "--format", "json"]).arg(&file).output();
        let validated = validated.expect("the program starts");
        let problems: Vec<Value> = serde_json::from_slice(&validated.stdout).expect("a list");
        let codes: Vec<String> =
            problems.iter().map(|problem| format!("### `{}`", problem["code"].as_str().expect("a code"))).collect();
        assert_eq!(codes, std::slice::from_ref(&block.heading), "{}: {problems:#?}", block.place());
    }
}

#[test]
fn the_scripts_for_measuring_work() {
    let growth = ["growth.py", "--largest", "10", "files", "native-run", "pairs-run", "commands-plan", "commands-run"];
    for (arguments, lines) in [(growth.as_slice(), 5), (&["latency.py", "run"], 1), (&["sharing.py", "lock"], 1)] {
        let mut script = Command::new("python3");
        script.arg(repository().join("benches").join(arguments[0])).args(&arguments[1..]);
        script.args(["--rounds", "1", "--millpond", env!("CARGO_BIN_EXE_millpond")]);
        // It would write its bytecode beside the sources.
        let measured = script.env("PYTHONDONTWRITEBYTECODE", "1").output().expect("python3 starts");
        assert!(measured.status.success(), "{}", errors(&measured));
        let table = String::from_utf8_lossy(&measured.stdout);
        let figures = table.lines().filter(|line| line.starts_with('|')).skip(2);
        assert_eq!(figures.count(), lines, "{table}");
    }
}

#[test]
fn links_lead_somewhere() {
    let mut pages = pages();
    pages.extend(
        ["CHANGELOG.md", "examples/README.md", "pipelines/flights/data/README.md"].map(|page| repository().join(page)),
    );
    let mut faults = Vec::new();
    for page in pages {
        for target in links(&read(&page)) {
            let (path, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let target_page = if path.is_empty() { page.clone() } else { page.parent().expect("a folder").join(path) };
            if !target_page.exists() {
                faults.push(format!("{}: {target} is not there", page.display()));
            } else if !anchor.is_empty() && !anchors(&read(&target_page)).contains(anchor) {
                faults.push(format!("{}: {target} has no such heading", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Targets inside this repository.
fn links(text: &str) -> Vec<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).filter(|target| !target.contains("://")).collect()
}

/// The anchors that a page has itself, and those of its headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let own = text.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let headings = text.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let letter = |letter: char| match letter {
        ' ' => Some('-'),
        letter if letter.is_alphanumeric() || letter == '-' || letter == '_' => Some(letter.to_ascii_lowercase()),
        _ => None,
    };
    let of_headings = headings.map(|heading| heading.chars().filter_map(letter).collect());
    own.map(str::to_owned).chain(of_headings).collect()
}

/// The list at the top of `docs/errors.md` has every code, in the order of the page.
#[test]
fn every_code_is_in_the_list() {
    let page = read(&repository().join("docs/errors.md"));
    let (top, sections) = page.split_once("\n## ").expect("a section of the page");
    let listed: Vec<&str> = top.split("[`").skip(1).filter_map(|rest| Some(rest.split_once("`](#")?.0)).collect();
    let headings = sections.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`'));
    assert_eq!(listed, headings.collect::<Vec<_>>());
}

/// `docs/SUMMARY.md`, from which a book is made, names every page once, and no other.
#[test]
fn the_book_has_every_page() {
    let summary = repository().join("docs/SUMMARY.md");
    let named: Vec<PathBuf> = links(&read(&summary)).iter().map(|link| repository().join("docs").join(link)).collect();
    let mut pages = book();
    pages.retain(|page| *page != summary);
    let set = |pages: &[PathBuf]| pages.iter().cloned().collect::<BTreeSet<_>>();
    assert_eq!(set(&named), set(&pages));
    assert_eq!(named.len(), pages.len(), "a page is named twice");
}

/// The names of the headings of the third level: the events.
fn described_events(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|line| line.strip_prefix("### `")?.strip_suffix('`')).collect()
}

#[test]
fn every_kind_of_event_is_described() {
    let source = read(&repository().join("src/run/event.rs"));
    let (_, variants) = source.split_once("pub enum RunEvent {\n").expect("the enum of events");
    let (variants, _) = variants.split_once("\n}\n").expect("its end");
    let names = variants
        .lines()
        .filter_map(|line| line.strip_prefix("    ").filter(|rest| rest.starts_with(char::is_uppercase)));
    let names: BTreeSet<String> =
        names.map(|name| snake(name.split(|letter: char| !letter.is_alphanumeric()).next().expect("a name"))).collect();
    let page = read(&repository().join("docs/events.md"));
    assert_eq!(described_events(&page), names.iter().map(String::as_str).collect());
}

fn snake(name: &str) -> String {
    let words = name.chars().enumerate().flat_map(|(at, letter)| {
        let gap = (at > 0 && letter.is_uppercase()).then_some('_');
        gap.into_iter().chain(letter.to_lowercase())
    });
    words.collect()
}

/// Prints, fails for rows, and kills its worker once.
const TROUBLE: &str = "
import os, signal
from pathlib import Path

def trouble(row: dict):
    print('row', row['n'])
    if row['n'] == 3 and not Path('died').exists():
        Path('died').touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if row['n'] == 5:
        raise ValueError('five')
    return row
";

const TROUBLED: &str = "
version: 1
name: troubled
stages:
  numbers: { sql: 'SELECT value AS n FROM generate_series(1, 8) ORDER BY n' }
  trouble: { from: numbers, python: 'functions:trouble', on_error: reject }
  publish: { from: trouble, write: out/good.csv }
  rejects: { from: trouble.rejected, write: out/bad.jsonl }
";

#[test]
fn what_a_run_writes_is_described() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("functions.py"), TROUBLE).expect("a file");
    let file = folder.path().join("pipeline.yaml");
    fs::write(&file, TROUBLED).expect("a file");
    let state = folder.path().join("state");
    run(&file, &state, &[]);
    let run_folder = state.join("runs").read_dir().expect("runs").next().expect("a run").expect("an entry").path();
    let page = read(&repository().join("docs/events.md"));
    let described = described_events(&page);

    let mut seen = BTreeSet::new();
    for line in read(&run_folder.join("events.jsonl")).lines() {
        let event: Value = serde_json::from_str(line).expect("an object per line");
        let name = event["event"].as_str().expect("a name").to_owned();
        assert!(described.contains(name.as_str()), "{name} is not described");
        keys_are_on(&page, &event);
        seen.insert(name);
    }
    for name in ["started", "worker_started", "worker_exited", "attempt_failed", "rejected", "stage_ended", "line"] {
        assert!(seen.contains(name), "the run had no event {name}, only {seen:?}");
    }
    let summary: Value = serde_json::from_str(&read(&run_folder.join("summary.json"))).expect("an object");
    keys_are_on(&page, &summary);
    let rejected: Value = serde_json::from_str(&read(&folder.path().join("out/bad.jsonl"))).expect("one row");
    let reference = read(&repository().join("docs/pipeline.md"));
    let extra = rejected.as_object().expect("an object").keys().filter(|key| key.starts_with('_'));
    extra.for_each(|key| assert!(reference.contains(&format!("| `{key}` |")), "docs/pipeline.md lacks {key}"));
}

fn keys_are_on(page: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                assert!(page.contains(&format!("| `{key}` |")), "docs/events.md lacks the field {key}");
                keys_are_on(page, value);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys_are_on(page, value)),
        _ => {}
    }
}

/// A default that `docs/pipeline.md` has as a value is the schema's, so that editors show it.
#[test]
fn defaults_in_the_tables_are_those_of_the_schema() {
    let schema = millpond::spec::schema::schema();
    let sections = [
        ("## Params", "ParamSpec"),
        ("## Python environment", "PythonEnvironmentSpec"),
        ("## Keys of every stage", "StageSpec"),
        ("## read", "ReadOptions"),
        ("## write", "WriteOptions"),
        ("## python", "PythonOptions"),
    ];
    let page = std::fs::read_to_string("docs/pipeline.md").expect("a page of the documentation");
    let mut compared = 0;
    for (title, definition) in sections {
        let section = page.split(&format!("\n{title}\n")).nth(1).expect("a section of the page");
        let section = section.split("\n## ").next().unwrap_or_default();
        for row in section.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
            let [key, _, default, _, ..] = cells.as_slice() else { continue };
            let (value, rest) = match default.strip_prefix('`').and_then(|rest| rest.split_once('`')) {
                Some((value, rest)) => (value, rest),
                None if default.parse::<u32>().is_ok() => (*default, ""),
                None => continue,
            };
            if !(rest.is_empty() || rest.starts_with(" (") || rest.starts_with(" from")) {
                continue;
            }
            let pointer = format!("/$defs/{definition}/properties/{}/default", key.trim_matches('`'));
            let known = schema.pointer(&pointer).map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned));
            assert_eq!(known.as_deref(), Some(value), "{title}: {key}");
            compared += 1;
        }
    }
    assert!(compared >= 8, "only {compared} defaults were found");
}
