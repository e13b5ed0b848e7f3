//! The pipeline file as it is written. The JSON Schema is generated from these types, and their comments are what editors
//! show: write them for users.
//!
//! A file is checked against that schema before it is read into these types. So `untagged` enums, which make poor error
//! messages elsewhere, never get to say anything here; they give the schema and the reader in one place.

mod command;
mod defaults;
mod expect;
mod failing;
mod file;
mod hook;
mod pipeline;
mod python;
mod resource;
mod test;
mod workers;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

pub use command::*;
pub use defaults::*;
pub use expect::*;
pub use failing::*;
pub use file::*;
pub use hook::*;
pub use pipeline::*;
pub use python::*;
pub use resource::*;
pub use test::*;
pub use workers::*;

/// A pipeline: sources, transformations and sinks, connected by `from`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[schemars(title = "millpond pipeline")]
pub struct PipelineSpec {
    /// Version of the pipeline language.
    #[schemars(schema_with = "super::schema::version", example = &1)]
    pub version: u32,
    /// Name of the pipeline. Without it, the file's name.
    #[schemars(example = &"reviews")]
    pub name: Option<String>,
    /// What the pipeline is for.
    #[schemars(example = &"Clean product reviews, score them, and publish them as Parquet.")]
    pub description: Option<String>,
    /// Typed inputs of a run by name, set with `--set name=value` or `--params-file`, and used as `${{ params.name }}`; in SQL as `$name`.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::named::<ParamSpec>", example = &serde_json::json!({ "floor": { "type": "integer", "default": 3 } }))]
    pub params: Option<BTreeMap<String, ParamSpec>>,
    /// The Python environment of every python stage.
    #[schemars(example = &serde_json::json!({ "requirements": ["pandas"] }))]
    pub python: Option<PythonEnvironmentSpec>,
    /// What stages share and there is not enough of for all: units, or so many calls in a time. Stages take of it with `uses`.
    #[serde(default)]
    #[schemars(
        schema_with = "super::schema::named::<ResourceSpec>",
        example = &serde_json::json!({ "connections": 4, "api": { "rate": "100/min" }, "gpu": { "units": 2, "env": "CUDA_VISIBLE_DEVICES" } })
    )]
    pub resources: Option<BTreeMap<String, ResourceSpec>>,
    /// What all workers of the run can look up, made once and kept once in shared memory: `millpond.shared["name"]` in `python` stages, which
    /// wait for it. Tables can be read with `from`, too, as from a stage.
    #[serde(default)]
    #[schemars(
        schema_with = "super::schema::named::<SharedSpec>",
        example = &serde_json::json!({ "prices": { "read": "prices.parquet" }, "model": { "python": "models:load" } })
    )]
    pub shared: Option<BTreeMap<String, SharedSpec>>,
    /// Keys of all stages that can have them, such as `retry`. A key of a stage goes before the one here, as a whole.
    #[schemars(example = &serde_json::json!({ "retry": { "attempts": 3 }, "timeout": "60s" }))]
    pub defaults: Option<DefaultsSpec>,
    /// Of a pipeline that is a stage of others: the names of the tables or streams of rows that it is given. Its stages read from them as from
    /// stages.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::inputs", example = &["reviews"])]
    pub inputs: Option<Vec<String>>,
    /// Of a pipeline that is a stage of others: the ports that these can read from, and the stages or ports whose rows they have.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::outputs", example = &serde_json::json!({ "clean": "cleaned", "doubtful": "cleaned.rejected" }))]
    pub outputs: Option<BTreeMap<String, String>>,
    /// The stages by name. A stage's kind is the one key `read`, `write`, `sql`, `python`, `command` or `pipeline` that it has.
    #[schemars(schema_with = "super::schema::stages", example = &serde_json::json!({ "rows": { "read": "rows.csv" }, "publish": { "from": "rows", "write": "out/rows.parquet" } }))]
    pub stages: BTreeMap<String, StageSpec>,
    /// What is done when a run has failed, one after the other: hooks by name, of `python` or `command`. Not when it was interrupted.
    #[serde(default)]
    #[schemars(
        schema_with = "super::schema::named::<HookSpec>",
        example = &serde_json::json!({ "tell": { "command": { "shell": "echo \"$MILLPOND_MESSAGE\" | mail -s failed team@example.com" } } })
    )]
    pub on_failure: Option<BTreeMap<String, HookSpec>>,
    /// What is done when a run has ended, however that was, one after the other: hooks by name, of `python` or `command`.
    #[serde(default)]
    #[schemars(
        schema_with = "super::schema::named::<HookSpec>",
        example = &serde_json::json!({ "tidy": { "command": ["rm", "-rf", "work"] } })
    )]
    pub finally: Option<BTreeMap<String, HookSpec>>,
}

/// A typed input of a run.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ParamSpec {
    /// Type of the value. A `path` in this file is relative to this file; one on the command line to the current directory.
    #[serde(rename = "type")]
    pub kind: ParamType,
    /// Whether a run has to set it. It has to exactly if there is no `default`, so that this only says so.
    #[schemars(example = &true)]
    pub required: Option<bool>,
    /// The least value (`integer` and `float`).
    #[schemars(example = &0)]
    pub min: Option<f64>,
    /// The greatest value (`integer` and `float`).
    #[schemars(example = &100)]
    pub max: Option<f64>,
    /// Value when the run sets none. A param without a default must be set.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "super::schema::scalar", example = &3)]
    pub default: Option<Value>,
    /// What the param does.
    #[schemars(example = &"Leave out reviews that are shorter than this.")]
    pub description: Option<String>,
    /// The only values that are allowed.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::scalars", example = &["csv", "jsonl"])]
    pub choices: Option<Vec<Value>>,
}

/// Keeps an explicit `null` apart from a key that is absent.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParamType {
    /// Text.
    String,
    /// A whole number of 64 bits.
    Integer,
    /// A number with a fraction.
    Float,
    /// `true` or `false`.
    Boolean,
    /// A file or a folder, which is made absolute.
    Path,
}

impl ParamType {
    pub fn word(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Float => "float",
            Self::Boolean => "boolean",
            Self::Path => "path",
        }
    }
}

/// Something that is shared. It has exactly one of `read`, `sql` and `python`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct SharedSpec {
    /// What it is.
    #[schemars(example = &"Prices of the day.")]
    pub description: Option<String>,
    /// Of `sql`, the tables: stages, or what else is shared. Of `python`, whose rows are kept as a table then.
    #[schemars(example = &"prices", example = &["prices", "rates"])]
    pub from: Option<FromSpec>,
    /// A table: the rows of files.
    #[schemars(example = &"prices.parquet")]
    pub read: Option<ReadSpec>,
    /// A table: the rows of a query.
    #[schemars(example = &"SELECT item, max(price) AS price FROM prices GROUP BY item")]
    pub sql: Option<SqlSpec>,
    /// Any Python object that can be pickled, such as a model or a dict of arrays: what a function gives that is called once. With `as` or
    /// `from`, a table: the rows of the function.
    #[schemars(example = &"models:load")]
    pub python: Option<PythonSpec>,
    /// What the worker that makes it may allocate, or what the query may keep in memory before it spills to disk.
    #[schemars(example = &"2GiB")]
    pub memory: Option<SizeSpec>,
    /// How long it may take to make it.
    #[schemars(example = &"5m")]
    pub timeout: Option<TimeoutSpec>,
    /// Environment variables of the process that makes it, on top of the inherited ones.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::scalar_map", example = &serde_json::json!({ "OMP_NUM_THREADS": 2 }))]
    pub env: Option<Map<String, Value>>,
    /// Working directory of the process that makes it, relative to this file.
    #[schemars(example = &"work", extend("default" = "."))]
    pub cwd: Option<String>,
}

/// A stage. It has exactly one of `read`, `write`, `sql`, `python`, `command` and `pipeline`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
pub struct StageSpec {
    /// What the stage does.
    #[schemars(example = &"Leave out what is too short.")]
    pub description: Option<String>,
    /// Makes one stage for each value of a list, or for each combination of the values of several. In the stage, `${{ each.name }}` is the
    /// value of `name`.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::lists", example = &serde_json::json!({ "year": [2023, 2024] }))]
    pub foreach: Option<Map<String, Value>>,
    /// Where the stage's rows come from: a stage, `stage.port`, or a list. A list is a concatenation in its order, except for
    /// `sql`, where every entry is a table. For `sql` also a mapping from table name to stage.
    #[schemars(example = &"clean", example = &["first", "second"], example = &"score.rejected", example = &serde_json::json!({ "scored": "score", "orders": "clean" }))]
    pub from: Option<FromSpec>,
    /// Stages that must have ended before this one starts. No rows come from them. A sink is published then, and not with the others at the
    /// end.
    #[schemars(example = &"prepare", example = &["first", "second"])]
    pub after: Option<AfterSpec>,
    /// Whether the stage is a part of this run, mostly an expression over params. If it is not, what needs its rows is none either: a stage is
    /// left out if all of its inputs are, or a table of its query.
    #[schemars(example = &"${{ params.publish }}", example = &"${{ params.kind == 'full' }}", extend("default" = true))]
    pub when: Option<bool>,
    /// A source: reads files.
    #[schemars(example = &"data/*.jsonl")]
    pub read: Option<ReadSpec>,
    /// A sink: writes one file, published when the whole run has succeeded, or before a stage that is `after` it.
    #[schemars(example = &"out/result.parquet")]
    pub write: Option<WriteSpec>,
    /// One SQL query over the stage's inputs, each a table with its stage's name. Params are bound as `$name`.
    #[schemars(example = &"SELECT * FROM clean WHERE stars >= $floor")]
    pub sql: Option<SqlSpec>,
    /// A Python function or class, `module:name`, run in worker processes. Without `from` it is a generator.
    #[schemars(example = &"sentiment:Scorer")]
    pub python: Option<PythonSpec>,
    /// A program, run in worker processes.
    #[schemars(example = &["jq", "-c", "select(.ok)"])]
    pub command: Option<CommandSpec>,
    /// Another pipeline, whose stages become stages of this one. The rows of `from` are those of its `inputs`, and its `outputs` are ports.
    #[schemars(example = &"steps/clean.yaml")]
    pub pipeline: Option<SubPipelineSpec>,
    /// How many workers may run this stage at once: a number, `auto` (the cores that may be used), or limits.
    #[schemars(example = &4, example = &serde_json::json!({ "min": 1, "max": "auto" }), extend("default" = "auto"))]
    pub workers: Option<WorkersSpec>,
    /// For how many rows of a batch a worker may call the function at once, for work that waits: HTTP calls, databases (`python` with
    /// `from` and `as: row` only). An `async def` function is called on one event loop, another one in threads. Without it, an `async def`
    /// function is called for 100 rows at once, another one for one row after the other.
    #[schemars(range(min = 1, max = 1000), example = &50)]
    pub concurrency: Option<u32>,
    /// Of a `python` stage, what one worker may allocate: one that has more after a batch is replaced; one that reaches one and a half
    /// times as much is killed, and its batch is tried again. Of a `sql` stage that joins, aggregates or sorts, what the query may
    /// keep in memory before it spills to disk.
    #[schemars(example = &"2GiB")]
    pub memory: Option<SizeSpec>,
    /// When a worker of a `python` stage is replaced by a new one, between two batches: after so much work, or at such an age.
    #[schemars(example = &serde_json::json!({ "batches": 100 }), example = &serde_json::json!({ "age": "30m" }))]
    pub recycle: Option<RecycleSpec>,
    /// Columns whose values are the key of a row (`python` with `from` only). All rows with one key go to one instance of the stage's code, in
    /// their order, so that it may keep state per key; `finish()` of a class may give rows at the end.
    #[schemars(example = &"user", example = &["country", "user"])]
    pub partition_by: Option<ColumnsSpec>,
    /// Whether rows keep their order: of a stage that works batch by batch, whether batches go on in the order of its input, or as they are done; of
    /// several inputs, whether they are read one after the other, or as their rows come.
    #[schemars(example = &"any", extend("default" = "preserve"))]
    pub order: Option<RowOrderSpec>,
    /// What an attempt of one batch takes of `resources` before it begins, and has while it runs (`python` and `command` only): the name of one, a
    /// list, or units by names.
    #[schemars(example = &"connections", example = &serde_json::json!({ "connections": 1, "api": { "per": "row" } }))]
    pub uses: Option<UsesSpec>,
    /// How rows are cut into batches for this stage. A batch ends at whichever bound comes first.
    #[schemars(example = &serde_json::json!({ "rows": 1024 }))]
    pub batch: Option<BatchSpec>,
    /// Bound of the queue in front of this stage. Both bounds hold.
    #[schemars(example = &serde_json::json!({ "batches": 4, "bytes": "16MiB" }))]
    pub queue: Option<QueueSpec>,
    /// How long an attempt of one batch may take (`python` and `command` only). What takes longer is stopped, and has failed with the verdict
    /// `timeout`.
    #[schemars(example = &"60s", example = &"1m30s")]
    pub timeout: Option<TimeoutSpec>,
    /// How often a batch that fails is tried (`python` and `command` only).
    #[schemars(example = &serde_json::json!({ "attempts": 3, "backoff": "1s" }))]
    pub retry: Option<RetrySpec>,
    /// What happens to rows that keep failing, when all attempts are used up; of a source of csv, tsv, jsonl or json, to rows that cannot be read. `skip` and
    /// `reject` may have a limit, beyond which the run fails.
    #[schemars(example = &"reject", example = &serde_json::json!({ "reject": { "max_fraction": 0.01 } }), extend("default" = "fail"))]
    pub on_error: Option<OnErrorSpec>,
    /// What the rows that the stage gives must be like, or of a sink, the rows that it is given. Rows that are not are as failing rows to
    /// `on_error`, and `reject` gives them to the port `unexpected`.
    #[schemars(example = &serde_json::json!({ "where": "stars BETWEEN 1 AND 5", "not_null": ["id"], "unique": "id", "rows": { "min": 1 } }))]
    pub expect: Option<ExpectSpec>,
    /// Whether finished batches are kept, so that a later run need not do them again: batches of which the rows, the code, and all else
    /// that decides what comes of them are the same. Of `python` functions and classes that keep no state, and of commands in mode `batch`
    /// or `row`.
    #[schemars(example = &true, example = &serde_json::json!({ "depends": "models/*.bin" }), extend("default" = false))]
    pub checkpoint: Option<CheckpointSpec>,
    /// What workers tell of what the code of a `python` stage logs: records of less weight are not told. `run --log-level` is
    /// the default of a run.
    #[schemars(extend("default" = "info"))]
    pub log_level: Option<LogLevelSpec>,
    /// Environment variables of the stage's processes, on top of the inherited ones.
    #[serde(default)]
    #[schemars(schema_with = "super::schema::scalar_map", example = &serde_json::json!({ "OMP_NUM_THREADS": 2 }))]
    pub env: Option<Map<String, Value>>,
    /// Working directory of the stage's processes, relative to this file.
    #[schemars(example = &"work", extend("default" = "."))]
    pub cwd: Option<String>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum FromSpec {
    /// A stage or `stage.port`.
    One(String),
    /// Several stages or ports.
    Many(Vec<String>),
    /// Table names for the stages (`sql` only).
    Named(BTreeMap<String, String>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum AfterSpec {
    /// A stage.
    One(String),
    /// Several stages.
    Many(Vec<String>),
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum ColumnsSpec {
    /// A column.
    One(String),
    /// Several columns, whose values together are the key.
    Many(#[schemars(length(min = 1))] Vec<String>),
}

impl ColumnsSpec {
    pub fn names(&self) -> &[String] {
        match self {
            Self::One(name) => std::slice::from_ref(name),
            Self::Many(names) => names,
        }
    }
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum SqlSpec {
    /// The query.
    Query(String),
    /// The query as a key, beside which others may stand.
    Options(SqlOptions),
}

/// One SQL query over the stage's inputs, each a table with its stage's name. Params are bound as `$name`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct SqlOptions {
    /// The query.
    #[schemars(example = &"SELECT * FROM clean WHERE stars >= $floor")]
    pub query: Option<String>,
    /// The file that has the query, relative to this file.
    #[schemars(example = &"queries/clean.sql")]
    pub file: Option<String>,
}

/// How rows are cut into batches. A batch ends at whichever bound comes first.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct BatchSpec {
    /// Rows of a batch.
    #[schemars(range(min = 1, max = 2_147_483_647), example = &1024, extend("default" = 8192))]
    pub rows: Option<u32>,
    /// Bytes of values in a batch.
    #[schemars(extend("default" = "8MiB"))]
    pub bytes: Option<SizeSpec>,
}

/// Bound of a queue.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct QueueSpec {
    /// Batches in the queue.
    #[schemars(range(min = 1, max = 1_000_000), example = &4, extend("default" = 8))]
    pub batches: Option<u32>,
    /// Bytes of the batches in the queue.
    #[schemars(example = &"16MiB")]
    pub bytes: Option<SizeSpec>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum SizeSpec {
    /// A number with a unit, like `64MiB`.
    Text(#[schemars(schema_with = "super::schema::size")] String),
    /// A number of bytes.
    Bytes(#[schemars(range(min = 1))] u64),
}
