//! The JSON Schema of pipeline files, generated from [`PipelineSpec`].

use std::sync::LazyLock;

use schemars::generate::SchemaSettings;
use schemars::transform::{Transform, transform_subschemas};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde_json::{Map, Value, json};

use super::model::{PipelineSpec, StageSpec, TestFileSpec};
use super::pattern::{self, Pattern};
use super::{hover, naming};

/// Keys that make a stage what it is.
pub const KINDS: [&str; 6] = ["read", "write", "sql", "python", "command", "pipeline"];

/// Those of them that what is shared may be made by.
pub const SHARED_KINDS: [&str; 3] = ["read", "sql", "python"];

/// Those of them that hooks may have.
pub const HOOK_KINDS: [&str; 2] = ["python", "command"];

/// Mappings that have exactly one of some keys.
const EITHER: [(&str, [&str; 2]); 3] =
    [("CommandOptions", ["run", "shell"]), ("DevicesSpec", ["units", "ids"]), ("SqlOptions", ["query", "file"])];

/// Those in test files.
const EITHER_IN_TESTS: [(&str, [&str; 2]); 2] = [("TestSpec", ["expect", "fails"]), ("GivenOptions", ["rows", "file"])];

/// What names of stages and params look like.
pub const NAME_PATTERN: &str = "^[a-z][a-z0-9_]*$";

/// Keys for the user's own use, such as a place for anchors.
const FREE_KEYS: &str = "^x-";

/// A string with an expression stands for a value of any type.
pub const EXPRESSION_PATTERN: &str = r"^\s*\$\{\{[\s\S]*\}\}\s*$";

/// The schema that files are checked against, made once.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(|| plain().to_value());

/// The schema that test files are checked against, made once.
pub static TESTS: LazyLock<Value> = LazyLock::new(|| plain_tests().to_value());

/// The schema of pipeline files as a JSON document, for editors.
pub fn schema() -> Value {
    for_editors(plain())
}

fn for_editors(mut schema: Schema) -> Value {
    hover::complete(&mut schema);
    let mut schema = schema.to_value();
    naming::complete(&mut schema);
    say_markdown(&mut schema);
    schema
}

/// Says of every description that it is Markdown: editors show the signs of one that is not.
fn say_markdown(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.values_mut().for_each(say_markdown);
            if let Some(Value::String(description)) = object.get("description") {
                let description = description.clone();
                object.insert("markdownDescription".to_owned(), description.into());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(say_markdown),
        _ => {}
    }
}

/// The schema in which every text stands once, in the place that it is about.
pub(super) fn plain() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    let mut schema = settings.into_generator().into_root_schema_for::<PipelineSpec>();
    tidy.transform(&mut schema);
    for (name, definition) in
        schema.as_object_mut().and_then(|root| root.get_mut("$defs")?.as_object_mut()).into_iter().flatten()
    {
        // Params are what expressions are made of: only their defaults may have any, and those take all scalars.
        if !name.starts_with("Param")
            && let Ok(definition) = <&mut Schema>::try_from(definition)
        {
            accept_expressions.transform(definition);
        }
    }
    complete_stage(&mut schema);
    schema
}

/// The schema of test files as a JSON document, for editors.
pub fn tests_schema() -> Value {
    for_editors(plain_tests())
}

/// There are no expressions in them.
fn plain_tests() -> Schema {
    let settings = SchemaSettings::draft2020_12().for_deserialize();
    let mut schema = settings.into_generator().into_root_schema_for::<TestFileSpec>();
    tidy.transform(&mut schema);
    require_one(&mut schema, &EITHER_IN_TESTS);
    schema
}

/// The schema as it is kept in `schema/pipeline.schema.json`.
pub fn text() -> String {
    pretty(&schema())
}

/// The schema as it is kept in `schema/test.schema.json`.
pub fn tests_text() -> String {
    pretty(&tests_schema())
}

fn pretty(schema: &Value) -> String {
    let mut text = serde_json::to_string_pretty(schema).expect("a schema is JSON");
    text.push('\n');
    text
}

/// The version of the language.
pub(super) fn version(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "const": 1 })
}

/// A mapping from names to `T`.
pub fn named<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "patternProperties": { NAME_PATTERN: generator.subschema_for::<T>() },
    })
}

pub(super) fn scalar(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": ["string", "number", "boolean"] })
}

pub(super) fn scalars(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "items": { "type": ["string", "number", "boolean"] } })
}

pub(super) fn scalar_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": { "type": ["string", "number", "boolean"] } })
}

/// A mapping from names to lists, or to expressions that give lists.
pub(super) fn lists(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "patternProperties": {
            NAME_PATTERN: { "type": ["array", "string"], "minItems": 1, "pattern": EXPRESSION_PATTERN },
        },
    })
}

pub(super) fn any_map(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "additionalProperties": true })
}

/// A mapping from columns to words for their types.
pub(super) fn columns(_: &mut SchemaGenerator) -> Schema {
    let mut words = pattern::COLUMN_TYPE.schema();
    let examples =
        ["string", "int64", "float64", "bool", "date", "timestamp", "timestamp[UTC]", "decimal(12,2)", "list<string>"];
    words.insert("examples".to_owned(), json!(examples));
    json_schema!({
        "type": "object",
        "additionalProperties": words,
        "examples": [{ "id": "int64", "text": "string" }],
    })
}

/// A list of names of ports.
pub(super) fn ports(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "items": pattern::NAME.schema() })
}

/// Names of what a pipeline is given.
pub(super) fn inputs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "minItems": 1, "items": pattern::NAME.schema() })
}

/// A mapping from names of ports to stages.
pub(super) fn outputs(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "minProperties": 1, "patternProperties": { NAME_PATTERN: { "type": "string" } } })
}

/// A mapping from names of ports to columns.
pub(super) fn columns_by_port(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "minProperties": 1,
        "patternProperties": { NAME_PATTERN: columns(generator) },
    })
}

/// A number of bytes with a unit.
pub(super) fn size(_: &mut SchemaGenerator) -> Schema {
    of(&pattern::SIZE)
}

/// A time with a unit.
pub(super) fn duration(_: &mut SchemaGenerator) -> Schema {
    of(&pattern::DURATION)
}

/// So much in so long.
pub(super) fn rate(_: &mut SchemaGenerator) -> Schema {
    of(&pattern::RATE)
}

/// `module:name`.
pub(super) fn call(_: &mut SchemaGenerator) -> Schema {
    of(&pattern::CALL)
}

fn of(pattern: &Pattern) -> Schema {
    pattern.schema().into()
}

/// A mapping from names to stages, of which there is at least one.
pub(super) fn stages(generator: &mut SchemaGenerator) -> Schema {
    let mut schema = named::<StageSpec>(generator);
    schema.insert("minProperties".to_owned(), 1.into());
    schema
}

/// Paths by names that can be variables of a shell.
pub(super) fn paths_by_name(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "patternProperties": { NAME_PATTERN: { "type": "string" } },
        "additionalProperties": false,
        "minProperties": 1,
        "examples": [{ "model": "out/model.bin" }],
    })
}

/// Objects are closed but for free keys, and an optional key is a key that may be absent, not one that may be null: the
/// latter spoils completion in editors and messages everywhere.
fn tidy(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        drop_null(object);
        list_words(object);
        let is_struct = object.contains_key("properties") || object.contains_key("patternProperties");
        if is_struct {
            object.insert("additionalProperties".to_owned(), false.into());
            let patterns = object.entry("patternProperties").or_insert_with(|| json!({}));
            patterns[FREE_KEYS] = true.into();
        }
        // Lines are broken for the source code, not for the reader.
        if let Some(Value::String(description)) = object.get_mut("description") {
            *description =
                description.split("\n\n").map(|part| part.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
        }
        // Formats such as `uint32` are Rust's and mean nothing to users.
        if object.get("type").is_some_and(|kind| kind == "integer") {
            object.remove("format");
        }
    }
    transform_subschemas(&mut tidy, schema);
}

fn drop_null(object: &mut Map<String, Value>) {
    if object.get("default").is_some_and(Value::is_null) {
        object.remove("default");
    }
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|word| word != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            object.insert("type".to_owned(), only);
        }
    }
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
    choices.retain(|choice| *choice != json!({ "type": "null" }));
    if let [Value::Object(only)] = choices.as_slice() {
        let only = only.clone();
        object.remove("anyOf");
        for (key, value) in only {
            object.entry(key).or_insert(value);
        }
    }
}

/// Words that are described one by one are one list, so that an editor shows all of them at the key.
fn list_words(object: &mut Map<String, Value>) {
    let Some(choices) = object.get("oneOf").and_then(Value::as_array) else { return };
    let words: Option<Vec<&Value>> = choices.iter().map(|choice| choice.get("const")).collect();
    let Some(words) = words else { return };
    let words: Value = words.into_iter().cloned().collect();
    let text =
        |choice: &Value| choice.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ");
    let descriptions: Value = choices.iter().map(text).collect();
    object.remove("oneOf");
    object.insert("type".to_owned(), "string".into());
    object.insert("enum".to_owned(), words);
    object.insert("enumDescriptions".to_owned(), descriptions);
}

/// Lets an expression stand where a number, a boolean or one of some words is expected.
fn accept_expressions(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        let kind = object.get("type").and_then(Value::as_str);
        if matches!(kind, Some("integer" | "number" | "boolean")) {
            let kind = kind.expect("matched above").to_owned();
            object.insert("type".to_owned(), json!([&kind, "string"]));
            object.insert("pattern".to_owned(), EXPRESSION_PATTERN.into());
            let message = format!("This takes {kind}s, and expressions such as `${{{{ params.name }}}}`.");
            object.insert("patternErrorMessage".to_owned(), message.into());
        }
        if let Some(choices) = object.remove("enum") {
            object.remove("type");
            let mut words = json!({ "type": "string", "enum": choices });
            if let Some(descriptions) = object.remove("enumDescriptions") {
                words["enumDescriptions"] = descriptions;
            }
            let any = json!([words, { "type": "string", "pattern": EXPRESSION_PATTERN }]);
            object.insert("anyOf".to_owned(), any);
            return;
        }
    }
    transform_subschemas(&mut accept_expressions, schema);
}

/// Exactly one kind of a stage, snippets of whole stages, and other choices between keys.
fn complete_stage(schema: &mut Schema) {
    if let Some(shared) = schema.pointer_mut("/$defs/SharedSpec").and_then(Value::as_object_mut) {
        let kinds: Vec<Value> = SHARED_KINDS.iter().map(|kind| json!({ "required": [kind] })).collect();
        shared.insert("oneOf".to_owned(), kinds.into());
    }
    if let Some(hook) = schema.pointer_mut("/$defs/HookSpec").and_then(Value::as_object_mut) {
        let kinds: Vec<Value> = HOOK_KINDS.iter().map(|kind| json!({ "required": [kind] })).collect();
        hook.insert("oneOf".to_owned(), kinds.into());
    }
    let Some(stage) = schema.pointer_mut("/$defs/StageSpec").and_then(Value::as_object_mut) else { return };
    let kinds: Vec<Value> = KINDS.iter().map(|kind| json!({ "required": [kind] })).collect();
    stage.insert("oneOf".to_owned(), kinds.into());
    stage.insert("defaultSnippets".to_owned(), snippets());
    require_one(schema, &EITHER);
}

/// Mappings that have exactly one of some keys.
fn require_one(schema: &mut Schema, either: &[(&str, [&str; 2])]) {
    for (definition, keys) in either {
        let Some(object) = schema.pointer_mut(&format!("/$defs/{definition}")).and_then(Value::as_object_mut) else {
            continue;
        };
        let either: Vec<Value> = keys.iter().map(|key| json!({ "required": [key] })).collect();
        object.insert("oneOf".to_owned(), either.into());
    }
}

fn snippets() -> Value {
    json!([
        { "label": "read stage", "description": "A source: files into rows", "body": { "read": { "path": "${1:data/*.jsonl}" } } },
        {
            "label": "sql stage",
            "description": "One query over the inputs",
            "body": { "from": "${1:stage}", "sql": "${2:SELECT * FROM ${1:stage}}" },
        },
        {
            "label": "python stage",
            "description": "A function or class, run in worker processes",
            "body": { "from": "${1:stage}", "python": { "call": "${2:module:name}", "as": "${3|row,rows,arrow,pandas,polars,numpy,stream|}" } },
        },
        {
            "label": "command stage",
            "description": "A program, run in worker processes",
            "body": { "from": "${1:stage}", "command": ["${2:program}"] },
        },
        {
            "label": "pipeline stage",
            "description": "Another pipeline",
            "body": { "from": "${1:stage}", "pipeline": { "file": "${2:steps/clean.yaml}" } },
        },
        {
            "label": "write stage",
            "description": "A sink: rows into a file",
            "body": { "from": "${1:stage}", "write": { "path": "${2:out/result.parquet}" } },
        },
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `millpond schema > schema/pipeline.schema.json` brings it up to date.
    #[test]
    fn every_description_is_said_to_be_markdown() {
        fn check(schema: &Value) -> usize {
            let of_this = match schema.get("description") {
                Some(Value::String(_)) => {
                    assert_eq!(schema["markdownDescription"], schema["description"]);
                    1
                }
                _ => 0,
            };
            let inside = schema.as_object().into_iter().flat_map(|object| object.values());
            inside.chain(schema.as_array().into_iter().flatten()).map(check).sum::<usize>() + of_this
        }
        assert!(check(&schema()) > 100 && check(&tests_schema()) > 20);
    }

    #[test]
    fn the_schema_in_the_repository_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/pipeline.schema.json");
        let kept = std::fs::read_to_string(path).expect("the schema is in the repository");
        assert!(kept == text(), "schema/pipeline.schema.json differs from the types; run `millpond schema` into it");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/test.schema.json");
        let kept = std::fs::read_to_string(path).expect("the schema is in the repository");
        assert!(kept == tests_text(), "schema/test.schema.json differs; run `millpond schema --of test` into it");
    }

    /// The keys of all mappings whose keys are the language's, by the name of the mapping.
    fn properties(schema: &Value) -> Vec<(String, &Value)> {
        let definitions = schema["$defs"].as_object().into_iter().flatten();
        let all = definitions.map(|(name, schema)| (name.as_str(), schema)).chain([("the file", schema)]);
        all.flat_map(|(name, schema)| {
            let keys = schema["properties"].as_object().into_iter().flatten();
            keys.map(move |(key, schema)| (format!("{name}.{key}"), schema))
        })
        .collect()
    }

    #[test]
    fn editors_can_explain_every_key() {
        let (schema, tests) = (schema(), tests_schema());
        let bare: Vec<String> = properties(&schema)
            .into_iter()
            .chain(properties(&tests))
            .filter(|(_, schema)| {
                let is_explained = schema["description"].as_str().is_some_and(|text| !text.is_empty());
                // Of words, all are shown.
                let is_shown =
                    ["default", "examples", "const", "defaultSnippets"].iter().any(|key| schema.get(key).is_some());
                !is_explained || !(is_shown || schema.pointer("/$ref").is_some())
            })
            .map(|(key, _)| key)
            .collect();
        assert!(bare.is_empty(), "without a description, or without a default and an example: {bare:?}");
    }

    /// Of a value that may be written in several ways, each is explained, and so is each of some words.
    #[test]
    fn editors_can_explain_every_choice() {
        fn bare(schema: &Value, at: &str, found: &mut Vec<String>) {
            let text = |schema: &Value| schema["description"].as_str().is_some_and(|text| !text.is_empty());
            let is_expression = |choice: &Value| choice["pattern"] == EXPRESSION_PATTERN && choice["type"] == "string";
            for choice in schema["anyOf"].as_array().into_iter().flatten() {
                if !is_expression(choice) && choice.get("enum").is_none() && !text(choice) {
                    found.push(format!("{at}: {choice}"));
                }
            }
            for (number, word) in schema["enum"].as_array().into_iter().flatten().enumerate() {
                let described = schema["enumDescriptions"][number].as_str();
                if described.is_none_or(str::is_empty) {
                    found.push(format!("{at}: {word}"));
                }
            }
            match schema {
                Value::Object(entries) => entries.iter().for_each(|(key, it)| bare(it, &format!("{at}/{key}"), found)),
                Value::Array(items) => items.iter().for_each(|it| bare(it, at, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        bare(&plain().to_value(), "", &mut found);
        assert!(found.is_empty(), "without a description: {found:#?}");
    }

    /// What the schema says in examples and defaults is right by the schema.
    #[test]
    fn examples_and_defaults_are_valid() {
        let (pipelines, tests) = (schema(), tests_schema());
        let all = [&pipelines, &tests]
            .into_iter()
            .flat_map(|schema| properties(schema).into_iter().map(move |it| (schema, it)));
        for (schema, (key, property)) in all {
            let mut part = property.clone();
            part["$defs"] = schema["$defs"].clone();
            let validator = jsonschema::validator_for(&part).expect("a part of a schema is one");
            let examples = property["examples"].as_array().into_iter().flatten();
            for value in examples.chain(property.get("default")) {
                assert!(validator.is_valid(value), "{key}: {value}");
            }
        }
    }

    #[test]
    fn no_optional_key_accepts_null() {
        assert!(!text().contains("\"null\"") && !tests_text().contains("\"null\""));
    }
}
