//! Keys of all stages: `defaults`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{
    BatchSpec, CheckpointSpec, LogLevelSpec, OnErrorSpec, QueueSpec, RecycleSpec, RetrySpec, RowOrderSpec, SizeSpec,
    TimeoutSpec, WorkersSpec,
};

/// Keys of all stages that can have them. A key of a stage goes before the one here, as a whole.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct DefaultsSpec {
    /// `workers` of `python`, `command` and `sql` stages.
    #[schemars(example = &4)]
    pub workers: Option<WorkersSpec>,
    /// `memory` of `python` stages.
    #[schemars(example = &"2GiB")]
    pub memory: Option<SizeSpec>,
    /// `recycle` of `python` stages with `from` and without state.
    #[schemars(example = &serde_json::json!({ "batches": 100 }))]
    pub recycle: Option<RecycleSpec>,
    /// `batch` of sources and of stages with `from`, but for commands in mode `row`.
    #[schemars(example = &serde_json::json!({ "rows": 1024 }))]
    pub batch: Option<BatchSpec>,
    /// `queue` of stages with `from`.
    #[schemars(example = &serde_json::json!({ "batches": 4 }))]
    pub queue: Option<QueueSpec>,
    /// `timeout` of `python` stages, and of commands that are given rows or run once. `open` is for `python` stages.
    #[schemars(example = &"60s")]
    pub timeout: Option<TimeoutSpec>,
    /// `retry` of `python` stages, and of commands that are given rows or give none.
    #[schemars(example = &serde_json::json!({ "attempts": 3, "backoff": "1s" }))]
    pub retry: Option<RetrySpec>,
    /// `on_error` of `python` stages with `from` and without state, and of commands in mode `batch` or `row`.
    #[schemars(example = &"reject")]
    pub on_error: Option<OnErrorSpec>,
    /// `order` of `python` stages with `from` and without state, of commands in mode `batch` or `row`, and of sinks with several inputs.
    #[schemars(example = &"any")]
    pub order: Option<RowOrderSpec>,
    /// `checkpoint` of `python` stages with `from` and without state, and of commands in mode `batch` or `row`.
    #[schemars(example = &true)]
    pub checkpoint: Option<CheckpointSpec>,
    /// `log_level` of `python` stages.
    #[schemars(example = &"warning")]
    pub log_level: Option<LogLevelSpec>,
    /// `env` of `python` and `command` stages.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::scalar_map", example = &serde_json::json!({ "OMP_NUM_THREADS": 2 }))]
    pub env: Option<Map<String, Value>>,
    /// `cwd` of `python` and `command` stages.
    #[schemars(example = &"work")]
    pub cwd: Option<String>,
}
