//! [`markdown`]: every key of a pipeline file, as the schema has it, which is `docs/reference.md`.
//!
//! The schema is walked from the file down. Each mapping whose keys are the language's gets a section, where it is first met, and each of
//! its keys an anchor that is its place: `stages-retry-attempts`.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::hover::written;
use super::pattern::{self, Pattern};
use super::schema::{self, EXPRESSION_PATTERN, NAME_PATTERN};

const INTRODUCTION: &str = "\
# Reference of the pipeline file

Every key that a pipeline file may have, with its type, its default and an example. This page is made from the JSON Schema
([schema/pipeline.schema.json](../schema/pipeline.schema.json)) by `millpond schema --of reference`. What the keys do together, and what becomes of
rows, is told in [The pipeline file](pipeline.md).

- `<name>` is a name that you choose: small letters, digits and `_`, beginning with a letter.
- Where a number, a boolean or one of some words is expected, an expression may stand: `${{ params.name }}`. In params, it may not.
- A key that begins with `x-` may stand in any mapping, with any value.

";

/// A name that the user chooses, in a place.
const CHOSEN: &str = "<name>";

/// Kinds of text, what they are called here, and what of them is shown.
const TEXTS: [(&str, &Pattern); 5] = [
    ("size", &pattern::SIZE),
    ("time", &pattern::DURATION),
    ("rate", &pattern::RATE),
    ("`module:name`", &pattern::CALL),
    ("type of a column", &pattern::COLUMN_TYPE),
];

/// Where `docs/pipeline.md` tells of a mapping.
const TOLD: [(&str, &str); 18] = [
    ("", "top-level"),
    ("params.<name>", "params"),
    ("python", "python-environment"),
    ("shared.<name>", "shared"),
    ("defaults", "defaults"),
    ("on_failure.<name>", "when-a-run-has-ended"),
    ("resources.<name>", "resources"),
    ("stages.<name>", "keys-of-every-stage"),
    ("stages.<name>.read", "read"),
    ("stages.<name>.write", "write"),
    ("stages.<name>.sql", "sql"),
    ("stages.<name>.python", "python"),
    ("stages.<name>.command", "command"),
    ("stages.<name>.batch", "order-and-batches"),
    ("stages.<name>.timeout", "time"),
    ("stages.<name>.retry", "failing-rows"),
    ("stages.<name>.on_error.reject", "limits"),
    ("stages.<name>.checkpoint", "checkpoints"),
];

/// A mapping whose keys are the language's.
struct Mapping<'a> {
    /// Where it may stand; first where it is met first.
    places: Vec<String>,
    schema: &'a Value,
}

/// The page.
pub fn markdown() -> String {
    let schema = schema::plain().to_value();
    let page = Page { root: &schema, mappings: mappings(&schema) };
    let mut text = INTRODUCTION.to_owned();
    page.texts(&mut text);
    page.contents(&mut text);
    for mapping in &page.mappings {
        page.section(&mut text, mapping);
    }
    text
}

/// All of them, in the order of the file.
fn mappings(root: &Value) -> Vec<Mapping<'_>> {
    let mut found = Vec::new();
    // What may stand in several places is a matter of stages first.
    let stages = &root["properties"]["stages"];
    found.push(Mapping { places: vec![String::new()], schema: root });
    collect(root, stages, "stages", &mut found);
    let keys = || root["properties"].as_object().into_iter().flatten();
    for (key, schema) in keys().filter(|(key, _)| *key != "stages") {
        collect(root, schema, key, &mut found);
    }
    let section = |mapping: &Mapping<'_>| mapping.places[0].split('.').next().unwrap_or_default().to_owned();
    found.sort_by_key(|mapping| keys().position(|(key, _)| *key == section(mapping)));
    found
}

fn collect<'a>(root: &'a Value, schema: &'a Value, place: &str, found: &mut Vec<Mapping<'a>>) {
    let schema = resolved(root, schema);
    if let Some(keys) = schema["properties"].as_object() {
        if let Some(known) = found.iter_mut().find(|known| known.schema == schema) {
            known.places.push(place.to_owned());
            return;
        }
        found.push(Mapping { places: vec![place.to_owned()], schema });
        keys.iter().for_each(|(key, value)| collect(root, value, &below(place, key), found));
    }
    if let Some(value) = schema["patternProperties"].get(NAME_PATTERN) {
        collect(root, value, &below(place, CHOSEN), found);
    }
    schema["anyOf"].as_array().into_iter().flatten().for_each(|choice| collect(root, choice, place, found));
}

fn below(place: &str, key: &str) -> String {
    if place.is_empty() { key.to_owned() } else { format!("{place}.{key}") }
}

fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let target = schema["$ref"].as_str().and_then(|to| root.pointer(to.trim_start_matches('#')));
    target.unwrap_or(schema)
}

fn anchor(place: &str) -> String {
    place.replace(&format!(".{CHOSEN}"), "").replace('.', "-")
}

fn title(place: &str) -> String {
    if place.is_empty() { "The file".to_owned() } else { format!("`{place}`") }
}

struct Page<'a> {
    root: &'a Value,
    mappings: Vec<Mapping<'a>>,
}

impl Page<'_> {
    /// What tells the ways to write one value apart: a key that only this one has.
    fn mark<'m>(&self, mapping: &'m Mapping<'_>) -> Option<&'m str> {
        let place = &mapping.places[0];
        let is_alone = self.mappings.iter().filter(|other| other.places[0] == *place).count() == 1;
        mapping.schema["required"].get(0).and_then(Value::as_str).filter(|_| !is_alone)
    }

    fn title(&self, mapping: &Mapping<'_>) -> String {
        let title = title(&mapping.places[0]);
        self.mark(mapping).map_or_else(|| title.clone(), |key| format!("{title} with `{key}`"))
    }

    /// The anchor of a section: that of its key has the same name without what is in front.
    fn anchor(&self, mapping: &Mapping<'_>) -> String {
        let place = &mapping.places[0];
        let name = if place.is_empty() { "file".to_owned() } else { anchor(place) };
        self.mark(mapping).map_or_else(|| format!("keys-of-{name}"), |key| format!("keys-of-{name}-with-{key}"))
    }

    fn texts(&self, text: &mut String) {
        text.push_str("Some values are text of a kind:\n\n| kind | what it looks like |\n|---|---|\n");
        for (name, pattern) in TEXTS {
            let schema = pattern.schema();
            let message = schema["patternErrorMessage"].as_str().unwrap_or_default();
            // A bar would end the cell, and an angle bracket begin HTML.
            let message = message.replace('|', "\\|").replace('<', "\\<");
            writeln!(text, "| {name} | {message} |").expect("text takes text");
        }
        text.push('\n');
    }

    fn contents(&self, text: &mut String) {
        text.push_str("## Mappings\n\n");
        for mapping in &self.mappings {
            writeln!(text, "- [{}](#{})", self.title(mapping), self.anchor(mapping)).expect("text takes text");
        }
    }

    fn section(&self, text: &mut String, mapping: &Mapping<'_>) {
        let [place, others @ ..] = mapping.places.as_slice() else { return };
        write!(text, "\n## <a id=\"{}\"></a>{}\n\n", self.anchor(mapping), self.title(mapping))
            .expect("text takes text");
        if let Some(description) = mapping.schema["description"].as_str() {
            text.push_str(&format!("{description}\n\n"));
        }
        if !others.is_empty() {
            let others: Vec<String> = others.iter().map(|place| title(place)).collect();
            text.push_str(&format!("It may also stand at {}.\n\n", others.join(", ")));
        }
        if let Some((_, heading)) = TOLD.iter().find(|(told, _)| told == place) {
            text.push_str(&format!("[More about it](pipeline.md#{heading}).\n\n"));
        }
        let required: Vec<&str> =
            mapping.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let keys = mapping.schema["properties"].as_object().into_iter().flatten();
        let keys: Vec<String> = keys
            .map(|(key, schema)| self.key(&below(place, key), key, schema, required.contains(&key.as_str())))
            .collect();
        text.push_str(&keys.join("\n"));
    }

    fn key(&self, place: &str, key: &str, schema: &Value, required: bool) -> String {
        let mut text = format!("### <a id=\"{}\"></a>`{key}`\n\n", anchor(place));
        if let Some(description) = schema["description"].as_str() {
            text.push_str(&format!("{description}\n\n"));
        }
        let words = self.words(schema);
        match self.forms(schema).as_slice() {
            [_] if !words.is_empty() => text.push_str("- Type: one of these words\n"),
            [(form, _)] => text.push_str(&format!("- Type: {form}\n")),
            forms => {
                text.push_str("- Type: one of\n");
                for (form, meaning) in forms {
                    let meaning = meaning.map_or_else(String::new, |meaning| format!(": {meaning}"));
                    text.push_str(&format!("  - {form}{meaning}\n"));
                }
                if !words.is_empty() {
                    text.push_str("- Words:\n");
                }
            }
        }
        words.iter().for_each(|(word, meaning)| text.push_str(&format!("  - `{word}`: {meaning}\n")));
        if required {
            text.push_str("- Required\n");
        }
        if let Some(default) = schema.get("default") {
            text.push_str(&format!("- Default: {}\n", written(default)));
        }
        for example in schema["examples"].as_array().into_iter().flatten() {
            text.push_str(&format!("- Example: `{key}: {}`\n", flow(example)));
        }
        text
    }

    /// The ways to write a value, and what each means.
    fn forms<'a>(&'a self, schema: &'a Value) -> Vec<(String, Option<&'a str>)> {
        let own = schema["description"].as_str();
        let schema = resolved(self.root, schema);
        let Some(choices) = schema["anyOf"].as_array() else { return vec![(self.form(schema), own)] };
        let choices = choices.iter().filter(|choice| !is_expression(choice));
        let forms: Vec<_> = choices
            .flat_map(|choice| {
                let meaning = choice["description"].as_str();
                self.forms(choice).into_iter().map(move |(form, own)| (form, meaning.or(own)))
            })
            .collect();
        match forms.len() {
            1 => forms.into_iter().map(|(form, meaning)| (form, meaning.or(own))).collect(),
            _ => forms,
        }
    }

    /// A type in words.
    fn form(&self, schema: &Value) -> String {
        if let Some(value) = schema.get("const") {
            return written(value);
        }
        if let Some(words) = schema["enum"].as_array() {
            return words.iter().map(written).collect::<Vec<_>>().join(" or ");
        }
        if let Some((name, _)) = TEXTS.iter().find(|(_, pattern)| schema["pattern"] == pattern.schema()["pattern"]) {
            return (*name).to_owned();
        }
        let kinds: Vec<&str> = match &schema["type"] {
            Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
            kind => kind.as_str().into_iter().collect(),
        };
        match kinds.as_slice() {
            ["object", ..] => self.mapping(schema),
            ["array"] => {
                let items = self.forms(&schema["items"]).into_iter().map(|(form, _)| form).collect::<Vec<_>>();
                let items = items.join(" or ");
                match bounds(schema, "minItems", "maxItems") {
                    only if only == ", at least 1" => format!("list of {items}, not empty"),
                    bounds => format!("list of {items}{bounds}"),
                }
            }
            // A list, or an expression that gives one.
            ["array", ..] => "list".to_owned(),
            ["integer", ..] => format!("whole number{}", bounds(schema, "minimum", "maximum")),
            ["number", ..] => format!("number{}", bounds(schema, "minimum", "maximum")),
            ["boolean", ..] => "boolean".to_owned(),
            ["string", "number", "boolean"] => "text, number or boolean".to_owned(),
            _ if schema["maxLength"] == 1 => "one character".to_owned(),
            _ => "text".to_owned(),
        }
    }

    fn mapping(&self, schema: &Value) -> String {
        if let Some(known) = self.mappings.iter().find(|known| known.schema == schema) {
            return format!("mapping with [these keys](#{})", self.anchor(known));
        }
        let values = schema["patternProperties"].get(NAME_PATTERN).or_else(|| schema.get("additionalProperties"));
        match values {
            Some(values @ Value::Object(_)) => {
                let forms: Vec<String> = self.forms(values).into_iter().map(|(form, _)| form).collect();
                format!("mapping from names to {}", forms.join(", or to "))
            }
            _ => "mapping".to_owned(),
        }
    }

    /// The words of which a value is one, and what each means.
    fn words<'a>(&'a self, schema: &'a Value) -> Vec<(&'a str, &'a str)> {
        let schema = resolved(self.root, schema);
        let choices = schema["anyOf"].as_array().into_iter().flatten();
        let own = schema["enum"]
            .as_array()
            .into_iter()
            .flatten()
            .zip(0..)
            .filter_map(|(word, at)| Some((word.as_str()?, schema["enumDescriptions"].get(at)?.as_str()?)));
        let words: Vec<_> = own.chain(choices.flat_map(|choice| self.words(choice))).collect();
        // One word is a way of writing, which is explained as such.
        if words.len() > 1 { words } else { Vec::new() }
    }
}

fn is_expression(schema: &Value) -> bool {
    schema["pattern"] == EXPRESSION_PATTERN && schema["type"] == "string"
}

fn bounds(schema: &Value, least: &str, most: &str) -> String {
    let bound = |key: &str| schema.get(key).filter(|bound| bound.is_number());
    match (bound(least), bound(most)) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        (Some(least), None) => format!(", at least {least}"),
        (None, Some(most)) => format!(", at most {most}"),
        (None, None) => String::new(),
    }
}

/// A value in the flow style of YAML.
fn flow(value: &Value) -> String {
    match value {
        Value::String(text) if is_plain(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Value::Object(entries) => format!("{{ {} }}", entry_list(entries)),
        other => other.to_string(),
    }
}

fn entry_list(entries: &Map<String, Value>) -> String {
    entries.iter().map(|(key, value)| format!("{key}: {}", flow(value))).collect::<Vec<_>>().join(", ")
}

/// Whether text needs no quotes, wherever it stands.
fn is_plain(text: &str) -> bool {
    let is_word = |letter: char| letter.is_ascii_alphanumeric() || "_./ ".contains(letter);
    text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(is_word)
        && !text.ends_with(' ')
        && !["true", "false", "null"].contains(&text.to_ascii_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::diagnostic::SourceText;
    use crate::spec::yaml;

    /// `millpond schema --of reference > docs/reference.md` brings it up to date.
    #[test]
    fn the_page_in_the_repository_is_up_to_date() {
        let kept = include_str!("../../docs/reference.md");
        assert!(
            kept == markdown(),
            "docs/reference.md differs from the types; run `millpond schema --of reference` into it"
        );
    }

    #[test]
    fn every_key_has_an_anchor_of_its_own() {
        let schema = schema::plain().to_value();
        let found = mappings(&schema);
        let page = markdown();
        let mut anchors = BTreeSet::new();
        for mapping in &found {
            for key in mapping.schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key) {
                let anchor = anchor(&below(&mapping.places[0], key));
                assert!(page.contains(&format!("<a id=\"{anchor}\"></a>`{key}`\n")), "{anchor}");
                assert!(anchors.insert(anchor.clone()), "{anchor} stands for two keys");
            }
        }
        let all: Vec<&str> = page.split("<a id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "an anchor is there twice");
        // None of the definitions with keys is passed by.
        let keys = |schema: &Value| schema["properties"].as_object().map_or(0, Map::len);
        let defined: usize = schema["$defs"].as_object().into_iter().flatten().map(|(_, schema)| keys(schema)).sum();
        assert!(anchors.len() >= defined + keys(&schema), "{} of {defined} keys", anchors.len());
    }

    #[test]
    fn values_are_written_as_yaml_reads_them() {
        let odd =
            serde_json::json!([{ "a": [1, "two", "on: 3", "true", "*.csv", ""], "b": { "c": 0.5 } }, "SELECT 1", "#"]);
        let schema = schema::plain().to_value();
        let found = mappings(&schema);
        let keys = found.iter().flat_map(|mapping| mapping.schema["properties"].as_object().into_iter().flatten());
        let examples = keys.flat_map(|(_, key)| key["examples"].as_array().into_iter().flatten());
        for value in examples.chain(odd.as_array().into_iter().flatten()) {
            let source = SourceText::new("page.yaml", "/page.yaml", &format!("key: {}\n", flow(value)));
            let (read, problems) = yaml::parse(&source);
            assert!(problems.is_empty(), "{value}: {problems:?}");
            assert_eq!(read.expect("it is YAML").get("key").map(|it| it.to_json()), Some(value.clone()));
        }
    }
}
