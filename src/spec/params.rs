//! [`Param`]: the typed inputs of a run, from the file's defaults and the command line.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::given::{Completeness, Given};
use super::model::ParamType;
use super::tree::{Entry, Node, Value};
use crate::diagnostic::{Code, Diagnostic, Span, did_you_mean};

#[derive(Clone, Debug)]
pub struct Param {
    pub name: String,
    pub span: Span,
    /// `None` when the declaration is broken.
    pub kind: Option<ParamType>,
    /// `None` when it is broken or, in a partial check, not given.
    pub value: Option<Json>,
    pub description: Option<String>,
    /// Whether a run has to set it.
    pub required: bool,
    /// The default as it is written.
    pub default: Option<Json>,
    pub allowed: Allowed,
}

/// The values that a param may have.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    pub choices: Option<Vec<Json>>,
    pub min: Option<serde_json::Number>,
    pub max: Option<serde_json::Number>,
}

impl Allowed {
    /// Why a value of the right type is refused, and what would not be.
    fn refuses(&self, value: &Json) -> Option<(String, Option<String>)> {
        if let Some(choices) = self.choices.as_ref().filter(|choices| !choices.contains(value)) {
            return Some(("not one of the choices".to_owned(), Some(listed(choices))));
        }
        let number = value.as_f64()?;
        let is_less = self.min.as_ref().and_then(serde_json::Number::as_f64).is_some_and(|min| number < min);
        let is_more = self.max.as_ref().and_then(serde_json::Number::as_f64).is_some_and(|max| number > max);
        match (&self.min, &self.max) {
            (Some(min), _) if is_less => Some((format!("less than `min`, which is {min}"), None)),
            (_, Some(max)) if is_more => Some((format!("more than `max`, which is {max}"), None)),
            _ => None,
        }
    }
}

/// The params declared in `block`, with their values. Defaults have been interpolated.
pub fn read(block: Option<&Node>, folder: &Path, given: &Given) -> (Vec<Param>, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    let entries = block.map(Node::entries).unwrap_or_default();
    let declared: Vec<&Entry> = entries.iter().filter(|entry| !entry.key.name.starts_with("x-")).collect();
    let params: Vec<Param> = declared.iter().map(|entry| read_param(entry, folder, given, &mut problems)).collect();
    for (name, _) in &given.set {
        if params.iter().all(|param| param.name != *name) {
            let help = did_you_mean(name, params.iter().map(|param| param.name.as_str()));
            let message = format!("`{name}=…`: the pipeline has no param `{name}`");
            problems.push(Diagnostic::without_place(Code::ParamUnknown, message).help(help));
        }
    }
    (params, problems)
}

fn read_param(entry: &Entry, folder: &Path, given: &Given, problems: &mut Vec<Diagnostic>) -> Param {
    let node = &entry.value;
    let mut param = Param {
        name: entry.key.name.clone(),
        span: entry.key.span,
        kind: node.get("type").and_then(Node::as_str).and_then(kind),
        value: None,
        description: node.get("description").and_then(Node::as_str).map(str::to_owned),
        required: node.get("default").is_none(),
        default: node.get("default").filter(|default| !default.is_unresolved()).map(Node::to_json),
        allowed: Allowed::default(),
    };
    check_required(node, &param, problems);
    let Some(kind) = param.kind else { return param };
    param.allowed =
        Allowed { choices: read_choices(node, kind, folder, problems), ..read_bounds(node, kind, problems) };
    let default = node.get("default").filter(|default| !default.is_unresolved());
    let default = default.and_then(|default| check_default(default, kind, folder, &param.allowed, problems));
    let set = given.set.iter().rev().find(|(name, _)| *name == param.name);
    param.value = match set {
        Some((_, text)) => from_command_line(&param.name, text, kind, given, &param.allowed)
            .map_err(|problem| problems.push(problem))
            .ok(),
        None => default,
    };
    if param.required && set.is_none() && given.completeness == Completeness::Full {
        let message = format!("the param `{}` has no default and must be set", param.name);
        let help = format!("add `--set {}=…` ({})", param.name, kind.word());
        problems.push(Diagnostic::new(Code::ParamMissing, param.span, message).help(help));
    }
    param
}

/// `required` only says what `default` says.
fn check_required(node: &Node, param: &Param, problems: &mut Vec<Diagnostic>) {
    let Some(written) = node.get("required") else { return };
    let (message, help) = match (&written.value, param.required) {
        (Value::Bool(true), false) => ("is required and has a default", "remove `required` or `default`"),
        (Value::Bool(false), true) => ("is not required and has no default", "give it a `default`"),
        _ => return,
    };
    let message = format!("the param `{}` {message}", param.name);
    let problem = Diagnostic::new(Code::ParamBadDefault, written.span, message).help(help.to_owned());
    problems.push(problem.through(written.alias));
}

fn read_bounds(node: &Node, kind: ParamType, problems: &mut Vec<Diagnostic>) -> Allowed {
    let mut bound = |key: &str| {
        let written = node.get(key)?;
        let Value::Number(number) = &written.value else { return None };
        if !matches!(kind, ParamType::Integer | ParamType::Float) {
            let message = format!("`{key}` has no meaning for {}", with_article(kind));
            let problem = Diagnostic::new(Code::ParamBadDefault, written.span, message);
            problems
                .push(problem.help("remove it; `integer` and `float` have bounds".to_owned()).through(written.alias));
            return None;
        }
        Some(number.clone())
    };
    let (min, max) = (bound("min"), bound("max"));
    if let (Some(least), Some(most)) = (&min, &max)
        && least.as_f64() > most.as_f64()
    {
        let span = node.get("min").map_or(node.span, |node| node.span);
        let message = format!("`min: {least}` is more than `max: {most}`");
        problems.push(Diagnostic::new(Code::ParamBadDefault, span, message).through(node.alias));
    }
    Allowed { choices: None, min, max }
}

fn kind(word: &str) -> Option<ParamType> {
    [ParamType::String, ParamType::Integer, ParamType::Float, ParamType::Boolean, ParamType::Path]
        .into_iter()
        .find(|kind| kind.word() == word)
}

fn read_choices(node: &Node, kind: ParamType, folder: &Path, problems: &mut Vec<Diagnostic>) -> Option<Vec<Json>> {
    let choices = node.get("choices").filter(|choices| !choices.items().is_empty())?;
    let mut values = Vec::new();
    for choice in choices.items() {
        match typed(&choice.value, kind) {
            Some(value) => values.push(located(value, kind, folder)),
            None => problems.push(mismatch("this choice", choice, kind)),
        }
    }
    Some(values)
}

fn check_default(
    node: &Node,
    kind: ParamType,
    folder: &Path,
    allowed: &Allowed,
    problems: &mut Vec<Diagnostic>,
) -> Option<Json> {
    let Some(value) = typed(&node.value, kind) else {
        problems.push(mismatch("the default", node, kind));
        return None;
    };
    let value = located(value, kind, folder);
    if let Some((reason, help)) = allowed.refuses(&value) {
        let message = format!("the default {value} is {reason}");
        problems.push(Diagnostic::new(Code::ParamBadDefault, node.span, message).help(help).through(node.alias));
        return None;
    }
    Some(value)
}

fn mismatch(what: &str, node: &Node, kind: ParamType) -> Diagnostic {
    let message = format!("{what} is {}, but the param's type is `{}`", node.type_word(), kind.word());
    Diagnostic::new(Code::ParamBadDefault, node.span, message)
        .label(format!("not {}", with_article(kind)))
        .through(node.alias)
}

fn with_article(kind: ParamType) -> String {
    let article = if kind == ParamType::Integer { "an" } else { "a" };
    format!("{article} {}", kind.word())
}

fn listed(choices: &[Json]) -> String {
    let words: Vec<String> = choices.iter().map(Json::to_string).collect();
    format!("choose from {}", words.join(", "))
}

fn typed(value: &Value, kind: ParamType) -> Option<Json> {
    match (kind, value) {
        (ParamType::String | ParamType::Path, Value::String(text)) => Some(text.text.clone().into()),
        (ParamType::Integer, Value::Number(number)) if number.is_i64() => Some(Json::Number(number.clone())),
        (ParamType::Float, Value::Number(number)) => number.as_f64().map(Json::from),
        (ParamType::Boolean, Value::Bool(value)) => Some((*value).into()),
        _ => None,
    }
}

/// Makes a path absolute, as its meaning depends on where it was written.
fn located(value: Json, kind: ParamType, base: &Path) -> Json {
    match (kind, value) {
        (ParamType::Path, Json::String(path)) => join(base, &path).into(),
        (_, value) => value,
    }
}

/// `-` and URLs are no files and stay as they are.
fn join(base: &Path, path: &str) -> String {
    if path == "-" || path.contains("://") {
        return path.to_owned();
    }
    let joined: PathBuf = base.join(path).components().collect();
    joined.to_string_lossy().into_owned()
}

fn from_command_line(
    name: &str,
    text: &str,
    kind: ParamType,
    given: &Given,
    allowed: &Allowed,
) -> Result<Json, Diagnostic> {
    let value = match kind {
        ParamType::String => Some(Json::from(text)),
        ParamType::Path => Some(join(&given.current_dir, text).into()),
        ParamType::Integer => text.parse::<i64>().ok().map(Json::from),
        ParamType::Float => text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Json::from),
        ParamType::Boolean => text.parse::<bool>().ok().map(Json::from),
    };
    let Some(value) = value else {
        let message = format!("`{name}={text}`: `{text}` is not {}", with_article(kind));
        return Err(Diagnostic::without_place(Code::ParamBadValue, message));
    };
    match allowed.refuses(&value) {
        Some((reason, help)) => {
            let message = format!("`{name}={text}`: {reason}");
            Err(Diagnostic::without_place(Code::ParamBadValue, message).help(help))
        }
        None => Ok(value),
    }
}
