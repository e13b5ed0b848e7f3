//! `foreach`: a stage that stands for many, one for each value of a list, or for each combination of the values of several.
//!
//! It is expanded in the tree, where its expressions are substituted; whatever comes later sees stages like any others. They keep the places
//! of the one that they come from.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;

use super::interpolate::{Found, Names};
use super::tree::{Entry, Key, Node, Step, Value};
use crate::diagnostic::{Code, Diagnostic, Span};

/// The key of a stage.
pub const FOREACH: &str = "foreach";

/// Stages that the `foreach`s of a file may make together.
const MOST_STAGES: usize = 100_000;
/// Bytes of a stage's name that come from values; with more, the stages are numbered.
const LONGEST_NAME: usize = 60;

/// Values of the variables, in the order of the file; `None` for one that is not known before the run.
pub type Each = Vec<(String, Option<Json>)>;

/// What a `foreach` has made.
#[derive(Clone, Debug, Default)]
pub struct Expansion {
    /// By the name of every stage that it made: the name in the file.
    pub of: BTreeMap<String, String>,
    /// Where the stages with `foreach` stand.
    pub spans: Vec<Span>,
}

/// Expands the stages in `section` and substitutes in all of them.
pub fn expand(section: &mut Node, names: &mut Names<'_>, found: &mut Found) -> Expansion {
    let mut expansion = Expansion::default();
    let Value::Mapping(entries) = &mut section.value else {
        names.substitute(section, &mut vec![Step::Key("stages".to_owned())], found);
        return expansion;
    };
    let written: BTreeSet<String> = entries.iter().map(|entry| entry.key.name.clone()).collect();
    let mut room = MOST_STAGES;
    for mut entry in std::mem::take(entries) {
        let mut path = vec![Step::Key("stages".to_owned()), Step::Key(entry.key.name.clone())];
        let Some(foreach) = take_foreach(&mut entry) else {
            if !entry.key.name.starts_with("x-") {
                names.substitute(&mut entry.value, &mut path, found);
            }
            entries.push(entry);
            continue;
        };
        expansion.spans.push(Span::new(entry.key.span.start, entry.value.span.end.max(entry.key.span.end)));
        let variables = variables(foreach, names, &mut path, found);
        let combinations = combinations(&entry.key, &variables, &mut room, found);
        let made = stage_names(&entry.key.name, &combinations);
        for (name, each) in made.into_iter().zip(combinations) {
            if written.contains(&name) && name != entry.key.name {
                found.problems.push(taken(&entry.key, &name));
                continue;
            }
            let mut value = entry.value.clone();
            names.set_each(Some(each));
            names.substitute(&mut value, &mut path, found);
            expansion.of.insert(name.clone(), entry.key.name.clone());
            entries.push(Entry { key: Key { name, ..entry.key.clone() }, value });
        }
        names.set_each(None);
    }
    expansion
}

fn take_foreach(entry: &mut Entry) -> Option<Entry> {
    let Value::Mapping(keys) = &mut entry.value.value else { return None };
    let at = keys.iter().position(|key| key.key.name == FOREACH)?;
    Some(keys.remove(at))
}

/// A variable and its values; `None` if they are not known.
type Variable = (String, Option<Vec<Json>>);

/// The variables of a `foreach`. What is wrong with it is reported, and counts as not known.
fn variables(mut foreach: Entry, names: &Names<'_>, path: &mut Vec<Step>, found: &mut Found) -> Vec<Variable> {
    path.push(Step::Key(FOREACH.to_owned()));
    names.substitute(&mut foreach.value, path, found);
    path.pop();
    let Value::Mapping(entries) = &foreach.value.value else {
        let message = format!("`foreach` is {}, and not a mapping", foreach.value.type_word());
        let problem = Diagnostic::new(Code::SpecWrongType, foreach.value.span, message).through(foreach.value.alias);
        found.problems.push(problem.help("write `foreach: { name: [first, second] }`".to_owned()));
        return Vec::new();
    };
    let variables = entries.iter().filter(|entry| !entry.key.name.starts_with("x-"));
    let variables: Vec<Variable> = variables
        .map(|entry| {
            if !is_name(&entry.key.name) {
                let message = format!("`{}` cannot be the name of a variable", entry.key.name);
                let help = "names have lower-case letters, digits and `_`, and begin with a letter";
                let problem = Diagnostic::new(Code::SpecBadName, entry.key.span, message).through(entry.key.alias);
                found.problems.push(problem.help(help.to_owned()));
            }
            (entry.key.name.clone(), values(entry, found))
        })
        .collect();
    if variables.is_empty() {
        let problem = Diagnostic::new(Code::SpecBadValue, foreach.key.span, "`foreach` has no variable");
        found.problems.push(problem.help("write `foreach: { name: [first, second] }`".to_owned()));
    }
    variables
}

fn values(entry: &Entry, found: &mut Found) -> Option<Vec<Json>> {
    let (name, node) = (&entry.key.name, &entry.value);
    let mut report = |code, message: String, help: &str| {
        found.problems.push(Diagnostic::new(code, node.span, message).help(help.to_owned()).through(node.alias));
        None
    };
    match &node.value {
        Value::Sequence(items) if items.is_empty() => {
            report(Code::SpecBadValue, format!("`{name}` has no values"), "without any, there would be no stage")
        }
        Value::Sequence(items) if items.iter().any(Node::is_unresolved) => None,
        Value::Sequence(items) => Some(items.iter().map(Node::to_json).collect()),
        Value::Unresolved(_) => None,
        _ => {
            let message = format!("the values of `{name}` are {}, and not a list", node.type_word());
            report(Code::SpecWrongType, message, "write a list, or an expression that gives one: `${{ range(1, 11) }}`")
        }
    }
}

/// Every combination of the values, the last variable changing fastest. One with open values if some are not known.
fn combinations(stage: &Key, variables: &[Variable], room: &mut usize, found: &mut Found) -> Vec<Each> {
    let open = || vec![variables.iter().map(|(name, _)| (name.clone(), None)).collect()];
    let lists: Option<Vec<&Vec<Json>>> = variables.iter().map(|(_, values)| values.as_ref()).collect();
    let Some(lists) = lists.filter(|lists| !lists.is_empty()) else { return open() };
    let count = lists.iter().fold(1_usize, |count, list| count.saturating_mul(list.len()));
    if count > *room {
        let message = format!("`foreach` of the stage `{}` makes {count} stages", stage.name);
        let problem = Diagnostic::new(Code::SpecBadValue, stage.span, message).through(stage.alias);
        found.problems.push(problem.help(format!("a file may have {MOST_STAGES} such stages")));
        return open();
    }
    *room -= count;
    let one = |mut at: usize| {
        let mut each: Each = Vec::with_capacity(lists.len());
        for ((name, _), list) in variables.iter().zip(&lists).rev() {
            each.push((name.clone(), Some(list[at % list.len()].clone())));
            at /= list.len();
        }
        each.reverse();
        each
    };
    (0..count).map(one).collect()
}

/// Names made of the values, `stage__de__2024`, or of numbers, if values make no names or the same ones. One stage whose values are not
/// known has the name in the file.
fn stage_names(stage: &str, combinations: &[Each]) -> Vec<String> {
    if let [each] = combinations
        && each.iter().any(|(_, value)| value.is_none()) | each.is_empty()
    {
        return vec![stage.to_owned()];
    }
    let named: Option<Vec<String>> = combinations.iter().map(|each| name_of(stage, each)).collect();
    let are_different = |names: &Vec<String>| names.iter().collect::<BTreeSet<_>>().len() == names.len();
    let numbered = || (1..=combinations.len()).map(|number| format!("{stage}__{number}")).collect();
    named.filter(are_different).unwrap_or_else(numbered)
}

fn name_of(stage: &str, each: &Each) -> Option<String> {
    let mut name = stage.to_owned();
    for (_, value) in each {
        let text = match value.as_ref()? {
            Json::String(text) => text.clone(),
            Json::Number(number) => number.to_string(),
            Json::Bool(value) => value.to_string(),
            Json::Null | Json::Array(_) | Json::Object(_) => return None,
        };
        let is_plain = |character: char| character.is_ascii_lowercase() || character.is_ascii_digit();
        name.push_str("__");
        let lower = text.to_lowercase();
        name.extend(lower.chars().map(|character| if is_plain(character) { character } else { '_' }));
    }
    (name.len() <= stage.len() + LONGEST_NAME).then_some(name)
}

fn taken(stage: &Key, name: &str) -> Diagnostic {
    let message = format!("`foreach` of the stage `{}` makes a stage `{name}`, which there is already", stage.name);
    let problem = Diagnostic::new(Code::SpecBadName, stage.span, message).through(stage.alias);
    problem.help("give one of them another name".to_owned())
}

fn is_name(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_lowercase())
        && word
            .chars()
            .all(|character| character.is_ascii_lowercase() || character.is_ascii_digit() || character == '_')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(values: &[&[Json]]) -> Vec<String> {
        let variables: Vec<Variable> =
            values.iter().enumerate().map(|(at, values)| (format!("v{at}"), Some(values.to_vec()))).collect();
        let key = Key { name: "s".to_owned(), span: Span::default(), alias: None };
        stage_names("s", &combinations(&key, &variables, &mut 100, &mut Found::default()))
    }

    #[test]
    fn stages_are_named_by_their_values() {
        let names = names(&[&[json!("de"), json!("en-GB")], &[json!(1), json!(true)]]);
        assert_eq!(names, ["s__de__1", "s__de__true", "s__en_gb__1", "s__en_gb__true"]);
    }

    #[test]
    fn values_that_make_no_names_are_numbered() {
        assert_eq!(names(&[&[json!("a b"), json!("a-b")]]), ["s__1", "s__2"]);
        assert_eq!(names(&[&[json!({"a": 1})]]), ["s__1"]);
        assert_eq!(names(&[&[json!("x".repeat(100))]]), ["s__1"]);
    }
}
