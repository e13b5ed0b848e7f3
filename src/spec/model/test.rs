//! Test files, as they are written: `NAME.test.yaml`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::FormatSpec;

/// Unit tests of a pipeline: rows for some of its stages, and what others make of them.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(title = "millpond tests")]
pub struct TestFileSpec {
    /// Version of the pipeline language.
    #[schemars(schema_with = "crate::spec::schema::version", example = &1)]
    pub version: u32,
    /// What is tested.
    #[schemars(example = &"What becomes of reviews that are too short.")]
    pub description: Option<String>,
    /// The pipeline file, relative to this file. Without it, `NAME.yaml` beside `NAME.test.yaml`.
    #[schemars(example = &"../reviews.yaml")]
    pub pipeline: Option<String>,
    /// Params of the pipeline in all tests; a test may have others. A relative path is relative to this file.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::scalar_map", example = &serde_json::json!({ "floor": 3 }))]
    pub params: Option<Map<String, Value>>,
    /// Seed of every random choice (`run.seed`).
    #[schemars(extend("default" = 0))]
    pub seed: Option<u64>,
    /// What `now()` says in queries, so that tests do not depend on the day.
    #[schemars(example = &"2024-02-29T12:00:00Z", extend("default" = "2000-01-01T00:00:00Z"))]
    pub now: Option<String>,
    /// The tests, by what they show.
    #[schemars(
        extend("minProperties" = 1),
        example = &serde_json::json!({ "short reviews are left out": { "given": { "reviews": [{ "text": "ok" }] }, "expect": { "clean": [] } } })
    )]
    pub tests: BTreeMap<String, TestSpec>,
}

/// One test: what some stages give, and what is expected of others. It has exactly one of `expect` and `fails`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct TestSpec {
    /// What the test shows.
    #[schemars(example = &"A review that is too short says nothing.")]
    pub description: Option<String>,
    /// Params of the pipeline in this test, on top of those of the file.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::scalar_map", example = &serde_json::json!({ "floor": 10 }))]
    pub params: Option<Map<String, Value>>,
    /// Rows that stages, or ports of theirs (`stage.port`), give in this test. These stages are not run.
    #[schemars(example = &serde_json::json!({ "reviews": [{ "id": 1, "text": "good" }], "clean.rejected": { "file": "rejected.jsonl" } }))]
    pub given: Option<BTreeMap<String, GivenSpec>>,
    /// What is expected of the rows of stages, ports (`stage.port`) and sinks.
    #[schemars(extend("minProperties" = 1), example = &serde_json::json!({ "clean": [{ "id": 1 }], "score.rejected": { "count": 0 } }))]
    pub expect: Option<BTreeMap<String, ExpectedSpec>>,
    /// That a stage fails, and the run with it.
    #[schemars(example = &serde_json::json!({ "stage": "score", "message": "no number" }))]
    pub fails: Option<FailsSpec>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum GivenSpec {
    /// The rows.
    Rows(Vec<Map<String, Value>>),
    Options(GivenOptions),
}

/// Rows that a stage gives. It has exactly one of `rows` and `file`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct GivenOptions {
    /// The rows.
    #[schemars(example = &serde_json::json!([{ "id": 1, "text": "good" }]))]
    pub rows: Option<Vec<Map<String, Value>>>,
    /// A file with the rows, relative to this file. A `read` stage reads it in the place of its own, with the same options, if both have one format.
    #[schemars(example = &"fixtures/reviews.jsonl")]
    pub file: Option<String>,
    /// How the rows of the file are written. Without it, from the file's extension.
    #[schemars(example = &"jsonl")]
    pub format: Option<FormatSpec>,
    /// Types of columns. With it, nothing is taken from what is known of the stage's columns.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::columns")]
    pub schema: Option<Map<String, Value>>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum ExpectedSpec {
    /// The rows, in this order. Only the columns that stand in them are compared.
    Rows(Vec<Map<String, Value>>),
    Options(ExpectOptions),
}

/// What is expected of rows. It has one key at least, and not both of `rows` and `file`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct ExpectOptions {
    /// The rows. Only the columns that stand in them are compared.
    #[schemars(example = &serde_json::json!([{ "id": 1, "stars": 5 }]))]
    pub rows: Option<Vec<Map<String, Value>>>,
    /// A file with the rows, relative to this file. All columns are compared.
    #[schemars(example = &"golden/clean.csv")]
    pub file: Option<String>,
    /// Whether the rows must have the order of those that are expected.
    #[schemars(extend("default" = "same"))]
    pub order: Option<OrderSpec>,
    /// How far two floats may be apart, in parts of the greater one.
    #[schemars(range(min = 0, max = 1), extend("default" = 1e-9))]
    pub tolerance: Option<f64>,
    /// How many rows there are: a number, or limits.
    #[schemars(example = &3, example = &serde_json::json!({ "min": 1, "max": 10 }))]
    pub count: Option<CountSpec>,
    /// A condition in SQL that every row fulfils. Params are bound as `$name`.
    #[serde(rename = "where")]
    #[schemars(example = &"score BETWEEN 0 AND 1")]
    pub condition: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OrderSpec {
    /// They must.
    #[default]
    Same,
    /// They may come in any order.
    Any,
}

#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum CountSpec {
    /// So many.
    Exactly(u64),
    Limits(CountLimits),
}

/// Limits of a number of rows.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct CountLimits {
    /// At least so many.
    #[schemars(example = &1)]
    pub min: Option<u64>,
    /// At most so many.
    #[schemars(example = &10)]
    pub max: Option<u64>,
}

/// A failure that is expected.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct FailsSpec {
    /// The stage that fails.
    #[schemars(example = &"score")]
    pub stage: String,
    /// What stands in the message.
    #[schemars(example = &"no number")]
    pub message: Option<String>,
    /// How a run would end the program.
    #[schemars(example = &1)]
    pub exit_code: Option<u8>,
}

impl GivenSpec {
    /// The long form.
    pub fn options(&self) -> GivenOptions {
        match self {
            Self::Rows(rows) => GivenOptions { rows: Some(rows.clone()), ..GivenOptions::default() },
            Self::Options(options) => options.clone(),
        }
    }
}

impl ExpectedSpec {
    /// The long form.
    pub fn options(&self) -> ExpectOptions {
        match self {
            Self::Rows(rows) => ExpectOptions { rows: Some(rows.clone()), ..ExpectOptions::default() },
            Self::Options(options) => options.clone(),
        }
    }
}

impl CountSpec {
    pub fn allows(self, rows: u64) -> bool {
        match self {
            Self::Exactly(count) => rows == count,
            Self::Limits(CountLimits { min, max }) => {
                min.is_none_or(|min| min <= rows) && max.is_none_or(|max| rows <= max)
            }
        }
    }
}

impl std::fmt::Display for CountSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::Limits(CountLimits { min: Some(min), max: Some(max) }) => write!(f, "{min} to {max}"),
            Self::Limits(CountLimits { min: Some(min), max: None }) => write!(f, "at least {min}"),
            Self::Limits(CountLimits { min: None, max: Some(max) }) => write!(f, "at most {max}"),
            Self::Limits(CountLimits { min: None, max: None }) => f.write_str("any number of"),
        }
    }
}
