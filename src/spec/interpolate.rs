//! `${{ expr }}` in string scalars of the tree. Substitution comes after parsing, so that no value can change the structure
//! of the file.

use std::collections::{BTreeMap, BTreeSet};

use minijinja::{Environment, UndefinedBehavior};
use serde_json::{Map, Value as Json, json};

use super::foreach::Each;
use super::given::{Completeness, Given};
use super::params::Param;
use super::tree::{Node, Step, Text, TextStyle, Value};
use crate::diagnostic::{Code, Diagnostic, SourceText, Span, did_you_mean, nearest};

/// Bytes that an expression may have: its parser calls itself for each of its operators.
const LENGTH_MAX: usize = 1000;

/// The names that expressions can use.
pub struct Names<'a> {
    source: &'a SourceText,
    /// `None` where params cannot be used: in their own defaults.
    params: Option<&'a [Param]>,
    env: &'a BTreeMap<String, String>,
    secrets: &'a BTreeMap<String, String>,
    completeness: Completeness,
    values: minijinja::Value,
    /// The variables of the `foreach` that is being expanded, and their values as far as they are known.
    each: Option<(Each, minijinja::Value)>,
    engine: Environment<'static>,
}

/// What interpolation found beside the values.
#[derive(Default)]
pub struct Found {
    pub problems: Vec<Diagnostic>,
    /// Params that some expression uses.
    pub used: BTreeSet<String>,
    /// Values of secrets, and of expressions with secrets, and what they are called.
    pub secrets: BTreeMap<String, String>,
}

impl<'a> Names<'a> {
    pub fn new(source: &'a SourceText, params: Option<&'a [Param]>, given: &'a Given, run_name: &str) -> Self {
        let mut engine = Environment::new();
        engine.set_undefined_behavior(UndefinedBehavior::Strict);
        let known = params.unwrap_or_default().iter();
        let values: Map<String, Json> =
            known.filter_map(|param| Some((param.name.clone(), param.value.clone()?))).collect();
        let values = json!({ "params": values, "env": given.env, "run": { "seed": given.seed, "name": run_name } });
        Self {
            source,
            params,
            env: &given.env,
            secrets: &given.secrets,
            completeness: given.completeness,
            values: engine_value(&values),
            each: None,
            engine,
        }
    }

    /// Sets what `each` stands for from now on.
    pub fn set_each(&mut self, each: Option<Each>) {
        self.each = each.map(|each| {
            let known = each.iter().filter_map(|(name, value)| Some((name.as_str(), engine_value(value.as_ref()?))));
            let values = minijinja::Value::from_pairs(known);
            (each, values)
        });
    }

    /// All values that expressions can use. Of secrets, those that this one names.
    fn values(&self, secrets: &BTreeMap<&str, &str>) -> minijinja::Value {
        let secrets =
            minijinja::Value::from_pairs(secrets.iter().map(|(name, value)| (*name, minijinja::Value::from(*value))));
        match &self.each {
            Some((_, each)) => minijinja::context! { each => each, secrets => secrets, ..self.values.clone() },
            None => minijinja::context! { secrets => secrets, ..self.values.clone() },
        }
    }

    /// A secret of that name: of the file of secrets, or else of the environment.
    fn secret(&self, name: &str) -> Option<&str> {
        let given = self.secrets.get(name).or_else(|| self.env.get(name)).map(String::as_str);
        // A workflow gives an empty text for one that it does not have.
        given.filter(|secret| !secret.is_empty())
    }

    /// Text that looks like an expression of this or another tool, and is none.
    fn nearly(&self, text: &Text, span: Span, alias: Option<Span>) -> Option<Diagnostic> {
        let starts = ["{{", "${"].into_iter().filter_map(|start| Some((text.text.find(start)?, start)));
        let (at, start) = starts.min()?;
        let inner = text.text[at + start.len()..].trim_start();
        let name = |namespace: &str| {
            let name = inner.strip_prefix(namespace)?.strip_prefix('.')?;
            let end = name.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(name.len());
            (end > 0).then(|| format!("{namespace}.{}", &name[..end]))
        };
        let name = ["params", "env", "secrets", "run", "each"].into_iter().find_map(name)?;
        let problem =
            Diagnostic::new(Code::ExprAsText, span, format!("`{start}` begins no expression, so that this is text"));
        Some(problem.help(format!("did you mean `${{{{ {name} }}}}`?")).through(alias))
    }

    /// Substitutes in every string from `node` down. `path` is the path to `node`.
    pub fn substitute(&self, node: &mut Node, path: &mut Vec<Step>, found: &mut Found) {
        match &mut node.value {
            Value::Mapping(entries) => {
                for entry in entries.iter_mut().filter(|entry| !entry.key.name.starts_with("x-")) {
                    path.push(Step::Key(entry.key.name.clone()));
                    self.substitute(&mut entry.value, path, found);
                    path.pop();
                }
            }
            Value::Sequence(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    path.push(Step::Index(index));
                    self.substitute(item, path, found);
                    path.pop();
                }
            }
            Value::String(text) if !text.text.contains("${{") => {
                found.problems.extend(self.nearly(text, node.span, node.alias));
            }
            Value::String(text) => {
                let text = text.clone();
                let is_recorded = is_recorded(path);
                let scalar = Scalar { names: self, text: &text, span: node.span, alias: node.alias, is_recorded };
                node.value = scalar.value(forbidden(path), found);
                if let (true, Value::Number(_) | Value::Bool(_)) = (is_argument(path), &node.value) {
                    node.value = string(as_text(&node.to_json()), TextStyle::Quoted);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Unresolved(_) => {}
        }
    }
}

/// Whether the value is recorded on disk by a run, where it has to be what it is: packages, paths, names.
fn is_recorded(path: &[Step]) -> bool {
    const KEYS: [&str; 8] = ["foreach", "read", "write", "inputs", "outputs", "cwd", "checkpoint", "uses"];
    let keys = path.iter().filter_map(|step| match step {
        Step::Key(key) => Some(key.as_str()),
        Step::Index(_) => None,
    });
    match keys.collect::<Vec<_>>().as_slice() {
        ["stages" | "shared" | "on_failure" | "finally", _, rest @ ..] => {
            rest.iter().take(2).any(|key| KEYS.contains(key)) && !matches!(rest, ["env" | "python", ..])
        }
        ["defaults", rest @ ..] => !matches!(rest, ["env", ..]),
        _ => true,
    }
}

/// Whether the value is a program's argument, which is text whatever the expression gives.
fn is_argument(path: &[Step]) -> bool {
    match path {
        [Step::Key(section), _, Step::Key(command), rest @ .., Step::Index(_)]
            if matches!(section.as_str(), "stages" | "on_failure" | "finally") =>
        {
            command == "command" && rest.iter().all(|step| *step == Step::Key("run".to_owned()))
        }
        _ => false,
    }
}

/// Where text is code in another language, so that pasting a value into it would be an injection.
fn forbidden(path: &[Step]) -> Option<Code> {
    let keys: Vec<&str> = path
        .iter()
        .filter_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
        .collect();
    match keys.as_slice() {
        ["stages" | "shared", _, "sql"] | ["stages" | "shared", _, "sql", "query"] => Some(Code::ExprInSql),
        ["stages", _, "expect", "where"] => Some(Code::ExprInSql),
        ["stages" | "on_failure" | "finally", _, "command", "shell"] => Some(Code::ExprInShell),
        _ => None,
    }
}

struct Scalar<'a> {
    names: &'a Names<'a>,
    text: &'a Text,
    span: Span,
    alias: Option<Span>,
    /// What stands here is written down, outside the run's own folder.
    is_recorded: bool,
}

enum Piece<'a> {
    Text(&'a str),
    /// The escape `$${{` stands for `${{`.
    Escape,
    /// With its braces, and without.
    Expression(&'a str, &'a str),
    /// An expression without end.
    Open(&'a str),
}

/// The value of one expression.
enum Evaluated {
    Known(Json),
    Unresolved,
}

impl Scalar<'_> {
    fn value(&self, forbidden: Option<Code>, found: &mut Found) -> Value {
        let pieces = pieces(&self.text.text);
        let unresolved = || Value::Unresolved(self.text.text.clone());
        let mut values = Vec::new();
        let mut is_known = true;
        for piece in &pieces {
            match piece {
                Piece::Text(text) => values.push(Json::from(*text)),
                Piece::Escape => values.push("${{".into()),
                Piece::Open(raw) => {
                    let problem = self.problem(Code::ExprSyntax, raw, "this `${{` has no `}}`");
                    found.problems.push(problem.help("write `$${{` for the characters themselves".to_owned()));
                    is_known = false;
                }
                Piece::Expression(raw, expression) => match forbidden {
                    Some(code) => {
                        // The intent counts as a use; a second complaint about an unused param would not help.
                        found.used.extend(expression.trim().strip_prefix("params.").map(str::to_owned));
                        found.problems.push(self.refuse(code, raw, expression));
                        is_known = false;
                    }
                    None => match self.evaluate(raw, expression, found) {
                        Ok(Evaluated::Known(value)) => values.push(value),
                        Ok(Evaluated::Unresolved) => is_known = false,
                        Err(problem) => {
                            found.problems.push(problem);
                            is_known = false;
                        }
                    },
                },
            }
        }
        match (is_known, pieces.as_slice(), values.as_slice()) {
            (false, ..) => unresolved(),
            (true, [Piece::Expression(..)], [value]) => tree_value(value, self.span, self.alias),
            (true, ..) => string(values.iter().map(as_text).collect(), self.text.style),
        }
    }

    fn problem(&self, code: Code, raw: &str, message: impl Into<String>) -> Diagnostic {
        // Escapes and line folding can make the text differ from the file; then the whole scalar is the place.
        let span = match self.names.source.slice(self.span).find(raw) {
            Some(at) => Span::new(self.span.start + at, self.span.start + at + raw.len()),
            None => self.span,
        };
        Diagnostic::new(code, span, message).through(self.alias)
    }

    fn refuse(&self, code: Code, raw: &str, expression: &str) -> Diagnostic {
        let place = if code == Code::ExprInSql { "SQL" } else { "a shell script" };
        let message = format!("an expression cannot be pasted into {place}");
        let help = match expression.trim().strip_prefix("params.") {
            Some(name) if code == Code::ExprInSql => format!("write `${name}`: it is bound as a value"),
            Some(name) => format!("write `\"${name}\"`: params are environment variables of the script"),
            None if expression.trim().starts_with("secrets.") && code == Code::ExprInShell => {
                let name = expression.trim().trim_start_matches("secrets.");
                format!(
                    "write `env: {{ {name}: \"${{{{ secrets.{name} }}}}\" }}` in the stage, and `\"${name}\"` in the script"
                )
            }
            None if expression.trim().starts_with("secrets.") => "a query cannot use secrets".to_owned(),
            None if code == Code::ExprInShell && expression.trim().starts_with("each.") => {
                "give it to the script as a variable, with `env`".to_owned()
            }
            None => "make it a param and use it as `$name`".to_owned(),
        };
        self.problem(code, raw, message).help(help)
    }

    fn evaluate(&self, raw: &str, expression: &str, found: &mut Found) -> Result<Evaluated, Diagnostic> {
        let names = self.names;
        if expression.len() > LENGTH_MAX {
            let message =
                format!("an expression has at most {LENGTH_MAX} bytes, and this one has {}", expression.len());
            let place = raw.lines().next().unwrap_or_default().chars().take(20).collect::<String>();
            return Err(self.problem(Code::ExprSyntax, &place, message));
        }
        let compiled = names
            .engine
            .compile_expression(expression.trim())
            .map_err(|error| self.problem(Code::ExprSyntax, raw, format!("not an expression: {}", reason(&error))))?;
        let mut is_open = false;
        let mut variables: Vec<String> = compiled.undeclared_variables(true).into_iter().collect();
        variables.sort_unstable();
        for variable in &variables {
            is_open |= self.check_name(raw, variable, found)?;
        }
        if is_open {
            return Ok(Evaluated::Unresolved);
        }
        let unset =
            variables.iter().filter_map(|name| name.strip_prefix("env.")).find(|name| !names.env.contains_key(*name));
        let failed = |reason: String| match unset {
            Some(_) if names.completeness == Completeness::Partial => Ok(Evaluated::Unresolved),
            Some(name) => {
                let message = format!("the environment variable `{name}` is not set");
                let help = format!("set it, or give a fallback: `${{{{ env.{name} | default('…') }}}}`");
                Err(self.problem(Code::ExprUnknownName, raw, message).help(help))
            }
            None => Err(self.problem(Code::ExprFailed, raw, format!("the expression has no value: {reason}"))),
        };
        let secrets = variables.iter().filter_map(|name| name.strip_prefix("secrets."));
        let secrets: BTreeMap<&str, &str> = secrets.filter_map(|name| Some((name, names.secret(name)?))).collect();
        found.secrets.extend(secrets.iter().map(|(name, secret)| ((*secret).to_owned(), (*name).to_owned())));
        let has_secret = !secrets.is_empty();
        match compiled.eval(names.values(&secrets)) {
            Ok(value) if value.is_undefined() => failed("it is undefined".to_owned()),
            Ok(value) => match serde_json::to_value(&value) {
                Ok(value) => {
                    // A filter may have made something else of it, which is one as well.
                    if let (true, Json::String(text)) = (has_secret, &value) {
                        found.secrets.entry(text.clone()).or_insert_with(|| expression.trim().to_owned());
                    }
                    Ok(Evaluated::Known(value))
                }
                Err(error) => failed(error.to_string()),
            },
            Err(error) => failed(reason(&error)),
        }
    }

    /// Returns whether the value of the variable is left open.
    fn check_name(&self, raw: &str, variable: &str, found: &mut Found) -> Result<bool, Diagnostic> {
        let mut parts = variable.split('.');
        let (root, member) = (parts.next().unwrap_or_default(), parts.next());
        let unknown = |message: String, help| Err(self.problem(Code::ExprUnknownName, raw, message).help(help));
        match (root, member) {
            ("params", _) if self.names.params.is_none() => {
                unknown("a default cannot use params".to_owned(), Some("it can use `env` and `run`".to_owned()))
            }
            ("params", Some(name)) => {
                let params = self.names.params.unwrap_or_default();
                let Some(param) = params.iter().find(|param| param.name == name) else {
                    let help = did_you_mean(name, params.iter().map(|param| param.name.as_str()));
                    return unknown(format!("there is no param `{name}`"), help);
                };
                found.used.insert(name.to_owned());
                Ok(param.value.is_none())
            }
            ("secrets", _) if self.names.params.is_none() => unknown(
                "a default cannot use secrets".to_owned(),
                Some("use the secret where it is needed: `${{ secrets.NAME }}`".to_owned()),
            ),
            ("secrets", _) if self.is_recorded => unknown(
                "a secret cannot stand here, as what stands here is written down".to_owned(),
                Some("give it to code with `with` or `env`; an installer of packages has means of its own, such as `.netrc`".to_owned()),
            ),
            ("secrets", None) => {
                unknown("which of the secrets is meant?".to_owned(), Some("write `secrets.NAME`".to_owned()))
            }
            // A check needs none.
            ("secrets", Some(_)) if self.names.completeness == Completeness::Partial => Ok(true),
            ("secrets", Some(name)) if self.names.secret(name).is_none() => {
                let near = nearest(name, self.names.secrets.keys().map(String::as_str));
                let help = match near {
                    Some(near) => format!("the file of `--secrets-file` has `{near}`"),
                    None => {
                        format!("set the environment variable `{name}`, or give it in the file of `--secrets-file`")
                    }
                };
                let is_empty = self.names.secrets.contains_key(name) || self.names.env.contains_key(name);
                let what = if is_empty { "is empty" } else { "is not given" };
                unknown(format!("the secret `{name}` {what}"), Some(help))
            }
            ("run", Some(name)) if !["seed", "name"].contains(&name) => {
                unknown(format!("`run` has no `{name}`"), did_you_mean(name, ["seed", "name"]))
            }
            ("each", member) => match &self.names.each {
                // What is wrong with the `foreach` is said already.
                Some((each, _)) if each.is_empty() => Ok(true),
                Some((each, _)) => match member.map(|name| (name, each.iter().find(|(known, _)| known == name))) {
                    Some((_, Some((_, value)))) => Ok(value.is_none()),
                    Some((name, None)) => {
                        let help = did_you_mean(name, each.iter().map(|(known, _)| known.as_str()));
                        unknown(format!("`foreach` of this stage has no variable `{name}`"), help)
                    }
                    None => Ok(each.iter().any(|(_, value)| value.is_none())),
                },
                None => {
                    let help = "give the stage a `foreach`, or use the variable in the stage that has it";
                    unknown("`each` is known only in a stage with `foreach`".to_owned(), Some(help.to_owned()))
                }
            },
            ("params" | "env" | "secrets" | "run", _) => Ok(false),
            _ if self.names.engine.globals().any(|(name, _)| name == root) => Ok(false),
            _ => {
                let params = self.names.params.unwrap_or_default();
                let help = match params.iter().find(|param| param.name == root) {
                    Some(param) => Some(format!("did you mean `params.{}`?", param.name)),
                    None => did_you_mean(root, ["params", "env", "secrets", "run"]),
                };
                unknown(format!("`{root}` is not known in expressions"), help)
            }
        }
    }
}

fn engine_value(value: &Json) -> minijinja::Value {
    match value {
        Json::Null => minijinja::Value::from(()),
        Json::Bool(value) => (*value).into(),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(value), ..) => value.into(),
            (_, Some(value), _) => value.into(),
            (.., value) => value.unwrap_or(f64::NAN).into(),
        },
        Json::String(text) => text.as_str().into(),
        Json::Array(items) => items.iter().map(engine_value).collect(),
        Json::Object(object) => {
            minijinja::Value::from_pairs(object.iter().map(|(name, value)| (name.as_str(), engine_value(value))))
        }
    }
}

fn reason(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
}

/// Cuts a string at its expressions.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find("${{") {
        let escaped = rest[..at].ends_with('$');
        let before = &rest[..at - usize::from(escaped)];
        if !before.is_empty() {
            pieces.push(Piece::Text(before));
        }
        let start = &rest[at..];
        if escaped {
            pieces.push(Piece::Escape);
            rest = &start[3..];
            continue;
        }
        let Some(length) = expression_length(&start[3..]) else {
            pieces.push(Piece::Open(start));
            return pieces;
        };
        pieces.push(Piece::Expression(&start[..length + 5], &start[3..length + 3]));
        rest = &start[length + 5..];
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest));
    }
    pieces
}

/// Bytes up to the `}}` that ends the expression: not one in a string or of a nested mapping.
fn expression_length(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match (quote, character) {
            (Some(_), '\\') => {
                characters.next();
            }
            (Some(open), _) if character == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(character),
            (None, '{') => depth += 1,
            (None, '}') if depth > 0 => depth -= 1,
            (None, '}') if text[at..].starts_with("}}") => return Some(at),
            (None, _) => {}
        }
    }
    None
}

fn as_text(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Null => String::new(),
        other => other.to_string(),
    }
}

fn string(text: String, style: TextStyle) -> Value {
    Value::String(Text { text, style })
}

fn tree_value(value: &Json, span: Span, alias: Option<Span>) -> Value {
    let node = |value: &Json| Node { value: tree_value(value, span, alias), span, alias };
    match value {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Number(number.clone()),
        Json::String(text) => string(text.clone(), TextStyle::Quoted),
        Json::Array(items) => Value::Sequence(items.iter().map(node).collect()),
        Json::Object(object) => Value::Mapping(
            object
                .iter()
                .map(|(name, value)| super::tree::Entry {
                    key: super::tree::Key { name: name.clone(), span, alias },
                    value: node(value),
                })
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(text: &str) -> Vec<String> {
        let show = |piece: &Piece<'_>| match piece {
            Piece::Text(text) => format!("text {text}"),
            Piece::Escape => "escape".to_owned(),
            Piece::Expression(_, inner) => format!("expression {}", inner.trim()),
            Piece::Open(_) => "open".to_owned(),
        };
        pieces(text).iter().map(show).collect()
    }

    #[test]
    fn a_string_is_cut_at_its_expressions() {
        assert_eq!(shape("a ${{ b }} c"), ["text a ", "expression b", "text  c"]);
        assert_eq!(shape("${{ {'a': {'b': 1}} }}"), ["expression {'a': {'b': 1}}"]);
        assert_eq!(shape("${{ '}}' }}${{x}}"), ["expression '}}'", "expression x"]);
        assert_eq!(shape("$${{ b }}"), ["escape", "text  b }}"]);
        assert_eq!(shape("x ${{ b }"), ["text x ", "open"]);
    }
}
