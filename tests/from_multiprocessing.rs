//! What docs/from_multiprocessing.md shows side by side is the same: its Python stands in the files that it names, word for word, and the
//! programs of the standard library give the rows that the pipelines below them give.
//!
//! That the pipelines are valid and run is the matter of tests/documentation.rs. Python after `<!-- fragment -->` is not looked at.

#[allow(dead_code)]
mod program;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use program::{errors, files, repository, run};
use serde_json::Value;

const PAGE: &str = "docs/from_multiprocessing.md";
const EXAMPLE: &str = "examples/from_multiprocessing";
const FRAGMENT: &str = "<!-- fragment -->";
/// What stands in a program, and not in a module.
const MAIN: &str = "if __name__ == \"__main__\":";

/// What stands below one heading.
#[derive(Default)]
struct Section {
    heading: String,
    quotes: Vec<Quote>,
    pipelines: Vec<String>,
}

/// A block of Python, and the file that was named last before it.
struct Quote {
    file: String,
    text: String,
}

impl Section {
    /// Files with the programs that it shows.
    fn programs(&self) -> impl Iterator<Item = &str> {
        self.quotes.iter().filter(|quote| quote.text.contains(MAIN)).map(|quote| quote.file.as_str())
    }
}

fn sections() -> Vec<Section> {
    let page = read(&repository().join(PAGE));
    let mut lines = page.lines();
    let mut sections = vec![Section::default()];
    let (mut file, mut before) = (String::new(), "");
    while let Some(line) = lines.next() {
        let section = sections.last_mut().expect("there is one from the beginning");
        if line.starts_with("```") {
            let text: String =
                lines.by_ref().take_while(|line| *line != "```").map(|line| format!("{line}\n")).collect();
            match line {
                "```python" if before != FRAGMENT => section.quotes.push(Quote { file: file.clone(), text }),
                "```yaml" if before != FRAGMENT => section.pipelines.push(text),
                _ => {}
            }
        } else if line.starts_with('#') {
            sections.push(Section { heading: line.to_owned(), ..Section::default() });
        } else if let Some(named) = module(line) {
            named.clone_into(&mut file);
        }
        before = line;
    }
    sections
}

/// The first Python file of the example that a line links to.
fn module(line: &str) -> Option<&str> {
    let targets = line.split("](../").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target).find(|target| target.starts_with(EXAMPLE) && target.ends_with(".py"))
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn python_on_the_page_is_quoted() {
    let sections = sections();
    let quotes: Vec<&Quote> = sections.iter().flat_map(|section| &section.quotes).collect();
    assert!(quotes.len() > 10, "only {} were found", quotes.len());
    for quote in quotes {
        let is_quoted = read(&repository().join(&quote.file)).contains(&quote.text);
        assert!(is_quoted, "{} does not have this:\n{}", quote.file, quote.text);
    }
}

#[test]
fn every_program_is_on_the_page() {
    let shown: BTreeSet<String> =
        sections().iter().flat_map(|section| section.programs().map(str::to_owned).collect::<Vec<_>>()).collect();
    let in_folder = files(&repository().join(EXAMPLE))
        .into_iter()
        .filter(|file| file.extension().is_some_and(|extension| extension == "py") && read(file).contains(MAIN));
    let name = |file: PathBuf| file.file_name().expect("a name").to_string_lossy().into_owned();
    assert_eq!(shown, in_folder.map(|file| format!("{EXAMPLE}/{}", name(file))).collect());
}

#[test]
fn programs_and_pipelines_give_the_same_rows() {
    for section in sections() {
        for program in section.programs() {
            let wanted = published(|folder| run_program(folder, program));
            assert!(!wanted.is_empty(), "{program} writes nothing");
            assert!(!section.pipelines.is_empty(), "{}: no pipeline stands beside {program}", section.heading);
            for pipeline in &section.pipelines {
                let given = published(|folder| run_pipeline(folder, pipeline));
                assert_eq!(given, wanted, "{}: {program}, and\n{pipeline}", section.heading);
            }
        }
    }
}

fn run_program(folder: &Path, program: &str) {
    let mut python = Command::new("python3");
    // It would write its bytecode beside the sources.
    python.arg(program).current_dir(folder).env("PYTHONDONTWRITEBYTECODE", "1");
    let output = python.output().expect("python3 starts");
    assert!(output.status.success(), "{program}: {}", errors(&output));
}

fn run_pipeline(folder: &Path, text: &str) {
    let file = folder.join("pipeline.yaml");
    fs::write(&file, text).expect("a file");
    // One core would be one worker, and some wait for each other.
    run(&file, &folder.join("state"), &["--workers", "2"]);
}

/// Names and rows of the files in `out` after `work` was done in a folder with the examples.
fn published(work: impl FnOnce(&Path)) -> Vec<(String, Vec<Value>)> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    symlink(repository().join("examples"), folder.path().join("examples")).expect("a link");
    work(folder.path());
    let rows = |file: &Path| -> Vec<Value> {
        read(file).lines().map(|line| serde_json::from_str(line).expect("an object per line")).collect()
    };
    let name = |file: &Path| file.file_name().expect("a name").to_string_lossy().into_owned();
    files(&folder.path().join("out")).iter().map(|file| (name(file), rows(file))).collect()
}
