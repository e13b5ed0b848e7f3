//! What the rows of a stage must be like: `expect`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::ColumnsSpec;

/// What the rows of a stage must be like. For rows that are not, `on_error` says what becomes of them; where it says nothing, the run fails.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ExpectSpec {
    /// Conditions in SQL over the columns of a row, such as `stars BETWEEN 1 AND 5`. Each must be true for each row; neither false nor null.
    /// Params are bound as `$name`.
    #[serde(rename = "where")]
    #[schemars(example = &"stars BETWEEN 1 AND 5", example = &["stars >= 1", "length(text) < 10000"])]
    pub condition: Option<ConditionsSpec>,
    /// Columns that must have a value in each row.
    #[schemars(example = &"id", example = &["id", "text"])]
    pub not_null: Option<ColumnsSpec>,
    /// Columns whose values together are there only once. The run fails if they are not, whatever `on_error` says.
    #[schemars(example = &"id", example = &["country", "user"])]
    pub unique: Option<ColumnsSpec>,
    /// Columns that there must be, with their types. There may be others.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::columns")]
    pub schema: Option<Map<String, Value>>,
    /// How many rows there must be in the end. The run fails if there are not, whatever `on_error` says.
    #[schemars(example = &serde_json::json!({ "min": 1 }))]
    pub rows: Option<RowsSpec>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum ConditionsSpec {
    /// A condition.
    One(String),
    /// Several conditions, all of which must be true.
    Many(#[schemars(length(min = 1))] Vec<String>),
}

impl ConditionsSpec {
    pub fn texts(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::Many(texts) => texts,
        }
    }
}

/// A number of rows.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct RowsSpec {
    /// The fewest.
    #[schemars(example = &1, extend("default" = 0))]
    pub min: Option<u64>,
    /// The most.
    #[schemars(example = &1_000_000)]
    pub max: Option<u64>,
}
