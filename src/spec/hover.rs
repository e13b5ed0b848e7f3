//! What editors show at a key, whatever its value is.
//!
//! Of a value that may be written in several ways, a language server shows the text of the way that is written, and of defaults it
//! shows nothing. So the text of a key says its default, and stands in front of the text of each way.

use schemars::Schema;
use schemars::transform::transform_subschemas;
use serde_json::{Map, Value};

/// Says these words of a default in its own way.
const SAID: &str = "Without it";

/// Brings texts to where editors look for them.
pub(super) fn complete(schema: &mut Schema) {
    if let Some(object) = schema.as_object_mut() {
        say_default(object);
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

fn say_in_choices(object: &mut Map<String, Value>) {
    let Some(text) = object.get("description").and_then(Value::as_str).map(str::to_owned) else { return };
    let Some(Value::Array(choices)) = object.get_mut("anyOf") else { return };
    for choice in choices.iter_mut().filter_map(Value::as_object_mut) {
        let own = choice.get("description").and_then(Value::as_str);
        let both = own.map_or_else(|| text.clone(), |own| format!("{text}\n\n{own}"));
        choice.insert("description".to_owned(), both.into());
    }
}
