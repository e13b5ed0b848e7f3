//! Values as they stand in a line of YAML.

use serde_json::Value as Json;

/// A value in flow style.
pub fn flow(value: &Json) -> String {
    match value {
        Json::String(text) if is_plain(text) => text.clone(),
        // A string of JSON is one of YAML.
        Json::String(_) | Json::Null | Json::Bool(_) | Json::Number(_) => value.to_string(),
        Json::Array(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Json::Object(entries) if entries.is_empty() => "{}".to_owned(),
        Json::Object(entries) => mapping(entries.iter().map(|(key, value)| (key.as_str(), value))),
    }
}

/// A mapping in flow style.
pub fn mapping<'a>(entries: impl Iterator<Item = (&'a str, &'a Json)>) -> String {
    let entries: Vec<String> =
        entries.map(|(key, value)| format!("{}: {}", flow(&Json::from(key)), flow(value))).collect();
    format!("{{ {} }}", entries.join(", "))
}

/// Whether a text needs no quotes, whoever reads it: also readers of older versions of YAML.
fn is_plain(text: &str) -> bool {
    const WORDS: [&str; 9] = ["null", "true", "false", "yes", "no", "on", "off", "y", "n"];
    let is_inner = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '-' | '.' | ' ');
    text.starts_with(|letter: char| letter.is_alphabetic() || letter == '_')
        && text.chars().all(is_inner)
        && !text.ends_with(' ')
        && !WORDS.contains(&text.to_lowercase().as_str())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_could_be_something_else_is_quoted() {
        let value = json!({ "a": "plain text", "b": "yes", "c": "1", "d": "x: y", "e": "", "f": [1.5, null], "g": "1815-12-10" });
        assert_eq!(
            flow(&value),
            r#"{ a: plain text, b: "yes", c: "1", d: "x: y", e: "", f: [1.5, null], g: "1815-12-10" }"#
        );
    }
}
