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
            let message = format!("`--set {name}=…`: the pipeline has no param `{name}`");
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
    };
    let Some(kind) = param.kind else { return param };
    let choices = read_choices(node, kind, folder, problems);
    let default = node.get("default").filter(|default| !default.is_unresolved());
    let default = default.and_then(|default| check_default(default, kind, folder, choices.as_deref(), problems));
    let set = given.set.iter().rev().find(|(name, _)| *name == param.name);
    param.value = match set {
        Some((_, text)) => from_command_line(&param.name, text, kind, given, choices.as_deref())
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
    choices: Option<&[Json]>,
    problems: &mut Vec<Diagnostic>,
) -> Option<Json> {
    let Some(value) = typed(&node.value, kind) else {
        problems.push(mismatch("the default", node, kind));
        return None;
    };
    let value = located(value, kind, folder);
    if let Some(choices) = choices.filter(|choices| !choices.contains(&value)) {
        let message = format!("the default {value} is not one of the choices");
        problems
            .push(Diagnostic::new(Code::ParamBadDefault, node.span, message).help(listed(choices)).through(node.alias));
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
    choices: Option<&[Json]>,
) -> Result<Json, Diagnostic> {
    let value = match kind {
        ParamType::String => Some(Json::from(text)),
        ParamType::Path => Some(join(&given.current_dir, text).into()),
        ParamType::Integer => text.parse::<i64>().ok().map(Json::from),
        ParamType::Float => text.parse::<f64>().ok().filter(|value| value.is_finite()).map(Json::from),
        ParamType::Boolean => text.parse::<bool>().ok().map(Json::from),
    };
    let Some(value) = value else {
        let message = format!("`--set {name}={text}`: `{text}` is not {}", with_article(kind));
        return Err(Diagnostic::without_place(Code::ParamBadValue, message));
    };
    match choices {
        Some(choices) if !choices.contains(&value) => {
            let message = format!("`--set {name}={text}`: not one of the choices");
            Err(Diagnostic::without_place(Code::ParamBadValue, message).help(listed(choices)))
        }
        _ => Ok(value),
    }
}
