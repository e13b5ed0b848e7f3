//! A pipeline that is a stage of another one: `pipeline`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum SubPipelineSpec {
    /// The file of the pipeline, relative to this file.
    File(String),
    /// The file of the pipeline, and its params.
    Options(SubPipelineOptions),
}

/// Another pipeline as a stage: its `inputs` get the rows of the stages in `from`, and other stages read from its `outputs`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct SubPipelineOptions {
    /// The file of the pipeline, relative to this file.
    #[schemars(example = &"steps/clean.yaml")]
    pub file: String,
    /// Values of its params.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::scalar_map", example = &serde_json::json!({ "floor": 3 }))]
    pub params: Option<Map<String, Value>>,
}

impl SubPipelineSpec {
    pub fn file(&self) -> &str {
        match self {
            Self::File(file) => file,
            Self::Options(options) => &options.file,
        }
    }

    pub fn params(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::File(_) => None,
            Self::Options(options) => options.params.as_ref(),
        }
    }
}
