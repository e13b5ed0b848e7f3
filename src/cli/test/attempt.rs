//! [`Attempt`]: one test is run, and what came of it is held against what was expected.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::super::args::WorkerArgs;
use super::super::exit_code::Exit;
use super::super::run::exit_of;
use super::super::{cores, env, load, output};
use super::Loaded;
use crate::diagnostic::Diagnostic;
use crate::environment::usable_cores;
use crate::report;
use crate::run::executor::Surroundings;
use crate::run::publish::RunRecord;
use crate::run::{self, Ending, Outcome, RunEvent, Signals};
use crate::spec::Test;
use crate::spec::model::FailsSpec;
use crate::testing::{Coverage, Edits, Expectation, Failed, Fault, Paint, Prepared, Table, TableError};

/// Lines of what code prints that are shown beside a failure.
const MOST_LINES: usize = 20;

/// A test that is to be run.
pub struct Attempt<'a> {
    pub loaded: &'a Loaded,
    pub test: &'a Test,
    pub workers: &'a WorkerArgs,
    pub update: bool,
    pub signals: &'a Signals,
}

/// What came of a test.
#[derive(Default)]
pub struct Found {
    /// The stage or port, where it is about one, and what is wrong.
    pub faults: Vec<(Option<String>, Fault)>,
    /// Whether the test is wrong, and was not run.
    pub is_invalid: bool,
    /// What `--update` has changed.
    pub updated: Vec<String>,
    /// What code has printed.
    said: Vec<String>,
    pub time: Duration,
}

impl Found {
    pub fn text(&self, paint: Paint) -> String {
        let mut text = String::new();
        for (of, fault) in &self.faults {
            if let Some(of) = of {
                text += &format!("{of}: ");
            }
            text += &fault.text(paint);
        }
        if !self.faults.is_empty() && !self.said.is_empty() {
            text += "what its code has printed:\n";
            let shown = self.said.iter().take(MOST_LINES);
            text.extend(shown.map(|line| format!("  {}\n", report::harmless(line))));
        }
        text
    }

    fn fail(&mut self, of: Option<&str>, words: impl Into<String>) {
        let mut words = words.into();
        if !words.ends_with('\n') {
            words.push('\n');
        }
        self.faults.push((of.map(str::to_owned), Fault::Words(words)));
    }
}

impl Attempt<'_> {
    /// Runs the test.
    ///
    /// # Errors
    /// How the program should end if it cannot go on.
    pub fn make(&self, coverage: &mut Coverage, edits: &mut Edits) -> Result<Found, Exit> {
        let began = Instant::now();
        let mut found = Found::default();
        let folder = tempfile::tempdir()
            .map_err(|error| output::failed(&format!("there is no place for temporary files: {error}")))?;
        let Loaded { file, pipeline, given, .. } = self.loaded;
        let settings = load::settings(self.workers);
        match Prepared::new(file, self.test, pipeline, given, &settings, folder.path(), self.update) {
            Ok(prepared) => self.run(prepared, folder.path(), coverage, edits, &mut found)?,
            Err(Failed::Test(problems)) => {
                found.is_invalid = true;
                found.fail(None, output::drawn(&problems, &file.source));
            }
            Err(Failed::Pipeline(mut problems)) => {
                problems.retain(Diagnostic::is_error);
                let drawn = output::drawn(&problems, pipeline);
                found.fail(None, format!("the pipeline cannot be run with these rows and params:\n{drawn}"));
            }
            Err(Failed::System(error)) => return Err(output::failed(&error)),
        }
        found.time = began.elapsed();
        Ok(found)
    }

    fn run(
        &self,
        mut prepared: Prepared,
        folder: &std::path::Path,
        coverage: &mut Coverage,
        edits: &mut Edits,
        found: &mut Found,
    ) -> Result<(), Exit> {
        load::keep_to_memory(&mut prepared.plan, self.workers)?;
        cores::check(&prepared.plan, &usable_cores())?;
        let expected: Vec<String> = prepared.expected.iter().map(|one| one.of.clone()).collect();
        coverage.add(&prepared.plan, &prepared.given, &expected);
        let left_out = |one: &Expectation| Some((one.of.clone(), prepared.left_out(&one.of)?));
        let left_out: Vec<(String, String)> = prepared.expected.iter().filter_map(left_out).collect();
        for (of, why) in &left_out {
            found.fail(Some(of), why);
        }
        if prepared.plan.stages.is_empty() {
            return Ok(());
        }
        let outcome = self.outcome(&prepared, folder, found)?;
        if outcome.ending == Ending::Interrupted {
            return Err(exit_of(&prepared.plan, &outcome, self.signals));
        }
        let has_succeeded = outcome.ending == Ending::Succeeded;
        match &prepared.fails {
            Some(fails) => self.check_failure(&prepared, fails, &outcome, found),
            None if has_succeeded => {
                let gone: BTreeSet<&String> = left_out.iter().map(|(of, _)| of).collect();
                for one in prepared.expected.iter().filter(|one| !gone.contains(&one.of)) {
                    let compared = self.compare(&prepared, one, edits, found);
                    compared.map_err(|error| output::failed(&format!("`{}`: {error}", one.of)))?;
                }
            }
            None => {
                let message = report::failure(&prepared.plan, &outcome).unwrap_or_default();
                let message = prepared.with_short_paths(&message);
                found.fail(None, format!("the run has failed:\n{message}"));
            }
        }
        Ok(())
    }

    fn outcome(&self, prepared: &Prepared, folder: &std::path::Path, found: &mut Found) -> Result<Outcome, Exit> {
        let plan = prepared.plan.clone();
        let python = if plan.needs_python() { Some(env::python_host(&plan)?) } else { None };
        let cores = load::settings(self.workers).cores;
        let now = prepared.now;
        let surroundings =
            Surroundings { python, cores, chaos: None, forced: BTreeSet::new(), corrects: None, now, started: now };
        let record = RunRecord {
            pipeline: plan.name.clone(),
            file: plan.file.clone(),
            set: Vec::new(),
            current_dir: plan.folder.clone(),
            seed: plan.seed,
            started: now,
            now,
            resumes: None,
            corrects: None,
            is_trial: true,
        };
        let said = &mut found.said;
        let mut tell = |event| match event {
            RunEvent::Line { text, .. } if said.len() < MOST_LINES => said.push(text),
            RunEvent::Log { record, .. } if said.len() < MOST_LINES => {
                said.push(format!("{} {}: {}", record.level, record.logger, record.message));
            }
            _ => {}
        };
        let state = folder.join("state");
        let outcome = run::open(&plan, &state, &record, &surroundings, &mut tell)
            .and_then(|mut run| run::run(plan, &mut run, surroundings, self.signals, &mut tell));
        outcome.map_err(|error| super::super::run::complain(&error))
    }

    fn check_failure(&self, prepared: &Prepared, fails: &FailsSpec, outcome: &Outcome, found: &mut Found) {
        let plan = &prepared.plan;
        let of = Some(fails.stage.as_str());
        let Some(message) = report::failure(plan, outcome) else {
            found.fail(of, "it was expected to fail, and did not");
            return;
        };
        let message = prepared.with_short_paths(&message);
        if let Ending::Failed(failure) = &outcome.ending {
            let stage = plan.stage(failure.stage);
            // What checks the rows of a stage has its name before a dot.
            let is_it = |name: &str| name.split('.').next() == Some(&fails.stage);
            if !is_it(&stage.name) && !stage.foreach.as_deref().is_some_and(is_it) {
                found.fail(of, format!("it was expected to fail, but `{}` did:\n{message}", stage.name));
                return;
            }
        }
        if let Some(part) = fails.message.as_ref().filter(|part| !message.contains(part.as_str())) {
            found.fail(of, format!("`{part}` does not stand in the message:\n{message}"));
        }
        let exit = exit_of(plan, outcome, self.signals).code();
        if let Some(expected) = fails.exit_code.filter(|expected| *expected != exit) {
            found.fail(of, format!("the exit code would be {exit}, and not {expected}"));
        }
    }

    fn compare(
        &self,
        prepared: &Prepared,
        expected: &Expectation,
        edits: &mut Edits,
        found: &mut Found,
    ) -> Result<(), TableError> {
        let rows = prepared.rows(&expected.of)?;
        let faults = expected.faults(&rows, &prepared.plan.params, prepared.now)?;
        if faults.is_empty() {
            return Ok(());
        }
        if self.update {
            self.take(prepared, expected, &rows, edits, found)?;
            // What is still not as expected cannot be brought up to date, such as a condition.
            let remaining = expected.after_update().faults(&rows, &prepared.plan.params, prepared.now)?;
            found.faults.extend(remaining.into_iter().map(|fault| (Some(expected.of.clone()), fault)));
            return Ok(());
        }
        found.faults.extend(faults.into_iter().map(|fault| (Some(expected.of.clone()), fault)));
        Ok(())
    }

    /// Takes what came for what is expected.
    fn take(
        &self,
        prepared: &Prepared,
        expected: &Expectation,
        rows: &arrow::array::RecordBatch,
        edits: &mut Edits,
        found: &mut Found,
    ) -> Result<(), TableError> {
        let (of, source) = (expected.of.as_str(), &self.loaded.file.source);
        let table = Table::of(rows)?;
        let count = report::counted(rows.num_rows() as u64, "row");
        if expected.options().rows.is_some() && expected.differs(&table) {
            match edits.rows(source, self.test, of, &table) {
                Ok(()) => found.updated.push(format!("{of}: {count}")),
                Err(why) => found.fail(Some(of), format!("the rows are not updated: {why}")),
            }
        }
        if expected.options().count.is_some_and(|count| !count.allows(rows.num_rows() as u64)) {
            match edits.count(self.test, of, rows.num_rows() as u64) {
                Ok(()) => found.updated.push(format!("{of}: {count}")),
                Err(why) => found.fail(Some(of), format!("the count is not updated: {why}")),
            }
        }
        if let (Some(golden), Some(copy)) = (expected.file(), prepared.copy(expected))
            && expected.differs_from_file(&table)
        {
            if let Some(folder) = golden.parent() {
                std::fs::create_dir_all(folder)?;
            }
            std::fs::copy(&copy, &golden)?;
            found.updated.push(format!("{of}: {count} in {}", expected.options().file.as_deref().unwrap_or_default()));
        }
        Ok(())
    }
}
