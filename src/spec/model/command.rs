//! Programs: `command`.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::PathsSpec;

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum CommandSpec {
    /// Program and arguments; no shell is involved.
    Argv(#[schemars(length(min = 1))] Vec<String>),
    /// The program, and how rows reach it.
    Options(Box<CommandOptions>),
}

/// A program, run in worker processes. It has exactly one of `run` and `shell`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct CommandOptions {
    /// Program and arguments; no shell is involved. In mode `row`, `{column}` is the row's value; in a task whose outputs have names, `{name}` is
    /// the path of one. In both, `{{` and `}}` are braces.
    #[schemars(length(min = 1), example = &["jq", "-c", "select(.ok)"])]
    pub run: Option<Vec<String>>,
    /// A script for `bash -euo pipefail`. Params, and columns in mode `row`, reach it as environment variables.
    #[schemars(example = &"sort | uniq -c")]
    pub shell: Option<String>,
    /// When the program is run. Without it, `batch` if the stage has `from`, else `once`.
    #[schemars(example = &"batch")]
    pub mode: Option<CommandModeSpec>,
    /// How rows are written to the program's standard input. Without it, `jsonl` in modes `batch` and `stream`.
    #[schemars(example = &"jsonl")]
    pub input: Option<PipeFormatSpec>,
    /// How the program's standard output is read. Without it, `jsonl` in modes `batch` and `stream`, else `none`.
    #[schemars(example = &"jsonl")]
    pub output: Option<PipeFormatSpec>,
    /// Columns of the output and their types. Without it, those of the first output that has rows.
    #[serde(default)]
    #[schemars(schema_with = "crate::spec::schema::columns")]
    pub returns: Option<Map<String, Value>>,
    /// Of a task (mode `once`, no `output`): paths, folders or glob patterns of what it reads. If they, the command and what `outputs` names are as
    /// they were when it ended well, it is not run again.
    #[schemars(example = &"data/*.csv")]
    pub inputs: Option<PathsSpec>,
    /// Of a task: the files or folders that it makes.
    #[schemars(example = &"out/model.bin", example = &serde_json::json!({ "model": "out/model.bin" }))]
    pub outputs: Option<OutputsSpec>,
}

#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum OutputsSpec {
    /// A path that the command itself writes to.
    One(String),
    /// Paths that the command itself writes to.
    Many(#[schemars(length(min = 1))] Vec<String>),
    /// Paths by names. The command writes to another path, which is `{name}` in `run` and the variable `$name` in `shell`; what is there takes
    /// the place of the output when the command has ended well.
    Named(#[schemars(schema_with = "crate::spec::schema::paths_by_name")] Map<String, Value>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CommandModeSpec {
    /// One process per batch.
    Batch,
    /// Long-lived processes that are fed batch after batch, as `lines` or `jsonl`. The program must write one line for each line that
    /// it reads, in the same order.
    Stream,
    /// One process per row; `{column}` in an argument is that row's value. Gives the row and `stdout`, `stderr`, `exit_code`, `seconds`.
    Row,
    /// One process per run, without input.
    Once,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PipeFormatSpec {
    /// Lines of text, in one column named `line`.
    Lines,
    /// One JSON object per line.
    Jsonl,
    /// A JSON array of objects; of standard output, also objects one after the other. Not in mode `stream`.
    Json,
    /// Comma-separated values.
    Csv,
    /// Tab-separated values.
    Tsv,
    /// Arrow IPC stream.
    Arrow,
    /// Bytes as they are. To standard input, the values of the only column, which are binary or text, one after the other; null is an error. All of
    /// standard output is one row with the column `bytes`. Not in mode `stream`.
    Bytes,
    /// Nothing.
    None,
}
