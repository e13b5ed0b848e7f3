//! What programs read: documents in JSON, and their schemas.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;

/// A document as it is kept.
pub(super) fn text(document: &impl Serialize) -> String {
    let mut text = serde_json::to_string_pretty(document).expect("keys are text, and numbers are finite");
    text.push('\n');
    text
}

/// The JSON Schema of such documents, as it is kept in `schema`.
pub(super) fn schema<T: JsonSchema>() -> String {
    text(&SchemaSettings::draft2020_12().for_serialize().into_generator().into_root_schema_for::<T>())
}
