//! How many workers a stage has, when they are replaced, what they tell, and what becomes of the order: `workers`, `recycle`, `log_level`,
//! `order`.

use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum WorkersSpec {
    /// At most so many.
    Max(#[schemars(range(min = 1, max = 1024))] u32),
    /// As many as there are usable cores.
    Auto(AutoSpec),
    /// From so many to so many.
    Limits(WorkerLimitsSpec),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AutoSpec {
    /// As many as there are cores that may be used.
    Auto,
}

/// Limits of the number of workers.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct WorkerLimitsSpec {
    /// Workers that a `python` stage with `from` and without state has before its first batch comes: its modules are imported, and its class is
    /// built, while sources read.
    #[schemars(range(min = 0, max = 1024), example = &1, extend("default" = 0))]
    pub min: Option<u32>,
    /// Workers that may run the stage at once.
    #[schemars(example = &4, extend("default" = "auto"))]
    pub max: Option<MaxWorkersSpec>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum MaxWorkersSpec {
    /// At most so many.
    Count(#[schemars(range(min = 1, max = 1024))] u32),
    /// As many as there are usable cores.
    Auto(AutoSpec),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevelSpec {
    /// All records.
    Debug,
    /// Records of `INFO` and more weight.
    Info,
    /// Warnings and errors.
    Warning,
    /// Errors alone.
    Error,
}

/// When a worker is replaced. With both, whichever comes first.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct RecycleSpec {
    /// After so many batches, or parts of one that are attempted by themselves.
    #[schemars(range(min = 1, max = 1_000_000_000), example = &100)]
    pub batches: Option<u32>,
    /// After a batch, if it is older than this: a number with a unit, like `30m`.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::duration", example = &"30m")]
    pub age: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RowOrderSpec {
    /// The result does not depend on who is done first.
    Preserve,
    /// Nobody waits for what is slower: the order of the rows differs from run to run.
    Any,
}
