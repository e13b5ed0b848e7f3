//! What the JSON Schema says against a file, turned into diagnostics that point at the offending key or value.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value as Json;

use super::defaults::DEFAULTS;
use super::hint::{Hints, keys, last_key, value_of_others};
use super::schema::{EXPRESSION_PATTERN, NAME_PATTERN};
use super::tree::{Node, Step, Value};
use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean, nearest};

/// A diagnostic, and the part of the tree that cannot be read because of it.
pub struct Violation {
    pub diagnostic: Diagnostic,
    pub hole: Vec<Step>,
}

/// Reads violations of one schema in one tree.
pub struct Reader<'a> {
    schema: &'a Json,
    root: &'a Node,
}

/// What would have been right in the place of a value that has the wrong shape.
#[derive(Default)]
struct Expected {
    types: Vec<&'static str>,
    words: Vec<String>,
}

impl<'a> Reader<'a> {
    pub fn new(schema: &'a Json, root: &'a Node) -> Self {
        Self { schema, root }
    }

    /// The violations that one error of the validator stands for. None when another check says it better.
    pub fn read(&self, error: &ValidationError<'_>) -> Vec<Violation> {
        let path = steps(error);
        if self.is_open(&path) {
            return Vec::new();
        }
        match error.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => {
                unexpected.iter().map(|name| self.unknown_key(error, &path, name)).collect()
            }
            ValidationErrorKind::Required { property } => {
                let name = property.as_str().unwrap_or_default();
                // What is meant by a word that is not known is said there.
                let hints = Hints::new(self.schema, self.root);
                let is_meant = hints.is_meant(self.parent_schema(error), &path, name);
                if is_meant { Vec::new() } else { vec![self.missing_key(path, name)] }
            }
            ValidationErrorKind::AnyOf { context } => self.read_branches(error, path, context),
            // Whoever reads such text says better what is wrong with it.
            ValidationErrorKind::Pattern { pattern } if pattern != EXPRESSION_PATTERN => match path.first() {
                // It is read for each stage that takes it, and there may be none.
                Some(Step::Key(section)) if section == DEFAULTS => vec![self.bad_text(error, path)],
                _ => Vec::new(),
            },
            ValidationErrorKind::OneOfNotValid { .. } | ValidationErrorKind::OneOfMultipleValid { .. }
                if is_kind_choice(error) =>
            {
                Vec::new()
            }
            ValidationErrorKind::OneOfNotValid { .. } | ValidationErrorKind::OneOfMultipleValid { .. }
                if !self.either(error).is_empty() =>
            {
                self.not_one(error, path)
            }
            // Its type has been found wrong.
            ValidationErrorKind::Constant { expected_value }
                if self.root.at(&path).is_some_and(|node| node.to_json().is_number() != expected_value.is_number()) =>
            {
                Vec::new()
            }
            _ => vec![self.bad_value(error, path)],
        }
    }

    /// Whether a value on the path is not known before the run.
    fn is_open(&self, path: &[Step]) -> bool {
        (0..=path.len()).any(|length| self.root.at(&path[..length]).is_some_and(Node::is_unresolved))
    }

    /// Reports the branch that was meant: the one whose shape fits. If there is none, says which shapes would.
    fn read_branches(
        &self,
        error: &ValidationError<'_>,
        path: Vec<Step>,
        branches: &[Vec<ValidationError<'static>>],
    ) -> Vec<Violation> {
        let fits = |branch: &&Vec<ValidationError<'static>>| {
            branch.iter().all(|inner| inner.instance_path() != error.instance_path() || !self.is_shape(inner))
        };
        let hints = Hints::new(self.schema, self.root);
        let lacks = |branch: &[ValidationError<'static>]| {
            branch.iter().find_map(|inner| match inner.kind() {
                ValidationErrorKind::Required { property } if inner.instance_path() == error.instance_path() => {
                    let key = property.as_str()?.to_owned();
                    (!hints.is_meant(self.parent_schema(inner), &path, &key)).then_some(key)
                }
                _ => None,
            })
        };
        let fitting: Vec<_> = branches.iter().filter(fits).collect();
        let lacking: Vec<String> = fitting.iter().filter_map(|branch| lacks(branch)).collect();
        if fitting.len() > 1 && lacking.len() == fitting.len() {
            return vec![self.no_choice(error, path, &lacking)];
        }
        match fitting.into_iter().min_by_key(|branch| (lacks(branch).is_some(), branch.len())) {
            Some(meant) => match self.too_many_choices(error, &path, meant) {
                Some(violation) => vec![violation],
                None => meant.iter().flat_map(|inner| self.read(inner)).collect(),
            },
            None => vec![self.bad_value(error, path)],
        }
    }

    /// A mapping with none of the keys that its choices have.
    fn no_choice(&self, error: &ValidationError<'_>, path: Vec<Step>, keys: &[String]) -> Violation {
        let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
        let message = format!("{} needs one of the keys {}", self.describe(&path), names.join(" and "));
        let examples = self.parent_schema(error).get("examples").and_then(Json::as_array);
        let example = examples.into_iter().flatten().find(|example| example.is_object());
        let mut violation = self.missing_key(path, &keys[0]);
        let help = example.map(|example| format!("for example, `{}: {}`", last_key(&violation.hole), flow(example)));
        violation.diagnostic.message = message;
        violation.diagnostic = violation.diagnostic.label("none of them is here").help(help);
        violation
    }

    /// A mapping with keys of which each belongs to a choice of its own.
    fn too_many_choices(
        &self,
        error: &ValidationError<'_>,
        path: &[Step],
        meant: &[ValidationError<'static>],
    ) -> Option<Violation> {
        let choices = self.schema.pointer(error.schema_path().as_str())?.as_array()?;
        let is_choice = |name: &str| choices.iter().any(|choice| keys(choice).any(|key| key == name));
        let extra = meant.iter().find_map(|inner| match inner.kind() {
            ValidationErrorKind::AdditionalProperties { unexpected } => unexpected.iter().find(|name| is_choice(name)),
            _ => None,
        })?;
        let entries = self.root.at(path)?.entries();
        let chosen: Vec<_> = entries.iter().map(|entry| &entry.key).filter(|key| is_choice(&key.name)).collect();
        let key = chosen.iter().find(|key| key.name == *extra).filter(|_| chosen.len() > 1)?;
        let names: Vec<String> = chosen.iter().map(|key| format!("`{}`", key.name)).collect();
        let message = format!("{} can have only one of {}", self.describe(path), names.join(" and "));
        let diagnostic = Diagnostic::new(Code::SpecBadValue, key.span, message).through(key.alias);
        Some(Violation { diagnostic: diagnostic.label("there is another one"), hole: path.to_vec() })
    }

    /// The keys of which a mapping has exactly one, if that is what the error is about.
    fn either(&self, error: &ValidationError<'_>) -> Vec<&'a str> {
        let choices = self.parent_schema(error).get("oneOf").and_then(Json::as_array);
        choices.into_iter().flatten().filter_map(|choice| choice.pointer("/required/0")?.as_str()).collect()
    }

    /// A mapping with none of the keys of which it has exactly one, or with several.
    fn not_one(&self, error: &ValidationError<'_>, path: Vec<Step>) -> Vec<Violation> {
        let either = self.either(error);
        let Some(owner) = self.root.at(&path) else { return Vec::new() };
        let written: Vec<_> =
            owner.entries().iter().map(|it| &it.key).filter(|it| either.contains(&&*it.name)).collect();
        let names = |words: Vec<&str>| words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" and ");
        let place = self.describe(&path);
        if let [.., last] = written.as_slice() {
            let names = names(written.iter().map(|key| key.name.as_str()).collect());
            let message = format!("{place} can have only one of {names}");
            let diagnostic = Diagnostic::new(Code::SpecBadValue, last.span, message).through(last.alias);
            return vec![Violation { diagnostic: diagnostic.label("there is another one"), hole: path }];
        }
        let hints = Hints::new(self.schema, self.root);
        if either.iter().any(|key| hints.is_meant(self.parent_schema(error), &path, key)) {
            return Vec::new();
        }
        let mut violation = self.missing_key(path, either[0]);
        violation.diagnostic.message = format!("{place} needs one of the keys {}", names(either));
        violation.diagnostic = violation.diagnostic.label("none of them is here");
        vec![violation]
    }

    /// Whether the error says that a value is of another kind than the schema describes.
    fn is_shape(&self, error: &ValidationError<'_>) -> bool {
        match error.kind() {
            ValidationErrorKind::Type { .. }
            | ValidationErrorKind::Enum { .. }
            | ValidationErrorKind::Constant { .. } => true,
            ValidationErrorKind::OneOfNotValid { .. } => self.either(error).is_empty(),
            ValidationErrorKind::Pattern { pattern } => pattern == EXPRESSION_PATTERN,
            ValidationErrorKind::AnyOf { context } => {
                context.iter().all(|branch| branch.iter().any(|inner| self.is_shape(inner)))
            }
            _ => false,
        }
    }

    fn unknown_key(&self, error: &ValidationError<'_>, path: &[Step], name: &str) -> Violation {
        let object = self.parent_schema(error);
        let owner = self.root.at(path);
        let key = owner.and_then(|node| node.entry(name)).map(|entry| &entry.key);
        let (span, alias) = key.map_or((Span::default(), None), |key| (key.span, key.alias));
        let is_name = object.pointer("/patternProperties").is_some_and(|patterns| patterns.get(NAME_PATTERN).is_some());
        let diagnostic = if is_name {
            let what = if path == [Step::Key("params".to_owned())] { "param" } else { "stage" };
            Diagnostic::new(Code::SpecBadName, span, format!("`{name}` cannot be the name of a {what}"))
                .help("names have lower-case letters, digits and `_`, and begin with a letter".to_owned())
        } else {
            let place = self.describe(path);
            Diagnostic::new(Code::SpecUnknownKey, span, format!("{place} has no key `{name}`"))
                .label("unknown key")
                .help(Hints::new(self.schema, self.root).for_key(object, path, name))
        };
        Violation { diagnostic: diagnostic.through(alias), hole: child(path, name) }
    }

    fn missing_key(&self, path: Vec<Step>, name: &str) -> Violation {
        let node = self.root.at(&path);
        let message = format!("{} needs the key `{name}`", self.describe(&path));
        let (span, alias) = match path.split_last() {
            Some((Step::Key(last), parent)) => {
                let key = self.root.at(parent).and_then(|node| node.entry(last)).map(|entry| &entry.key);
                key.map_or((Span::default(), None), |key| (key.span, node.and_then(|node| node.alias)))
            }
            _ => {
                let start = node.map_or(0, |node| node.span.start);
                (Span::new(start, start), None)
            }
        };
        let diagnostic = Diagnostic::new(Code::SpecMissingKey, span, message).through(alias);
        Violation { diagnostic: diagnostic.label(format!("`{name}` is missing")), hole: path }
    }

    fn bad_value(&self, error: &ValidationError<'_>, path: Vec<Step>) -> Violation {
        let node = self.root.at(&path);
        let (span, alias) = node.map_or((Span::default(), None), |node| (node.span, node.alias));
        let place = self.describe(&path);
        let found = node.map_or("nothing", Node::type_word);
        let mut expected = Expected::default();
        self.expect(error, &mut expected);
        let text = node.and_then(scalar_text);
        let diagnostic = match &text {
            _ if expected.is_empty() => {
                Diagnostic::new(Code::SpecBadValue, span, format!("{place} {}", requirement(error)))
            }
            Some(text)
                if expected.types.is_empty()
                    || nearest(text, expected.words()).is_some()
                    || value_of_others(text, expected.words()).is_some() =>
            {
                Diagnostic::new(Code::SpecBadValue, span, format!("{place} cannot be `{text}`"))
                    .help(value_of_others(text, expected.words()).or_else(|| did_you_mean(text, expected.words())))
            }
            _ => Diagnostic::new(Code::SpecWrongType, span, format!("{place} must be {expected}, not {found}"))
                .label(format!("this is {found}"))
                .help(self.example(error, &path)),
        };
        Violation { diagnostic: diagnostic.through(alias), hole: path }
    }

    /// Text that is no size, no time, or the like.
    fn bad_text(&self, error: &ValidationError<'_>, path: Vec<Step>) -> Violation {
        let node = self.root.at(&path);
        let (span, alias) = node.map_or((Span::default(), None), |node| (node.span, node.alias));
        let text = node.and_then(scalar_text).unwrap_or_default();
        let message = format!("{} cannot be `{text}`", self.describe(&path));
        let help = self.parent_schema(error).get("patternErrorMessage").and_then(Json::as_str).map(str::to_owned);
        Violation {
            diagnostic: Diagnostic::new(Code::SpecBadValue, span, message).help(help).through(alias),
            hole: path,
        }
    }

    /// A line that would be right.
    fn example(&self, error: &ValidationError<'_>, path: &[Step]) -> Option<String> {
        let example = self.parent_schema(error).get("examples")?.get(0)?;
        match path.last() {
            Some(Step::Key(key)) => Some(format!("for example, `{key}: {}`", flow(example))),
            _ => None,
        }
    }

    /// Collects what the schema would accept in the place of the error.
    fn expect(&self, error: &ValidationError<'_>, expected: &mut Expected) {
        match error.kind() {
            ValidationErrorKind::Type { kind } => {
                let types: Vec<JsonType> = match kind {
                    TypeKind::Single(only) => vec![*only],
                    TypeKind::Multiple(set) => set.iter().collect(),
                };
                let takes_words = self.takes_only_words(error);
                let takes_expression =
                    self.parent_schema(error).get("pattern").is_some_and(|it| it == EXPRESSION_PATTERN);
                for kind in types {
                    match kind {
                        JsonType::String if takes_expression => {}
                        JsonType::String if takes_words => expected.words.extend(words(self.parent_schema(error))),
                        kind => expected.add_type(type_phrase(kind)),
                    }
                }
            }
            ValidationErrorKind::Pattern { pattern } if pattern == EXPRESSION_PATTERN => {
                let kinds = self.parent_schema(error).get("type").and_then(Json::as_array);
                for kind in kinds.into_iter().flatten().filter_map(Json::as_str).filter(|kind| *kind != "string") {
                    expected.add_type(phrase_of(kind));
                }
            }
            ValidationErrorKind::Enum { options } => {
                expected
                    .words
                    .extend(options.as_array().into_iter().flatten().filter_map(Json::as_str).map(str::to_owned));
            }
            ValidationErrorKind::Constant { expected_value } => expected.words.push(match expected_value.as_str() {
                Some(word) => word.to_owned(),
                None => expected_value.to_string(),
            }),
            ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
                for branch in context {
                    branch.iter().for_each(|inner| self.expect(inner, expected));
                }
            }
            _ => {}
        }
        expected.words.sort();
        expected.words.dedup();
    }

    fn takes_only_words(&self, error: &ValidationError<'_>) -> bool {
        let schema = self.parent_schema(error);
        schema.get("enum").is_some() || schema.get("const").is_some()
    }

    /// The schema whose keyword is violated.
    fn parent_schema(&self, error: &ValidationError<'_>) -> &'a Json {
        let keyword = error.schema_path().as_str();
        let parent = keyword.rsplit_once('/').map_or("", |(parent, _)| parent);
        self.schema.pointer(parent).unwrap_or(&Json::Null)
    }

    /// The thing at `path` in words.
    fn describe(&self, path: &[Step]) -> String {
        match path {
            [] if Hints::new(self.schema, self.root).is_of_tests() => "the test file".to_owned(),
            [] => "the pipeline".to_owned(),
            [Step::Key(section), Step::Key(name)] if section == "tests" => format!("the test `{name}`"),
            [Step::Key(section), Step::Key(name)] if section == "stages" => format!("the stage `{name}`"),
            [Step::Key(section), Step::Key(name)] if section == "shared" => format!("`{name}`, which is shared,"),
            [Step::Key(section), Step::Key(name)] if matches!(section.as_str(), "on_failure" | "finally") => {
                format!("the hook `{name}`")
            }
            [Step::Key(section), Step::Key(name)] if section == "resources" => format!("the resource `{name}`"),
            [Step::Key(section), Step::Key(name)] if section == "params" => format!("the param `{name}`"),
            _ => match path.last() {
                Some(Step::Key(key)) => format!("`{key}`"),
                Some(Step::Index(_)) => format!("an item of `{}`", last_key(path)),
                None => String::new(),
            },
        }
    }
}

impl Expected {
    fn is_empty(&self) -> bool {
        self.types.is_empty() && self.words.is_empty()
    }

    fn words(&self) -> impl Iterator<Item = &str> {
        self.words.iter().map(String::as_str)
    }

    fn add_type(&mut self, phrase: &'static str) {
        if !self.types.contains(&phrase) {
            self.types.push(phrase);
        }
    }
}

impl std::fmt::Display for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = self.words.iter().map(|word| format!("`{word}`"));
        let choices: Vec<String> = self.types.iter().map(|phrase| (*phrase).to_owned()).chain(words).collect();
        match choices.split_last() {
            Some((last, [])) => f.write_str(last),
            Some((last, others)) => write!(f, "{} or {last}", others.join(", ")),
            None => Ok(()),
        }
    }
}

/// What a bound or a length asks for, to follow the name of a key.
fn requirement(error: &ValidationError<'_>) -> String {
    match error.kind() {
        ValidationErrorKind::Minimum { limit } => format!("must be at least {limit}"),
        ValidationErrorKind::Maximum { limit } => format!("must be at most {limit}"),
        ValidationErrorKind::MinItems { limit: 1 } | ValidationErrorKind::MinProperties { limit: 1 } => {
            "must not be empty".to_owned()
        }
        ValidationErrorKind::MinLength { limit } => format!("must have at least {limit} character(s)"),
        ValidationErrorKind::MaxLength { limit } => format!("must have at most {limit} character(s)"),
        _ => format!("is not valid: {}", error.masked_with("the value")),
    }
}

/// Whether the error is about how many kinds a stage has, which the compiler reports with names and places.
fn is_kind_choice(error: &ValidationError<'_>) -> bool {
    let path = error.schema_path();
    ["/StageSpec/oneOf", "/SharedSpec/oneOf", "/HookSpec/oneOf"].iter().any(|end| path.as_str().ends_with(end))
}

fn words(schema: &Json) -> Vec<String> {
    let listed = schema.get("enum").and_then(Json::as_array).into_iter().flatten();
    listed.filter_map(Json::as_str).map(str::to_owned).collect()
}

fn scalar_text(node: &Node) -> Option<String> {
    match &node.value {
        Value::String(text) => Some(text.text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        _ => None,
    }
}

/// A value as it stands in a line of YAML.
pub(super) fn flow(value: &Json) -> String {
    let several = |parts: Vec<String>| parts.join(", ");
    match value {
        Json::String(text) if is_plain(text) => text.clone(),
        Json::String(text) => Json::from(text.as_str()).to_string(),
        Json::Array(items) => format!("[{}]", several(items.iter().map(flow).collect())),
        Json::Object(entries) => {
            format!("{{ {} }}", several(entries.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect()))
        }
        other => other.to_string(),
    }
}

/// Whether YAML takes the text for a string without quotes.
fn is_plain(text: &str) -> bool {
    !matches!(text.to_ascii_lowercase().as_str(), "" | "null" | "true" | "false" | "~" | "-")
}

fn type_phrase(kind: JsonType) -> &'static str {
    phrase_of(kind.as_str())
}

fn phrase_of(kind: &str) -> &'static str {
    match kind {
        "array" => "a list",
        "object" => "a mapping",
        "boolean" => "a boolean",
        "integer" => "an integer",
        "number" => "a number",
        "null" => "nothing",
        _ => "a string",
    }
}

fn steps(error: &ValidationError<'_>) -> Vec<Step> {
    use jsonschema::paths::LocationSegment;
    error
        .instance_path()
        .iter()
        .map(|segment| match segment {
            LocationSegment::Property(name) => Step::Key(name.into_owned()),
            LocationSegment::Index(index) => Step::Index(index),
        })
        .collect()
}

fn child(path: &[Step], name: &str) -> Vec<Step> {
    path.iter().cloned().chain([Step::Key(name.to_owned())]).collect()
}
