//! `millpond init`: a pipeline to begin with.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::args::InitArgs;
use super::exit_code::Exit;
use super::output;
use crate::diagnostic::did_you_mean;
use crate::report::table;

/// A pipeline of the examples, with what it needs.
struct Template {
    name: &'static str,
    about: &'static str,
    files: &'static [(&'static str, &'static [u8])],
}

/// The files of an example, as they are in this repository.
macro_rules! files {
    ($example:literal: $($path:literal),+) => {
        &[$(($path, include_bytes!(concat!("../../examples/", $example, "/", $path)) as &[u8])),+]
    };
}

const TEMPLATES: &[Template] = &[
    Template {
        name: "hello",
        about: "a file in, SQL with a param, a file out",
        files: files!("hello": "pipeline.yaml", "pipeline.test.yaml", "data/people.csv"),
    },
    Template {
        name: "words",
        about: "text lines, a Python function that makes many rows out of one, an aggregate",
        files: files!("words": "pipeline.yaml", "pipeline.test.yaml", "words.py", "data/tale.txt"),
    },
    Template {
        name: "reviews",
        about: "a Python class that loads something once, rejected rows",
        files: files!("reviews": "pipeline.yaml", "pipeline.test.yaml", "sentiment.py", "data/lexicon.json", "data/reviews-1.jsonl", "data/reviews-2.jsonl"),
    },
    Template {
        name: "access_log",
        about: "shell tools in the middle of a pipeline, a command as a source, a join",
        files: files!("access_log": "pipeline.yaml", "pipeline.test.yaml", "data/access.log"),
    },
    Template {
        name: "orders",
        about: "several sources and formats, union and join",
        files: files!("orders": "pipeline.yaml", "pipeline.test.yaml", "data/customers.tsv", "data/orders-eu.csv", "data/orders-us.jsonl"),
    },
    Template {
        name: "sessions",
        about: "state per key, a class that gives rows at the end",
        files: files!("sessions": "pipeline.yaml", "pipeline.test.yaml", "numbering.py", "sessions.py", "data/events.csv"),
    },
];

/// What runs leave behind is not kept.
const IGNORED: &str = "/out/\n.millpond/\n__pycache__/\n";

/// A workflow of GitHub. Where the action lies, only the user knows.
const WORKFLOW: &str = "\
# Checks the pipeline, runs its tests and then the pipeline, at every push. OWNER is the account that has the repository of millpond.
name: pipeline
on: [push]
jobs:
  pipeline:
    runs-on: ubuntu-latest
    steps:
      - uses: actions/checkout@v4
      - uses: OWNER/millpond@main
        with:
          validate: pipeline.yaml pipeline.test.yaml
          test: pipeline.yaml
          run: pipeline.yaml
";

pub fn init(args: &InitArgs) -> Exit {
    let Some(name) = &args.template else { return output::print(&list()) };
    let Some(template) = TEMPLATES.iter().find(|template| template.name == name) else {
        let help = did_you_mean(name, TEMPLATES.iter().map(|template| template.name));
        let help = help.map(|help| format!(" ({help})")).unwrap_or_default();
        output::complain(&format!("there is no template `{name}`{help}"));
        return Exit::Usage;
    };
    let folder = args.folder.clone().unwrap_or_else(|| PathBuf::from(name));
    let own = [(".gitignore", IGNORED.as_bytes()), (".github/workflows/pipeline.yaml", WORKFLOW.as_bytes())];
    let files: Vec<(&str, &[u8])> = template.files.iter().copied().chain(own).collect();
    if let Some((taken, _)) = files.iter().find(|(path, _)| folder.join(path).symlink_metadata().is_ok()) {
        let taken = folder.join(taken);
        output::complain(&format!("`{}` is there already; nothing was written (name another folder)", taken.display()));
        return Exit::Usage;
    }
    for (path, content) in &files {
        let path = folder.join(path);
        if let Err(error) = write_new(&path, content) {
            return output::failed(&format!("cannot write `{}`: {error}", path.display()));
        }
    }
    let names: String = files.iter().map(|(path, _)| format!("  {path}\n")).collect();
    let pipeline = folder.join("pipeline.yaml");
    output::print(&format!("{}:\n{names}\nnow: millpond run {}\n", folder.display(), pipeline.display()))
}

fn list() -> String {
    let rows: Vec<_> = TEMPLATES.iter().map(|template| [template.name, template.about].map(str::to_owned)).collect();
    table(&rows, |_| false)
}

/// Never replaces a file, not even one that has come just now.
fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    io::Write::write_all(&mut fs::File::create_new(path)?, content)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_template_has_all_files_of_its_example() {
        for template in TEMPLATES {
            let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(template.name);
            let mut there = BTreeSet::new();
            for folder in [&example, &example.join("data")] {
                let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
                let files = entries.filter(|path| path.is_file());
                there.extend(files.map(|path| path.strip_prefix(&example).expect("in it").display().to_string()));
            }
            let listed: BTreeSet<String> = template.files.iter().map(|(path, _)| (*path).to_owned()).collect();
            assert_eq!(listed, there, "{}", template.name);
        }
    }
}
