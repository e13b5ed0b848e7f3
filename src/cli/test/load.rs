//! [`Loaded`]: a test file that is right, with its pipeline.

use std::path::Path;
use std::sync::Arc;

use super::super::exit_code::Exit;
use super::super::{load, output};
use crate::diagnostic::{Code, Diagnostic, SourceText};
use crate::plan::{self, Testable, testable};
use crate::spec::{self, Completeness, Given, TestFile, parse_tests};
use crate::testing::check;

/// A test file that is right, with its pipeline.
pub struct Loaded {
    pub file: TestFile,
    pub pipeline: Arc<SourceText>,
    pub testable: Vec<Testable>,
    pub given: Given,
}

impl Loaded {
    /// Reads a test file and its pipeline; prints what is wrong with either.
    ///
    /// # Errors
    /// How the program should end then.
    pub fn new(path: &Path) -> Result<Self, Exit> {
        let source = load::read(path)?;
        let given = load::surroundings(Vec::new(), 0, None, Completeness::Partial)?;
        let (file, pipeline) = both(&source).map_err(|problems| {
            output::report(&problems, &source);
            Exit::InvalidPipeline
        })?;
        let document = spec::parse(&pipeline, &given);
        let of_pipeline = plan::validate(&document);
        if of_pipeline.iter().any(Diagnostic::is_error) {
            output::report(&of_pipeline, &pipeline);
            return Err(Exit::InvalidPipeline);
        }
        let problems = check(&file, &pipeline, &given);
        output::report(&problems, &source);
        if problems.iter().any(Diagnostic::is_error) {
            return Err(Exit::InvalidPipeline);
        }
        Ok(Self { testable: testable(&document), file, pipeline, given })
    }
}

/// All that is wrong with a test file. What is wrong with its pipeline is not.
pub fn problems(source: &Arc<SourceText>, given: &Given) -> Vec<Diagnostic> {
    match both(source) {
        Ok((file, pipeline)) => check(&file, &pipeline, given),
        Err(problems) => problems,
    }
}

fn both(source: &Arc<SourceText>) -> Result<(TestFile, Arc<SourceText>), Vec<Diagnostic>> {
    let file = parse_tests(source)?;
    let (path, span) = match &file.pipeline {
        Some((path, span)) => (source.folder().join(path), *span),
        None => {
            let name = source.path().file_name().unwrap_or_default().to_string_lossy();
            let stem = name.strip_suffix(spec::ENDING).unwrap_or(&name);
            (source.folder().join(format!("{stem}.yaml")), crate::diagnostic::Span::default())
        }
    };
    // As short as people would write it.
    let shown = std::env::current_dir().ok().and_then(|folder| Some(path.strip_prefix(folder).ok()?.to_owned()));
    match SourceText::read(&shown.unwrap_or(path)) {
        Ok(pipeline) => Ok((file, Arc::new(pipeline))),
        Err(error) => {
            let help = "a test file names its pipeline with `pipeline: FILE`, relative to itself".to_owned();
            Err(vec![Diagnostic::new(Code::TestNoPipeline, span, error.to_string()).help(help)])
        }
    }
}
