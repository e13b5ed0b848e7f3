//! What is done when a run has ended: `on_failure` and `finally`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{CommandSpec, PythonSpec, RetrySpec, TimeoutSpec};

/// A hook: what is done once when a run has ended. It has exactly one of `python` and `command`, and neither takes rows nor gives any.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct HookSpec {
    /// What the hook does.
    #[schemars(example = &"Tell the team.")]
    pub description: Option<String>,
    /// Whether the hook is a part of this run, mostly an expression over params.
    #[schemars(example = &"${{ params.publish }}", extend("default" = true))]
    pub when: Option<bool>,
    /// A Python function, `module:name`, that is called once, without rows. What it returns is dropped.
    #[schemars(example = &"alarms:raise_one")]
    pub python: Option<PythonSpec>,
    /// A program that is run once.
    #[schemars(example = &["./tell.sh"])]
    pub command: Option<CommandSpec>,
    /// How long an attempt may take.
    #[schemars(example = &"30s", extend("default" = "5m"))]
    pub timeout: Option<TimeoutSpec>,
    /// How often it is tried if it fails.
    #[schemars(example = &serde_json::json!({ "attempts": 3, "backoff": "1s" }))]
    pub retry: Option<RetrySpec>,
    /// Environment variables of its process, on top of the inherited ones and of those that tell of the run.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::scalar_map", example = &serde_json::json!({ "CHANNEL": "alarms" }))]
    pub env: Option<Map<String, Value>>,
    /// Working directory of its process, relative to this file.
    #[schemars(example = &"work", extend("default" = "."))]
    pub cwd: Option<String>,
}
