//! [`TestFile`]: a file with unit tests of a pipeline, as it was written.

use std::sync::{Arc, LazyLock};

use jsonschema::Validator;
use serde_json::{Map, Value as Json};

use super::indentation;
use super::model::{TestFileSpec, TestSpec};
use super::parse::read_typed;
use super::schema::TESTS;
use super::tree::Node;
use super::violation::Reader;
use super::yaml;
use crate::diagnostic::{Diagnostic, SourceText, Span};

/// What the name of a test file ends with.
pub const ENDING: &str = ".test.yaml";

/// What `now()` says in tests that do not say otherwise.
pub const NOW: &str = "2000-01-01T00:00:00Z";

static VALIDATOR: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::validator_for(&TESTS).expect("the schema is generated and tested"));

/// A file with tests that is right by its schema.
#[derive(Clone, Debug)]
pub struct TestFile {
    pub source: Arc<SourceText>,
    /// The path of the pipeline as it is written, and where.
    pub pipeline: Option<(String, Span)>,
    pub params: Params,
    pub seed: u64,
    /// As it is written, and where.
    pub now: (String, Span),
    /// In the order of the file.
    pub tests: Vec<Test>,
}

/// Values of params, with the places of their names.
pub type Params = Vec<(String, Json, Span)>;

/// One test.
#[derive(Clone, Debug)]
pub struct Test {
    pub name: String,
    pub name_span: Span,
    /// Those of the file, and then its own.
    pub params: Params,
    pub spec: TestSpec,
    pub node: Node,
}

impl Test {
    /// The place of the value at `keys`, or of the nearest one around it that is written.
    pub fn span(&self, keys: &[&str]) -> Span {
        let mut node = &self.node;
        let mut span = self.name_span;
        for key in keys {
            let Some(entry) = node.entry(key) else { break };
            span = entry.value.alias.unwrap_or(entry.value.span);
            node = &entry.value;
        }
        span
    }

    /// The place of the key at the end of `keys`.
    pub fn key_span(&self, keys: &[&str]) -> Span {
        let Some((last, parents)) = keys.split_last() else { return self.name_span };
        let parent = parents.iter().try_fold(&self.node, |node, key| node.get(key));
        parent.and_then(|parent| parent.entry(last)).map_or(self.name_span, |entry| entry.key.span)
    }

    /// The rows that are written for a stage of `section`, in their long or short form.
    pub fn rows(&self, section: &str, of: &str) -> Option<&Node> {
        let value = self.node.get(section)?.get(of)?;
        value.get("rows").or(Some(value)).filter(|node| matches!(node.value, super::tree::Value::Sequence(_)))
    }
}

/// Reads a test file.
///
/// # Errors
/// All that is wrong with it.
pub fn parse_tests(source: &Arc<SourceText>) -> Result<TestFile, Vec<Diagnostic>> {
    let (root, mut problems) = yaml::parse(source);
    let Some(mut root) = root else { return Err(problems) };
    problems.extend(indentation::repair(&mut root, &TESTS));
    let instance = root.to_json();
    let reader = Reader::new(&TESTS, &root);
    problems.extend(VALIDATOR.iter_errors(&instance).flat_map(|error| reader.read(&error)).map(|it| it.diagnostic));
    if problems.iter().any(Diagnostic::is_error) {
        return Err(problems);
    }
    let spec: TestFileSpec = read_typed(&root, &mut problems).ok_or_else(|| problems.clone())?;
    let of_file = params(spec.params.as_ref(), root.get("params"));
    let mut specs = spec.tests;
    let entries = root.get("tests").map(Node::entries).unwrap_or_default();
    let tests = entries.iter().filter_map(|entry| {
        let spec = specs.remove(&entry.key.name)?;
        let mut all = of_file.clone();
        for own in params(spec.params.as_ref(), entry.value.get("params")) {
            all.retain(|(name, ..)| *name != own.0);
            all.push(own);
        }
        Some(Test {
            name: entry.key.name.clone(),
            name_span: entry.key.span,
            params: all,
            spec,
            node: entry.value.clone(),
        })
    });
    let span = |key: &str| root.get(key).map(|node| node.span).unwrap_or_default();
    Ok(TestFile {
        source: Arc::clone(source),
        pipeline: spec.pipeline.map(|path| (path, span("pipeline"))),
        params: of_file.clone(),
        seed: spec.seed.unwrap_or(0),
        now: (spec.now.unwrap_or_else(|| NOW.to_owned()), span("now")),
        tests: tests.collect(),
    })
}

fn params(values: Option<&Map<String, Json>>, node: Option<&Node>) -> Params {
    let span = |name: &str| node.and_then(|node| node.entry(name)).map(|entry| entry.key.span).unwrap_or_default();
    values.into_iter().flatten().map(|(name, value)| (name.clone(), value.clone(), span(name))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<TestFile, Vec<String>> {
        let source = Arc::new(SourceText::new("a.test.yaml", "/a.test.yaml", text));
        parse_tests(&source).map_err(|problems| problems.into_iter().map(|problem| problem.message).collect())
    }

    #[test]
    fn a_test_has_its_own_params_on_top_of_those_of_the_file() {
        let file = parsed(
            "version: 1\nparams: { a: 1, b: 2 }\ntests:\n  one:\n    params: { b: 3 }\n    expect: { x: { count: 1 } }\n",
        )
        .expect("a test file");
        let params: Vec<_> = file.tests[0].params.iter().map(|(name, value, _)| format!("{name}={value}")).collect();
        assert_eq!(params, ["a=1", "b=3"]);
        assert_eq!(file.source.slice(file.tests[0].span(&["expect", "x", "count"])), "1");
        assert_eq!(file.source.slice(file.tests[0].key_span(&["expect", "x"])), "x");
    }

    #[test]
    fn what_is_wrong_is_said_with_the_words_of_tests() {
        let wrong = |text: &str| parsed(text).expect_err("it is wrong");
        assert_eq!(
            wrong("version: 1\ntests: { one: {} }\n"),
            ["the test `one` needs one of the keys `expect` and `fails`"]
        );
        let source = Arc::new(SourceText::new("a", "/a", "version: 1\ntests: { one: { mocks: {}, outputs: {} } }\n"));
        let problems = parse_tests(&source).expect_err("it is wrong");
        let helps: Vec<_> = problems.iter().filter_map(|problem| problem.help.as_deref()).collect();
        let expected = "what comes of stages is what to `expect: { stage: [{ column: value }] }`";
        assert_eq!(helps, ["rows of stages are `given: { stage: [{ column: value }] }`", expected], "{problems:?}");
        assert_eq!(wrong("version: 1\n"), ["the test file needs the key `tests`"]);
        assert_eq!(
            wrong("version: 1\ntests: { one: { expects: { x: [] } } }\n"),
            ["the test `one` has no key `expects`"]
        );
        assert_eq!(
            wrong("version: 1\ntests: { one: { expect: { x: 3 } } }\n"),
            ["`x` must be a list or a mapping, not an integer"]
        );
    }
}
