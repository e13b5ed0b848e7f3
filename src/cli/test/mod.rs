//! `millpond test`: unit tests of pipelines.

mod attempt;
mod find;
mod load;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::args::TestArgs;
use super::exit_code::Exit;
use super::output;
use crate::diagnostic::SourceText;
use crate::report::{counted, duration};
use crate::run::Signals;
use crate::secrets::masked;
use crate::spec::Test;
use crate::testing::{Case, Coverage, Edits, Paint, Suite, Verdict, junit};
use attempt::{Attempt, Found};
pub use load::{Loaded, problems};

pub fn test(args: &TestArgs) -> Exit {
    match tests(args) {
        Ok(exit) | Err(exit) => exit,
    }
}

fn tests(args: &TestArgs) -> Result<Exit, Exit> {
    let files = find::files(&args.files)?;
    // What is wrong with any file is said before anything is run.
    let loaded: Vec<Result<Loaded, Exit>> = files.iter().map(|file| Loaded::new(file)).collect();
    if let Some(exit) = loaded.iter().find_map(|loaded| loaded.as_ref().err()) {
        return Err(*exit);
    }
    let loaded: Vec<Loaded> = loaded.into_iter().filter_map(Result::ok).collect();
    let is_chosen = |test: &&Test| args.filter.as_ref().is_none_or(|part| test.name.contains(part.as_str()));
    if !loaded.iter().any(|loaded| loaded.file.tests.iter().any(|test| is_chosen(&test))) {
        let filter = args.filter.as_deref().unwrap_or_default();
        output::complain(&format!("no test has `{filter}` in its name"));
        return Err(Exit::Usage);
    }
    let signals = Signals::watch(None).map_err(|error| {
        output::complain(&format!("signals cannot be watched: {error}"));
        Exit::Internal
    })?;
    // Before anything else uses them.
    let began = Instant::now();
    let mut told = Told { paint: output::paint(), suites: Vec::new(), updated: 0, is_invalid: false };
    'files: for loaded in &loaded {
        let tests: Vec<&Test> = loaded.file.tests.iter().filter(is_chosen).collect();
        if tests.is_empty() {
            continue;
        }
        told.begin(loaded);
        let mut coverage = Coverage::default();
        let mut edits = Edits::default();
        for test in tests {
            let attempt = Attempt { loaded, test, workers: &args.workers, update: args.update, signals: &signals };
            let found = attempt.make(&mut coverage, &mut edits)?;
            let has_failed = !found.faults.is_empty();
            told.case(test, &found);
            if has_failed && args.fail_fast {
                write_edits(loaded.file.source.path(), &loaded.file.source, edits)?;
                break 'files;
            }
        }
        write_edits(loaded.file.source.path(), &loaded.file.source, edits)?;
        if args.filter.is_none() {
            output::print(&coverage.text(&loaded.testable, loaded.pipeline.name()));
        }
    }
    if let Some(path) = &args.junit {
        write(path, &masked(&junit(&told.suites)))?;
    }
    Ok(told.end(began.elapsed()))
}

fn write_edits(path: &Path, source: &SourceText, edits: Edits) -> Result<(), Exit> {
    if edits.is_empty() {
        return Ok(());
    }
    write(path, &edits.apply(source))
}

fn write(path: &Path, text: &str) -> Result<(), Exit> {
    std::fs::write(path, text).map_err(|error| output::failed(&format!("cannot write `{}`: {error}", path.display())))
}

/// What has been printed.
struct Told {
    paint: Paint,
    suites: Vec<Suite>,
    updated: usize,
    /// Whether a test was wrong.
    is_invalid: bool,
}

impl Told {
    fn begin(&mut self, loaded: &Loaded) {
        let name = loaded.file.source.name().to_owned();
        output::print(&format!("{name}\n"));
        self.suites.push(Suite { name, cases: Vec::new() });
    }

    fn case(&mut self, test: &Test, found: &Found) {
        let took = format!("{:.2} s", found.time.as_secs_f64());
        let (word, color) = match (found.faults.is_empty(), found.updated.is_empty()) {
            (true, true) => ("ok", "32"),
            (true, false) => ("updated", "33"),
            (false, _) => ("FAILED", "31"),
        };
        let word = match self.paint {
            Paint::Plain => word.to_owned(),
            Paint::Colored => format!("\u{1b}[{color}m{word}\u{1b}[0m"),
        };
        let mut text = format!("  {word}  {} ({took})\n", test.name);
        for line in &found.updated {
            text += &format!("      {line}\n");
        }
        self.is_invalid |= found.is_invalid;
        self.updated += usize::from(!found.updated.is_empty());
        text += &indented(&found.text(self.paint));
        output::print(&text);
        let verdict = if found.faults.is_empty() { Verdict::Passed } else { Verdict::Failed(found.text(Paint::Plain)) };
        if let Some(suite) = self.suites.last_mut() {
            suite.cases.push(Case { name: test.name.clone(), time: found.time, verdict });
        }
    }

    fn end(self, took: Duration) -> Exit {
        let cases: Vec<&Case> = self.suites.iter().flat_map(|suite| &suite.cases).collect();
        let failed = cases.iter().filter(|case| case.verdict != Verdict::Passed).count();
        let updated = if self.updated > 0 { format!(", {} updated", self.updated) } else { String::new() };
        let total = counted(cases.len() as u64, "test");
        let verdict = if failed == 0 { "passed".to_owned() } else { format!("{failed} failed") };
        let printed = output::print(&format!("{total}: {verdict}{updated} ({})\n", duration(took)));
        match failed {
            _ if self.is_invalid => Exit::InvalidPipeline,
            0 => printed,
            _ => Exit::StageFailed,
        }
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| if line.is_empty() { "\n".to_owned() } else { format!("      {line}\n") }).collect()
}

/// Files that hold tests, by their names.
pub fn is_test_file(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().ends_with(crate::spec::ENDING))
}

/// The test file beside a pipeline file.
fn beside(pipeline: &Path) -> PathBuf {
    let stem = pipeline.file_stem().unwrap_or_default().to_string_lossy();
    pipeline.with_file_name(format!("{stem}{}", crate::spec::ENDING))
}
