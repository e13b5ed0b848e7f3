//! What editors call the parts of a file, in the place of `RetrySpec` or of the title of the whole, and what they say of keys that
//! exclude each other. Files are checked against a schema that knows nothing of this.

use serde_json::{Map, Value, json};

/// Parts of a schema that are schemas by name, and lists of schemas.
const NAMED: [&str; 3] = ["properties", "patternProperties", "$defs"];
const LISTED: [&str; 3] = ["anyOf", "oneOf", "allOf"];

/// Names the parts, and tells keys that exclude each other apart.
pub(super) fn complete(schema: &mut Value) {
    for (name, definition) in schema.get_mut("$defs").and_then(Value::as_object_mut).into_iter().flatten() {
        name_mapping(definition, &format!("mapping ({})", word(name)));
    }
    visit(schema);
    move_snippets(schema);
}

fn visit(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else { return };
    exclude(object);
    for (key, property) in object.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten() {
        name_mapping(property, &format!("mapping ({key})"));
        name_value(property, key);
    }
    for choice in object.get_mut("anyOf").and_then(Value::as_array_mut).into_iter().flatten() {
        let key = choice.pointer("/required/0").and_then(Value::as_str);
        let title = key.map_or_else(|| "mapping".to_owned(), |key| format!("mapping ({key})"));
        name_mapping(choice, &title);
    }
    for part in NAMED {
        object.get_mut(part).and_then(Value::as_object_mut).into_iter().flatten().for_each(|(_, part)| visit(part));
    }
    for part in LISTED {
        object.get_mut(part).and_then(Value::as_array_mut).into_iter().flatten().for_each(visit);
    }
    for part in ["items", "additionalProperties"] {
        object.get_mut(part).into_iter().for_each(visit);
    }
}

/// `RetrySpec` is of `retry`.
fn word(definition: &str) -> String {
    let name = ["Spec", "Options"].iter().fold(definition, |name, end| name.strip_suffix(end).unwrap_or(name));
    let mut word = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !word.is_empty() {
            word.push(' ');
        }
        word.extend(letter.to_lowercase());
    }
    word
}

/// What is expected in the place of another value has this name, too.
fn name_mapping(schema: &mut Value, title: &str) {
    if let Some(object) = schema.as_object_mut()
        && object.get("type").is_some_and(|kind| kind == "object")
    {
        object.entry("title").or_insert_with(|| title.into());
    }
}

fn name_value(schema: &mut Value, title: &str) {
    if let Some(object) = schema.as_object_mut()
        && !object.contains_key("$ref")
    {
        object.entry("title").or_insert_with(|| title.into());
    }
}

/// One of some keys is said as at least one, and none beside each: of several, those that are too many are marked.
fn exclude(object: &mut Map<String, Value>) {
    let choices = object.get("oneOf").and_then(Value::as_array).into_iter().flatten();
    let keys: Vec<String> =
        choices.filter_map(|choice| choice.pointer("/required/0")?.as_str().map(str::to_owned)).collect();
    let Some(first) = keys.first() else { return };
    let names: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
    let message = format!("There has to be exactly one of {}.", names.join(", "));
    let excluded = keys.iter().enumerate().map(|(at, key)| {
        let others: Map<String, Value> = keys[at + 1..].iter().map(|other| (other.clone(), false.into())).collect();
        (key.clone(), json!({ "properties": others, "errorMessage": message }))
    });
    let excluded: Map<String, Value> = excluded.collect();
    // Alternatives would be shown as ways to write the mapping.
    let none = json!({ "required": [first], "errorMessage": message });
    let needed = keys.iter().fold(none, |others, key| json!({ "if": { "required": [key] }, "else": others }));
    object.remove("oneOf");
    object.insert("allOf".to_owned(), json!([needed]));
    object.insert("dependentSchemas".to_owned(), excluded.into());
}

/// What is offered for a value that is described elsewhere is offered there: beside a reference, it would hide what the key says.
fn move_snippets(schema: &mut Value) {
    let mut found = Vec::new();
    take_snippets(schema, &mut found);
    for (to, snippets) in found {
        let definition = to.strip_prefix('#').and_then(|to| schema.pointer_mut(to)).and_then(Value::as_object_mut);
        let Some(definition) = definition else { continue };
        let known = definition.entry("defaultSnippets").or_insert_with(|| json!([]));
        let Some(known) = known.as_array_mut() else { continue };
        let new: Vec<Value> = snippets.into_iter().filter(|snippet| !known.contains(snippet)).collect();
        known.extend(new);
    }
}

fn take_snippets(schema: &mut Value, found: &mut Vec<(String, Vec<Value>)>) {
    match schema {
        Value::Object(object) => {
            if let Some(to) = object.get("$ref").and_then(Value::as_str).map(str::to_owned)
                && let Some(Value::Array(snippets)) = object.remove("defaultSnippets")
            {
                found.push((to, snippets));
            }
            object.values_mut().for_each(|part| take_snippets(part, found));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| take_snippets(item, found)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_keys_that_exclude_each_other_exactly_one_is_valid() {
        let mut schema = json!({ "oneOf": [{ "required": ["a"] }, { "required": ["b"] }, { "required": ["c"] }] });
        let before = jsonschema::validator_for(&schema).expect("a schema");
        complete(&mut schema);
        assert_eq!(schema.get("oneOf"), None);
        let after = jsonschema::validator_for(&schema).expect("a schema");
        for document in [
            json!({}),
            json!({ "a": 1 }),
            json!({ "b": 1 }),
            json!({ "c": 1 }),
            json!({ "a": 1, "b": 1 }),
            json!({ "b": 1, "c": 1 }),
            json!({ "a": 1, "c": 1 }),
            json!({ "a": 1, "b": 1, "c": 1 }),
        ] {
            assert_eq!(after.is_valid(&document), before.is_valid(&document), "{document}");
        }
    }

    #[test]
    fn types_are_named_as_their_keys() {
        let names = ["RetrySpec", "ReadOptions", "TimeoutLimitsSpec", "PythonEnvironmentSpec"];
        assert_eq!(names.map(word), ["retry", "read", "timeout limits", "python environment"]);
    }
}
