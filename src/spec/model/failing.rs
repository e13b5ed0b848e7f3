//! What a stage does about failures, and against doing things again: `timeout`, `retry`, `on_error`, `checkpoint`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::PathsSpec;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum TimeoutSpec {
    /// Of an attempt: a number with a unit, like `60s`.
    Attempt(#[schemars(schema_with = "crate::spec::schema::duration")] String),
    /// Of an attempt, and of what comes before the first one.
    Limits(TimeoutLimitsSpec),
}

/// How long the parts of an attempt may take.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct TimeoutLimitsSpec {
    /// One attempt of a batch.
    #[schemars(schema_with = "crate::spec::schema::duration", example = &"60s")]
    pub attempt: String,
    /// Preparing the stage in a new worker (`python` only): imports, and the constructor of a class; and closing it, but no longer than a
    /// minute. Without it, `10m`, or as long as an attempt if that is more.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::duration", example = &"5m", extend("default" = "10m"))]
    pub open: Option<String>,
}

/// How often a batch that fails is tried, and when.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(example = serde_json::json!({ "attempts": 3 }))]
pub struct RetrySpec {
    /// Attempts in all, the first one included.
    #[schemars(range(min = 1, max = 1000), example = &5, extend("default" = 3))]
    pub attempts: Option<u32>,
    /// How long to wait before the second attempt; before each further one, twice as long. Without it, no time.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::duration", example = &"1s")]
    pub backoff: Option<String>,
    /// The longest wait. Without it, `1m`, or `backoff` if that is more.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::duration", example = &"30s", extend("default" = "1m"))]
    pub max_backoff: Option<String>,
    /// Part of each wait that is left to chance, so that attempts do not come all at once: with 0.5, between half of it and all.
    #[schemars(range(min = 0.0, max = 1.0), example = &0.5, extend("default" = 0))]
    pub jitter: Option<f64>,
    /// The failures that `attempts` is for; the others get one attempt. Without it, all.
    #[schemars(length(min = 1), example = &["exception", "timeout"])]
    pub on: Option<Vec<VerdictSpec>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VerdictSpec {
    /// The code raised, or the command exited with a status other than 0.
    Exception,
    /// The process died.
    Crash,
    /// The worker was killed as it had much more than its `memory`.
    Oom,
    /// The attempt took longer than its stage's `timeout`.
    Timeout,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum CheckpointSpec {
    /// Whether they are kept.
    Flag(bool),
    /// They are kept, and this says what else counts, and who else may have them.
    Options(CheckpointOptions),
}

/// What else decides what comes of a batch, and where it is kept besides.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct CheckpointOptions {
    /// Paths or glob patterns of files that the stage reads, relative to this file: when one of them changes, finished batches are done again.
    /// Those that `with` and a command's arguments name need not be said.
    #[schemars(example = &"models/*.bin")]
    pub depends: Option<PathsSpec>,
    /// A place that others use too: what is there need not be done here, and what is done here is put there. A folder, relative to this file, or
    /// a prefix in an object store: `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`. Credentials come from environment variables.
    #[schemars(example = &"/mnt/team/checkpoints", example = &"s3://team-bucket/checkpoints")]
    pub share: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum OnErrorSpec {
    /// What becomes of any number of rows.
    Word(OnErrorWordSpec),
    /// They are left out, up to a limit.
    Skip(SkipSpec),
    /// They go to the port `rejected`, up to a limit.
    Reject(RejectSpec),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnErrorWordSpec {
    /// The run fails.
    Fail,
    /// The rows are counted and left out.
    Skip,
    /// The rows go to the stage's port `rejected`.
    Reject,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct SkipSpec {
    /// The rows are counted and left out, up to a limit.
    #[schemars(example = &serde_json::json!({ "max_rows": 100 }))]
    pub skip: BudgetSpec,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(inline)]
pub struct RejectSpec {
    /// The rows go to the stage's port `rejected`, up to a limit.
    #[schemars(example = &serde_json::json!({ "max_fraction": 0.01 }))]
    pub reject: BudgetSpec,
}

/// How many rows may fail before the run does, with exit code 4.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub struct BudgetSpec {
    /// So many rows. The run fails as soon as there is one more.
    #[schemars(example = &100)]
    pub max_rows: Option<u64>,
    /// This part of the stage's rows, 0 to 1. The run fails when the stage has seen all its rows.
    #[schemars(range(min = 0.0, max = 1.0), example = &0.01)]
    pub max_fraction: Option<f64>,
}

impl OnErrorSpec {
    pub fn word(&self) -> OnErrorWordSpec {
        match self {
            Self::Word(word) => *word,
            Self::Skip(_) => OnErrorWordSpec::Skip,
            Self::Reject(_) => OnErrorWordSpec::Reject,
        }
    }

    pub fn budget(&self) -> Option<BudgetSpec> {
        match self {
            Self::Word(_) => None,
            Self::Skip(SkipSpec { skip: budget }) | Self::Reject(RejectSpec { reject: budget }) => Some(*budget),
        }
    }
}
