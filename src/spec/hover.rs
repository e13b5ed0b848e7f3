//! What editors show at a key, whatever its value is, and offer for one.
//!
//! Of a value that may be written in several ways, a language server shows the text of the way that is written, and of defaults it
//! shows nothing. So the text of a key says its default, and stands in front of the text of each way. An example that is a mapping is
//! offered as `[object Object]`: it is shown in the text, and offered as a snippet.

use schemars::Schema;
use schemars::transform::transform_subschemas;
use serde_json::{Map, Value, json};

use super::violation::flow;

/// Says these words of a default in its own way.
const SAID: &str = "Without it";
/// Letters of what is offered, in its list.
const WIDEST: usize = 50;

/// Brings texts to where editors look for them.
pub(super) fn complete(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        say_default(object);
        offer_mappings(object);
        say_in_choices(object);
    }
    transform_subschemas(&mut complete, schema);
}

/// A value as it is written in text.
pub(super) fn written(value: &Value) -> String {
    format!("`{}`", value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

fn say_default(object: &mut Map<String, Value>) {
    let Some(default) = object.get("default").map(written) else { return };
    if let Some(Value::String(text)) = object.get_mut("description")
        && !text.contains(SAID)
    {
        *text = format!("{text} Default: {default}.");
    }
}

/// Mappings are no examples any more, but a part of the text, and snippets.
fn offer_mappings(object: &mut Map<String, Value>) {
    let Some(Value::Array(examples)) = object.get_mut("examples") else { return };
    let mappings: Vec<Value> = examples.extract_if(.., |example| example.is_object()).collect();
    if examples.is_empty() {
        object.remove("examples");
    }
    for mapping in &mappings {
        if let Some(Value::String(text)) = object.get_mut("description") {
            *text += "\n\nExample:\n\n```yaml\n";
            add_lines(mapping, 0, text);
            *text += "```";
        }
    }
    let snippets = mappings.iter().map(|mapping| json!({ "label": label(mapping), "body": body(mapping) }));
    let snippets: Vec<Value> = snippets.collect();
    if !snippets.is_empty() {
        object.insert("defaultSnippets".to_owned(), snippets.into());
    }
}

fn label(mapping: &Value) -> String {
    let text = flow(mapping);
    match text.char_indices().nth(WIDEST) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

/// A mapping as a snippet: its texts are put into the file as they are, but for the signs of snippets.
fn body(value: &Value) -> Value {
    match value {
        Value::Object(entries) if entries.is_empty() => "{\\}".into(),
        Value::Object(entries) => entries.iter().map(|(key, value)| (escaped(key), body(value))).collect(),
        Value::Array(items) => items.iter().map(body).collect(),
        Value::String(text) => escaped(text).into(),
        other => other.clone(),
    }
}

fn escaped(text: &str) -> String {
    scalar(text).replace('\\', "\\\\").replace('$', "\\$").replace('}', "\\}")
}

/// A value in lines of YAML.
fn add_lines(value: &Value, indent: usize, text: &mut String) {
    let parts: Vec<(String, &Value)> = match value {
        Value::Object(entries) => entries.iter().map(|(key, value)| (format!("{}:", scalar(key)), value)).collect(),
        Value::Array(items) => items.iter().map(|item| ("-".to_owned(), item)).collect(),
        _ => Vec::new(),
    };
    for (head, value) in parts {
        *text += &format!("{:indent$}{head}", "");
        match value {
            Value::Object(entries) if !entries.is_empty() => {
                *text += "\n";
                add_lines(value, indent + 2, text);
            }
            Value::Array(items) if !items.is_empty() => {
                *text += "\n";
                add_lines(value, indent + 2, text);
            }
            Value::String(value) => *text += &format!(" {}\n", scalar(value)),
            other => *text += &format!(" {other}\n"),
        }
    }
}

/// A text as YAML takes it: in quotes where it might be something else.
fn scalar(text: &str) -> String {
    let is_word = text.starts_with(|first: char| first.is_alphabetic() || "./_".contains(first));
    let is_plain = text.chars().all(|letter| letter.is_alphanumeric() || "._-/:@ ".contains(letter));
    let is_text =
        !matches!(text.to_ascii_lowercase().as_str(), "true" | "false" | "null" | "yes" | "no" | "on" | "off");
    let has_sign = text.contains(": ") || text.ends_with([':', ' ']);
    let begins_with_digit = text.starts_with(|first: char| first.is_ascii_digit())
        && text.contains(char::is_alphabetic)
        && !text.contains([':', ' ', '.'])
        && !text.contains(['e', 'E', 'x', 'o']);
    match (is_word || begins_with_digit) && is_plain && is_text && !has_sign {
        true => text.to_owned(),
        false => Value::from(text).to_string(),
    }
}

fn say_in_choices(object: &mut Map<String, Value>) {
    let Some(text) = object.get("description").and_then(Value::as_str).map(str::to_owned) else { return };
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
    for choice in choices.iter_mut().filter_map(Value::as_object_mut) {
        let own = choice.get("description").and_then(Value::as_str);
        let both = own.map_or_else(|| text.clone(), |own| format!("{text}\n\n{own}"));
        choice.insert("description".to_owned(), both.into());
    }
}
