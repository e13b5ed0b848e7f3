//! [`check`]: all that is wrong with a test file, without running or reading anything but it and its pipeline.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value as Json;

use super::expectation::Expectation;
use super::table::format_of;
use crate::diagnostic::{Code, Diagnostic, SourceText, Span, sort_and_merge};
use crate::format::column_type;
use crate::plan::{GivenRows, UnderTest, UnderTestError, WantedRows, put_under_test};
use crate::secrets;
use crate::spec::model::{FormatSpec, GivenOptions, PathsSpec, ReadSpec};
use crate::spec::{self, Completeness, Document, Given, Test, TestFile};

/// All that is wrong with a test file, sorted by place. What is wrong with its pipeline is for others to say.
pub fn check(file: &TestFile, pipeline: &Arc<SourceText>, surroundings: &Given) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    problems.extend(now(file).err());
    for test in &file.tests {
        match document(file, test, pipeline, surroundings) {
            Ok(document) => problems.extend(problems_of(file, test, document)),
            Err(wrong) => problems.extend(wrong),
        }
    }
    sort_and_merge(problems)
}

/// What `now()` says.
///
/// # Errors
/// If it is no time.
pub fn now(file: &TestFile) -> Result<SystemTime, Diagnostic> {
    let (text, span) = &file.now;
    humantime::parse_rfc3339_weak(text).map_err(|_| {
        Diagnostic::new(Code::SpecBadValue, *span, format!("`now` cannot be `{text}`"))
            .help("write a moment in UTC, such as `2024-02-29T12:00:00Z`".to_owned())
    })
}

/// The pipeline with the params of a test.
///
/// # Errors
/// Params that the pipeline does not take.
pub fn document(
    file: &TestFile,
    test: &Test,
    pipeline: &Arc<SourceText>,
    surroundings: &Given,
) -> Result<Document, Vec<Diagnostic>> {
    let text = |value: &Json| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let given = Given {
        set: test.params.iter().map(|(name, value, _)| (name.clone(), text(value))).collect(),
        current_dir: file.source.folder().to_owned(),
        seed: file.seed,
        // What is not needed for the test may stay open.
        completeness: Completeness::Partial,
        ..surroundings.clone()
    };
    let mut document = spec::parse(pipeline, &given);
    secrets::hide(document.secrets.keys());
    let (of_params, others) = document.problems.into_iter().partition(|it| it.code.is_usage() && it.primary.is_none());
    document.problems = others;
    let of_params: Vec<Diagnostic> = of_params;
    if of_params.is_empty() { Ok(document) } else { Err(of_params.iter().map(|it| in_file(test, it)).collect()) }
}

/// A problem with a param at the place where the test gives it.
fn in_file(test: &Test, problem: &Diagnostic) -> Diagnostic {
    let is_it = |name: &str| problem.message.starts_with(&format!("`{name}="));
    let span = test.params.iter().find(|(name, ..)| is_it(name)).map_or(test.name_span, |(.., span)| *span);
    let message = problem.message.split_once("`: ").map_or(problem.message.as_str(), |(_, rest)| rest);
    Diagnostic::new(problem.code, span, message).help(problem.help.clone())
}

fn problems_of(file: &TestFile, test: &Test, mut document: Document) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for (of, given) in test.spec.given.iter().flatten() {
        problems.extend(problems_of_given(file, test, of, &given.options()));
    }
    for (of, expected) in test.spec.expect.iter().flatten() {
        let options = expected.options();
        let mut report = |span: Span, message: String, help: &str| {
            problems.push(Diagnostic::new(Code::TestBadExpectation, span, message).help(help.to_owned()));
        };
        let key = test.key_span(&["expect", of]);
        if options.rows.is_some() && options.file.is_some() {
            report(key, format!("`{of}` is expected to have `rows` and those of a `file`"), "remove one of them");
        }
        if options.rows.is_none() && options.file.is_none() && options.count.is_none() && options.condition.is_none() {
            report(key, format!("nothing is expected of `{of}`"), "add `rows`, `file`, `count` or `where`");
        }
        if let Some(path) = options.file.as_ref().filter(|path| format_of(Path::new(path)).is_none()) {
            let span = test.span(&["expect", of, "file"]);
            report(
                span,
                format!("the format of `{path}` does not follow from its name"),
                "give it an ending such as `.csv`",
            );
        }
    }
    match Expectation::all(test, file.source.folder()) {
        Ok(expected) => {
            for one in &expected {
                let is_there = |name: &String| document.params.iter().any(|param| param.name == *name);
                for name in one.params().iter().filter(|name| !is_there(name)) {
                    let span = test.span(&["expect", &one.of, "where"]);
                    let message = format!("the pipeline has no param `{name}`");
                    problems.push(Diagnostic::new(Code::TestBadExpectation, span, message));
                }
            }
        }
        Err((of, message)) => {
            let span = test.span(&["expect", &of, "where"]);
            problems.push(Diagnostic::new(Code::TestBadExpectation, span, format!("this is no condition: {message}")));
        }
    }
    // What is wrong with the pipeline is what there is to tell.
    if document.problems.iter().any(Diagnostic::is_error) {
        return problems;
    }
    let parts = under_test(file, test, &document, Path::new("/"), false);
    let errors = put_under_test(&mut document, &parts).err().unwrap_or_default();
    problems.extend(errors.iter().map(|error| diagnostic(test, error)));
    problems
}

fn problems_of_given(file: &TestFile, test: &Test, of: &str, options: &GivenOptions) -> Vec<Diagnostic> {
    let mut problems = Vec::new();
    for (column, word) in options.schema.iter().flatten() {
        let word = word.as_str().unwrap_or_default();
        if column_type::parse(word).is_none() {
            let span = test.span(&["given", of, "schema", column]);
            let help = column_type::elsewhere(word).map(|ours| format!("did you mean `{ours}`?"));
            let message = format!("`{word}` is no type of a column");
            problems.push(Diagnostic::new(Code::PlanBadColumnType, span, message).help(help));
        }
    }
    if let Some(path) = &options.file
        && options.format.is_none()
        && format_of(&file.source.folder().join(path)).is_none()
    {
        let message = format!("the format of `{path}` does not follow from its name");
        let problem = Diagnostic::new(Code::TestBadRows, test.span(&["given", of, "file"]), message);
        problems.push(problem.help("add `format:`".to_owned()));
    }
    if options.file.is_none() && options.format.is_some() {
        let span = test.span(&["given", of, "format"]);
        problems.push(Diagnostic::new(Code::TestBadRows, span, "only a `file` has a `format`"));
    }
    problems
}

/// Where the rows of a test lie in `folder`.
pub fn given_path(folder: &Path, of: &str) -> std::path::PathBuf {
    // Stages of pipelines inside have a slash in their names.
    folder.join("given").join(of.replace('/', ":"))
}

/// What a test asks of the pipeline, with its files in `folder`. `copies`: whether golden files are to be made anew.
pub fn under_test(file: &TestFile, test: &Test, document: &Document, folder: &Path, copies: bool) -> UnderTest {
    let given = test.spec.given.iter().flatten().map(|(of, given)| {
        let options = given.options();
        match &options.file {
            Some(path) => GivenRows {
                of: of.clone(),
                path: file.source.folder().join(path).to_string_lossy().into_owned(),
                format: options.format,
                schema: options.schema.clone(),
                is_read_as_its_own: is_like_its_own(document, of, path, &options),
            },
            None => GivenRows {
                of: of.clone(),
                path: given_path(folder, of).to_string_lossy().into_owned(),
                format: Some(FormatSpec::Arrow),
                schema: None,
                is_read_as_its_own: false,
            },
        }
    });
    let out = folder.join("out");
    let path = |name: String| out.join(name).to_string_lossy().into_owned();
    let wanted = test.spec.expect.iter().flatten().map(|(of, expected)| {
        let golden = expected.options().file.filter(|_| copies);
        let name = golden.as_deref().and_then(|golden| Path::new(golden).file_name());
        WantedRows {
            of: of.clone(),
            to: path(format!("{of}.rows.arrow")),
            copies: name.map(|name| path(format!("{of}.{}", name.to_string_lossy()))).into_iter().collect(),
        }
    });
    UnderTest {
        given: given.collect(),
        wanted: wanted.collect(),
        carried_out: test.spec.fails.as_ref().map(|fails| fails.stage.clone()),
    }
}

/// Whether a file can be read in the place of a stage's own, with the options of the stage.
fn is_like_its_own(document: &Document, of: &str, path: &str, options: &GivenOptions) -> bool {
    if options.format.is_some() || options.schema.is_some() {
        return false;
    }
    let draft = document.stages.iter().find(|draft| draft.name == of);
    let Some(ReadSpec::Options(own)) = draft.and_then(|draft| draft.spec.read.as_ref()) else { return false };
    let first = match &own.path {
        PathsSpec::One(path) => Some(path),
        PathsSpec::Many(paths) => paths.first(),
    };
    // Where a stage names its format, the name of its files says nothing.
    own.format.is_some() || first.is_some_and(|first| format_of(Path::new(first)) == format_of(Path::new(path)))
}

/// The error at its place in the test file.
pub fn diagnostic(test: &Test, error: &UnderTestError) -> Diagnostic {
    let place = |of: &str| {
        let sections = ["given", "expect"];
        let section = sections.iter().find(|section| test.node.get(section).is_some_and(|it| it.get(of).is_some()));
        section.map_or_else(|| test.span(&["fails", "stage"]), |section| test.key_span(&[section, of]))
    };
    let at = |code: Code, span: Span, help: Option<String>| Diagnostic::new(code, span, error.to_string()).help(help);
    match error {
        UnderTestError::NoStage { of, help, .. } => at(Code::PlanUnknownStage, place(of), help.clone()),
        UnderTestError::NoPort { of, help, .. } => at(Code::PlanUnknownPort, place(of), help.clone()),
        UnderTestError::NoRows { of } => at(Code::TestBadExpectation, place(of), None),
        UnderTestError::Several { of, .. } => {
            at(Code::TestBadExpectation, place(of), Some("name one of them".to_owned()))
        }
        UnderTestError::NotGiven { stage, .. } => {
            let help = format!("add `given: {{ {stage}: [{{ … }}] }}`, or give the rows of a stage behind it");
            at(Code::TestNotGiven, test.name_span, Some(help))
        }
        UnderTestError::PortNotGiven { stage, port, .. } => {
            let of = if port == crate::plan::Port::MAIN { stage.clone() } else { format!("{stage}.{port}") };
            at(Code::TestNotGiven, test.name_span, Some(format!("add `given: {{ {of}: [] }}`, or rows")))
        }
        UnderTestError::NotKnown { .. } => {
            at(Code::ParamMissing, test.name_span, Some("a test gives params with `params:`".to_owned()))
        }
    }
}
